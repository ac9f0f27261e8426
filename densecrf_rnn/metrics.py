"""Scores of label maps: confusion matrices, IU, accuracy, trimap bands, bootstrap intervals.

Scores are functions of a confusion matrix. Matrices of several images are added first, as in the
benchmarks of the field, and the sum is scored.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._typing import Array
from .checks.arrays import is_masked

__all__ = [
    "bootstrap_interval", "border_distance", "class_accuracy", "class_dice", "class_iu",
    "confusion_matrix", "frequency_weighted_iu", "mean_accuracy", "mean_iu", "pixel_accuracy",
    "trimap", "trimap_confusions",
]  # fmt: skip


# --- counts --------------------------------------------------------------------------------------


def confusion_matrix(truth: Array, prediction: Array, labels: int, ignore: int = 255) -> Array:
    """Count pixels by true label (row) and predicted label (column).

    Parameters
    ----------
    truth, prediction : integer ndarrays of one shape
        Label maps; every value in 0..labels-1, or `ignore` in `truth`.
    labels : int
        Number of labels.
    ignore : int
        Label of `truth` whose pixels are not scored. Masks whose foreground is 255 must be
        divided by 255 before.

    Returns
    -------
    ndarray [labels, labels] of int64

    Raises
    ------
    TypeError, ValueError
        The maps do not hold integers, their shapes differ, or a label lies outside 0..labels-1.

    Examples
    --------
    >>> confusion_matrix(np.array([0, 1, 255]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 0]]
    """
    _check_shapes(truth, prediction)
    scored = truth != ignore
    t = truth[scored].astype(np.int64)
    p = prediction[scored].astype(np.int64)
    check_labels("truth", t, labels, ignore)
    check_labels("prediction", p, labels, ignore)
    return np.bincount(t * labels + p, minlength=labels**2).reshape(labels, labels)


def border_distance(truth: Array, limit: int) -> Array:
    """Compute the distance of each pixel of a label map to the nearest border pixel.

    Parameters
    ----------
    truth : ndarray [H, W] or [D, H, W], or of any number of axes
        Label map. A border pixel has a face neighbour (one of 4 in 2-D, of 6 in 3-D) with another
        value. An ignored label is treated like any other, so the void strips of VOC have borders.
    limit : int, at least 1
        Distances of `limit` or more are returned as infinity.

    Returns
    -------
    ndarray, float64, shape of `truth`
        Euclidean distance between pixel centres, in pixels; 0 on border pixels.

    Raises
    ------
    TypeError, ValueError
        The map does not hold integers, or `limit` is below 1.

    Notes
    -----
    Exact: the squared distance is minimised along each axis in turn, in O(N axes limit) time.

    Examples
    --------
    >>> border_distance(np.array([[0, 0, 0, 1, 1, 1, 1]]), limit=3).tolist()
    [[2.0, 1.0, 0.0, 0.0, 1.0, 2.0, inf]]
    """
    _check_pixels("limit", limit)
    _check_kind("truth", truth)
    far = limit**2
    squared: Array = np.full(truth.shape, far, np.int64 if far > 2**30 else np.int32)
    for axis in range(truth.ndim):
        first, second = _ends(truth.ndim, axis, 1)
        differ = truth[first] != truth[second]
        squared[first][differ] = 0
        squared[second][differ] = 0
    for axis in range(truth.ndim):
        nearest = squared.copy()
        for step in range(1, min(limit, truth.shape[axis])):
            first, second = _ends(truth.ndim, axis, step)
            np.minimum(nearest[first], squared[second] + step**2, out=nearest[first])
            np.minimum(nearest[second], squared[first] + step**2, out=nearest[second])
        squared = nearest
    return np.where(squared < far, np.sqrt(squared), np.inf)


def _ends(axes: int, axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return indices that pair each pixel with the one `step` further along an axis."""
    rest = (slice(None),) * axis
    return (*rest, slice(None, -step)), (*rest, slice(step, None))


def trimap(truth: Array, width: int) -> Array:
    """Return a mask of the band along the borders of a label map.

    Parameters
    ----------
    truth : ndarray [H, W] or [D, H, W]
    width : int, at least 1
        Number of pixels on each side of a straight border.

    Returns
    -------
    ndarray of bool, shape of `truth`
        True within less than `width` of a border pixel, see `border_distance`.

    Raises
    ------
    TypeError, ValueError
        The map does not hold integers, or `width` is below 1.

    Notes
    -----
    The boundary measure of [KK11] section 6 scores the confusion matrices of ``truth[band]`` and
    ``prediction[band]`` for bands of increasing width.

    Examples
    --------
    >>> trimap(np.array([[0, 0, 0, 1, 1, 1, 1]]), width=2).astype(int).tolist()
    [[0, 1, 1, 1, 1, 0, 0]]
    """
    _check_pixels("width", width)
    return np.isfinite(border_distance(truth, width))


