"""How the Numba engines are compiled."""

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """The function compiled at its first call, and kept on disk where a folder can be written."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # Numba found no such folder
        return njit(function)
