"""The images of the demo: a photograph, its labels before and after the CRF, and the changes.

Uses matplotlib's figure objects only, so neither its global state nor a display is needed.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from .._typing import Array
from .. import metrics
from ..samples import CLASS_NAMES, IGNORE, Sample, palette

Kind = tuple[str, tuple[float, float, float], Array]  # name, colour and mask [H, W] of a change

# Lengths of the layout, in pixels of the finished image, which is WIDTH wide.
WIDTH = 2000
_DPI = 200
_MARGIN = 30
_GAP = 24  # between panels
_HEADER = 74  # height of the title
_TITLE = 42  # height of the titles above each row of panels
_LEGEND = 84
_ZOOM = 2  # magnification of the close-ups
_TALLEST, _FLATTEST = 2.5, 0.2  # limits of a panel's height / width; other images leave part white

_FIXED = (0.10, 0.72, 0.30)
_BROKEN = (0.90, 0.16, 0.18)
_OTHER = (0.98, 0.76, 0.18)  # changed, and wrong both before and after, or without ground truth
_INK = "#222222"
_FAINT = "#666666"


def draw(sample: Sample, before: Array, after: Array) -> Figure:
    """Draw the photograph and its label maps; in a second row, the difference and close-ups.

    Parameters
    ----------
    sample : Sample
    before, after : integer ndarrays [H, W]
        Labels without and with the CRF.
    """
    maps = {"before": before, "after": after}
    if sample.truth is not None:
        maps = {"ground truth": sample.truth, **maps}
    columns = 1 + len(maps)
    height, width = before.shape
    panel_width = (WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    shape = min(max(height / width, _FLATTEST), _TALLEST)
    panel_height = panel_width * shape
    total = _HEADER + 2 * (_TITLE + panel_height) + _GAP + _LEGEND
    figure = Figure(figsize=(WIDTH / _DPI, total / _DPI), dpi=_DPI, facecolor="white")

    def panel(row: int, column: int) -> Axes:
        left = _MARGIN + column * (panel_width + _GAP)
        top = _HEADER + _TITLE + row * (panel_height + _TITLE + _GAP)
        bottom = 1 - (top + panel_height) / total
        axes = figure.add_axes((left / WIDTH, bottom, panel_width / WIDTH, panel_height / total))
        axes.set_axis_off()
        return axes

    changed = before != after
    window = _busiest_window(changed)
    photograph = panel(0, 0)
    photograph.imshow(sample.image)
    _frame(photograph, window)
    _title(photograph, "photograph")
    for column, (name, labels) in enumerate(maps.items(), start=1):
        whole, close = panel(0, column), panel(1, column)
        _labels(whole, sample.image, labels, line=0.4)
        _labels(close, sample.image, labels, line=0.6)
        _frame(whole, window)
        _title(whole, name, _mean_iu(sample, labels, name))
        top, left, rows, cols = window
        close.axis((left - 0.5, left + cols - 0.5, top + rows - 0.5, top - 0.5))
        _title(close, f"{name}, close up")

    difference = panel(1, 0)
    kinds = _kinds(sample, before, after)
    _difference(difference, sample.image, kinds)
    _frame(difference, window)
    _title(difference, "difference", f"{100 * changed.mean():.1f} % changed")

    if shape != height / width:
        for axes in figure.axes:
            _widen(axes, shape)
    figure.text(
        _MARGIN / WIDTH, 1 - 20 / total, _headline(sample, before, after),
        fontsize=11, weight="bold", color=_INK, va="top",
    )  # fmt: skip
    _legend(figure, [*maps.values()], kinds, (_LEGEND - 18) / 2 / total)
    return figure


def _headline(sample: Sample, before: Array, after: Array) -> str:
    if sample.truth is None:
        return f"{sample.name}: labels of the network and after the CRF"
    wrong, left = (
        1 - metrics.pixel_accuracy(_confusion(sample, labels)) for labels in (before, after)
    )
    return f"{sample.name}: {100 * wrong:.1f} % of pixels wrong, {100 * left:.1f} % after the CRF"


def _confusion(sample: Sample, labels: Array) -> Array:
    assert sample.truth is not None
    return metrics.confusion_matrix(sample.truth, labels, len(CLASS_NAMES), IGNORE)


def _mean_iu(sample: Sample, labels: Array, name: str) -> str:
    if sample.truth is None or name == "ground truth":
        return ""
    return f"mean IU {100 * metrics.mean_iu(_confusion(sample, labels)):.1f} %"


def _kinds(sample: Sample, before: Array, after: Array) -> list[Kind]:
    """Return the kinds of change: fixed, broken or neither; without ground truth, one kind."""
    changed = before != after
    if sample.truth is None:
        return [("changed", _OTHER, changed)]
    scored = sample.truth != IGNORE
    fixed = changed & scored & (after == sample.truth)
    broken = changed & scored & (before == sample.truth)
    other = changed & ~fixed & ~broken
    found = [("fixed", _FIXED, fixed), ("broken", _BROKEN, broken)]
    if other.any():
        found.append(("wrong either way", _OTHER, other))
    return found


def _busiest_window(changed: Array) -> tuple[int, int, int, int]:
    """Return top, left, rows and columns of the close-up with the most changed pixels."""
    height, width = changed.shape
    rows, cols = max(1, height // _ZOOM), max(1, width // _ZOOM)
    sums = np.pad(changed.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[rows:, cols:] - sums[:-rows, cols:] - sums[rows:, :-cols] + sums[:-rows, :-cols]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left), rows, cols


def _grey(image: Array) -> Array:
    """Return the luma of an RGB image as an RGB image of floats in 0..1."""
    luma = image @ np.array([0.299, 0.587, 0.114]) / 255
    return np.repeat(luma[..., None], 3, axis=2)


def _labels(axes: Axes, image: Array, labels: Array, line: float) -> None:
    """Draw the photograph with tinted and outlined objects on a pale grey background."""
    grey = _grey(image)
    tinted = 0.12 * image / 255 + 0.3 * grey + 0.58 * palette()[labels] / 255
    axes.imshow(np.where((labels > 0)[..., None], tinted, 0.25 + 0.7 * grey))
    for label in np.unique(labels[labels > 0]):
        inside = (labels == label).astype(float)
        if inside.min() < 1:  # a class that fills the image has no outline
            lines = axes.contour(inside, [0.5], colors="white", linewidths=line)
            lines.set_path_effects([Stroke(linewidth=2 * line, foreground="black"), Normal()])


def _difference(axes: Axes, image: Array, kinds: Sequence[Kind]) -> None:
    faded = 0.55 + 0.4 * _grey(image)
    for _, colour, mask in kinds:
        faded[mask] = colour
    axes.imshow(faded)


def _frame(axes: Axes, window: tuple[int, int, int, int]) -> None:
    """Draw a rectangle around the part that the close-ups show."""
    top, left, rows, cols = window
    box = Rectangle((left - 0.5, top - 0.5), cols, rows, fill=False, edgecolor="white", lw=0.7)
    box.set_path_effects([Stroke(linewidth=1.5, foreground="black"), Normal()])
    box.set_clip_on(False)  # it may touch the edge of the panel
    axes.add_patch(box)


def _widen(axes: Axes, shape: float) -> None:
    """Extend the limits on both sides of the shorter axis, to height / width = `shape`."""
    left, right, bottom, top = axes.axis()
    wide, tall = right - left, bottom - top
    more = max(tall / shape - wide, 0) / 2, max(wide * shape - tall, 0) / 2
    axes.axis((left - more[0], right + more[0], bottom + more[1], top - more[1]))


def _title(axes: Axes, name: str, note: str = "") -> None:
    axes.set_title(name, loc="left", fontsize=8.5, color=_INK, pad=4)
    axes.set_title(note, loc="right", fontsize=8, color=_FAINT, pad=4)


def _legend(figure: Figure, maps: Sequence[Array], kinds: Sequence[Kind], middle: float) -> None:
    """Draw the legend: classes that occur, then the kinds of change with their pixel counts."""
    occurring = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    colours = palette() / 255
    entries = [(CLASS_NAMES[k], colours[k]) for k in occurring if 0 < k < len(CLASS_NAMES)]
    entries += [(f"{name} ({mask.sum():,} px)", colour) for name, colour, mask in kinds]
    handles = [Patch(facecolor=c, edgecolor=_INK, lw=0.4, label=text) for text, c in entries]
    figure.legend(
        handles=handles, loc="center", bbox_to_anchor=(0.5, middle), ncols=len(handles),
        fontsize=8.5, frameon=False, handlelength=1.3, columnspacing=1.6, labelcolor=_INK,
    )  # fmt: skip
