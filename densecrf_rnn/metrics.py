"""How good a label map is: confusion matrix, mean IU, pixel accuracy."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def confusion_matrix(truth: Array, prediction: Array, labels: int, ignore: int = 255) -> Array:
    """Counts of pixels by true label (row) and predicted label (column).

    Parameters
    ----------
    truth, prediction : integer ndarrays of one shape
        Label maps; every value in 0..labels-1, or `ignore` in `truth`.
    labels : int
    ignore : int
        Label of `truth` whose pixels are not scored.

    Returns
    -------
    ndarray [labels, labels] of int64

    Raises
    ------
    ValueError
        The shapes differ, or a label lies outside 0..labels-1.

    Examples
    --------
    >>> confusion_matrix(np.array([0, 1, 255]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape} but prediction {prediction.shape}")
    scored = truth != ignore
    t = truth[scored].astype(np.int64)
    p = prediction[scored].astype(np.int64)
    for name, found in (("truth", t), ("prediction", p)):
        if found.size and not 0 <= found.min() <= found.max() < labels:
            raise ValueError(
                f"{name} holds labels {found.min()}..{found.max()}; they must lie in "
                f"0..{labels - 1} (ignore={ignore} marks pixels of truth that do not count)"
            )
    return np.bincount(t * labels + p, minlength=labels**2).reshape(labels, labels)


def class_iu(confusion: Array) -> Array:
    """Intersection over union of each label [L]; NaN for labels that occur nowhere."""
    hit = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def mean_iu(confusion: Array) -> float:
    """Mean intersection over union over the labels that occur in the truth; NaN if none does.

    Examples
    --------
    >>> mean_iu(np.array([[2, 0], [1, 1]]))  # doctest: +ELLIPSIS
    0.58333...
    """
    present = confusion.sum(1) > 0
    return float(class_iu(confusion)[present].mean()) if present.any() else float("nan")


def pixel_accuracy(confusion: Array) -> float:
    """The fraction of scored pixels that are right; NaN if none is scored."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")
