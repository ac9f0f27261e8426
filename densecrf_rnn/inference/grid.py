"""The spatial kernel on a regular grid: separable and exactly symmetric (docs/math.md).

Along each axis K = S B S'. S spreads a pixel over three cells with quadratic B-spline weights. B is
a sampled Gaussian, whose variance is that of the kernel minus the variance that the splines add.
The kernel depends on the size of an image, not on its values.
"""

import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from .._typing import Array
from ..engines.contract import GridAxis, GridKernel
from ..kernels import Window, normalizer
from ..params import Normalization


# Width of a cell in bandwidths. The error grows with the third power of the width; the number of
# cells in an image falls with its square (docs/accuracy.md).
_SPACING = 0.8
# With cells of fewer pixels the grid is no faster than filtering the pixels themselves.
_SMALLEST_CELL = 1.5
# Variance, in cells, that each of the two quadratic B-splines (splat and slice) adds.
_SPLINE_VARIANCE = 0.25
# Number of cells that are filtered at a time.
_BLOCK = 48
# The Gaussian is cut at this many bandwidths, where it is below a thousandth of its peak.
_CUT = 3.8


def axis(pixels: int, sigma: float) -> GridAxis:
    """Make the grid along one axis.

    Parameters
    ----------
    pixels : int, at least 1
    sigma : float, positive
        Bandwidth of the Gaussian in pixels.

    Returns
    -------
    GridAxis
        For a small `sigma` each cell is one pixel, and the only error is the cut at `_CUT`.
    """
    width = min(_SPACING * sigma, (pixels - 1) / 4)  # at least 4 cells, for accuracy
    if width < _SMALLEST_CELL:
        taps = np.tile([0.0, 1.0, 0.0], (pixels, 1))
        band = _gaussian(sigma, pixels - 1)
        return GridAxis(np.arange(pixels, dtype=np.int32), taps, band, pixels + 2)
    position = (np.arange(pixels) - (pixels - 1) / 2) / width  # 0 at the middle
    nearest = np.floor(position + 0.5)
    t = position - nearest  # -0.5..0.5
    taps = np.stack([0.5 * (0.5 - t) ** 2, 0.75 - t**2, 0.5 * (0.5 + t) ** 2], axis=1)
    cell = (nearest - nearest[0]).astype(np.int32)
    cells = int(cell[-1]) + 3
    narrow = math.sqrt((sigma / width) ** 2 - 2 * _SPLINE_VARIANCE)
    peak = sigma / (width * narrow)  # keeps the sum of the Gaussian
    return GridAxis(cell, taps, peak * _gaussian(narrow, cells - 1), cells)


