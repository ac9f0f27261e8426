"""PermutohedralLattice: a Gaussian filter over scattered points of up to 16 dimensions."""

from dataclasses import replace
from typing import Any

import numpy as np

from ._typing import Array
from . import engines, checks
from .params import QUALITIES, Quality


class PermutohedralLattice:
    """A fast approximate Gaussian filter: plan once for some points, filter any number of times.

    Filtering computes out_i = sum_j exp(-|f_i - f_j|^2 / 2) values_j approximately, in time that
    is linear in the number of points and does not depend on the width of the kernel.

    Parameters
    ----------
    features : ndarray [N, D], float32 or float64, finite, 1 <= D <= 16
        Points, already divided by their bandwidths (the kernel's deviation is 1 along each axis).
    quality : {"standard", "symmetric", "filled"}
        "symmetric" blurs in either order of the axes and takes the mean, which makes the filter
        exactly symmetric at twice the blurring. "filled" also adds every neighbour of the vertices
        that points touch, so that less is lost at the rim: nearer to the Gaussian, for several
        times the vertices in many dimensions.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        At most this many threads; default OMP_NUM_THREADS, else the processors of this process.
        The result does not depend on it.

    Attributes
    ----------
    num_vertices : int
        Lattice vertices M that the points touch, and those that `quality` adds; cost and memory
        of a filter grow with N + M.

    Raises
    ------
    TypeError
        `features` is not an array of float32 or float64.
    ValueError
        `features` has the wrong shape, NaN or infinity, or lies too many bandwidths from 0 to be
        indexed.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [Adams10], with the scaling of [KK11]: splat, blur 1/2, 1, 1/2 along axes 0..D, slice, times
    1 / (1 + 2^-D). Building costs O(N D^2), filtering O(N D + M D) per channel. The filter is not
    exactly symmetric with quality="standard", because missing vertices count as 0; `transpose`
    gives the exact adjoint.

    Examples
    --------
    >>> points = np.random.default_rng(0).normal(size=(50, 3))
    >>> lattice = PermutohedralLattice(points)
    >>> smoothed = lattice.filter(np.ones((50, 1)))
    >>> smoothed.shape
    (50, 1)
    """

    def __init__(
        self,
        features: Array,
        *,
        quality: Quality = "standard",
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        checks.features(features)
        checks.option("quality", quality, QUALITIES)
        self._threads = checks.threads(threads, engines.default_threads())
        self.quality = quality
        self.backend = engines.resolve(backend)
        points, dims = features.shape
        self._plan = engines.Plan.empty(points, dims, features.dtype, quality)
        if not self._engine.build([features], [self._plan], quality, self._threads):
            checks.refuse_features(features)

    @property
    def num_vertices(self) -> int:
        """Lattice vertices M that the points touch, and those that `quality` adds."""
        return self._engine.num_vertices(self._plan)

    @property
    def _engine(self) -> engines.Engine:
        return engines.engine(self.backend)  # looked up, so that a lattice can be pickled

    def __getstate__(self) -> dict[str, Any]:
        plan = self._plan  # its links are mostly unused
        links = plan.links[: self._engine.links_used(plan)].copy()
        return {**self.__dict__, "_plan": replace(plan, links=links)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        plan = self._plan
        points, corners = plan.vertex.shape
        size = engines.Plan.links_size(points, corners - 1, self.quality)
        links = engines.reserve((size,), plan.links.dtype)
        links[: len(plan.links)] = plan.links
        self._plan = replace(plan, links=links)

    def filter(self, values: Array, *, transpose: bool = False) -> Array:
        """The Gaussian-filtered values, or with `transpose` the adjoint K' values.

        Parameters
        ----------
        values : ndarray [N, C], dtype of the features, finite
        transpose : bool
            Apply the adjoint: the same lattice with its axes blurred in reverse order.

        Returns
        -------
        ndarray [N, C]

        Raises
        ------
        TypeError, ValueError
            `values` is not an array of the lattice's points and dtype, or is not finite.
        """
        checks.values(values, len(self._plan.vertex), self._plan.weight.dtype)
        checks.flag("transpose", transpose)
        return self._filter(np.ascontiguousarray(values), bool(transpose))

    def _filter(self, values: Array, transpose: bool = False) -> Array:
        out = np.empty_like(values)
        self._engine.filter(self._plan, values, out, transpose, self._threads)
        return out

    def self_response(self) -> Array:
        """The diagonal of the filter [N]: what each point receives of its own value.

        The exact Gaussian has 1 there; the lattice has less, for a point is spread over its
        simplex.
        """
        out = np.empty(len(self._plan.vertex), self._plan.weight.dtype)
        self._engine.self_response(self._plan, out, self._threads)
        return out

    def __repr__(self) -> str:
        points, corners = self._plan.vertex.shape
        return (
            f"PermutohedralLattice({points} points, {corners - 1} features, "
            f"{self.num_vertices} vertices, quality={self.quality!r}, backend={self.backend!r})"
        )
