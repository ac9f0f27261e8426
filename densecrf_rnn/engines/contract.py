"""The contract of engines: the structs they work on and the operations they offer.

Engines work on checked NumPy arrays. The native module reads these structs by field name, so a
field that is renamed here must be renamed in cpp/bindings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from .. import _limits, _platform
from .._typing import Array


class BackendUnavailableError(RuntimeError):
    """A backend cannot run here; the message says why and what to do.

    Examples
    --------
    >>> from densecrf_rnn import refine
    >>> try:
    ...     refine(np.zeros((2, 8, 9), np.float32), backend="cuda")
    ... except BackendUnavailableError as error:
    ...     print("no GPU for arrays")
    no GPU for arrays
    """


def whole_strides(array: Array) -> Array:
    """Return an array as engines take it: copied if its strides are not whole elements.

    A field of a record array is such an array.
    """
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    return array if whole else array.copy()


_LARGE = 2**28  # bytes; arrays of at least this size get a memory mapping of their own


def reserve(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return zeros whose memory is not resident until touched, for arrays of worst-case size."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _platform.address_space(size) if size >= _LARGE else None
    return np.zeros(shape, dtype) if memory is None else np.frombuffer(memory, dtype).reshape(shape)


class Plan(NamedTuple):
    """A built lattice of N points and d features.

    The layout of `links` (vertices and their neighbours) is private to the engine that built it.
    Its length is that of the worst case, but only the part that the vertices need is written. The
    rest takes no memory on systems that commit memory on first touch.
    """

    vertex: Array  # [N, d+1] int32: vertex of each corner, an index into arrays of vertex values
    weight: Array  # [N, d+1]: barycentric weight of each corner
    links: Array  # [links_size] int32

    @staticmethod
    def links_size(points: int, dims: int, quality: str) -> int:
        """Return the length to allocate for `Plan.links`.

        It is the worst case over all features of this many points.
        """
        corners = dims + 1
        vertices = points * corners
        if quality == "filled":
            vertices *= 2 * corners + 1
        return 1024 + 2 * corners * vertices + vertices // 32

    @classmethod
    def empty(cls, points: int, dims: int, dtype: Any, quality: str) -> "Plan":
        """Allocate the arrays of a plan, for `Engine.build` to fill."""
        links = reserve((cls.links_size(points, dims, quality),), np.int32)
        shape = (points, dims + 1)
        return cls(np.empty(shape, np.int32), np.empty(shape, dtype), links)


class LatticeKernel(NamedTuple):
    """One kernel of a mean field: message = after * (K - diag(diagonal)) (before * q)."""

    plan: Plan
    before: Array | None = None  # [N]; None means 1
    after: Array | None = None  # [N]; None means 1
    diagonal: Array | None = None  # [N]; None means 0

    @property
    def kind(self) -> str:
        """The kind of kernel, by which engines tell it from a `GridKernel`."""
        return "lattice"


class GridAxis(NamedTuple):
    """The grid along one image axis of n pixels."""

    cell: Array  # [n] int32, ascending: first of the three cells that a pixel touches
    taps: Array  # [n, 3] float64: weights of the pixel for its three cells; they sum to 1
    band: Array  # [2 r + 1] float64: symmetric filter taps of the blur between cells
    cells: int  # number of cells, at least cell.max() + 3


@dataclass(frozen=True)
class GridKernel:
    """A kernel of a mean field on a grid: message = after * (K - diag(diagonal)) (before * q).

    `splat` and `slice` replace the taps of each axis in the splat and in the slice, so that a
    normaliser which is a product over the axes costs nothing per pixel.
    """

    kind: ClassVar = "grid"
    axes: tuple[GridAxis, ...]  # in the order (H, W) or (D, H, W)
    splat: tuple[Array, ...]  # [n, 3] float64 per axis
    slice: tuple[Array, ...]  # [n, 3] float64 per axis
    pixel: Array | None = None  # [N] int32: index of each point's pixel; None: all pixels in order
    before: Array | None = None  # [N]; None means 1
    after: Array | None = None  # [N]; None means 1
    diagonal: Array | None = None  # [N]; None means 0

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the image, (H, W) or (D, H, W)."""
        return tuple(len(axis.cell) for axis in self.axes)

    def transposed(self) -> "GridKernel":
        """Return the kernel of the adjoint operator."""
        return replace(
            self, splat=self.slice, slice=self.splat, before=self.after, after=self.before
        )


MeanFieldKernel = LatticeKernel | GridKernel


