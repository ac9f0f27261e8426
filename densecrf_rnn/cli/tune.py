"""`densecrf-rnn tune`: the parameters that score best on some images with ground truth.

The search is `densecrf_rnn.tuning`, learning by gradients `nn.tuning`; here files come in and a
report goes out.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import files, metrics, tuning
from ..files.pairs import ARRAYS
from . import UserError, positive, progress, require
from ._inputs import Inputs, Problem, add_input_options
from .evaluate import add_scoring_arguments, chosen_labels, make_folder, warn_missing


TRIALS = 60
PASSES = 3
START = files.Settings(tuning.START, tuning.ITERATIONS)
_MEANING = {
    "theta_alpha": "pixels: reach of the appearance kernel",
    "theta_beta": "intensity units of the image: what counts as alike",
    "theta_gamma": "pixels: reach of the smoothness kernel",
    "w_bilateral": "weight of the appearance kernel",
    "w_spatial": "weight of the smoothness kernel",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "Searches bandwidths and weights, several weights per lattice, and gives settings up that "
        "fall behind. Ends with the parameters, their score beside that of the network alone, and "
        "the command that refines with them."
    )
    add_input_options(parser)
    parser.add_argument("truth", metavar="TRUTH", help="folder, 'pattern' or file: label maps")
    parser.add_argument(
        "--truth-suffix", default="", metavar="TEXT", help="how names of TRUTH end after the stem"
    )
    parser.add_argument("--truth-key", metavar="NAME", help="array to take from a TRUTH of several")
    group = parser.add_argument_group("what counts")
    add_scoring_arguments(group)
    group.add_argument(
        "--folds", type=positive, metavar="K",
        help="before that, K searches, each scored on the part of the images that it did not see",
    )  # fmt: skip
    group = parser.add_argument_group("what is searched")
    for name, (low, high) in tuning.RANGES.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=_range, metavar="LOW,HIGH",
            help=f"{_MEANING[name]}; one value fixes it (default: {low:g},{high:g})",
        )  # fmt: skip
    group.add_argument(
        "--params", type=Path, metavar="FILE",
        help="settings in JSON to begin with; they fix what is not searched",
    )  # fmt: skip
    group.add_argument(
        "--iterations", type=positive, metavar="N",
        help=f"mean-field updates (default: {START.iterations}, or what --params says)",
    )  # fmt: skip
    group.add_argument(
        "--trials", type=positive, default=TRIALS, metavar="N",
        help="settings to try (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="the same seed finds the same (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--gradient", action="store_true",
        help="then learn weights per label, compatibility and bandwidths from there; needs torch",
    )  # fmt: skip
    group.add_argument(
        "--passes", type=positive, default=PASSES, metavar="N",
        help="with --gradient: over the images (default: %(default)s)",
    )  # fmt: skip
    group = parser.add_argument_group("what is written")
    group.add_argument(
        "-o", "--out", type=Path, default=Path("params.json"), metavar="FILE",
        help="what was found, for refine --params (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--study", type=Path, metavar="FILE",
        help="SQLite file of Optuna that keeps the search; the same command goes on with it",
    )  # fmt: skip
    group.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw what was tried and what mattered"
    )
    group = parser.add_argument_group("how it runs")
    group.add_argument(
        "--threads", type=positive, metavar="N", help="at most (default: one per processor)"
    )
    group.add_argument(
        "--backend", choices=("auto", "cpu", "numba"), default="auto",
        help="engine; `densecrf-rnn info` says which can run (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Search, report, write."""
    _check(args)
    inputs = Inputs(args)
    examples = Examples(inputs, args)
    try:
        first = examples[0]
        task = _task(args, inputs, first)
        print(_plan(examples, first, task, args), flush=True)
        folds = None
        if args.folds is not None:
            find = partial(_find, task=task, args=args)
            folds = tuning.cross_validate(examples, args.folds, find, task)
        found = _find(examples, 0, task, args)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    files.write_settings(
        args.out, files.Settings(found.params, task.iterations, found.compatibility)
    )
    print(_report(found, folds, task, args))
    if args.plots is not None:
        _draw(found, task, args.plots)
    return 0


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Example:
    """What `tuning` scores."""

    name: str
    logits: Array
    image: Array
    truth: Array
    mask: Array | None
    spacing: tuple[float, ...] | None


