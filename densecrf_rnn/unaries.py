"""Logits for a CRF from label maps, from probabilities, or from overconfident logits.

Functions take and return NumPy arrays, labels first, and do not modify their arguments.
"""

from collections.abc import Sequence

import numpy as np

from ._typing import Array
from . import checks


def logits_from_labels(
    labels: Array, num_labels: int, confidence: float = 0.7, *, unsure: int | None = None
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


def logits_from_probabilities(probabilities: Array, floor: float = 1e-5) -> Array:
    """Convert probabilities to logits: their logarithms.

    Parameters
    ----------
    probabilities : ndarray [L, *S]
        Floating point in 0..1, or uint8 or uint16, whose maximum represents 1. They need not sum
        to 1, because a factor common to all labels of a pixel cancels. With L = 1,
        the probability of the foreground.
    floor : float, at least 0 and below 1
        Minimum probability; smaller ones are raised to it, because stored zeros are mostly small
        values that were rounded. With 0, a probability of 0 rules its label out (-inf).

    Returns
    -------
    ndarray [L, *S] of float32
        Logits; with L = 1 the logit log(p / (1 - p)).

    Raises
    ------
    TypeError, ValueError
        Another dtype, or a value outside 0..1.

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
        low, high = p.min(), p.max()
        if not (low >= 0 and high <= 1):  # NaN fails both
            found = "NaN" if np.isnan(low) else f"{low!s}..{high!s}"
            raise ValueError(
                f"probabilities holds {found}; they must lie in 0..1, so np.clip rounding "
                "errors, or divide by the sum over the labels; logits need no conversion"
            )
    else:
        raise TypeError(
            f"probabilities has dtype {dtype}; it must be floating point, uint8 or uint16"
        )
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(p, np.float32(floor)))
        if len(p) == 1:
            logits -= np.log(np.maximum(1 - p, np.float32(floor)))
    return logits


def scale_temperature(logits: Array, temperature: float) -> Array:
    """Divide logits by a temperature; above 1 it makes overconfident logits less certain.

    Parameters
    ----------
    logits : ndarray [L, *S], floating point
    temperature : positive float
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
        return logits / logits.dtype.type(temperature)


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
