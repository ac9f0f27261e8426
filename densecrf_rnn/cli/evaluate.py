"""`densecrf-rnn evaluate`: label maps on disk against the truth, several side by side.

Counts per image and prints scores of their sums; scores are in `metrics`, pictures in `_charts`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import files, metrics
from ..files import arrays, nifti, pairs
from . import UserError, positive, progress, require


WIDTHS = (1, 2, 3, 5, 10, 20)
RESAMPLES = 1000
LEVEL = 0.95
MOST_LABELS = 2000  # confusion matrices of more would not fit in memory


@dataclass(frozen=True)
class Counts:
    """What was counted: P predictions of N images, L labels, W bands."""

    confusions: Array  # [N, P, L, L]
    bands: Array  # [P, W, L, L], summed over the images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "Files belong together by their stem: PREDICTIONS/a.npy or a.png and TRUTH/a.png. "
        "A prediction is a label map, or scores of all labels (floating point, [L, H, W]; logits "
        "or marginals), of which the greatest counts. Given several folders, before and after a "
        "CRF say, the table has a column for each, and the gain over the first."
    )
    parser.add_argument(
        "predictions",
        nargs="+",
        metavar="PREDICTIONS",
        help="folder, quoted pattern or file",
    )
    parser.add_argument("truth", metavar="TRUTH", help="folder, quoted pattern or file: label maps")
    add_scoring_arguments(parser)
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="text file with a name per line, label 0 first, for the table and --mean-over",
    )
    parser.add_argument(
        "--names",
        type=_words,
        metavar="A,B",
        help="what to call the predictions (default: their folders' names)",
    )
    parser.add_argument(
        "--labels",
        type=positive,
        metavar="L",
        help="number of labels (default: as many as --classes names, or as occur)",
    )
    parser.add_argument("--key", metavar="NAME", help="array to take from a file of several")
    parser.add_argument("--truth-key", metavar="NAME", help="the same for TRUTH")
    parser.add_argument(
        "--trimap",
        type=_widths,
        default=WIDTHS,
        metavar="WIDTHS",
        help="score bands of so many pixels on each side of true borders (default: "
        f"{','.join(map(str, WIDTHS))})",
    )
    parser.add_argument(
        "--resamples",
        type=positive,
        default=RESAMPLES,
        metavar="N",
        help="resamples of the images, for the intervals (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the resamples (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores, as JSON")
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        help="draw bars per class, the trimap curve and confusion matrices",
    )


def add_scoring_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the options that say what counts: `tune` has them too."""
    parser.add_argument(
        "--ignore",
        type=int,
        default=255,
        metavar="LABEL",
        help="label of TRUTH whose pixels do not count (default: %(default)s)",
    )
    parser.add_argument(
        "--mean-over",
        type=_words,
        metavar="A,B",
        help="labels that the mean IU is over (default: all in TRUTH)",
    )


def run(args: argparse.Namespace) -> int:
    """Count, print, write."""
    require("evaluate", "tqdm")
    if args.plots is not None:
        require("evaluate --plots", "matplotlib")
        make_folder(args.plots, "--plots")
    if args.json is not None and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; it must be at least 0")
    names = _column_names(args.predictions, args.names)
    classes = None if args.classes is None else _class_names(args.classes)
    try:
        found = files.pair(*args.predictions, args.truth)
        unmatched = files.pair(args.truth, args.predictions[0]).missing
        counts = _count(found.found, args, None if classes is None else len(classes))
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    warn_missing(found.missing)
    labels = counts.confusions.shape[-1]
    classes = [str(label) for label in range(labels)] if classes is None else classes
    over = chosen_labels(args.mean_over, classes)
    facts = _facts(counts, names, classes, over, args)
    facts["truth_without_prediction"] = len(unmatched)
    print(_table(facts, over))
    if args.json is not None:
        with files.replaced(args.json) as partial_file:
            text = json.dumps(facts, indent=1, allow_nan=False)
            partial_file.write_text(text + "\n", encoding="utf-8")
    if args.plots is not None:
        _draw(facts, args.plots)
    return 0


# --- what tune shares ----------------------------------------------------------------------------


