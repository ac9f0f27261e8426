"""`densecrf-rnn evaluate`: score label maps on disk against the ground truth, side by side.

`_scoring` computes confusion matrices; `_scores` turns them into scores, a table and charts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .. import files
from . import UserError, _types, check_file, prepare_plots, require, user_errors
from ._scores import draw, facts_of, table
from ._scoring import add_scoring_options, check_seed, chosen_labels, count, warn_missing

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
    add("predictions", nargs="+", metavar="PREDICTIONS", help="folder, quoted pattern or file")
    add("truth", metavar="TRUTH", help="folder, quoted pattern or file: label maps")
    add_scoring_options(parser)
    add("--classes", **_types.FILE,
        help="text file with a name per line, label 0 first, for the table and --mean-over")
    add("--names", type=_types.words, metavar="A,B",
        help="names of the predictions in the table (default: the names of their folders)")
    add("--labels", type=_types.positive, metavar="L",
        help="number of labels (default: as many as --classes names, or as the files hold)")
    add("--key", metavar="NAME", help="array to read if a PREDICTIONS file holds several")
    add("--truth-key", metavar="NAME", help="array to read if a TRUTH file holds several")
    add("--trimap", type=_types.widths, default=WIDTHS, metavar="WIDTHS",
        help="also score the pixels within each of these distances of a true border (default: "
        f"{','.join(map(str, WIDTHS))})")
    add("--resamples", **_types.COUNT, default=RESAMPLES,
        help="bootstrap resamples of the images, for the intervals (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N",
        help="random seed of the resamples (default: %(default)s)")
    add("--json", **_types.FILE, help="write the scores as JSON")
    add("--plots", **_types.FOLDER,
        help="draw the IU of each class, the trimap curve and confusion matrices")


def run(args: argparse.Namespace) -> int:
    """Compute, print and write the scores."""
    require("evaluate", "tqdm")
    prepare_plots("evaluate", args.plots)
    check_file("--json", args.json)
    check_seed(args.seed)
    names = _column_names(args.predictions, args.names)
    classes = None if args.classes is None else _class_names(args.classes)
    with user_errors(ImportError, TypeError, ValueError):
        found = files.pair(*args.predictions, args.truth)
        unmatched = files.pair(args.truth, args.predictions[0]).missing
        counts = count(found.found, args, None if classes is None else len(classes))
    warn_missing(found.missing)
    labels = counts.confusions.shape[-1]
    classes = [str(label) for label in range(labels)] if classes is None else classes
    over = chosen_labels(args.mean_over, classes)
    facts = facts_of(counts, names, classes, over, args)
    facts["truth_without_prediction"] = len(unmatched)
    print(table(facts, over))
    if args.json is not None:
        with files.replaced(args.json) as partial_file:
            text = json.dumps(facts, indent=1, allow_nan=False)
            partial_file.write_text(text + "\n", encoding="utf-8")
    if args.plots is not None:
        draw(facts, args.plots)
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


def _column_names(predictions: Sequence[str], names: Sequence[str] | None) -> list[str]:
    if names is None:
        names = [Path(source).stem for source in predictions]
        if len(set(names)) < len(names):
            names = list(predictions)
    elif len(names) != len(predictions):
        raise UserError(
            f"--names has {len(names)} for {len(predictions)} predictions; give one each"
        )
    if len(set(names)) < len(names):
        raise UserError("two predictions have the same name; give others by --names")
    return list(names)
