"""Gibbs chains, which sweeps update, and the sweeps of one chain on NumPy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import checks
from .._typing import Array
from ..engines import default_threads
from ..engines.gibbs import GibbsEngine, GibbsProblem, gibbs_engine
from ..postprocess import label_dtype
from .checks import (
    SEED_BITS, SWEEP_BITS, check_holds, check_labelled_model, check_logits, check_potentials,
    inverse_temperatures,
)  # fmt: skip
from .model import Offsets, as_batch
from .neighbourhood import colouring


@dataclass
class Sampler:
    """Gibbs chains, one on each image of a batch: labellings that sweeps update.

    Arguments are checked. The arrays are those of the engine: NumPy arrays or tensors.
    """

    logits: Any  # [B, L, H, W] float32, contiguous
    labels: Any  # [B, H, W] int32, updated in place; negative outside the mask
    tables: Any  # [C, L, L] float32, contiguous
    offsets: Array  # [C, 2] int32
    seed: int
    numbers: Sequence[int]  # number of each chain
    sweeps: Sequence[int]  # sweeps that each chain has had: the number of its next sweep
    engine: GibbsEngine
    threads: int

    def draw(self, inverse_temperature: Array, sums: Any = None) -> Array:
        """Sweep once for each inverse temperature [S] float32; infinity takes the argmax.

        Adds the conditionals that labels were drawn from to `sums` [B, H, W, L] float64. Returns
        the number of labels that each sweep changed, [B, S] int64.
        """
        changes = np.empty((len(self.labels), len(inverse_temperature)), np.int64)
        problem = GibbsProblem(
            self.logits, self.labels, self.tables, self.offsets, colouring(self.offsets), self.seed,
            np.array(self.numbers, np.uint64), np.array(self.sweeps, np.uint64),
            inverse_temperature, sums, changes,
        )  # fmt: skip
        self.engine.gibbs_sweep(problem, self.threads)
        self.sweeps = [number + len(inverse_temperature) for number in self.sweeps]
        return changes

    def start(self) -> None:
        """Draw all labels from the logits alone, as sweep 0."""
        self.sweeps = [0] * len(self.labels)
        edgeless = replace(self, tables=self.tables[:0], offsets=self.offsets[:0])
        edgeless.draw(np.ones(1, np.float32))
        self.sweeps = edgeless.sweeps

    def result(self) -> Array:
        """Return the first image's labels in the smallest unsigned dtype, 0 outside the mask."""
        return np.maximum(self.labels[0], 0).astype(label_dtype(self.logits.shape[1]))

    def result_like(self, labels: Array) -> Array:
        """Return the first image's labels in the dtype of `labels`; outside the mask, `labels`.

        `check_holds` has checked that the dtype holds all labels.
        """
        return np.where(self.labels[0] < 0, labels, self.labels[0]).astype(labels.dtype)


def chain_of(
    logits: Array,
    labels: Array | None,
    tables: Array,
    vectors: Array,
    mask: Array | None,
    backend: str,
    threads: int | None,
    seed: int = 0,
    chain: int = 0,
    first_sweep: int = 0,
) -> Sampler:
    """Return a chain on one image, at `labels` or, if None, at a draw from the logits alone.

    Checks the options; the caller has checked the model.
    """
    first = np.zeros(logits.shape[1:], np.int32) if labels is None else labels
    sampler = Sampler(
        np.ascontiguousarray(logits)[None], as_batch(first, mask), np.ascontiguousarray(tables),
        vectors, checks.count("seed", seed, 0, below_power=SEED_BITS),
        [checks.count("chain", chain, 0, below_power=SEED_BITS)],
        [checks.count("first_sweep", first_sweep, 0, below_power=SWEEP_BITS)],
        gibbs_engine(backend), checks.threads(threads, default_threads()),
    )  # fmt: skip
    if labels is None:
        sampler.start()
    return sampler


def sweep(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int = 1,
    seed: int = 0,
    chain: int = 0,
    first_sweep: int = 0,
    temperature: float | Sequence[float] | Array = 1.0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> tuple[Array, Array]:
    """Draw every pixel anew from its conditional given all others, `sweeps` times.

    Parameters
    ----------
    logits, labels, tables, offsets, mask
        As for `score`. `labels` is the current state of the chain; it is not changed.
    sweeps : int, at least 0
    seed : int, 0 to 2^64 - 1
        The random numbers depend on seed, chain, number of the sweep and pixel only: not on
        earlier draws, threads or engine.
    chain : int, 0 to 2^64 - 1
        Number of the chain, such as the image's index in the data set.
    first_sweep : int
        Number of the first sweep: to continue a chain, the number of sweeps it has had.
    temperature : float, or one for each sweep, at least 0
        Scores are divided by it: 1 samples the model, 0 takes the most probable label (ICM).
    backend : str
        "auto", "cpu" or "numba"; `available_backends()` says which can run here.
    threads : int, optional
        Maximum number of threads; the result does not depend on it.

    Returns
    -------
    labels : ndarray [H, W], dtype of `labels`
    changes : ndarray [sweeps], int64
        Number of pixels whose label each sweep changed.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong kind, shape or range.
    BackendUnavailableError
        `backend` cannot run here.

    Notes
    -----
    Pixels are drawn one colour after another (`neighbourhood.colouring`). Pixels of one colour are
    not neighbours, so drawing them in parallel gives the result of drawing them one by one.
    Conditionals are computed in float32 as integer multiples of 2^-24 times the largest
    probability of the pixel (coarser from 256 labels on); smaller ones become 0. A sweep
    takes O(H W C L) time.

    Examples
    --------
    >>> logits = np.zeros((3, 8, 9), np.float32)
    >>> tables = np.full((1, 3, 3), -20, np.float32) * np.eye(3, dtype=np.float32)
    >>> labels, changes = sweep(logits, np.zeros((8, 9), np.uint8), tables, [(0, 1)], sweeps=5)
    >>> bool((labels[:, 1:] == labels[:, :-1]).any())  # the table makes equal neighbours improbable
    False
    """
    vectors = check_labelled_model(logits, labels, tables, offsets, mask)
    check_holds(labels, len(logits))
    sweeps = checks.count("sweeps", sweeps, 0)
    state = chain_of(
        logits, labels, tables, vectors, mask, backend, threads, seed, chain, first_sweep
    )
    changes = state.draw(inverse_temperatures(temperature, sweeps))
    return state.result_like(labels), changes[0]


def start(
    logits: Array,
    *,
    seed: int = 0,
    chain: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Draw a labelling to start a chain with: each pixel from the softmax of its logits.

    Parameters
    ----------
    logits, mask
        As for `score`.
    seed, chain, backend, threads
        As for `sweep`. The draw counts as sweep 0, so a chain continues with ``first_sweep=1``.

    Returns
    -------
    ndarray [H, W], uint8, or uint16 for more than 256 labels
        0 outside the mask.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Notes
    -----
    While all tables are 0, as when learning begins, it is an exact sample of the model
    [Kirillov15, section 3].

    Examples
    --------
    >>> start(np.zeros((2, 3, 4), np.float32)).shape
    (3, 4)
    """
    check_logits(logits, batched=False)
    checks.mask(mask, logits.shape[1:])
    check_potentials(logits, np.zeros((1, 1, 1)))
    count, no_vectors = len(logits), np.zeros((0, 2), np.int32)
    no_tables = np.zeros((0, count, count), np.float32)
    state = chain_of(logits, None, no_tables, no_vectors, mask, backend, threads, seed, chain)
    return state.result()
