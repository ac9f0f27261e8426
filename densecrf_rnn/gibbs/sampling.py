"""Gibbs sampling of a grid CRF with arbitrary pairwise tables, on NumPy arrays.

The model of [Kirillov15]: logits for each pixel, and for each edge class (all pairs of pixels one
translation vector apart) a table of scores of any sign. Learning it is in `densecrf_rnn.nn`.
"""

from collections.abc import Sequence

import numpy as np

from .._typing import Array
from .. import checks
from ..engines import default_threads
from ..engines.gibbs import GibbsProblem, gibbs_engine
from ..inference.mean_field import softmax
from .checks import (
    check_labelling,
    check_logits,
    check_offsets,
    check_potentials,
    check_tables,
    inverse_temperatures,
)
from .neighbourhood import colouring, ends
from ..unaries import label_dtype

Offsets = Array | Sequence[Sequence[int]]


def energy(
    logits: Array, labels: Array, tables: Array, offsets: Offsets, *, mask: Array | None = None
) -> float:
    """The score E of a labelling: its probability is exp(E) / Z, so higher is likelier.

    Parameters
    ----------
    logits : ndarray [L, H, W], float32, finite
        psi_i(l), the score of each label at each pixel, as networks give it.
    labels : ndarray [H, W], integer
        A labelling; each 0..L-1, but for pixels outside `mask`, which may hold anything.
    tables : ndarray [C, L, L], float32, finite
        psi_c(l, l'), the score of label l (row) at a pixel and l' (column) at the pixel
        ``offsets[c]`` away from it. Below 0 repels, above 0 attracts: the opposite sign of a
        compatibility, which is a penalty.
    offsets : ndarray [C, 2], integer, or a sequence of pairs
        Translation vectors (rows, columns), one for each edge class: none zero, none the opposite
        of another, all shorter than the image and than 2^15 pixels.
    mask : ndarray [H, W] of bool, optional
        False pixels take no part, nor do their edges.

    Returns
    -------
    float
        In float64.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape or range.

    Notes
    -----
    [Kirillov15] equation (1), which has this sign too.

    Examples
    --------
    >>> logits = np.zeros((2, 1, 3), np.float32)
    >>> repulsion = -np.eye(2, dtype=np.float32)[None]
    >>> energy(logits, np.array([[0, 0, 1]]), repulsion, [(0, 1)])
    -1.0
    """
    pairs = _model(logits, tables, offsets, mask)
    check_labelling("labels", labels, logits.shape[1:], len(logits), mask)
    taken = np.ones(labels.shape, bool) if mask is None else mask
    safe = np.where(taken, labels, 0)
    chosen = np.take_along_axis(logits, safe[None], 0)[0]
    total = float(chosen.sum(where=taken, dtype=np.float64))
    for table, offset in zip(tables, pairs, strict=True):
        (i, j), (taken_i, taken_j) = ends(safe, offset), ends(taken, offset)
        total += float(table[i, j].sum(where=taken_i & taken_j, dtype=np.float64))
    return total


def conditional(
    logits: Array, labels: Array, tables: Array, offsets: Offsets, *, mask: Array | None = None
) -> Array:
    """The distribution of each pixel's label given the labels of all others.

    Parameters
    ----------
    logits, labels, tables, offsets, mask
        As for `energy`.

    Returns
    -------
    ndarray [L, H, W], float32
        Sums to 1 over the labels; for pixels outside the mask, the softmax of their logits.

    Raises
    ------
    TypeError, ValueError
        As `energy`.

    Notes
    -----
    [Kirillov15] equation (7).

    Examples
    --------
    >>> repulsion = np.array([[[-9, 0], [0, -9]]], np.float32)
    >>> p = conditional(np.zeros((2, 1, 2), np.float32), np.array([[0, 1]]), repulsion, [(0, 1)])
    >>> p[:, 0, 0].round(3).tolist()  # beside a 1 there is no other
    [1.0, 0.0]
    """
    pairs = _model(logits, tables, offsets, mask)
    check_labelling("labels", labels, logits.shape[1:], len(logits), mask)
    count = len(logits)
    # Masked neighbours have a label of their own, of which no table knows anything.
    safe = labels if mask is None else np.where(mask, labels, count)
    wide = np.pad(tables, ((0, 0), (0, 1), (0, 1)))
    scores = logits.astype(np.float64)
    for table, offset in zip(wide, pairs, strict=True):
        labels_i, labels_j = ends(safe, offset)
        scores_i, scores_j = ends(scores, offset)
        scores_i += table[:count, labels_j]
        scores_j += table.T[:count, labels_i]
    if mask is not None:
        scores[:, ~mask] = logits[:, ~mask]
    return softmax(scores, axis=0).astype(np.float32)


