"""The spatial kernel on a regular grid: separable, exactly symmetric, no lattice.

Along each axis K = S B S': S spreads a pixel over three cells with quadratic B-spline weights, B is
a sampled Gaussian whose variance makes up for what the splines add. (docs/math.md)
"""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class GridAxis(NamedTuple):
    """One axis of n pixels."""

    cell: Array  # [n] int32, ascending: the first of the three cells that a pixel touches
    taps: Array  # [n, 3] float64: its weights on them; they sum to 1
    band: Array  # [2 r + 1] float64: B, symmetric
    cells: int  # at least cell.max() + 3
