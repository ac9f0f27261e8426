"""The spatial kernel on a regular grid (inference/grid.py), filtered axis by axis."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._typing import Array
from ...engines import GridKernel
from ..ops.dispatch import is_traced
from ..ops.kernels import Grid
from ..ops.shared import shared
from .sums import gathered, segmented


class Axis(NamedTuple):
    """One axis of a grid: n pixels, c cells, and the taps of a `GridKernel`."""

    pixels: int
    cells: int
    cell: Tensor  # [n, 3] int32: the cells that a pixel touches
    pixel: Tensor  # [3 n] int32: the pixels that touch each cell, cell by cell
    begins: Tensor  # [c] int32: where the pixels of each cell begin
    near: Tensor  # [c, 2 r + 1] int32: the cells within the blur's radius
    band: Tensor  # [c, 2 r + 1]: their weights; 0 outside of the grid
    taps: tuple[Tensor, Tensor]  # [n, 3]: weights of the slice, and of the splat
    shares: tuple[Tensor, Tensor]  # [3 n]: the same, of the splat and of the slice, cell by cell

    @classmethod
    def of(cls, kernel: GridKernel, axis: int, dtype: torch.dtype, device: torch.device) -> "Axis":
        """Copy the tables of one axis of a kernel to a device."""
        of, splat, slice_ = kernel.axes[axis], kernel.splat[axis], kernel.slice[axis]
        touched = of.cell[:, None] + np.arange(3)
        order = np.argsort(touched.ravel(), kind="stable")
        begins = np.searchsorted(touched.ravel()[order], np.arange(of.cells))
        radius = len(of.band) // 2
        near = np.arange(of.cells)[:, None] + np.arange(-radius, radius + 1)
        exists = (near >= 0) & (near < of.cells)

        def indices(array: Array) -> Tensor:
            return _copied(array, torch.int32, device)

        def numbers(array: Array) -> Tensor:
            return _copied(array, dtype, device)

        return cls(
            len(of.cell), of.cells, indices(touched), indices(order // 3), indices(begins),
            indices(np.where(exists, near, 0)), numbers(np.where(exists, of.band, 0.0)),
            (numbers(slice_), numbers(splat)),
            (numbers(splat.ravel()[order]), numbers(slice_.ravel()[order])),
        )  # fmt: skip


@dataclass(frozen=True)
class Grids:
    """A grid kernel on a device; rows of values are cells of all images, [U, 1, C]."""

    axes: list[Axis]
    scale: ClassVar = 1.0  # of the filter, as in `Lattices`
    scales: list[Tensor]  # before, after, diagonal: [1, N, 1], or [0] where there is none

    @property
    def _cells(self) -> int:
        """The number of cells of one image."""
        return math.prod(axis.cells for axis in self.axes)

    def splat(self, values: Tensor, transpose: bool) -> Tensor:
        """Return the sums in the cells of values [B, N, C]; `transpose` for the adjoint filter."""
        batch, channels = len(values), values.shape[2]
        before = batch
        after = math.prod(axis.pixels for axis in self.axes) * channels
        rows = values
        for axis in self.axes:
            after //= axis.pixels
            index = _repeated(axis.pixel, before, axis.pixels)
            begins = _repeated(axis.begins, before, len(axis.pixel))
            share = axis.shares[transpose].expand(before, -1).reshape(-1)
            rows = segmented(rows.reshape(-1, after), index, begins, share)
            before *= axis.cells
        return rows.view(-1, 1, channels)

    def blurred(self, rows: Tensor, transpose: bool) -> Tensor:
        """Blur rows [U, 1, C] along all axes; the blur is its own transpose."""
        shape, after = rows.shape, self._cells * rows.shape[2]
        before = rows.numel() // after
        for axis in self.axes:
            after //= axis.cells
            index = _repeated(axis.near, before, axis.cells)
            weight = axis.band.expand(before, -1, -1).reshape(index.shape)
            rows = gathered(rows.reshape(-1, after), index, weight)
            before *= axis.cells
        return rows.view(shape)

    def slice(self, rows: Tensor, like: Tensor, transpose: bool) -> Tensor:
        """Return the values at the pixels, [B, N, C], from rows [U, 1, C]."""
        after, before = rows.shape[2], len(rows)
        for axis in reversed(self.axes):
            before //= axis.cells
            index = _repeated(axis.cell, before, axis.cells)
            weight = axis.taps[transpose].expand(before, -1, -1).reshape(index.shape)
            rows = gathered(rows.reshape(-1, after), index, weight)
            after *= axis.pixels
        return rows.view(like.shape[0], like.shape[1], -1)


class Whole(NamedTuple):
    """A grid kernel whose filter is one operator, for graphs: its tables are not part of them.

    The rows of values are the pixels.
    """

    grid: Grid
    batch: int
    scale: float = 1.0

    def splat(self, values: Tensor, transpose: bool) -> Tensor:
        """Return values [B, N, C] as rows."""
        return values.reshape(-1, 1, values.shape[2])

    def blurred(self, rows: Tensor, transpose: bool) -> Tensor:
        """Return N K rows, or the adjoint."""
        values = rows.view(self.batch, -1, rows.shape[2])
        op = torch.ops.densecrf_rnn.grid_filter
        return self.splat(op(values, *self.grid, transpose), transpose)

    def slice(self, rows: Tensor, like: Tensor, transpose: bool) -> Tensor:
        """Return rows as values in the shape [B, N, C] of `like`."""
        return rows.view(like.shape[0], like.shape[1], -1)


def _repeated(index: Tensor, count: int, step: int) -> Tensor:
    """Return an index [n, ...] once for each of `count` blocks of `step` rows, [count n, ...]."""
    first = torch.arange(count, dtype=index.dtype, device=index.device) * step
    return (first.view(-1, *[1] * index.dim()) + index).flatten(0, 1)


def of_grid(grid: Grid, dtype: torch.dtype, device: torch.device) -> Grids:
    """Return a grid kernel on a device; those of the last few sizes are kept."""
    make = _on_device.__wrapped__ if is_traced() else _on_device
    return Grids(*make(grid.hashable(), dtype, device))


@shared(maxsize=8)
def _on_device(
    grid: Grid, dtype: torch.dtype, device: torch.device
) -> tuple[list[Axis], list[Tensor]]:
    """Return the fields of `Grids`, computed with NumPy, once for each size."""
    with torch.inference_mode(False):  # a later call may train
        kernel = grid.kernel(np.float64 if dtype == torch.float64 else np.float32)
        axes = [Axis.of(kernel, axis, dtype, device) for axis in range(len(kernel.axes))]
        scales = [
            torch.empty(0, dtype=dtype, device=device) if s is None
            else _copied(s, dtype, device).view(1, -1, 1)
            for s in (kernel.before, kernel.after, kernel.diagonal)
        ]  # fmt: skip
        return axes, scales


def _copied(array: Array, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy an array to a device; to a GPU without waiting for what it has to do before."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
    return tensor.to(device, non_blocking=device.type == "cuda")


def diagonal(grid: Grid, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the diagonal that a grid kernel without self term subtracts, [1, N, 1]."""
    return of_grid(grid, dtype, device).scales[2].clone()  # a graph may reuse its memory


def filtered(values: Tensor, grid: Grid, transpose: bool) -> Tensor:
    """Return N K values, or (N K)' values, [B, N, C]."""
    if values.numel() == 0:
        return torch.empty_like(values, memory_format=torch.contiguous_format)
    k = of_grid(grid, values.dtype, values.device)
    before, after, diagonal = k.scales
    if transpose:
        before, after = after, before
    given = values * before if before.dim() > 1 else values
    found = k.slice(k.blurred(k.splat(given, transpose), transpose), values, transpose)
    found = found - diagonal * given if diagonal.dim() > 1 else found
    return found * after if after.dim() > 1 else found
