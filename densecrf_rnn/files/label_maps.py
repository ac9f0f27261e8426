"""Read label maps, masks and the colours of a palette."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .._typing import Array
from . import formats
from .exif import Exif, upright
from .label_values import LabelValues
from .reading import read_valid
from .windows import Source, View, valid

# Patterns in what is said of label maps, and what is said of a mask in their place.
_OF_MASKS = (
    (r"or name the colour of each label: .*", "so save it in grey, with 0 for pixels to exclude"),
    (r"not labels; pass kind='probabilities'", "not a mask; save where they exceed a threshold"),
    (r"\. For probabilities of the foreground, pass kind='probabilities'", ""),
    (r"read as a label map", "read as a mask"),
    (r"\ba label map(?! or|, or)", "a mask"),
)


def read_labels(
    path: Path | str,
    *,
    key: str | None = None,
    values: LabelValues | None = None,
    exif: Exif = "auto",
    size: Sequence[int] | None = None,
    nodata: int | None = None,
) -> Array:
    """Read a label map: palette indices, grey values, or an array of integers.

    Parameters
    ----------
    path : path
        An image file, a NIfTI volume, or an array file. Colours whose channels are equal count as
        grey.
    key : str, optional
        Name of the array in a file that holds several.
    values : LabelValues, optional
        Which values or colours stand for the labels; by default, values are the labels.
    exif, size
        Orientation of an image file, as in `read_image`.
    nodata : int, optional
        Label of the pixels without data of a GeoTIFF (see `read_valid`), whose values are then
        ignored; by default they are read like all others.

    Returns
    -------
    ndarray [H, W] or [D, H, W] of integers
        Integers that are stored as floating point, as by some NIfTI writers, are converted.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`; also for an image with colours but no palette and no `values`, for
        fractional values, and for values or colours of no label.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.arange(6.0).reshape(2, 3))
    ...     read_labels(f"{folder}/a.npy").tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    path = Path(path)
    labels = _stored_labels(path, key, values, nodata)
    return upright(path, labels, exif, size) if formats.kind(path) == "picture" else labels


def _stored_labels(
    path: Path, key: str | None, values: LabelValues | None, nodata: int | None
) -> Array:
    has_data = None if nodata is None else read_valid(path, "labels", exif="ignore")
    inside = slice(None) if has_data is None else has_data
    labels = pixels = None
    if values is not None and values.colours is not None and formats.can(path, "colours"):
        pixels = formats.read(path, "colours")
        if pixels is not None:
            labels = values.labels_of_colours(path, pixels[inside])
    if labels is None:
        stored: Array = formats.read(path, "labels", key)
        _check_map(path, stored)
        labels = integers(path, stored[inside])
        labels = labels if values is None else values.labels(path, labels)
    if has_data is None or nodata is None:
        return labels
    whole = np.full(has_data.shape, nodata, np.result_type(labels, np.min_scalar_type(nodata)))
    whole[has_data] = labels
    return whole


def _check_map(path: Path, labels: Array) -> None:
    """Raise ValueError if an array has not the axes of a label map."""
    if labels.ndim not in (2, 3):
        raise ValueError(
            f"{path}: of shape {labels.shape}; a label map is [H, W] or [D, H, W], without channels"
        )
    if labels.size == 0:
        raise ValueError(f"{path}: of shape {labels.shape}; a label map holds at least one pixel")


def integers(path: Path, labels: Array) -> Array:
    """Return labels as integers; raise a ValueError that names the file if they are none."""
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            integers = labels.astype(np.int32)
        if not np.isfinite(labels).all():
            raise ValueError(f"{path}: holds NaN or infinity; a label map holds integers")
        if not np.array_equal(integers, labels):
            raise ValueError(f"{path}: holds fractions; a label map holds integers")
        return integers
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: of dtype {labels.dtype}; a label map holds integers")
    return labels


def read_mask(
    path: Path | str,
    *,
    key: str | None = None,
    exif: Exif = "auto",
    size: Sequence[int] | None = None,
) -> Array:
    """Read a mask, bool [H, W] or [D, H, W]: True where a label map or an array is not 0.

    Parameters
    ----------
    path, key, exif, size
        As in `read_labels`.

    Returns
    -------
    ndarray [H, W] or [D, H, W] of bool
        Pixels without data of a GeoTIFF are False.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_labels`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.array([[0, 1, 255]], np.uint8))
    ...     read_mask(f"{folder}/a.npy").tolist()
    [[False, True, True]]
    """
    with _said_of_masks():
        return read_labels(path, key=key, exif=exif, size=size, nodata=0) != 0


def mask_in_parts(source: Source) -> View:
    """Return the mask of an open file, bool [*S], whose parts are as `read_mask` reads them."""
    with _said_of_masks():
        labels = source.labels()
    has_data = valid(labels)

    def part(where: tuple[slice, ...]) -> Array:
        values = np.asarray(labels[where])
        mask = np.ones(values.shape, bool) if has_data is None else np.array(has_data[where], bool)
        with _said_of_masks():
            mask[mask] = integers(source.path, values[mask]) != 0
        return mask

    return View(labels.shape, bool, part)


@contextlib.contextmanager
def _said_of_masks() -> Iterator[None]:
    """Let a ValueError about a label map speak of a mask."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for pattern, words in _OF_MASKS:
            message = re.sub(pattern, words, message)
        raise ValueError(message) from error


def read_palette(path: Path | str) -> Array | None:
    """Return the colours of a PNG with a palette, uint8 [256, 3]; None for any other file.

    Parameters
    ----------
    path : path

    Returns
    -------
    ndarray [256, 3] of uint8, or None
        RGB; colours that the file does not define are black.

    Raises
    ------
    OSError, ValueError
        The file does not exist or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import write_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_labels(f"{folder}/a.png", np.array([[0, 1]]))  # Pascal VOC's colours
    ...     read_palette(f"{folder}/a.png")[:2].tolist()
    [[0, 0, 0], [128, 0, 0]]
    """
    path = Path(path)
    return formats.read(path, "palette") if formats.can(path, "palette") else None
