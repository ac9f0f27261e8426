"""Mean fields as torch operators: all iterations in one call of an engine, or filter by filter."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import engines, checks
from . import device, grids, ops
from .dispatch import operator
from .tensors import Grid, Kernel, Lattice, is_given, rows, scaled_grid


_FIELDS = 6  # tensors of a kernel: three of its lattice, three of its own
_PARTS = (1, 3, 4, 5)  # those of them that a gradient may be wanted for: weight and scales


def flatten(kernels: Sequence[Kernel]) -> list[Tensor]:
    """Kernels as one list of tensors, which is what an operator can take."""
    return [tensor for k in kernels for tensor in (*k.lattice, k.before, k.after, k.diagonal)]


def _groups(tensors: Sequence[Any], length: int) -> list[Sequence[Any]]:
    return [tensors[i : i + length] for i in range(0, len(tensors), length)]


def unflatten(tensors: Sequence[Tensor]) -> list[Kernel]:
    """The kernels that `flatten` was given. Three more tensors may follow: see `_grid_scales`."""
    whole = tensors[: len(tensors) // _FIELDS * _FIELDS]
    return [Kernel(Lattice(*group[:3]), *group[3:]) for group in _groups(whole, _FIELDS)]


def _grid_scales(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """`before`, `after` and `diagonal`, as of a Kernel, of a grid that has no others; or []."""
    return tensors[len(tensors) // _FIELDS * _FIELDS :]


# --- filter by filter ----------------------------------------------------------------------------


# N K of one kernel: from q [B, N, L] to its message, of the same shape.
Message = Callable[[Tensor], Tensor]


def scaled(operator: Message, before: Tensor, after: Tensor, values: Tensor) -> Tensor:
    """after * operator(before * values), for scales as `Kernel` has them."""
    out = operator(values * before if is_given(before) else values)
    return out * after if is_given(after) else out


def filtered(kernel: Kernel, values: Tensor, backend: str) -> Tensor:
    """N K values, for values [B, N, C]."""

    def operator(given: Tensor) -> Tensor:
        out = ops.lattice_filter(given, *kernel.lattice, False, backend)
        return out - kernel.diagonal * given if is_given(kernel.diagonal) else out

    return scaled(operator, kernel.before, kernel.after, values)


def grid_filtered(grid: Grid, scales: Sequence[Tensor], values: Tensor) -> Tensor:
    """N K values on a grid, with the scales of `_grid_scales`."""
    if not scales:
        return grids.grid_filter(values, *grid, False)
    before, after, diagonal = scales

    def operator(given: Tensor) -> Tensor:
        out = grids.grid_filter(given, *grid, False)
        return out - diagonal * given if is_given(diagonal) else out

    return scaled(operator, before, after, values)


def messages_of(inputs: Sequence[Tensor], grid: Grid, backend: str) -> list[Message]:
    """The operators of the flattened kernels, and of the grid if there is one."""
    kernels = unflatten(inputs)
    found: list[Message] = [partial(filtered, kernel, backend=backend) for kernel in kernels]
    if grid.size is not None:
        found.append(partial(grid_filtered, grid, _grid_scales(inputs)))
    return found


def mean_field_unfused(
    u: Tensor, couplings: Sequence[Tensor], messages: Sequence[Message], update: str = "softmax"
) -> list[Tensor]:
    """Refined logits of every iteration, with one operator per filter.

    Slower, and differentiable more than once. Each iteration has a coupling [M, L, L] of its own;
    `update` makes marginals of logits.
    """
    u = u.mT.contiguous()  # [B, N, L]
    steps = []
    refined = u
    for coupling in couplings:
        q = refined.softmax(-1) if update == "softmax" else rectified(refined)
        pairwise = sum(m(q) @ c.mT for m, c in zip(messages, coupling, strict=True))
        refined = u - pairwise
        steps.append(refined.mT)
    return steps


def free_energy_unfused(
    refined: Tensor,
    u: Tensor,
    coupling: Tensor,
    messages: Sequence[Message],
    update: str = "softmax",
) -> Tensor:
    """Each pixel's share of the free energy. refined, u [B, L, N], coupling [M, L, L] -> [B, N]"""
    refined, u = refined.mT.contiguous(), u.mT  # [B, N, L]
    if update == "softmax":
        q, log_q = refined.softmax(-1), refined.log_softmax(-1)
    else:
        q = rectified(refined)
        log_q = q.where(q > 0, 1.0).log()
    pairwise = sum(m(q) @ c.mT for m, c in zip(messages, coupling, strict=True))
    # A label that Q rules out costs nothing, though -inf stands in both terms.
    relative = (log_q - u).where(q > 0, 0.0)
    return (q * (relative + pairwise / 2)).sum(-1)


def rectified(logits: Tensor) -> Tensor:
    """What is above 0, divided by its sum over the last axis; equal shares where nothing is."""
    q = logits.relu()
    total = q.sum(-1, keepdim=True)
    some = total > 0
    return torch.where(some, q / total.where(some, 1.0), 1 / logits.shape[-1])


