"""Scoring label maps: options and messages of `evaluate` and `tune`, and counts for `evaluate`.

The counts are confusion matrices of predictions on disk against the ground truth.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import checks, files, metrics
from ..checks.wording import size as shown
from ..files import formats, nnunet
from ..files.alignment import first_placed
from ..files.exif import check_upright, orientation
from ..files.npy import is_of_regions, names_of_maps
from ..files.label_maps import integers
from ..files.pillow import is_saliency
from ..files.sizes import expecting
from ..postprocess import most_probable
from ..samples import IGNORE
from . import UserError, _nodata, _types, progress
from ._label_options import MANY, Truths, occurring, ways_out
from ._messages import READ, Messages, by_kind, named, to_stderr

MAX_LABELS = 2000  # confusion matrices of more labels would not fit in memory


def add_scoring_options(parser: argparse._ActionsContainer) -> None:
    """Declare the options that say which pixels and labels are scored."""
    add = parser.add_argument
    add("--ignore", type=int, metavar="LABEL",
        help=f"label of TRUTH whose pixels are not scored (default: {IGNORE}; with --label-values "
        "the value in the files)")
    add("--mean-over", type=_types.words, metavar="A,B",
        help="labels that the mean IU is computed over (default: all labels in TRUTH)")


def check_seed(seed: int) -> None:
    """Raise UserError if --seed is negative."""
    if seed < 0:
        raise UserError(f"--seed is {seed}; it must be at least 0")


def warn_missing(missing: Sequence[str], messages: Messages) -> None:
    """Print to stderr which files are left out, unless --quiet is given."""
    if messages.quiet:
        return
    for line in by_kind(named(missing), every=messages.verbose):
        to_stderr(f"left out: {line}")


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
    unpredicted: int  # pixels with a true label for which a prediction has no data; not scored


def count(
    found: Sequence[files.Match], args: argparse.Namespace, truths: Truths, classes: int | None,
    messages: Messages,
) -> Counts:
    """Compute the confusion matrices of every image and of the trimap bands.

    `classes` is the number of names in --classes, or None. Without it and --labels, the number of
    labels is found in the files.
    """
    if args.labels is not None and classes is not None and args.labels != classes:
        raise UserError(f"--labels is {args.labels} but --classes names {classes}")
    fixed = args.labels or classes
    if truths.values is not None and truths.values.values is not None:
        listed = len(truths.values)
        if fixed not in (None, listed):
            raise UserError(f"--label-values lists {listed} labels, --labels or --classes {fixed}")
        fixed = listed
    if fixed is not None and fixed > MAX_LABELS:
        raise UserError(f"{fixed} labels are more than the maximum of {MAX_LABELS}")
    images: list[Array] = []
    unpredicted = 0
    bands: Array = np.zeros((len(args.predictions), len(args.trimap), 0, 0), np.int64)
    sources = [_Source(list(paths)) for paths in zip(*(match.paths[:-1] for match in found))]
    for match in progress(args.quiet, iterable=found, desc="scoring", unit="image"):
        messages.about(match.stem)
        *paths, truth_path = match.paths
        truth = truths.read(truth_path, exif="apply" if args.exif == "auto" else args.exif)
        grid = first_placed((truth_path, args.truth_key), *((path, args.key) for path in paths))
        with expecting(truth.size):
            stored = [
                _prediction(path, args, truth, truths, source)
                for path, source in zip(paths, sources, strict=True)
            ]
        predictions = [
            files.aligned(
                _nodata.predicted(one, args.ignore if truths.values is None else None, fixed),
                path, key=args.key, **grid,
            )
            for one, path in zip(stored, paths, strict=True)
        ]
        if formats.kind(truth_path) == "picture" and orientation(truth_path) > 1:
            truth = truths.read(truth_path, size=predictions[0].shape)
        for path, prediction in zip(paths, stored, strict=True):
            lacking = prediction == _nodata.NO_DATA
            _nodata.warn_of_label(path, int(prediction.max()), lacking)
        truth, predictions, hidden = _nodata.scored(truth, predictions, truths.ignore)
        unpredicted += hidden
        READ.debug(
            "truth %s %s; %s", truth_path, truth.shape,
            "; ".join(f"{path} {map_.shape}" for path, map_ in zip(paths, predictions)),
        )  # fmt: skip
        labels = fixed
        if labels is None:
            maps = dict(zip([truth_path, *paths], [truth, *predictions], strict=True))
            labels = max(_labels_of(path, map_, truths.ignore) for path, map_ in maps.items())
        counted = []
        for index, (path, prediction) in enumerate(zip(paths, predictions, strict=True)):
            if args.kind is None and formats.kind(path) == "picture":
                _check_few(path, prediction, truth)
            if prediction.shape != truth.shape:
                raise ValueError(
                    f"{path} is {shown(prediction.shape)}, but {truth_path} {shown(truth.shape)}; "
                    "both must be of one size, and scores have their labels in the first axis"
                )
            try:
                options = {"labels": labels, "ignore": truths.ignore}
                counted.append(metrics.confusion_matrix(truth, prediction, **options))
                inside = metrics.trimap_confusions(truth, prediction, args.trimap, **options)
            except ValueError as error:
                hint = ""
                if truths.values is None:
                    hint = _values_hint(truth, prediction, truths.ignore)
                raise ValueError(f"{path} and {truth_path}: {error}{hint}") from error
            bands = _grown(bands, labels)
            bands[index, :, :labels, :labels] += inside
        images.append(np.stack(counted).astype(np.int32))
    largest = max(counted.shape[-1] for counted in images)
    confusions = np.stack([_grown(counted, largest) for counted in images])
    return Counts(confusions, bands, unpredicted)


def _labels_of(path: Path, labels: Array, ignore: int) -> int:
    """Return the minimum number of labels that a label map needs, without the ignored label."""
    counting = labels[labels != ignore]
    largest = int(counting.max()) if counting.size else 0
    if largest >= MAX_LABELS:
        raise ValueError(
            f"{path}: holds the label {largest}; labels up to {MAX_LABELS - 1} can be scored. "
            "These may be instance numbers or colours; "
            + (
                ways_out(largest)
                if np.isin(counting, (0, largest)).all()
                else "--ignore leaves one label of the truth out"
            )
        )
    return largest + 1


def _check_few(path: Path, prediction: Array, truth: Array) -> None:
    """Raise ValueError if a prediction looks like grey values of probabilities, not like labels."""
    found = len(occurring(prediction))
    if found > MANY and len(occurring(truth)) <= 3:  # two labels and void
        raise ValueError(
            f"{path}: holds {found} values, the truth two labels; if they are probabilities of the "
            "foreground add --kind probabilities, if labels --kind labels"
        )


def _values_hint(truth: Array, prediction: Array, ignore: int) -> str:
    """Return what to do if a prediction, or the truth, holds 0 and 255, or the like."""
    true, predicted = (set(occurring(labels)) for labels in (truth, prediction))
    value = max(true | predicted)
    full = value == np.iinfo(prediction.dtype).max and value not in true
    if full and predicted - {0, value}:
        return f"; if {value} marks pixels without data in the prediction, give --ignore {value}"
    if value < 2 or not true | predicted <= {0, 1, value}:
        return ""
    if true <= {0, value} or value not in true:  # maps of 0 and 1 are read with the option too
        return f"; add --label-values 0,{value} if {value} is the foreground"
    return f"; in the truth {ignore} is void, so save predictions with the labels 0 and 1"


def _grown(confusions: Array, labels: int) -> Array:
    """Pad confusion matrices [..., l, l] with zeros to at least [..., labels, labels]."""
    more = max(0, labels - confusions.shape[-1])
    return np.pad(confusions, [(0, 0)] * (confusions.ndim - 2) + [(0, more)] * 2)


class _Source:
    """The files of one of PREDICTIONS; whether some are sure to hold grey values of scores."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._scores: bool | None = None

    def holds_scores(self, args: argparse.Namespace) -> bool:
        """Return whether a file holds unsigned integers too large for labels; reads them once."""
        if self._scores is None:
            self._scores = any(self._of_scores(path, args) for path in self._paths)
        return self._scores

    @staticmethod
    def _of_scores(path: Path, args: argparse.Namespace) -> bool:
        if files.read_palette(path) is not None:
            return False
        array = _grey_values(path, None if files.extension(path) == ".npy" else args.key)
        if array.dtype.kind != "u" or array.itemsize > 2:
            return False
        void = np.iinfo(array.dtype).max  # perhaps, in a label map
        return any(MANY < value < void for value in occurring(array))


