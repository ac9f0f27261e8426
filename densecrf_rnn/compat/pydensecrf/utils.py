"""The functions of pydensecrf.utils: unary energies, and features of images of any shape."""

import warnings
from collections.abc import Sequence

import numpy as np

from ..._typing import Array
from ... import checks
from ...unaries import logits_from_labels
from . import _arguments


def unary_from_labels(
    labels: Array, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Array:
    """Convert a label map to energies, given the probability that its labels are right.

    Parameters
    ----------
    labels : ndarray of integers, any shape
        1..n_labels, with 0 for unknown; without `zero_unsure` 0..n_labels - 1.
    n_labels : int, at least 2
        Number of labels, not counting 0 for unknown.
    gt_prob : float between 0 and 1, both excluded
        Probability of the given label; the others share the rest. 1 / n_labels makes all labels
        equally probable.
    zero_unsure : bool
        Whether 0 means unknown: all labels are then equally probable.

    Returns
    -------
    ndarray [n_labels, N] float32

    Raises
    ------
    TypeError, ValueError
        An argument of another kind or range.

    Examples
    --------
    >>> np.exp(-unary_from_labels(np.array([0, 1, 2]), 2, gt_prob=0.75)).round(2).tolist()
    [[0.5, 0.75, 0.25], [0.5, 0.25, 0.75]]
    """
    n_labels = checks.count("n_labels", n_labels, 2)
    gt_prob = checks.number("gt_prob", gt_prob)
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob is {gt_prob:g}; it must lie between 0 and 1, both excluded")
    _arguments.array("labels", labels, "iu", "integers")
    zero_unsure = bool(zero_unsure)
    flat = labels.ravel().astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < n_labels + zero_unsure:
        meaning = ", where 0 means unknown" if zero_unsure else " (zero_unsure=False)"
        raise ValueError(
            f"labels reach from {flat.min()} to {flat.max()}; with n_labels {n_labels} they must "
            f"lie in 0..{n_labels - 1 + zero_unsure}{meaning}"
        )
    unsure = -1 if zero_unsure else None
    return -logits_from_labels(flat - zero_unsure, n_labels, gt_prob, unsure=unsure)


def compute_unary(labels: Array, M: int, GT_PROB: float = 0.5) -> Array:  # noqa: N803
    """Call `unary_from_labels`; deprecated name.

    Examples
    --------
    >>> compute_unary(np.array([1, 2]), 2, GT_PROB=0.75).shape
    (2, 2)
    """
    _deprecated("compute_unary", "unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(
    sm: Array, scale: float | None = None, clip: float | None = 1e-5
) -> Array:
    """Convert probabilities to energies: minus their logarithm.

    Parameters
    ----------
    sm : ndarray [L, ...] of floating point
        Probabilities, labels first; the other axes are flattened.
    scale : float, optional
        Weight of the probabilities, above 0 and at most 1, in a mixture with the uniform
        distribution.
    clip : float or None
        Minimum probability; None keeps 0, which rules a label out.

    Returns
    -------
    ndarray [L, N] float32

    Raises
    ------
    TypeError, ValueError
        An argument of another kind or range, NaN, or negative numbers.

    Examples
    --------
    >>> unary_from_softmax(np.full((2, 3, 4), 0.5)).shape
    (2, 12)
    """
    _arguments.array("sm", sm, "fiu", "floating point, labels first")
    if sm.ndim == 0 or len(sm) == 0:
        raise ValueError(f"sm has shape {sm.shape}; it must be [labels, ...]")
    _arguments.finite("sm", sm)
    if sm.size and sm.min() < 0:
        raise ValueError(
            f"sm holds {sm.min():g}, which is not a probability; pass the softmax of logits"
        )
    labels = sm.shape[0]
    if scale is not None:
        scale = checks.number("scale", scale)
        if not 0 < scale <= 1:
            raise ValueError(f"scale is {scale:g}; it must lie above 0 and be at most 1")
        sm = scale * sm + (1 - scale) * (np.ones(sm.shape) / labels)
    if clip is not None:
        sm = np.clip(sm, checks.number("clip", clip), 1.0)
    with np.errstate(divide="ignore"):  # 0 rules a label out
        return -np.log(sm).reshape(labels, -1).astype(np.float32)


def softmax_to_unary(sm: Array, GT_PROB: float = 1) -> Array:  # noqa: N803
    """Call `unary_from_softmax` without clipping; deprecated name.

    Examples
    --------
    >>> softmax_to_unary(np.full((2, 3), 0.5)).shape
    (2, 3)
    """
    _deprecated("softmax_to_unary", "unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: float | Sequence[float], shape: Sequence[int]) -> Array:
    """Compute position features of a grid with any number of axes.

    Parameters
    ----------
    sdims : float, or sequence of float
        Positive bandwidth: one, or one per axis of `shape`. Row before column, the reverse of
        ``DenseCRF2D.addPairwiseGaussian(sxy=...)``.
    shape : sequence of int
        Shape of the grid.

    Returns
    -------
    ndarray [D, N] float32

    Raises
    ------
    TypeError, ValueError
        An argument of another kind, length or range.

    Examples
    --------
    >>> create_pairwise_gaussian((2, 1), (2, 2)).tolist()
    [[0.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.0, 1.0]]
    """
    size = [checks.count(f"shape[{i}]", n, 1) for i, n in enumerate(shape)]
    positions = np.indices(size, np.float32)
    _divide(positions, _arguments.bandwidths("sdims", sdims, len(size)))
    return positions.reshape(len(size), -1)


def create_pairwise_bilateral(
    sdims: float | Sequence[float],
    schan: float | Sequence[float],
    img: Array,
    chdim: int = -1,
) -> Array:
    """Compute position and intensity features of an image with any number of axes and channels.

    Parameters
    ----------
    sdims : float, or sequence of float
        Positive bandwidth in position: one, or one per axis of the image except `chdim`, row
        before column. With a shorter sequence, the remaining features are not divided and a
        warning is given.
    schan : float, or sequence of float
        Positive bandwidth in intensity: one, or one per channel. A shorter sequence
        has the same effect as for `sdims`.
    img : ndarray of integers or floating point
    chdim : int
        Axis of the channels. -1 means no channel axis, not the last axis.

    Returns
    -------
    ndarray [axes + channels, N] float32

    Raises
    ------
    TypeError, ValueError
        An argument of another kind, length or range, NaN or infinity.

    Examples
    --------
    >>> create_pairwise_bilateral((10, 10), 0.5, np.ones((1, 2), np.float32)).tolist()
    [[0.0, 0.0], [0.0, 0.10000000149011612], [2.0, 2.0]]
    """
    _arguments.array("img", img, "biuf", "integers or floating point")
    if isinstance(chdim, bool) or not isinstance(chdim, (int, np.integer)):
        raise TypeError(f"chdim is {chdim!r}; give the axis of the channels, or -1 for none")
    if not -img.ndim <= chdim < img.ndim or img.ndim < 1 + (chdim != -1):
        raise ValueError(
            f"chdim is {chdim} but img has shape {img.shape}; give the axis of the channels, or -1 "
            "for none"
        )
    planes = img[np.newaxis] if chdim == -1 else np.moveaxis(img, chdim, 0)
    channels = _arguments.finite("img", planes.astype(np.float32))
    positions = np.indices(channels.shape[1:], np.float32)
    for name, given, found in (("schan", schan, channels), ("sdims", sdims, positions)):
        numbers = _arguments.bandwidths(name, given, len(found), fewer=True)
        if len(numbers) < len(found):
            warnings.warn(
                f"{name} has {len(numbers)} numbers for {len(found)}; the remaining features are "
                "not divided, as in pydensecrf",
                UserWarning,
                stacklevel=2,
            )
        _divide(found, numbers)
    return np.concatenate([positions, channels]).reshape(len(positions) + len(channels), -1)


def _divide(planes: Array, numbers: Sequence[float]) -> None:
    """Divide plane i by numbers[i] in place; planes beyond the last number are not changed."""
    for plane, number in zip(planes, numbers):
        plane /= number


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=3)