def part(axis: GridAxis, start: int, stop: int) -> GridAxis:
    """Cut out the grid of pixels `start` to `stop`; its K is that block of the axis's K."""
    cell = axis.cell[start:stop] - axis.cell[start]
    cells = int(cell[-1]) + 3
    cut = max(0, len(axis.band) // 2 - (cells - 1))  # taps to drop at each end
    band = axis.band[cut : len(axis.band) - cut]
    return GridAxis(cell, axis.taps[start:stop], band, cells)


def reach(axis: GridAxis) -> int:
    """Return the largest distance, in pixels, between two pixels whose kernel value is not 0."""
    spread = 0 if axis.taps[0, 1] == 1.0 else 2  # cells between a pixel's outer nonzero taps
    beyond = np.searchsorted(axis.cell, axis.cell + len(axis.band) // 2 + spread, side="right")
    return int((beyond - 1 - np.arange(len(axis.cell))).max())


def _gaussian(sigma: float, furthest: int) -> Array:
    """Sample exp(-k^2 / 2 sigma^2) for k = -r..r, where r is at most `furthest`. [2 r + 1]"""
    radius = int(min(_CUT * sigma, furthest))
    return np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)


def matrix(axis: GridAxis) -> Array:
    """Compute K = S B S' along the axis as a matrix, for tests. [n, n]"""
    spread = np.zeros((len(axis.cell), axis.cells))  # S
    np.put_along_axis(spread, axis.cell[:, None] + np.arange(3), axis.taps, axis=1)
    radius = len(axis.band) // 2
    blur = sum(b * np.eye(axis.cells, k=k - radius) for k, b in enumerate(axis.band))
    return spread @ (blur @ spread.T)


def _along(axis: GridAxis, splat: Array, slice_: Array, values: Array) -> Array:
    """Filter values along the axis, with taps `splat` and `slice_` for S. [n, C] -> [n, C]

    The time is linear in n: each block of cells is a product of small matrices.
    """
    radius, dtype = len(axis.band) // 2, values.dtype
    blurred = np.empty((axis.cells, values.shape[1]), dtype)
    for low in range(0, axis.cells, _BLOCK):
        high = min(low + _BLOCK, axis.cells)
        # The cells within the blur's radius, and the pixels that touch them.
        first, last = max(low - radius, 0), min(high + radius, axis.cells)
        start, stop = np.searchsorted(axis.cell, (first - 2, last))
        blur = _banded(axis.band, np.arange(low, high), np.arange(first, last))
        spread = _spread(axis.cell[start:stop] - first, splat[start:stop], last - first)
        blurred[low:high] = (blur @ spread.T).astype(dtype) @ values[start:stop]
    out = np.empty_like(values)
    for low in range(0, axis.cells, _BLOCK):
        start, stop = np.searchsorted(axis.cell, (low, low + _BLOCK))
        near = blurred[low : low + _BLOCK + 2]
        spread = _spread(axis.cell[start:stop] - low, slice_[start:stop], len(near))
        out[start:stop] = spread.astype(dtype) @ near
    return out


def _spread(cell: Array, taps: Array, cells: int) -> Array:
    """Compute S of n pixels restricted to the cells 0 to `cells` - 1. [n, cells]"""
    out = np.zeros((len(cell), cells + 4))  # two more cells at each end, cut off below
    np.put_along_axis(out, cell[:, None] + np.arange(2, 5), taps, axis=1)
    return out[:, 2:-2]


def _banded(band: Array, rows: Array, columns: Array) -> Array:
    """Compute the block of B for some rows and columns of cells. [rows, columns]"""
    distance = np.abs(rows[:, None] - columns)
    half = band[len(band) // 2 :]
    return np.where(distance < len(half), half[np.minimum(distance, len(half) - 1)], 0.0)


def _mass(axis: GridAxis) -> Array:
    """Compute K 1 along the axis. [n]"""
    return _along(axis, axis.taps, axis.taps, np.ones((len(axis.cell), 1)))[:, 0]


def _diagonal(axis: GridAxis) -> Array:
    """Compute the diagonal of K along the axis. [n]"""
    band = np.pad(axis.band, 2)  # the band may be shorter than three cells
    middle = len(band) // 2
    between = np.array([[band[middle + j - k] for k in range(3)] for j in range(3)])
    return np.einsum("nj,jk,nk->n", axis.taps, between, axis.taps)


def build(
    size: tuple[int, ...],
    sigmas: tuple[float, ...],
    normalization: Normalization,
    self_term: bool,
    dtype: Any,
    *,
    pixel: Array | None = None,
    window: Window | None = None,
) -> GridKernel:
    """Build the operator N K of the pixels of an image or, with `window`, of a tile.

    The kernel of an image is cached if its scales are one number per row and column instead of one
    per pixel. Kernels of tiles are not cached: small arrays that outlive a tile fragment the heap.

    Parameters
    ----------
    size : (H, W) or (D, H, W)
        Size of the image or tile.
    sigmas : one positive float per axis
        Bandwidths in pixels.
    normalization, self_term
        As in `CRFParams`.
    dtype : NumPy dtype
        Floating-point dtype of scales per pixel.
    pixel : ndarray [N] int32, optional
        Indices of the pixels inside the mask; default all.
    window : Window, optional
        The position of the tile in its image.
    """
    if self_term and pixel is None and window is None:
        return _cached(size, sigmas, normalization, dtype)
    axes = list(map(axis, size if window is None else window.whole, sigmas))
    if window is not None:
        axes = [
            part(whole, start, start + n)
            for whole, start, n in zip(axes, window.origin, size, strict=True)
        ]
    return normalized(axes, normalization, self_term, dtype, pixel)


@lru_cache(maxsize=32)
def _cached(
    size: tuple[int, ...], sigmas: tuple[float, ...], normalization: Normalization, dtype: Any
) -> GridKernel:
    """Build the kernel of a whole image, with self term and without mask."""
    return normalized(list(map(axis, size, sigmas)), normalization, True, dtype)


def normalized(
    axes: Sequence[GridAxis],
    normalization: Normalization,
    self_term: bool,
    dtype: Any,
    pixel: Array | None = None,
) -> GridKernel:
    """Build the operator N K from the grids of the axes; other arguments as in `build`."""
    taps = tuple(axis.taps for axis in axes)
    how = normalizer(normalization)
    if self_term and (pixel is None or not how.needs_mass):
        # The mass is a product over the axes, so the taps are scaled.
        scaled = tuple(axis.taps / _mass(axis)[:, None] ** how.power for axis in axes)
        splat, slice_ = (scaled if s else taps for s in (how.scales_input, how.scales_output))
        return GridKernel(tuple(axes), splat, slice_, pixel)

    points: Any = slice(None) if pixel is None else pixel
    diagonal = None if self_term else _product([_diagonal(axis) for axis in axes])[points]
    before = after = None
    if how.needs_mass:
        if pixel is None:
            mass = _product([_mass(axis) for axis in axes])
        else:
            raw = GridKernel(tuple(axes), taps, taps, pixel)
            mass = filtered(raw, np.ones((len(pixel), 1)))[:, 0]
        before, after = how.scales(mass if diagonal is None else mass - diagonal)
    in_dtype = (None if x is None else x.astype(dtype) for x in (before, after, diagonal))
    return GridKernel(tuple(axes), taps, taps, pixel, *in_dtype)


def _product(factors: Sequence[Array]) -> Array:
    """Compute the product over the axes of one factor [n] per axis, at every pixel. [N]"""
    return reduce(np.multiply.outer, factors).ravel()


def filtered(kernel: GridKernel, values: Array) -> Array:
    """Filter values at the kernel's points, without scales per pixel. [N, C] -> [N, C]"""
    size, channels = kernel.size, values.shape[1]
    field = values
    if kernel.pixel is not None:
        field = np.zeros((math.prod(size), channels), values.dtype)
        field[kernel.pixel] = values
    for axis, splat, slice_ in zip(kernel.axes, kernel.splat, kernel.slice, strict=True):
        n = len(axis.cell)
        field = _along(axis, splat, slice_, field.reshape(n, -1))
        field = np.moveaxis(field.reshape(n, -1, channels), 0, 1)  # the next axis comes first
    field = field.reshape(-1, channels)
    return field if kernel.pixel is None else field[kernel.pixel]
