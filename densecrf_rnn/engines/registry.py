"""Select an engine by name, or say why it cannot run here. Only `engines/` loads native code."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from .. import _limits, _platform
from .contract import BackendUnavailableError, Engine, FusedEngine, PruningEngine
from .numba import Numba


@cache
def _native() -> FusedEngine:
    """Return the native CPU module, which reads the structs of `contract` by field name."""
    native: Any = importlib.import_module("densecrf_rnn._cpu")
    try:
        native.isa()
    except ValueError as error:  # DENSECRF_RNN_ISA has an unknown value
        raise BackendUnavailableError(f"backend 'cpu' cannot run here: {error}") from None
    return native


# Engines for NumPy arrays in order of preference; "auto" selects the first that can run.
_ENGINES: dict[str, Callable[[], Engine]] = {"cpu": _native, "numba": cache(Numba)}
ARRAY_ENGINES = tuple(_ENGINES)

# Engines for batches of torch tensors (nn/ops/device.py), with the device on which they must be.
# "serial" runs the CUDA programs on CPU threads, for tests.
_DEVICES = {"cuda": "cuda", "serial": "cpu"}

# Engines that compute on torch tensors alone, and may be asked for by name. "torch" itself consists
# of torch operations, so it serves every device.
TENSOR_ENGINES = ("torch", "cuda")

_agreed: set[str] = set()  # devices on which the CUDA engine passed its self-test in this process

_can_run: set[str] = set()  # cache of `why_unavailable`: names of engines that can run

# How to build each native module densecrf_rnn._<name>.
_BUILDS = {
    "cpu": "install a C++17 compiler and reinstall; in a source checkout use pip install -e ., "
    "because Python started there imports the source folder instead of an installed copy",
    "cuda": "reinstall with DENSECRF_RNN_CUDA=ON in the environment, and a CUDA compiler (nvcc)",
    "serial": "reinstall with DENSECRF_RNN_SERIAL=ON",
}


def why_unavailable(name: str) -> str | None:
    """Return a sentence that says why the engine `name` cannot run here, or None if it can."""
    if name in _can_run:
        return None
    reason = _why_unavailable(name)
    if reason is None:
        _can_run.add(name)
    return reason


def _why_unavailable(name: str) -> str | None:
    """Compute the result of `why_unavailable` without its cache."""
    if name in ("numba", "torch"):
        missing = importlib.util.find_spec(name) is None
        return f"{name} is not installed; pip install 'densecrf-rnn[{name}]'" if missing else None
    if name not in _BUILDS:
        choices = ", ".join([*_ENGINES, *TENSOR_ENGINES])
        return f"there is no backend of that name; choose from {choices} or auto"
    module = f"densecrf_rnn._{name}"
    if importlib.util.find_spec(module) is None:
        return f"the native module {module} was not compiled; {_BUILDS[name]}"
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        return f"the native module {module} does not load ({error}); {_BUILDS[name]}"
    wanted = {key: value for key, value in vars(_limits).items() if key.isupper()}
    if getattr(loaded, "limits", None) != wanted:
        return (
            f"the native module {module} is of another version of this package; {_BUILDS[name]}"
        )
    try:
        found = name == "cpu" or loaded.devices()
    except RuntimeError as error:
        return f"the native module {module} finds no GPU ({error})"
    return None if found else "no GPU here can run cooperative kernels"


def available_backends() -> list[str]:
    """Return the names of the engines that can run here, in order of preference.

    Examples
    --------
    >>> import densecrf_rnn
    >>> set(densecrf_rnn.available_backends()) <= {"cpu", "numba", "torch", "cuda"}
    True
    """
    return [name for name in (*_ENGINES, *TENSOR_ENGINES) if why_unavailable(name) is None]


def resolve(name: str) -> str:
    """Return the name of the engine that `name`, a backend or "auto", selects.

    Raises
    ------
    BackendUnavailableError
        That engine cannot run here, or `name` is "auto" and no engine can.
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
    """Return the engine `name` for NumPy arrays; "auto" selects the first that can run.

    Raises
    ------
    BackendUnavailableError
        That engine cannot run here, or computes on torch tensors only.
    """
    if name != "torch":
        name = resolve(name)
    if name in _DEVICES or name in TENSOR_ENGINES:
        raise BackendUnavailableError(
            f"backend {name!r} computes on torch tensors only; use densecrf_rnn.CRFRNN or "
            "densecrf_rnn.nn.functional.mean_field, or backend='auto' for NumPy arrays"
        )
    return _ENGINES[name]()


