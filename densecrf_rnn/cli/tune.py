"""`densecrf-rnn tune`: search for the CRF parameters that score best on images with ground truth.

The search is in `densecrf_rnn.tuning`, learning by gradients in `nn.tuning`; `_examples` reads the
files, `_tune_report` words the result.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from .. import files, metrics, tuning
from ..tuning.study import value_of, varied
from . import UserError, _types, check_file, prepare_plots, progress, require, user_errors
from ._crf_options import MEANING, add_engine_options
from ._examples import IGNORED, Example, Examples
from ._inputs import Inputs, add_input_options
from ._label_options import ignored
from ._messages import Messages, add_message_options, to_stderr
from ._options import option, recorded
from ._scoring import add_scoring_options, check_seed, chosen_labels
from ._tune_report import draw, report

TRIALS = 60
PASSES = 3
START = files.Settings(tuning.START, tuning.ITERATIONS)
Say = Callable[[str], object]  # prints, unless --quiet is given
_SOURCES = ("logits", "images", "truth", "mask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = (
        "Searches bandwidths and weights; trials whose score falls below the median are pruned. "
        "Prints the best parameters, their score compared with that of the network alone, and the "
        "command that refines with them."
    )
    add_input_options(parser, regions=False)
    add = parser.add_argument
    add("truth", nargs="+", type=_types.place, metavar="TRUTH",
        help="folder, quoted pattern or file: label maps")
    add("--truth-suffix", default="", metavar="TEXT",
        help="text between stem and extension in the names of TRUTH files")
    add("--truth-key", metavar="NAME", help="array to read if a TRUTH file holds several")
    group = parser.add_argument_group("scoring")
    add_scoring_options(group)
    group.add_argument(
        "--folds", type=_types.positive, metavar="K",
        help="first cross-validate: K searches, each scored on the part of the images held out",
    )  # fmt: skip
    add = parser.add_argument_group("search").add_argument
    for name, (low, high) in tuning.RANGES.items():
        add(option(name), type=_types.search_range, metavar="LOW,HIGH",
            help=f"range of the {MEANING[name]}; one value fixes it (default: {low:g},{high:g})")
    add("--params", **_types.FILE,
        help="settings in JSON to start from; they also fix the parameters that are not searched, "
        "and the ratio of several bandwidths, whose range is that of the first")
    add("--iterations", **_types.COUNT,
        help=f"mean-field updates (default: {START.iterations}, or those of --params)")
    add("--trials", **_types.COUNT, default=TRIALS,
        help="number of settings to try (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N",
        help="random seed; results are reproducible (default: %(default)s)")
    add("--gradient", action="store_true",
        help="after the search, learn weights per label, a compatibility and bandwidths by "
        "gradient descent; needs torch")
    add("--passes", **_types.COUNT, default=PASSES,
        help="with --gradient: passes over the images (default: %(default)s)")
    add = parser.add_argument_group("output").add_argument
    add("-o", "--out", **_types.FILE, default=Path("params.json"),
        help="file for the parameters found, for refine --params (default: %(default)s)")
    add("--study", **_types.FILE,
        help="SQLite file of Optuna that stores the search; the same command continues it")
    add("--plots", **_types.FOLDER,
        help="draw the settings tried and the importance of each parameter")
    group = parser.add_argument_group("execution")
    add_engine_options(group, "maximum number of threads (default: one per processor)")
    add_message_options(parser)


def run(args: argparse.Namespace) -> int:
    """Search, print the report and write the parameters."""
    _check(args)
    inputs = Inputs(args)
    messages = Messages(args)
    say = _silent if args.quiet else partial(print, flush=True)
    examples = Examples(inputs, args, messages)
    study = None if args.study is None else str(args.study)
    with (
        user_errors(ImportError, TypeError, ValueError), messages.printed(), tuning.held(study)
    ):  # fmt: skip
        examples.check_truth()
        first = examples[0]
        task = _task(args, inputs, first)
        say(_plan(examples, first, task, args))
        folds = None
        if args.folds is not None:
            find = partial(_find, task=task, args=args, say=say)
            folds = tuning.cross_validate(examples, args.folds, find, task)
        found = _find(examples, 0, task, args, say)
    settings = files.Settings(
        found.params, task.iterations, found.compatibility, _name(task, found, args)
    )
    if kept := _kept(args.out, settings):
        to_stderr(f"densecrf-rnn tune: note: {args.out} held other settings, which are now {kept}")
    files.write_settings(args.out, settings)
    if args.quiet:
        print(f"{args.out}: {found.params}")
    say(report(found, folds, task, args))
    if args.plots is not None:
        draw(found, task, args.plots)
        say(f"\nChart: {args.plots / 'tune.png'}")
    return 0


def _name(task: tuning.Task, found: tuning.Tuned, args: argparse.Namespace) -> str:
    """Return a name of the search: equal but for the trials if one can continue the other."""
    facts = {
        "task": task.describe(),
        "contents": dict(found.contents),
        "seed": args.seed,
        "passes": args.passes if args.gradient else None,
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    trials = len(found.study.trials)  # more than --trials if the study had more
    return f"{hashlib.sha256(text.encode()).hexdigest()[:12]}, {trials} trials"


def _kept(path: Path, settings: files.Settings) -> Path | None:
    """Give the file `path` another name if results would be lost; return that name."""
    if not path.is_file():
        return None
    with contextlib.suppress(OSError, ValueError):
        old = files.read_settings(path)
        if _same(old, settings) or _continues(old.tuned, settings.tuned):
            return None
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in itertools.count(1))
    free = next(name for name in names if not os.path.lexists(name))
    path.rename(free)
    return free


def _same(old: files.Settings, new: files.Settings) -> bool:
    """Return whether two settings refine alike, whatever search found them."""
    return old.to_dict() | {"tuned": ""} == new.to_dict() | {"tuned": ""}


def _continues(old: str, new: str) -> bool:
    """Return whether the search named `new` has all trials of that named `old`, see `_name`.

    Names of earlier versions, which hold no number of trials, are not continued.
    """
    pattern = re.compile(r"(\w+), (\d{1,9}) trials", re.ASCII)
    before, after = pattern.fullmatch(old), pattern.fullmatch(new)
    return (
        before is not None
        and after is not None
        and before[1] == after[1]
        and int(before[2]) <= int(after[2])
    )


def _silent(text: str) -> None:
    """Replace `print` with --quiet."""


def _check(args: argparse.Namespace) -> None:
    """Check what can be checked before any file is read."""
    require("tune", "tqdm")
    require("tune", "optuna", extra="tune")
    if args.gradient:
        require("tune --gradient", "torch", extra="torch")
    prepare_plots("tune", args.plots)
    check_file("--out", args.out)
    check_file("--study", args.study)
    check_seed(args.seed)
    if args.folds == 1:
        raise UserError("--folds is 1; it must be at least 2, so that images are held out")


def _task(args: argparse.Namespace, inputs: Inputs, first: Example) -> tuning.Task:
    """Return what is searched and how it is scored; raise ValueError for invalid options."""
    start = START if args.params is None else files.read_settings(args.params)
    if start.compatibility is not None:
        raise ValueError(
            f"{args.params} has a compatibility, which the search does not use; remove it"
        )
    ranges, fixed = {}, {}
    for name, ends in tuning.ranges_of(start.params).items():
        given = getattr(args, name)
        if given is not None and len(given) == 1:
            fixed[name] = given[0]
        elif given is not None or value_of(start.params, name) is not None:
            ranges[name] = ends if given is None else given
        # else --params gives weights per label for this name, which are not searched
    names = [str(label) for label in inputs.label_names(max(2, len(first.logits)))]
    over = chosen_labels(args.mean_over, names)
    return tuning.Task(
        base=replace(start.params, **varied(start.params, fixed)),
        ranges=ranges,
        iterations=args.iterations or start.iterations,
        score=metrics.mean_iu if over is None else partial(metrics.mean_iu, over=tuple(over)),
        ignore=IGNORED,
        backend=args.backend,
        threads=args.threads,
        about=_facts(args),
    )


def _facts(args: argparse.Namespace) -> dict[str, str]:
    """Return the options and input paths that must be equal for a stored search to be continued."""
    values = recorded(args) | {"ignore": ignored(args)}
    values |= {n: Path(values[n]).resolve() for n in _SOURCES if values[n] is not None}
    return {n if n in _SOURCES[:3] else option(n): str(value) for n, value in values.items()}


def _plan(examples: Examples, first: Example, task: tuning.Task, args: argparse.Namespace) -> str:
    """Describe the search that begins."""
    images = "1 image" if len(examples) == 1 else f"{len(examples)} images"
    return (
        f"{images} with truth, {len(first.logits)} labels, "
        f"{task.iterations} iterations; {args.trials} trials, the first with {task.base}"
    )


def _find(
    examples: Sequence[tuning.Example], fold: int, task: tuning.Task, args: argparse.Namespace,
    say: Say,
) -> tuning.Tuned:  # fmt: skip
    """Search, then improve the result by gradients if --gradient; fold 0 means all images."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = f"fold {fold}" if fold else "all images"
    with progress(args.quiet, total=args.trials, desc=where, unit="setting") as bar:

        def note(outcome: tuning.Outcome) -> None:
            bar.update(outcome.number - bar.n)
            if outcome.best and not args.quiet:
                score = f"{100 * outcome.score:.2f}"
                bar.write(f"{where}, setting {outcome.number}: {score}, {outcome.params}")

        found = tuning.tune(
            examples, task, trials=args.trials, seed=args.seed, on_trial=note,
            study_file=None if args.study is None else str(args.study),
            study_name=f"fold-{fold}" if fold else "all",
        )  # fmt: skip
    return _learned(examples, found, where, task, args, say) if args.gradient else found


def _learned(
    examples: Sequence[tuning.Example], found: tuning.Tuned, where: str, task: tuning.Task,
    args: argparse.Namespace, say: Say,
) -> tuning.Tuned:  # fmt: skip
    """Improve the setting `found` by gradient descent; return `found` if that is no better."""
    from ..nn.tuning import learn

    with progress(args.quiet, total=args.passes * len(examples), desc=where, unit="step") as bar:
        learned = learn(
            examples, found.params, task, passes=args.passes, seed=args.seed,
            on_step=lambda loss: bar.update(),
        )  # fmt: skip
    counts = tuning.confusions(examples, learned.params, task, learned.compatibility)
    score = task.score(counts.sum(0))
    losses = ", ".join(f"{loss:.4f}" for loss in learned.losses)
    say(f"{where}, learned: {100 * score:.2f}; cross-entropy of each pass {losses}")
    if score <= found.score:
        say(f"{where}: that is no better, so the setting of the search is kept")
        return found
    return replace(
        found, params=learned.params, score=score, confusions=counts,
        compatibility=learned.compatibility,
    )  # fmt: skip
