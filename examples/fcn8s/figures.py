"""Draw the tables: points with intervals, curves, and rows of images."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from densecrf_rnn.samples import palette

CAMVID_COLOURS = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
                  (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
                  (0, 128, 192))


def dots(path: Path, rows, xlabel: str, zero: bool = False) -> None:
    """Draw a point with an interval for each row, and the published value if known.

    Parameters
    ----------
    rows : list of (name, value, half width, published or None)
    zero : bool
        Mark 0, for differences.
    """
    figure = Figure(figsize=(7, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, value, half, published) in enumerate(rows):
        axes.errorbar(value, place, xerr=0 if np.isnan(half) else half, fmt="o", color="C0",
                      capsize=3, label="here" if place == 0 else None)
        if published is not None:
            first = all(row[3] is None for row in rows[:place])
            axes.plot(published, place, "x", color="C1", label="paper" if first else None)
    if zero:
        axes.axvline(0, color="0.7", linewidth=1)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper right", ncols=2)
    figure.savefig(path, dpi=150)


def curves(path: Path, x, series, xlabel: str, ylabel: str, marker: str = "o") -> None:
    """Draw lines with a band each.

    Parameters
    ----------
    series : dict of name -> (values, half widths)
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, (values, halves) in series.items():
        values, halves = np.asarray(values), np.nan_to_num(np.asarray(halves))
        line, = axes.plot(x, values, f"{marker}-", markersize=3, label=name)
        axes.fill_between(x, values - halves, values + halves, alpha=0.2, color=line.get_color())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def scatter(path: Path, points, xlabel: str, ylabel: str) -> None:
    """Draw points, in a colour for each name.

    Parameters
    ----------
    points : dict of name -> list of (x, y)
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, pairs in points.items():
        axes.plot(*zip(*pairs, strict=True), "o", markersize=4, label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def palette_of(count: int) -> np.ndarray:
    """Return the colours of labels, uint8 [256, 3]: CamVid's for its 11 classes, else VOC's."""
    table = palette().copy()
    if count == len(CAMVID_COLOURS):
        table[:count] = CAMVID_COLOURS
    return table


def colours(labels: np.ndarray, count: int) -> np.ndarray:
    """Return a label map as an RGB image; ignored pixels are white."""
    table = palette_of(count)
    table[255] = 255
    return table[labels]


def grid(path: Path, titles, rows) -> None:
    """Draw images in rows below titles, as in Figure 3 of the paper."""
    height = sum(row[0].shape[0] / row[0].shape[1] for row in rows)
    figure = Figure(figsize=(2.2 * len(titles), 2.2 * height + 0.3), layout="constrained")
    for axes, row in zip(figure.subplots(len(rows), len(titles), squeeze=False), rows,
                         strict=True):
        for place, picture in zip(axes, row, strict=True):
            place.imshow(picture)
            place.axis("off")
    for place, title in zip(figure.axes, titles, strict=False):
        place.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)
