"""The engines by name, and why one cannot run here. The only module that loads native code."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from . import native
from .contract import BackendUnavailableError, Engine, FusedEngine
from .numba import Numba

# In order of preference; "auto" takes the first that can run. They work on arrays.
_ENGINES: dict[str, Callable[[], Any]] = {"cpu": native.load, "numba": Numba}
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
    found: Any = engine("cpu")
    return str(found.isa())


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
