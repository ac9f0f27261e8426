"""Mean-field inference of a dense CRF on NumPy arrays: the algorithm, one line a step."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._typing import Array
from .. import engines, checks, kernels
from . import grid
from ..params import CRFParams

# Kernels on lattices of one image, by all that they depend on beside it.
Lattices = dict[tuple[kernels.Kernel, str, bool, str, str], engines.LatticeKernel]


def mean_field(
    logits: Array,
    image: Array,
    params: CRFParams = CRFParams(),
    *,
    kernel_weights: Array | None = None,
    compatibility: Array | None = None,
    iterations: int = 5,
    mask: Array | None = None,
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Refined logits after some mean-field iterations of a dense CRF.

    Parameters
    ----------
    logits : ndarray [L, H, W] or [L, D, H, W], float32 or float64
        Log-likelihood of each label up to a constant per pixel, as networks give it; higher is
        likelier. -inf rules a label out. L = 1: one logit x, treated as the labels (0, x).
    image : ndarray [H, W, C] or [D, H, W, C], integer or floating point
        Guide of the appearance kernel, up to 14 channels (13 in 3-D), in the units of
        ``params.theta_beta`` (0..255 by default).
    params : CRFParams
        Bandwidths, weights and options.
    kernel_weights : ndarray [2], [2, L] or [2, L, L], optional
        Weights of the bilateral and the spatial kernel in place of those in `params`: a number,
        one per label, or a full matrix each.
    compatibility : ndarray [L, L], optional
        Penalty of label l (row) at a pixel beside label l' (column); default Potts, 1 - I.
    iterations : int, at least 0
        Mean-field updates T; 0 returns the logits.
    mask : ndarray [H, W] or [D, H, W] of bool, optional
        False pixels neither send nor receive messages and come back unchanged; they may hold
        NaN, in the image too.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        At most this many threads; the result does not depend on it.

    Returns
    -------
    ndarray, shape and dtype of `logits`
        U' of the last iteration; its softmax over labels gives the marginals.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape or range, or with NaN or infinity; arguments are
        never changed.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [CRF-RNN] algorithm 1 and [KK11] algorithm 1. Kernels are built once, for all iterations.

    Examples
    --------
    >>> logits = np.zeros((2, 4, 5), np.float32)
    >>> mean_field(logits, np.zeros((4, 5, 3), np.uint8)).shape
    (2, 4, 5)
    """
    return infer(
        logits, image, params, kernel_weights=kernel_weights, compatibility=compatibility,
        iterations=iterations, mask=mask, spacing=spacing, backend=backend, threads=threads,
        marginals=False,
    )  # fmt: skip


def infer(
    logits: Array,
    image: Array,
    params: CRFParams,
    *,
    kernel_weights: Array | None,
    compatibility: Array | None,
    iterations: int,
    mask: Array | None,
    spacing: Sequence[float] | None,
    backend: str,
    threads: int | None,
    marginals: bool,
    lattices: Lattices | None = None,
    window: kernels.Window | None = None,
) -> Array:
    """`mean_field`, or with `marginals` the softmax of its result (L = 1: the foreground's).

    `lattices` are some already built for this very image, mask, spacing, dtype and backend; those
    that are missing are built and added. With `window` the arrays hold that part of an image. Then
    nothing is warned of, for what looks wrong in a tile (a dark corner) may be right in the image.
    """
    iterations = checks.count("iterations", iterations, 0)
    coupling, mask, spacing = checked(
        logits, image, params, kernel_weights, compatibility, mask, spacing
    )
    threads = checks.threads(threads, engines.default_threads())
    engine = engines.engine(backend)
    fused = engines.fused_engine(backend)
    idle = iterations == 0 or (mask is not None and not mask.any())
    seen = (logits, image) if mask is None else (logits[:, mask], image[mask])
    advise = window is None
    if fused is None or idle:
        checks.logits_values(seen[0], batched=False, advise=advise)
        checks.image_values(seen[1], params.theta_beta, advise=advise)
    elif advise:  # the engine finds what cannot be computed with, and saves a pass over it all
        checks.probabilities(seen[0], batched=False)
        checks.image_range(seen[1], params.theta_beta)
    if idle:
        return _marginals(logits) if marginals else logits.copy()

    pixel = None if mask is None else np.flatnonzero(mask).astype(np.int32)
    built = build_kernels(
        image, pixel, params, spacing, logits.dtype, engine, threads, lattices, window
    )
    u = np.ascontiguousarray(seen[0].reshape(len(logits), -1))  # [L, N]
    if len(logits) == 1:
        u = np.concatenate([np.zeros_like(u), u])
    if fused is None:
        refined = iterate(u, built, coupling, iterations, engine, threads)
        if marginals:
            refined = softmax(refined, axis=0)
    else:
        refined = np.empty_like(u)
        kept = np.empty((0, 0, 0), u.dtype)  # nothing: there is no backward pass here
        problem = engines.Problem(built, u, refined, kept)
        if not fused.mean_field([problem], coupling, iterations, marginals, 0, threads):
            checks.logits_values(seen[0], batched=False, advise=False)
            raise ValueError("logits lie beyond what the engine can compute with")
    if len(logits) == 1:
        refined = refined[1:] if marginals else refined[1:] - refined[:1]
    if mask is None:
        return np.ascontiguousarray(refined).reshape(logits.shape)
    out = logits.copy()
    if marginals:
        out[:, ~mask] = _marginals(logits[:, ~mask])
    out[:, mask] = refined
    return out


