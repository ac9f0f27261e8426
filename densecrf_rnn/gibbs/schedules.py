"""Schedules of Gibbs sweeps: averaging after a burn-in, annealing, and ICM.

The first part runs any `Sampler`: the chain of one NumPy image and those of a torch batch alike.
The second part is the NumPy interface.
"""

from typing import Any

import numpy as np

from .. import checks
from .._typing import Array
from ..inference.running import softmax
from .checks import check_holds, check_labelled_model, check_model
from .model import Offsets
from .sweeps import Sampler, chain_of

HOTTEST, COLDEST = 1.0, 0.05  # first and last temperature of annealing
MIN_COLDEST = 1e-6
ICM_SWEEPS = 1000  # maximum; ICM nearly always stops much earlier
GREEDY = np.full(1, np.inf, np.float32)  # inverse temperature of a sweep of ICM


def run_average(state: Sampler, burn_in: int, sweeps: int, sums: Any) -> None:
    """Sweep `burn_in` times, then `sweeps` times while adding the conditionals to `sums`."""
    state.draw(np.ones(burn_in, np.float32))
    state.draw(np.ones(sweeps, np.float32), sums)


def run_annealing(
    chains: Sampler, sweeps: int, hottest: float = HOTTEST, coldest: float = COLDEST
) -> None:
    """Sweep while the temperature falls geometrically from `hottest` to `coldest`, then run ICM."""
    chains.draw((1 / np.geomspace(hottest, coldest, sweeps)).astype(np.float32))
    run_icm(chains)


def run_icm(chains: Sampler, sweeps: int = ICM_SWEEPS) -> None:
    """Take the most probable label of each pixel in turn until no label changes."""
    for _ in range(sweeps):
        if int(chains.draw(GREEDY).sum()) == 0:
            break


# --- on NumPy arrays -----------------------------------------------------------------------------


def marginals(
    logits: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int,
    burn_in: int,
    chains: int = 1,
    seed: int = 0,
    chain: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Estimate each pixel's marginal by averaging its conditionals over one or more chains.

    Parameters
    ----------
    logits, tables, offsets, mask
        As for `score`.
    sweeps : int, at least 1
        Number of sweeps to average over; the error falls with its square root.
    burn_in : int, at least 0
        Number of sweeps before the averaged ones, for the chain to forget its start.
    chains : int, at least 1
        Number of independent chains, each of `burn_in` and `sweeps` sweeps. If the model has
        several modes (very different labellings that are all probable), one chain stays for long
        in the mode in which it starts, and several short chains are better than a long one.
    seed, backend, threads
        As for `sweep`; each chain begins with `start`.
    chain : int
        Number of the first chain; the others follow it.

    Returns
    -------
    ndarray [L, H, W], float32
        Sums to 1 over the labels. Outside the mask: the softmax of the logits. The argmax over
        labels minimises the expected number of wrong pixels.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Notes
    -----
    Each draw contributes the whole conditional it was drawn from instead of its one label
    (Rao-Blackwell): the estimate has the same mean and less variance.

    Examples
    --------
    >>> attraction = np.eye(2, dtype=np.float32)[None]
    >>> logits = np.zeros((2, 1, 2), np.float32)
    >>> logits[1, 0, 0] = 2
    >>> q = marginals(logits, attraction, [(0, 1)], sweeps=2000, burn_in=10)
    >>> (q[1, 0, 1] > 0.6).item()  # its own logits are equal: the neighbour decides
    True
    """
    sweeps = checks.count("sweeps", sweeps, 1)
    burn_in = checks.count("burn_in", burn_in, 0)
    chains = checks.count("chains", chains, 1)
    vectors = check_model(logits, tables, offsets, mask)
    sums = np.zeros((1, *logits.shape[1:], len(logits)))
    for number in range(chains):
        state = chain_of(
            logits, None, tables, vectors, mask, backend, threads, seed, chain + number
        )
        run_average(state, burn_in, sweeps, sums)
    q = np.moveaxis(sums[0] / (sweeps * chains), -1, 0)
    if mask is not None:
        q[:, ~mask] = softmax(logits[:, ~mask], axis=0)
    return q.astype(np.float32)


def annealed(
    logits: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int,
    hottest: float = HOTTEST,
    coldest: float = COLDEST,
    seed: int = 0,
    chain: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Find a labelling of high score (an approximate MAP) by simulated annealing.

    Parameters
    ----------
    logits, tables, offsets, mask
        As for `score`.
    sweeps : int, at least 1
        Number of sweeps while the temperature falls geometrically; `icm` follows them.
    hottest, coldest : float, hottest >= coldest >= 1e-6
        First and last temperature.
    seed, chain, backend, threads
        As for `sweep`.

    Returns
    -------
    ndarray [H, W], uint8, or uint16 for more than 256 labels
        0 outside the mask.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Notes
    -----
    [Kirillov15] prefers the argmax of `marginals`: the MAP minimises the probability of any error
    at all, not the number of wrong pixels.

    Examples
    --------
    >>> from densecrf_rnn.gibbs import score
    >>> logits = np.zeros((2, 3, 4), np.float32)
    >>> repulsion = -np.stack([np.eye(2, dtype=np.float32)] * 2)
    >>> labels = annealed(logits, repulsion, [(0, 1), (1, 0)], sweeps=200)
    >>> score(logits, labels, repulsion, [(0, 1), (1, 0)])  # a chessboard
    0.0
    """
    sweeps = checks.count("sweeps", sweeps, 1)
    hot, cold = checks.number("hottest", hottest), checks.number("coldest", coldest)
    if not hot >= cold >= MIN_COLDEST:
        raise ValueError(
            f"hottest is {hot:g} and coldest {cold:g}; temperatures must fall and stay above "
            f"{MIN_COLDEST:g}"
        )
    vectors = check_model(logits, tables, offsets, mask)
    state = chain_of(logits, None, tables, vectors, mask, backend, threads, seed, chain)
    run_annealing(state, sweeps, hot, cold)
    return state.result()


def icm(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int = ICM_SWEEPS,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Raise the score one pixel at a time until no change does: iterated conditional modes.

    Parameters
    ----------
    logits, labels, tables, offsets, mask
        As for `score`; `labels` is the labelling to start from.
    sweeps : int, at least 0
        Maximum number of sweeps.
    backend, threads
        As for `sweep`.

    Returns
    -------
    ndarray [H, W], dtype of `labels`

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Examples
    --------
    >>> noise = np.zeros((2, 3, 3), np.float32)
    >>> noise[1, 1, 1] = 0.5
    >>> attraction = np.stack([np.eye(2, dtype=np.float32)] * 2)
    >>> icm(noise, noise.argmax(0), attraction, [(0, 1), (1, 0)]).sum().item()
    0
    """
    vectors = check_labelled_model(logits, labels, tables, offsets, mask)
    check_holds(labels, len(logits))
    state = chain_of(logits, labels, tables, vectors, mask, backend, threads)
    run_icm(state, checks.count("sweeps", sweeps, 0))
    return state.result_like(labels)
