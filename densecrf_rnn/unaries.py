"""Logits for a CRF from label maps, probabilities, queries, or overconfident logits.

Functions take and return NumPy arrays, labels first, and do not modify their arguments;
`from_queries` takes tensors as well.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from ._typing import Array
from . import checks

__all__ = [
    "from_queries", "logits_from_labels", "logits_from_probabilities", "scale_temperature",
    "select_classes",
]  # fmt: skip

_CERTAIN = 1e30  # stands for +inf: no message of a CRF outweighs it
CONFIDENCE = 0.7  # by default, the probability that a given label is right
Kind = Literal["logits", "probabilities"]  # what maps hold


def logits_from_labels(
    labels: Array, num_labels: int, confidence: float = CONFIDENCE, *, unsure: int | None = None
) -> Array:
    """Convert a label map to logits, given the probability that its labels are right.

    Parameters
    ----------
    labels : ndarray [*S] of integers
        Labels in 0..num_labels-1, or `unsure`.
    num_labels : int, at least 2
        Number L of labels.
    confidence : float between 0 and 1, both excluded
        Probability that a label is right; the other labels share the rest.
    unsure : int, optional
        Value of `labels` meaning unknown, such as 255: all labels are then equally probable. It
        may lie in 0..num_labels-1, in which case no pixel has that label.

    Returns
    -------
    ndarray [L, *S] of float32
        Log-probabilities: their exponentials sum to 1 over the labels.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, or a label outside 0..num_labels-1.

    Examples
    --------
    >>> p = np.exp(logits_from_labels(np.array([0, 1, 255]), 2, confidence=0.9, unsure=255))
    >>> p.round(2)
    array([[0.9, 0.1, 0.5],
           [0.1, 0.9, 0.5]], dtype=float32)
    """
    checks.array_kind("labels", labels, batched=False)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels has dtype {labels.dtype}; it must hold integers")
    num_labels = checks.count("num_labels", num_labels, 2)
    confidence = checks.number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence:g}; it must lie between 0 and 1")
    known = np.ones(labels.shape, bool) if unsure is None else labels != unsure
    found = labels[known]
    if found.size and not 0 <= found.min() <= found.max() < num_labels:
        raise ValueError(
            f"labels holds {found.min()}..{found.max()}; with {num_labels} labels they must lie in "
            f"0..{num_labels - 1} (unsure= names the value that means unknown)"
        )
    shape = (num_labels, *labels.shape)
    logits = np.full(shape, np.log((1 - confidence) / (num_labels - 1)), np.float32)
    for label, plane in enumerate(logits):
        plane[labels == label] = np.log(confidence)
    logits[:, ~known] = -np.log(num_labels)
    return logits


def logits_from_probabilities(
    probabilities: Array,
    floor: float = 1e-5,
    *,
    multilabel: bool = False,
    clip: bool = False,
    mask: Array | None = None,
) -> Array:
    """Convert probabilities to logits: their logarithms.

    Parameters
    ----------
    probabilities : ndarray [L, *S]
        Floating point in 0..1, or uint8 or uint16, whose maximum represents 1. They must sum to 1
        over the labels, up to the rounding of 8 bits, and nowhere to 0. With L = 1, the probability
        of the foreground.
    floor : float, at least 0 and below 1
        Minimum probability; smaller ones are raised to it, because stored zeros are mostly small
        values that were rounded. With 0, a probability of 0 rules its label out: -inf, and 1e30
        for the background of a single map, because +inf is not a logit.
    multilabel : bool
        The maps are independent of each other and may overlap, as the outputs of sigmoids; each is
        converted like a single one.
    clip : bool
        Clip the values to 0..1, then divide them by their sum over the labels (equal probabilities
        where it is 0; with L = 1 or `multilabel` there is no division): for scores that overshoot,
        as after bicubic interpolation, or that do not sum to 1.
    mask : ndarray [*S] of bool, optional
        Pixels where it is False may hold anything.

    Returns
    -------
    ndarray [L, *S] of float32
        Logits; with L = 1 or `multilabel` the logit log(p / (1 - p)).

    Raises
    ------
    TypeError, ValueError
        Another dtype, a value outside 0..1, or maps that do not sum to 1.

    Warns
    -----
    UserWarning
        Integers probably have another scale, such as 0..100: their maximum is below half of the
        dtype's.

    Examples
    --------
    >>> logits_from_probabilities(np.array([[0, 128], [255, 127]], np.uint8)).round(2)
    array([[-11.51, -0.69],
           [ 0.  , -0.7 ]], dtype=float32)
    """
    floor = checks.number("floor", floor)
    if not 0 <= floor < 1:
        raise ValueError(f"floor is {floor:g}; it must be at least 0 and below 1")
    p = checked_probabilities(probabilities, multilabel=multilabel, clip=clip, mask=mask)
    return log_probabilities(p, floor, multilabel=multilabel)


def as_logits(
    maps: Array, kind: Kind, *, multilabel: bool = False, mask: Array | None = None
) -> Array:
    """Return maps as logits: unchanged if they are, else by `logits_from_probabilities`."""
    if not holds_probabilities(kind):
        return maps
    return logits_from_probabilities(maps, multilabel=multilabel, mask=mask)


def holds_probabilities(kind: Kind) -> bool:
    """Check the option `kind`; return whether it is "probabilities"."""
    checks.option("kind", kind, get_args(Kind))
    return kind == "probabilities"


def checked_probabilities(
    values: Array, *, multilabel: bool = False, clip: bool = False, mask: Array | None = None,
    scale: checks.IntegerScale | None = None,
) -> Array:  # fmt: skip
    """Check probabilities and return them as float32 in 0..1, the first step of the conversion.

    Coarse maps are interpolated between this step and `log_probabilities`. Parameters and errors
    are those of `logits_from_probabilities`. If `values` are a part of an array of integers,
    `scale` collects what is known of the scale of the whole array; otherwise it is judged at once.
    """
    checks.array_kind("probabilities", values, batched=False)
    if values.ndim == 0 or 0 in values.shape:
        raise ValueError(f"probabilities has shape {values.shape}; it must be [L, *S]")
    if mask is not None:
        checks.mask(mask, values.shape[1:])
    checks.probability_dtype(values)
    if values.dtype.kind == "u":
        if multilabel or len(values) == 1:  # the sums of several labels are checked below
            judged = scale or checks.IntegerScale(values.dtype)
            judged.add(values if mask is None else values[:, mask])
            if scale is None:
                judged.judge(multilabel=multilabel)
        p = values / np.float32(np.iinfo(values.dtype).max)
    else:
        p = values.astype(np.float32)
        checks.probability_range(
            p if mask is None else p[:, mask], clip=clip, multilabel=multilabel
        )
        np.clip(p, 0, 1, out=p)
    if len(p) > 1 and not multilabel:
        total = p.sum(axis=0)
        if clip:
            np.divide(p, total, out=p, where=total > 0)
        else:
            checks.probability_sums(total if mask is None else total[mask], p, mask)
    return p


def log_probabilities(p: Array, floor: float = 1e-5, *, multilabel: bool = False) -> Array:
    """Compute the logits of probabilities in 0..1; see `logits_from_probabilities`."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(p, np.float32(floor)))
        if multilabel or len(p) == 1:
            logits -= np.log(np.maximum(1 - p, np.float32(floor)))
            np.minimum(logits, np.float32(_CERTAIN), out=logits)
    return logits


