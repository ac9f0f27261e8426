"""Augment training images: mirror, scale and crop at random.

Each function takes a random generator, so sample n of a run is the same in any process and at any
time; that is why a run that was interrupted continues with identical results.
"""

import numpy as np
from PIL import Image

from .pictures import IGNORE

GREY = 114  # value of pixels outside the image


def mirror(image, labels):
    """Mirror image and labels left to right."""
    return image[:, ::-1], labels[:, ::-1]


def rescale(image, labels, factor):
    """Resize by a factor: the image bilinearly, labels by nearest neighbour."""
    size = tuple(max(1, round(n * factor)) for n in image.shape[1::-1])  # columns, rows
    return (np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.BILINEAR)),
            np.asarray(Image.fromarray(np.ascontiguousarray(labels)).resize(size, Image.NEAREST)))


def window(shape, size, rng):
    """Return the first row and column of a random window of `size`, inside `shape` if it fits."""
    return tuple(int(rng.integers(0, max(0, n - m) + 1)) for n, m in zip(shape, size, strict=True))


def crop(image, labels, size, rng):
    """Cut out a random window of `size`; pixels outside the image are grey and ignored."""
    rows, columns = size
    row, column = window(labels.shape, size, rng)
    image = image[row : row + rows, column : column + columns]
    labels = labels[row : row + rows, column : column + columns]
    below, right = rows - labels.shape[0], columns - labels.shape[1]
    return (np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=GREY),
            np.pad(labels, ((0, below), (0, right)), constant_values=IGNORE))


def augment(image, labels, rng, *, flip=False, scales=(1.0, 1.0), size=None):
    """Return a random variant of an image and its labels.

    Parameters
    ----------
    image : uint8 [H, W, 3]
    labels : uint8 [H, W]
    rng : numpy Generator
    flip : bool
        Mirror with probability 1/2.
    scales : (float, float)
        Range of the resize factor, drawn uniformly in its logarithm.
    size : (rows, columns), optional
        Size of the random crop.
    """
    if flip and rng.random() < 0.5:
        image, labels = mirror(image, labels)
    if tuple(scales) != (1.0, 1.0):
        low, high = np.log(scales)
        image, labels = rescale(image, labels, float(np.exp(rng.uniform(low, high))))
    if size is not None:
        image, labels = crop(image, labels, size, rng)
    return image, labels
