"""Checks of numbers, flags and options.

Functions that return a value convert as well: NumPy scalars become Python numbers, arrays and
tensors become tuples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import wording

# Bounds of positive numbers: quotients of coordinates by bandwidths stay within float32's range.
SMALLEST, LARGEST = 1e-6, 1e9


def number(name: str, value: Any) -> float:
    """Check that `value` is a finite real number and return it as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {wording.kind(value)}; it must be a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not -math.inf < value < math.inf:  # torch.compile cannot trace math.isfinite
        raise ValueError(f"{name} is {value}; it must be finite")
    return value


def positive_number(name: str, value: Any) -> float:
    """Check that `value` is a positive number within 1e-6..1e9 and return it as a float."""
    value = number(name, value)
    if value <= 0:
        what, way_out = "it", ""
        if name.startswith("theta"):
            what, way_out = "a bandwidth", " (to switch a kernel off, set its weight to 0)"
        raise ValueError(f"{name} is {value:g}; {what} must be positive{way_out}")
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"{name} is {value:g}; it must lie in {SMALLEST:g}..{LARGEST:g}")
    return value


def weight(name: str, value: Any) -> float | tuple[float, ...]:
    """Check one finite weight, or a sequence of them, and return a float or a tuple."""
    return _one_or_several(name, value, number, "one weight, or one for each label")


def bandwidth(name: str, value: Any) -> float | tuple[float, ...]:
    """Check one positive bandwidth, or a sequence of them, and return a float or a tuple."""
    each = "channel" if name in ("theta_beta", "theta_guide") else "axis"
    return _one_or_several(name, value, positive_number, f"one bandwidth, or one for each {each}")


def _one_or_several(
    name: str, value: Any, check: Callable[[str, Any], float], wanted: str
) -> float | tuple[float, ...]:
    if not isinstance(value, (int, float)) and hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if is_sequence(value):
        if len(value) == 0:
            raise ValueError(f"{name} is empty; give {wanted}")
        return tuple(check(f"{name}[{i}]", v) for i, v in enumerate(value))
    return check(name, value)


def is_sequence(value: Any) -> bool:
    """Return whether `value` is a sequence, such as a list or OmegaConf's ListConfig, but no text.

    Lists and tuples come first, because torch.compile cannot trace abstract classes.
    """
    return isinstance(value, (list, tuple)) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    )


def count(name: str, value: Any, at_least: int, below_power: int = 31) -> int:
    """Check that `value` is an integer in `at_least` .. 2^below_power - 1 and return it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {wording.kind(value)}; it must be an integer")
    if value < at_least:
        raise ValueError(f"{name} is {value}; it must be at least {at_least}")
    if value >= 2**below_power:
        raise ValueError(f"{name} is {value}; it must be below 2^{below_power}")
    return int(value)


def threads(value: int | None, default: int) -> int:
    """Check a number of threads and return it; None gives the default."""
    return default if value is None else count("threads", value, 1)


def spacing(value: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    """Check one positive pixel size per spatial axis and return a tuple; None gives ones."""
    if value is None:
        return (1.0,) * axes
    if not isinstance(value, (int, float)) and hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if not is_sequence(value) or len(value) != axes:
        raise ValueError(
            f"spacing is {value!r}; it must hold {axes} numbers, the pixel size along each axis "
            f"({'depth, ' if axes == 3 else ''}row, column)"
        )
    return tuple(positive_number(f"spacing[{i}]", v) for i, v in enumerate(value))


def ignored(value: Any, labels: int) -> None:
    """Check that `ignore_index` is an integer outside the labels 0..labels-1."""
    if 0 <= count("ignore_index", value, -(2**63), 63) < labels:
        raise ValueError(
            f"ignore_index is {value}, which is one of the {labels} labels; give another integer, "
            "such as -1"
        )


def flag(name: str, value: Any) -> None:
    """Check that `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {wording.kind(value)}; it must be True or False")


def option(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Check that `value` is one of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(map(repr, allowed))}")
