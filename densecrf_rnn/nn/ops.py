"""The lattice as torch operators: build, filter, diagonal, each with its fake kernel and gradient.

A built lattice travels as plain tensors, so nothing is cached and any thread may call. Tensors
reach the engines as NumPy views; no other module here touches memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _backends, _checks


SixTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Lattice(NamedTuple):
    """Lattices of B point sets (array layouts: cpp/cpu/lattice.hpp).

    `neighbour`, `offset` and `entry` are as long as the worst case and written only as far as
    needed, so the shapes do not depend on the data and untouched memory is never resident.
    """

    vertex: Tensor  # [B, N, D+1] int32
    weight: Tensor  # [B, N, D+1]
    neighbour: Tensor  # [B, 2 N (D+1)^2] int32
    offset: Tensor  # [B, N (D+1) + 1] int32
    entry: Tensor  # [B, N (D+1)] int32
    num_vertices: Tensor  # [B] int64

    def plan(self, image: int) -> _backends.Plan:
        """The lattice of one image, as an engine takes it. A lattice of one serves all images."""
        b = image if len(self.vertex) > 1 else 0
        vertex, weight, neighbour, offset, entry = (_rows(tensor[b]) for tensor in self[:5])
        vertices = int(self.num_vertices[b])
        return _backends.Plan(vertex, weight, neighbour, offset, entry, vertices)


def _rows(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


@torch.library.custom_op("densecrf_rnn::lattice_build", mutates_args=(), device_types="cpu")
def lattice_build(features: Tensor, backend: str) -> SixTensors:
    """The lattice of each point set in features [B, N, D]; the fields of `Lattice`."""
    _checks.float_dtype("features", features, batched=True)
    engine = _backends.engine(backend)
    lattice = Lattice(*_lattice_tensors(features, _untouched_zeros))
    for b, rows in enumerate(_rows(features)):
        _checks.feature_values(rows)
        vertices = engine.build(rows, lattice.plan(b), torch.get_num_threads())
        lattice.num_vertices[b] = vertices
    return lattice


def _untouched_zeros(*shape: int) -> Tensor:
    """Zeros that, unlike torch's, are not resident until used.

    Zeros, because what an engine leaves unwritten must be the same each time.
    """
    return torch.from_numpy(np.zeros(shape, np.int32))


@lattice_build.register_fake
def _(features: Tensor, backend: str) -> SixTensors:
    def like_ints(*shape: int) -> Tensor:
        return features.new_empty(shape, dtype=torch.int32)

    return _lattice_tensors(features, like_ints)


def _lattice_tensors(features: Tensor, ints: Callable[..., Tensor]) -> SixTensors:
    """The tensors of `Lattice`, those of int32 made by `ints`."""
    batch, points, dims = features.shape
    neighbour, offset, entry = _backends.Plan.sizes(points, dims)
    return (
        ints(batch, points, dims + 1),
        features.new_empty(batch, points, dims + 1),
        ints(batch, neighbour),
        ints(batch, offset),
        ints(batch, entry),
        features.new_zeros(batch, dtype=torch.int64),
    )


@torch.library.custom_op("densecrf_rnn::lattice_filter", mutates_args=(), device_types="cpu")
def lattice_filter(
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbour: Tensor,
    offset: Tensor,
    entry: Tensor,
    num_vertices: Tensor,
    transpose: bool,
    backend: str,
) -> Tensor:
    """K values, or K' values, for values [B, N, C] and the lattices of B images, or of one."""
    if values.dtype != weight.dtype:
        raise TypeError(f"values has dtype {values.dtype} but the lattice {weight.dtype}")
    lattices, points = vertex.shape[:2]
    if values.dim() != 3 or values.shape[1] != points or lattices not in (1, len(values)):
        raise ValueError(
            f"values has shape {tuple(values.shape)} but the lattices are those of {lattices} "
            f"images of {points} points; give [B, {points}, C]"
        )
    engine = _backends.engine(backend)
    lattice = Lattice(vertex, weight, neighbour, offset, entry, num_vertices)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    for b in range(len(values)):
        args = (_rows(values[b]), out[b].numpy(), transpose, torch.get_num_threads())
        engine.filter(lattice.plan(b), *args)
    return out


@lattice_filter.register_fake
def _(values: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _filter_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:7])
    ctx.transpose, ctx.backend = inputs[7:]


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Linear in `values`, so the vector-Jacobian product is the transposed filter.
    g = lattice_filter(grad, *ctx.saved_tensors, not ctx.transpose, ctx.backend)
    return (g,) + (None,) * 8


lattice_filter.register_autograd(_filter_backward, setup_context=_filter_setup_context)


@torch.library.custom_op("densecrf_rnn::lattice_self_response", mutates_args=(), device_types="cpu")
def lattice_self_response(
    vertex: Tensor,
    weight: Tensor,
    neighbour: Tensor,
    offset: Tensor,
    entry: Tensor,
    num_vertices: Tensor,
    backend: str,
) -> Tensor:
    """The diagonal of each K, [B, N]."""
    engine = _backends.engine(backend)
    lattice = Lattice(vertex, weight, neighbour, offset, entry, num_vertices)
    out = weight.new_empty(weight.shape[:2])
    for b in range(len(out)):
        engine.self_response(lattice.plan(b), out[b].numpy(), torch.get_num_threads())
    return out


@lattice_self_response.register_fake
def _(vertex: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return weight.new_empty(weight.shape[:2])
