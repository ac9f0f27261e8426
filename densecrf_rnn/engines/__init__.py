"""Engines, selected by name: they build and filter lattices and run mean fields on arrays."""

from .contract import (
    BackendUnavailableError, BackwardProblem, Engine, FusedEngine, GridKernel, KernelGradient,
    LatticeKernel, MeanFieldKernel, Plan, Problem, reserve, row_width,
)  # fmt: skip
from .registry import (
    available_backends, cuda_facts, default_threads, device_module, engine, fused, native_compiler,
    native_isa, resolve, why_unavailable,
)  # fmt: skip

__all__ = [
    "BackendUnavailableError", "BackwardProblem", "Engine", "FusedEngine", "GridKernel",
    "KernelGradient", "LatticeKernel", "MeanFieldKernel", "Plan", "Problem", "available_backends",
    "cuda_facts", "default_threads", "device_module", "engine", "fused", "native_compiler",
    "native_isa", "reserve", "resolve", "row_width", "why_unavailable",
]  # fmt: skip
