"""One image from several files, such as the modalities of a scan, with channels in each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._typing import Array
from ..checks.wording import size as shown
from .alignment import aligned
from .reading import read_image


def read_modalities(
    paths: Sequence[Path | str], *, key: str | None = None, axes: int | None = None
) -> Array:
    """Read several files as one image; its channels are those of each file, in the given order.

    Parameters
    ----------
    paths : sequence of paths
        Files of any format that `read_image` reads, of one size. Those that say where their pixels
        are (NIfTI, GeoTIFF) are turned into the directions of the first.
    key : str, optional
        Name of the array in files that hold several.
    axes : {2, 3}, optional
        Number of spatial axes, as in `read_image`.

    Returns
    -------
    ndarray [H, W, C] or [D, H, W, C]
        In a dtype that holds the values of all files.

    Raises
    ------
    OSError, ImportError
        As `read_image`.
    ValueError
        As `read_image`; or the files differ in size or in the place of their pixels.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [f"{folder}/case_{number}.npy" for number in ("0000", "0001")]
    ...     for path in paths:
    ...         np.save(path, np.zeros((8, 9), np.uint8))
    ...     read_modalities(paths).shape
    (8, 9, 2)
    """
    return stacked(paths, [read_image(path, key=key, axes=axes) for path in paths], key)


def stacked(paths: Sequence[Path | str], images: Sequence[Array], key: str | None) -> Array:
    """Join the channels of images [*S, C], which were read from `paths` with `key`."""
    if len(images) == 1:
        return images[0]
    first, *others = paths
    joined = [images[0]]
    for path, image in zip(others, images[1:], strict=True):
        if image.ndim == images[0].ndim:
            image = aligned(image, path, first, key=key, like_key=key, channels_last=True)
        if image.shape[:-1] != images[0].shape[:-1]:
            raise ValueError(
                f"{path}: image is {shown(image.shape[:-1])} but {first} is "
                f"{shown(images[0].shape[:-1])}; files whose channels are joined must have one size"
            )
        joined.append(image)
    return np.concatenate(joined, axis=-1)
