"""The engines that can build and filter a lattice, and why one cannot run here.

The only module that reaches native code. An engine works on checked NumPy arrays; `Plan` is what
it builds: plain data, but laid out as that engine likes it.
"""

import contextlib
import importlib
import importlib.util
import math
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import _checks
from .grid import GridKernel as GridKernel  # a part of this boundary
from .params import QUALITIES

Array = np.ndarray[Any, Any]


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
    first touch, ever resident). Its first two numbers are M, the number of vertices, and the
    quality.
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

    @property
    def num_vertices(self) -> int:
        """M, once built."""
        return int(self.links[0])


@dataclass(frozen=True)
class LatticeKernel:
    """One kernel of a mean field: message = after * (K - diag(diagonal)) (before * q)."""

    plan: Plan
    before: Array | None = None  # [N]; None is 1
    after: Array | None = None  # [N]; None is 1
    diagonal: Array | None = None  # [N]; None is 0


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
    """Length of the zero-padded rows in which fused engines keep marginals (cpp/cpu/rows.hpp)."""
    step = 4 if labels <= 32 else 8
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


@dataclass(frozen=True)
class GibbsProblem:
    """Sweeps of a batch of grid CRFs that share tables and edge classes."""

    logits: Array  # [B, L, H, W] float32
    labels: Array  # [B, H, W] int32, written; below 0: the pixel takes no part
    tables: Array  # [C, L, L] float32
    offsets: Array  # [C, 2] int32, rows and columns
    colouring: tuple[int, int, int]  # a pixel's colour is (a column + b row) mod m
    seed: int  # below 2^64
    chains: Array  # [B] uint64; with seed, sweep and pixel they make the random numbers
    first_sweep: Array  # [B] uint64, the number of the first sweep of each
    inverse_temperature: Array  # [S] float32, of each sweep; infinity: the likeliest label
    marginals: Array | None  # [B, H, W, L] float64, the conditionals drawn from are added
    changes: Array  # [B, S] int64, written: how many labels changed


class GibbsEngine(Protocol):
    """A backend that samples grid CRFs; any two of them give the same bits."""

    def gibbs_sweep(self, problem: GibbsProblem, threads: int) -> None:
        """Draw every pixel once in each sweep, colour by colour."""

    def gibbs_statistics(
        self, labels: Array, offsets: Array, counts: Array, threads: int
    ) -> None:
        """Add to counts [C, L, L] int64 the pairs of labels [B, H, W] at the ends of edges."""


class _NativeCpu:
    def __init__(self) -> None:
        self._module = importlib.import_module("densecrf_rnn._cpu")
        try:
            self.isa = str(self._module.isa())
        except ValueError as error:  # DENSECRF_RNN_ISA names none
            raise BackendUnavailableError(f"backend 'cpu' cannot run here: {error}") from None

    def build(
        self, features: Sequence[Array], plans: Sequence[Plan], quality: str, threads: int
    ) -> bool:
        tuples = [(f, p.vertex, p.weight, p.links) for f, p in zip(features, plans, strict=True)]
        return bool(self._module.build(tuples, QUALITIES.index(quality), threads))

    def links_used(self, plan: Plan) -> int:
        # As Links in cpp/cpu/build.cpp reads them: a header, which row each vertex owns, the ghosts
        # and their owners, and a chain along each axis.
        corners = plan.vertex.shape[1]
        chains = int(plan.links[32 : 32 + corners].sum(dtype=np.int64))
        return 64 + plan.num_vertices + 2 * int(plan.links[3]) + chains

    def filter(
        self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int
    ) -> None:
        self._module.filter(plan.vertex, plan.weight, plan.links, values, out, transpose, threads)

    def filter_weight_gradient(
        self, plan: Plan, values: Array, cotangent: Array, transpose: bool, out: Array, threads: int
    ) -> None:
        arrays = (plan.vertex, plan.weight, plan.links, values, cotangent, out)
        self._module.filter_weight_gradient(*arrays, transpose, threads)

    def feature_gradient(
        self, features: Array, d_weight: Array, out: Array, threads: int
    ) -> None:
        self._module.feature_gradient(features, d_weight, out, threads)

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        self._module.self_response(plan.vertex, plan.weight, plan.links, out, threads)

    def self_response_gradient(
        self, plan: Plan, cotangent: Array, out: Array, threads: int
    ) -> None:
        arrays = (plan.vertex, plan.weight, plan.links, cotangent, out)
        self._module.self_response_gradient(*arrays, threads)

    def mean_field(
        self,
        problems: Sequence[Problem],
        coupling: Array,
        iterations: int,
        marginals: bool,
        memory_budget: int,
        threads: int,
    ) -> bool:
        tuples = [(_kernels(p.kernels), p.logits, p.refined, p.saved) for p in problems]
        options = (iterations, marginals, memory_budget, threads)
        return bool(self._module.mean_field(tuples, coupling, *options))

    def mean_field_backward(
        self,
        problems: Sequence[BackwardProblem],
        coupling: Array,
        iterations: int,
        memory_budget: int,
        threads: int,
    ) -> None:
        tuples = []
        for p in problems:
            wanted = [
                None if g is None else (g.weight, g.before, g.after, g.diagonal)
                for g in p.d_kernels
            ]
            arrays = (p.logits, p.saved, p.d_refined, p.d_logits, p.d_coupling)
            tuples.append((_kernels(p.kernels), *arrays, wanted))
        self._module.mean_field_backward(tuples, coupling, iterations, memory_budget, threads)

    def gibbs_sweep(self, problem: GibbsProblem, threads: int) -> None:
        p = problem
        self._module.gibbs_sweep(
            p.logits, p.labels, p.tables, p.offsets, tuple(p.colouring), p.seed, p.chains,
            p.first_sweep, p.inverse_temperature, p.marginals, p.changes, threads,
        )  # fmt: skip

    def gibbs_statistics(
        self, labels: Array, offsets: Array, counts: Array, threads: int
    ) -> None:
        self._module.gibbs_statistics(labels, offsets, counts, threads)


