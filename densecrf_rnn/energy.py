"""The mean-field free energy of a dense CRF: a measure of how well marginals fit its model."""

from collections.abc import Sequence

import numpy as np

from ._typing import Array
from . import checks
from .inference.mean_field import check
from .inference.running import Filter, as_rows, log_softmax
from .params import CRFParams

__all__ = ["free_energy"]


def free_energy(
    refined: Array,
    logits: Array,
    image: Array | None = None,
    params: CRFParams = CRFParams(),
    *,
    features: Array | None = None,
    kernel_weights: Array | None = None,
    compatibility: Array | None = None,
    mask: Array | None = None,
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> float:
    """Compute the free energy F(Q) of Q = softmax(refined); lower is better.

    F(Q) = sum_i Q_i . (ln Q_i - U_i) + 1/2 sum_i Q_i . mu sum_m W_m (N_m K_m Q)_i, where U are the
    logits, mu is the compatibility, W_m are the kernel weights and N_m K_m the normalised kernels.
    Without the self term, KL(Q || P) = F(Q) + ln Z, where P is the distribution of the CRF.

    Parameters
    ----------
    refined : ndarray, shape and dtype of `logits` (float32 for float16)
        The output of `mean_field`, or the logarithm of marginals.
    logits, image, params, features, kernel_weights, compatibility, mask, spacing, backend, threads
        As in `mean_field`. Pixels outside the mask are excluded.

    Returns
    -------
    float
        The energy in nats, summed over the pixels in float64 (messages are computed in the dtype
        of `logits`). It is infinite if Q is positive for a label whose logit is -inf.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype or range, or contains NaN or infinity.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [KK11] section 2; docs/math.md treats asymmetric operators and the self term. The operators
    N K are the approximate ones of `mean_field`.

    Examples
    --------
    With weak kernels every iteration lowers the energy.

    >>> from densecrf_rnn import mean_field
    >>> logits = np.random.default_rng(0).normal(size=(3, 8, 9))
    >>> image = np.zeros((8, 9, 3), np.uint8)
    >>> params = CRFParams(w_bilateral=0.5, w_spatial=0.5, self_term=False)
    >>> steps = [mean_field(logits, image, params, iterations=t) for t in range(4)]
    >>> energies = [free_energy(step, logits, image, params) for step in steps]
    >>> energies == sorted(energies, reverse=True)
    True
    """
    if getattr(refined, "dtype", None) == np.float16:
        refined = refined.astype(np.float32)
    if getattr(logits, "dtype", None) == np.float16:  # as `mean_field` computes with them
        logits = logits.astype(np.float32)
    problem = check(
        logits, image, params, kernel_weights, compatibility, mask, spacing, backend, threads,
        features=features,
    )  # fmt: skip
    checks.logits(problem.logits, batched=False)
    checks.refined(refined, logits, batched=False)
    refined = refined.reshape(problem.logits.shape)
    if problem.mask is not None:
        refined = refined[:, problem.mask]
    if not refined.size:
        return 0.0
    problem.warn()
    problem.check_values()
    checks.logits_values(refined, batched=False, name="refined")

    kernels = problem.build()

    u = as_rows(problem.unary).T  # [N, L]
    log_q = log_softmax(np.ascontiguousarray(as_rows(refined)), axis=0).T
    q = np.ascontiguousarray(np.exp(log_q))
    filters = [Filter(kernel, problem.engine, problem.threads) for kernel in kernels]
    pairwise = sum(f(q) @ c.T for f, c in zip(filters, problem.coupling, strict=True))
    # NaN where a logit is -inf; q is 0 there, not summed. Sums of logits near the largest number
    # may be infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        terms = q * (log_q - u + pairwise / 2)
        return float(terms.sum(where=q > 0, dtype=np.float64))
