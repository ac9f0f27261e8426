"""The kernels of a mean field as the plain tensors and numbers that operators exchange."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ... import engines
from ..._typing import Array
from ...inference import grid


def rows(tensor: Tensor) -> Array:
    """Return a tensor as a contiguous NumPy array: a view if it is contiguous and on a CPU."""
    return np.ascontiguousarray(tensor.numpy(force=True))


class Lattice(NamedTuple):
    """Lattices of B point sets; see `engines.Plan`. Operators take the four tensors as a list.

    On a CPU `links` has the length of the worst case, so that shapes do not depend on the data. Its
    unused end is never written and so takes no memory. `facts` is empty for lattices on a CPU; for
    a device module it is in host memory, where it is read without waiting for the device.
    """

    vertex: Tensor  # [B, N, D+1] int32: the vertices around each point
    weight: Tensor  # [B, N, D+1]: the barycentric weights of these vertices
    links: Tensor  # [B, links_size] int32; on a device [links_size], for all images together
    facts: Tensor  # [2] int64: number of vertices; whether blurs in both axis orders are averaged

    def plans(self, batch: int) -> list[engines.Plan]:
        """Return the lattice of each image in the form that an engine takes."""
        arrays = map(rows, (self.vertex, self.weight, self.links))
        return _repeated([engines.Plan(*image) for image in zip(*arrays, strict=True)], batch)


class Parts(NamedTuple):
    """The differentiable tensors of a `Kernel`, or a gradient or flag for each of them."""

    weight: Any
    before: Any
    after: Any
    diagonal: Any

    @classmethod
    def groups(cls, flat: Sequence[Any]) -> "list[Parts]":
        """Split a list with the parts of several kernels into one `Parts` per kernel."""
        size = len(cls._fields)
        return [cls(*flat[i : i + size]) for i in range(0, len(flat), size)]


class Kernel(NamedTuple):
    """A kernel on a lattice: message = after (K - diag(diagonal)) (before q).

    `q` are marginals. `before`, `after` and `diagonal` have shape [B, N, 1]. A tensor of shape [0]
    stands for `before` = 1, `after` = 1 or `diagonal` = 0. With B = 1 all images of a batch share
    the kernel.
    """

    lattice: Lattice
    before: Tensor
    after: Tensor
    diagonal: Tensor

    @property
    def parts(self) -> Parts:
        """The tensors that have a gradient."""
        return Parts(self.lattice.weight, *self.scales)

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """`before`, `after` and `diagonal`."""
        return self[1:]

    def for_images(self, batch: int) -> list[engines.LatticeKernel]:
        """Return the kernel of each image in the form that an engine takes."""
        scales = [_for_images(scale, batch) for scale in self.scales]
        plans = self.lattice.plans(batch)
        return [engines.LatticeKernel(*one) for one in zip(plans, *scales, strict=True)]


# Number of tensors of a flattened `Kernel`.
_FIELDS = len(Lattice._fields) + len(Kernel._fields) - 1


class Grid(NamedTuple):
    """The operator N K of the spatial kernel for images of one size."""

    size: Sequence[int] | None  # (H, W) or (D, H, W); None if no kernel is on a grid
    deviation: Sequence[float] | None  # bandwidth in pixels, along each axis
    normalization: str  # this and self_term: see CRFParams
    self_term: bool

    def hashable(self) -> "Grid":
        """Return a hashable copy of the grid, because torch passes its sequences as lists."""
        assert self.size is not None and self.deviation is not None
        return self._replace(size=tuple(self.size), deviation=tuple(self.deviation))

    def kernel(self, dtype: Any) -> engines.GridKernel:
        """Return the kernel in the form that an engine takes, with scales of a NumPy dtype."""
        assert self.size is not None and self.deviation is not None
        how: Any = self.normalization
        return grid.build(tuple(self.size), tuple(self.deviation), how, self.self_term, dtype)


NO_GRID = Grid(None, None, "none", True)


class Kernels(NamedTuple):
    """All kernels of a mean field: those on lattices, then at most one on a grid."""

    lattices: Sequence[Kernel]
    grid: Grid = NO_GRID
    grid_scales: Sequence[Tensor] = ()  # before, after, diagonal; (): those of `grid`

    def flatten(self) -> list[Tensor]:
        """Return all tensors in one list, which an operator accepts; `grid` is not included."""
        found = [tensor for k in self.lattices for tensor in (*k.lattice, *k.scales)]
        return [*found, *self.grid_scales]

    @classmethod
    def unflatten(cls, tensors: Sequence[Any], grid: Grid) -> "Kernels":
        """Undo `flatten`, for a list of tensors or of flags, one for each tensor."""
        end, own = len(tensors) - len(tensors) % _FIELDS, len(Lattice._fields)
        groups = [tensors[i : i + _FIELDS] for i in range(0, end, _FIELDS)]
        return cls([Kernel(Lattice(*g[:own]), *g[own:]) for g in groups], grid, tensors[end:])

    def flatten_parts(self, parts: Sequence[Parts]) -> list[Any]:
        """Return one entry per tensor of `flatten`: the gradients `parts`, None for the others."""
        found = [(None, weight, None, None, *scales) for weight, *scales in parts]
        return [entry for group in found for entry in group] + [None] * len(self.grid_scales)

    def for_images(self, batch: int, dtype: Any) -> list[list[engines.MeanFieldKernel]]:
        """Return the kernels of each image in the form that an engine takes."""
        found: list[Sequence[engines.MeanFieldKernel]] = [
            kernel.for_images(batch) for kernel in self.lattices
        ]
        if self.grid.size is not None:
            bare = self.grid.kernel(dtype)
            scales = zip(*(_for_images(scale, batch) for scale in self.grid_scales), strict=True)
            own = [replace(bare, before=b, after=a, diagonal=d) for b, a, d in scales]
            found.append(own or [bare] * batch)
        return [list(kernels) for kernels in zip(*found, strict=True)]


def is_given(tensor: Tensor) -> bool:
    """Return whether a tensor has values; one of shape [0] stands for None in lists of tensors."""
    return tensor.dim() > 1


def check_filtered(values: Tensor, like: Tensor, name: str) -> None:
    """Check that values [B, N, C] fit the weights or features `like` [B or 1, N, ...]."""
    if values.dtype != like.dtype:
        raise TypeError(f"values has dtype {values.dtype} but {name} {like.dtype}")
    images, points = like.shape[:2]
    if values.dim() != 3 or values.shape[1] != points or images not in (1, len(values)):
        raise ValueError(
            f"values has shape {tuple(values.shape)} but {name} {tuple(like.shape)}; give "
            f"[B, {points}, C]"
        )


def over_images(gradients: Tensor, kernels: int) -> Tensor:
    """Return gradients [B, ...] as they are, or summed to [1, ...] if images share one kernel.

    `kernels` is the number of kernels, B or 1.
    """
    return gradients if kernels == len(gradients) else gradients.sum(0, keepdim=True)


def _for_images(scale: Tensor, batch: int) -> list[Any]:
    """Split a scale [B, N, 1] or [1, N, 1] into an array [N] per image; None each if it is [0]."""
    if not is_given(scale):
        return [None] * batch
    return _repeated(list(rows(scale)[..., 0]), batch)


def _repeated(found: list[Any], batch: int) -> list[Any]:
    """Return one entry per image, given one entry per image or one that all images share."""
    return found * batch if len(found) == 1 else found