def checked(
    logits: Array,
    image: Array,
    params: CRFParams,
    kernel_weights: Array | None,
    compatibility: Array | None,
    mask: Array | None,
    spacing: Sequence[float] | None,
) -> tuple[Array, Array | None, Sequence[float]]:
    """The coupling, the mask (None where it is True everywhere) and the spacing of a problem."""
    checks.params(params, CRFParams)
    checks.logits(logits, batched=False)
    checks.image(image, logits, batched=False)
    size = logits.shape[1:]
    coupling = _coupling(
        params, kernel_weights, compatibility, max(2, len(logits)), math.prod(size), logits.dtype
    )
    if mask is not None:
        checks.mask(mask, size)
        if mask.all():
            mask = None
    return coupling, mask, checks.spacing(spacing, len(size))


def build_kernels(
    image: Array,
    pixel: Array | None,
    params: CRFParams,
    spacing: Sequence[float],
    dtype: Any,
    engine: engines.Engine,
    threads: int,
    lattices: Lattices | None = None,
    window: kernels.Window | None = None,
) -> list[engines.MeanFieldKernel]:
    """The operators N K over all pixels of an image [*S, C], or those of the indices `pixel`.

    Those on lattices are taken from `lattices`, or put there.
    """
    lattices = {} if lattices is None else lattices
    size = image.shape[:-1]
    if window is None:
        window = kernels.Window((0,) * len(size), size)
    on_lattice = kernels.from_params(params)
    if params.spatial == "grid":
        on_lattice = on_lattice[:-1]
    options = (params.normalization, params.self_term, params.feature_order, params.quality)
    missing = [kernel for kernel in on_lattice if (kernel, *options) not in lattices]
    if missing:
        order, origin = params.feature_order, window.origin
        positions = kernels.positions(size, order, spacing, dtype.type, origin)
        with np.errstate(over="ignore", invalid="ignore"):  # whatever is outside the mask
            features = [kernel.features(positions, image) for kernel in missing]
        if pixel is not None:
            features = [rows.T[:, pixel].T for rows in features]
        plans = _plans(features, image, pixel, params, engine, threads)
        for kernel, plan in zip(missing, plans, strict=True):
            lattices[(kernel, *options)] = _normalized(plan, params, engine, threads)
    found: list[engines.MeanFieldKernel] = [
        lattices[(kernel, *options)] for kernel in on_lattice
    ]
    if params.spatial == "grid":
        axes = [
            grid.part(grid.axis(whole, params.theta_gamma / s), start, start + n)
            for whole, start, n, s in zip(window.whole, window.origin, size, spacing, strict=True)
        ]
        found.append(grid.normalized(axes, params.normalization, params.self_term, dtype, pixel))
    return found


