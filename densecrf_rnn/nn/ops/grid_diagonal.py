"""The diagonal of the grid kernel as an operator."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import operator
from .kernels import Grid, rows


@operator("densecrf_rnn::grid_diagonal")
def grid_diagonal(like: Tensor, size: Sequence[int], deviation: Sequence[float]) -> Tensor:
    """Return the diagonal of the grid kernel K, [1, N, 1], with dtype and device of `like`."""
    kernel = Grid(size, deviation, "none", False).kernel(rows(like.new_empty(0)).dtype)
    return torch.from_numpy(kernel.diagonal)[None, :, None].to(like.device)


@grid_diagonal.register_fake
def _(like: Tensor, size: Sequence[int], deviation: Sequence[float]) -> Tensor:
    return like.new_empty(1, math.prod(size), 1)