def from_queries(queries: Any, masks: Any = None, *, floor: float = 1e-5) -> Any:
    """Convert class and mask queries, as MaskFormer's, to logits per pixel.

    Parameters
    ----------
    queries : ndarray or Tensor [..., Q, L + 1], or a model's output
        Class logits of the Q queries; the last class is "no object". Or an object with
        `class_queries_logits` and `masks_queries_logits`, which MaskFormer, Mask2Former and
        OneFormer of transformers return.
    masks : ndarray or Tensor [..., Q, *S]
        Mask logits of the queries. Left out if `queries` is a model's output.
    floor : float between 0 and 1, both excluded
        Minimum score; smaller ones are raised to it. At a pixel that no query covers all scores
        may be smaller; then all labels are equally probable.

    Returns
    -------
    ndarray or Tensor [..., L, *S]
        Logarithms of the scores. The score of a label at a pixel is the sum over the queries of
        the label's probability (softmax of the class logits) times the pixel's (sigmoid of the
        mask logits). The argmax over the labels is that of `post_process_semantic_segmentation`
        where a score is above `floor`.
        The wider of their dtypes, at least float32; differentiable if they are tensors.

    Raises
    ------
    TypeError, ValueError
        No queries are found, or their dtypes or shapes do not fit together.

    Notes
    -----
    Cheng et al., Per-pixel classification is not all you need for semantic segmentation, NeurIPS
    2021, section 3.4. Masks are usually smaller than the image: `CRFRNN.wrap` enlarges the logits,
    `upsampling.upsample` does so for arrays.

    Examples
    --------
    >>> queries = np.array([[9.0, 0, 0], [0, 9, 0]])  # one for label 0, one for label 1
    >>> masks = np.array([[5.0, 5, -5], [-5, -5, 5]])
    >>> from_queries(queries, masks).argmax(0)
    array([0, 0, 1])
    """
    floor = checks.number("floor", floor)
    if not 0 < floor < 1:
        raise ValueError(f"floor is {floor:g}; it must lie between 0 and 1")
    if masks is None:
        outputs = queries
        queries = getattr(outputs, "class_queries_logits", None)
        masks = getattr(outputs, "masks_queries_logits", None)
        if queries is None or masks is None:
            raise TypeError(
                f"queries is {type(outputs).__name__} without class_queries_logits and "
                "masks_queries_logits; pass the output of MaskFormer, Mask2Former or OneFormer, or "
                "class logits [..., Q, L + 1] and masks= [..., Q, *S]"
            )
    batched = hasattr(queries, "requires_grad")
    for name, array in (("queries", queries), ("masks", masks)):
        checks.array_kind(name, array, batched=batched)
        halves = ("float16", "bfloat16")
        checks.float_dtype(name, array, batched=batched, allowed=("float32", "float64", *halves))
    leading = queries.ndim - 1
    if leading < 1 or queries.shape[-1] < 2 or masks.shape[:leading] != queries.shape[:-1]:
        raise ValueError(
            f"queries has shape {tuple(queries.shape)} and masks {tuple(masks.shape)}; they must "
            "be [..., Q, L + 1] and [..., Q, *S], with the same batch and number of queries Q"
        )
    xp: Any = sys.modules["torch"] if batched else np
    wide = xp.promote_types(xp.promote_types(queries.dtype, masks.dtype), xp.float32)
    queries, masks = (x.to(wide) if batched else x.astype(wide) for x in (queries, masks))
    size = masks.shape[leading:]
    of_label = xp.exp(queries - xp.amax(queries, -1, keepdims=True))
    of_label = of_label[..., :-1] / of_label.sum(-1)[..., None]
    inside = 0.5 + 0.5 * xp.tanh(masks / 2)  # the sigmoid, without overflow
    scores = xp.swapaxes(of_label, -1, -2) @ inside.reshape(*queries.shape[:-1], math.prod(size))
    scores = scores.reshape(*scores.shape[:-1], *size)
    return xp.log(xp.clip(scores, floor, None))