class Examples(Sequence[Example]):
    """The images that have logits and truth, read when they are asked for."""

    def __init__(self, inputs: Inputs, args: argparse.Namespace) -> None:
        self._inputs, self._args = inputs, args
        try:
            suffixes = (args.logits_suffix, args.truth_suffix)
            true = files.pair(args.logits, args.truth, suffixes=suffixes)
        except ValueError as error:
            raise UserError(str(error)) from error
        warn_missing([*inputs.missing, *true.missing])
        self._truth = {match.stem: match.paths[1] for match in true.found}
        self._found = [match for match in inputs.found if match.stem in self._truth]
        if not self._found:
            raise UserError(f"no file of {args.logits} has both an image and a true label map")

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        match = self._found[index]
        problem = self._inputs.read(match)
        truth = self._true_labels(self._truth[match.stem], problem)
        return Example(
            match.stem, problem.logits, problem.image, truth, problem.mask, problem.spacing
        )

    def _true_labels(self, path: Path, problem: Problem) -> Array:
        """As `Task.ignore` and the rows of the logits number them."""
        args = self._args
        truth = files.read_labels(path, key=args.truth_key)
        if args.axes == "xyz" and files.extension(path) in ARRAYS and truth.ndim == 3:
            truth = np.ascontiguousarray(truth.swapaxes(0, 2))
        ignored = truth == args.ignore
        names = self._inputs.label_names(max(2, len(problem.logits)))
        order = np.argsort(names)
        ranks = order[np.searchsorted(names, truth, sorter=order).clip(max=len(names) - 1)]
        foreign = truth[~ignored & (names[ranks] != truth)]
        if foreign.size:
            kept = f"0..{len(names) - 1}" if args.classes is None else "those of --classes"
            raise ValueError(
                f"{path}: holds the label {foreign[0]}, but the logits' labels are {kept}; "
                f"--ignore {foreign[0]} leaves its pixels out"
            )
        ranks[ignored] = _IGNORED
        return ranks


_IGNORED = -1  # no rank of a label, whatever --ignore is


# --- the search ----------------------------------------------------------------------------------


def _check(args: argparse.Namespace) -> None:
    """What can be known to fail before anything is read."""
    require("tune", "tqdm")
    require("tune", "optuna", extra="tune")
    if args.gradient:
        require("tune --gradient", "torch", extra="torch")
    if args.plots is not None:
        require("tune --plots", "matplotlib")
        make_folder(args.plots, "--plots")
    for option, file in (("--out", args.out), ("--study", args.study)):
        if file is not None and not file.parent.is_dir():
            raise UserError(f"{option} {file}: there is no folder {file.parent}")
        if file is not None and file.is_dir():
            raise UserError(f"{option} {file} is a folder; name a file")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; it must be at least 0")
    if args.folds == 1:
        raise UserError("--folds is 1; it takes at least 2 to hold images out")


def _task(args: argparse.Namespace, inputs: Inputs, first: Example) -> tuning.Task:
    """What the options say; a UserError where they cannot be."""
    try:
        start = START if args.params is None else files.read_settings(args.params)
    except ValueError as error:
        raise UserError(str(error)) from error
    if start.compatibility is not None:
        raise UserError(
            f"{args.params} has a compatibility, which the search does not heed; leave it out"
        )
    ranges, fixed = {}, {}
    for name, ends in tuning.RANGES.items():
        given = getattr(args, name)
        if given is not None and len(given) == 1:
            fixed[name] = given[0]
        elif given is not None or isinstance(getattr(start.params, name), float):
            ranges[name] = ends if given is None else given
        # else weights per label, which only --params can have set: they stay
    names = [str(label) for label in inputs.label_names(max(2, len(first.logits)))]
    over = chosen_labels(args.mean_over, names)
    paths = {
        name: None if getattr(args, name) is None else str(Path(getattr(args, name)).resolve())
        for name in ("logits", "images", "truth", "mask")
    }
    endings = {
        f"{name}_suffix": getattr(args, f"{name}_suffix")
        for name in ("logits", "image", "truth", "mask")
    }
    options = {name: str(value) for name, value in inputs.options().items()}
    return tuning.Task(
        base=replace(start.params, **fixed),
        ranges=ranges,
        iterations=args.iterations or start.iterations,
        score=metrics.mean_iu if over is None else partial(metrics.mean_iu, over=tuple(over)),
        ignore=_IGNORED,
        backend=args.backend,
        threads=args.threads,
        about={
            **paths, **endings, **options, "truth_key": args.truth_key, "ignored label": args.ignore
        },  # fmt: skip
    )


def _plan(
    examples: Examples, first: Example, task: tuning.Task, args: argparse.Namespace
) -> str:
    images = "1 image" if len(examples) == 1 else f"{len(examples)} images"
    lines = [
        f"{images} with truth, {len(first.logits)} labels, "
        f"{task.iterations} iterations; {args.trials} settings, beginning with {task.base}"
    ]
    if first.image.dtype != np.uint8 and args.theta_beta is None:
        low, high = first.image.min(), first.image.max()
        lines.append(
            f"The image of {first.name} is {first.image.dtype}, {low:g}..{high:g}: theta_beta is "
            "in its units, and the default range is for 0..255. Give --theta-beta LOW,HIGH."
        )
    return "\n".join(lines)


