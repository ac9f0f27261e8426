"""Read logits, images, label maps and masks from files of any known format."""

from pathlib import Path
from typing import Literal

import numpy as np

from .._typing import Array
from .. import unaries
from . import formats, halves
from .arrays import names_of_maps
from .paths import extension

Kind = Literal["logits", "probabilities"]


def read_array(path: Path | str, key: str | None = None) -> Array:
    """Read an array from an array file; if the file holds several, `key` names the array.

    Raises
    ------
    FileNotFoundError, PermissionError
    ImportError
        The package that reads such files is not installed.
    ValueError
        The file is no array file, is damaged or holds pickled objects; it holds several arrays and
        `key` is None; or it has no array `key`.
    """
    path = Path(path)
    if formats.kind(path) != "array":
        ends = " ".join(end for end, form in formats.FORMATS.items() if form.kind == "array")
        raise ValueError(f"{path}: {extension(path) or 'no extension'} is not one of {ends}")
    return formats.read(path, "labels", key)


def read_logits(
    path: Path | str,
    *,
    key: str | None = None,
    kind: Kind = "logits",
    labels_last: bool = False,
    axes: int | None = None,
) -> Array:
    """Read logits, or probabilities as their logarithm, ready for `refine`.

    Parameters
    ----------
    path : path
        .npy, .npz, .pt, .pth, .safetensors, .h5, .hdf5 or .zarr of shape [L, H, W] or
        [L, D, H, W], or either as a batch of one; [1, N, H, W] is a batch with N labels unless
        `axes` is 3. NIfTI [x, y, z, label]; or a TIFF with a page per label.
    key : str, optional
        Name of the array in a file that holds several.
    kind : {"logits", "probabilities"}
        Content of the file: logits, floating point; or probabilities, floating point in 0..1 or
        8- or 16-bit integers, in which 255 or 65535 stands for 1.
    labels_last : bool
        The arrays are [H, W, L] or [D, H, W, L], as TensorFlow saves them.
    axes : {2, 3}, optional
        Number of spatial axes of an array file: with 3, an array [1, D, H, W] is a volume with
        one logit per voxel, not a batch.

    Returns
    -------
    ndarray [L, H, W] or [L, D, H, W] of float32
        Other precisions are rounded to float32.

    Raises
    ------
    OSError
        The file does not exist or cannot be read.
    ImportError
        The package that reads such files is not installed.
    ValueError
        The file is damaged, holds pickled objects, several arrays and no `key`, other numbers than
        `kind` says, or maps of labels other than 0..L-1, listed in an array "classes" (see
        `write_marginals`).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.zeros((3, 8, 9), np.float16))
    ...     read_logits(f"{folder}/a.npy").dtype.name
    'float32'
    """
    path, names = Path(path), None
    array: Array = formats.read(path, "scores", key)
    if formats.kind(path) == "array":
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
            f"{path}: holds maps of the labels {', '.join(map(str, names[:8]))}"
            f"{', ...' if len(names) > 8 else ''} (array 'classes'), which would be taken for "
            f"0..{len(names) - 1}; refine the original logits and choose the labels then, or save "
            "the maps without 'classes'"
        )
    try:
        if kind == "probabilities":
            return unaries.logits_from_probabilities(array)
        if array.dtype.kind != "f":
            raise TypeError(
                f"logits are {array.dtype}; they must be floating point. If these are "
                "probabilities, pass kind='probabilities'; for label maps use read_labels; "
                "dequantise quantised scores first"
            )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error
    if array.dtype == np.float16:
        return halves.widened(array)
    with np.errstate(over="ignore"):  # an infinity from this conversion is rejected later
        return np.ascontiguousarray(array, dtype=np.float32)


def _is_batch(array: Array, axes: int | None) -> bool:
    """Return whether the first axis is a batch axis, of length 1."""
    sizes = (4, 5) if axes is None else (axes + 2,)
    return array.ndim in sizes and array.shape[0] == 1


def read_image(path: Path | str, *, key: str | None = None, axes: int | None = None) -> Array:
    """Read an image with its channels last, in the intensity units of the file.

    Parameters
    ----------
    path : path
        An image file (palette indices become colours, alpha is dropped), a NIfTI volume, or an
        array file.
    key : str, optional
        Name of the array in a file that holds several.
    axes : {2, 3}, optional
        Number of spatial axes of an array file: distinguishes an image [H, W, C] from a volume
        [D, H, W] without a channel axis. Default: three axes are [H, W, C].

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
    array: Array = formats.read(path, "image", key)
    if formats.kind(path) == "array" and (array.ndim == 2 or array.ndim == axes):
        array = array[..., None]
    if array.ndim not in (3, 4):
        raise ValueError(f"{path}: of shape {array.shape}; an image is [H, W, C] or [D, H, W, C]")
    return array


def read_spacing(path: Path | str) -> tuple[float, float, float] | None:
    """Return the voxel size along depth, row and column of a NIfTI file; None for any other."""
    path = Path(path)
    return formats.read(path, "voxel_size") if formats.can(path, "voxel_size") else None


def read_palette(path: Path | str) -> Array | None:
    """Return the colours of a PNG with a palette, uint8 [256, 3]; None for any other file.

    Colours that the file does not define are black.
    """
    path = Path(path)
    return formats.read(path, "palette") if formats.can(path, "palette") else None


def read_labels(path: Path | str, *, key: str | None = None) -> Array:
    """Read a label map: palette indices, grey values, or an array of integers.

    Returns
    -------
    ndarray [H, W] or [D, H, W] of integers
        Integers that are stored as floating point, as by some NIfTI writers, are converted.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`; also for an image with colours but no palette, and for fractional values.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.arange(6.0).reshape(2, 3))
    ...     read_labels(f"{folder}/a.npy").tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    path = Path(path)
    labels: Array = formats.read(path, "labels", key)
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
            integers = labels.astype(np.int32)
        if not np.isfinite(labels).all():
            raise ValueError(f"{path}: holds NaN or infinity; a label map holds integers")
        if not np.array_equal(integers, labels):
            raise ValueError(f"{path}: holds fractions; a label map holds integers")
        return integers
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: of dtype {labels.dtype}; a label map holds integers")
    return labels


def read_mask(path: Path | str, *, key: str | None = None) -> Array:
    """Read a mask, bool [H, W] or [D, H, W]: True where a label map or an array is not 0."""
    return read_labels(path, key=key) != 0