def scale_temperature(logits: Array, temperature: float) -> Array:
    """Divide logits by a temperature; above 1 it makes overconfident logits less certain.

    Parameters
    ----------
    logits : ndarray [L, *S], float32 or float64
    temperature : float in 1e-6..1e9
        1 changes nothing; towards 0 the most probable label gets all of the probability.

    Returns
    -------
    ndarray, shape and dtype of `logits`
        The argmax over the labels does not change.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range.

    Notes
    -----
    Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> scale_temperature(np.array([[4.0], [0.0]]), 2).tolist()
    [[2.0], [0.0]]
    """
    checks.array_kind("logits", logits, batched=False)
    checks.float_dtype("logits", logits, batched=False)
    temperature = checks.positive_number("temperature", temperature)
    with np.errstate(over="ignore"):
        scaled = logits / logits.dtype.type(temperature)
    largest = np.finfo(logits.dtype).max
    return np.where(np.isfinite(logits), scaled.clip(-largest, largest), logits)


def select_classes(logits: Array, classes: Sequence[int]) -> Array:
    """Keep the logits of some labels; the others are ruled out and cost no time.

    Parameters
    ----------
    logits : ndarray [L, *S]
    classes : sequence of int
        Labels to keep, at least two, each once; row k of the result is label ``classes[k]``.

    Returns
    -------
    ndarray [len(classes), *S]

    Raises
    ------
    TypeError, ValueError
        A label outside 0..L-1 or given twice, or fewer than two labels.

    Examples
    --------
    >>> select_classes(np.arange(6.0).reshape(3, 2), [0, 2]).tolist()
    [[0.0, 1.0], [4.0, 5.0]]
    """
    checks.array_kind("logits", logits, batched=False)
    chosen = [checks.count(f"classes[{i}]", label, 0) for i, label in enumerate(classes)]
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(f"classes is {chosen}; give at least two labels, each once")
    if max(chosen) >= len(logits):
        raise ValueError(
            f"classes holds {max(chosen)} but logits has {len(logits)} labels, 0..{len(logits) - 1}"
        )
    return logits[chosen]


softened = scale_temperature  # former name
of_classes = select_classes  # former name
