"""All iterations of a mean field, and its gradient, in plain torch operations.

Values at vertices and cells are rows [U, R, C] (lattices.py, grids.py), fewer than the points in
most images; weights and compatibility are applied to them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.kernels import Kernels, Parts, is_given
from . import grids
from .grids import Grids, Whole
from .lattices import Lattices


class Spread(NamedTuple):
    """A kernel: message = after (slice blur splat - diagonal) (before q)."""

    of: Lattices | Grids | Whole
    before: Tensor  # [B, N, 1] or [1, N, 1], or [0] for 1, as the next two
    after: Tensor
    diagonal: Tensor  # or [0] for 0

    def values(self, q: Tensor) -> Tensor:
        """Return the values after the blur, [U, R, C], of marginals [B, N, C]."""
        return self.of.blurred(self.of.splat(_times(q, self.before), False), False)

    def add(self, refined: Tensor, q: Tensor | None, rows: Tensor, coupling: Tensor) -> Tensor:
        """Subtract the messages of values `rows` from refined logits [B, N, C], in place.

        The marginals `q` are needed where there is a diagonal.
        """
        message = self.of.slice(rows @ coupling.mT, refined, False)
        if is_given(self.diagonal) and q is not None:
            message = message - self.diagonal * (_times(q, self.before) @ coupling.mT)
        return refined.sub_(_times(message, self.after))


def _times(values: Tensor, scale: Tensor) -> Tensor:
    return values * scale if is_given(scale) else values


def spreads(kernels: Kernels, like: Tensor) -> list[Spread]:
    """Prepare kernels for logits `like` [B, L, N]."""
    batch = len(like)
    of: Any
    scales: Sequence[Tensor]
    found = [
        Spread(Lattices.of(k.lattice, batch), *(scale.detach() for scale in k.scales))
        for k in kernels.lattices
    ]
    if kernels.grid.size is not None:
        if torch.compiler.is_compiling():
            of, scales = Whole(kernels.grid, batch), [like.new_empty(0)] * 3
        else:
            of = grids.of_grid(kernels.grid, like.dtype, like.device)
            scales = of.scales
        found.append(Spread(of, *(s.detach() for s in kernels.grid_scales or scales)))
    return found


def forward(
    logits: Tensor, coupling: Tensor, kernels: Kernels, iterations: int, saved: Sequence[Tensor]
) -> Tensor:
    """Return refined logits [B, L, N]; write the marginals of each iteration to `saved`.

    `saved` holds a tensor [B, N, L] for each iteration, or nothing.
    """
    if logits.numel() == 0 or iterations == 0:
        return logits.clone(memory_format=torch.contiguous_format)
    u = logits.mT.contiguous()
    of = spreads(kernels, logits)
    refined = u
    for t in range(iterations):
        q = torch.softmax(refined, -1)
        if saved:
            saved[t].copy_(q)
        refined = u.clone()
        for spread, c in zip(of, coupling, strict=True):
            spread.add(refined, q, spread.values(q), c)
    return refined.mT.contiguous()


def backward(
    d_refined: Tensor,
    logits: Tensor,
    saved: Sequence[Tensor],
    coupling: Tensor,
    kernels: Kernels,
    iterations: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the gradients with respect to logits, coupling and the parts of lattice kernels.

    `saved` is what `forward` wrote, or nothing: then the marginals are computed again, from values
    at the vertices where these are fewer. The third result has one entry for each part of each
    lattice kernel that is `wanted`, [0] for parts that a kernel does not have.
    """
    d_coupling = torch.zeros_like(coupling, memory_format=torch.contiguous_format)
    parts = [part for k in kernels.lattices for part in k.parts]
    asked = [one for one in wanted for _ in Parts._fields]
    d_parts = [
        torch.zeros_like(p) if w else p.new_zeros(0) for p, w in zip(parts, asked, strict=True)
    ]
    if logits.numel() == 0 or iterations == 0:
        return d_refined.contiguous().clone(), d_coupling, d_parts
    of = spreads(kernels, logits)
    marginals = saved or _Again(logits.mT.contiguous(), coupling, of, iterations)
    groups: list[Parts | None] = [*Parts.groups(d_parts)]
    groups += [None] * (len(of) - len(groups))
    g = d_refined.mT.contiguous()  # of the refined logits after iteration t
    d_u = g.clone()
    for t in reversed(range(iterations)):
        q = marginals[t]
        d_q = torch.zeros_like(q)
        for m, spread in enumerate(of):
            _through(spread, q, g, coupling[m], d_q, d_coupling[m], groups[m])
        g = q * (d_q - (q * d_q).sum(-1, keepdim=True))
        d_u += g
    return d_u.mT.contiguous(), d_coupling, d_parts


