"""Linear interpolation of maps from the coarse grid of a network to the grid of an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._typing import Array
from . import checks

__all__ = ["upsample"]


# Number of fine pixels computed by one matrix product. The product uses the coarse pixels around
# them, so longer runs multiply more zeros and shorter runs make more calls.
_RUN = 128


def upsample(
    maps: Array,
    size: Sequence[int],
    *,
    align_corners: bool = False,
    crop: Sequence[int] | None = None,
) -> Array:
    """Interpolate maps linearly along each spatial axis.

    Parameters
    ----------
    maps : ndarray [L, *S], float32 or float64
        Must be finite: infinities would turn neighbouring pixels into NaN. Interpolate what the
        network interpolates: its logits, or, if it saved probabilities, these, before
        `unaries.logits_from_probabilities`; the mean of logarithms is not that of probabilities.
    size : sequence of int, one per axis of S
        Size of the fine grid.
    align_corners : bool
        True aligns the centres of the corner pixels of both grids, as in DeepLab and
        ``torch.nn.functional.interpolate(align_corners=True)``; False aligns their outer edges,
        which is that function's default.
    crop : sequence of int, one per axis of S, optional
        Size of the part of the fine grid to compute, from its first corner, if the rest covers only
        padding of the network's input; default all of it.

    Returns
    -------
    ndarray [L, *crop or size], dtype of `maps`

    Raises
    ------
    TypeError, ValueError
        `maps` of another kind, maps that hold NaN or infinity, or an invalid size or crop.

    Examples
    --------
    >>> upsample(np.array([[0.0, 2.0]]), [3], align_corners=True).tolist()
    [[0.0, 1.0, 2.0]]
    >>> upsample(np.array([[0.0, 2.0]]), [4]).tolist()
    [[0.0, 0.5, 1.5, 2.0]]
    """
    checks.array_kind("maps", maps, batched=False)
    checks.float_dtype("maps", maps, batched=False)
    if maps.ndim == 0 or 0 in maps.shape:
        raise ValueError(f"maps has shape {maps.shape}; it must be [L, *S], without an empty axis")
    if not np.isfinite(maps).all():
        raise ValueError(
            "maps contain NaN or infinity, so they cannot be interpolated; interpolate "
            "probabilities instead of their logarithms, or replace these values first"
        )
    size = _lengths("size", size, maps.shape)
    crop = size if crop is None else _lengths("crop", crop, maps.shape)
    for fine, count in zip(size, crop, strict=True):
        if count > fine:
            raise ValueError(
                f"cannot take {count} of {fine} pixels; give a crop of 1 to size along each axis"
            )
    for axis, (fine, count) in enumerate(zip(size, crop, strict=True), start=1):
        weights = _weights(maps.shape[axis], fine, count, align_corners).astype(maps.dtype)
        maps = _along(maps, weights, axis)
    return np.ascontiguousarray(maps)


def _lengths(name: str, value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Check that `value` holds a length for each spatial axis of maps of this shape; return it."""
    if hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    axes = len(shape) - 1
    if not checks.is_sequence(value) or len(value) != axes:
        raise ValueError(
            f"{name} is {value!r} but maps has shape {shape}, [L, *S]; give a sequence of {axes} "
            f"integer{'s' * (axes != 1)}, one for each axis of S"
        )
    return tuple(checks.count(f"{name}[{i}]", length, 1) for i, length in enumerate(value))


def _weights(coarse: int, fine: int, count: int, align_corners: bool) -> Array:
    """Return the weights [count, coarse] that interpolate `count` pixels along one axis."""
    pixel = np.arange(count)
    if align_corners:
        position = pixel * ((coarse - 1) / (fine - 1) if fine > 1 else 0.0)
    else:
        position = ((pixel + 0.5) * (coarse / fine) - 0.5).clip(0, coarse - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(coarse)))


def _along(maps: Array, weights: Array, axis: int) -> Array:
    """Interpolate one axis of `maps` with `weights` [count, coarse]."""
    shape = list(maps.shape)
    shape[axis] = len(weights)
    result = np.empty(shape, maps.dtype)
    last = axis == maps.ndim - 1
    source, target = (a if last else a.reshape(*a.shape[: axis + 1], -1) for a in (maps, result))
    for start in range(0, len(weights), _RUN):
        rows = weights[start : start + _RUN]
        used = np.flatnonzero(rows.any(axis=0))
        low, high = used[0], used[-1] + 1
        if last:
            target[..., start : start + _RUN] = source[..., low:high] @ rows[:, low:high].T
        else:
            target[..., start : start + _RUN, :] = rows[:, low:high] @ source[..., low:high, :]
    return result
