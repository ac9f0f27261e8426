"""The report of `evaluate`: scores from confusion matrices, as plain values, a table and charts."""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ._counting import Counts

LEVEL = 0.95  # of the intervals


def facts_of(
    counts: Counts,
    names: Sequence[str],
    classes: Sequence[str],
    over: Sequence[int] | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Compute all scores, as values that JSON can hold; NaN becomes None."""
    mean_iu = partial(metrics.mean_iu, over=over)
    interval = partial(
        metrics.bootstrap_interval, resamples=args.resamples, level=LEVEL, seed=args.seed
    )
    total = counts.confusions.sum(0, dtype=np.int64)  # [predictions, labels, labels]
    columns = []
    for index, name in enumerate(names):
        column = {
            "name": name,
            "mean_iu": _json(mean_iu(total[index])),
            "mean_iu_interval": _json(interval(counts.confusions[:, index], mean_iu)),
            "class_iu": _json(metrics.class_iu(total[index])),
            "pixel_accuracy": _json(metrics.pixel_accuracy(total[index])),
            "mean_accuracy": _json(metrics.mean_accuracy(total[index])),
            "frequency_weighted_iu": _json(metrics.frequency_weighted_iu(total[index])),
            "trimap_mean_iu": _json([mean_iu(band) for band in counts.bands[index]]),
            "confusion": total[index].tolist(),
        }
        if index > 0:
            two = counts.confusions[:, [0, index]]
            column["gain"] = _json(mean_iu(total[index]) - mean_iu(total[0]))
            column["gain_interval"] = _json(
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


def _json(value: Any) -> Any:
    """Convert arrays to lists of float, with None for NaN."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_json(one) for one in value]
    return None if math.isnan(value) else float(value)


def table(facts: dict[str, Any], over: Sequence[int] | None) -> str:
    """Return the scores as text, in percent."""
    columns = facts["predictions"]
    confusion = np.array([column["confusion"] for column in columns])
    # Labels in the truth, and labels that are only predicted, which have an IU of 0.
    shown = np.flatnonzero((confusion.sum(1) + confusion.sum(2)).any(0))
    rows: list[tuple[str, list[str]]] = [
        (facts["classes"][label], [_percent(c["class_iu"][label]) for c in columns])
        for label in shown
    ]
    rows.append(("", []))
    title = "mean IU" if over is None else f"mean IU over {len(set(over))} labels"
    rows.append((title, [_percent(c["mean_iu"]) for c in columns]))
    percent = f"{100 * facts['interval']['level']:g} %"
    rows.append((f"  {percent} interval", [_percent_range(c["mean_iu_interval"]) for c in columns]))
    if len(columns) > 1:
        gains = [_percent(c["gain"], sign="+") for c in columns[1:]]
        rows.append((f"  gain over {columns[0]['name']}", ["", *gains]))
        spread = [_percent_range(c["gain_interval"], sign="+") for c in columns[1:]]
        rows.append((f"  {percent} interval", ["", *spread]))
    for name in ("pixel_accuracy", "mean_accuracy", "frequency_weighted_iu"):
        words = name.replace("_iu", " IU").replace("y_w", "y-w").replace("_", " ")
        rows.append((words, [_percent(c[name]) for c in columns]))
    rows += [("", []), ("mean IU within N pixels of a true border, N =", [])]
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
            f"{facts['truth_without_prediction']} label maps of the truth have no prediction and "
            "are not scored"
        )
    lines += ["", f"{'IU, %':<{first}}" + _cells([c["name"] for c in columns], widths)]
    lines += [
        (f"{name:<{first}}" + _cells(cells, widths)).rstrip() if cells else name
        for name, cells in rows
    ]
    absent = [facts["classes"][label] for label in over or () if not confusion[0, label].any()]
    if absent:
        lines += ["", f"Not in the truth, so excluded from the mean: {', '.join(absent)}."]
    if facts["images"] == 1:
        lines += ["", "Intervals resample the images: with one image they have no width."]
    return "\n".join(lines)


def _cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _percent_range(ends: Sequence[float | None], sign: str = "") -> str:
    return "..".join(_percent(end, sign) for end in ends)


def draw(facts: dict[str, Any], folder: Path) -> None:
    """Draw the charts of the scores into a folder."""
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
    print(f"\nCharts: {folder}/*.png")
