"""Checks of feature rows [N, D] and of the values that a lattice filters."""

import math
from typing import Any, NoReturn

import numpy as np

from .. import _limits
from .._typing import Array
from . import arrays, wording
from .values import extremes

_MAX_ELEVATED = {
    "float32": _limits.MAX_ELEVATED_FLOAT32, "float64": _limits.MAX_ELEVATED_FLOAT64,
}  # fmt: skip
# How tensors, and the module that has the bandwidths, become float64.
DOUBLE = ", or float64 by .double() of every tensor and module"


def features(array: Any) -> None:
    """Check the kind, shape [N, D], 1 <= D <= MAX_DIMS, and dtype of `array`, not its values."""
    arrays.array_kind("features", array, batched=False)
    if len(array.shape) != 2:
        raise wording.shape_error("features", array, "[N, D], one row per point")
    dims = array.shape[1]
    if not 1 <= dims <= _limits.MAX_DIMS:
        raise ValueError(f"features has {dims} columns; a lattice takes 1 to {_limits.MAX_DIMS}")
    arrays.float_dtype("features", array, batched=False)
    feature_rows(*array.shape)


def feature_rows(points: int, dims: int) -> None:
    """Check that int32 can number all simplex corners of feature rows [N, D]."""
    if points * (dims + 1) >= 2**_limits.INDEX_BITS:
        raise ValueError(
            f"features has {points} rows of {dims}; a lattice takes fewer than "
            f"{2**_limits.INDEX_BITS // (dims + 1)} such rows, so cut the input into tiles"
        )


def pixels(points: int, dims: int) -> None:
    """Check that a lattice can hold an image before memory is asked for; as `feature_rows`."""
    if points * (dims + 1) >= 2**_limits.INDEX_BITS:
        raise ValueError(
            f"the image has {points} pixels but a lattice of {dims} features takes fewer than "
            f"{2**_limits.INDEX_BITS // (dims + 1)}; cut it into tiles, as refine_tiled does"
        )


def pixel_numbers(points: int) -> None:
    """Check that int32 can number the pixels of an image with a mask."""
    if points >= 2**_limits.INDEX_BITS:
        raise ValueError(
            f"the image has {points} pixels; with a mask fewer than {2**_limits.INDEX_BITS} are "
            "taken, so cut it into tiles, as refine_tiled does"
        )


def indexable(array: Any) -> bool:
    """Return whether feature rows [N, D] are finite and small enough for lattice coordinates."""
    reach = _reach(array)
    limit = _MAX_ELEVATED[wording.dtype(array)]
    return bool(np.isfinite(reach).all()) and _elevated(reach) <= limit


def refuse_features(
    *arrays: Any, name: str = "features", float64: str = " or float64 features"
) -> NoReturn:
    """Raise the ValueError for feature rows, [N, D] each, that an engine could not index.

    `name` is the argument that NaN or infinity are attributed to; `float64` says how float32
    features become float64, which is advised where it is enough.
    """
    reaches = [_reach(array) for array in arrays]
    for array, reach in zip(arrays, reaches, strict=True):
        if not np.isfinite(reach).all():
            wording.raise_non_finite(name, array)
    reach, dtype = max(reaches, key=_elevated), wording.dtype(arrays[0])
    enough = dtype == "float32" and _elevated(reach) <= _MAX_ELEVATED["float64"]
    raise ValueError(
        f"features reach {reach.max():g} bandwidths from the origin, "
        f"{_elevated(reach) / _MAX_ELEVATED[dtype]:.3g} times what {dtype} can index as lattice "
        f"coordinates; use larger bandwidths (theta){float64 if enough else ''}"
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
    summable(array, points, float(np.finfo(dtype).max))


def summable(array: Any, points: int, greatest: float) -> None:
    """Check that values, an array or a tensor, are finite and small enough to be summed.

    `greatest` is the largest number of their dtype.
    """
    if 0 in array.shape:
        return
    low, high = extremes(array)
    if not (math.isfinite(low) and math.isfinite(high)):
        wording.raise_non_finite("values", array)
    limit = greatest / (4 * points)  # a blur adds half of the sum at most
    if max(-low, high) > limit:
        raise ValueError(
            f"values reaches {max(-low, high):g}, so a sum over {points} points could exceed the "
            f"range of {wording.dtype(array)}; rescale it to within {limit:g}"
        )


def filtered(values: Any, features: Any, name: str = "features") -> None:
    """Check the kinds, shapes [B, N, C] and [B or 1, N, D], dtypes and devices of two tensors."""
    for of, tensor, last in (("values", values, "C"), (name, features, "D")):
        arrays.array_kind(of, tensor, batched=True)
        if len(tensor.shape) != 3:
            way_out = f"; one set of points is {of}[None]" if len(tensor.shape) == 2 else ""
            raise wording.shape_error(of, tensor, f"[B, N, {last}], one row per point" + way_out)
        arrays.float_dtype(of, tensor, batched=True)
    images, points, dims = features.shape
    if not 1 <= dims <= _limits.MAX_DIMS:
        raise ValueError(f"{name} has {dims} columns; a lattice takes 1 to {_limits.MAX_DIMS}")
    if points == 0:
        raise ValueError(f"{name} has shape {wording.shape(features)}, without points; give some")
    if values.shape[1] != points or images not in (1, values.shape[0]):
        raise ValueError(
            f"values has shape {wording.shape(values)} but {name} {wording.shape(features)}; both "
            "need one row per point, and as many sets of points"
        )
    if values.dtype != features.dtype:
        raise TypeError(
            f"values has dtype {wording.dtype(values)} but {name} {wording.dtype(features)}; "
            "convert one to the dtype of the other"
        )
    feature_rows(points, dims)
    if values.device != features.device:
        raise ValueError(
            f"values is on {values.device} but {name} on {features.device}; move one "
            f"({name}.to({str(values.device)!r}))"
        )


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
