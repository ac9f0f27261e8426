"""Whether Gibbs chains have forgotten where they began: split R-hat, label changes, energies."""

from dataclasses import dataclass

import numpy as np

from .._typing import Array
from .. import checks
from . import sampling
from .checks import check_logits


def split_r_hat(draws: Array) -> float:
    """How much further chains are apart than each is wide: near 1 when they have converged.

    Parameters
    ----------
    draws : ndarray [chains, sweeps], floating point, finite, at least 4 sweeps
        One number of each chain after each sweep, such as its energy.

    Returns
    -------
    float
        The root of the ratio of two estimates of the variance, from all chains together and from
        within each, where every chain counts as two, its first half and its second. 1 where
        nothing varies; infinity where chains stand still at different numbers.

    Raises
    ------
    TypeError, ValueError

    Notes
    -----
    [Gelman13] section 11.4. Above 1.01 or so the chains want more sweeps, or a longer burn-in.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(4, 1000))
    >>> split_r_hat(noise) < 1.01, split_r_hat(noise + np.arange(4)[:, None]) > 1.2
    (True, True)
    """
    checks.array_kind("draws", draws, batched=False)
    if draws.ndim != 2 or draws.shape[0] < 1 or draws.shape[1] < 4:
        raise ValueError(
            f"draws has shape {draws.shape}; it must be [chains, sweeps], of 4 sweeps at least"
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
    """What chains on one image did after their burn-in."""

    energies: Array  # [chains, sweeps], score per pixel that takes part
    r_hat: float  # of the energies
    acceptance: float  # share of draws that changed the label; near 0, a chain is stuck

    def __str__(self) -> str:
        """One line for a log."""
        chains, sweeps = self.energies.shape
        return (
            f"{chains} chains of {sweeps} sweeps: R-hat {self.r_hat:.3f}, "
            f"{100 * self.acceptance:.1f} % of draws change the label"
        )


def diagnose(
    logits: Array,
    tables: Array,
    offsets: sampling.Offsets,
    *,
    chains: int = 4,
    sweeps: int = 100,
    burn_in: int = 0,
    seed: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Diagnosis:
    """Run some chains on one image from starts far apart and compare them.

    Parameters
    ----------
    logits, tables, offsets, mask
        As for `gibbs.energy`.
    chains : int, at least 2
        They begin at labels drawn without regard to logits: further apart than the model is wide.
    sweeps, burn_in : int
        Sweeps of each that are looked at, at least 4, and before those.
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
    sweeps = checks.count("sweeps", sweeps, 4)
    burn_in = checks.count("burn_in", burn_in, 0)
    check_logits(logits, batched=False)
    shared = {"seed": seed, "mask": mask, "backend": backend, "threads": threads}
    energies = np.empty((chains, sweeps))
    changed = 0
    pixels = logits[0].size if mask is None else max(1, int(np.count_nonzero(mask)))
    for chain in range(chains):
        labels = sampling.start(
            np.zeros_like(logits), chain=chain, **shared  # type: ignore[arg-type]
        )
        for s in range(burn_in + sweeps):
            labels, changes = sampling.sweep(
                logits, labels, tables, offsets, chain=chain, first_sweep=1 + s,
                **shared,  # type: ignore[arg-type]
            )  # fmt: skip
            if s >= burn_in:
                score = sampling.energy(logits, labels, tables, offsets, mask=mask)
                energies[chain, s - burn_in] = score / pixels
                changed += int(changes[0])
    acceptance = changed / (chains * sweeps * pixels)
    return Diagnosis(energies, split_r_hat(energies), acceptance)
