"""The spatial kernel on a regular grid: separable, exactly symmetric, no lattice.

Along each axis K = S B S': S spreads a pixel over three cells with quadratic B-spline weights, B is
a sampled Gaussian whose variance makes up for what the splines add. (docs/math.md) Nothing here
depends on an image, only on its size.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from .._typing import Array
from ..engines.contract import GridAxis, GridKernel
from ..kernels import normalizer
from ..params import Normalization


# Cells are this many deviations apart. The error falls with the third power of it, the number of
# cells in an image rises with the square (docs/accuracy.md).
_SPACING = 0.8
# Below this many pixels a cell the grid saves nothing over filtering the pixels themselves.
_SMALLEST_CELL = 1.5
# Cells that are filtered together.
_BLOCK = 48
# What lies further off than this many deviations, below a thousandth of the peak, counts as 0.
_REACH = 3.8


def axis(pixels: int, sigma: float) -> GridAxis:
    """The grid along one axis.

    Parameters
    ----------
    pixels : int, at least 1
    sigma : float
        Deviation of the Gaussian in pixels. Above 0.

    Returns
    -------
    GridAxis
        With cells of one pixel where `sigma` is small, and then exact but for the cut at _REACH.
    """
    width = min(_SPACING * sigma, (pixels - 1) / 4)  # few pixels: no coarser, for accuracy
    if width < _SMALLEST_CELL:
        taps = np.tile([0.0, 1.0, 0.0], (pixels, 1))
        band = _gaussian(sigma, pixels - 1)
        return GridAxis(np.arange(pixels, dtype=np.int32), taps, band, pixels + 2)
    position = (np.arange(pixels) - (pixels - 1) / 2) / width  # symmetric about the middle
    nearest = np.floor(position + 0.5)
    t = position - nearest  # -0.5..0.5
    taps = np.stack([0.5 * (0.5 - t) ** 2, 0.75 - t**2, 0.5 * (0.5 + t) ** 2], axis=1)
    cell = (nearest - nearest[0]).astype(np.int32)
    cells = int(cell[-1]) + 3
    deviation = math.sqrt((sigma / width) ** 2 - 0.5)  # the splines' variance is 1/4 each
    peak = sigma / (width * deviation)  # so that rows have the sum of the Gaussian's
    return GridAxis(cell, taps, peak * _gaussian(deviation, cells - 1), cells)


def part(axis: GridAxis, start: int, stop: int) -> GridAxis:
    """The grid of the pixels `start` to `stop` alone, with their cells where they were.

    Its matrix is that part of the axis's own.
    """
    cell = axis.cell[start:stop] - axis.cell[start]
    cells = int(cell[-1]) + 3
    cut = max(0, len(axis.band) // 2 - (cells - 1))  # of the band, on either side
    band = axis.band[cut : len(axis.band) - cut]
    return GridAxis(cell, axis.taps[start:stop], band, cells)


def reach(axis: GridAxis) -> int:
    """The largest distance, in pixels, at which a pixel hears of another."""
    spread = 0 if axis.taps[0, 1] == 1.0 else 2  # cells between the outer taps; cells of one pixel
    beyond = np.searchsorted(axis.cell, axis.cell + len(axis.band) // 2 + spread, side="right")
    return int((beyond - 1 - np.arange(len(axis.cell))).max())


def _gaussian(deviation: float, furthest: int) -> Array:
    """exp(-k^2 / 2 deviation^2) for k = -r..r, r at most `furthest`. [2 r + 1]"""
    radius = int(min(_REACH * deviation, furthest))
    return np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)


def matrix(axis: GridAxis) -> Array:
    """K = S B S' along the axis, written down for tests. [n, n]"""
    spread = np.zeros((len(axis.cell), axis.cells))  # S
    np.put_along_axis(spread, axis.cell[:, None] + np.arange(3), axis.taps, axis=1)
    radius = len(axis.band) // 2
    blur = sum(b * np.eye(axis.cells, k=k - radius) for k, b in enumerate(axis.band))
    return spread @ (blur @ spread.T)


def _along(axis: GridAxis, splat: Array, slice_: Array, values: Array) -> Array:
    """K values along the axis, with these taps. [n, C] -> [n, C]

    In blocks of cells, each a product of small matrices: time linear in the pixels.
    """
    radius, dtype = len(axis.band) // 2, values.dtype
    blurred = np.empty((axis.cells, values.shape[1]), dtype)
    for low in range(0, axis.cells, _BLOCK):
        high = min(low + _BLOCK, axis.cells)
        # The cells that those hear of, and the pixels that touch them.
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
    """S of some pixels and cells; what lies outside those is left out. [n, cells]"""
    out = np.zeros((len(cell), cells + 4))  # two more on either side
    np.put_along_axis(out, cell[:, None] + np.arange(2, 5), taps, axis=1)
    return out[:, 2:-2]


def _banded(band: Array, rows: Array, columns: Array) -> Array:
    """B of some cells. [rows, columns]"""
    distance = np.abs(rows[:, None] - columns)
    half = band[len(band) // 2 :]
    return np.where(distance < len(half), half[np.minimum(distance, len(half) - 1)], 0.0)


def _mass(axis: GridAxis) -> Array:
    """K 1. [n]"""
    return _along(axis, axis.taps, axis.taps, np.ones((len(axis.cell), 1)))[:, 0]


def _diagonal(axis: GridAxis) -> Array:
    """The diagonal of K. [n]"""
    band = np.pad(axis.band, 2)  # may be shorter than the three cells
    middle = len(band) // 2
    between = np.array([[band[middle + j - k] for k in range(3)] for j in range(3)])
    return np.einsum("nj,jk,nk->n", axis.taps, between, axis.taps)


def normalized(
    axes: Sequence[GridAxis],
    normalization: Normalization,
    self_term: bool,
    dtype: Any,
    pixel: Array | None = None,
) -> GridKernel:
    """The operator N K of a grid, as `CRFParams` describes it.

    Parameters
    ----------
    axes : one GridAxis per axis of the image
    normalization, self_term
        As in `CRFParams`.
    dtype : floating dtype of the scales per point
    pixel : ndarray [N] int32, optional
        The pixels that take part; default all of them.

    Returns
    -------
    GridKernel
    """
    taps = tuple(axis.taps for axis in axes)
    how = normalizer(normalization)
    if self_term and (pixel is None or not how.needs_mass):
        # The normaliser is a product over the axes.
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
    """The values at all pixels [N] of a product over the axes."""
    return reduce(np.multiply.outer, factors).ravel()


def filtered(kernel: GridKernel, values: Array) -> Array:
    """K values at the kernel's points, without its scales. [N, C] -> [N, C]"""
    size, channels = kernel.size, values.shape[1]
    field = values
    if kernel.pixel is not None:
        field = np.zeros((math.prod(size), channels), values.dtype)
        field[kernel.pixel] = values
    for axis, splat, slice_ in zip(kernel.axes, kernel.splat, kernel.slice, strict=True):
        n = len(axis.cell)  # of the first axis, which becomes the last
        field = _along(axis, splat, slice_, field.reshape(n, -1))
        field = np.moveaxis(field.reshape(n, -1, channels), 0, 1)
    field = field.reshape(-1, channels)
    return field if kernel.pixel is None else field[kernel.pixel]
