"""Sample pictures with class scores and, where known, their true labels.

The samples serve ``densecrf-rnn demo`` and the examples.  Each one consists of a photograph, of the
scores that a small segmentation network gives it on a coarse grid and, except for ``chelsea``, of
a map of the true Pascal VOC classes.  ``README.md`` in this folder names the origin and the
terms of every file.

Importing this module needs NumPy only; :func:`load` decodes pictures with scikit-image.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASS_NAMES", "IGNORE", "Sample", "load", "names", "palette", "upsample"]

CLASS_NAMES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Names of the 21 Pascal VOC classes, in the order of their labels."""

IGNORE = 255
"""The label of pixels that are left out of every score."""

_FOLDER = Path(__file__).parent
_INPUT_SIZE = 513  # side of the square input that the coarse scores cover


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, the class scores of its pixels and, where known, their true classes.

    Attributes
    ----------
    name
        Name under which :func:`load` finds the sample.
    image
        RGB picture, uint8 ``[H, W, 3]``.
    logits
        Class scores before the softmax, float32 ``[21, H, W]``.
    truth
        Label of every pixel, uint8 ``[H, W]``, where 255 means ignore; None where there is none.
    """

    name: str
    image: NDArray[np.uint8]
    logits: NDArray[np.float32]
    truth: NDArray[np.uint8] | None


def names() -> tuple[str, ...]:
    """Return the names of the samples, in alphabetical order."""
    return tuple(sorted(path.name[: -len(".image.png")] for path in _FOLDER.glob("*.image.png")))


def load(name: str) -> Sample:
    """Load a sample at the full resolution of its picture.

    Parameters
    ----------
    name
        One of :func:`names`.

    Returns
    -------
    Sample
        The picture, its scores and its true labels.

    Raises
    ------
    ValueError
        If there is no sample of that name.
    ImportError
        If scikit-image is not installed.
    """
    known = names()
    if name not in known:
        raise ValueError(f"there is no sample {name!r}; the samples are {', '.join(known)}")
    image = _read_png(_FOLDER / f"{name}.image.png")
    labels = _FOLDER / f"{name}.labels.png"
    with np.load(_FOLDER / f"{name}.logits.npz") as stored:
        steps = stored["q"].astype(np.float32) - np.float32(stored["zero_point"])
        coarse = steps * np.float32(stored["scale"])
    height, width = image.shape[:2]
    full = upsample(coarse, (_INPUT_SIZE, _INPUT_SIZE), crop=(height, width))
    return Sample(name, image, full, _read_png(labels) if labels.exists() else None)


def upsample(
    scores: NDArray[np.float32],
    size: tuple[int, int],
    crop: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Interpolate maps bilinearly so that the corners of both grids coincide.

    Parameters
    ----------
    scores
        Maps on the coarse grid, ``[labels, rows, columns]``.
    size
        Height and width of the fine grid, whose corner pixels take the values of the corners of
        the coarse grid.
    crop
        Height and width of the top left part of the fine grid to compute; by default all of it.

    Returns
    -------
    ndarray
        Maps on the fine grid, float32 ``[labels, height, width]``.
    """
    from .. import upsampling

    return upsampling.upsample(scores, size, align_corners=True, crop=crop)


def palette() -> NDArray[np.uint8]:
    """Return the Pascal VOC colours of all labels.

    Bits 0, 1 and 2 of a label, then bits 3, 4 and 5 and so on, are dealt out to red, green and
    blue, each channel being filled from its highest bit downwards.

    Returns
    -------
    ndarray
        RGB colours, uint8 ``[256, 3]``, in which row ``k`` belongs to label ``k``.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    labels = np.arange(256)
    for bit in range(8):
        value = ((labels >> bit) & 1) << (7 - bit // 3)
        colours[:, bit % 3] |= value.astype(np.uint8)
    return colours


def _read_png(path: Path) -> NDArray[np.uint8]:
    """Decode a picture with scikit-image, which only this function needs."""
    try:
        io = importlib.import_module("skimage.io")
    except ImportError as error:
        raise ImportError(
            "reading the sample pictures needs scikit-image; pip install 'densecrf-rnn[cli]'"
        ) from error
    return np.ascontiguousarray(io.imread(path), dtype=np.uint8)
