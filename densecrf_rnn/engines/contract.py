"""What an engine is: the plain data it works on, and the operations it offers.

Engines work on checked NumPy arrays. `Plan` is what an engine builds: plain data, but laid out as
that engine likes it.
"""

import contextlib
import math
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from .. import _limits
from .._typing import Array


class BackendUnavailableError(RuntimeError):
    """The named engine cannot run here; the message says why and what to do."""


_LARGE = 2**28  # bytes from which an array is mapped by itself


def reserve(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that are not resident until touched, for what is as long as the worst case.

    Linux refuses one allocation larger than its memory, but not one that reserves none.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if sys.platform != "linux" or size < _LARGE:
        return np.zeros(shape, dtype)
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named from Python 3.13 on
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    except OSError as error:
        raise MemoryError(f"{size} bytes cannot be reserved: {error}") from error
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)  # as NumPy does
    return np.frombuffer(memory, dtype).reshape(shape)


@dataclass(frozen=True)
class Plan:
    """A built lattice of N points and d features.

    `links` is the engine's own: how the rows of values hang together. It is as long as the worst
    case; only what the vertices need is ever written (and so, on systems that commit memory on
    first touch, ever resident).
    """

    vertex: Array  # [N, d+1] int32: the row of values that each corner touches
    weight: Array  # [N, d+1]: barycentric
    links: Array  # [links_size] int32

    @staticmethod
    def links_size(points: int, dims: int, quality: str) -> int:
        """Length of `links`, whatever the features."""
        corners = dims + 1
        vertices = points * corners
        if quality == "filled":
            vertices *= 2 * corners + 1
        return 1024 + 2 * corners * vertices + vertices // 32

    @classmethod
    def empty(cls, points: int, dims: int, dtype: Any, quality: str) -> "Plan":
        """Arrays for an engine to fill."""
        links = reserve((cls.links_size(points, dims, quality),), np.int32)
        shape = (points, dims + 1)
        return cls(np.empty(shape, np.int32), np.empty(shape, dtype), links)


@dataclass(frozen=True)
class LatticeKernel:
    """One kernel of a mean field: message = after * (K - diag(diagonal)) (before * q)."""

    kind: ClassVar = "lattice"
    plan: Plan
    before: Array | None = None  # [N]; None is 1
    after: Array | None = None  # [N]; None is 1
    diagonal: Array | None = None  # [N]; None is 0


class GridAxis(NamedTuple):
    """One axis of n pixels."""

    cell: Array  # [n] int32, ascending: the first of the three cells that a pixel touches
    taps: Array  # [n, 3] float64: its weights on them; they sum to 1
    band: Array  # [2 r + 1] float64: B, symmetric
    cells: int  # at least cell.max() + 3


@dataclass(frozen=True)
class GridKernel:
    """A kernel of a mean field on a grid: message = after * (K - diag(diagonal)) (before * q).

    Of each axis `splat` replaces its taps on the way into the grid and `slice` on the way out of
    it, so that a normaliser which is a product over the axes costs nothing per pixel.
    """

    kind: ClassVar = "grid"
    axes: tuple[GridAxis, ...]  # of (H, W) or (D, H, W)
    splat: tuple[Array, ...]  # [n, 3] float64 per axis
    slice: tuple[Array, ...]  # [n, 3] float64 per axis
    pixel: Array | None = None  # [N] int32: where each point lies in the image; None: all, in order
    before: Array | None = None  # [N]; None is 1
    after: Array | None = None  # [N]; None is 1
    diagonal: Array | None = None  # [N]; None is 0

    @property
    def size(self) -> tuple[int, ...]:
        """Of the image."""
        return tuple(len(axis.cell) for axis in self.axes)

    def transposed(self) -> "GridKernel":
        """The kernel of the adjoint."""
        return replace(
            self, splat=self.slice, slice=self.splat, before=self.after, after=self.before
        )