def _grey_values(path: Path, key: str | None) -> Array:
    """Read a file of scores; of a picture, its grey values."""
    use = "grey_maps" if formats.can(path, "grey_maps") else "scores"
    array: Array = formats.read(path, use, key)
    return array


def _prediction(
    path: Path, args: argparse.Namespace, truth: Array, truths: Truths, source: _Source
) -> Array:
    """Read a label map of the size of the `truth`; if the file holds scores, return their argmax.

    Beside files of scores, files that hold the truth's labels, as `refine` writes them, are label
    maps whatever --kind says; unless a text in them, or other files of their `source`, say that
    these are low probabilities.
    """
    kind, axes, size, values = args.kind, truth.ndim, truth.shape, truths.values
    # The array of a .npy file has no name; --key is for other files.
    key = None if files.extension(path) == ".npy" else args.key
    of_labels: Any = {"key": key, "values": values, "nodata": _nodata.NO_DATA}
    picture, valid = formats.kind(path) == "picture", None
    if kind == "labels" or (kind is None and picture and not formats.can(path, "scores")):
        return files.read_labels(path, exif=args.exif, size=size, **of_labels)
    if kind is not None and files.read_palette(path) is not None:  # indices, not grey values
        return files.read_labels(path, exif=args.exif, size=size, **of_labels)
    if kind is None and not picture:
        array: Array = formats.read(path, "labels", key)  # accepts any number of axes
    else:
        array = _grey_values(path, key)
        if kind is not None and picture:
            check_upright(path)
        valid = files.read_valid(path, "scores", exif="ignore")
    if array.ndim == axes + 2 and len(array) == 1:  # a batch of one
        array = array[0]
    if array.ndim == axes + 2 and array.shape[1] == 1:  # scores of a volume of depth one
        array = array[:, 0]
    array = nnunet.completed(path, key, array)
    of_scores = array.dtype.kind == "f" and array.ndim == axes + 1
    if kind is None and (not of_scores or (picture and len(array) == 1)):
        return files.read_labels(path, exif=args.exif, size=size, **of_labels)
    known = np.unique(truth[truth != truths.ignore])
    listed = () if values is None else values.values_of_one_channel
    allowed = {*range(max(2, int(known.max(initial=0)) + 1)), *listed}
    if _is_label_map(array, axes, valid, allowed) and not (
        kind is not None
        and array.dtype.kind == "u"
        and ((picture and is_saliency(path)) or (allowed <= {0, 1} and source.holds_scores(args)))
    ):
        labels = integers(path, array[0] if array.ndim > axes else array)
        inside = labels if valid is None else np.where(valid, labels, 0)
        labels = inside if values is None else values.labels(path, inside)
        return labels if valid is None else np.where(valid, labels, _nodata.NO_DATA)
    if array.ndim == axes and array.dtype.kind in "fu":
        array = array[None]
    if array.ndim != axes + 1:
        raise ValueError(
            f"{path}: of shape {array.shape}, but {kind} have an axis of labels before the {axes} "
            f"of the truth; for label maps leave --kind {kind} out"
        )
    if len(array) == 1 and kind is None:
        raise ValueError(
            f"{path}: holds one score per pixel; add --kind logits or --kind probabilities"
        )
    # `refine` writes marginals of NaN where there are no data; in other arrays NaN is an error.
    own = files.extension(path) == ".npz"
    lacking: Array = np.asarray(np.isnan(array).all(0) & own if valid is None else ~valid)
    if bad := int((np.isnan(array) & ~lacking).sum()):
        raise ValueError(f"{path}: holds NaN at {bad} places")
    if len(array) > 1 and kind != "logits":
        _check_one_distribution(path, array, lacking, kind)
    if len(array) == 1:
        if kind == "probabilities" and array.dtype.kind == "u":
            scale = checks.IntegerScale(array.dtype)
            scale.add(array[:, ~lacking])
            scale.judge()
        most = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
        labels = most_probable(array, 0 if kind == "logits" else most / 2)
    else:
        labels, names = array.argmax(0), names_of_maps(path, array)
        labels = labels if names is None else names[labels]
    return np.where(lacking, _nodata.NO_DATA, labels) if lacking.any() else labels


