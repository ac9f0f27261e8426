"""Charts of scores and of searches.

Uses matplotlib's figure objects only, so neither its global state nor a display is needed.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from .._typing import Array
from .. import files
from .._atomic import remove_leftovers_of


# Colours of the predictions, in their order; grey suits the first, the labels before the CRF.
_COLOURS = ("#9aa5b1", "#1f6fb2", "#d9822b", "#3f8f4f", "#8a4fa3", "#b23a48")
_INK = "#222222"
_DPI = 150
_LEGEND: Any = {"loc": "outside upper right", "frameon": False, "fontsize": 8}
_MAX_WITH_NUMBERS = 24  # a confusion matrix of more labels shows no numbers


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, under a temporary name until it is complete."""
    encoded = io.BytesIO()  # Pillow, which matplotlib uses, hides why a write failed
    figure.savefig(encoded, format="png", dpi="figure")
    remove_leftovers_of(path)
    with files.replaced(path) as partial:
        partial.write_bytes(encoded.getbuffer())


def class_bars(classes: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draw the IU of each class, a bar per prediction."""
    figure, [axes] = _figure(6.4, 0.9 + 0.16 * len(classes) * (1 + len(columns)))
    height = 0.8 / len(columns)
    for index, (name, values) in enumerate(columns.items()):
        places = np.arange(len(classes)) + (index - (len(columns) - 1) / 2) * height
        widths = [100 * (value or 0.0) for value in values]
        axes.barh(places, widths, height, label=name, color=_colour(index))
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlim=(0, 100), ylim=(len(classes) - 0.4, -0.6), xlabel="IU, %")
    if len(columns) > 1:
        figure.legend(ncols=len(columns), **_LEGEND)
    return figure


def trimap_curve(widths: Sequence[int], columns: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draw the mean IU against the width of the band along true borders."""
    figure, [axes] = _figure(6.4, 4.0)
    for index, (name, values) in enumerate(columns.items()):
        percent = 100 * np.array(values, float)  # None becomes NaN
        axes.plot(widths, percent, marker="o", ms=4, label=name, color=_colour(index))
    axes.set(xticks=widths, xlabel="pixels on each side of a true border", ylabel="mean IU, %")
    if len(columns) > 1:
        figure.legend(ncols=len(columns), **_LEGEND)
    return figure


def confusion(classes: Sequence[str], matrix: Array, name: str) -> Figure:
    """Draw a confusion matrix, in percent of the pixels of each true class."""
    side = 1.6 + 0.3 * len(classes)
    figure, [axes] = _figure(side + 0.6, side)
    percent = 100.0 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= _MAX_WITH_NUMBERS:
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", size=6,
                color="white" if value > 60 else _INK,
            )  # fmt: skip
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{name}: % of each true class", loc="left", size=9, color=_INK)
    return figure


def search(
    tried: Mapping[str, Sequence[float]], scores: Sequence[float],
    importances: Mapping[str, float], alone: float,
) -> Figure:  # fmt: skip
    """Draw the importance of each parameter, and the scores of a search over its values.

    Parameters
    ----------
    tried : mapping of str to sequence of float
        Values of each parameter, one per setting.
    scores : sequence of float
        One per setting.
    importances : mapping of str to float
        Share of each parameter, see `tuning.importances`; empty if too few settings are known.
    alone : float
        Score of the logits without a CRF.
    """
    figure, (first, *rest) = _figure(2.3 * (1 + len(tried)), 2.9, columns=1 + len(tried))
    names = list(tried)
    first.barh(names, [100 * importances.get(name, 0.0) for name in names], color=_colour(1))
    first.invert_yaxis()
    first.set_xlabel("importance, %" if importances else "importance: too few settings")
    percent = 100 * np.array(scores)
    best = int(percent.argmax())
    # The axis leaves out the worst settings, which would compress the scale.
    floor = min(100 * alone, float(np.median(percent)))
    top = max(100 * alone, float(percent[best]))
    margin = 0.08 * (top - floor) or 1.0
    for axes, (name, values) in zip(rest, tried.items(), strict=True):
        axes.scatter(values, percent, s=12, color=_colour(0))
        axes.scatter([values[best]], [percent[best]], s=40, color=_colour(2), label="best")
        axes.axhline(100 * alone, color=_INK, lw=0.8, ls="--", label="no CRF")
        axes.set(xscale="log", xlabel=name, ylim=(floor - margin, top + margin))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    rest[0].set_ylabel("score, %")
    figure.legend(*rest[0].get_legend_handles_labels(), ncols=2, **_LEGEND)
    return figure


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    every = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in every:
        axes.tick_params(labelsize=8, colors=_INK)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, every


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]
