"""Edge classes of a grid as translation vectors, and colourings of its pixels.

An edge class holds all pairs of pixels that are one vector (rows, columns) apart. Pixels of one
colour are not neighbours, so they may be sampled in parallel.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from .._limits import OFFSET_BITS
from .._typing import Array
from ..engines.gibbs import Colouring
from .. import checks


def dense_neighbourhood(radius: int) -> Array:
    """List every vector of at most `radius` rows and columns, one of each opposite pair.

    Parameters
    ----------
    radius : int, at least 1

    Returns
    -------
    ndarray [C, 2] of int32
        C = 2 radius (radius + 1) translation vectors (rows, columns), the shortest first.

    Raises
    ------
    TypeError, ValueError
        `radius` is not a positive integer.

    Notes
    -----
    The densely connected neighbourhood of [Kirillov15] section 2. A sweep costs O(C L) per pixel.

    Examples
    --------
    >>> dense_neighbourhood(1).tolist()
    [[0, 1], [1, 0], [1, -1], [1, 1]]
    """
    radius = checks.count("radius", radius, 1, below_power=OFFSET_BITS)
    steps = range(-radius, radius + 1)
    half = [(row, column) for row in steps for column in steps if (row, column) > (0, 0)]
    half.sort(key=lambda v: (v[0] ** 2 + v[1] ** 2, v))
    return np.array(half, np.int32)


def sparse_neighbourhood(radius: int) -> Array:
    """List four vectors for each of the distances 1, 2, 4, ...: rows, columns and diagonals.

    Parameters
    ----------
    radius : int, at least 1
        The maximum distance, along rows and columns.

    Returns
    -------
    ndarray [C, 2] of int32
        C = 4 (1 + floor(log2 radius)) translation vectors (rows, columns), the shortest first.

    Raises
    ------
    TypeError, ValueError
        `radius` is not a positive integer.

    Notes
    -----
    Like [FS11], who thin out a dense neighbourhood with distance so that few edge classes model
    shapes; the choice of vectors is ours.

    Examples
    --------
    >>> len(sparse_neighbourhood(1)), len(sparse_neighbourhood(10)), len(dense_neighbourhood(10))
    (4, 16, 220)
    """
    radius = checks.count("radius", radius, 1, below_power=OFFSET_BITS)
    directions = dense_neighbourhood(1)
    lengths = 2 ** np.arange(radius.bit_length(), dtype=np.int32)
    return (lengths[:, None, None] * directions).reshape(-1, 2)


def colouring(offsets: Array) -> Colouring:
    """Find the linear colouring with the fewest colours for edge classes [C, 2].

    Parameters
    ----------
    offsets : ndarray [C, 2], integer
        Translation vectors (rows, columns), none of them zero.

    Returns
    -------
    Colouring
        (a, b, m) such that a dx + b dy is not divisible by m for any offset (dy, dx). Sampling the
        pixels of one colour in any order, or in parallel, gives the same result.

    Examples
    --------
    >>> colouring(dense_neighbourhood(1)).m
    4
    >>> colouring(np.array([[0, 1], [1, 0]])).of((2, 4)).tolist()  # a chessboard
    [[0, 1, 0, 1], [1, 0, 1, 0]]
    """
    return _colouring(tuple(map(tuple, np.asarray(offsets).tolist())))


@lru_cache(maxsize=64)
def _colouring(offsets: tuple[tuple[int, int], ...]) -> Colouring:
    """Try numbers of colours m upwards from a lower bound, each with all coefficients."""
    if not offsets:
        return Colouring(0, 0, 1)
    dy, dx = np.array(offsets, np.int64).T
    m = max(_clique_size(offsets), 2)
    while True:
        b = np.arange(m)
        # Multiplying a and b by a number that has an inverse mod m only renames the colours, so
        # divisors of m are the only values of a to try.
        for a in (d % m for d in range(1, m + 1) if m % d == 0):
            good = ((a * dx + b[:, None] * dy) % m != 0).all(1)
            if good.any():
                return Colouring(a, int(good.argmax()), m)
        m += 1


def _clique_size(offsets: tuple[tuple[int, int], ...]) -> int:
    """Return the size of a greedily found clique: a lower bound on the number of colours."""
    both = {*offsets, *((-y, -x) for y, x in offsets)}
    # Neighbours of pixel (0, 0) in its own row and below, the nearest first.
    ahead = sorted((v for v in both if v > (0, 0)), key=lambda v: (max(v[0], abs(v[1])), v))
    found: list[tuple[int, int]] = []
    for right in (1, -1):
        chosen = [(0, 0)]
        for y, x in ahead:
            if x * right >= 0 and all((y - v, x - u) in both for v, u in chosen[1:]):
                chosen.append((y, x))
        found = max(found, chosen, key=len)
    return len(found)


def ends(array: Any, offset: Array) -> tuple[Any, Any]:
    """Return views of an array or tensor [..., H, W] at the first and second pixels of all edges.

    The edges are those of one class: from each pixel to the one `offset` (rows, columns) away.
    """
    cuts = [
        (slice(max(0, -d), n - max(0, d)), slice(max(0, d), n - max(0, -d)))
        for n, d in zip(array.shape[-2:], offset.tolist(), strict=True)
    ]
    first, second = zip(*cuts, strict=True)
    return array[(..., *first)], array[(..., *second)]