# --- in one call ---------------------------------------------------------------------------------


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
    """Refined logits [B, L, N], and if `keep` what a backward pass will need.

    Parameters
    ----------
    logits : Tensor [B, L, N]
    coupling : Tensor [M, L, L]
        mu W of each kernel.
    kernels : flattened `Kernel`s, then the scales of the grid, if it is bare
    size, deviation, normalization, self_term
        The fields of a `Grid`, which is the last kernel; of NO_GRID where there is none.
    memory_budget : int
        Bytes that may be kept for all images together.
    storage : str
        What values at vertices and cells are kept in; see `functional.mean_field`.
    """
    grid = Grid(size, deviation, normalization, self_term)
    _check_dtypes(logits, coupling)
    native = ops.device_module(backend, logits)
    if native is not None:
        saved = logits.new_empty(_saved_shape(logits, iterations, keep, memory_budget, native))
        problem = (logits, coupling, unflatten(kernels), grid, _grid_scales(kernels), iterations)
        return device.mean_field(native, *problem, storage, saved), saved
    engine, of_image = _engine(coupling, kernels, grid, backend)
    batch = len(logits)
    refined = logits.new_empty(logits.shape)
    dtype = refined.numpy().dtype
    # Zeros, because what an engine leaves unwritten must be the same each time.
    shape = _saved_shape(logits, iterations, keep, memory_budget, None)
    saved = torch.from_numpy(engines.reserve(shape, dtype))
    problems = [
        engines.Problem(of_image(b), rows(logits[b]), refined[b].numpy(), saved[b].numpy())
        for b in range(batch)
    ]
    options = (iterations, False, _share(memory_budget, batch), torch.get_num_threads())
    if not engine.mean_field(problems, rows(coupling), *options):
        checks.logits_values(logits, batched=True)
        raise ValueError("logits lie beyond what the engine can compute with")
    return refined, saved


