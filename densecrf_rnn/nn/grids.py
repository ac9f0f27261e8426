"""The spatial kernel on a regular grid (densecrf_rnn/grid.py) as an operator.

It follows from a few numbers, so those are what operators are handed, and each makes the kernel
anew: that costs next to nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _backends, grid
from .ops import rows


class Grid(NamedTuple):
    """The operator N K of the spatial kernel for images of one size."""

    size: Sequence[int] | None  # (H, W) or (D, H, W); None: there is no such kernel
    deviation: Sequence[float] | None  # in pixels, along each axis
    normalization: str  # this and self_term: as in CRFParams
    self_term: bool

    def kernel(self, dtype: Any) -> _backends.GridKernel:
        """The kernel as an engine takes it, with scales of a NumPy dtype."""
        assert self.size is not None and self.deviation is not None
        axes = [grid.axis(n, sigma) for n, sigma in zip(self.size, self.deviation, strict=True)]
        normalization: Any = self.normalization
        return grid.normalized(axes, normalization, self.self_term, dtype)


NO_GRID = Grid(None, None, "none", True)


@torch.library.custom_op("densecrf_rnn::grid_filter", mutates_args=(), device_types="cpu")
def grid_filter(
    values: Tensor,
    size: Sequence[int],
    deviation: Sequence[float],
    normalization: str,
    self_term: bool,
    transpose: bool,
) -> Tensor:
    """N K values, or (N K)' values, for values [B, N, C] and the fields of a `Grid`."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    dtype = out.numpy().dtype
    kernel = Grid(size, deviation, normalization, self_term).kernel(dtype)
    if transpose:
        kernel = kernel.transposed()
    before, after = kernel.before, kernel.after
    for b in range(len(values)):
        given = rows(values[b]) if before is None else rows(values[b]) * before[:, None]
        found = grid.filtered(kernel, given)
        if kernel.diagonal is not None:
            found = found - kernel.diagonal[:, None] * given
        out[b] = torch.from_numpy(found if after is None else found * after[:, None])
    return out


@grid_filter.register_fake
def _(values: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _filter_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *ctx.grid, ctx.transpose = inputs


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grid_filter(grad, *ctx.grid, not ctx.transpose), None, None, None, None, None


grid_filter.register_autograd(_filter_backward, setup_context=_filter_setup_context)