def statistics(
    labels: Array,
    num_classes: int,
    offsets: Offsets,
    *,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """How often each pair of labels stands at the ends of an edge, by edge class.

    Parameters
    ----------
    labels : ndarray [H, W], integer
        As for `energy`.
    num_classes : int
        Labels L.
    offsets, mask
        As for `energy`.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        At most this many threads; the result does not depend on it.

    Returns
    -------
    ndarray [C, L, L], int64
        The sufficient statistics of the tables: E is their inner product with the tables, plus the
        logits of the labelling.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Examples
    --------
    >>> statistics(np.array([[0, 0, 1]]), 2, [(0, 1)]).tolist()
    [[[1, 1], [0, 0]]]
    """
    checks.array_kind("labels", labels, batched=False)
    if labels.ndim != 2:
        raise ValueError(f"labels has {labels.ndim} axes; a labelling is [H, W]")
    num_classes = checks.count("num_classes", num_classes, 1, below_power=16)
    pairs = check_offsets(offsets, labels.shape)
    if mask is not None:
        checks.mask(mask, labels.shape)
    check_labelling("labels", labels, labels.shape, num_classes, mask)
    counts = np.zeros((len(pairs), num_classes, num_classes), np.int64)
    threads = checks.threads(threads, default_threads())
    engine = gibbs_engine(backend)
    engine.statistics(_for_engine(labels, mask), pairs, counts, threads)
    return counts


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
    """The labelling after every pixel was drawn anew, given all others, `sweeps` times.

    Parameters
    ----------
    logits, labels, tables, offsets, mask
        As for `energy`. `labels` is where the chain stands; it is not changed.
    sweeps : int, at least 0
    seed : int, 0 to 2^64 - 1
        With `chain`, the number of the sweep and the pixel it makes the random numbers, so these
        do not depend on what was drawn before, nor on threads or engines.
    chain : int, 0 to 2^64 - 1
        Number of the chain, such as that of an image in its data set.
    first_sweep : int
        Number of the first sweep: to go on with a chain, how many it has had.
    temperature : float, or one for each sweep, at least 0
        Scores are divided by it: 1 samples the model, 0 takes the likeliest label (ICM).
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        At most this many threads; the result does not depend on it.

    Returns
    -------
    labels : ndarray [H, W], dtype of `labels`
    changes : ndarray [sweeps], int64
        How many pixels each sweep gave another label.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape or range.
    BackendUnavailableError
        `backend` cannot run here.

    Notes
    -----
    Pixels are drawn colour by colour (`neighbourhood.colouring`), so that those of one colour may
    be drawn side by side: the result is that of drawing them one after another. Conditionals are
    computed in float32 and rounded to 2^-24 of the likeliest label's; less counts as 0.
    O(H W (C L)) a sweep.

    Examples
    --------
    >>> logits = np.zeros((3, 8, 9), np.float32)
    >>> tables = np.full((1, 3, 3), -20, np.float32) * np.eye(3, dtype=np.float32)
    >>> labels, changes = sweep(logits, np.zeros((8, 9), np.uint8), tables, [(0, 1)], sweeps=5)
    >>> bool((labels[:, 1:] == labels[:, :-1]).any())  # the table forbids it
    False
    """
    pairs = _model(logits, tables, offsets, mask)
    check_labelling("labels", labels, logits.shape[1:], len(logits), mask)
    sweeps = checks.count("sweeps", sweeps, 0)
    found, changes = _sweep(
        logits, _for_engine(labels, mask), tables, pairs, sweeps, seed, chain, first_sweep,
        inverse_temperatures(temperature, sweeps), None, backend, threads,
    )  # fmt: skip
    return np.where(found < 0, labels, found).astype(labels.dtype), changes


def start(
    logits: Array,
    *,
    seed: int = 0,
    chain: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """A labelling to begin a chain with: each pixel drawn from the softmax of its logits.

    Parameters
    ----------
    logits, mask
        As for `energy`.
    seed, chain, backend, threads
        As for `sweep`. It is drawn as sweep 0, so a chain goes on with ``first_sweep=1``.

    Returns
    -------
    ndarray [H, W], uint8, or uint16 for more than 256 labels
        0 outside the mask.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Notes
    -----
    Where all tables are 0, as at the beginning of learning, it is a perfect sample of the model
    [Kirillov15, section 3].

    Examples
    --------
    >>> start(np.zeros((2, 3, 4), np.float32)).shape
    (3, 4)
    """
    check_logits(logits, batched=False)
    count, size = len(logits), logits.shape[1:]
    if mask is not None:
        checks.mask(mask, size)
    alone = np.zeros((0, count, count), np.float32)
    check_potentials(logits, np.zeros((1, 1, 1)))
    found, _ = _sweep(
        logits, _for_engine(np.zeros(size, np.int32), mask), alone, np.zeros((0, 2), np.int32), 1,
        seed, chain, 0, np.ones(1, np.float32), None, backend, threads,
    )  # fmt: skip
    return np.maximum(found, 0).astype(label_dtype(count))


def marginals(
    logits: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int,
    burn_in: int,
    seed: int = 0,
    chain: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """The marginal of each pixel's label, by averaging conditionals over a chain.

    Parameters
    ----------
    logits, tables, offsets, mask
        As for `energy`.
    sweeps : int, at least 1
        Sweeps that are averaged over; the error falls with their square root.
    burn_in : int, at least 0
        Sweeps before those, in which the chain forgets where it began.
    seed, chain, backend, threads
        As for `sweep`; the chain begins with `start`.

    Returns
    -------
    ndarray [L, H, W], float32
        Sums to 1 over the labels; for pixels outside the mask, the softmax of their logits. Its
        argmax over labels is the decision of least expected error per pixel.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Notes
    -----
    Each draw contributes the whole conditional it was drawn from in place of its one label
    (Rao-Blackwell): the same mean, less variance.

    Examples
    --------
    >>> attraction = np.eye(2, dtype=np.float32)[None]
    >>> logits = np.zeros((2, 1, 2), np.float32)
    >>> logits[1, 0, 0] = 2
    >>> q = marginals(logits, attraction, [(0, 1)], sweeps=2000, burn_in=10)
    >>> (q[1, 0, 1] > 0.6).item()  # its neighbour's opinion
    True
    """
    pairs = _model(logits, tables, offsets, mask)
    sweeps = checks.count("sweeps", sweeps, 1)
    burn_in = checks.count("burn_in", burn_in, 0)
    first = start(logits, seed=seed, chain=chain, mask=mask, backend=backend, threads=threads)
    labels = _for_engine(first, mask)
    sums = np.zeros((1, *logits.shape[1:], len(logits)))
    for count, number, into in ((burn_in, 1, None), (sweeps, 1 + burn_in, sums)):
        one = np.ones(count, np.float32)
        found, _ = _sweep(
            logits, labels, tables, pairs, count, seed, chain, number, one, into, backend, threads
        )
        labels = found[None]
    q = np.moveaxis(sums[0] / sweeps, -1, 0)
    if mask is not None:
        q[:, ~mask] = softmax(logits[:, ~mask], axis=0)
    return q.astype(np.float32)


def annealed(
    logits: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int,
    hottest: float = 1.0,
    coldest: float = 0.05,
    seed: int = 0,
    chain: int = 0,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """A labelling of high score, by cooling a chain: an approximate MAP, for comparison.

    Parameters
    ----------
    logits, tables, offsets, mask
        As for `energy`.
    sweeps : int, at least 1
        Sweeps while the temperature falls geometrically; then `icm` until nothing changes.
    hottest, coldest : float, above 0
        The first temperature and the last.
    seed, chain, backend, threads
        As for `sweep`.

    Returns
    -------
    ndarray [H, W], uint8, or uint16 for more than 256 labels

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError

    Notes
    -----
    [Kirillov15] prefers `marginals` and their argmax: MAP minimises the chance of any error at
    all, not the number of wrong pixels.

    Examples
    --------
    >>> logits = np.zeros((2, 3, 4), np.float32)
    >>> repulsion = -np.stack([np.eye(2, dtype=np.float32)] * 2)
    >>> labels = annealed(logits, repulsion, [(0, 1), (1, 0)], sweeps=200)
    >>> energy(logits, labels, repulsion, [(0, 1), (1, 0)])  # a chessboard
    0.0
    """
    sweeps = checks.count("sweeps", sweeps, 1)
    hot, cold = checks.number("hottest", hottest), checks.number("coldest", coldest)
    if not hot >= cold >= 1e-6:
        raise ValueError(
            f"hottest is {hot:g} and coldest {cold:g}; temperatures fall, and stay above 1e-6"
        )
    shared = {"seed": seed, "chain": chain, "mask": mask, "backend": backend, "threads": threads}
    first = start(logits, **shared)  # type: ignore[arg-type]
    labels, _ = sweep(
        logits, first, tables, offsets, sweeps=sweeps, first_sweep=1,
        temperature=np.geomspace(hot, cold, sweeps), **shared,  # type: ignore[arg-type]
    )  # fmt: skip
    return icm(logits, labels, tables, offsets, mask=mask, backend=backend, threads=threads)


def icm(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Offsets,
    *,
    sweeps: int = 1000,
    mask: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """The labelling at which no single pixel can raise the score: iterated conditional modes.

    Parameters
    ----------
    logits, labels, tables, offsets, mask
        As for `energy`; it begins at `labels`.
    sweeps : int, at least 0
        At most this many.
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
    _model(logits, tables, offsets, mask)
    check_labelling("labels", labels, logits.shape[1:], len(logits), mask)
    for _ in range(checks.count("sweeps", sweeps, 0)):
        labels, changes = sweep(
            logits, labels, tables, offsets, temperature=0, mask=mask, backend=backend,
            threads=threads,
        )  # fmt: skip
        if changes[0] == 0:
            break
    return labels


def _model(logits: Array, tables: Array, offsets: Offsets, mask: Array | None) -> Array:
    """Check what makes a model; the offsets as engines take them."""
    check_logits(logits, batched=False)
    pairs = check_offsets(offsets, logits.shape[1:])
    check_tables(tables, len(pairs), len(logits))
    check_potentials(logits, tables)
    if mask is not None:
        checks.mask(mask, logits.shape[1:])
    return pairs


def _for_engine(labels: Array, mask: Array | None) -> Array:
    """Labels [H, W] as a batch of one that engines may write to; -1 takes no part."""
    out = labels.astype(np.int32, order="C")
    if mask is not None:
        out[~mask] = -1
    return out[None]


def _sweep(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Array,
    sweeps: int,
    seed: int,
    chain: int,
    first_sweep: int,
    inverse_temperature: Array,
    sums: Array | None,
    backend: str,
    threads: int | None,
) -> tuple[Array, Array]:
    """Labels [H, W], below 0 outside the mask, and changes [S]; `sums` is added to."""
    seed = checks.count("seed", seed, 0, below_power=64)
    chain = checks.count("chain", chain, 0, below_power=64)
    first_sweep = checks.count("first_sweep", first_sweep, 0)
    changes = np.empty((1, sweeps), np.int64)
    problem = GibbsProblem(
        np.ascontiguousarray(logits)[None], labels, np.ascontiguousarray(tables), offsets,
        colouring(offsets), seed, np.array([chain], np.uint64), np.array([first_sweep], np.uint64),
        inverse_temperature, sums, changes,
    )  # fmt: skip
    threads = checks.threads(threads, default_threads())
    gibbs_engine(backend).sweep(problem, threads)
    return labels[0], changes[0]
