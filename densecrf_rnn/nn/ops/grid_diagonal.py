"""The diagonal of the grid kernel as an operator."""

import math
from collections.abc import Sequence

from torch import Tensor

from .. import torch_engine
from .dispatch import operator
from .kernels import Grid


@operator("densecrf_rnn::grid_diagonal")
def grid_diagonal(like: Tensor, size: Sequence[int], deviation: Sequence[float]) -> Tensor:
    """Return the diagonal of the grid kernel K, [1, N, 1], with dtype and device of `like`.

    It is computed once for each size, and kept on the device.
    """
    return torch_engine.grid_diagonal(Grid(size, deviation, "none", False), like.dtype, like.device)


@grid_diagonal.register_fake
def _(like: Tensor, size: Sequence[int], deviation: Sequence[float]) -> Tensor:
    return like.new_empty(1, math.prod(size), 1)
