"""The mean-field free energy of a dense CRF: how far marginals are from the distribution."""

from collections.abc import Sequence

import numpy as np

from ._typing import Array
from . import engines, checks
from .inference.mean_field import Filter, build_kernels, checked, log_softmax
from .params import CRFParams


def free_energy(
    refined: Array,
    logits: Array,
    image: Array,
    params: CRFParams = CRFParams(),
    *,
    kernel_weights: Array | None = None,
    compatibility: Array | None = None,
    mask: Array | None = None,
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> float:
    """F(Q) for Q = softmax(refined): the smaller, the nearer Q is to the CRF's distribution.

    F(Q) = sum_i Q_i . (ln Q_i - U_i) + 1/2 sum_i Q_i . mu sum_m W_m (N_m K_m Q)_i, and
    KL(Q || P) = F(Q) + ln Z where the CRF has no self term.

    Parameters
    ----------
    refined : ndarray, shape and dtype of `logits`
        What `mean_field` returns, or the logarithm of marginals: the labels' softmax is Q.
    logits, image, params, kernel_weights, compatibility, mask, spacing, backend, threads
        As in `mean_field`. Pixels outside the mask do not count.

    Returns
    -------
    float
        In nats, summed over the pixels in float64 (messages are in the dtype of `logits`). It is
        infinite where Q gives weight to a label that `logits` rules out.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape or range, or with NaN or infinity.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [KK11] section 2, and docs/math.md, which says what an asymmetric operator and the self term
    make of it. The operators are those of `mean_field`, approximation included.

    Examples
    --------
    Where pixels hardly disagree, every iteration brings the marginals nearer.

    >>> from densecrf_rnn import mean_field
    >>> logits = np.random.default_rng(0).normal(size=(3, 8, 9))
    >>> image = np.zeros((8, 9, 3), np.uint8)
    >>> params = CRFParams(w_bilateral=0.5, w_spatial=0.5, self_term=False)
    >>> steps = [mean_field(logits, image, params, iterations=t) for t in range(4)]
    >>> energies = [free_energy(step, logits, image, params) for step in steps]
    >>> energies == sorted(energies, reverse=True)
    True
    """
    coupling, mask, spacing = checked(
        logits, image, params, kernel_weights, compatibility, mask, spacing
    )
    checks.refined(refined, logits, batched=False)
    threads = checks.threads(threads, engines.default_threads())
    engine = engines.engine(backend)
    pixel = None
    if mask is not None:
        pixel = np.flatnonzero(mask).astype(np.int32)
        if not len(pixel):
            return 0.0
    seen = slice(None) if pixel is None else pixel
    u, v = (array.reshape(len(logits), -1)[:, seen] for array in (logits, refined))  # [L, N]
    checks.logits_values(u, batched=False)
    checks.logits_values(v, batched=False, name="refined")
    checks.image_values(image.reshape(-1, image.shape[-1])[seen], params.theta_beta)
    if len(logits) == 1:
        u, v = (np.concatenate([np.zeros_like(x), x]) for x in (u, v))

    log_q = log_softmax(v, axis=0).T  # [N, L]
    q = np.ascontiguousarray(np.exp(log_q))
    built = build_kernels(image, pixel, params, spacing, logits.dtype, engine, threads)
    filters = [Filter(kernel, engine, threads) for kernel in built]
    pairwise = sum(f(q) @ c.T for f, c in zip(filters, coupling, strict=True))  # [N, L]
    with np.errstate(invalid="ignore"):  # 0 (-inf + inf) where a label is ruled out
        of_label = q * (log_q - u.T + pairwise / 2)
    return float(of_label.sum(where=q > 0, dtype=np.float64))