def _through(
    spread: Spread,
    q: Tensor,
    g: Tensor,
    coupling: Tensor,
    d_q: Tensor,
    d_coupling: Tensor,
    d_parts: Parts | None,
) -> None:
    """Add the gradients through one kernel's message to d_q, d_coupling and d_parts."""
    of = spread.of
    values = spread.values(q)
    input_, d_message = _times(q, spread.before), -_times(g, spread.after)
    splatted = of.splat(d_message, True)
    # The scale of the filter is in the splat, so here it would count twice.
    d_coupling += torch.einsum("urk,url->kl", splatted, values) / of.scale
    rows = of.blurred(splatted, True) @ coupling
    d_input = of.slice(rows, q, True)
    if is_given(spread.diagonal):
        d_output = d_message @ coupling
        d_input = d_input - spread.diagonal * d_output
        mixed = (spread.diagonal * input_).flatten(0, 1)
        d_coupling -= d_message.flatten(0, 1).mT @ mixed
    d_q += _times(d_input, spread.before)
    if d_parts is None or not isinstance(of, Lattices):
        return
    if d_parts.weight.dim() > 1:
        d_parts.weight.add_(of.corner_products(d_message @ coupling, values))
        d_parts.weight.add_(of.corner_products(input_, rows))
    if is_given(d_parts.before):
        _add(d_parts.before, q * d_input)
    if is_given(d_parts.after):
        message = of.slice(values @ coupling.mT, q, False)
        if is_given(spread.diagonal):
            message = message - spread.diagonal * (input_ @ coupling.mT)
        _add(d_parts.after, -g * message)
    if is_given(d_parts.diagonal):
        _add(d_parts.diagonal, -input_ * (d_message @ coupling))


def _add(d_scale: Tensor, products: Tensor) -> None:
    """Add products [B, N, C], summed over C and if images share a scale over B, to `d_scale`."""
    found = products.sum(-1, keepdim=True)
    d_scale += found.sum(0, keepdim=True) if len(d_scale) < len(found) else found


class _Again:
    """The marginals of each iteration, computed again from the last to the first.

    The values at the vertices of all iterations are kept if these are fewer than the points and no
    diagonal is removed, else the marginals.
    """

    def __init__(
        self, u: Tensor, coupling: Tensor, of: Sequence[Spread], iterations: int
    ) -> None:
        self._u, self._coupling, self._of = u, coupling, of
        self._marginals: list[Tensor] = []
        self._rows: list[list[Tensor]] = []
        refined = u
        for t in range(iterations):
            q = torch.softmax(refined, -1)
            rows = [spread.values(q) for spread in of]
            few = sum(r.numel() for r in rows) < q.numel()
            if few and not any(is_given(spread.diagonal) for spread in of):
                self._rows.append(rows)
            else:
                self._marginals.append(q)
            if t + 1 < iterations:
                refined = self._refined(q, rows)

    def _refined(self, q: Tensor | None, rows: Sequence[Tensor]) -> Tensor:
        refined = self._u.clone()
        for spread, values, c in zip(self._of, rows, self._coupling, strict=True):
            spread.add(refined, q, values, c)
        return refined

    def __getitem__(self, t: int) -> Tensor:
        if self._marginals:
            return self._marginals[t]
        refined = self._u if t == 0 else self._refined(None, self._rows[t - 1])
        return torch.softmax(refined, -1)
