"""A mean field without the labels that provably do not matter, as an operator without gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import engines
from .dispatch import empty_like, engine, no_second_derivative, operator
from .kernels import Grid, Kernels, rows
from .mean_field import refuse_logits


@operator("densecrf_rnn::pruned_mean_field")
def pruned_mean_field(
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Tensor],
    size: Sequence[int] | None,
    deviation: Sequence[float] | None,
    normalization: str,
    self_term: bool,
    iterations: int,
    prune: float,
    backend: str,
) -> Tensor:
    """Return the refined logits [B, L, N]; arguments as in `ops.mean_field.mean_field`.

    `backend` is an engine for arrays that prunes.
    """
    k = Kernels.unflatten(kernels, Grid(size, deviation, normalization, self_term))
    found = engine(backend)
    fused, pruner = engines.fused(found), engines.pruner(found)
    u, c = rows(logits), rows(coupling)
    refined = empty_like(logits)
    saved = torch.empty(0, dtype=logits.dtype).numpy()
    problems = [
        engines.Problem(of_image, u[b], refined[b].numpy(), saved, prune=prune)
        for b, of_image in enumerate(k.for_images(len(logits), c.dtype))
    ]
    if fused is not None:
        threads = torch.get_num_threads()
        if not fused.mean_field(problems, c, iterations, False, 0, threads):
            refuse_logits(logits)
    elif pruner is not None:
        for problem in problems:
            pruner.pruned_mean_field(problem, c, iterations, False)
    return refined


@pruned_mean_field.register_fake
def _(logits: Tensor, *args: Any) -> Tensor:
    return logits.new_empty(logits.shape)


pruned_mean_field.register_autograd(no_second_derivative)
