"""Which pixels of a grid are neighbours: edge classes as translation vectors, and their colouring.

An edge class holds all pairs of pixels that are one vector (rows, columns) apart. A colouring says
which pixels may be sampled side by side. Knows no labels and no image.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from .. import checks


def dense_neighbourhood(radius: int) -> Array:
    """Every vector of at most `radius` rows and columns, one of each opposite pair.

    Parameters
    ----------
    radius : int, at least 1

    Returns
    -------
    ndarray [C, 2] of int32
        C = 2 radius (radius + 1) translation vectors (rows, columns), the nearest first.

    Raises
    ------
    TypeError, ValueError
        `radius` is not a whole number above 0.

    Notes
    -----
    The densely connected neighbourhood of [Kirillov15] section 2. A sweep costs O(C L) per pixel.

    Examples
    --------
    >>> dense_neighbourhood(1).tolist()
    [[0, 1], [1, 0], [1, -1], [1, 1]]
    """
    radius = checks.count("radius", radius, 1, below_power=15)
    reach = range(-radius, radius + 1)
    half = [(row, column) for row in reach for column in reach if (row, column) > (0, 0)]
    half.sort(key=lambda v: (v[0] ** 2 + v[1] ** 2, v))
    return np.array(half, np.int32)


def sparse_neighbourhood(radius: int) -> Array:
    """The eight directions at distances 1, 2, 4, ... up to `radius`, one of each opposite pair.

    Parameters
    ----------
    radius : int, at least 1
        The longest distance, along rows and columns.

    Returns
    -------
    ndarray [C, 2] of int32
        C = 4 (1 + floor(log2 radius)) translation vectors (rows, columns), the nearest first.

    Raises
    ------
    TypeError, ValueError
        `radius` is not a whole number above 0.

    Notes
    -----
    Long edges for little work, after [FS11], who thin out a dense neighbourhood with distance so
    that shapes are modelled by few edge classes. These are our vectors, in that manner; pass your
    own to have others.

    Examples
    --------
    >>> len(sparse_neighbourhood(1)), len(sparse_neighbourhood(10)), len(dense_neighbourhood(10))
    (4, 16, 220)
    """
    radius = checks.count("radius", radius, 1, below_power=15)
    directions = dense_neighbourhood(1)
    lengths = 2 ** np.arange(radius.bit_length(), dtype=np.int32)
    return (lengths[:, None, None] * directions).reshape(-1, 2)


class Colouring(NamedTuple):
    """Colours (a column + b row) mod m: no two pixels of one colour are neighbours."""

    a: int
    b: int
    m: int  # the number of colours

    def of(self, size: tuple[int, int]) -> Array:
        """The colour of each pixel, [H, W]."""
        rows, columns = np.ogrid[: size[0], : size[1]]
        return np.asarray((self.a * columns + self.b * rows) % self.m)


def colouring(offsets: Array) -> Colouring:
    """The linear colouring of fewest colours for edge classes [C, 2].

    Parameters
    ----------
    offsets : ndarray [C, 2], integer
        Translation vectors (rows, columns), none of them zero.

    Returns
    -------
    Colouring
        (a, b, m) with a dx + b dy not divisible by m for any offset (dy, dx): pixels of one colour
        can be sampled in any order, or all at once, with the same result.

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
    if not offsets:
        return Colouring(0, 0, 1)
    dy, dx = np.array(offsets, np.int64).T
    m = max(_mutual_neighbours(offsets), 2) - 1
    while True:
        m += 1
        b = np.arange(m)
        # Multiplying a and b by what has an inverse mod m only renames colours, so a needs to be
        # no other than a divisor of m.
        for a in (d % m for d in range(1, m + 1) if m % d == 0):
            good = ((a * dx + b[:, None] * dy) % m != 0).all(1)
            if good.any():
                return Colouring(a, int(good.argmax()), m)


def _mutual_neighbours(offsets: tuple[tuple[int, int], ...]) -> int:
    """Of some pixels that are all neighbours of one another, how many: no fewer colours do."""
    both = {*offsets, *((-y, -x) for y, x in offsets)}
    # Those that see the first pixel, from its own row downwards, the nearest first.
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
    """An array or tensor [..., H, W] where edges of a class begin, and where they end."""
    (height, width), (down, right) = array.shape[-2:], offset.tolist()
    first = array[
        ..., max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    second = array[
        ..., max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)
    ]
    return first, second
