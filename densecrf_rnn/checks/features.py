"""Checks of feature rows [N, D] and of the values that a lattice filters."""

import math
from typing import Any, NoReturn

import numpy as np

from .. import _limits
from .._typing import Array
from . import arrays, wording
from .values import finite

_MAX_ELEVATED = {
    "float32": _limits.MAX_ELEVATED_FLOAT32, "float64": _limits.MAX_ELEVATED_FLOAT64,
}  # fmt: skip


def features(array: Any) -> None:
    """Check the kind, shape [N, D], 1 <= D <= MAX_DIMS, and dtype of `array`, not its values."""
    arrays.array_kind("features", array, batched=False)
    if len(array.shape) != 2:
        raise wording.shape_error("features", array, "[N, D], one row per point")
    dims = array.shape[1]
    if not 1 <= dims <= _limits.MAX_DIMS:
        raise ValueError(f"features has {dims} columns; a lattice takes 1 to {_limits.MAX_DIMS}")
    arrays.float_dtype("features", array, batched=False)
    feature_rows(array)


def feature_rows(array: Any) -> None:
    """Check that int32 can number all simplex corners of feature rows [N, D]."""
    points, dims = array.shape
    if points * (dims + 1) >= 2**_limits.INDEX_BITS:
        raise ValueError(
            f"features has {points} rows of {dims}; a lattice takes fewer than "
            f"{2**_limits.INDEX_BITS // (dims + 1)} such rows, so cut the input into tiles"
        )


def indexable(array: Any) -> bool:
    """Return whether feature rows [N, D] are finite and small enough for lattice coordinates."""
    reach = _reach(array)
    limit = _MAX_ELEVATED[wording.dtype(array)]
    return bool(np.isfinite(reach).all()) and _elevated(reach) <= limit


def refuse_features(*arrays: Any, name: str = "features") -> NoReturn:
    """Raise the ValueError for feature rows, [N, D] each, that an engine could not index.

    `name` is the argument that NaN or infinity are attributed to.
    """
    reaches = [_reach(array) for array in arrays]
    for array, reach in zip(arrays, reaches, strict=True):
        if not np.isfinite(reach).all():
            wording.raise_non_finite(name, array)
    reach, dtype = max(reaches, key=_elevated), wording.dtype(arrays[0])
    raise ValueError(
        f"features reach {reach.max():g} bandwidths from the origin, "
        f"{_elevated(reach) / _MAX_ELEVATED[dtype]:.3g} times what {dtype} can index as lattice "
        f"coordinates; use larger bandwidths (theta){' or float64 input' * (dtype == 'float32')}"
    )


def values(array: Any, points: int, dtype: Any) -> None:
    """Check that `array` is finite, [N, C] with N = `points`, and of the lattice's dtype."""
    arrays.array_kind("values", array, batched=False)
    if len(array.shape) != 2 or array.shape[0] != points:
        wanted = f"[N, C] with N = {points}, one row per point of the lattice"
        raise wording.shape_error("values", array, wanted)
    if array.dtype != dtype:
        raise TypeError(
            f"values has dtype {wording.dtype(array)} but the lattice was built from {dtype} "
            f"features; pass values.astype('{dtype}')"
        )
    if array.size and not finite(array):
        wording.raise_non_finite("values", array)


def _reach(array: Any) -> Array:
    """Return the maximum magnitude of each column, NaN if it contains NaN. [D] float64."""
    points, dims = array.shape
    if points == 0:
        return np.zeros(dims)
    # Column by column: NumPy's reduction of [N, D] over N is ten times slower for small D.
    columns = [array[:, d] for d in range(dims)]
    return np.array([max(-float(c.min()), float(c.max())) for c in columns])


def _elevated(reach: Array) -> float:
    """Return an upper bound on the lattice coordinates of features of magnitude `reach` [D]."""
    dims = len(reach)
    i = np.arange(1, dims + 1)
    scale = math.sqrt(_limits.FILTER_VARIANCE)
    return float((reach * i * scale * (dims + 1) / np.sqrt(i * (i + 1))).sum())
