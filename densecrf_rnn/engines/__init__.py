"""The engines that build and filter lattices, and run whole mean fields. Each works on checked
NumPy arrays; whoever calls one finds it by name here.
"""

from .contract import (
    BackendUnavailableError,
    BackwardProblem,
    Engine,
    FusedEngine,
    GridAxis,
    GridKernel,
    KernelGradient,
    LatticeKernel,
    MeanFieldKernel,
    Plan,
    Problem,
    reserve,
    row_width,
)
from .registry import (
    available_backends,
    cuda_facts,
    default_threads,
    device_module,
    engine,
    fused_engine,
    native_compiler,
    native_isa,
    resolve,
    why_unavailable,
)

__all__ = [
    "BackendUnavailableError",
    "BackwardProblem",
    "Engine",
    "FusedEngine",
    "GridAxis",
    "GridKernel",
    "KernelGradient",
    "LatticeKernel",
    "MeanFieldKernel",
    "Plan",
    "Problem",
    "available_backends",
    "cuda_facts",
    "default_threads",
    "device_module",
    "engine",
    "fused_engine",
    "native_compiler",
    "native_isa",
    "reserve",
    "resolve",
    "row_width",
    "why_unavailable",
]