def make_folder(folder: Path, option: str) -> None:
    """A folder for results, with its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{option} {folder} is a file; name a folder") from error
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error


def warn_missing(missing: Sequence[str]) -> None:
    """Say on stderr which files are left out."""
    for sentence in missing[:3]:
        print(f"left out: {sentence}", file=sys.stderr)
    if len(missing) > 3:
        print(f"left out: {len(missing) - 3} more like these", file=sys.stderr)


def chosen_labels(words: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """The labels that numbers or names of --mean-over stand for."""
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


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of words with commas between them")
    return words


# --- counting ------------------------------------------------------------------------------------


def _widths(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(word) for word in _words(text)}))


def _class_names(path: Path) -> list[str]:
    """Names of the labels, one per line; empty lines at the end are none."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    if not names or not all(names):
        raise UserError(f"{path}: must hold a name on each line, for label 0, 1 and so on")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: names {twice!r} twice")
    return names


def _column_names(predictions: Sequence[str], names: Sequence[str] | None) -> list[str]:
    if names is None:
        names = [Path(source).stem for source in predictions]
        if len(set(names)) < len(names):
            names = list(predictions)
    elif len(names) != len(predictions):
        raise UserError(f"--names has {len(names)} for {len(predictions)} predictions; one each")
    if len(set(names)) < len(names):
        raise UserError("two predictions have one name; tell them apart with --names")
    return list(names)


def _count(found: Sequence[files.Match], args: argparse.Namespace, classes: int | None) -> Counts:
    """Confusion matrices of every image and of the bands, of as many labels as there are."""
    if args.labels is not None and classes is not None and args.labels != classes:
        raise UserError(f"--labels is {args.labels} but --classes names {classes}")
    fixed = args.labels or classes
    if fixed is not None and fixed > MOST_LABELS:
        raise UserError(f"{fixed} labels are more than the {MOST_LABELS} that can be scored")
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
    """How many labels there are at least, of which an ignored one is none."""
    counting = labels[labels != ignore]
    largest = int(counting.max()) if counting.size else 0
    if largest >= MOST_LABELS:
        raise ValueError(
            f"{path}: holds the label {largest}; labels up to {MOST_LABELS - 1} can be scored, so "
            "these may be instances, or colours; --ignore leaves one of the truth out"
        )
    return largest + 1


def _grown(confusions: Array, labels: int) -> Array:
    """Confusion matrices [..., l, l] with rows and columns for at least so many labels."""
    more = max(0, labels - confusions.shape[-1])
    return np.pad(confusions, [(0, 0)] * (confusions.ndim - 2) + [(0, more)] * 2)


def _prediction(path: Path, key: str | None, axes: int) -> Array:
    """A label map with so many axes, from a file of one or of scores."""
    kind = files.extension(path)
    if kind in pairs.PICTURES:
        return files.read_labels(path)
    if kind == ".npy":  # holds one array without a name, beside others of several perhaps
        key = None
    array = nifti.read_volume(path) if kind in pairs.VOLUMES else arrays.read_array(path, key)
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
    names = arrays.names_of_maps(path, array)
    return array.argmax(0) if names is None else names[array.argmax(0)]


# --- scores --------------------------------------------------------------------------------------