def _plans(
    features: Sequence[Array],
    image: Array,
    pixel: Array | None,
    params: CRFParams,
    engine: engines.Engine,
    threads: int,
) -> list[engines.Plan]:
    """Lattices of feature rows [N, d], which were made of `image` at the indices `pixel`."""
    for rows in features:
        checks.feature_rows(rows)
    plans = [
        engines.Plan.empty(len(rows), rows.shape[1], rows.dtype, params.quality)
        for rows in features
    ]
    if not engine.build(features, plans, params.quality, threads):
        rows = image.reshape(-1, image.shape[-1])
        if pixel is not None:
            rows = rows[pixel]
        checks.image_values(rows, params.theta_beta, advise=False)
        checks.refuse_features(*features)
    return plans


def _normalized(
    plan: engines.Plan, params: CRFParams, engine: engines.Engine, threads: int
) -> engines.LatticeKernel:
    """The operator N K of one lattice."""
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


def iterate(
    logits: Array,
    built: Sequence[engines.MeanFieldKernel],
    coupling: Array,
    iterations: int,
    engine: engines.Engine,
    threads: int,
) -> Array:
    """The iterations themselves, for engines that only filter. [L, N] -> [L, N]"""
    filters = [Filter(kernel, engine, threads) for kernel in built]
    u = np.ascontiguousarray(logits.T)  # [N, L]
    refined = u
    for _ in range(iterations):
        q = softmax(refined, axis=1)  # [N, L]
        pairwise = sum(f(q) @ c.T for f, c in zip(filters, coupling, strict=True))  # [N, L]
        refined = u - pairwise
    return refined.T


class Filter:
    """A kernel as a function of values [N, L]."""

    def __init__(
        self, kernel: engines.MeanFieldKernel, engine: engines.Engine, threads: int
    ) -> None:
        self._kernel, self._engine, self._threads = kernel, engine, threads

    def __call__(self, values: Array) -> Array:
        kernel = self._kernel
        if kernel.before is not None:
            values = values * kernel.before[:, None]
        if isinstance(kernel, engines.GridKernel):
            out = grid.filtered(kernel, values)
        else:
            out = np.empty_like(values)
            self._engine.filter(kernel.plan, values, out, False, self._threads)
        if kernel.diagonal is not None:
            out -= kernel.diagonal[:, None] * values
        if kernel.after is not None:
            out *= kernel.after[:, None]
        return out


def _coupling(
    params: CRFParams,
    kernel_weights: Array | None,
    compatibility: Array | None,
    labels: int,
    points: int,
    dtype: Any,
) -> Array:
    """mu W for each kernel: how a message about one label bears on another. [M, L, L]"""
    mu = 1.0 - np.eye(labels) if compatibility is None else compatibility
    checks.array_kind("compatibility", mu, batched=False)
    checks.compatibility(mu, labels)
    if kernel_weights is None:
        given = {"w_bilateral": params.w_bilateral, "w_spatial": params.w_spatial}
        for name, weight in given.items():
            checks.weights_fit(name, weight, labels)  # type: ignore[arg-type]
        weights = [np.broadcast_to(weight, labels) for weight in given.values()]
    else:
        checks.array_kind("kernel_weights", kernel_weights, batched=False)
        checks.kernel_weights(kernel_weights, 2, labels)
        weights = list(kernel_weights)
    mu = mu.astype(np.float64)  # whole numbers of few bits would wrap in the product
    coupling = np.stack(
        [mu @ (w if w.ndim == 2 else w * np.eye(labels)) for w in np.asarray(weights, np.float64)]
    )
    checks.coupling(coupling, points, np.finfo(dtype).max)
    return coupling.astype(dtype)


def _marginals(logits: Array) -> Array:
    """Of logits [L, ...]; of one logit x, for the labels (0, x), the foreground's."""
    if len(logits) == 1:
        return softmax(np.concatenate([np.zeros_like(logits), logits]), axis=0)[1:]
    return softmax(logits, axis=0)


def softmax(logits: Array, axis: int) -> Array:
    """Marginals of logits: they sum to 1 over the labels, which lie along `axis`."""
    with np.errstate(over="ignore", invalid="ignore"):  # far below the peak; NaN outside a mask
        q = logits - logits.max(axis=axis, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(axis=axis, keepdims=True)
    return q


def log_softmax(logits: Array, axis: int) -> Array:
    """Logarithms of the marginals."""
    with np.errstate(over="ignore"):  # far below the peak
        shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