MeanFieldKernel = LatticeKernel | GridKernel


@dataclass(frozen=True)
class Problem:
    """The mean field of one image: N points, L labels.

    `saved` [T, N, row_width(L)] receives what the gradient needs; empty: nothing is kept.
    """

    kernels: Sequence[MeanFieldKernel]
    logits: Array  # [L, N]
    refined: Array  # [L, N], written
    saved: Array


@dataclass(frozen=True)
class KernelGradient:
    """Where the gradient of one lattice kernel goes; whatever is there is overwritten."""

    weight: Array  # [N, d+1]
    before: Array | None  # [N]; None exactly where the kernel has None
    after: Array | None
    diagonal: Array | None


@dataclass(frozen=True)
class BackwardProblem:
    """The gradient of one image's mean field."""

    kernels: Sequence[MeanFieldKernel]
    logits: Array  # [L, N]
    saved: Array  # as the forward pass left it
    d_refined: Array  # [L, N]
    d_logits: Array  # [L, N], written
    d_coupling: Array  # [K, L, L], written; K kernels
    d_kernels: Sequence[KernelGradient | None]  # written; None: not wanted, or a grid


class Engine(Protocol):
    """What a backend can do. Arguments are checked before; results go to the caller's arrays."""

    def build(
        self, features: Sequence[Array], plans: Sequence[Plan], quality: str, threads: int
    ) -> bool:
        """Fill each plan from features [N, d], of any strides.

        False: a feature is NaN, infinite or too large to be indexed; the plans mean nothing.
        """

    def num_vertices(self, plan: Plan) -> int:
        """Return M, the number of vertices of a built lattice."""

    def links_used(self, plan: Plan) -> int:
        """How many of the plan's `links` `build` wrote: all that a copy needs."""

    def filter(
        self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int
    ) -> None:
        """Write K values or K' values, [N, C], to `out`."""

    def filter_weight_gradient(
        self, plan: Plan, values: Array, cotangent: Array, transpose: bool, out: Array, threads: int
    ) -> None:
        """Write the gradient of <cotangent, K values> (or K') for the weights to `out` [N, d+1]."""

    def feature_gradient(
        self, features: Array, d_weight: Array, out: Array, threads: int
    ) -> None:
        """Write the gradient for the features [N, d], from that for the weights, to `out`.

        The features may have any strides; `out` is C-contiguous.
        """

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        """Write the diagonal of K to `out` [N]."""

    def self_response_gradient(
        self, plan: Plan, cotangent: Array, out: Array, threads: int
    ) -> None:
        """Write the gradient of <cotangent, diagonal> for the weights, [N, d+1], to `out`."""


def row_width(labels: int) -> int:
    """Length of the zero-padded rows in which fused engines keep marginals."""
    step = _limits.NARROW_STEP if labels <= _limits.NARROW_LABELS else _limits.WIDE_STEP
    return (labels + step - 1) // step * step


class FusedEngine(Engine, Protocol):
    """A backend that runs whole mean fields; coupling is mu W, [L, L], of each kernel."""

    def mean_field(
        self,
        problems: Sequence[Problem],
        coupling: Array,
        iterations: int,
        marginals: bool,
        memory_budget: int,
        threads: int,
    ) -> bool:
        """Write U' of the last iteration, or with `marginals` its softmax, of each problem.

        `memory_budget` bounds, in bytes per problem, what `saved` may take. Where the marginals of
        all iterations do not fit, the values at the vertices are saved instead, if they are fewer;
        so it has no effect where vertices outnumber points, or where a self term is removed.
        False: the logits of a problem hold NaN, +infinity, or a pixel of -infinity alone; its
        results mean nothing.
        """

    def mean_field_backward(
        self,
        problems: Sequence[BackwardProblem],
        coupling: Array,
        iterations: int,
        memory_budget: int,
        threads: int,
    ) -> None:
        """Write the gradients of each problem; `memory_budget` as in the forward pass."""
