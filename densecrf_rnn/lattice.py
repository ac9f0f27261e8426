"""PermutohedralLattice: a Gaussian filter over scattered points of up to 16 dimensions."""

from typing import Any

import numpy as np

from ._typing import Array
from . import engines, checks
from .params import QUALITIES, Quality

__all__ = ["PermutohedralLattice"]


class PermutohedralLattice:
    """A fast approximate Gaussian filter: built once for some points, applied any number of times.

    Filtering computes out_i = sum_j exp(-|f_i - f_j|^2 / 2) values_j approximately, in time that
    is linear in the number of points and does not depend on the width of the kernel.

    Parameters
    ----------
    features : ndarray [N, D], float32 or float64, finite, 1 <= D <= 16
        Points, already divided by their bandwidths (the kernel has unit bandwidth along each axis).
    quality : {"standard", "symmetric", "filled"}
        "symmetric" averages the results of blurring the axes first to last and last to first: the
        filter is then exactly symmetric, and the blur takes twice the time. "filled" does the same
        after inserting every neighbour of the points' vertices, because the blur loses values
        where a neighbour is missing: the filter is closer to the Gaussian, but in many dimensions
        the lattice has several times the vertices.
    backend : str
        "auto", "cpu" or "numba"; `available_backends()` says which can run here.
    threads : int, optional
        Maximum number of threads; default OMP_NUM_THREADS or the number of CPUs of this process.
        The result does not depend on it.

    Attributes
    ----------
    num_vertices : int
        Number M of lattice vertices: those of the points' simplices and those that `quality` adds.
        Time and memory of filtering grow with N + M.

    Raises
    ------
    TypeError
        `features` is not an array of float32 or float64.
    ValueError
        `features` has the wrong shape, contains NaN or infinity, or is too large to be indexed.
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
    >>> smoothed.shape, lattice.self_response().shape, lattice.num_vertices <= 50 * 4
    ((50, 1), (50,), True)
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
        rows = engines.whole_strides(features)
        if not self._engine.build([rows], [self._plan], quality, self._threads):
            checks.refuse_features(features)

    @property
    def num_vertices(self) -> int:
        """Number M of lattice vertices: those of the points and those that `quality` adds."""
        return self._engine.num_vertices(self._plan)

    @property
    def _engine(self) -> engines.Engine:
        """The engine of `backend`; not stored, so that a lattice can be pickled."""
        return engines.engine(self.backend)

    def __getstate__(self) -> dict[str, Any]:
        plan = self._plan  # `links` is mostly unused: pickle only the used part
        links = plan.links[: self._engine.links_used(plan)].copy()
        return {**self.__dict__, "_plan": plan._replace(links=links)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        plan = self._plan
        points, corners = plan.vertex.shape
        size = engines.Plan.links_size(points, corners - 1, self.quality)
        links = engines.reserve((size,), plan.links.dtype)
        links[: len(plan.links)] = plan.links
        self._plan = plan._replace(links=links)

    def filter(self, values: Array, *, transpose: bool = False) -> Array:
        """Filter values: K values, or with `transpose` the adjoint K' values.

        Parameters
        ----------
        values : ndarray [N, C], dtype of the features, finite
        transpose : bool
            Apply the adjoint, which blurs the axes in reverse order.

        Returns
        -------
        ndarray [N, C]

        Raises
        ------
        TypeError, ValueError
            `values` does not have one row per point, the lattice's dtype or finite entries.
        """
        checks.values(values, len(self._plan.vertex), self._plan.weight.dtype)
        checks.flag("transpose", transpose)
        values = np.ascontiguousarray(values)
        out = np.empty_like(values)
        self._engine.filter(self._plan, values, out, bool(transpose), self._threads)
        return out

    def self_response(self) -> Array:
        """Compute the diagonal of the filter [N]: the weight of each point's own value.

        It is 1 for the exact Gaussian and less for the lattice, which spreads a point over its
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
