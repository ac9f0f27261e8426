"""Mean field and free energy with one operator per filter, instead of one for all iterations.

It is slower than ops/mean_field.py, and used where that operator does not apply: for the "relu"
update, untied iterations, the results of all iterations, the exact method, second derivatives.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor

from .. import checks
from .ops.grid_filter import grid_filter
from .ops.kernels import Grid, Kernel, Kernels, is_given
from .ops.lattice_filter import lattice_filter

Update = Literal["softmax", "relu"]
UPDATES: tuple[Update, ...] = ("softmax", "relu")
# The normalised operator N K of one kernel, as a function of values [B, N, C].
Message = Callable[[Tensor], Tensor]


def scaled(operator: Message, scales: Sequence[Tensor], values: Tensor) -> Tensor:
    """Return after (operator - diag(diagonal)) (before values), for the scales of a `Kernel`."""
    before, after, diagonal = scales
    values = values * before if is_given(before) else values
    out = operator(values)
    out = out - diagonal * values if is_given(diagonal) else out
    return out * after if is_given(after) else out


def filtered(kernel: Kernel, values: Tensor, backend: str) -> Tensor:
    """Return N K values on lattices, for values [B, N, C]."""

    def operator(given: Tensor) -> Tensor:
        return lattice_filter(given, [*kernel.lattice], False, backend)

    return scaled(operator, kernel.scales, values)


def grid_filtered(grid: Grid, scales: Sequence[Tensor], values: Tensor) -> Tensor:
    """Return N K values on a grid; `scales` are those of `Kernels.grid_scales`."""

    def operator(given: Tensor) -> Tensor:
        return grid_filter(given, *grid, False)

    return scaled(operator, scales, values) if scales else operator(values)


def messages(kernels: Kernels, backend: str) -> list[Message]:
    """Return the operator N K of each kernel, in their order; the grid is the last."""
    found: list[Message] = [partial(filtered, k, backend=backend) for k in kernels.lattices]
    if kernels.grid.size is not None:
        found.append(partial(grid_filtered, kernels.grid, kernels.grid_scales))
    return found


def mean_field(
    u: Tensor,
    couplings: Sequence[Tensor],
    messages: Sequence[Message],
    update: str = "softmax",
    *,
    pairs: bool = False,
) -> list[Tensor]:
    """Return the refined logits [B, L, N] of every iteration.

    Parameters
    ----------
    u : Tensor [B, L, N]
    couplings : sequence of T tensors [M, L, L]
        mu W of each kernel, for each iteration.
    messages : sequence of M functions
        The operator N K of each kernel.
    update : {"softmax", "relu"}
    pairs : bool
        Whether each pair of labels has marginals of its own, as in multilabel problems.
    """
    u = u.mT.contiguous()  # [B, N, L]
    steps = []
    refined = u
    for coupling in couplings:
        q = _marginals(refined, update, pairs)
        refined = u - _pairwise(q, coupling, messages)
        steps.append(refined.mT)
    return steps


def free_energy(
    refined: Tensor,
    u: Tensor,
    coupling: Tensor,
    messages: Sequence[Message],
    update: str = "softmax",
    *,
    pairs: bool = False,
) -> Tensor:
    """Return each pixel's term of the free energy, [B, N].

    Parameters
    ----------
    refined, u : Tensor [B, L, N]
    coupling : Tensor [M, L, L]
    messages, update, pairs
        As in `mean_field`.
    """
    refined, u = refined.mT.contiguous(), u.mT  # [B, N, L]
    q = _marginals(refined, update, pairs)
    # The softmax of -inf is 0 and its logarithm -inf; log_softmax is also exact for small q.
    if update == "softmax":
        log_q = _over_labels(partial(torch.log_softmax, dim=-1), refined, pairs)
    else:
        log_q = q.where(q > 0, 1.0).log()
    # Where q = 0 both terms may be -inf; the product counts as 0.
    relative = (log_q - u).where(q > 0, 0.0)
    return (q * (relative + _pairwise(q, coupling, messages) / 2)).sum(-1)


def _pairwise(q: Tensor, coupling: Tensor, messages: Sequence[Message]) -> Tensor:
    """Return the pairwise term mu sum_m W_m N_m K_m q, [B, N, L]."""
    weighted = (m(q) @ c.mT for m, c in zip(messages, coupling, strict=True))
    return reduce(torch.add, weighted)


def _marginals(logits: Tensor, update: str, pairs: bool) -> Tensor:
    """Return the marginals of logits [B, N, L]."""
    if update == "softmax":
        return _over_labels(partial(torch.softmax, dim=-1), logits, pairs)
    checks.option("update", update, UPDATES)
    return _over_labels(_relu_marginals, logits, pairs)


def _relu_marginals(logits: Tensor) -> Tensor:
    """Return the positive logits divided by their sum, uniform where none is positive.

    They are divided by their maximum first, so that neither the sum nor its derivative overflows.
    The derivative grows as the logits fall: maxima below `least` (float32: 1e-31) have its value at
    `least`, which leaves room for the factors of other iterations.
    """
    positive = logits.relu()
    peak = positive.detach().amax(-1, keepdim=True)
    some = peak > 0
    normal = torch.finfo(logits.dtype)
    least = normal.tiny / normal.eps
    scaled = positive / peak.clamp(min=least)
    missing = positive.detach() / peak.where(some, 1.0) - scaled.detach()  # 0 above `least`
    scaled = scaled + missing
    total = scaled.sum(-1, keepdim=True)
    return torch.where(some, scaled / total.where(some, 1.0), 1 / logits.shape[-1])


def _over_labels(function: Callable[[Tensor], Tensor], logits: Tensor, pairs: bool) -> Tensor:
    """Apply a function over the labels of logits [B, N, L], or with `pairs` over each pair."""
    if not pairs:
        return function(logits)
    return function(logits.reshape(*logits.shape[:-1], -1, 2)).flatten(-2)
