"""Write tables: numbers with their intervals and where they come from, as Markdown and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densecrf_rnn.files import replaced

from .study import Study, provenance, summary
from .training import is_first


def gain(study, after, before) -> tuple[float, float]:
    """Return the mean gain of a row over another across seeds, and half its 95 % interval.

    The same seed began with the same network, so differences are taken pair by pair.
    """
    pairs = [np.stack(pair, 1) for pair in zip(after, before, strict=True)]
    return summary(pairs, lambda c: study.score(c[0]) - study.score(c[1]))


def seed_scores(study, per_seed) -> list[float]:
    """Return the score of each seed."""
    return [float(study.score(array.sum(0, dtype=np.int64))) for array in per_seed]


def number(value, sign=False) -> str:
    """Format a number with two digits; None gives an empty string."""
    return "" if value is None else f"{value:+.1f}" if sign else f"{value:.1f}"


def interval(value, half, sign=False, digits=2) -> str:
    """Format a number and, if known, half the width of its interval."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {half:.{digits}f}"


def save(study: Study, name: str, result: dict, trained: Sequence[str] = ("end-to-end",)) -> None:
    """Write the numbers behind a table to NAME.json, with the command that made them.

    `trained`: the rows whose machines are named.
    """
    if is_first():
        text = json.dumps({"command": study.command, "machines": study.machines(trained), **result})
        with replaced(study.out / f"{name}.json") as part:
            part.write_text(text + "\n", encoding="utf-8")


def write(study: Study, name: str, header, rows, trained, note: str, **intervals) -> Path:
    """Write a Markdown file with a table, its figure and the origin of its numbers.

    `intervals`: see `provenance`.
    """
    path = study.out / f"{name}.md"
    if is_first():
        lines = [f"# {name}", "", provenance(study, trained, **intervals), "",
                 "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", note] * bool(note) + ["", f"![]({name}.png)"]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(path.read_text(encoding="utf-8"))
    return path
