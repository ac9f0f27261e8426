"""Lattice and mean field as torch operators, each with its fake kernel and gradient.

A built lattice travels as plain tensors, so nothing is cached and any thread may call. Tensors
reach the engines as NumPy views; no other module here touches memory.
"""

from collections.abc import Callable, Sequence
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


class Kernel(NamedTuple):
    """One kernel of a mean field: message = after (K - diag(diagonal)) (before q).

    The last three are [B, N, 1], or [0] for 1, 1 and 0.
    """

    lattice: Lattice
    before: Tensor
    after: Tensor
    diagonal: Tensor

    def normalized(self, image: int) -> _backends.NormalizedKernel:
        """The kernel of one image, as an engine takes it."""

        def rows(tensor: Tensor) -> Any:
            if tensor.numel() == 0:
                return None
            return _rows(tensor[image if len(tensor) > 1 else 0, :, 0])

        scales = (rows(self.before), rows(self.after), rows(self.diagonal))
        return _backends.NormalizedKernel(self.lattice.plan(image), *scales)


_FIELDS = 9  # tensors of a kernel: six of its lattice, three of its own


def flatten(kernels: Sequence[Kernel]) -> list[Tensor]:
    """Kernels as one list of tensors, which is what an operator can take."""
    return [tensor for k in kernels for tensor in (*k.lattice, k.before, k.after, k.diagonal)]


def _unflatten(tensors: Sequence[Tensor]) -> list[Kernel]:
    groups = [tensors[i : i + _FIELDS] for i in range(0, len(tensors), _FIELDS)]
    return [Kernel(Lattice(*group[:6]), *group[6:]) for group in groups]


def filtered(kernel: Kernel, values: Tensor, backend: str) -> Tensor:
    """N K values, for values [B, N, C]."""
    if kernel.before.numel():
        values = values * kernel.before
    out = lattice_filter(values, *kernel.lattice, False, backend)
    if kernel.diagonal.numel():
        out = out - kernel.diagonal * values
    return out * kernel.after if kernel.after.numel() else out


def mean_field_unfused(
    u: Tensor, coupling: Tensor, kernels: Sequence[Kernel], iterations: int, backend: str
) -> Tensor:
    """Refined logits with one operator per filter: differentiable any number of times, slower."""
    if not torch.compiler.is_compiling():
        _checks.logits_values(u.detach(), batched=True)
    u = u.mT.contiguous()  # [B, N, L]
    refined = u
    for _ in range(iterations):
        q = refined.softmax(-1)
        messages = [filtered(k, q, backend) for k in kernels]  # M times [B, N, L]
        pairwise = sum(m @ c.mT for m, c in zip(messages, coupling, strict=True))
        refined = u - pairwise
    return refined.mT.clone() if refined is u else refined.mT  # an input is not handed back


@torch.library.custom_op("densecrf_rnn::mean_field", mutates_args=(), device_types="cpu")
def mean_field(
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    iterations: int,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Refined logits [B, L, N], and if `keep` the marginals that a backward pass will need.

    Parameters
    ----------
    logits : Tensor [B, L, N]
    coupling : Tensor [M, L, L]
        mu W of each kernel.
    kernels : M flattened `Kernel`s
    """
    engine, normalized = _fused(logits, coupling, kernels, backend)
    _checks.logits_values(logits, batched=True)
    refined, saved_q = _mean_field_tensors(logits, iterations, keep)
    for b in range(len(logits)):
        engine.mean_field(
            [k.normalized(b) for k in normalized],
            _rows(coupling),
            _rows(logits[b]),
            refined[b].numpy(),
            saved_q[b].numpy() if keep else np.empty((0, 0, 0), refined.numpy().dtype),
            iterations,
            torch.get_num_threads(),
        )
    return refined, saved_q


@mean_field.register_fake
def _(
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    iterations: int,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _mean_field_tensors(logits, iterations, keep)


def _mean_field_tensors(logits: Tensor, iterations: int, keep: bool) -> tuple[Tensor, Tensor]:
    batch, labels, points = logits.shape
    saved = (batch, iterations, points, _backends.row_width(labels)) if keep else (0,)
    return logits.new_empty(logits.shape), logits.new_empty(saved)


def _fused(
    logits: Tensor, coupling: Tensor, kernels: Sequence[Tensor], backend: str
) -> tuple[_backends.FusedEngine, list[Kernel]]:
    engine = _backends.fused_engine(backend)
    if engine is None:
        raise _backends.BackendUnavailableError(f"backend {backend!r} has no fused mean field")
    if coupling.dtype != logits.dtype:
        raise TypeError(f"logits is {logits.dtype} but coupling {coupling.dtype}")
    return engine, _unflatten(kernels)


@torch.library.custom_op("densecrf_rnn::mean_field_backward", mutates_args=(), device_types="cpu")
def mean_field_backward(
    d_refined: Tensor,
    saved_q: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The gradients for logits [B, L, N] and coupling [M, L, L]."""
    engine, normalized = _fused(d_refined, coupling, kernels, backend)
    d_logits = torch.empty_like(d_refined, memory_format=torch.contiguous_format)
    d_coupling = torch.zeros_like(coupling, memory_format=torch.contiguous_format)
    one = torch.empty_like(d_coupling)
    for b in range(len(d_refined)):
        engine.mean_field_backward(
            [k.normalized(b) for k in normalized],
            _rows(coupling),
            _rows(saved_q[b]),
            _rows(d_refined[b]),
            d_logits[b].numpy(),
            one.numpy(),
            torch.get_num_threads(),
        )
        d_coupling += one
    return d_logits, d_coupling


@mean_field_backward.register_fake
def _(
    d_refined: Tensor,
    saved_q: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    backend: str,
) -> tuple[Tensor, Tensor]:
    return d_refined.new_empty(d_refined.shape), coupling.new_empty(coupling.shape)


def _mean_field_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, coupling, kernels, iterations, keep, backend = inputs
    ctx.save_for_backward(output[1], logits, coupling, *kernels)
    ctx.iterations, ctx.keep, ctx.backend = iterations, keep, backend


def _mean_field_gradient(ctx: Any, d_refined: Tensor, _: Tensor) -> tuple[Any, ...]:
    assert ctx.keep, "a gradient is asked for that was not prepared"
    saved_q, logits, coupling, *kernels = ctx.saved_tensors
    gradients: tuple[Tensor | None, ...]
    if torch.is_grad_enabled():  # a second derivative is wanted: take one that has it
        groups = _unflatten(kernels)
        refined = mean_field_unfused(logits, coupling, groups, ctx.iterations, ctx.backend)
        wanted = [tensor for tensor in (logits, coupling) if tensor.requires_grad]
        found = iter(torch.autograd.grad(refined, wanted, d_refined, create_graph=True))
        gradients = tuple(next(found) if t.requires_grad else None for t in (logits, coupling))
    else:
        gradients = mean_field_backward(d_refined, saved_q, coupling, kernels, ctx.backend)
    return (*gradients, [None] * len(kernels), None, None, None)


mean_field.register_autograd(_mean_field_gradient, setup_context=_mean_field_setup_context)
