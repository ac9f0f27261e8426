"""The spatial kernel on a regular grid (densecrf_rnn/grid.py) as an operator.

It follows from a few numbers, so those are what operators are handed; tensors.py makes the kernel
of them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..inference import grid
from .dispatch import operator
from .tensors import Grid, rows


@operator("densecrf_rnn::grid_filter")
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
    dtype = rows(out.new_empty(0)).dtype
    kernel = Grid(size, deviation, normalization, self_term).kernel(dtype)
    if transpose:
        kernel = kernel.transposed()
    before, after = kernel.before, kernel.after
    for b in range(len(values)):  # on a CPU, wherever the values are
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


@operator("densecrf_rnn::grid_diagonal")
def grid_diagonal(like: Tensor, size: Sequence[int], deviation: Sequence[float]) -> Tensor:
    """The diagonal of K, [1, N, 1], in the dtype and on the device of `like`."""
    kernel = Grid(size, deviation, "none", False).kernel(rows(like.new_empty(0)).dtype)
    return torch.from_numpy(kernel.diagonal)[None, :, None].to(like.device)


@grid_diagonal.register_fake
def _(like: Tensor, size: Sequence[int], deviation: Sequence[float]) -> Tensor:
    return like.new_empty(1, math.prod(size), 1)