def trimap_confusions(
    truth: Array, prediction: Array, widths: Sequence[int], labels: int, ignore: int = 255
) -> Array:
    """Compute the confusion matrices of bands of several widths along the true borders.

    Parameters
    ----------
    truth, prediction, labels, ignore
        As in `confusion_matrix`.
    widths : sequence of int, at least 1
        Widths as in `trimap`.

    Returns
    -------
    ndarray [len(widths), labels, labels] of int64

    Raises
    ------
    TypeError, ValueError
        As in `confusion_matrix`, or a width is below 1.

    Examples
    --------
    >>> truth, prediction = np.array([[0, 0, 0, 1]]), np.array([[1, 0, 0, 0]])
    >>> trimap_confusions(truth, prediction, [1, 3], labels=2).tolist()
    [[[1, 0], [1, 0]], [[2, 1], [1, 0]]]
    """
    _check_shapes(truth, prediction)
    out = np.zeros((len(widths), labels, labels), np.int64)
    if not len(widths):
        return out
    for width in widths:
        _check_pixels("a width", width)
    distance = border_distance(truth, max(widths))
    for confusion, width in zip(out, widths):
        band = distance < width
        confusion[:] = confusion_matrix(truth[band], prediction[band], labels, ignore)
    return out


def check_labels(name: str, found: Array, labels: int, ignore: int) -> None:
    """Check that the scored labels in `found` lie in 0..labels-1."""
    if found.size and not 0 <= found.min() <= found.max() < labels:
        raise ValueError(
            f"{name} holds labels {found.min()}..{found.max()}; they must lie in "
            f"0..{labels - 1} (ignore={ignore} marks pixels of truth that do not count)"
        )


def _check_kind(name: str, labels: Array) -> None:
    if is_masked(labels):
        raise TypeError(
            f"{name} is a masked array, whose mask would not count; pass {name}.data, and a truth "
            f"that is `ignore` where np.ma.getmaskarray({name}) is True"
        )
    if labels.dtype.kind not in "iub":
        raise TypeError(
            f"{name} has dtype {labels.dtype}; label maps hold integers, so pass labels "
            "(probabilities.argmax(0), or probabilities > 0.5), or labels.astype(np.int64)"
        )


def _check_shapes(truth: Array, prediction: Array) -> None:
    _check_kind("truth", truth)
    _check_kind("prediction", prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape} but prediction {prediction.shape}")


