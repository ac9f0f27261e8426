"""What operators hand one another: lattices, grids and kernels as plain tensors and numbers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from .. import engines
from ..inference import grid


def rows(tensor: Tensor) -> Any:
    """A tensor as a contiguous NumPy array: a view, unless its memory has gaps or is a device's."""
    return tensor.detach().cpu().contiguous().numpy()


class Lattice(NamedTuple):
    """Lattices of B point sets; see `engines.Plan`.

    `links` is as long as the worst case and written only as far as needed, so the shapes do not
    depend on the data and untouched memory is never resident.
    """

    vertex: Tensor  # [B, N, D+1] int32
    weight: Tensor  # [B, N, D+1]
    links: Tensor  # [B, links_size] int32; on a device [size], of all images

    def plan(self, image: int) -> engines.Plan:
        """The lattice of one image, as an engine takes it. A lattice of one serves all images."""
        b = image if len(self.vertex) > 1 else 0
        return engines.Plan(*(rows(tensor[b]) for tensor in self))


class Kernel(NamedTuple):
    """A kernel on a lattice: message = after (K - diag(diagonal)) (before q).

    The last three are [B, N, 1], or [0] for 1, 1 and 0. A kernel of one image serves all images.
    """

    lattice: Lattice
    before: Tensor
    after: Tensor
    diagonal: Tensor

    def of_image(self, image: int) -> engines.LatticeKernel:
        """The kernel of one image, as an engine takes it."""
        scales = (_of_image(s, image) for s in (self.before, self.after, self.diagonal))
        return engines.LatticeKernel(self.lattice.plan(image), *scales)


def _of_image(scale: Tensor, image: int) -> Any:
    """One image's share of a scale [B, N, 1], or of [1, N, 1] for all; None for [0]."""
    return rows(scale[image if len(scale) > 1 else 0, :, 0]) if is_given(scale) else None


def is_given(tensor: Tensor) -> bool:
    """Whether a tensor is there: [0] stands for None, which lists of tensors cannot hold."""
    return tensor.dim() > 1


class Grid(NamedTuple):
    """The operator N K of the spatial kernel for images of one size."""

    size: Sequence[int] | None  # (H, W) or (D, H, W); None: there is no such kernel
    deviation: Sequence[float] | None  # in pixels, along each axis
    normalization: str  # this and self_term: as in CRFParams
    self_term: bool

    def kernel(self, dtype: Any) -> engines.GridKernel:
        """The kernel as an engine takes it, with scales of a NumPy dtype."""
        assert self.size is not None and self.deviation is not None
        key = (tuple(self.size), tuple(self.deviation), self.normalization, self.self_term, dtype)
        # Without a self term there are scales of every pixel: too large to be kept.
        return (_grid_kernel if self.self_term else _grid_kernel.__wrapped__)(*key)


@lru_cache(maxsize=32)
def _grid_kernel(
    size: Sequence[int], deviation: Sequence[float], normalization: Any, self_term: bool, dtype: Any
) -> engines.GridKernel:
    """A few numbers for each row and column; kept, as small calls would take longer to make it."""
    axes = [grid.axis(n, sigma) for n, sigma in zip(size, deviation, strict=True)]
    return grid.normalized(axes, normalization, self_term, dtype)


def scaled_grid(
    bare: engines.GridKernel, scales: Sequence[Tensor], image: int
) -> engines.GridKernel:
    """The grid kernel of one image: with scales as those of a `Kernel`, if there are any."""
    if not scales:
        return bare
    before, after, diagonal = (_of_image(scale, image) for scale in scales)
    return replace(bare, before=before, after=after, diagonal=diagonal)


NO_GRID = Grid(None, None, "none", True)
