"""All iterations of a mean field as one operator, and its backward pass as another."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ... import checks, engines
from .. import stepwise, torch_engine
from . import device, dispatch
from .dispatch import empty_like, in_torch, native_for, no_second_derivative, operator
from .kernels import Grid, Kernels, Parts, is_given, over_images, rows


@operator("densecrf_rnn::mean_field")
def mean_field(
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    size: Sequence[int] | None,
    deviation: Sequence[float] | None,
    normalization: str,
    self_term: bool,
    iterations: int,
    keep: bool,
    memory_budget: int,
    storage: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return the refined logits [B, L, N] and, if `keep`, values saved for the backward pass.

    Parameters
    ----------
    logits : Tensor [B, L, N]
    coupling : Tensor [M, L, L]
        mu W of each kernel.
    kernels : list of tensors
        The result of `Kernels.flatten`.
    size, deviation, normalization, self_term
        The fields of `Kernels.grid`.
    memory_budget : int
        Bytes that may be kept for the backward pass, for all images together.
    storage : str
        Precision of values at lattice vertices and grid cells; see `functional.mean_field`.
    """
    if coupling.dtype != logits.dtype:
        raise TypeError(f"logits is {logits.dtype} but coupling {coupling.dtype}")
    k = Kernels.unflatten(kernels, Grid(size, deviation, normalization, self_term))
    native = native_for(backend, logits)
    shape = _saved_shape(logits, iterations, keep, memory_budget, native, backend)
    if in_torch(backend, logits):
        device.refuse_values(logits, coupling)
        saved = logits.new_empty(shape)
        return torch_engine.mean_field(logits, coupling, k, iterations, saved.unbind()), saved
    if native is not None:
        saved = logits.new_empty(shape)
        return device.mean_field(native, logits, coupling, k, iterations, storage, saved), saved
    engine = _fused_engine(backend)
    batch = len(logits)
    u, c = rows(logits), rows(coupling)
    refined = empty_like(logits)
    # Zeros, so that the parts which an engine does not write are the same in every call.
    kept = engines.reserve(shape, u.dtype)
    arrays = (k.for_images(batch, c.dtype), u, refined.numpy(), kept)
    problems = [engines.Problem(*image) for image in zip(*arrays, strict=True)]
    options = (iterations, False, memory_budget // max(batch, 1), torch.get_num_threads())
    if not engine.mean_field(problems, c, *options):
        refuse_logits(logits)
    return refined, torch.from_numpy(kept)


def refuse_logits(logits: Tensor) -> NoReturn:
    """Raise ValueError for logits [B, L, N] whose values an engine rejected."""
    checks.logits_values(logits, batched=True)
    raise ValueError(
        "the engine rejected the values of logits, but the checks find no fault in them; "
        "please report this"
    )


@mean_field.register_fake
def _(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *_, iterations, keep, memory_budget, _, backend = args
    native = native_for(backend, logits)
    shape = _saved_shape(logits, iterations, keep, memory_budget, native, backend)
    return logits.new_empty(logits.shape), logits.new_empty(shape)


def _saved_shape(
    logits: Tensor, iterations: int, keep: bool, memory_budget: int, native: Any, backend: str
) -> tuple[int, ...]:
    """Return the shape of the saved marginals of all iterations; empty without `keep`.

    On a CPU the shape does not depend on the budget, because the engine keeps to it by writing only
    part of the array, and pages that are never written take no memory.
    """
    if in_torch(backend, logits):
        batch, labels, points = logits.shape
        size = iterations * logits.numel() * logits.element_size()
        return (iterations if keep and size <= memory_budget else 0, batch, points, labels)
    if native is not None:
        return device.saved_shape(logits, iterations, keep, memory_budget)
    batch, labels, points = logits.shape
    return (batch, iterations, points, engines.row_width(labels)) if keep else (batch, 0, 0, 0)


def _fused_engine(backend: str) -> engines.FusedEngine:
    """Return the engine of a backend; raise if it has no fused mean field."""
    found = engines.fused(dispatch.engine(backend))
    if found is None:
        raise engines.BackendUnavailableError(f"backend {backend!r} has no fused mean field")
    return found


# --- gradient ------------------------------------------------------------------------------------


@operator("densecrf_rnn::mean_field_backward")
def mean_field_backward(
    d_refined: Tensor,
    logits: Tensor,
    saved: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    size: Sequence[int] | None,
    deviation: Sequence[float] | None,
    normalization: str,
    self_term: bool,
    wanted: Sequence[bool],
    iterations: int,
    memory_budget: int,
    storage: str,
    backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the gradients with respect to logits, coupling and the lattice kernels' tensors.

    The first two have the shapes [B, L, N] and [M, L, L]. The third result lists the gradients with
    respect to the four `Parts` of each lattice kernel. A tensor of shape [0] stands for a part that
    the kernel does not have, and for all parts of a kernel whose entry in `wanted` is False.
    """
    k = Kernels.unflatten(kernels, Grid(size, deviation, normalization, self_term))
    batch = len(logits)
    if in_torch(backend, logits):
        given = (logits, saved.unbind(), coupling, k, iterations, wanted)
        return torch_engine.mean_field_backward(d_refined, *given)
    parts = _wanted_parts(k, wanted)
    d_parts = [p.new_empty(batch, *p.shape[1:]) if is_given(p) else p.clone() for p in parts]
    groups = Parts.groups(d_parts)
    native = native_for(backend, logits)
    if native is not None:
        problem = (logits, saved, coupling, k, iterations, storage)
        found = device.mean_field_backward(native, d_refined, *problem, groups)
    else:
        engine = _fused_engine(backend)
        d_logits = empty_like(logits)
        d_couplings = coupling.new_empty(batch, *coupling.shape)
        c = rows(coupling)
        arrays = (
            k.for_images(batch, c.dtype),
            *map(rows, (logits, saved, d_refined)),
            d_logits.numpy(),
            d_couplings.numpy(),
            [_places(groups, b, k.grid) for b in range(batch)],
        )
        problems = [engines.BackwardProblem(*image) for image in zip(*arrays, strict=True)]
        options = (iterations, memory_budget // max(batch, 1), torch.get_num_threads())
        engine.mean_field_backward(problems, c, *options)
        found = d_logits, d_couplings.sum(0)
    d_flat = [
        over_images(d, len(p)) if is_given(p) else d for d, p in zip(d_parts, parts, strict=True)
    ]
    return *found, d_flat


@mean_field_backward.register_fake
def _(
    d_refined: Tensor, logits: Tensor, saved: Tensor, coupling: Tensor, *args: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    kernels, *grid, wanted, _, _, _, _ = args
    k = Kernels.unflatten(kernels, Grid(*grid))
    parts = [p.new_empty(p.shape) for p in _wanted_parts(k, wanted)]
    return logits.new_empty(logits.shape), coupling.new_empty(coupling.shape), parts


mean_field_backward.register_autograd(no_second_derivative)


def _wanted_parts(kernels: Kernels, wanted: Sequence[bool]) -> list[Tensor]:
    """Return the `Parts` of all lattice kernels; tensors [0] if a kernel is not `wanted`."""
    asked = zip(kernels.lattices, wanted, strict=True)
    return [part if one else part.new_empty(0) for k, one in asked for part in k.parts]


def _places(
    found: Sequence[Parts], image: int, grid: Grid
) -> list[engines.KernelGradient | None]:
    """Return arrays for the gradients with respect to one image's kernels, for an engine to fill.

    None stands for a kernel whose gradient is not required.
    """
    places: list[engines.KernelGradient | None] = []
    for weight, *scales in found:
        if is_given(weight):
            own = [s[image, :, 0].numpy() if is_given(s) else None for s in scales]
            places.append(engines.KernelGradient(weight[image].numpy(), *own))
        else:
            places.append(None)
    return places if grid.size is None else [*places, None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, coupling, kernels, *grid, ctx.iterations, ctx.keep = inputs[:-3]
    ctx.options = inputs[-3:]  # memory_budget, storage, backend
    ctx.grid = Grid(*grid)
    ctx.save_for_backward(output[1], logits, coupling, *kernels)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else autograd fills the gradient of `saved` with zeros


def _backward(ctx: Any, d_refined: Tensor | None, _: None) -> tuple[Any, ...]:
    found: tuple[Any, Any, list[Any]]
    if d_refined is None:
        found = (None, None, [None] * len(ctx.needs_input_grad[2]))
    elif torch.is_grad_enabled():
        found = _differentiable_gradient(ctx, d_refined)
    else:
        found = _gradient(ctx, d_refined)
    return (*found, *[None] * (len(ctx.grid) + 5))


def _gradient(ctx: Any, d_refined: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Compute the gradients in one call of `mean_field_backward`; not differentiable again.

    They are those with respect to logits, coupling (mu W) and the kernels' tensors.
    """
    assert ctx.keep, "the forward pass ran with keep=False, so it saved nothing for a gradient"
    saved, logits, coupling, *kernels = ctx.saved_tensors
    needs = Kernels.unflatten(ctx.needs_input_grad[2], ctx.grid)
    wanted = [any((*k.lattice, *k.parts)) for k in needs.lattices]
    options = (wanted, ctx.iterations, *ctx.options)
    d_logits, d_coupling, flat = mean_field_backward(
        d_refined, logits, saved, coupling, kernels, *ctx.grid, *options
    )
    parts = Parts.groups([part if is_given(part) else None for part in flat])
    return d_logits, d_coupling, needs.flatten_parts(parts)


def _differentiable_gradient(ctx: Any, d_refined: Tensor) -> tuple[Any, Any, list[Any]]:
    """Compute the gradients of `_gradient` so that they can be differentiated again.

    The mean field is run again by `stepwise`, whose filters are operators with gradients.
    """
    # Aliases of the inputs, so that each gradient stops at an input of this operator: one input may
    # have been computed from another (a normaliser from weights, an image from logits).
    _, *inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
    logits, coupling, *kernels = inputs
    if ctx.iterations == 0:
        return d_refined, None, [None] * len(kernels)
    messages = stepwise.messages(Kernels.unflatten(kernels, ctx.grid), ctx.options[-1])
    refined = stepwise.mean_field(logits, [coupling] * ctx.iterations, messages)[-1]
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(refined, leaves, d_refined, create_graph=True))
    d_logits, d_coupling, *d_kernels = (next(found) if t.requires_grad else None for t in inputs)
    return d_logits, d_coupling, d_kernels


mean_field.register_autograd(_backward, setup_context=_setup_context)
