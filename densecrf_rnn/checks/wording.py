"""Phrases that the error messages of this folder share."""

from collections.abc import Sequence
from typing import Any, NoReturn


def shape(array: Any) -> str:
    """Return the shape of an array or tensor as NumPy prints it: "(2, 3)"."""
    return str(tuple(map(int, array.shape)))


def shape_error(name: str, array: Any, wanted: str) -> ValueError:
    """Return the error for an array of another shape than `wanted`."""
    return ValueError(f"{name} has shape {shape(array)}; it must be {wanted}")


def size(lengths: Sequence[int]) -> str:
    """Return lengths as "2 x 3"; a single one as "[2]"."""
    return f"[{lengths[0]}]" if len(lengths) == 1 else " x ".join(map(str, lengths))


def dtype(array: Any) -> str:
    """Return the name of a dtype of NumPy or torch, without "torch."."""
    return str(array.dtype).removeprefix("torch.")


def kind(value: Any) -> str:
    """Return the type of an argument, or the value itself if that says more."""
    return f"{value!r}" if isinstance(value, (str, bool, type(None))) else type(value).__name__


def raise_non_finite(name: str, array: Any) -> NoReturn:
    """Raise the ValueError for an array that contains NaN or infinity."""
    bad = int((array != array).sum())
    if bad:
        raise ValueError(
            f"{name} contains NaN ({bad} entr{'y' if bad == 1 else 'ies'}); every entry must be a "
            "number, so check the computation that produced it"
        )
    raise ValueError(f"{name} contains infinity; every entry must be finite")
