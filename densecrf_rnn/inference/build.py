"""Build the kernels of a mean field for an image: features, lattices or a grid, normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks, engines, kernels
from .._typing import Array
from ..params import CRFParams
from . import grid

# Cache of one image's lattice kernels, by (kernel, normalization, self_term, feature_order,
# quality). The image, mask, spacing, dtype and backend must stay the same.
Lattices = dict[tuple[kernels.Kernel, str, bool, str, str], engines.LatticeKernel]


def build_kernels(
    image: Array,
    pixel: Array | None,
    given: Sequence[kernels.Kernel],
    params: CRFParams,
    spacing: Sequence[float],
    dtype: Any,
    engine: engines.Engine,
    threads: int,
    lattices: Lattices | None = None,
    window: kernels.Window | None = None,
    name: str = "image",
) -> list[engines.MeanFieldKernel]:
    """Build the normalised operator N K of each kernel.

    Parameters
    ----------
    image : ndarray [*S, C]
    pixel : ndarray [N] int32 or None
        Indices of the pixels inside the mask; None: all pixels.
    given : sequence of `kernels.Kernel`
    params, spacing, engine, threads
        Checked arguments of `mean_field`.
    dtype : NumPy dtype
        Floating-point dtype of the computation.
    lattices : dict, optional
        Cache of lattice kernels; missing ones are built and added.
    window : Window, optional
        The position of `image` in a larger image.
    name : str
        What errors call the image.
    """
    lattices = {} if lattices is None else lattices
    options = (params.normalization, params.self_term, params.feature_order, params.quality)
    on_grid = [kernels.is_on_grid(kernel, params.spatial) for kernel in given]
    missing = [
        kernel
        for kernel, regular in zip(given, on_grid, strict=True)
        if not regular and (kernel, *options) not in lattices
    ]
    size = image.shape[:-1]
    if missing:
        positions = kernels.positions(
            size, params.feature_order, spacing, dtype.type, window and window.origin
        )
        with np.errstate(over="ignore", invalid="ignore"):  # masked-out pixels hold any values
            features = [
                kernel.features(positions, image, params.feature_order) for kernel in missing
            ]
        if pixel is not None:
            features = [rows.T[:, pixel].T for rows in features]
        plans = _plans(features, image, pixel, params, engine, threads, name)
        for kernel, plan in zip(missing, plans, strict=True):
            lattices[(kernel, *options)] = _normalized(plan, params, engine, threads)

    def built(kernel: kernels.Kernel, regular: bool) -> engines.MeanFieldKernel:
        if not regular:
            return lattices[(kernel, *options)]
        thetas = kernel.along_axes(len(spacing))
        sigmas = tuple(theta / s for theta, s in zip(thetas, spacing, strict=True))
        return grid.build(
            size, sigmas, params.normalization, params.self_term, dtype, pixel=pixel, window=window
        )

    return list(map(built, given, on_grid))


def _plans(
    features: Sequence[Array],
    image: Array,
    pixel: Array | None,
    params: CRFParams,
    engine: engines.Engine,
    threads: int,
    name: str,
) -> list[engines.Plan]:
    """Build the lattice of each array of feature rows [N, d]; raise if one cannot be indexed."""
    plans = [
        engines.Plan.empty(len(rows), rows.shape[1], rows.dtype, params.quality)
        for rows in features
    ]
    if not engine.build(features, plans, params.quality, threads):
        rows = image.reshape(-1, image.shape[-1])
        if pixel is not None:
            rows = rows[pixel]
        checks.image_values(rows, name)
        checks.refuse_features(*features, float64=" or float64 logits")
    return plans


def _normalized(
    plan: engines.Plan, params: CRFParams, engine: engines.Engine, threads: int
) -> engines.LatticeKernel:
    """Compute the scales and the diagonal of one lattice's operator N K, as `params` says."""
    points, dtype = len(plan.vertex), plan.weight.dtype
    diagonal = before = after = None
    if not params.self_term:
        diagonal = np.empty(points, dtype)
        engine.self_response(plan, diagonal, threads)
    normalizer = kernels.normalizer(params.normalization)
    if normalizer.needs_mass:
        mass = np.empty((points, 1), dtype)
        engine.filter(plan, np.ones((points, 1), dtype), mass, False, threads)
        before, after = normalizer.scales(
            mass[:, 0] if diagonal is None else mass[:, 0] - diagonal
        )
    return engines.LatticeKernel(plan, before, after, diagonal)
