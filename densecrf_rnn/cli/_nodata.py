"""Pixels without data in GeoTIFFs: not refined, not scored, and without a label in the output."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import files
from ..files import formats
from ..postprocess import remove_small

# Label of pixels without data in label maps that the commands read; no file holds this value.
NO_DATA = -(2**31)


def of_logits(path: Path, of_labels: bool, args: argparse.Namespace) -> Array | None:
    """Return where the logits have data, bool [*S]; None if that is everywhere.

    Raises
    ------
    ValueError
        Coarse logits lack data, so they cannot be enlarged.
    """
    valid = files.read_valid(path, "labels" if of_labels else "scores", exif=args.exif)
    if valid is None or args.upsample is None:
        return valid
    if not valid.all():
        raise ValueError(
            f"{path}: has pixels without data, so --upsample cannot enlarge it; save scores of the "
            "image's size"
        )
    return None


def of_images(
    paths: Sequence[Path], size: tuple[int, ...], args: argparse.Namespace, fit: Any
) -> Array | None:  # fmt: skip
    """Return where all images of `size` have data, bool [*S]; None if that is everywhere.

    `fit` are the arguments by which `files.read_image` turns a picture.
    """
    found = [
        files.read_valid(path, "image", axes=len(size), bands=args.bands, **fit) for path in paths
    ]
    return both(*found)


def both(*masks: Array | None) -> Array | None:
    """Return the conjunction of the masks that are not None; None if all are None.

    Of masks of different sizes it returns the first, so that the check which compares the files'
    sizes fails: without a mask it would not.
    """
    given = [mask for mask in masks if mask is not None]
    if not given or len({mask.shape for mask in given}) > 1:
        return given[0] if given else None
    return np.logical_and.reduce(given)


def scored(
    truth: Array, predictions: list[Array], ignore: int
) -> tuple[Array, list[Array], int]:
    """Ignore pixels of the truth where a prediction has no data, in all columns alike.

    Return the truth, the predictions with 0 for NO_DATA, and the number of pixels that would be
    scored otherwise.
    """
    lacking = np.zeros(truth.shape, bool)
    for prediction in predictions:
        if prediction.shape == truth.shape:  # else the comparison raises an error
            lacking |= prediction == NO_DATA
    if not lacking.any():
        return truth, predictions, 0
    count = int((lacking & (truth != ignore)).sum())
    filled = [np.where(one == NO_DATA, 0, one) for one in predictions]
    return np.where(lacking, ignore, truth), filled, count


def warn_of_label(path: Path, largest: int, lacking: Array | None = None) -> None:
    """Warn if the nodata value of a label map is probably a label, such as a background of 0.

    `largest` is the largest label that occurs, or may occur; `lacking` is where there are no data.
    """
    if not formats.can(path, "valid") or (lacking is not None and not lacking.any()):
        return
    value = formats.read(path, "nodata")
    if value is None or not 0 <= value < largest:
        return
    share = "pixels" if lacking is None else f"{100 * lacking.mean():.3g} % of the pixels"
    warnings.warn(
        f"{path.name}: {share} of the value {value:g} are left out, because the file marks it as "
        f"nodata; if {value:g} is a label, remove the mark: gdal_edit.py -unsetnodata {path.name}",
        stacklevel=2,
    )


def predicted(prediction: Array, ignore: int | None, labels: int | None) -> Array:
    """Return a label map with NO_DATA for the value of --ignore, if it marks pixels without data.

    So it does if it is the maximum of the type, as `refine` writes it into files that cannot say
    so, is no label, and the map has labels other than 0; else it may be a foreground of 255.
    """
    if ignore is None or prediction.dtype.kind != "u" or (labels or 0) > ignore:
        return prediction
    lacking = prediction == ignore
    if ignore != np.iinfo(prediction.dtype).max or not (prediction[~lacking] > 0).any():
        return prediction
    return np.where(lacking, NO_DATA, prediction.astype(np.int64))


def cleaned(labels: Array, pixels: int, seen: Array | None) -> Array:
    """Remove regions of fewer than `pixels` pixels; those outside the mask `seen` stay apart."""
    if seen is None:
        return remove_small(labels, pixels)
    outside = int(labels.max()) + 1
    found = remove_small(np.where(seen, labels, outside), pixels)
    return np.where(found == outside, labels, found).astype(labels.dtype)
