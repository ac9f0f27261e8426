"""Gibbs sweeps on NumPy arrays: one chain on one image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks
from .._typing import Array
from ..engines import default_threads
from ..engines.gibbs import GibbsProblem, gibbs_engine
from ..postprocess import label_dtype
from .checks import (
    SEED_BITS, SWEEP_BITS, check_labelled_model, check_logits, check_model, check_potentials,
    inverse_temperatures,
)  # fmt: skip
from .model import Offsets, as_batch
from .neighbourhood import colouring


class Chain:
    """A Gibbs chain on one image: a labelling that sweeps update.

    The constructor checks the options alone; the caller has checked model and labels.

    Parameters
    ----------
    logits, tables, vectors, labels, mask
        As for `sweep`; `vectors` are the offsets as an int32 array.
    seed, chain, first_sweep, backend, threads
        As for `sweep`.

    Attributes
    ----------
    labels : ndarray [1, H, W], int32
        The current labelling; -1 outside the mask.
    """

    def __init__(
        self,
        logits: Array,
        tables: Array,
        vectors: Array,
        labels: Array,
        mask: Array | None,
        *,
        seed: int = 0,
        chain: int = 0,
        first_sweep: int = 0,
        backend: str,
        threads: int | None,
    ) -> None:
        self.labels = as_batch(labels, mask)
        self._model = (
            np.ascontiguousarray(logits)[None], self.labels, np.ascontiguousarray(tables), vectors,
            colouring(vectors), checks.count("seed", seed, 0, below_power=SEED_BITS),
            np.array([checks.count("chain", chain, 0, below_power=SEED_BITS)], np.uint64),
        )  # fmt: skip
        self._sweeps = checks.count("first_sweep", first_sweep, 0, below_power=SWEEP_BITS)
        self._threads = checks.threads(threads, default_threads())
        self._engine = gibbs_engine(backend)

    @classmethod
    def drawn(cls, logits: Array, mask: Array | None, **options: Any) -> "Chain":
        """Return a chain of a model without edges after sweep 0, a draw from its logits."""
        count = len(logits)
        no_tables = np.zeros((0, count, count), np.float32)
        labels = np.zeros(logits.shape[1:], np.int32)
        chain = cls(logits, no_tables, np.zeros((0, 2), np.int32), labels, mask, **options)
        chain.draw(np.ones(1, np.float32))
        return chain

    @classmethod
    def started(
        cls, logits: Array, tables: Array, offsets: Offsets, mask: Array | None, **options: Any
    ) -> "Chain":
        """Check a model and return its chain after `drawn`, before sweep 1."""
        vectors = check_model(logits, tables, offsets, mask)
        labels = cls.drawn(logits, mask, **options).labels[0]
        return cls(logits, tables, vectors, labels, None, first_sweep=1, **options)

    def draw(self, inverse_temperature: Array, sums: Array | None = None) -> Array:
        """Sweep once for each inverse temperature [S] float32; infinity takes the argmax.

        Adds the conditionals that labels were drawn from to `sums` [1, H, W, L] float64. Returns
        the number of labels that each sweep changed, [S] int64.
        """
        changes = np.empty((1, len(inverse_temperature)), np.int64)
        first = np.array([self._sweeps], np.uint64)
        problem = GibbsProblem(*self._model, first, inverse_temperature, sums, changes)
        self._engine.gibbs_sweep(problem, self._threads)
        self._sweeps += len(inverse_temperature)
        return changes[0]

    def result(self) -> Array:
        """Return the labels [H, W] in the smallest unsigned dtype, 0 outside the mask."""
        return np.maximum(self.labels[0], 0).astype(label_dtype(self._model[0].shape[1]))

    def result_like(self, labels: Array) -> Array:
        """Return the labels [H, W] in the dtype of `labels`, whose values stay outside the mask."""
        return np.where(self.labels[0] < 0, labels, self.labels[0]).astype(labels.dtype)


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
        "auto", or a name from `available_backends()`.
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
    Conditionals are computed in float32 as integer multiples of 2^-24 of the most probable label's;
    smaller ones become 0. O(H W C L) a sweep.

    Examples
    --------
    >>> logits = np.zeros((3, 8, 9), np.float32)
    >>> tables = np.full((1, 3, 3), -20, np.float32) * np.eye(3, dtype=np.float32)
    >>> labels, changes = sweep(logits, np.zeros((8, 9), np.uint8), tables, [(0, 1)], sweeps=5)
    >>> bool((labels[:, 1:] == labels[:, :-1]).any())  # the table makes equal neighbours improbable
    False
    """
    vectors = check_labelled_model(logits, labels, tables, offsets, mask)
    sweeps = checks.count("sweeps", sweeps, 0)
    state = Chain(
        logits, tables, vectors, labels, mask, seed=seed, chain=chain, first_sweep=first_sweep,
        backend=backend, threads=threads,
    )  # fmt: skip
    changes = state.draw(inverse_temperatures(temperature, sweeps))
    return state.result_like(labels), changes


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
    if mask is not None:
        checks.mask(mask, logits.shape[1:])
    check_potentials(logits, np.zeros((1, 1, 1)))
    options = {"seed": seed, "chain": chain, "backend": backend, "threads": threads}
    return Chain.drawn(logits, mask, **options).result()
