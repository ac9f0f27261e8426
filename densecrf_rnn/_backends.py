"""The engines that can build and filter a lattice, and why one cannot run here.

The only module that reaches native code. An engine works on checked, C-contiguous NumPy arrays;
`Plan` is what it builds, and is plain data, so any engine can filter any engine's plan.
"""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class BackendUnavailableError(RuntimeError):
    """The named engine cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """A built lattice of N points, d features and M vertices (layouts: cpp/cpu/lattice.hpp).

    The last three arrays are as long as the worst case; only what M vertices need is ever written
    (and so, on systems that commit memory on first touch, ever resident).
    """

    vertex: Array  # [N, d+1] int32
    weight: Array  # [N, d+1]
    neighbour: Array  # [2 N (d+1)^2] int32
    offset: Array  # [N (d+1) + 1] int32
    entry: Array  # [N (d+1)] int32
    num_vertices: int

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array, Array]:
        """All of them, in the order in which native functions take them."""
        return self.vertex, self.weight, self.neighbour, self.offset, self.entry

    @staticmethod
    def sizes(points: int, dims: int) -> tuple[int, int, int]:
        """Lengths of `neighbour`, `offset` and `entry`."""
        corners = points * (dims + 1)
        return 2 * corners * (dims + 1), corners + 1, corners

    @classmethod
    def empty(cls, points: int, dims: int, dtype: Any) -> "Plan":
        """Arrays for an engine to fill."""
        neighbour, offset, entry = (np.empty(n, np.int32) for n in cls.sizes(points, dims))
        shape = (points, dims + 1)
        vertex, weight = np.empty(shape, np.int32), np.empty(shape, dtype)
        return cls(vertex, weight, neighbour, offset, entry, 0)


@dataclass(frozen=True)
class NormalizedKernel:
    """One kernel of a mean field: message = after * (K - diag(diagonal)) (before * q)."""

    plan: Plan
    before: Array | None  # [N]; None is 1
    after: Array | None  # [N]; None is 1
    diagonal: Array | None  # [N]; None is 0


class Engine(Protocol):
    """What a backend can do. Arguments are checked before; results go to the caller's arrays."""

    def build(self, features: Array, plan: Plan, threads: int) -> int:
        """Fill the arrays of `plan` from features [N, d]; the number of vertices."""

    def filter(
        self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int
    ) -> None:
        """Write K values or K' values, [N, C], to `out`."""

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        """Write the diagonal of K to `out` [N]."""


def row_width(labels: int) -> int:
    """Length of the zero-padded rows in which fused engines keep marginals (cpp/cpu/rows.hpp)."""
    return (labels + 3) // 4 * 4


class FusedEngine(Engine, Protocol):
    """A backend that runs whole mean fields; coupling is mu W, [L, L], of each kernel."""

    def mean_field(
        self,
        kernels: list[NormalizedKernel],
        coupling: Array,
        logits: Array,
        refined: Array,
        saved_q: Array,
        iterations: int,
        threads: int,
    ) -> None:
        """Write the refined logits [L, N] for logits [L, N] and couplings [M, L, L].

        `saved_q` receives what the gradient needs, [T, N, row_width(L)]; empty: nothing is kept.
        """

    def mean_field_backward(
        self,
        kernels: list[NormalizedKernel],
        coupling: Array,
        saved_q: Array,
        d_refined: Array,
        d_logits: Array,
        d_coupling: Array,
        threads: int,
    ) -> None:
        """Write the gradients for logits [L, N] and couplings [M, L, L], given d_refined."""