class Problem(NamedTuple):
    """Inputs and outputs of the mean field of one image: N points, L labels.

    `saved` [T, N, row_width(L)] receives what the backward pass needs, unless it is empty. With
    `prune` > 0, which an engine accepts if its `prunes` is True, labels of which a bound proves
    that their marginals are at most `prune` at all points of a tile count as 0 there. Engines run
    what they cannot prune exactly, and leave `kept` as it is.
    """

    kernels: Sequence[MeanFieldKernel]
    # [L, N] of any strides that are whole elements; where the coupling is float32 also float16 or,
    # with `quantization`, uint8. Fused engines alone take other logits than C-contiguous ones of
    # the coupling's dtype.
    logits: Array
    refined: Array  # [L, N], output, unless there is a `label_map`
    saved: Array
    prune: float = 0.0  # 0 <= prune < 1/L; 0: exact
    # [T, 2] int64, output, or None: of the marginals with which each iteration starts, the number
    # of tiles, and the number of labels that they keep, summed over the tiles
    kept: Array | None = None
    # (scale, zero) of uint8 logits, which are scale * (stored - zero); None for other dtypes
    quantization: tuple[float, float] | None = None
    # [N], output: the argmax of the refined logits, of equal ones the lowest, in uint8, uint16 or
    # uint32, the smallest for L labels; None: `refined` is written
    label_map: Array | None = None


@dataclass(frozen=True)
class KernelGradient:
    """Output arrays for the gradients with respect to one lattice kernel; they are overwritten."""

    weight: Array  # [N, d+1]
    before: Array | None  # [N]; this and the next two are None if they are None in the kernel
    after: Array | None
    diagonal: Array | None


@dataclass(frozen=True)
class BackwardProblem:
    """Inputs and outputs of the backward pass through one image's mean field."""

    kernels: Sequence[MeanFieldKernel]
    logits: Array  # [L, N]
    saved: Array  # as written by the forward pass
    d_refined: Array  # [L, N], input: the loss's gradient with respect to `refined`
    d_logits: Array  # [L, N], output
    d_coupling: Array  # [K, L, L] for K kernels, output
    d_kernels: Sequence[KernelGradient | None]  # output; None: not required, or a grid kernel


class Engine(Protocol):
    """Operations of a backend. Callers check arguments; results go to the caller's arrays.

    K is the filter of a lattice as a matrix [N, N], K' its transpose.
    """

    prunes: bool  # whether mean fields may have `Problem.prune` > 0

    def build(
        self, features: Sequence[Array], plans: Sequence[Plan], quality: str, threads: int
    ) -> bool:
        """Fill each plan from features [N, d], of any strides that are whole elements.

        Return False if a feature is NaN, infinite or too large to be indexed; the plans are then
        undefined.
        """

    def num_vertices(self, plan: Plan) -> int:
        """Return M, the number of vertices of a built lattice."""

    def links_used(self, plan: Plan) -> int:
        """Return how many elements at the start of `links` hold data."""

    def filter(self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int) -> None:
        """Filter values [N, C] to `out` [N, C]: K values or, with `transpose`, K' values."""

    def filter_weight_gradient(
        self, plan: Plan, values: Array, cotangent: Array, transpose: bool, out: Array, threads: int
    ) -> None:
        """Write the gradient with respect to the barycentric weights to `out` [N, d+1].

        It is the gradient of <cotangent, K values> or, with `transpose`, of <cotangent, K' values>.
        """

    def feature_gradient(self, features: Array, d_weight: Array, out: Array, threads: int) -> None:
        """Write the gradient with respect to the features [N, d] to `out`.

        `d_weight` [N, d+1] is the gradient with respect to the barycentric weights. The features
        may have any strides; `out` is C-contiguous.
        """

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        """Write the diagonal of K to `out` [N]."""

    def self_response_gradient(
        self, plan: Plan, cotangent: Array, out: Array, threads: int
    ) -> None:
        """Write the gradient of <cotangent, diagonal of K> to `out` [N, d+1].

        It is taken with respect to the barycentric weights.
        """


def row_width(labels: int) -> int:
    """Return the length of the zero-padded rows in which fused engines store L marginals."""
    step = _limits.NARROW_STEP if labels <= _limits.NARROW_LABELS else _limits.WIDE_STEP
    return (labels + step - 1) // step * step


class FusedEngine(Engine, Protocol):
    """A backend that runs whole mean fields; `coupling` [K, L, L] is mu W of each kernel."""

    def mean_field(
        self,
        problems: Sequence[Problem],
        coupling: Array,
        iterations: int,
        marginals: bool,
        memory_budget: int,
        threads: int,
    ) -> bool:
        """Write the refined logits of each problem, or with `marginals` their softmax.

        `memory_budget` limits the bytes of `saved` per problem. If the marginals of all iterations
        exceed it, the values at the vertices are saved instead, provided that there are fewer
        vertices than points and that no diagonal (i = j) term is removed. Return False if the
        logits of a problem contain NaN or +infinity, or are -infinity for all labels of a pixel;
        the results of that problem are then undefined.
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


class PruningEngine(Engine, Protocol):
    """A backend that runs whole mean fields only if labels may be left out."""

    def pruned_mean_field(
        self, problem: Problem, coupling: Array, iterations: int, marginals: bool
    ) -> None:
        """Run a problem with `prune` > 0, as `FusedEngine.mean_field`; `saved` is not written."""
