"""The kernels of a mean field as the plain tensors and numbers that operators exchange."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ... import engines
from ..._typing import Array
from ...inference import grid

_FIELDS = 6  # tensors of a flattened `Kernel`: vertex, weight, links, before, after, diagonal


def rows(tensor: Tensor) -> Array:
    """Return a tensor as a contiguous NumPy array: a view if it is contiguous and on a CPU."""
    return np.ascontiguousarray(tensor.numpy(force=True))


class Lattice(NamedTuple):
    """Lattices of B point sets; see `engines.Plan`.

    On a CPU `links` has the length of the worst case, so that shapes do not depend on the data. It
    is written only as far as needed; memory that is never touched is never resident.
    """

    vertex: Tensor  # [B, N, D+1] int32
    weight: Tensor  # [B, N, D+1]
    links: Tensor  # [B, links_size] int32; on a device [size], for all images together

    def plans(self, batch: int) -> list[engines.Plan]:
        """Return the lattice of each image in the form that an engine takes."""
        found = [engines.Plan(*arrays) for arrays in zip(*map(rows, self), strict=True)]
        return _repeated(found, batch)


class Parts(NamedTuple):
    """The tensors of a `Kernel` that have a gradient, or one other value for each of them."""

    weight: Any
    before: Any
    after: Any
    diagonal: Any


class Kernel(NamedTuple):
    """A kernel on a lattice: message = after (K - diag(diagonal)) (before q).

    `before`, `after` and `diagonal` have shape [B, N, 1], or [0] if they are 1, 1 and 0. With B = 1
    all images of a batch share the kernel.
    """

    lattice: Lattice
    before: Tensor
    after: Tensor
    diagonal: Tensor

    @property
    def parts(self) -> Parts:
        """The tensors that have a gradient."""
        return Parts(self.lattice.weight, self.before, self.after, self.diagonal)

    def for_images(self, batch: int) -> list[engines.LatticeKernel]:
        """Return the kernel of each image in the form that an engine takes."""
        scales = [_for_images(s, batch) for s in (self.before, self.after, self.diagonal)]
        plans = self.lattice.plans(batch)
        return [engines.LatticeKernel(*one) for one in zip(plans, *scales, strict=True)]


class Grid(NamedTuple):
    """The operator N K of the spatial kernel for images of one size."""

    size: Sequence[int] | None  # (H, W) or (D, H, W); None: there is no such kernel
    deviation: Sequence[float] | None  # bandwidth in pixels, along each axis
    normalization: str  # this and self_term: see CRFParams
    self_term: bool

    def kernel(self, dtype: Any) -> engines.GridKernel:
        """Return the kernel in the form that an engine takes, with scales of a NumPy dtype."""
        assert self.size is not None and self.deviation is not None
        key = (tuple(self.size), tuple(self.deviation), self.normalization, self.self_term, dtype)
        # Without a self term there is one scale per pixel, which is too large for the cache.
        return (_grid_kernel if self.self_term else _grid_kernel.__wrapped__)(*key)


NO_GRID = Grid(None, None, "none", True)


@lru_cache(maxsize=32)
def _grid_kernel(
    size: Sequence[int], deviation: Sequence[float], normalization: Any, self_term: bool, dtype: Any
) -> engines.GridKernel:
    """Build a grid kernel: a few numbers per row and column, cached for calls on small images."""
    axes = [grid.axis(n, sigma) for n, sigma in zip(size, deviation, strict=True)]
    return grid.normalized(axes, normalization, self_term, dtype)


class Kernels(NamedTuple):
    """All kernels of a mean field: those on lattices, then at most one on a grid."""

    lattices: Sequence[Kernel]
    grid: Grid = NO_GRID
    grid_scales: Sequence[Tensor] = ()  # before, after, diagonal of the grid; (): as built by Grid

    def flatten(self) -> list[Tensor]:
        """Return all tensors in one list, which an operator accepts; `grid` is not included."""
        found = [t for k in self.lattices for t in (*k.lattice, k.before, k.after, k.diagonal)]
        return [*found, *self.grid_scales]

    @classmethod
    def unflatten(cls, tensors: Sequence[Any], grid: Grid) -> "Kernels":
        """Undo `flatten`, for a list of tensors or of one other value for each tensor."""
        end = len(tensors) - len(tensors) % _FIELDS
        groups = [tensors[i : i + _FIELDS] for i in range(0, end, _FIELDS)]
        return cls([Kernel(Lattice(*g[:3]), *g[3:]) for g in groups], grid, tensors[end:])

    def flatten_parts(self, parts: Sequence[Parts]) -> list[Any]:
        """Return one entry per tensor of `flatten`: the gradients `parts`, None for the others."""
        found = [[None, p.weight, None, p.before, p.after, p.diagonal] for p in parts]
        return [entry for group in found for entry in group] + [None] * len(self.grid_scales)

    def for_images(self, batch: int, dtype: Any) -> list[list[engines.MeanFieldKernel]]:
        """Return the kernels of each image in the form that an engine takes."""
        found: list[Sequence[engines.MeanFieldKernel]] = [
            kernel.for_images(batch) for kernel in self.lattices
        ]
        if self.grid.size is not None:
            bare = self.grid.kernel(dtype)
            scales = [_for_images(scale, batch) for scale in self.grid_scales]
            found.append(
                [
                    replace(bare, before=before, after=after, diagonal=diagonal)
                    for before, after, diagonal in zip(*scales, strict=True)
                ]
                if scales
                else [bare] * batch
            )
        return [list(kernels) for kernels in zip(*found, strict=True)]


def is_given(tensor: Tensor) -> bool:
    """Return whether a tensor has values; one of shape [0] stands for None in lists of tensors."""
    return tensor.dim() > 1


def _for_images(scale: Tensor, batch: int) -> list[Any]:
    """Split a scale [B, N, 1] or [1, N, 1] into one array [N] per image; None for [0]."""
    if not is_given(scale):
        return [None] * batch
    return _repeated(list(rows(scale)[..., 0]), batch)


def _repeated(found: list[Any], batch: int) -> list[Any]:
    """Return one entry per image, given one entry per image or one that all images share."""
    return found * batch if len(found) == 1 else found