def _kernels(kernels: Sequence[MeanFieldKernel]) -> list[tuple[Any, ...]]:
    """Kernels as the native module takes them."""
    tuples: list[tuple[Any, ...]] = []
    for k in kernels:
        scales = (k.before, k.after, k.diagonal)
        if isinstance(k, LatticeKernel):
            tuples.append(("lattice", k.plan.vertex, k.plan.weight, k.plan.links, *scales))
        else:
            axes = [
                (axis.cell, splat, slice_, axis.band, axis.cells)
                for axis, splat, slice_ in zip(k.axes, k.splat, k.slice, strict=True)
            ]
            tuples.append(("grid", axes, k.pixel, *scales))
    return tuples


class _Numba:
    """The reference lattice as an engine; serial, so it takes no notice of `threads`.

    Numba does not check bounds, so shapes are checked here, as the native module does itself.
    """

    def __init__(self) -> None:
        self._module = importlib.import_module("densecrf_rnn.reference.lattice")
        self._gibbs = importlib.import_module("densecrf_rnn.reference.gibbs_numba")

    def build(
        self, features: Sequence[Array], plans: Sequence[Plan], quality: str, threads: int
    ) -> bool:
        for rows, plan in zip(features, plans, strict=True):
            points, dims = rows.shape
            _fits("plan", plan.vertex, (points, dims + 1))
            _fits("plan", plan.weight, (points, dims + 1))
            _fits("links", plan.links, (Plan.links_size(points, dims, quality),))
            if not _checks.indexable(rows):
                return False
            plan.links[:2] = 0, QUALITIES.index(quality)
            arrays = (plan.vertex, plan.weight, plan.links[2:])
            plan.links[0] = self._module.build(rows, *arrays, filled=quality == "filled")
        return True

    def links_used(self, plan: Plan) -> int:
        return 2 + 2 * plan.vertex.shape[1] * plan.num_vertices

    @staticmethod
    def _arrays(plan: Plan) -> tuple[Array, Array, Array]:
        """vertex, weight and neighbour [d+1, M, 2]."""
        shape = (plan.vertex.shape[1], plan.num_vertices, 2)
        neighbour = plan.links[2 : 2 + math.prod(shape)].reshape(shape)
        return plan.vertex, plan.weight, neighbour

    @staticmethod
    def _symmetric(plan: Plan) -> bool:
        return QUALITIES[plan.links[1]] != "standard"

    def filter(
        self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int
    ) -> None:
        _fits("values", values, (len(plan.vertex), out.shape[1]))
        _fits("out", out, values.shape)
        options = {"symmetric": self._symmetric(plan), "transpose": transpose}
        self._module.filter(*self._arrays(plan), values, out, **options)

    def filter_weight_gradient(
        self, plan: Plan, values: Array, cotangent: Array, transpose: bool, out: Array, threads: int
    ) -> None:
        _fits("values", values, (len(plan.vertex), cotangent.shape[1]))
        _fits("cotangent", cotangent, values.shape)
        _fits("out", out, plan.weight.shape)
        options = {"symmetric": self._symmetric(plan), "transpose": transpose}
        arrays = (*self._arrays(plan), values, cotangent, out)
        self._module.filter_weight_gradient(*arrays, **options)

    def feature_gradient(
        self, features: Array, d_weight: Array, out: Array, threads: int
    ) -> None:
        _fits("d_weight", d_weight, (len(features), features.shape[1] + 1))
        _fits("out", out, features.shape)
        self._module.feature_gradient(features, d_weight, out)

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        _fits("out", out, plan.vertex.shape[:1])
        self._module.self_response(*self._arrays(plan), out)

    def self_response_gradient(
        self, plan: Plan, cotangent: Array, out: Array, threads: int
    ) -> None:
        _fits("cotangent", cotangent, plan.vertex.shape[:1])
        _fits("out", out, plan.weight.shape)
        self._module.self_response_gradient(*self._arrays(plan), cotangent, out)

    def gibbs_sweep(self, problem: GibbsProblem, threads: int) -> None:
        p = problem
        images, count, height, width = p.logits.shape
        _fits("labels", p.labels, (images, height, width))
        _fits("tables", p.tables, (len(p.offsets), count, count))
        self._gibbs.sweep(
            p.logits, p.labels, p.tables, p.offsets, p.colouring, p.seed, p.chains,
            p.first_sweep, p.inverse_temperature, p.marginals, p.changes,
        )  # fmt: skip

    def gibbs_statistics(
        self, labels: Array, offsets: Array, counts: Array, threads: int
    ) -> None:
        self._gibbs.statistics(labels, offsets, counts)