def _is_label_map(array: Array, axes: int, valid: Array | None, allowed: set[int]) -> bool:
    """Return whether a file read as scores holds none but `allowed` labels."""
    if array.dtype.kind not in "biu" or array.ndim > axes + 1:
        return False
    if array.ndim == axes + 1 and len(array) > 1:
        return False
    if array.dtype.kind != "u" or array.itemsize > 2:
        return True
    inside = array if valid is None else array[..., valid]
    return set(occurring(inside)) <= allowed


def _check_one_distribution(path: Path, maps: Array, lacking: Array, kind: str | None) -> None:
    """Raise ValueError if maps of probabilities are no distribution, so that argmax is wrong."""
    way_out = "add --kind regions, which scores each map against its own true mask"
    if is_of_regions(path):
        raise ValueError(f"{path}: holds marginals of regions, which may overlap; {way_out}")
    inside = maps[:, ~lacking]
    if inside.size == 0:
        return
    if maps.dtype.kind == "u":
        inside = inside / np.float32(np.iinfo(maps.dtype).max)
    low, high = inside.min(), inside.max()
    if kind is None and (low < 0 or high > 1 or low == high):
        return  # logits, or maps that say nothing
    total = inside.sum(0, dtype=np.float32)
    total = total[total > 0] if (total > 0).any() else total  # outside a mask maps may be 0
    if not checks.sums_to_one(total, inside):
        raise ValueError(
            f"{path}: its maps sum to {total.min():.4g}..{total.max():.4g}, but probabilities "
            f"of one label per pixel sum to 1; if the maps may overlap {way_out}; to score "
            "the largest of each pixel give --kind logits"
        )
