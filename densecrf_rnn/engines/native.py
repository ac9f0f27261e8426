"""The native CPU module as an engine."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._typing import Array
from ..params import QUALITIES
from .contract import (
    BackendUnavailableError,
    BackwardProblem,
    LatticeKernel,
    MeanFieldKernel,
    Plan,
    Problem,
)


class NativeCpu:
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