def _find(
    examples: Sequence[tuning.Example], fold: int, task: tuning.Task, args: argparse.Namespace
) -> tuning.Tuned:
    """A search, and learning if that is asked for; fold 0 is all images."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = f"fold {fold}" if fold else "all images"
    with progress(total=args.trials, desc=where, unit="setting") as bar:

        def note(outcome: tuning.Outcome) -> None:
            bar.update(outcome.number - bar.n)
            if outcome.best:
                score = f"{100 * outcome.score:.2f}"
                bar.write(f"{where}, setting {outcome.number}: {score}, {outcome.params}")

        found = tuning.tune(
            examples, task, trials=args.trials, seed=args.seed, on_trial=note,
            study_file=None if args.study is None else str(args.study),
            study_name=f"fold-{fold}" if fold else "all",
        )  # fmt: skip
    return _learned(examples, found, where, task, args) if args.gradient else found


def _learned(
    examples: Sequence[tuning.Example],
    found: tuning.Tuned,
    where: str,
    task: tuning.Task,
    args: argparse.Namespace,
) -> tuning.Tuned:
    """What gradients make of it, if that scores better."""
    from ..nn.tuning import learn

    with progress(total=args.passes * len(examples), desc=where, unit="step") as bar:
        learned = learn(
            examples, found.params, task, passes=args.passes, seed=args.seed,
            on_step=lambda loss: bar.update(),
        )  # fmt: skip
    counts = tuning.confusions(examples, learned.params, task, learned.compatibility)
    score = task.score(counts.sum(0))
    losses = ", ".join(f"{loss:.4f}" for loss in learned.losses)
    print(f"{where}, learned: {100 * score:.2f}; cross-entropy of each pass {losses}", flush=True)
    if score <= found.score:
        print(f"{where}: that is no better, so the search's setting stays", flush=True)
        return found
    return replace(
        found, params=learned.params, score=score, confusions=counts,
        compatibility=learned.compatibility,
    )  # fmt: skip


# --- the report ----------------------------------------------------------------------------------


def _report(
    found: tuning.Tuned,
    folds: tuning.Folds | None,
    task: tuning.Task,
    args: argparse.Namespace,
) -> str:
    given_up = sum(trial.state.name == "PRUNED" for trial in found.study.trials)
    title = "mean IU, %" if args.mean_over is None else f"mean IU of {','.join(args.mean_over)}, %"
    gain, ends = _gain(found.confusions, found.confusions_alone, task.score)
    lines = [
        f"{len(found.study.trials)} settings tried, {given_up} of them given up early.",
        "",
        f"{'':<18}{title}",
        f"{'network alone':<18}{100 * found.score_alone:.2f}",
        f"{'best setting':<18}{100 * found.score:.2f}",
        f"{'gain':<18}{gain} (95 % interval {ends})",
    ]
    if folds is None:
        lines.append("These are the images it was chosen on; --folds 5 says what others gain.")
    else:
        held_out, spread = _gain(folds.held_out, folds.held_out_alone, task.score)
        lines += [
            "",
            f"{args.folds} searches, each without a part of the images: "
            f"{100 * folds.gain_seen:+.2f} on those it saw,",
            f"{held_out} on those it did not (95 % interval {spread}){_survives(folds)}",
        ]
    if found.score <= found.score_alone:
        lines += ["", "No setting beat the network alone: leave these logits as they are."]
    learned = " and a compatibility" if found.compatibility is not None else ""
    lines += [
        "",
        f"{found.params}{learned}",
        f"is in {args.out}. To refine with it:",
        "",
        f"  {_refine_command(args)}",
    ]
    return "\n".join(lines)


def _gain(after: Array, before: Array, score: tuning.Score) -> tuple[str, str]:
    """In points, and its interval."""
    both = np.stack([before, after], axis=1)
    low, high = metrics.bootstrap_interval(both, lambda c: score(c[1]) - score(c[0]))
    gain = score(after.sum(0)) - score(before.sum(0))
    return f"{100 * gain:+.2f}", f"{100 * low:+.2f}..{100 * high:+.2f}"


def _survives(folds: tuning.Folds) -> str:
    if folds.gain_seen <= 0:
        return "."
    return f":\n{100 * max(0.0, folds.gain) / folds.gain_seen:.0f} % of the gain survives."


def _refine_command(args: argparse.Namespace) -> str:
    """What refines with what was found, reading files as they were read here."""
    parser = argparse.ArgumentParser()
    add_input_options(parser)
    words = ["densecrf-rnn", "refine", args.logits, args.images]
    for name, default in vars(parser.parse_args([args.logits, args.images])).items():
        value = getattr(args, name)
        if value == default:
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, (list, tuple)):
            value = ",".join(str(one).removesuffix(".0") for one in value)
        if value is True:
            words.append(option)
        elif str(value).startswith("-"):
            words.append(f"{option}={value}")  # or it would be taken for an option
        else:
            words += [option, str(value)]
    return shlex.join([*words, "--params", str(args.out), "--out", "refined"])


def _draw(found: tuning.Tuned, task: tuning.Task, folder: Path) -> None:
    from . import _charts

    tried = tuning.settings(found.study, task.base)
    values = {name: [getattr(params, name) for params, _ in tried] for name in task.ranges}
    scores = [score for _, score in tried]
    shares = tuning.importances(found.study)
    figure = _charts.search(values, scores, shares, found.score_alone)
    _charts.save(figure, folder / "tune.png")
    print(f"\nWhat mattered: {folder / 'tune.png'}")


def _range(text: str) -> tuple[float, ...]:
    """LOW,HIGH or one number; above 0."""
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 2) or not all(0 < end < float("inf") for end in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH or one number, above 0")
    return found
