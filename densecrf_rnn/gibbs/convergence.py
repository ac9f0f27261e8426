"""Convergence of Gibbs chains: split R-hat of their scores, and how often draws change a label."""

from dataclasses import dataclass

import numpy as np

from .. import checks
from .._typing import Array
from .checks import check_model
from .model import Offsets, score
from .sweeps import chain_of

MIN_DRAWS = 4  # so that each half of a chain has a variance


def split_r_hat(draws: Array) -> float:
    """Return the split R-hat of some chains: near 1 when they have converged.

    Parameters
    ----------
    draws : ndarray [chains, sweeps], floating point, finite, at least 4 sweeps
        One number of each chain after each sweep, such as its score.

    Returns
    -------
    float
        Square root of pooled variance over within-chain variance, where the two halves of a chain
        count as two chains. 1 if all draws are equal; infinity if each chain is constant and they
        differ.

    Raises
    ------
    TypeError, ValueError

    Notes
    -----
    [Gelman13] section 11.4. Above about 1.01 the chains need more sweeps or a longer burn-in.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(4, 1000))
    >>> split_r_hat(noise) < 1.01, split_r_hat(noise + np.arange(4)[:, None]) > 1.2
    (True, True)
    """
    checks.array_kind("draws", draws, batched=False)
    if draws.ndim != 2 or draws.shape[0] < 1 or draws.shape[1] < MIN_DRAWS:
        raise ValueError(
            f"draws has shape {draws.shape}; it must be [chains, sweeps], with at least "
            f"{MIN_DRAWS} sweeps"
        )
    checks.parameter("draws", draws)
    half = draws.shape[1] // 2
    halves = np.concatenate([draws[:, :half], draws[:, -half:]]).astype(np.float64)
    within = halves.var(1, ddof=1).mean()
    between = halves.mean(1).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else float("inf")
    return float(np.sqrt((half - 1) / half + between / within))


@dataclass(frozen=True)
class Diagnosis:
    """Measurements of several chains on one image after their burn-in."""

    energies: Array  # [chains, sweeps], score per pixel inside the mask
    r_hat: float  # split R-hat of `energies`
    acceptance: float  # fraction of draws that changed the label; near 0, a chain is stuck

    def __str__(self) -> str:
        """Return one line for a log."""
        chains, sweeps = self.energies.shape
        return (
            f"{chains} chains of {sweeps} sweeps: R-hat {self.r_hat:.3f}, "
            f"{100 * self.acceptance:.1f} % of draws change the label"
        )


def diagnose(
    logits: Array,
    tables: Array,
    offsets: Offsets,
    *,
    chains: int = 4,
    sweeps: int = 100,
    burn_in: int = 0,
    seed: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Diagnosis:
    """Run several chains on one image from dispersed starts and compare them.

    Parameters
    ----------
    logits, tables, offsets, mask
        As for `gibbs.score`.
    chains : int, at least 2
        They start at uniformly random labels, which are more dispersed than the model's samples.
    sweeps : int, at least 4
        Number of measured sweeps of each chain.
    burn_in : int, at least 0
        Number of sweeps before the measured ones.
    seed, backend, threads
        As for `gibbs.sweep`.

    Returns
    -------
    Diagnosis

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Examples
    --------
    >>> tables = np.zeros((1, 3, 3), np.float32)
    >>> found = diagnose(np.zeros((3, 8, 8), np.float32), tables, [(0, 1)])
    >>> round(found.acceptance, 1)  # independent pixels: two draws of three
    0.7
    """
    chains = checks.count("chains", chains, 2)
    sweeps = checks.count("sweeps", sweeps, MIN_DRAWS)
    burn_in = checks.count("burn_in", burn_in, 0)
    vectors = check_model(logits, tables, offsets, mask)
    scores = np.empty((chains, sweeps))
    changed = 0
    pixels = logits[0].size if mask is None else max(1, int(np.count_nonzero(mask)))
    uniform = np.zeros_like(logits)
    for number in range(chains):
        chain = chain_of(uniform, None, tables, vectors, mask, backend, threads, seed, number)
        chain.logits = np.ascontiguousarray(logits)[None]
        chain.draw(np.ones(burn_in, np.float32))
        for s in range(sweeps):
            changed += int(chain.draw(np.ones(1, np.float32)).sum())
            scores[number, s] = score(logits, chain.labels[0], tables, vectors, mask=mask) / pixels
    return Diagnosis(scores, split_r_hat(scores), changed / (chains * sweeps * pixels))
