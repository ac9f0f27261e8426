"""Mean-field inference of a dense CRF on NumPy arrays: the algorithm, one line a step."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _backends, _checks, kernels
from .lattice import PermutohedralLattice
from .params import CRFParams

Array = np.ndarray[Any, Any]


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
    [CRF-RNN] algorithm 1 and [KK11] algorithm 1. Both lattices are built once.

    Examples
    --------
    >>> logits = np.zeros((2, 4, 5), np.float32)
    >>> mean_field(logits, np.zeros((4, 5, 3), np.uint8)).shape
    (2, 4, 5)
    """
    _checks.params(params, CRFParams)
    _checks.logits(logits, batched=False)
    _checks.image(image, logits, batched=False)
    size = logits.shape[1:]
    iterations = _checks.count("iterations", iterations, 0)
    binary = logits.shape[0] == 1
    labels = 2 if binary else logits.shape[0]
    points = math.prod(size)
    coupling = _coupling(params, kernel_weights, compatibility, labels, points, logits.dtype)
    if mask is not None:
        _checks.mask(mask, size)
    _checks.logits_values(logits if mask is None else logits[:, mask], batched=False)
    _checks.image_values(image if mask is None else image[mask], params.theta_beta)
    spacing = _checks.spacing(spacing, len(size))
    _checks.threads(threads, 1)
    _backends.resolve(backend)
    if iterations == 0 or (mask is not None and not mask.any()):
        return logits.copy()

    positions = kernels.positions(size, params.feature_order, spacing, logits.dtype.type)
    rows: Any = slice(None) if mask is None else mask.ravel()
    u = np.ascontiguousarray(logits.reshape(logits.shape[0], -1)[:, rows])  # [L, N]
    if binary:
        u = np.concatenate([np.zeros_like(u), u])
    filters = []
    for kernel in kernels.from_params(params):
        with np.errstate(invalid="ignore"):  # NaN outside the mask
            features = kernel.features(positions, image)[rows]
        filters.append(_NormalizedFilter(features, params, backend, threads))

    refined = _iterate(u, filters, coupling, iterations)
    if binary:
        refined = refined[1:] - refined[:1]
    if mask is None:
        return np.ascontiguousarray(refined).reshape(logits.shape)
    out = logits.copy()
    out[:, mask] = refined
    return out


def _iterate(
    logits: Array, filters: list["_NormalizedFilter"], coupling: Array, iterations: int
) -> Array:
    """The iterations themselves, on label-major rows [L, N]."""
    fused = filters[0].fused_engine
    if fused is not None:
        refined = np.empty_like(logits)
        kept = np.empty((0, 0, 0), logits.dtype)  # nothing: there is no backward pass here
        normalized = [f.kernel for f in filters]
        threads = filters[0].threads
        fused.mean_field(normalized, coupling, logits, refined, kept, iterations, threads)
        return refined
    u = np.ascontiguousarray(logits.T)  # [N, L]
    refined = u
    for _ in range(iterations):
        q = softmax(refined, axis=1)  # [N, L]
        pairwise = sum(f(q) @ c.T for f, c in zip(filters, coupling, strict=True))  # [N, L]
        refined = u - pairwise
    return refined.T


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
    _checks.array_kind("compatibility", mu, batched=False)
    _checks.compatibility(mu, labels)
    if kernel_weights is None:
        given = {"w_bilateral": params.w_bilateral, "w_spatial": params.w_spatial}
        for name, weight in given.items():
            _checks.weights_fit(name, weight, labels)  # type: ignore[arg-type]
        weights = [np.broadcast_to(weight, labels) for weight in given.values()]
    else:
        _checks.array_kind("kernel_weights", kernel_weights, batched=False)
        _checks.kernel_weights(kernel_weights, 2, labels)
        weights = list(kernel_weights)
    mu = mu.astype(np.float64)  # whole numbers of few bits would wrap in the product
    coupling = np.stack(
        [mu @ (w if w.ndim == 2 else w * np.eye(labels)) for w in np.asarray(weights, np.float64)]
    )
    _checks.coupling(coupling, points, np.finfo(dtype).max)
    return coupling.astype(dtype)


class _NormalizedFilter:
    """The operator N K of one kernel, with its lattice built once. Maps [N, L] to [N, L]."""

    def __init__(
        self, features: Array, params: CRFParams, backend: str, threads: int | None
    ) -> None:
        self._lattice = PermutohedralLattice(features, backend=backend, threads=threads)
        self._diagonal = None if params.self_term else self._lattice.self_response()
        self._before = self._after = None
        if params.normalization != "none":
            mass = self._filter(np.ones((len(features), 1), features.dtype))
            scale = kernels.inverse_mass(mass[:, 0])
            if params.normalization == "symmetric":
                scale = np.sqrt(scale)
            self._before = scale if params.normalization in ("before", "symmetric") else None
            self._after = scale if params.normalization in ("after", "symmetric") else None

    @property
    def threads(self) -> int:
        return self._lattice._threads

    @property
    def fused_engine(self) -> _backends.FusedEngine | None:
        """The engine, if it runs whole mean fields."""
        return _backends.fused_engine(self._lattice.backend)

    @property
    def kernel(self) -> _backends.LatticeKernel:
        return _backends.LatticeKernel(
            self._lattice._plan, self._before, self._after, self._diagonal
        )

    def _filter(self, values: Array) -> Array:
        out = self._lattice._filter(values)
        if self._diagonal is not None:
            out -= self._diagonal[:, None] * values
        return out

    def __call__(self, values: Array) -> Array:
        if self._before is not None:
            values = values * self._before[:, None]
        out = self._filter(values)
        if self._after is not None:
            out *= self._after[:, None]
        return out


def softmax(logits: Array, axis: int) -> Array:
    """Marginals of logits: they sum to 1 over the labels, which lie along `axis`."""
    with np.errstate(over="ignore", invalid="ignore"):  # far below the peak; NaN outside a mask
        q = logits - logits.max(axis=axis, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(axis=axis, keepdims=True)
    return q
