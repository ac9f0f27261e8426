"""Argument checks and error messages of the pydensecrf interface."""

from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np

from ..._typing import Array
from ... import checks
from ...checks import wording


class DtypeError(TypeError, ValueError):
    """Error for a wrong dtype: TypeError as elsewhere here, ValueError as in pydensecrf."""


def matrix(name: str, given: Any, shape: tuple[int | None, int | None]) -> Array:
    """Check for float32 and a 2-D `shape` (None: any length); return an array without a copy."""
    array = buffer(name, given)
    wanted = " x ".join("any" if n is None else str(n) for n in shape)
    if array.ndim != 2 or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        way_out = ""
        if array.ndim > 2 and array.shape[0] == shape[0]:
            way_out = f"; flatten the pixels: {name}.reshape({shape[0]}, -1)"
        raise ValueError(f"{name} has shape {array.shape}; it must be {wanted}{way_out}")
    return array


def buffer(name: str, given: Any) -> Array:
    """Check for a float32 array or buffer and return it as an array, without a copy."""
    if not isinstance(given, np.ndarray):
        try:
            given = np.asarray(memoryview(given))
        except TypeError:
            kind = type(given).__name__
            raise TypeError(f"{name} is {kind}; give a NumPy array of float32") from None
    if given.dtype != np.float32:
        raise DtypeError(
            f"{name} has dtype {given.dtype}; it must be float32: {name}.astype(np.float32)"
        )
    return given


def array(name: str, given: Any, kinds: str, wanted: str) -> None:
    """Check that `given` is a NumPy array whose `dtype.kind` is one of `kinds`."""
    if not isinstance(given, np.ndarray) or given.dtype.kind not in kinds:
        kind = getattr(given, "dtype", type(given).__name__)
        raise TypeError(f"{name} is {kind}; give a NumPy array of {wanted}")


def finite(name: str, array: Array) -> Array:
    """Check that an array is finite and return it."""
    if array.size:
        checks.parameter(name, array)
    return array


def whole(name: str, given: Any, at_least: int) -> int:
    """Check a count and return it; unlike elsewhere it may be a float, such as 5.0."""
    if isinstance(given, (float, np.floating)):
        if not float(given).is_integer():
            raise ValueError(f"{name} is {given:g}; it must be an integer")
        given = int(given)
    return checks.count(name, given, at_least)


def labelled(name: str, array: Array) -> Array:
    """Check that an array [L, ...] has at least one label and return it."""
    if len(array) == 0:
        raise ValueError(f"{name} has shape {array.shape}, without labels; give a row for each")
    return array


def energies(name: str, array: Array) -> Array:
    """Check energies [L, N] and return them.

    +infinity rules a label out; at least one label of each pixel must be finite.
    """
    least = array.min(axis=0)  # propagates NaN
    if not np.isfinite(least).all():
        if np.isnan(least).any():
            wording.raise_non_finite(name, array)
        if (least == -np.inf).any():
            raise ValueError(
                f"{name} contains -infinity; to fix a label, set the others to +infinity"
            )
        dead = int((least == np.inf).sum())
        raise ValueError(
            f"{name} is infinite for every label at {dead} pixels; clip probabilities before the "
            "logarithm, as unary_from_softmax does"
        )
    return array


def bandwidths(name: str, given: Any, count: int, *, fewer: bool = False) -> tuple[float, ...]:
    """Check one positive number, or `count` of them, and return `count` numbers.

    With `fewer`, a sequence may also be shorter; it is returned as it is.
    """
    if isinstance(given, Number):
        given = (given,) * count
    if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, (str, bytes)):
        raise TypeError(
            f"{name} is {type(given).__name__}; give a number, or a tuple of {count}"
        )
    if not (0 < len(given) <= count if fewer else len(given) == count):
        raise ValueError(f"{name} has {len(given)} numbers; give {count}")
    return tuple(checks.positive_number(f"{name}[{i}]", value) for i, value in enumerate(given))


def compatibility(given: Any, labels: int) -> Array:
    """Convert `compat` to a matrix [L, L] that maps messages to energies.

    A positive number attracts, as in a Potts model; positive entries of a vector or matrix repel.
    The symmetric part of a matrix is used.
    """
    if isinstance(given, Number):
        return np.eye(labels, dtype=np.float32) * np.float32(-checks.number("compat", given))
    array = finite("compat", buffer("compat", given))
    if array.shape not in ((labels,), (labels, labels)):
        raise ValueError(
            f"compat has shape {array.shape}; it must be a number, [{labels}] or "
            f"[{labels}, {labels}]"
        )
    return np.diag(array) if array.ndim == 1 else (array + array.T) / 2