def _fits(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape} where {shape} is needed")


# In order of preference; "auto" takes the first that can run. They work on arrays.
_ENGINES: dict[str, type[Engine]] = {"cpu": _NativeCpu, "numba": _Numba}
_loaded: dict[str, Engine] = {}

# Those that work on whole batches of torch tensors (nn/device.py), and where such tensors are.
# "serial" runs the programs of "cuda" on a CPU, one thread for all of a device's: for tests.
_DEVICES = {"cuda": "cuda", "serial": "cpu"}

_BUILD = (
    "reinstall where a C++17 compiler is found; in a checkout pip install -e ., for an installed "
    "copy is not seen from inside the source folder"
)


def why_unavailable(name: str) -> str | None:
    """Why the engine `name` cannot run here, in one sentence; None when it can."""
    if name == "cpu":
        if sys.modules.get("densecrf_rnn._cpu") is not None:  # asked several times in every call
            return None
        if importlib.util.find_spec("densecrf_rnn._cpu") is None:
            return f"the native module densecrf_rnn._cpu was not compiled; {_BUILD}"
        try:
            importlib.import_module("densecrf_rnn._cpu")
        except ImportError as error:
            return f"the native module densecrf_rnn._cpu does not load ({error}); {_BUILD}"
        return None
    if name == "numba":
        if importlib.util.find_spec("numba") is None:
            return "numba is not installed; pip install 'densecrf-rnn[numba]'"
        return None
    if name in _DEVICES:
        return _why_no_device(name)
    choices = ", ".join([*_ENGINES, "cuda"])
    return f"there is no backend of that name; choose from {choices} or auto"


def _why_no_device(name: str) -> str | None:
    module = f"densecrf_rnn._{name}"
    if importlib.util.find_spec(module) is None:
        needs = "a CUDA compiler (nvcc)" if name == "cuda" else "DENSECRF_RNN_SERIAL=ON"
        return f"the native module {module} was not compiled; reinstall with {needs}"
    try:
        found = importlib.import_module(module).devices()
    except (ImportError, RuntimeError) as error:
        return f"the native module {module} finds no GPU ({error})"
    return None if found else "no GPU here can run cooperative kernels"