@mean_field.register_fake
def _(
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
    native = ops.device_module(backend, logits)
    shape = _saved_shape(logits, iterations, keep, memory_budget, native)
    return logits.new_empty(logits.shape), logits.new_empty(shape)


def _saved_shape(
    logits: Tensor, iterations: int, keep: bool, memory_budget: int, native: Any
) -> tuple[int, ...]:
    """Room for the marginals of all iterations.

    On a CPU whatever the budget, for what an engine leaves out is never resident.
    """
    if native is not None:
        return device.saved_shape(logits, iterations, keep, memory_budget)
    batch, labels, points = logits.shape
    return (batch, iterations, points, engines.row_width(labels)) if keep else (batch, 0, 0, 0)


def _share(memory_budget: int, batch: int) -> int:
    """What of the budget falls to one image."""
    return memory_budget // max(batch, 1)


def _check_dtypes(logits: Tensor, coupling: Tensor) -> None:
    if coupling.dtype != logits.dtype:
        raise TypeError(f"logits is {logits.dtype} but coupling {coupling.dtype}")


def _engine(
    coupling: Tensor,
    kernels: Sequence[Tensor],
    grid: Grid,
    backend: str,
) -> tuple[engines.FusedEngine, Callable[[int], list[engines.MeanFieldKernel]]]:
    """The engine, and what gives it the kernels of an image."""
    engine = engines.fused_engine(backend)
    if engine is None:
        raise engines.BackendUnavailableError(f"backend {backend!r} has no fused mean field")
    lattices, scales = unflatten(kernels), _grid_scales(kernels)
    bare = None if grid.size is None else grid.kernel(rows(coupling).dtype)

    def of_image(image: int) -> list[engines.MeanFieldKernel]:
        found: list[engines.MeanFieldKernel] = [kernel.of_image(image) for kernel in lattices]
        if bare is not None:
            found.append(scaled_grid(bare, scales, image))
        return found

    return engine, of_image


# --- its gradient --------------------------------------------------------------------------------


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
    """The gradients for logits [B, L, N], for coupling [M, L, L] and for the lattice kernels.

    The last are four tensors for each of `kernels`, in the shapes of its weights, `before`,
    `after` and `diagonal`; [0] for what it does not have, and if it is not `wanted`.
    """
    grid = Grid(size, deviation, normalization, self_term)
    batch = len(logits)
    parts = _wanted_parts(kernels, wanted)
    d_parts = [p.new_empty(batch, *p.shape[1:]) if is_given(p) else p.clone() for p in parts]
    native = ops.device_module(backend, logits)
    if native is not None:
        scales = _grid_scales(kernels)
        arrays = (d_refined, logits, saved, coupling, unflatten(kernels), grid, scales)
        places = [
            [part if is_given(part) else None for part in group]
            for group in _groups(d_parts, len(_PARTS))
        ]
        found = device.mean_field_backward(native, *arrays, places, iterations, storage)
        return *found, _over_images(d_parts, parts)
    engine, of_image = _engine(coupling, kernels, grid, backend)
    d_logits = logits.new_empty(logits.shape)
    d_coupling = coupling.new_empty(batch, *coupling.shape)
    problems = [
        engines.BackwardProblem(
            of_image(b),
            rows(logits[b]),
            saved[b].numpy(),
            rows(d_refined[b]),
            d_logits[b].numpy(),
            d_coupling[b].numpy(),
            [_kernel_gradient(d, b) for d in _groups(d_parts, len(_PARTS))]
            + [None] * (grid.size is not None),
        )
        for b in range(batch)
    ]
    options = (iterations, _share(memory_budget, batch), torch.get_num_threads())
    engine.mean_field_backward(problems, rows(coupling), *options)
    return d_logits, d_coupling.sum(0), _over_images(d_parts, parts)


def _over_images(gradients: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of each part of a kernel: where one image's serves all, the sum over them."""
    return [
        ops.over_images(d, len(p)) if is_given(p) else d
        for p, d in zip(parts, gradients, strict=True)
    ]


@mean_field_backward.register_fake
def _(
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
    d_parts = [part.new_empty(part.shape) for part in _wanted_parts(kernels, wanted)]
    return logits.new_empty(logits.shape), coupling.new_empty(coupling.shape), d_parts


def _wanted_parts(kernels: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    """What a gradient is wanted for: of each kernel weight, before, after, diagonal, or [0]."""
    whole = kernels[: len(wanted) * _FIELDS]
    return [
        group[i] if one else group[i].new_empty(0)
        for group, one in zip(_groups(whole, _FIELDS), wanted, strict=True)
        for i in _PARTS
    ]


def _kernel_gradient(parts: Sequence[Tensor], image: int) -> engines.KernelGradient | None:
    """Where an engine writes the gradient of one kernel of one image."""
    weight, *scales = parts
    if not is_given(weight):
        return None
    places = [scale[image, :, 0].numpy() if is_given(scale) else None for scale in scales]
    return engines.KernelGradient(weight[image].numpy(), *places)


mean_field_backward.register_autograd(
    ops.no_second_derivative, setup_context=ops.nothing_to_keep
)


def _mean_field_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, coupling, kernels, *grid, ctx.iterations, ctx.keep = inputs[:-3]
    ctx.options = inputs[-3:]  # budget, storage, backend
    ctx.backend = inputs[-1]
    ctx.grid = Grid(*grid)
    ctx.save_for_backward(output[1], logits, coupling, *kernels)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or autograd would fill a gradient for it with zeros


def _mean_field_gradient(ctx: Any, d_refined: Tensor | None, _: None) -> tuple[Any, ...]:
    found: tuple[Any, Any, list[Any]]
    if d_refined is None:
        found = (None, None, [None] * len(ctx.needs_input_grad[2]))
    elif torch.is_grad_enabled():
        found = _second_gradient(ctx, d_refined)
    else:
        found = _first_gradient(ctx, d_refined)
    return (*found, *[None] * (len(ctx.grid) + 5))


def _first_gradient(ctx: Any, d_refined: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    assert ctx.keep, "a gradient is asked for that was not prepared"
    saved, logits, coupling, *kernels = ctx.saved_tensors
    needs = ctx.needs_input_grad[2]
    whole = needs[: len(needs) // _FIELDS * _FIELDS]
    wanted = [any(group) for group in _groups(whole, _FIELDS)]
    options = (wanted, ctx.iterations, *ctx.options)
    d_logits, d_coupling, d_parts = mean_field_backward(
        d_refined, logits, saved, coupling, kernels, *ctx.grid, *options
    )
    d_kernels: list[Tensor | None] = [None] * len(kernels)
    for group, parts in enumerate(_groups(d_parts, len(_PARTS))):
        for i, part in zip(_PARTS, parts, strict=True):
            d_kernels[group * _FIELDS + i] = part if is_given(part) else None
    return d_logits, d_coupling, d_kernels


def _second_gradient(ctx: Any, d_refined: Tensor) -> tuple[Any, Any, list[Any]]:
    """The gradient as something to be differentiated again."""
    # Aliases, so that each gradient ends at an input of this operator: one input may have been
    # made from another (a normaliser from weights, an image from logits).
    _, *inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
    logits, coupling, *kernels = inputs
    if ctx.iterations == 0:
        return d_refined, None, [None] * len(kernels)
    messages = messages_of(kernels, ctx.grid, ctx.backend)
    refined = mean_field_unfused(logits, [coupling] * ctx.iterations, messages)[-1]
    leaves = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(refined, leaves, d_refined, create_graph=True))
    d_logits, d_coupling, *d_kernels = (next(found) if t.requires_grad else None for t in inputs)
    return d_logits, d_coupling, d_kernels


mean_field.register_autograd(_mean_field_gradient, setup_context=_mean_field_setup_context)
