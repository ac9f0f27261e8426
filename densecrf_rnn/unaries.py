"""What a CRF starts from, out of what people have: label maps, probabilities, overconfident logits.

Everything here takes and returns NumPy arrays, labels first, and changes none of its arguments.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._typing import Array
from . import checks


def logits_from_labels(
    labels: Array, num_labels: int, confidence: float = 0.7, *, unsure: int | None = None
) -> Array:
    """Logits that trust a label map so far.

    Parameters
    ----------
    labels : ndarray [*S] of integers
        In 0..num_labels-1, or `unsure`.
    num_labels : int, at least 2
        L.
    confidence : float, above 0 and below 1
        Probability that a label is right; the others share the rest.
    unsure : int, optional
        Value of `labels` at pixels about which nothing is known: there all labels are equally
        likely. It may lie in 0..num_labels-1 and is then no label of any pixel.

    Returns
    -------
    ndarray [L, *S] of float32
        Log-probabilities: exponentials sum to 1.

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
            f"0..{num_labels - 1} (unsure= names a value that says: not known)"
        )
    shape = (num_labels, *labels.shape)
    logits = np.full(shape, np.log((1 - confidence) / (num_labels - 1)), np.float32)
    for label, plane in enumerate(logits):
        plane[labels == label] = np.log(confidence)
    logits[:, ~known] = -np.log(num_labels)
    return logits


def logits_from_probabilities(probabilities: Array, floor: float = 1e-5) -> Array:
    """Logarithms of probabilities.

    Parameters
    ----------
    probabilities : ndarray [L, *S]
        Floating point in 0..1, or unsigned integers of 8 or 16 bits of which the largest stands for
        1. They need not sum to 1: a factor per pixel makes no difference. L = 1: the foreground's.
    floor : float, at least 0 and below 1
        Smaller ones count as this, since stored zeros are mostly small numbers that were rounded.
        0: a probability of 0 rules its label out (-inf).

    Returns
    -------
    ndarray [L, *S] of float32
        Logits; of L = 1 the one logit log(p / (1 - p)).

    Raises
    ------
    TypeError, ValueError
        Another dtype, or a value that is no probability.

    Examples
    --------
    >>> logits_from_probabilities(np.array([[0, 128], [255, 127]], np.uint8)).round(2)
    array([[-11.51, -0.69],
           [ 0.  , -0.7 ]], dtype=float32)
    """
    checks.array_kind("probabilities", probabilities, batched=False)
    floor = checks.number("floor", floor)
    if not 0 <= floor < 1:
        raise ValueError(f"floor is {floor:g}; it must be at least 0 and below 1")
    if probabilities.ndim == 0 or 0 in probabilities.shape:
        raise ValueError(f"probabilities has shape {probabilities.shape}; it must be [L, *S]")
    dtype = probabilities.dtype
    if dtype in (np.uint8, np.uint16):
        p = probabilities / np.float32(np.iinfo(dtype).max)
    elif dtype.kind == "f":
        p = probabilities.astype(np.float32)
        low, high = float(p.min()), float(p.max())
        if not (low >= 0 and high <= 1):  # NaN fails both
            found = "NaN" if np.isnan(low) else f"{low:g}..{high:g}"
            raise ValueError(f"probabilities holds {found}; they must lie in 0..1")
    else:
        raise TypeError(
            f"probabilities has dtype {dtype}; it must be floating point, uint8 or uint16"
        )
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(p, np.float32(floor)))
        if len(p) == 1:
            logits -= np.log(np.maximum(1 - p, np.float32(floor)))
    return logits


def softened(logits: Array, temperature: float) -> Array:
    """Logits divided by a temperature: above 1 for a network that is surer than it is right.

    Parameters
    ----------
    logits : ndarray [L, *S], floating point
    temperature : float, above 0
        1 changes nothing; towards 0 the likeliest label takes all.

    Returns
    -------
    ndarray, shape and dtype of `logits`
        The likeliest label stays the likeliest.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind.

    Notes
    -----
    Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> softened(np.array([[4.0], [0.0]]), 2).tolist()
    [[2.0], [0.0]]
    """
    checks.array_kind("logits", logits, batched=False)
    checks.float_dtype("logits", logits, batched=False)
    temperature = checks.positive_number("temperature", temperature)
    with np.errstate(over="ignore"):
        return logits / logits.dtype.type(temperature)


def of_classes(logits: Array, classes: Sequence[int]) -> Array:
    """The logits of some labels: the others are ruled out, and take no time.

    Parameters
    ----------
    logits : ndarray [L, *S]
    classes : sequence of int
        Labels to keep, each once, in the order of the result; row k of it is label ``classes[k]``.

    Returns
    -------
    ndarray [len(classes), *S]

    Raises
    ------
    TypeError, ValueError
        A label that is none of 0..L-1, or is given twice, or fewer than two labels.

    Examples
    --------
    >>> of_classes(np.arange(6.0).reshape(3, 2), [0, 2]).tolist()
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


def label_dtype(labels: int) -> Any:
    """The smallest unsigned integer for labels 0 to L - 1 (L = 1: 0 and 1)."""
    return np.min_scalar_type(max(1, labels - 1))
