"""Filtering on a regular grid as an operator (inference/grid.py).

The kernel is determined by the few fields of a `Grid`, so these are the operator's arguments.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import torch_engine
from .dispatch import empty_like, operator
from .kernels import Grid


@operator("densecrf_rnn::grid_filter")
def grid_filter(
    values: Tensor,
    size: Sequence[int],
    deviation: Sequence[float],
    normalization: str,
    self_term: bool,
    transpose: bool,
) -> Tensor:
    """Return N K values, or (N K)' values, for values [B, N, C] and the fields of a `Grid`."""
    return torch_engine.grid_filter(
        values, Grid(size, deviation, normalization, self_term), transpose
    ).contiguous()


grid_filter.register_fake(empty_like)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *ctx.grid, ctx.transpose = inputs


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grid_filter(grad, *ctx.grid, not ctx.transpose), None, None, None, None, None


grid_filter.register_autograd(_backward, setup_context=_setup_context)
