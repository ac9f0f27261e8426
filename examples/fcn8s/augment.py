"""Random changes of a training picture: mirrored, scaled, cropped.

Each takes a random generator, so that sample number n of a run is the same whoever reads it, and
when: that is what lets a run go on after an interruption as if there had been none.
"""

import numpy as np
from PIL import Image

from .datasets import IGNORE

GREY = 114  # of what lies outside the picture


def mirror(image, labels):
    """Left and right exchanged."""
    return image[:, ::-1], labels[:, ::-1]


def rescale(image, labels, factor):
    """Enlarged or made smaller; labels by the nearest pixel, for they cannot be mixed."""
    size = tuple(max(1, round(n * factor)) for n in image.shape[1::-1])  # columns, rows
    return (np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.BILINEAR)),
            np.asarray(Image.fromarray(np.ascontiguousarray(labels)).resize(size, Image.NEAREST)))


def window(shape, size, rng):
    """First row and column of a random window of `size`, within `shape` where it fits."""
    return tuple(int(rng.integers(0, max(0, n - m) + 1)) for n, m in zip(shape, size, strict=True))


def crop(image, labels, size, rng):
    """A random window of `size`; what lies outside is grey and is not scored."""
    rows, columns = size
    row, column = window(labels.shape, size, rng)
    image = image[row : row + rows, column : column + columns]
    labels = labels[row : row + rows, column : column + columns]
    below, right = rows - labels.shape[0], columns - labels.shape[1]
    return (np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=GREY),
            np.pad(labels, ((0, below), (0, right)), constant_values=IGNORE))


def augment(image, labels, rng, *, flip=False, scales=(1.0, 1.0), size=None):
    """One of the variants of a picture.

    Parameters
    ----------
    image : uint8 [H, W, 3]
    labels : uint8 [H, W]
    rng : numpy Generator
    flip : bool
        Mirror every other picture.
    scales : (float, float)
        The factor is drawn between these, evenly in its logarithm.
    size : (rows, columns), optional
        Crop to this.
    """
    if flip and rng.random() < 0.5:
        image, labels = mirror(image, labels)
    if tuple(scales) != (1.0, 1.0):
        low, high = np.log(scales)
        image, labels = rescale(image, labels, float(np.exp(rng.uniform(low, high))))
    if size is not None:
        image, labels = crop(image, labels, size, rng)
    return image, labels
