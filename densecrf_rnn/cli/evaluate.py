"""`densecrf-rnn evaluate`: score label maps on disk against the ground truth, side by side.

`_scoring` computes confusion matrices; `_scores` turns them into scores, a table and charts.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import files
from .._atomic import remove_leftovers_of
from . import UserError, _region_scores, _types, check_file, prepare_plots, require, user_errors
from ._containers import add_max_bytes
from ._inputs import add_exif_option
from ._label_options import Truths, add_label_options
from ._messages import Messages, add_message_options
from ._regions import KINDS
from ._scores import draw, facts_of, table
from ._scoring import (
    Counts, add_scoring_options, check_seed, chosen_labels, count, warn_missing
)  # fmt: skip
from ._sources import add_recursive, gather_predictions, suffix_options, suffixes_of

WIDTHS = (1, 2, 3, 5, 10, 20)
RESAMPLES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = (
        "Files are matched by their stem: PREDICTIONS/a.npy or a.png with TRUTH/a.png. A "
        "prediction is a label map, or scores of all labels (floating point, [L, H, W]; logits or "
        "marginals), of which the argmax is scored. With several folders, such as before and after "
        "a CRF, the table has a column for each, and the gain over the first."
    )
    add = parser.add_argument
    add("predictions", nargs="+", type=_types.place, metavar="PREDICTIONS",
        help="folder, quoted pattern or file")
    add("truth", nargs="+", type=_types.place, metavar="TRUTH",
        help="folder, quoted pattern or file: label maps")
    add_recursive(parser)
    add_scoring_options(parser)
    add_label_options(parser)
    add("--classes", **_types.FILE,
        help="text file with a name per line, label 0 first, for the table and --mean-over")
    add("--names", type=_types.words, metavar="A,B",
        help="names of the predictions in the table (default: the names of their folders)")
    add("--labels", type=_types.positive, metavar="L",
        help="number of labels (default: as many as --classes names, or as the files hold)")
    add("--kind", choices=("logits", "probabilities", "labels", *KINDS),
        help="content of PREDICTIONS (default: labels in image files, scores of all labels in "
        "other files if they are floating point and have an axis more than TRUTH); label maps "
        "beside such files are recognised; regions, region-logits: maps that may overlap, or a "
        "mask file per region, a_0, a_1, ...; TRUTH holds the same in masks")
    add("--predictions-suffix", default="", metavar="TEXT[,TEXT]",
        help="text between stem and extension in the names of the files of PREDICTIONS, such as "
        "_prob; of several PREDICTIONS one each, as _prob,_refined")
    add("--truth-suffix", default="", metavar="TEXT", help="the same of the files of TRUTH")
    add("--key", metavar="NAME", help="array to read if a PREDICTIONS file holds several")
    add("--truth-key", metavar="NAME", help="array to read if a TRUTH file holds several")
    add("--trimap", type=_types.widths, default=WIDTHS, metavar="WIDTHS",
        help="also score the pixels within each of these distances of a true border (default: "
        f"{','.join(map(str, WIDTHS))})")
    add("--resamples", **_types.COUNT, default=RESAMPLES,
        help="bootstrap resamples of the images, for the intervals (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N",
        help="random seed of the resamples (default: %(default)s)")
    add_exif_option(add)
    add_max_bytes(parser)
    add("--json", **_types.FILE,
        help="write the scores as JSON; `-` writes them to stdout, and no table")
    add("--plots", **_types.FOLDER,
        help="draw the IU of each class, the trimap curve and confusion matrices")
    add_message_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compute, print and write the scores."""
    require("evaluate", "tqdm")
    prepare_plots("evaluate", args.plots)
    to_stdout = args.json == Path("-")
    if not to_stdout:
        check_file("--json", args.json)
    check_seed(args.seed)
    with user_errors(ValueError):
        gather_predictions(args)
    names = _column_names(args.predictions, args.names)
    truths, messages = Truths(args), Messages(args)
    listed = None if truths.values is None else truths.values.names
    classes = listed if args.classes is None else _class_names(args.classes)
    fixed = None if classes is None else len(classes)
    suffixes = suffixes_of(args)
    if args.kind in KINDS:
        return _region_scores.run(args, names, suffixes, messages)
    with user_errors(ImportError, TypeError, ValueError), messages.printed():
        found = files.pair(
            *args.predictions, args.truth, recursive=args.recursive, suffixes=suffixes,
            suffix_options=suffix_options(args),
        )
        backwards = {"recursive": args.recursive, "suffixes": (suffixes[-1], suffixes[0])}
        unmatched = files.pair(args.truth, args.predictions[0], **backwards).missing
        counts = count(found.found, args, truths, fixed, messages)
        messages.about("")
        truths.check()
        if truths.values is None:
            _warn_of_values(counts, args.predictions, args.truth)
    warn_missing(found.missing, messages)
    labels = counts.confusions.shape[-1]
    classes = classes or [str(label) for label in range(labels)]
    over = chosen_labels(args.mean_over, classes)
    facts = facts_of(counts, names, classes, over, args)
    facts["truth_without_prediction"] = len(unmatched)
    text = json.dumps(facts, indent=1, allow_nan=False)
    print(text if to_stdout else table(facts, over))
    if args.json is not None and not to_stdout:
        remove_leftovers_of(args.json)
        with files.replaced(args.json) as partial_file:
            partial_file.write_text(text + "\n", encoding="utf-8")
    if args.plots is not None:
        draw(facts, args.plots)
        if not (args.quiet or to_stdout):
            print(f"\nCharts: {args.plots}/*.png")
    return 0


def _class_names(path: Path) -> list[str]:
    """Read the names of the labels, one per line; ignore empty lines at the end."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    if not names or not all(names):
        raise UserError(f"{path}: must hold one name per line, for label 0, 1 and so on")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: names {twice!r} twice")
    return names


def _column_name(source: str) -> str:
    """Return the name of a folder or file; of a pattern, that of the last folder it names."""
    parts = Path(source).parts
    if not set(source) & set("*?["):
        return Path(source).stem
    return next((part for part in parts[-2::-1] if not set(part) & set("*?[")), source)


def _warn_of_values(counts: Counts, sources: Sequence[str], truth: str) -> None:
    """Warn if all labels of a prediction but 0 are larger than every label of the truth."""
    for source, total in zip(sources, counts.confusions.sum(0, dtype=np.int64), strict=True):
        true, predicted = (np.flatnonzero(total.sum(axis)) for axis in (1, 0))
        foreground = predicted[predicted > 0]
        if len(foreground) and true.max(initial=0) > 0 and foreground.min() > true.max():
            found, wanted = (", ".join(map(str, one[:8])) for one in (predicted, true))
            warnings.warn(
                f"{source} holds the labels {found}, {truth} {wanted}; if the former stand for "
                "labels in order, list the value of each by --label-values, such as "
                f"--label-values {','.join(map(str, predicted))}",
                stacklevel=2,
            )


def _column_names(predictions: Sequence[str], names: Sequence[str] | None) -> list[str]:
    if names is None:
        names = [_column_name(source) for source in predictions]
        if len(set(names)) < len(names):
            names = list(predictions)
    elif len(names) != len(predictions):
        raise UserError(
            f"--names has {len(names)} for {len(predictions)} predictions; give one each"
        )
    if len(set(names)) < len(names):
        raise UserError("two predictions have the same name; give others by --names")
    return list(names)
