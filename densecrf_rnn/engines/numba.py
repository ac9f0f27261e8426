"""The Numba reference lattice as an engine."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._typing import Array
from .. import checks
from ..params import QUALITIES
from .contract import GridKernel, MeanFieldKernel, Plan, Problem


class Numba:
    """The reference lattice as an engine. It is serial and ignores `threads`.

    Numba does not check bounds, so shapes are checked here. The native module checks its own.
    """

    prunes = True

    def __init__(self) -> None:
        self._module = importlib.import_module("densecrf_rnn.reference.lattice")
        self._pruning = importlib.import_module("densecrf_rnn.reference.pruning")

    def build(
        self, features: Sequence[Array], plans: Sequence[Plan], quality: str, threads: int
    ) -> bool:
        checks.option("quality", quality, QUALITIES)
        for rows, plan in zip(features, plans, strict=True):
            points, dims = rows.shape
            _fits("plan", plan.vertex, (points, dims + 1))
            _fits("plan", plan.weight, (points, dims + 1))
            _fits("links", plan.links, (Plan.links_size(points, dims, quality),))
            if not checks.indexable(rows):
                return False
            plan.links[:2] = 0, QUALITIES.index(quality)
            arrays = (plan.vertex, plan.weight, plan.links[2:])
            plan.links[0] = self._module.build(rows, *arrays, filled=quality == "filled")
        return True

    def num_vertices(self, plan: Plan) -> int:
        return int(plan.links[0])

    def links_used(self, plan: Plan) -> int:
        return 2 + 2 * plan.vertex.shape[1] * self.num_vertices(plan)

    def _arrays(self, plan: Plan) -> tuple[Array, Array, Array]:
        """Return vertex, weight and neighbour [d+1, M, 2]."""
        shape = (plan.vertex.shape[1], self.num_vertices(plan), 2)
        neighbour = plan.links[2 : 2 + math.prod(shape)].reshape(shape)
        return plan.vertex, plan.weight, neighbour

    @staticmethod
    def _symmetric(plan: Plan) -> bool:
        """Return whether the quality of a built plan averages both orders of the axes."""
        return QUALITIES[plan.links[1]] != "standard"

    def filter(self, plan: Plan, values: Array, out: Array, transpose: bool, threads: int) -> None:
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

    def feature_gradient(self, features: Array, d_weight: Array, out: Array, threads: int) -> None:
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

    def pruned_mean_field(
        self, problem: Problem, coupling: Array, iterations: int, marginals: bool
    ) -> None:
        """Run the mean field of a problem with `prune` > 0; see `FusedEngine.mean_field`.

        `problem.saved` is not written.
        """
        logits = problem.logits
        kernels = [self._reference_kernel(kernel) for kernel in problem.kernels]
        tiles = _tiles(problem.kernels, logits.shape[1])
        options = (coupling, tiles, problem.prune, iterations)
        states = self._pruning.states(np.ascontiguousarray(logits.T), kernels, *options)
        problem.refined[:] = (states[-1].marginals if marginals else states[-1].refined).T
        if problem.kept is not None:
            problem.kept[:] = [(len(tiles), state.kept.sum()) for state in states[:-1]]

    def _reference_kernel(self, kernel: MeanFieldKernel) -> Any:
        """Return a kernel as reference/pruning.py takes it."""
        scales = (kernel.before, kernel.after, kernel.diagonal)
        if isinstance(kernel, GridKernel):
            axes = [
                (axis.cell, splat, slice_, axis.band, axis.cells)
                for axis, splat, slice_ in zip(
                    kernel.axes, kernel.splat, kernel.slice, strict=True
                )
            ]
            return self._pruning.grid_kernel(axes, kernel.pixel, *scales)
        arrays, symmetric = self._arrays(kernel.plan), self._symmetric(kernel.plan)

        def spread(values: Array) -> Array:
            sent = values if kernel.before is None else values * kernel.before[:, None]
            found: Array = self._module.spread(*arrays, sent, symmetric=symmetric)
            return found

        weights = self._module.slice_weights(kernel.plan.weight)
        weights = self._pruning.scaled(weights, kernel.after)
        return self._pruning.Kernel(
            kernel.plan.vertex, weights, spread, self._pruning.own(*scales)
        )


_TILE = 8  # side in pixels of the tiles of the last two axes


def _tiles(kernels: Sequence[MeanFieldKernel], points: int) -> list[Array]:
    """Divide the points into tiles: squares of pixels, or runs of points without a grid."""
    every = np.arange(points)
    grid = next((kernel for kernel in kernels if isinstance(kernel, GridKernel)), None)
    if grid is None:
        tile = every // _TILE**2
    else:
        *above, y, x = np.unravel_index(every if grid.pixel is None else grid.pixel, grid.size)
        blocks = tuple(-(-n // _TILE) for n in grid.size[-2:])
        tile = np.ravel_multi_index(
            (*above, y // _TILE, x // _TILE), (*grid.size[:-2], *blocks)
        )
    order = np.argsort(tile, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(tile[order])) + 1) if points else []


def _fits(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError if `array` does not have the given shape."""
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape} where {shape} is needed")