def _facts(
    counts: Counts,
    names: Sequence[str],
    classes: Sequence[str],
    over: Sequence[int] | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """All scores, as plain values; NaN is None."""
    mean_iu = partial(metrics.mean_iu, over=over)
    interval = partial(
        metrics.bootstrap_interval, resamples=args.resamples, level=LEVEL, seed=args.seed
    )
    total = counts.confusions.sum(0, dtype=np.int64)  # [P, L, L]
    columns = []
    for index, name in enumerate(names):
        column = {
            "name": name,
            "mean_iu": _plain(mean_iu(total[index])),
            "mean_iu_interval": _plain(interval(counts.confusions[:, index], mean_iu)),
            "class_iu": _plain(metrics.class_iu(total[index])),
            "pixel_accuracy": _plain(metrics.pixel_accuracy(total[index])),
            "mean_accuracy": _plain(metrics.mean_accuracy(total[index])),
            "frequency_weighted_iu": _plain(metrics.frequency_weighted_iu(total[index])),
            "trimap_mean_iu": _plain([mean_iu(band) for band in counts.bands[index]]),
            "confusion": total[index].tolist(),
        }
        if index > 0:
            two = counts.confusions[:, [0, index]]
            column["gain"] = _plain(mean_iu(total[index]) - mean_iu(total[0]))
            column["gain_interval"] = _plain(
                interval(two, lambda both: mean_iu(both[1]) - mean_iu(both[0]))
            )
        columns.append(column)
    return {
        "images": len(counts.confusions),
        "pixels": int(total[0].sum()),
        "classes": list(classes),
        "ignore": args.ignore,
        "mean_over": None if over is None else list(over),
        "trimap_widths": list(args.trimap),
        "interval": {"level": LEVEL, "resamples": args.resamples, "seed": args.seed},
        "predictions": columns,
    }


def _plain(value: Any) -> Any:
    """Numbers and lists of them, None in place of NaN."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    return None if math.isnan(value) else float(value)


def _table(facts: dict[str, Any], over: Sequence[int] | None) -> str:
    """The scores as text, in percent."""
    columns = facts["predictions"]
    confusion = np.array([column["confusion"] for column in columns])
    # Labels in the truth; and those that are only predicted, which have an IU of 0.
    shown = np.flatnonzero((confusion.sum(1) + confusion.sum(2)).any(0))
    rows: list[tuple[str, list[str]]] = [
        (facts["classes"][label], [_percent(c["class_iu"][label]) for c in columns])
        for label in shown
    ]
    rows.append(("", []))
    title = "mean IU" if over is None else f"mean IU over {len(set(over))} labels"
    rows.append((title, [_percent(c["mean_iu"]) for c in columns]))
    percent = f"{100 * facts['interval']['level']:g} %"
    rows.append((f"  {percent} interval", [_range(c["mean_iu_interval"]) for c in columns]))
    if len(columns) > 1:
        gains = [_percent(c["gain"], sign="+") for c in columns[1:]]
        rows.append((f"  gain over {columns[0]['name']}", ["", *gains]))
        spread = [_range(c["gain_interval"], sign="+") for c in columns[1:]]
        rows.append((f"  {percent} interval", ["", *spread]))
    for name in ("pixel_accuracy", "mean_accuracy", "frequency_weighted_iu"):
        words = name.replace("_iu", " IU").replace("y_w", "y-w").replace("_", " ")
        rows.append((words, [_percent(c[name]) for c in columns]))
    rows += [("", []), ("mean IU within so many pixels of a true border:", [])]
    for index, width in enumerate(facts["trimap_widths"]):
        rows.append((f"{width:>4}", [_percent(c["trimap_mean_iu"][index]) for c in columns]))
    first = max(len(name) for name, cells in rows if cells)
    widths = [
        2 + max(len(column["name"]), *(len(cells[i]) for _, cells in rows if cells))
        for i, column in enumerate(columns)
    ]
    lines = [
        f"{facts['images']} image{'s' * (facts['images'] != 1)}, {facts['pixels']:,} pixels scored"
    ]
    if facts["truth_without_prediction"]:
        lines.append(
            f"{facts['truth_without_prediction']} true label maps have no prediction and do not "
            "count"
        )
    lines += ["", f"{'IU, %':<{first}}" + _cells([c["name"] for c in columns], widths)]
    lines += [
        (f"{name:<{first}}" + _cells(cells, widths)).rstrip() if cells else name
        for name, cells in rows
    ]
    absent = [facts["classes"][label] for label in over or () if not confusion[0, label].any()]
    if absent:
        lines += ["", f"Not in the truth, so not in the mean: {', '.join(absent)}."]
    if facts["images"] == 1:
        lines += ["", "One image says nothing of others: its intervals have no width."]
    return "\n".join(lines)


def _cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _range(ends: Sequence[float | None], sign: str = "") -> str:
    return "..".join(_percent(end, sign) for end in ends)


def _draw(facts: dict[str, Any], folder: Path) -> None:
    from . import _charts

    columns = facts["predictions"]
    labels = [
        label
        for label in range(len(facts["classes"]))
        if any(column["class_iu"][label] is not None for column in columns)
    ]
    classes = [facts["classes"][k] for k in labels]
    bars = {c["name"]: [c["class_iu"][k] for k in labels] for c in columns}
    _charts.save(_charts.class_bars(classes, bars), folder / "class_iu.png")
    curves = {c["name"]: c["trimap_mean_iu"] for c in columns}
    _charts.save(_charts.trimap_curve(facts["trimap_widths"], curves), folder / "trimap.png")
    for index, column in enumerate(columns):
        matrix = np.array(column["confusion"])[np.ix_(labels, labels)]
        name = "confusion" if len(columns) == 1 else f"confusion-{index + 1}"
        _charts.save(_charts.confusion(classes, matrix, column["name"]), folder / f"{name}.png")
    print(f"\nPictures: {folder}/*.png")