def available_backends() -> list[str]:
    """Names of the engines that can run here, the preferred one first.

    Examples
    --------
    >>> import densecrf_rnn
    >>> set(densecrf_rnn.available_backends()) <= {"cpu", "numba", "cuda"}
    True
    """
    return [name for name in (*_ENGINES, "cuda") if why_unavailable(name) is None]


def resolve(name: str) -> str:
    """The engine that `name` ("auto" or a backend's name) stands for.

    Raises
    ------
    BackendUnavailableError
        It cannot run here, or with "auto" none can.
    """
    if name != "auto":
        reason = why_unavailable(name) if isinstance(name, str) else "its name must be a string"
        if reason is not None:
            raise BackendUnavailableError(f"backend {name!r} cannot run here: {reason}")
        return name
    reasons = []
    for candidate in _ENGINES:
        reason = why_unavailable(candidate)
        if reason is None:
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise BackendUnavailableError(f"no backend can run here ({'; '.join(reasons)})")


def engine(name: str) -> Engine:
    """The engine `name`, loaded once; "auto" takes the preferred one that can run."""
    name = resolve(name)
    if name in _DEVICES:
        raise BackendUnavailableError(
            f"backend {name!r} computes on torch tensors alone; use densecrf_rnn.CRFRNN or "
            "densecrf_rnn.nn.functional.mean_field, or backend='auto' for NumPy arrays"
        )
    if name not in _loaded:
        _loaded[name] = _ENGINES[name]()
    return _loaded[name]


def fused_engine(name: str) -> FusedEngine | None:
    """The engine `name`, if it runs whole mean fields; else None."""
    found: Any = engine(name)
    return found if hasattr(found, "mean_field") else None


def gibbs_engine(name: str) -> GibbsEngine:
    """The engine `name`, which samples too."""
    found: Any = engine(name)
    return found


def device_module(name: str, device: str) -> Any:
    """The native module that computes on torch tensors of a kind of device ("cpu", "cuda").

    None where tensors of that kind are computed on as NumPy arrays, by `engine`.

    Raises
    ------
    BackendUnavailableError
        No engine, or not `name`, computes on such tensors here.
    """
    if device == "cuda" and name == "auto":
        name = "cuda"
    if device == "cpu" and name not in _DEVICES:
        return None
    if _DEVICES.get(name, "cpu") != device:
        way_out = "move them to a GPU (.cuda())" if name == "cuda" else "use .cpu() tensors"
        raise BackendUnavailableError(
            f"backend {name!r} does not compute on tensors that are on {device}; {way_out}"
        )
    return importlib.import_module(f"densecrf_rnn._{resolve(name)}")


def native_compiler() -> str | None:
    """Name and version of the compiler that made the native module; None if there is no module."""
    if why_unavailable("cpu") is not None:
        return None
    return str(importlib.import_module("densecrf_rnn._cpu").compiler)


def native_isa() -> str | None:
    """The instruction set that the native module's loops use; None if there is no module.

    It is the best that this processor has, or a lesser one that the environment variable
    DENSECRF_RNN_ISA names: baseline, avx2 or avx512.

    Raises
    ------
    BackendUnavailableError
        The variable holds another word.
    """
    if why_unavailable("cpu") is not None:
        return None
    native: Any = engine("cpu")
    return str(native.isa)


def cuda_facts() -> dict[str, Any] | None:
    """What the CUDA module was compiled for, and the driver and devices it finds; None without it.

    `devices` holds name, capability (10 major + minor) and memory (bytes) of each.
    """
    if importlib.util.find_spec("densecrf_rnn._cuda") is None:
        return None
    try:
        module: Any = importlib.import_module("densecrf_rnn._cuda")
    except ImportError:
        return None
    try:
        devices = module.devices()
    except RuntimeError:  # no driver, or no device; why_unavailable says it
        devices = []
    names = ("name", "capability", "memory")
    return {
        "architectures": module.architectures,
        "compiler": module.compiler,
        "driver": module.driver(),
        "devices": [dict(zip(names, device, strict=True)) for device in devices],
    }


def default_threads() -> int:
    """Threads when the caller names none: OMP_NUM_THREADS, else the processors of this process."""
    try:
        wanted = int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
    except ValueError:
        wanted = 0
    if wanted > 0:
        return wanted
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
