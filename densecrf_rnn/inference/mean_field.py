"""Mean-field inference of a dense CRF on NumPy arrays, in four steps: check, build, run, shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks, engines, kernels
from .._limits import MAX_KERNELS
from .._typing import Array
from ..params import CRFParams
from . import grid
from .build import Lattices, build_kernels


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
    """Run mean-field iterations of a dense CRF and return the refined logits.

    Parameters
    ----------
    logits : ndarray [L, H, W] or [L, D, H, W], float32 or float64
        Log-likelihood of each label up to a constant per pixel, as networks return it; higher is
        more probable. -inf excludes a label. L = 1: one logit x, treated as the two logits (0, x).
    image : ndarray [H, W, C] or [D, H, W, C], integer or floating point
        Guide of the appearance kernel, up to 14 channels (13 in 3-D), in the units of
        ``params.theta_beta`` (0..255 by default).
    params : CRFParams
        Bandwidths, weights and options.
    kernel_weights : ndarray [2], [2, L] or [2, L, L], optional
        Weights of the bilateral and the spatial kernel, replacing those in `params`: for each
        kernel a number, one number per label, or a matrix W.
    compatibility : ndarray [L, L], optional
        Penalty mu of label l (row) next to label l' (column); default Potts, 1 - I.
    iterations : int, at least 0
        Number T of mean-field updates; 0 returns the logits.
    mask : ndarray [H, W] or [D, H, W] of bool, optional
        Pixels where the mask is False are excluded: they neither send nor receive messages and
        keep their logits. At these pixels logits and image may be NaN.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        Maximum number of threads; the result does not depend on it.

    Returns
    -------
    ndarray, shape and dtype of `logits`
        U' of the last iteration; its softmax over the labels gives the marginals.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype or range, or contains NaN or infinity.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [CRF-RNN] algorithm 1 and [KK11] algorithm 1. Kernels are built once for all iterations.
    Arguments are never modified.

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
    """Compute `mean_field` or, with `marginals`, the softmax of its result.

    `refine`, `mean_field`, tiles and tuning all call this function, which runs the four steps.

    Parameters
    ----------
    logits, image, params, kernel_weights, compatibility, iterations, mask, spacing
        As in `mean_field`.
    backend, threads
        As in `mean_field`.
    marginals : bool
        Return marginals; for L = 1 those of the foreground.
    lattices : dict, optional
        Cache of lattice kernels; missing ones are built and added.
    window : Window, optional
        The position of these arrays in a larger image, of which they are a tile. Suspicious values
        (an image in 0..1) then cause no warning: in a dark tile they may be right.
    """
    iterations = checks.count("iterations", iterations, 0)
    problem = check(
        logits, image, params, kernel_weights, compatibility, mask, spacing, backend, threads
    )
    idle = iterations == 0 or problem.unary.size == 0
    if window is None:
        problem.warn()
    if idle or engines.fused(problem.engine) is None:  # a fused engine checks values itself
        problem.check_values()
    if idle:
        return _marginals(logits) if marginals else logits.copy()

    built = problem.build(lattices, window)

    refined = run(
        problem.engine, built, as_rows(problem.unary), problem.coupling, iterations, marginals,
        problem.threads,
    )  # fmt: skip
    if refined is None:
        checks.logits_values(problem.unary, batched=False)
        raise ValueError(
            "logits contain NaN or +infinity, or are -infinity for all labels of a pixel; give "
            "every pixel a finite logit"
        )

    return _as_images(refined, problem, marginals)


# --- check ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """The checked arguments of one mean field."""

    logits: Array  # [L, *S]
    params: CRFParams
    coupling: Array  # [M, K, K], K = max(L, 2): mu W of each kernel; columns are the sender's label
    mask: Array | None  # [*S] bool; None: all pixels
    spacing: tuple[float, ...]
    engine: engines.Engine
    threads: int
    image: Array  # [*S, C]
    unary: Array  # the logits inside the mask [L, N]; without a mask [L, *S]
    guide: Array  # the image inside the mask [N, C]; without a mask [*S, C]

    def check_values(self) -> None:
        """Check the values inside the mask."""
        checks.logits_values(self.unary, batched=False)
        checks.image_values(self.guide)

    def warn(self) -> None:
        """Warn about suspicious values inside the mask."""
        checks.probabilities(self.unary, batched=False)
        checks.image_range(self.guide, self.params.theta_beta)

    def build(
        self, lattices: Lattices | None = None, window: kernels.Window | None = None
    ) -> list[engines.MeanFieldKernel]:
        """Build the kernels; arguments as in `build_kernels`."""
        pixel = None if self.mask is None else np.flatnonzero(self.mask).astype(np.int32)
        return build_kernels(
            self.image, pixel, self.params, self.spacing, self.logits.dtype, self.engine,
            self.threads, lattices, window,
        )  # fmt: skip


def check(
    logits: Array,
    image: Array,
    params: CRFParams,
    kernel_weights: Array | None,
    compatibility: Array | None,
    mask: Array | None,
    spacing: Sequence[float] | None,
    backend: str,
    threads: int | None,
) -> Problem:
    """Check the arguments of `mean_field`, except the values of logits and image."""
    checks.params(params, CRFParams)
    checks.logits(logits, batched=False)
    checks.image(image, logits, batched=False)
    size = logits.shape[1:]
    labels, points = max(2, len(logits)), math.prod(size)
    coupling = _coupling(params, kernel_weights, compatibility, labels, points, logits.dtype)
    if mask is not None:
        checks.mask(mask, size)
        if mask.all():
            mask = None
    spacing = checks.spacing(spacing, len(size))
    threads = checks.threads(threads, engines.default_threads())
    engine = engines.engine(backend)
    inside = (logits, image) if mask is None else (logits[:, mask], image[mask])
    return Problem(logits, params, coupling, mask, spacing, engine, threads, image, *inside)


