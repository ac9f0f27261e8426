"""pydensecrf.utils: energies from labels or probabilities, features from images of any shape."""

import warnings
from collections.abc import Sequence

import numpy as np

from ..._typing import Array
from ... import checks
from . import _arguments


def unary_from_labels(
    labels: Array, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Array:
    """Energies of labels that are right with some probability.

    Parameters
    ----------
    labels : ndarray of integers, any shape
        1..n_labels, where 0 means: not known; without `zero_unsure` 0..n_labels - 1.
    n_labels : int, at least 2
        Labels, 0 not counted if it means: not known.
    gt_prob : float
        Probability of the label that is given, between 0 and 1; the others share the rest. At
        1 / n_labels it says nothing.
    zero_unsure : bool
        Whether 0 means: not known, so that all labels are as probable.

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
        raise ValueError(f"gt_prob is {gt_prob:g}; it must lie between 0 and 1, both left out")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        kind = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"labels is {kind}; give a NumPy array of integers")
    zero_unsure = bool(zero_unsure)
    flat = labels.ravel().astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < n_labels + zero_unsure:
        meaning = ", where 0 is not known" if zero_unsure else " (zero_unsure=False)"
        raise ValueError(
            f"labels reach from {flat.min()} to {flat.max()}; with n_labels {n_labels} they must "
            f"lie in 0..{n_labels - 1 + zero_unsure}{meaning}"
        )
    energy = np.full(
        (n_labels, flat.size), -np.log((1.0 - gt_prob) / (n_labels - 1)), np.float32
    )
    energy[flat - zero_unsure, np.arange(flat.size)] = -np.log(gt_prob)  # 0: the last, for now
    if zero_unsure:
        energy[:, flat == 0] = -np.log(1.0 / n_labels)
    return energy


def compute_unary(labels: Array, M: int, GT_PROB: float = 0.5) -> Array:  # noqa: N803
    """The old name of `unary_from_labels`.

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
    """Energies of probabilities: minus their logarithm.

    Parameters
    ----------
    sm : ndarray [L, ...] of floating point
        Probabilities, labels first; the other axes are flattened.
    scale : float, optional
        Trust in them, above 0 and up to 1: they are mixed with 1 - scale of the uniform
        distribution.
    clip : float or None
        The least probability; without one, 0 rules a label out.

    Returns
    -------
    ndarray [L, N] float32

    Raises
    ------
    TypeError, ValueError
        An argument of another kind or range, NaN, or numbers below 0.

    Examples
    --------
    >>> unary_from_softmax(np.full((2, 3, 4), 0.5)).shape
    (2, 12)
    """
    if not isinstance(sm, np.ndarray) or sm.dtype.kind not in "fiu":
        kind = getattr(sm, "dtype", type(sm).__name__)
        raise TypeError(f"sm is {kind}; give a NumPy array of floating point, labels first")
    if sm.ndim == 0 or len(sm) == 0:
        raise ValueError(f"sm has shape {sm.shape}; it must be [labels, ...]")
    _arguments.finite("sm", sm)
    if sm.size and sm.min() < 0:
        raise ValueError(
            f"sm holds {sm.min():g}, which is no probability; pass a softmax, not logits"
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
    """The old name of `unary_from_softmax`, which clips nothing.

    Examples
    --------
    >>> softmax_to_unary(np.full((2, 3), 0.5)).shape
    (2, 3)
    """
    _deprecated("softmax_to_unary", "unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: float | Sequence[float], shape: Sequence[int]) -> Array:
    """Features of position alone, for a grid of any number of axes.

    Parameters
    ----------
    sdims : float, or sequence of float
        Deviation, or that along each axis of `shape` in its order: row before column, so the other
        way round than ``DenseCRF2D.addPairwiseGaussian(sxy=...)``. Above 0.
    shape : sequence of int
        Of the grid.

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
    positions = _positions(size)
    _divide(positions, _arguments.deviations("sdims", sdims, len(size)))
    return positions.reshape(len(size), -1)


def create_pairwise_bilateral(
    sdims: float | Sequence[float],
    schan: float | Sequence[float],
    img: Array,
    chdim: int = -1,
) -> Array:
    """Features of position and intensity, for an image of any number of axes and channels.

    Parameters
    ----------
    sdims : float, or sequence of float
        Deviation, or that along each axis of the image but `chdim` in their order: row before
        column. Above 0. What a shorter one leaves out is not divided, with a warning.
    schan : float, or sequence of float
        Deviation in intensity, of all channels or of each. Above 0. What a shorter sequence leaves
        out is not divided, with a warning.
    img : ndarray of integers or floating point
    chdim : int
        Axis of the channels. -1 means that there is none, not that it is the last.

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
    if not isinstance(img, np.ndarray) or img.dtype.kind not in "biuf":
        kind = getattr(img, "dtype", type(img).__name__)
        raise TypeError(f"img is {kind}; give a NumPy array of integers or floating point")
    if isinstance(chdim, bool) or not isinstance(chdim, (int, np.integer)):
        raise TypeError(f"chdim is {chdim!r}; give the axis of the channels, or -1 for none")
    if not -img.ndim <= chdim < img.ndim or img.ndim < 1 + (chdim != -1):
        raise ValueError(
            f"chdim is {chdim} but img has shape {img.shape}; give the axis of the channels, or -1 "
            "for none"
        )
    planes = img[np.newaxis] if chdim == -1 else np.moveaxis(img, chdim, 0)
    channels = _arguments.finite("img", planes.astype(np.float32))
    positions = _positions(channels.shape[1:])
    for name, given, found in (("schan", schan, channels), ("sdims", sdims, positions)):
        numbers = _arguments.deviations(name, given, len(found), fewer=True)
        if len(numbers) < len(found):
            warnings.warn(
                f"{name} has {len(numbers)} numbers for {len(found)}; the others are left as they "
                "are, as pydensecrf does",
                UserWarning,
                stacklevel=2,
            )
        _divide(found, numbers)
    return np.concatenate([positions, channels]).reshape(len(positions) + len(channels), -1)


def _positions(size: Sequence[int]) -> Array:
    """Coordinates, a plane for each axis."""
    axes = [np.arange(n, dtype=np.float32) for n in size]
    return np.array(np.meshgrid(*axes, indexing="ij"))


def _divide(planes: Array, numbers: Sequence[float]) -> None:
    """Divide each plane by its number, in place; those without one stay as they are."""
    for plane, number in zip(planes, numbers):
        plane /= number


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=3)