def fused(engine: Engine) -> FusedEngine | None:
    """Return `engine` if it runs whole mean fields, else None."""
    found: Any = engine
    return found if hasattr(engine, "mean_field") else None


def pruner(engine: Engine) -> PruningEngine | None:
    """Return `engine` if it runs whole mean fields only where labels may be left out, else None."""
    found: Any = engine
    return found if hasattr(engine, "pruned_mean_field") else None


def check_pruning(name: str, prune: float) -> None:
    """Raise if labels may be left out (`prune` > 0) but the engine `name` is exact only."""
    of_arrays = name == "auto" or name in _ENGINES
    if prune == 0 or (of_arrays and engine(name).prunes):
        return
    found = [one for one in _ENGINES if why_unavailable(one) is None and engine(one).prunes]
    others = "".join(f", or use backend={one!r}" for one in found)
    raise BackendUnavailableError(
        f"prune is {prune:g} but backend {resolve(name)!r} does not leave labels out; set "
        f"prune=0{others}"
    )


def for_tensors(name: str, device: str) -> str:
    """Return the name of the engine that computes on torch tensors on a device, such as "cuda:0".

    "auto" selects, on a CPU, the first of the engines for arrays that can run, or else "torch". On
    another device it selects the CUDA engine if `agree` was called for this device, or else
    "torch".

    Raises
    ------
    BackendUnavailableError
        Backend `name` does not compute on tensors on that device.
    """
    kind = device.partition(":")[0]
    if kind == "meta":
        raise BackendUnavailableError(
            f"backend {name!r} does not compute on tensors that are on meta, which have no values; "
            "use .to_empty(device=...) for a module and real tensors for its inputs"
        )
    if name == "torch":
        return name
    if name == "auto" and kind == "cpu":
        return next((one for one in _ENGINES if why_unavailable(one) is None), "torch")
    if name == "auto":
        return "cuda" if device in _agreed else "torch"
    if _DEVICES.get(name, "cpu") != kind:
        way_out = "move them to a GPU (.cuda())" if name == "cuda" else "use .cpu() tensors"
        raise BackendUnavailableError(
            f"backend {name!r} does not compute on tensors that are on {device}; {way_out}, or use "
            "backend='torch'"
        )
    return name


def agree(device: str) -> None:
    """Let "auto" select the CUDA engine on a device: its results were those of engine "torch"."""
    _agreed.add(device)


def device_module(name: str, device: str) -> Any:
    """Return the native module of an engine that computes on torch tensors; None for others.

    Raises
    ------
    BackendUnavailableError
        Backend `name` cannot run here, or does not compute on tensors on that device.
    """
    if for_tensors(name, device) not in _DEVICES:
        return None
    return importlib.import_module(f"densecrf_rnn._{resolve(name)}")


def native_compiler() -> str | None:
    """Return the compiler of the native CPU module, with version, or None without the module."""
    if why_unavailable("cpu") is not None:
        return None
    return str(importlib.import_module("densecrf_rnn._cpu").compiler)


def native_isa() -> str | None:
    """Return the instruction set of the native CPU module's loops, or None without the module.

    It is the best that this processor has, unless the environment variable DENSECRF_RNN_ISA
    selects a lower one: baseline, avx2 or avx512.

    Raises
    ------
    BackendUnavailableError
        DENSECRF_RNN_ISA has another value.
    """
    if why_unavailable("cpu") is not None:
        return None
    found: Any = _native()
    return str(found.isa())


def cuda_facts() -> dict[str, Any] | None:
    """Return the CUDA module's architectures, compiler, driver and devices, by name.

    Return None if the module was not compiled or cannot be loaded.

    Each device has a name, a capability (10 major + minor) and a memory (bytes).
    """
    if importlib.util.find_spec("densecrf_rnn._cuda") is None:
        return None
    try:
        module: Any = importlib.import_module("densecrf_rnn._cuda")
    except ImportError:
        return None
    try:
        devices = module.devices()
    except RuntimeError:  # no driver or no device, which why_unavailable reports
        devices = []
    names = ("name", "capability", "memory")
    return {
        "architectures": module.architectures,
        "compiler": module.compiler,
        "driver": module.driver(),
        "devices": [{name: getattr(device, name) for name in names} for device in devices],
    }


def default_threads() -> int:
    """Return OMP_NUM_THREADS or, if it is not set, the number of CPUs of this process."""
    try:
        wanted = int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
    except ValueError:
        wanted = 0
    if wanted > 0:
        return min(wanted, 2**31 - 1)  # native code counts threads in an int
    return _platform.processors()