def _coupling(
    params: CRFParams,
    kernel_weights: Array | None,
    compatibility: Array | None,
    labels: int,
    points: int,
    dtype: Any,
) -> Array:
    """Compute the coupling mu W of each kernel. [M, L, L]"""
    if compatibility is None:
        mu = 1.0 - np.eye(labels)
    else:
        checks.array_kind("compatibility", compatibility, batched=False)
        checks.compatibility(compatibility, labels)
        mu = compatibility.astype(np.float64)  # products of small integers could overflow
    if kernel_weights is None:
        of_params = kernels.weights(params)
        for name, weight in of_params.items():
            checks.weights_fit(name, weight, labels)
        values = of_params.values()
        weights = np.array([w if isinstance(w, tuple) else (w,) * labels for w in values])
    else:
        checks.array_kind("kernel_weights", kernel_weights, batched=False)
        checks.kernel_weights(kernel_weights, len(kernels.weights(params)), labels)
        weights = kernel_weights.astype(np.float64)
    if weights.ndim == 3:
        coupling = mu @ weights
    else:  # diagonal matrices W scale the columns of mu
        coupling = mu * weights.reshape(len(weights), 1, -1)
    checks.coupling(coupling, points, np.finfo(dtype).max)
    return coupling.astype(dtype, order="C")


# --- run -----------------------------------------------------------------------------------------


def run(
    engine: engines.Engine,
    built: Sequence[engines.MeanFieldKernel],
    logits: Array,
    coupling: Array,
    iterations: int,
    marginals: bool,
    threads: int,
) -> Array | None:
    """Run all iterations, at least one, on logits [L, N] of at least two labels.

    Return U' or, with `marginals`, its softmax; or None if the engine rejects the logits' values.
    """
    fused = engines.fused(engine)
    if fused is None or len(built) > MAX_KERNELS:
        refined = iterate(logits, built, coupling, iterations, engine, threads)
        return softmax(refined, axis=0) if marginals else refined
    refined = np.empty_like(logits)
    saved = np.empty((0, 0, 0), logits.dtype)  # nothing is kept for a backward pass
    problem = engines.Problem(built, logits, refined, saved)
    finite = fused.mean_field([problem], coupling, iterations, marginals, 0, threads)
    return refined if finite else None


def iterate(
    logits: Array,
    built: Sequence[engines.MeanFieldKernel],
    coupling: Array,
    iterations: int,
    engine: engines.Engine,
    threads: int,
) -> Array:
    """Run the iterations in NumPy, on an engine without a fused mean field. [L, N] -> [L, N]"""
    filters = [Filter(kernel, engine, threads) for kernel in built]
    u = np.ascontiguousarray(logits.T)  # [N, L]
    refined = u
    for _ in range(iterations):
        q = softmax(refined, axis=1)  # [N, L]
        pairwise = sum(f(q) @ c.T for f, c in zip(filters, coupling, strict=True))  # [N, L]
        refined = u - pairwise
    return refined.T


@dataclass(frozen=True)
class Filter:
    """Filtering by one kernel, called on values [N, L].

    The result [N, L] is after * (K - diag(diagonal)) (before * values).
    """

    kernel: engines.MeanFieldKernel
    engine: engines.Engine
    threads: int

    def __call__(self, values: Array) -> Array:
        kernel = self.kernel
        if kernel.before is not None:
            values = values * kernel.before[:, None]
        if isinstance(kernel, engines.GridKernel):
            out = grid.filtered(kernel, values)
        else:
            out = np.empty_like(values)
            self.engine.filter(kernel.plan, values, out, False, self.threads)
        if kernel.diagonal is not None:
            out -= kernel.diagonal[:, None] * values
        if kernel.after is not None:
            out *= kernel.after[:, None]
        return out


# --- shape ---------------------------------------------------------------------------------------


def as_rows(logits: Array) -> Array:
    """Flatten logits [L, ...] to contiguous [L, N]; one logit x becomes the two logits (0, x)."""
    rows = np.ascontiguousarray(logits.reshape(len(logits), -1))
    return np.concatenate([np.zeros_like(rows), rows]) if len(rows) == 1 else rows


def _as_images(refined: Array, problem: Problem, marginals: bool) -> Array:
    """Undo `as_rows`; pixels outside the mask keep their logits.

    With `marginals` those pixels get the softmax of their logits.
    """
    logits, mask = problem.logits, problem.mask
    if len(logits) == 1:
        refined = refined[1:] if marginals else refined[1:] - refined[:1]
    if mask is None:
        return np.ascontiguousarray(refined).reshape(logits.shape)
    out = logits.copy()
    if marginals:
        out[:, ~mask] = _marginals(logits[:, ~mask])
    out[:, mask] = refined
    return out


def _marginals(logits: Array) -> Array:
    """Compute the marginals of logits [L, ...]; for L = 1 those of the foreground."""
    if len(logits) == 1:
        return softmax(np.concatenate([np.zeros_like(logits), logits]), axis=0)[1:]
    return softmax(logits, axis=0)


def softmax(logits: Array, axis: int) -> Array:
    """Compute marginals, which sum to 1 over the labels along `axis`."""
    with np.errstate(over="ignore", invalid="ignore"):  # huge differences; NaN outside a mask
        q = logits - logits.max(axis=axis, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(axis=axis, keepdims=True)
    return q


def log_softmax(logits: Array, axis: int) -> Array:
    """Compute the logarithms of the marginals."""
    with np.errstate(over="ignore"):  # huge differences become -inf, whose exponential is 0
        shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
