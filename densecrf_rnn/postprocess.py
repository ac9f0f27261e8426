"""Label maps from marginals, and their clean-up after a CRF."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._typing import Array
from . import checks

__all__ = ["labels_of_regions", "most_probable", "region_masks", "remove_small"]


def most_probable(scores: Array, threshold: float = 0.5) -> Array:
    """Return the argmax over the labels.

    Parameters
    ----------
    scores : ndarray [L, *S]
        Marginals or logits.
    threshold : float
        With L = 1, scores above it give label 1, others 0: 0.5 for marginals, 0 for logits.

    Returns
    -------
    ndarray [*S]
        Label map with the dtype of `label_dtype`; of equally probable labels, the lowest.

    Notes
    -----
    Three times as fast as NumPy's argmax over the first axis, which strides over all labels of
    each pixel in turn.

    Examples
    --------
    >>> most_probable(np.array([[0.2, 0.6], [0.8, 0.4]])).tolist()
    [1, 0]
    """
    if len(scores) == 1:
        return (scores[0] > threshold).astype(label_dtype(1))
    best = scores[0].copy()
    labels = np.zeros(best.shape, label_dtype(len(scores)))
    for label, plane in enumerate(scores[1:], start=1):
        np.copyto(labels, label, where=plane > best, casting="unsafe")
        np.maximum(best, plane, out=best)
    return labels


def region_masks(scores: Array, threshold: float = 0.5) -> Array:
    """Return the masks of regions that may overlap: 1 where a map exceeds the threshold.

    Parameters
    ----------
    scores : ndarray [L, *S]
        Foreground marginals of each region, as ``refine(..., multilabel=True)`` returns them, or
        their logits.
    threshold : float
        0.5 for marginals, 0 for logits.

    Returns
    -------
    ndarray [L, *S] of uint8

    Examples
    --------
    >>> region_masks(np.array([[0.9, 0.6], [0.4, 0.7]])).tolist()
    [[1, 1], [0, 1]]
    """
    return (scores > threshold).view(np.uint8)


def labels_of_regions(scores: Array, order: Sequence[int], threshold: float = 0.5) -> Array:
    """Return one label map of regions that may overlap; later regions overwrite earlier ones.

    Parameters
    ----------
    scores : ndarray [L, *S]
    order : sequence of L int, at least 0
        The label of each region, as `regions_class_order` of nnU-Net: for whole tumour, core and
        enhancing tumour 1, 2, 3.
    threshold : float
        As in `region_masks`.

    Returns
    -------
    ndarray [*S]
        0 outside all regions; the smallest unsigned dtype that holds the labels.

    Raises
    ------
    TypeError, ValueError
        `order` does not hold one label for each region.

    Examples
    --------
    >>> labels_of_regions(np.array([[0.9, 0.6, 0.1], [0.4, 0.7, 0.2]]), [1, 2]).tolist()
    [1, 2, 0]
    """
    values = checked_order(order, len(scores))
    labels = np.zeros(scores.shape[1:], np.min_scalar_type(max(values, default=0)))
    for label, plane in zip(values, scores, strict=True):
        labels[plane > threshold] = label
    return labels


def checked_order(order: Sequence[int], regions: int) -> list[int]:
    """Check that the argument `order` of `labels_of_regions` holds a label per region; return it.
    """
    values = [checks.count(f"order[{i}]", label, 0) for i, label in enumerate(order)]
    if len(values) != regions:
        raise ValueError(
            f"the order of regions holds {len(values)} labels but there are {regions} regions; "
            "give one for each"
        )
    return values


def label_dtype(labels: int) -> Any:
    """Return the smallest unsigned dtype that holds labels 0 to L - 1 (0 and 1 if L = 1)."""
    return np.min_scalar_type(max(1, labels - 1))


def remove_small(labels: Array, pixels: int) -> Array:
    """Give connected regions of fewer than `pixels` pixels the label of the nearest other region.

    This removes specks and fills holes: a hole is a region of another label.

    Parameters
    ----------
    labels : ndarray [H, W] or [D, H, W] of integers
    pixels : int, at least 1
        Size of the smallest region that is kept. Regions are connected through edges (faces in
        3-D), not through corners.

    Returns
    -------
    ndarray, shape and dtype of `labels`
        An unchanged copy if all regions are smaller than `pixels`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range.
    ImportError
        scikit-image is not installed.

    Examples
    --------
    >>> remove_small(np.array([[5, 5, 5, 5], [5, 7, 5, 5], [9, 9, 9, 9]]), 2).tolist()
    [[5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 9, 9]]
    """
    checks.array_kind("labels", labels, batched=False)
    if labels.dtype.kind not in "iu" or labels.ndim not in (2, 3):
        raise TypeError(
            f"labels has dtype {labels.dtype} and shape {labels.shape}; it must be [H, W] or "
            "[D, H, W] of integers"
        )
    pixels = checks.count("pixels", pixels, 1)
    measure, segmentation = (
        checks.package(f"skimage.{name}", "remove_small", "'densecrf-rnn[cli]'")
        for name in ("measure", "segmentation")
    )
    values, ranks = np.unique(labels, return_inverse=True)
    ranks = ranks.reshape(labels.shape) + 1  # scikit-image treats 0 as background; no rank is 0
    regions = measure.label(ranks, background=0, connectivity=1)
    small = (np.bincount(regions.ravel()) < pixels)[regions]
    if small.all() or not small.any():
        return labels.copy()
    filled = segmentation.expand_labels(np.where(small, 0, ranks), distance=sum(labels.shape))
    return values[filled - 1]
