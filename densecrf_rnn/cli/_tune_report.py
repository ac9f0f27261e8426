"""The report of `tune`: scores, how much of the gain survives on other images, what to run next."""

import argparse
import shlex
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import metrics, tuning
from ..kernels import leading
from ._inputs import add_input_options
from ._options import given, option
from ._sources import words_of


def report(
    found: tuning.Tuned, folds: tuning.Folds | None, task: tuning.Task, args: argparse.Namespace
) -> str:
    """Return the text that ends the command."""
    pruned = sum(trial.state.name == "PRUNED" for trial in found.study.trials)
    title = "mean IU, %" if args.mean_over is None else f"mean IU of {','.join(args.mean_over)}, %"
    gain, ends = _gain(found.confusions, found.confusions_alone, task.score)
    lines = [
        f"{len(found.study.trials)} settings tried, {pruned} of them pruned.",
        "",
        f"{'':<18}{title}",
        f"{'network alone':<18}{100 * found.score_alone:.2f}",
        f"{'best setting':<18}{100 * found.score:.2f}",
        f"{'gain':<18}{gain} (95 % interval {ends})",
    ]
    if folds is None:
        lines.append("It was chosen on these images; --folds 5 estimates the gain on others.")
    else:
        held_out, spread = _gain(folds.held_out, folds.held_out_alone, task.score)
        lines += [
            "",
            f"{args.folds} searches, each on a part of the images: gain "
            f"{100 * folds.gain_seen:+.2f} on the images searched on,",
            f"{held_out} on those held out (95 % interval {spread}){_survives(folds)}",
        ]
    if found.score <= found.score_alone:
        lines += ["", "No setting beats the network alone: do not refine these logits."]
    learned = " and a compatibility" if found.compatibility is not None else ""
    lines += [
        "",
        f"{found.params}{learned}",
        f"was written to {args.out}. To refine with it:",
        "",
        f"  {_refine_command(args)}",
    ]
    return "\n".join(lines)


def _gain(after: Array, before: Array, score: tuning.Score) -> tuple[str, str]:
    """Return the gain in percentage points, and its interval."""
    both = np.stack([before, after], axis=1)
    low, high = metrics.bootstrap_interval(both, lambda c: score(c[1]) - score(c[0]))
    gain = score(after.sum(0)) - score(before.sum(0))
    return f"{100 * gain:+.2f}", f"{100 * low:+.2f}..{100 * high:+.2f}"


def _survives(folds: tuning.Folds) -> str:
    if folds.gain_seen <= 0:
        return "."
    return f":\n{100 * max(0.0, folds.gain) / folds.gain_seen:.0f} % of the gain survives."


def _refine_command(args: argparse.Namespace) -> str:
    """Return the command that refines the same files with the parameters that were found."""
    parser = argparse.ArgumentParser()
    add_input_options(parser)
    inputs = vars(parser.parse_args([args.logits, args.images]))
    words = ["densecrf-rnn", "refine", *words_of(args.logits), *words_of(args.images)]
    for name in inputs:
        if name not in given(args) - {"logits", "images"}:
            continue
        value = getattr(args, name)
        if isinstance(value, tuple):
            value = ",".join(str(one).removesuffix(".0") for one in value)
        if value is True:
            words.append(option(name))
        elif str(value).startswith("-"):
            words.append(f"{option(name)}={value}")  # argparse takes a separate -x for an option
        else:
            words += [option(name), str(value)]
    return shlex.join([*words, "--params", str(args.out), "--out", "refined"])


def draw(found: tuning.Tuned, task: tuning.Task, folder: Path) -> None:
    """Draw the settings tried and the importance of the parameters into a folder."""
    from . import _charts

    tried = tuning.settings(found.study, task.base)
    values = {n: [leading(getattr(params, n)) for params, _ in tried] for n in task.ranges}
    scores = [score for _, score in tried]
    shares = tuning.importances(found.study)
    figure = _charts.search(values, scores, shares, found.score_alone)
    _charts.save(figure, folder / "tune.png")
