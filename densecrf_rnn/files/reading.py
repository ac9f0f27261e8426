"""Logits, images, label maps and masks from files of any known kind."""

from pathlib import Path
from typing import Literal

import numpy as np

from .._typing import Array
from .. import unaries
from . import halves, nifti, pictures
from .arrays import names_of_maps, read_array
from .pairs import PICTURES, VOLUMES, extension
from .pictures import read_palette

__all__ = ["read_image", "read_labels", "read_logits", "read_mask", "read_palette", "read_spacing"]

Kind = Literal["logits", "probabilities"]


def read_logits(
    path: Path | str,
    *,
    key: str | None = None,
    kind: Kind = "logits",
    labels_last: bool = False,
    axes: int | None = None,
) -> Array:
    """Logits, or probabilities as their logarithm, ready for `refine`.

    Parameters
    ----------
    path : path
        .npy, .npz, .pt, .pth, .safetensors, .h5, .hdf5 or .zarr of shape [L, H, W] or
        [L, D, H, W], or a batch of one of either; four axes of which the first is 1 are a batch
        [1, L, H, W]. NIfTI [x, y, z, label]; or a TIFF with a page per label.
    key : str, optional
        Name of the array in a file that holds several.
    kind : {"logits", "probabilities"}
        What the numbers are: logits, floating point; or probabilities, floating point in 0..1 or
        8- and 16-bit integers of which 255 and 65535 stand for 1.
    labels_last : bool
        The arrays are [H, W, L] or [D, H, W, L], as TensorFlow saves them.
    axes : {2, 3}, optional
        Spatial axes of an array file: 3 tells one logit per voxel, [1, D, H, W], from a batch.

    Returns
    -------
    ndarray [L, H, W] or [L, D, H, W] of float32
        Other precisions are rounded to float32.

    Raises
    ------
    OSError
        The file is not there or may not be read.
    ImportError
        The package that reads such files is not installed.
    ValueError
        The file is damaged, holds pickled objects, several arrays and no `key`, no such numbers, or
        maps of other labels than 0..L-1 (an array "classes" of `write_marginals`).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.zeros((3, 8, 9), np.float16))
    ...     read_logits(f"{folder}/a.npy").dtype.name
    'float32'
    """
    path, names = Path(path), None
    if extension(path) in VOLUMES:
        array = nifti.read_volume(path)
        array = array[None] if array.ndim == 3 else array
    elif extension(path) in PICTURES:
        array = pictures.read_maps(path)
    else:
        array = read_array(path, key)
        if labels_last and array.ndim >= 3:
            array = np.moveaxis(array, -1, 1 if _is_batch(array, axes) else 0)
        if _is_batch(array, axes):
            array = array[0]
        names = names_of_maps(path, array) if array.ndim in (3, 4) else None
    if array.ndim not in (3, 4):
        wanted = "[H, W, L] or [D, H, W, L]" if labels_last else "[L, H, W] or [L, D, H, W]"
        raise ValueError(f"{path}: {kind} of shape {array.shape}; they must be {wanted}")
    if names is not None and not np.array_equal(names, np.arange(len(array))):
        raise ValueError(
            f"{path}: its maps are those of the labels {', '.join(map(str, names[:8]))}"
            f"{', ...' if len(names) > 8 else ''} (array 'classes'), which would be taken for "
            f"0..{len(names) - 1}; refine the logits that they were made from with --classes, or "
            "save them without 'classes'"
        )
    try:
        if kind == "probabilities":
            return unaries.logits_from_probabilities(array)
        if array.dtype.kind != "f":
            raise TypeError(
                f"logits are {array.dtype}; they must be floating point (scores stored as "
                "integers: times their scale first; probabilities and label maps: say so)"
            )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error
    if array.dtype == np.float16:
        return halves.widened(array)
    with np.errstate(over="ignore"):  # an infinity that float32 makes is refused as one
        return np.ascontiguousarray(array, dtype=np.float32)


def _is_batch(array: Array, axes: int | None) -> bool:
    """Whether the first axis is that of a batch of one."""
    sizes = (4, 5) if axes is None else (axes + 2,)
    return array.ndim in sizes and array.shape[0] == 1


def read_image(path: Path | str, *, key: str | None = None, axes: int | None = None) -> Array:
    """An image with its channels last, in its own units.

    Parameters
    ----------
    path : path
        A picture (palettes are resolved, alpha is left out), a NIfTI volume, or an array file.
    key : str, optional
        Name of the array in a file that holds several.
    axes : {2, 3}, optional
        Spatial axes of an array file: tells an image [H, W, C] from a volume [D, H, W] without a
        channel axis. Default: three axes are [H, W, C].

    Returns
    -------
    ndarray [H, W, C] or [D, H, W, C]
        uint8, or the dtype of the file.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/depth.npy", np.zeros((8, 9), np.uint16))
    ...     read_image(f"{folder}/depth.npy").shape
    (8, 9, 1)
    """
    path = Path(path)
    if extension(path) in VOLUMES:
        volume = nifti.read_volume(path)
        return volume[..., None] if volume.ndim == 3 else np.moveaxis(volume, 0, -1)
    if extension(path) in PICTURES:
        return pictures.read_picture(path)
    array = read_array(path, key)
    if array.ndim == 2 or array.ndim == axes:
        array = array[..., None]
    if array.ndim not in (3, 4):
        raise ValueError(f"{path}: of shape {array.shape}; an image is [H, W, C] or [D, H, W, C]")
    return array


def read_spacing(path: Path | str) -> tuple[float, float, float] | None:
    """The voxel size along depth, row and column of a NIfTI file; None of any other."""
    path = Path(path)
    return nifti.read_voxel_size(path) if extension(path) in VOLUMES else None


def read_labels(path: Path | str, *, key: str | None = None) -> Array:
    """A label map: the indices of a palette picture, grey values, or an array of whole numbers.

    Returns
    -------
    ndarray [H, W] or [D, H, W] of integers
        Also of a file that stores whole numbers as floating point, as some NIfTI writers do.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`; also for a picture in colours without a palette, and for fractions.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.arange(6.0).reshape(2, 3))
    ...     read_labels(f"{folder}/a.npy").tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    path = Path(path)
    if extension(path) in VOLUMES:
        labels = nifti.read_volume(path)
    elif extension(path) in PICTURES:
        labels = pictures.read_label_picture(path)
    else:
        labels = read_array(path, key)
    if labels.ndim not in (2, 3):
        raise ValueError(
            f"{path}: of shape {labels.shape}; a label map is [H, W] or [D, H, W], without channels"
        )
    if labels.size == 0:
        raise ValueError(f"{path}: of shape {labels.shape}; a label map holds at least one pixel")
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = labels.astype(np.int32)
        if not np.isfinite(labels).all():
            raise ValueError(f"{path}: holds NaN or infinity; a label map holds whole numbers")
        if not np.array_equal(whole, labels):
            raise ValueError(f"{path}: holds fractions; a label map holds whole numbers")
        return whole
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: of dtype {labels.dtype}; a label map holds whole numbers")
    return labels


def read_mask(path: Path | str, *, key: str | None = None) -> Array:
    """[H, W] or [D, H, W] of bool: True where a label map, a grey picture or an array is not 0."""
    return read_labels(path, key=key) != 0
