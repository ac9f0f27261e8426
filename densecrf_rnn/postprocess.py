"""What people do to label maps after a CRF, by scikit-image."""


import numpy as np

from ._typing import Array
from . import checks


def remove_small(labels: Array, pixels: int) -> Array:
    """Give connected regions of fewer than `pixels` pixels the label of the nearest other region.

    Specks and holes alike: a hole is a region of another label.

    Parameters
    ----------
    labels : ndarray [H, W] or [D, H, W] of integers
    pixels : int, at least 1
        Regions smaller than this go. They are connected through edges (faces), not corners.

    Returns
    -------
    ndarray, shape and dtype of `labels`
        Unchanged where every region is smaller.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind.
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
    try:
        from skimage import measure, segmentation
    except ModuleNotFoundError as error:
        raise ImportError(
            "remove_small needs scikit-image; pip install 'densecrf-rnn[cli]'"
        ) from error
    values, ranks = np.unique(labels, return_inverse=True)
    ranks = ranks.reshape(labels.shape) + 1  # scikit-image's 0 is background, which ours has not
    regions = measure.label(ranks, background=0, connectivity=1)
    small = (np.bincount(regions.ravel()) < pixels)[regions]
    if small.all() or not small.any():
        return labels.copy()
    filled = segmentation.expand_labels(np.where(small, 0, ranks), distance=sum(labels.shape))
    return values[filled - 1]
