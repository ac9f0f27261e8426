"""Options for the values and colours of label maps, and the check of the values of the truth.

A file of 0 and 255 may be a mask whose foreground is 255, or hold void; `Truths` asks.
"""

import argparse
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import files
from ..files.exif import Exif
from ..samples import IGNORE
from . import UserError, _nodata, _types, user_errors

MANY = 50  # as many values are grey values of probabilities rather than labels of two kinds


def add_label_options(add: argparse._ActionsContainer) -> None:
    """Declare the options that say what the values or colours of label maps stand for."""
    one = add.add_mutually_exclusive_group()
    one.add_argument(
        "--label-values", type=_types.labels, metavar="V,V,...",
        help="values that stand for the labels 0, 1, ... in label maps, such as 0,255 (default: "
        "values are labels)",
    )  # fmt: skip
    one.add_argument(
        "--colours", "--colors", type=_types.place, metavar="FILE",
        help="the colours of the labels in label maps of colours: a text file with a line "
        "`R G B [name]` or `#rrggbb [name]` per label, or voc",
    )  # fmt: skip


def label_values(
    args: argparse.Namespace, void: int | None, given: str
) -> files.LabelValues | None:
    """Return what the values of label maps stand for; None if values are labels.

    `void` is the value of no label. If a label has that value, the label goes before a default
    `void`, and contradicts one that was given by the option `given`.

    Raises
    ------
    UserError
        The option `given` and --label-values name the same value.
    """
    if args.colours is not None:
        with user_errors(ValueError):
            read = files.read_label_colours(args.colours)
        by_default = getattr(args, given) is None
        if by_default and void in read.values_of_one_channel and void not in range(len(read)):
            void = None
        return files.LabelValues(colours=read.colours, names=read.names, void=void)
    if args.label_values is None:
        return None
    if void in args.label_values:
        if getattr(args, given) is not None:
            raise UserError(f"--{given} {void} is one of --label-values; leave one of them out")
        void = None
    return files.LabelValues(values=args.label_values, void=void)


class Truths:
    """Reads the true label maps of a run, and checks the values that occur in all of them.

    Attributes
    ----------
    values : LabelValues or None
    ignore : int
        Label of pixels that are not scored, in the label maps that `read` returns.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.values = label_values(args, ignored(args), "ignore")
        void = ignored(args) if self.values is None else self.values.void_label
        self.ignore = -1 if void is None else void
        self._seen: set[int] = set()

    def read(
        self, path: Path, exif: Exif | None = None, size: Sequence[int] | None = None
    ) -> Array:
        """Read a true label map, and note its values.

        `exif` (default: the option) and `size` choose its orientation, as in `files.read_labels`.
        """
        turn: Any = {"exif": exif or self._args.exif, "size": size}
        truth = files.read_labels(
            path, key=self._args.truth_key, values=self.values, nodata=self.ignore, **turn
        )
        valid = files.read_valid(path, **turn)
        found = occurring(truth if valid is None else truth[valid])
        self._seen.update(found)
        if valid is not None and found:
            _nodata.warn_of_label(path, max({*found} - {self.ignore}, default=0), ~valid)
        return truth

    def check(self) -> None:
        """Raise UserError if void is probably a label; warn if all pixels have the same label."""
        args, labels = self._args, self._seen - {self.ignore}
        by_default = self.values is None and args.ignore is None
        if by_default and IGNORE in self._seen and labels <= {0}:
            raise UserError(
                f"{args.truth} holds {_all(self._seen)}, and by default {IGNORE} is void, which is "
                f"not scored, so a map of 0 alone would score 100 %; {ways_out(IGNORE)}"
            )
        if len(labels) == 1:
            label = f"{args.truth} holds no label but {min(labels)}"
            warnings.warn(f"{label}, so scores say little; is it the right truth?", stacklevel=2)
        elif by_default and IGNORE in self._seen and _is_stretched(self._seen):
            values = ",".join(map(str, sorted(self._seen)))
            warnings.warn(
                f"{args.truth} holds {_all(self._seen)}, evenly spaced, and by default {IGNORE} is "
                f"void; if these are labels in order, add --label-values {values}",
                stacklevel=2,
            )


def ignored(args: argparse.Namespace) -> int:
    """Return the value of void in the truth: that of --ignore, or the default."""
    return IGNORE if args.ignore is None else args.ignore


def occurring(labels: Array) -> list[int]:
    """Return the values that occur in a label map, in order."""
    if labels.dtype == np.uint8:  # twenty times as fast as np.unique
        return np.flatnonzero(np.bincount(labels.ravel())).tolist()
    return np.unique(labels).tolist()


def ways_out(value: int, option: str = "--ignore", meaning: str = "is void") -> str:
    """Return what to do about maps of 0 and `value`."""
    return (
        f"add --label-values 0,{value} if {value} is the foreground, or {option} {value} if it "
        f"{meaning}"
    )


def warn_of_masks(kind: str, array: Array, unsure: int | None = None) -> None:
    """Warn if a grey image that is read as `kind` is rather a mask whose foreground is 255.

    `array` holds one map of probabilities [1, H, W], or labels, of which `unsure` means unknown.
    """
    if kind == "labels":
        if unsure == IGNORE and occurring(array) == [0, IGNORE]:
            warnings.warn(
                f"holds only 0 and {IGNORE}, of which --unsure {IGNORE} leaves only label 0; if "
                f"{IGNORE} is the foreground, give --label-values 0,{IGNORE} in its place",
                stacklevel=2,
            )
    elif kind == "probabilities":
        most = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
        if len(array) == 1 and np.isin(array, (0, most)).all() and array.min() < array.max():
            warnings.warn(
                "holds only the probabilities 0 and 1, which the CRF hardly changes; a mask is "
                f"read by --kind labels --label-values 0,{most}",
                stacklevel=2,
            )
    elif kind != "logits":
        raise ValueError(f"kind is {kind!r}")


def _is_stretched(values: Iterable[int]) -> bool:
    """Return whether at least three values are evenly spaced over 0..255, as stretched labels."""
    found = np.array(sorted(values))
    even = np.linspace(0, IGNORE, len(found))
    return 3 <= len(found) <= IGNORE // 2 and bool((abs(found - even) <= 1).all())


def _all(values: Iterable[int]) -> str:
    """Return values as words."""
    *first, last = sorted(values)
    return f"only {', '.join(map(str, first))} and {last}" if first else f"only {last}"
