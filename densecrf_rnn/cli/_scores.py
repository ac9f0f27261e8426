"""The report of `evaluate`: scores from confusion matrices, as plain values, a table and charts."""

import argparse
import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ._label_options import ignored
from ._scoring import Counts

LEVEL = 0.95  # confidence level of the bootstrap intervals
_OTHER_SCORES = {
    "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy",
    "frequency_weighted_iu": "frequency-weighted IU",
}  # fmt: skip


def facts_of(
    counts: Counts, names: Sequence[str], classes: Sequence[str], over: Sequence[int] | None,
    args: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Compute all scores as JSON values (None for NaN); `over`: labels that mean IU averages."""
    mean_iu = partial(metrics.mean_iu, over=over)
    interval = partial(
        metrics.bootstrap_interval, resamples=args.resamples, level=LEVEL, seed=args.seed
    )
    totals = counts.confusions.sum(0, dtype=np.int64)  # [predictions, labels, labels]
    columns = []
    for index, (name, total) in enumerate(zip(names, totals, strict=True)):
        scores = {
            "mean_iu": mean_iu(total),
            "mean_iu_interval": interval(counts.confusions[:, index], mean_iu),
            **{key: getattr(metrics, key)(total) for key in ("class_iu", *_OTHER_SCORES)},
            "trimap_mean_iu": [mean_iu(band) for band in counts.bands[index]],
        }
        if index > 0:
            scores["gain"] = mean_iu(total) - mean_iu(totals[0])
            scores["gain_interval"] = interval(
                counts.confusions[:, [0, index]], lambda both: mean_iu(both[1]) - mean_iu(both[0])
            )
        columns.append({"name": name, **_json(scores), "confusion": total.tolist()})
    return {
        "images": len(counts.confusions),
        "pixels": int(totals[0].sum()),
        "pixels_without_prediction": counts.unpredicted,
        "classes": list(classes),
        "ignore": ignored(args),
        "mean_over": None if over is None else list(over),
        "trimap_widths": list(args.trimap),
        "interval": {"level": LEVEL, "resamples": args.resamples, "seed": args.seed},
        "predictions": columns,
    }


def _json(value: Any) -> Any:
    """Convert arrays to lists of float, with None for NaN."""
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_json(one) for one in value]
    return None if math.isnan(value) else float(value)


def table(facts: dict[str, Any], over: Sequence[int] | None) -> str:
    """Return the scores as text, in percent."""
    columns = facts["predictions"]
    confusion = np.array([column["confusion"] for column in columns])
    # Show labels in the truth, and labels that are only predicted: these have an IU of 0.
    shown = np.flatnonzero((confusion.sum(1) + confusion.sum(2)).any(0))
    interval = f"  {100 * facts['interval']['level']:g} % interval"
    rows = [["IU, %", *(c["name"] for c in columns)]]
    rows += [[facts["classes"][k], *(percent(c["class_iu"][k]) for c in columns)] for k in shown]
    title = "mean IU" if over is None else f"mean IU over {len(set(over))} labels"
    rows += [[""], [title, *(percent(c["mean_iu"]) for c in columns)]]
    rows.append([interval, *(_percent_range(c["mean_iu_interval"]) for c in columns)])
    if len(columns) > 1:
        gain = f"  gain over {columns[0]['name']}"
        rows.append([gain, "", *(percent(c["gain"], "+") for c in columns[1:])])
        rows.append([interval, "", *(_percent_range(c["gain_interval"], "+") for c in columns[1:])])
    for key, words in _OTHER_SCORES.items():
        rows.append([words, *(percent(c[key]) for c in columns)])
    rows += [[""], ["mean IU within N pixels of a true border, N ="]]
    for index, width in enumerate(facts["trimap_widths"]):
        rows.append([f"{width:>4}", *(percent(c["trimap_mean_iu"][index]) for c in columns)])
    lines = [
        f"{facts['images']} image{'s' * (facts['images'] != 1)}, {facts['pixels']:,} pixels scored"
    ]
    if facts["truth_without_prediction"]:
        lines.append(
            f"{facts['truth_without_prediction']} label maps of the truth have no prediction and "
            "are not scored"
        )
    if hidden := facts["pixels_without_prediction"]:
        lines.append(
            f"{hidden:,} more pixels have a true label, but no data in a prediction; no column "
            f"counts them, which may flatter it ({100 * hidden / (hidden + facts['pixels']):.3g} %)"
        )
    lines += ["", *aligned_rows(rows)]
    absent = [facts["classes"][label] for label in over or () if not confusion[0, label].any()]
    if absent:
        lines += ["", f"Not in the truth, so excluded from the mean: {', '.join(absent)}."]
    if facts["images"] == 1:
        lines += ["", "Intervals resample the images: with one image they have no width."]
    return "\n".join(lines)


def aligned_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row: a name and right-aligned cells, or the text of a single cell."""
    columns = itertools.zip_longest(*(row for row in rows if len(row) > 1), fillvalue="")
    first, *widths = (max(map(len, column)) for column in columns)
    return [
        f"{name:<{first if cells else 0}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths)).rstrip()
        for name, *cells in rows
    ]


def percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _percent_range(ends: Sequence[float | None], sign: str = "") -> str:
    return "..".join(percent(end, sign) for end in ends)


def draw(facts: dict[str, Any], folder: Path) -> None:
    """Draw the charts of the scores into a folder."""
    from . import _charts

    columns = facts["predictions"]
    union = np.array([column["class_iu"] for column in columns], float)  # None becomes NaN
    labels = np.flatnonzero(~np.isnan(union).all(0))
    classes = [facts["classes"][k] for k in labels]
    bars = {c["name"]: [c["class_iu"][k] for k in labels] for c in columns}
    _charts.save(_charts.class_bars(classes, bars), folder / "class_iu.png")
    curves = {c["name"]: c["trimap_mean_iu"] for c in columns}
    _charts.save(_charts.trimap_curve(facts["trimap_widths"], curves), folder / "trimap.png")
    for index, column in enumerate(columns):
        matrix = np.array(column["confusion"])[np.ix_(labels, labels)]
        name = "confusion" if len(columns) == 1 else f"confusion-{index + 1}"
        _charts.save(_charts.confusion(classes, matrix, column["name"]), folder / f"{name}.png")
