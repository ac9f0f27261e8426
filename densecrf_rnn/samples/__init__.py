"""Sample images with class scores and, where known, their true labels.

The samples serve ``densecrf-rnn demo`` and the examples. Each one consists of a photograph, of the
scores that a small segmentation network gives it on a coarse grid and, except for ``chelsea``, of
a map of the true Pascal VOC classes. ``README.md`` in this folder names the origin and the terms
of every file.

Importing this module needs NumPy only; `load` decodes images with scikit-image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import checks
from ..upsampling import upsample as _upsample

__all__ = ["CLASS_NAMES", "IGNORE", "Sample", "load", "names", "palette", "upsample"]

# The 21 Pascal VOC classes, in the order of their labels.
CLASS_NAMES: tuple[str, ...] = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
    "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant",
    "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IGNORE = 255  # label of pixels that are excluded from all scores

_FOLDER = Path(__file__).parent
_INPUT_SIZE = 513  # side of the square network input that the coarse scores cover


@dataclass(frozen=True, eq=False)
class Sample:
    """An image, the class scores of its pixels and, where known, their true classes.

    Attributes
    ----------
    name : str
        Name under which `load` finds the sample.
    image : ndarray [H, W, 3] of uint8
        RGB image.
    logits : ndarray [21, H, W] of float32
        Class scores before the softmax.
    truth : ndarray [H, W] of uint8, or None
        Label of each pixel, where `IGNORE` marks unknown pixels; None if the truth is unknown.

    Examples
    --------
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), np.zeros((2, 4, 6), np.float32), None)
    >>> one.logits.shape
    (2, 4, 6)
    """

    name: str
    image: Array
    logits: Array
    truth: Array | None


def names() -> tuple[str, ...]:
    """Return the names of the samples, in alphabetical order.

    Examples
    --------
    >>> names()[0], len(names())
    ('2007_000033', 8)
    """
    return tuple(sorted(path.name[: -len(".image.png")] for path in _FOLDER.glob("*.image.png")))


def load(name: str) -> Sample:
    """Load a sample at the full resolution of its image.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    Sample
        The image, its scores and its true labels.

    Raises
    ------
    ValueError
        There is no sample of that name.
    ImportError
        scikit-image is not installed.

    Examples
    --------
    >>> sample = load("2007_000033")
    >>> sample.image.shape, sample.logits.shape, sample.truth.shape
    ((366, 500, 3), (21, 366, 500), (366, 500))
    """
    known = names()
    if name not in known:
        raise ValueError(f"there is no sample {name!r}; the samples are {', '.join(known)}")
    image = _read_png(_FOLDER / f"{name}.image.png")
    labels = _FOLDER / f"{name}.labels.png"
    with np.load(_FOLDER / f"{name}.logits.npz") as stored:
        steps = stored["q"].astype(np.float32) - np.float32(stored["zero_point"])
        coarse = steps * np.float32(stored["scale"])
    full = upsample(coarse, (_INPUT_SIZE, _INPUT_SIZE), crop=image.shape[:2])
    return Sample(name, image, full, _read_png(labels) if labels.exists() else None)


def upsample(scores: Array, size: Sequence[int], crop: Sequence[int] | None = None) -> Array:
    """Interpolate coarse scores bilinearly so that the corner pixels of both grids coincide.

    Parameters
    ----------
    scores : ndarray [labels, rows, columns] of float32
        Scores on the coarse grid.
    size : (height, width)
        Size of the fine grid.
    crop : (height, width), optional
        Compute only the top-left part of the fine grid; default all of it.

    Returns
    -------
    ndarray [labels, height, width] of float32
        Scores on the fine grid.

    Raises
    ------
    TypeError, ValueError
        See `densecrf_rnn.upsampling.upsample`; scores must be finite.

    Examples
    --------
    >>> upsample(np.array([[[0.0, 2.0]]], np.float32), (1, 3)).tolist()
    [[[0.0, 1.0, 2.0]]]
    """
    return _upsample(scores, size, align_corners=True, crop=crop)


def palette() -> Array:
    """Return the Pascal VOC colours of all labels.

    Returns
    -------
    ndarray [256, 3] of uint8
        RGB colours; row k belongs to label k.

    Notes
    -----
    The bits of a label are assigned in turn to red, green and blue; each channel is filled from
    its highest bit downwards.

    Examples
    --------
    >>> palette()[[0, 1, 15]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128]]
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    labels = np.arange(256)
    for bit in range(8):
        value = ((labels >> bit) & 1) << (7 - bit // 3)
        colours[:, bit % 3] |= value.astype(np.uint8)
    return colours


def _read_png(path: Path) -> Array:
    """Decode an image with scikit-image, which only this function needs."""
    io = checks.package("skimage.io", "reading the sample images", "'densecrf-rnn[cli]'")
    return np.ascontiguousarray(io.imread(path), dtype=np.uint8)
