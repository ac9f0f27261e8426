"""Engines, selected by name: they build and filter lattices and run mean fields on arrays."""

from .contract import (
    BackendUnavailableError, BackwardProblem, Engine, FusedEngine, GridKernel, KernelGradient,
    LatticeKernel, MeanFieldKernel, Plan, Problem, PruningEngine, reserve, row_width,
    whole_strides,
)  # fmt: skip
from .registry import (
    agree, available_backends, check_pruning, cuda_facts, default_threads, device_module, engine,
    for_tensors, fused, native_compiler, native_isa, pruner, resolve, why_unavailable,
)  # fmt: skip

__all__ = [
    "BackendUnavailableError", "BackwardProblem", "Engine", "FusedEngine", "GridKernel",
    "KernelGradient", "LatticeKernel", "MeanFieldKernel", "Plan", "Problem", "PruningEngine",
    "agree", "available_backends", "check_pruning", "cuda_facts", "default_threads",
    "device_module", "engine", "for_tensors", "fused", "native_compiler", "native_isa", "pruner",
    "reserve", "resolve", "row_width", "whole_strides", "why_unavailable",
]  # fmt: skip