class _NativeCpu:
    def __init__(self) -> None:
        self._module = importlib.import_module("densecrf_rnn._cpu")

    def build(self, features: Array, plan: Plan, threads: int) -> int:
        return int(self._module.build(features, *plan.arrays, threads))

    def filter(
        self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int
    ) -> None:
        self._module.filter(*plan.arrays, plan.num_vertices, values, out, transpose, threads)

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        self._module.self_response(*plan.arrays, plan.num_vertices, out, threads)

    def mean_field(
        self,
        kernels: list[NormalizedKernel],
        coupling: Array,
        logits: Array,
        refined: Array,
        saved_q: Array,
        iterations: int,
        threads: int,
    ) -> None:
        tuples = self._tuples(kernels, coupling)
        self._module.mean_field(tuples, logits, refined, saved_q, iterations, threads)

    def mean_field_backward(
        self,
        kernels: list[NormalizedKernel],
        coupling: Array,
        saved_q: Array,
        d_refined: Array,
        d_logits: Array,
        d_coupling: Array,
        threads: int,
    ) -> None:
        arrays = (saved_q, d_refined, d_logits, d_coupling)
        self._module.mean_field_backward(self._tuples(kernels, coupling), *arrays, threads)

    @staticmethod
    def _tuples(kernels: list[NormalizedKernel], coupling: Array) -> list[tuple[Any, ...]]:
        tuples = []
        for k, c in zip(kernels, coupling, strict=True):
            tuples.append((*k.plan.arrays, k.plan.num_vertices, k.before, k.after, k.diagonal, c))
        return tuples


class _Numba:
    """The reference lattice as an engine; serial, so it takes no notice of `threads`.

    Numba does not check bounds, so shapes are checked here, as the native module does itself.
    """

    def __init__(self) -> None:
        self._module = importlib.import_module("densecrf_rnn.reference.lattice")

    def build(self, features: Array, plan: Plan, threads: int) -> int:
        points, dims = features.shape
        found = (plan.neighbour.size, plan.offset.size, plan.entry.size)
        if plan.vertex.shape != (points, dims + 1) or found != Plan.sizes(points, dims):
            raise ValueError("the arrays of the plan do not fit the features")
        return int(self._module.build(features, *plan.arrays))

    def filter(
        self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int
    ) -> None:
        if len(values) != len(plan.vertex) or values.shape != out.shape:
            raise ValueError(f"values is {values.shape}, out {out.shape}; N is {len(plan.vertex)}")
        arrays = (plan.vertex, plan.weight, plan.neighbour)
        self._module.filter(*arrays, plan.num_vertices, values, out, transpose)

    def self_response(self, plan: Plan, out: Array, threads: int) -> None:
        if out.shape != plan.vertex.shape[:1]:
            raise ValueError(f"out is {out.shape}; N is {len(plan.vertex)}")
        arrays = (plan.vertex, plan.weight, plan.neighbour)
        self._module.self_response(*arrays, plan.num_vertices, out)


# In order of preference; "auto" takes the first that can run.
_ENGINES: dict[str, type[Engine]] = {"cpu": _NativeCpu, "numba": _Numba}
_loaded: dict[str, Engine] = {}

_BUILD = (
    "reinstall where a C++17 compiler is found; in a checkout pip install -e ., for an installed "
    "copy is not seen from inside the source folder"
)


def why_unavailable(name: str) -> str | None:
    """Why the engine `name` cannot run here, in one sentence; None when it can."""
    if name == "cpu":
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
    if name == "cuda":
        return "this version has no CUDA engine"
    return f"there is no backend of that name; choose from {', '.join(_ENGINES)} or auto"


def available_backends() -> list[str]:
    """Names of the engines that can run here, the preferred one first.

    Examples
    --------
    >>> import densecrf_rnn
    >>> set(densecrf_rnn.available_backends()) <= {"cpu", "numba"}
    True
    """
    return [name for name in _ENGINES if why_unavailable(name) is None]


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
    if name not in _loaded:
        _loaded[name] = _ENGINES[name]()
    return _loaded[name]


def fused_engine(name: str) -> FusedEngine | None:
    """The engine `name`, if it runs whole mean fields; else None."""
    found: Any = engine(name)
    return found if hasattr(found, "mean_field") else None


def native_compiler() -> str | None:
    """Name and version of the compiler that made the native module; None if there is no module."""
    if why_unavailable("cpu") is not None:
        return None
    return str(importlib.import_module("densecrf_rnn._cpu").compiler)


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
