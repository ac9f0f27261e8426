"""Scoring label maps: options and messages of `evaluate` and `tune`, and counts for `evaluate`.

The counts are confusion matrices of predictions on disk against the ground truth.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import files, metrics
from ..files import formats
from ..files.arrays import names_of_maps
from . import UserError, _types, progress

MAX_LABELS = 2000  # confusion matrices of more labels would not fit in memory


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


@dataclass(frozen=True)
class Counts:
    """Confusion matrices of P predictions of N images; L labels, W widths of trimap bands."""

    confusions: Array  # [N, P, L, L]
    bands: Array  # [P, W, L, L], summed over the images


def count(found: Sequence[files.Match], args: argparse.Namespace, classes: int | None) -> Counts:
    """Compute the confusion matrices of every image and of the trimap bands.

    `classes` is the number of names in --classes, or None. Without it and --labels, the number of
    labels is found in the files.
    """
    if args.labels is not None and classes is not None and args.labels != classes:
        raise UserError(f"--labels is {args.labels} but --classes names {classes}")
    fixed = args.labels or classes
    if fixed is not None and fixed > MAX_LABELS:
        raise UserError(f"{fixed} labels are more than the maximum of {MAX_LABELS}")
    images: list[Array] = []
    bands: Array = np.zeros((len(args.predictions), len(args.trimap), 0, 0), np.int64)
    for match in progress(iterable=found, desc="scoring", unit="image"):
        *paths, truth_path = match.paths
        truth = files.read_labels(truth_path, key=args.truth_key)
        predictions = [_prediction(path, args.key, truth.ndim) for path in paths]
        labels = fixed
        if labels is None:
            maps = dict(zip([truth_path, *paths], [truth, *predictions], strict=True))
            labels = max(_labels_of(path, map_, args.ignore) for path, map_ in maps.items())
        counted = []
        for index, (path, prediction) in enumerate(zip(paths, predictions, strict=True)):
            try:
                options = {"labels": labels, "ignore": args.ignore}
                counted.append(metrics.confusion_matrix(truth, prediction, **options))
                inside = metrics.trimap_confusions(truth, prediction, args.trimap, **options)
            except ValueError as error:
                raise ValueError(f"{path} and {truth_path}: {error}") from error
            bands = _grown(bands, labels)
            bands[index, :, :labels, :labels] += inside
        images.append(np.stack(counted).astype(np.int32))
    largest = max(counted.shape[-1] for counted in images)
    return Counts(np.stack([_grown(counted, largest) for counted in images]), bands)


def _labels_of(path: Path, labels: Array, ignore: int) -> int:
    """Return the minimum number of labels that a label map needs, without the ignored label."""
    counting = labels[labels != ignore]
    largest = int(counting.max()) if counting.size else 0
    if largest >= MAX_LABELS:
        raise ValueError(
            f"{path}: holds the label {largest}; labels up to {MAX_LABELS - 1} can be scored. "
            "These may be instance numbers or colours; --ignore leaves one label of the truth out"
        )
    return largest + 1


def _grown(confusions: Array, labels: int) -> Array:
    """Pad confusion matrices [..., l, l] with zeros to at least [..., labels, labels]."""
    more = max(0, labels - confusions.shape[-1])
    return np.pad(confusions, [(0, 0)] * (confusions.ndim - 2) + [(0, more)] * 2)


def _prediction(path: Path, key: str | None, axes: int) -> Array:
    """Read a label map with `axes` axes; if the file holds scores, return their argmax."""
    if files.extension(path) == ".npy":  # its array has no name; --key is for other files
        key = None
    if formats.kind(path) == "picture":
        return files.read_labels(path)
    array: Array = formats.read(path, "labels", key)  # accepts any number of axes
    if array.ndim == axes + 2 and len(array) == 1:  # a batch of one
        array = array[0]
    if array.dtype.kind != "f" or array.ndim != axes + 1:
        return files.read_labels(path, key=key)
    if len(array) == 1:
        raise ValueError(
            f"{path}: holds one score per pixel, a logit or a probability; save a label map instead"
        )
    if np.isnan(array).any():
        raise ValueError(f"{path}: holds NaN at {int(np.isnan(array).sum())} places")
    names = names_of_maps(path, array)
    return array.argmax(0) if names is None else names[array.argmax(0)]
