"""Options and messages of scoring, shared by `evaluate` and `tune`."""

import argparse
import sys
from collections.abc import Sequence

from . import UserError, _types


def add_scoring_options(parser: argparse._ActionsContainer) -> None:
    """Declare the options that say which pixels and labels are scored."""
    add = parser.add_argument
    add("--ignore", type=int, default=255, metavar="LABEL",
        help="label of TRUTH whose pixels are not scored (default: %(default)s)")
    add("--mean-over", type=_types.words, metavar="A,B",
        help="labels that the mean IU is computed over (default: all labels in TRUTH)")


def check_seed(seed: int) -> None:
    """Raise UserError if --seed is negative."""
    if seed < 0:
        raise UserError(f"--seed is {seed}; it must be at least 0")


def warn_missing(missing: Sequence[str]) -> None:
    """Print to stderr which files are left out."""
    for sentence in missing[:3]:
        print(f"left out: {sentence}", file=sys.stderr)
    if len(missing) > 3:
        print(f"left out: {len(missing) - 3} more like these", file=sys.stderr)


def chosen_labels(words: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """Return the labels that --mean-over names by number or by name; None for all labels."""
    if words is None:
        return None
    found = []
    for word in words:
        if word in classes:
            found.append(list(classes).index(word))
        elif word.isdecimal() and int(word) < len(classes):
            found.append(int(word))
        else:
            shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            raise UserError(f"--mean-over names {word!r}; the {len(classes)} labels are {shown}")
    return found
