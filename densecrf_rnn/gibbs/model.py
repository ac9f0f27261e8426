"""The model of a grid CRF on NumPy arrays: scores, conditionals and sufficient statistics.

The model is that of [Kirillov15]: logits for each pixel, and for each edge class (all pairs of
pixels one translation vector apart) a table of scores of any sign.
"""

from collections.abc import Sequence

import numpy as np

from .. import checks
from .._typing import Array
from ..engines import default_threads
from ..engines.gibbs import gibbs_engine
from ..inference.running import softmax
from .._limits import LABEL_BITS
from .checks import check_labelled_model, check_labelling, check_offsets
from .neighbourhood import ends

Offsets = Array | Sequence[Sequence[int]]


def score(
    logits: Array, labels: Array, tables: Array, offsets: Offsets, *, mask: Array | None = None
) -> float:
    """Return the score E of a labelling: its probability is exp(E) / Z, so higher is better.

    Parameters
    ----------
    logits : ndarray [L, H, W], float32, finite
        psi_i(l), the score of each label at each pixel, such as a network's output.
    labels : ndarray [H, W], integer
        A labelling with values 0..L-1; values outside `mask` are ignored.
    tables : ndarray [C, L, L], float32, finite
        psi_c(l, l'), the score of label l (row) at a pixel and l' (column) at the pixel
        ``offsets[c]`` away from it. Negative scores repel, positive scores attract: the opposite
        sign of a compatibility, which is a penalty.
    offsets : ndarray [C, 2], integer, or a sequence of pairs
        Translation vectors (rows, columns), one for each edge class: each nonzero, shorter than
        the image and than 2^15 pixels, and not the opposite of another.
    mask : ndarray [H, W] of bool, optional
        Pixels where the mask is False are excluded, and so are their edges.

    Returns
    -------
    float
        Summed in float64.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong kind, shape or range.

    Notes
    -----
    [Kirillov15] equation (1), with the same sign. It is the negative of an energy.

    Examples
    --------
    >>> logits = np.zeros((2, 1, 3), np.float32)
    >>> repulsion = -np.eye(2, dtype=np.float32)[None]
    >>> score(logits, np.array([[0, 0, 1]]), repulsion, [(0, 1)])
    -1.0
    """
    vectors = check_labelled_model(logits, labels, tables, offsets, mask)
    inside = np.ones(labels.shape, bool) if mask is None else mask
    safe = np.where(inside, labels, 0)
    chosen = np.take_along_axis(logits, safe[None], 0)[0]
    total = float(chosen.sum(where=inside, dtype=np.float64))
    for table, offset in zip(tables, vectors, strict=True):
        (i, j), (inside_i, inside_j) = ends(safe, offset), ends(inside, offset)
        total += float(table[i, j].sum(where=inside_i & inside_j, dtype=np.float64))
    return total


energy = score  # former name


def conditional(
    logits: Array, labels: Array, tables: Array, offsets: Offsets, *, mask: Array | None = None
) -> Array:
    """Return the distribution of each pixel's label given the labels of all other pixels.

    Parameters
    ----------
    logits, labels, tables, offsets, mask
        As for `score`.

    Returns
    -------
    ndarray [L, H, W], float32
        Sums to 1 over the labels. Outside the mask: the softmax of the logits.

    Raises
    ------
    TypeError, ValueError
        The same errors as `score`.

    Notes
    -----
    [Kirillov15] equation (7).

    Examples
    --------
    >>> repulsion = np.array([[[-9, 0], [0, -9]]], np.float32)
    >>> p = conditional(np.zeros((2, 1, 2), np.float32), np.array([[0, 1]]), repulsion, [(0, 1)])
    >>> p[:, 0, 0].round(3).tolist()  # its neighbour has label 1
    [1.0, 0.0]
    """
    vectors = check_labelled_model(logits, labels, tables, offsets, mask)
    count = len(logits)
    # Masked neighbours get the extra label L, whose table entries are 0.
    safe = labels if mask is None else np.where(mask, labels, count)
    padded = np.pad(tables, ((0, 0), (0, 1), (0, 1)))
    scores = logits.astype(np.float64)
    for table, offset in zip(padded, vectors, strict=True):
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
    """Count the label pairs at the two ends of edges, for each edge class.

    Parameters
    ----------
    labels : ndarray [H, W], integer
        As for `score`.
    num_classes : int
        Number of labels L.
    offsets, mask
        As for `score`.
    backend : str
        "auto", "cpu" or "numba"; `available_backends()` says which can run here.
    threads : int, optional
        Maximum number of threads; the result does not depend on it.

    Returns
    -------
    ndarray [C, L, L], int64
        The sufficient statistics of the tables: the score is their inner product with the tables,
        plus the sum of the chosen logits.

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
    num_classes = checks.count("num_classes", num_classes, 1, below_power=LABEL_BITS)
    vectors = check_offsets(offsets, labels.shape)
    checks.mask(mask, labels.shape)
    check_labelling("labels", labels, labels.shape, num_classes, mask)
    counts = np.zeros((len(vectors), num_classes, num_classes), np.int64)
    threads = checks.threads(threads, default_threads())
    gibbs_engine(backend).gibbs_statistics(as_batch(labels, mask), vectors, counts, threads)
    return counts


def as_batch(labels: Array, mask: Array | None) -> Array:
    """Copy labels [H, W] to the engines' format: [1, H, W] int32, -1 outside the mask."""
    out = labels.astype(np.int32, order="C")
    if mask is not None:
        out[~mask] = -1
    return out[None]
