"""Compilation of the Numba engines."""

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile a function at its first call; cache the result on disk if a folder is writable."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # Numba found no writable folder for its cache
        return njit(function)
