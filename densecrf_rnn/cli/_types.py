"""Argument types: functions that argparse calls with the text of an option."""

import argparse
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


def listed(
    convert: Callable[[str], Item], expected: str, counts: Collection[int] = ()
) -> Callable[[str], tuple[Item, ...]]:
    """Make an argument type for values separated by commas.

    Parameters
    ----------
    convert : function
        Converts one value, or raises ValueError.
    expected : str
        Describes the list in the error message: "... is not {expected}".
    counts : collection of int, optional
        Allowed numbers of values; default any.

    Examples
    --------
    >>> listed(int, "two integers", counts=(2,))("3, 4")
    (3, 4)
    """

    def parse(text: str) -> tuple[Item, ...]:
        try:
            found = tuple(convert(word.strip()) for word in text.split(","))
        except ValueError:
            found = ()
        if not found or (counts and len(found) not in counts):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return found

    return parse


def place(text: str) -> str:
    """Return the path or pattern that an argument names; it must not be empty.

    An empty one, as of a shell variable that is not set, would mean the current folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; name a file or a folder")
    return text


def path(text: str) -> Path:
    """Convert a path, which must not be empty."""
    return Path(place(text))


def positive(text: str) -> int:
    """Convert a positive integer."""
    return listed(_positive, "a positive integer", counts=(1,))(text)[0]


def numbers(text: str) -> float | tuple[float, ...]:
    """Convert one number, or several separated by commas."""
    found = listed(float, "a number or numbers separated by commas")(text)
    return found[0] if len(found) == 1 else found


def labels(text: str) -> tuple[int, ...]:
    """Convert labels and ranges of labels separated by commas.

    Examples
    --------
    >>> labels("0,8-10")
    (0, 8, 9, 10)
    """
    found = sum(listed(_label_range, "a list of labels such as 0,8-12,15")(text), ())
    if len(found) < 2 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} must name at least two labels, each once")
    return found


def widths(text: str) -> tuple[int, ...]:
    """Convert positive integers separated by commas; sort them and drop repeated ones."""
    return tuple(sorted(set(positives(text))))


def halo(text: str) -> int | str:
    """Convert a number of pixels, or "exact"."""
    if text == "exact":
        return text
    return listed(_natural, "a number of pixels, or `exact`", counts=(1,))(text)[0]


def _natural(word: str) -> int:
    if not word.isdecimal():
        raise ValueError
    return int(word)


def _positive(word: str) -> int:
    if not _natural(word):
        raise ValueError
    return int(word)


def _positive_number(word: str) -> float:
    if not 0 < float(word) < math.inf:
        raise ValueError
    return float(word)


def _label_range(word: str) -> tuple[int, ...]:
    first, _, last = word.partition("-")
    return tuple(range(_natural(first), _natural(last or first) + 1))


def _word(word: str) -> str:
    if not word:
        raise ValueError
    return word


naturals = listed(_natural, "integers of at least 0 separated by commas")
positives = listed(_positive, "positive integers separated by commas")
size = listed(_positive, "H,W or D,H,W", counts=(2, 3))
spacing = listed(float, "two or three numbers separated by commas", counts=(2, 3))
search_range = listed(_positive_number, "LOW,HIGH or one number, all positive", counts=(1, 2))
words = listed(_word, "a list of words separated by commas")

# Keywords of `add_argument` that many options share.
COUNT: dict[str, Any] = {"type": positive, "metavar": "N"}
FILE: dict[str, Any] = {"type": path, "metavar": "FILE"}
FOLDER: dict[str, Any] = {"type": path, "metavar": "FOLDER"}
