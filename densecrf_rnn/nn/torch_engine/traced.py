"""The mean field as part of a traced graph, which torch.compile fuses; see mean_field.py."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.kernels import Grid, Kernels, Parts
from .mean_field import backward, forward


def mean_field(
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    grid: Grid,
    iterations: int,
    memory_budget: int,
) -> Tensor:
    """Return refined logits [B, L, N]; arguments as those of `ops.mean_field.mean_field`.

    Values are not checked.
    """
    size = iterations * logits.numel() * logits.element_size()
    options = (grid, iterations, size <= memory_budget)
    # A graph takes no tensor twice, and kernels share what they do not have.
    given = [tensor.view_as(tensor) for tensor in kernels]
    run: Any = _MeanField.apply
    found: Tensor = run(options, logits, coupling, *given)
    return found


class _MeanField(torch.autograd.Function):
    """All iterations as operations that the graph holds one by one, with one gradient."""

    @staticmethod
    def forward(
        ctx: Any, options: Any, logits: Tensor, coupling: Tensor, *kernels: Tensor
    ) -> Tensor:
        grid, iterations, keep = options
        marginals = [
            torch.empty_like(logits.mT, memory_format=torch.contiguous_format)
            for _ in range(iterations * keep)
        ]
        of = Kernels.unflatten(kernels, grid)
        refined = forward(logits, coupling, of, iterations, marginals)
        ctx.options, ctx.count = options, len(kernels)
        ctx.save_for_backward(logits, coupling, *kernels, *marginals)
        return refined

    @staticmethod
    def backward(ctx: Any, d_refined: Tensor) -> tuple[Any, ...]:
        logits, coupling, *others = ctx.saved_tensors
        kernels, marginals = others[: ctx.count], others[ctx.count :]
        grid, iterations, _ = ctx.options
        of = Kernels.unflatten(kernels, grid)
        needs = Kernels.unflatten(ctx.needs_input_grad[3:], grid)
        wanted = [any((*k.lattice, *k.parts)) for k in needs.lattices]
        d_logits, d_coupling, flat = backward(
            d_refined, logits, marginals, coupling, of, iterations, wanted
        )
        parts = Parts.groups([part if part.dim() > 1 else None for part in flat])
        return None, d_logits, d_coupling, *of.flatten_parts(parts)