def _check_pixels(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1 pixel")


# --- scores --------------------------------------------------------------------------------------


def class_iu(confusion: Array) -> Array:
    """Compute the intersection over union of each label [L]; NaN for labels that do not occur.

    Parameters
    ----------
    confusion : ndarray [L, L] of integers
        As `confusion_matrix` counts: rows are true labels, columns predictions.

    Returns
    -------
    ndarray [L] of float64, 0..1

    Examples
    --------
    >>> class_iu(np.array([[6, 2], [1, 1]])).round(3).tolist()  # 6 / 9 and 1 / 4
    [0.667, 0.25]
    """
    hit = np.diag(confusion).astype(float)
    return _ratio(hit, confusion.sum(0) + confusion.sum(1) - hit)


def class_accuracy(confusion: Array) -> Array:
    """Compute the fraction of each label's true pixels that are right [L]; NaN if it has none.

    Parameters
    ----------
    confusion : ndarray [L, L] of integers
        As `confusion_matrix` counts: rows are true labels, columns predictions.

    Returns
    -------
    ndarray [L] of float64, 0..1

    Examples
    --------
    >>> class_accuracy(np.array([[6, 2], [1, 1]])).tolist()  # 6 / 8 and 1 / 2
    [0.75, 0.5]
    """
    return _ratio(np.diag(confusion), confusion.sum(1))


def class_dice(confusion: Array) -> Array:
    """Compute the Dice coefficient (F1) of each label [L]; NaN for labels that do not occur.

    Parameters
    ----------
    confusion : ndarray [L, L] of integers
        As `confusion_matrix` counts: rows are true labels, columns predictions.

    Returns
    -------
    ndarray [L] of float64, 0..1

    Examples
    --------
    >>> class_dice(np.array([[2, 0], [1, 1]])).round(3).tolist()
    [0.8, 0.667]
    """
    confusion = np.asarray(confusion, np.float64)  # twice an integer may exceed its dtype
    return _ratio(2 * np.diag(confusion), confusion.sum(0) + confusion.sum(1))


def mean_iu(confusion: Array, over: Sequence[int] | None = None) -> float:
    """Average the intersection over union over the labels in the truth; NaN if there are none.

    Parameters
    ----------
    confusion : ndarray [L, L]
    over : sequence of int, optional
        Restrict the average to these labels; default all. Pixels of other labels still count as
        errors.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        A label of `over` lies outside 0..L-1.

    Examples
    --------
    >>> mean_iu(np.array([[2, 0], [1, 1]]))  # doctest: +ELLIPSIS
    0.58333...
    >>> mean_iu(np.array([[2, 0], [1, 1]]), over=[1])
    0.5
    """
    chosen = confusion.sum(1) > 0
    if over is not None:
        for label in over:
            if not 0 <= label < len(confusion):
                raise ValueError(
                    f"over names label {label}; the labels are 0..{len(confusion) - 1}"
                )
        chosen &= np.isin(np.arange(len(confusion)), over)
    return float(class_iu(confusion)[chosen].mean()) if chosen.any() else math.nan


def mean_accuracy(confusion: Array) -> float:
    """Average `class_accuracy` over the labels in the truth; NaN if there are none.

    Parameters
    ----------
    confusion : ndarray [L, L] of integers
        As `confusion_matrix` counts: rows are true labels, columns predictions.

    Returns
    -------
    float, 0..1

    Examples
    --------
    >>> mean_accuracy(np.array([[6, 2], [1, 1]]))
    0.625
    """
    present = confusion.sum(1) > 0
    return float(class_accuracy(confusion)[present].mean()) if present.any() else math.nan


def frequency_weighted_iu(confusion: Array) -> float:
    """Average `class_iu`, weighted by the number of true pixels; NaN if no pixel is scored.

    Parameters
    ----------
    confusion : ndarray [L, L] of integers
        As `confusion_matrix` counts: rows are true labels, columns predictions.

    Returns
    -------
    float, 0..1

    Examples
    --------
    >>> round(frequency_weighted_iu(np.array([[6, 0], [1, 1]])), 3)
    0.768
    """
    pixels = confusion.sum(1)
    present = pixels > 0
    if not present.any():
        return math.nan
    return float(np.average(class_iu(confusion)[present], weights=pixels[present]))


def pixel_accuracy(confusion: Array) -> float:
    """Compute the fraction of scored pixels that are right; NaN if no pixel is scored.

    Parameters
    ----------
    confusion : ndarray [L, L] of integers
        As `confusion_matrix` counts: rows are true labels, columns predictions.

    Returns
    -------
    float, 0..1

    Examples
    --------
    >>> pixel_accuracy(np.array([[6, 2], [1, 1]]))
    0.7
    """
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def _ratio(part: Array, whole: Array) -> Array:
    """Return part / whole, and NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


# --- confidence intervals ------------------------------------------------------------------------


def bootstrap_interval(
    confusions: Array,
    score: Callable[[Array], Any],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Compute a bootstrap confidence interval of a score, resampling images with replacement.

    Parameters
    ----------
    confusions : ndarray [images, ...] of numbers
        One confusion matrix per image, or several, such as [images, 2, L, L] for two predictions
        of the same images.
    score : callable
        Takes the sum over the drawn images, [...], and returns a number or an array. For the
        difference of two predictions: ``lambda c: mean_iu(c[1]) - mean_iu(c[0])``.
    resamples : int, at least 1
    level : float between 0 and 1, both excluded
        Confidence level.
    seed : int
        Random seed; results are reproducible.

    Returns
    -------
    low, high : float or ndarray
        Percentiles of the scores that are not NaN; NaN if all scores are. With a single image `low`
        equals `high`, since all resamples are equal.

    Raises
    ------
    ValueError
        There is no image, or `resamples` or `level` is out of range.

    Notes
    -----
    Percentile bootstrap over images. Pixels of one image are not independent, so resampling
    pixels would give intervals that are far too narrow.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> confusions = rng.integers(1, 50, size=(20, 2, 2)) + 40 * np.eye(2, dtype=int)
    >>> low, high = bootstrap_interval(confusions, pixel_accuracy)
    >>> bool(low < pixel_accuracy(confusions.sum(0)) < high)
    True
    """
    if len(confusions) == 0:
        raise ValueError("confusions holds no image; an interval needs at least one")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    images = len(confusions)
    rng = np.random.default_rng(seed)
    scores: list[Any] = []
    for first in range(0, resamples, 100):  # in parts, to limit memory with many labels
        count = min(100, resamples - first)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=count)  # [count, images]
        scores += map(score, np.tensordot(drawn, confusions, axes=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(scores, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)
