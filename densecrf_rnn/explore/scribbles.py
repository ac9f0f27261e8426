"""Strokes on an image become unaries: interactive segmentation without any network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._typing import Array
from .. import checks, unaries
from .scenes import Scene


UNKNOWN = 255  # pixels without a stroke
CONFIDENCE = 0.95  # probability that the label of a stroke is right


@dataclass(frozen=True)
class Stroke:
    """A line of one label, through points (x, y) in pixels."""

    label: int
    width: int
    points: tuple[tuple[float, float], ...]


def drawn(strokes: Sequence[Stroke], size: tuple[int, int]) -> Array:
    """Return the label map [H, W] of strokes, later ones above; `UNKNOWN` elsewhere."""
    image_module = checks.package("PIL.Image", "scribbles", "'densecrf-rnn[explore]'")
    draw_module = checks.package("PIL.ImageDraw", "scribbles", "'densecrf-rnn[explore]'")
    canvas = image_module.new("L", (size[1], size[0]), UNKNOWN)
    pen = draw_module.Draw(canvas)
    for stroke in strokes:
        if len(stroke.points) > 1:
            pen.line(list(stroke.points), fill=stroke.label, width=stroke.width, joint="curve")
        radius = stroke.width / 2
        for x, y in (stroke.points[0], stroke.points[-1]):  # round ends, and single clicks
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=stroke.label)
    return np.array(canvas)


def scene(name: str, image: Array, strokes: Sequence[Stroke], labels: int) -> Scene:
    """Return a scene whose logits know the labels of strokes alone.

    Parameters
    ----------
    image : ndarray [H, W, 3] of uint8
    labels : int, at least 2
        Number of labels; those of the strokes are below it.
    """
    of_strokes = drawn(strokes, image.shape[:2])
    logits = unaries.logits_from_labels(of_strokes, labels, CONFIDENCE, unsure=UNKNOWN)
    return Scene(name, image, logits, None, image)
