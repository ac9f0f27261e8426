"""Read logits and images, and which pixels have data, from files of any known format."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from .._typing import Array
from .. import checks, unaries
from . import formats, halves, nnunet
from .alignment import read_geometry
from .exif import Exif, check_upright, upright
from .npy import names_of_maps
from .paths import extension

Kind = unaries.Kind


def read_array(path: Path | str, key: str | None = None) -> Array:
    """Read an array from an array file; if the file holds several, `key` names the array.

    Parameters
    ----------
    path : path
        .npy, .npz, .pt, .pth, .safetensors, .h5, .hdf5 or .zarr.
    key : str, optional
        Name of the array in a file that holds several.

    Returns
    -------
    ndarray
        In the shape and dtype in which it is stored.

    Raises
    ------
    FileNotFoundError, PermissionError
    ImportError
        The package that reads such files is not installed.
    ValueError
        The file is not an array file, is damaged or holds pickled objects; it holds several arrays
        and `key` is None; or it has no array `key`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", scores=np.zeros((3, 8, 9)), depth=np.ones((8, 9)))
    ...     read_array(f"{folder}/a.npz", key="depth").shape
    (8, 9)
    """
    path = Path(path)
    form = formats.FORMATS.get(extension(path))
    if form is None or form.kind != "array":
        ends = " ".join(end for end, form in formats.FORMATS.items() if form.kind == "array")
        raise ValueError(f"{path}: {extension(path) or 'no extension'} is not one of {ends}")
    return formats.read_stored(path, key)


def read_logits(
    path: Path | str,
    *,
    key: str | None = None,
    kind: Kind = "logits",
    clip: bool = False,
    labels_last: bool = False,
    axes: int | None = None,
    strict: bool = False,
) -> Array:
    """Read logits, or probabilities as their logarithm, ready for `refine`.

    Parameters
    ----------
    path : path
        .npy, .npz, .pt, .pth, .safetensors, .h5, .hdf5 or .zarr of shape [L, H, W] or [L, D, H, W],
        or either as a batch of one, or [H, W] for one foreground; [1, N, H, W] is a batch with N
        labels unless `axes` is 3. An .npz of nnU-Net's probabilities is completed to the whole
        image, for which the .pkl next to it is read. NIfTI [x, y, z, label]; OME-Zarr with a
        channel per label; a TIFF with a page per label; or, for probabilities of one foreground, a
        grey image. `aligned` turns what is stored in other directions than the image.
    key : str, optional
        Name of the array in a file that holds several; of OME-Zarr, of a resolution or of an image.
    kind : {"logits", "probabilities"}
        Content of the file: logits, floating point; or probabilities, floating point in 0..1 or
        8- or 16-bit integers, in which 255 or 65535 stands for 1; they sum to 1 over the labels.
    clip : bool
        Clip probabilities to 0..1 and divide them by their sum, as `logits_from_probabilities`.
    labels_last : bool
        The arrays are [H, W, L] or [D, H, W, L], as TensorFlow saves them.
    axes : {2, 3}, optional
        Number of spatial axes of an array file: with 3, an array [1, D, H, W] is a volume with
        one logit per voxel, not a batch; with 2, an array [L, 1, H, W] is [L, H, W].
    strict : bool
        Refuse a file that lacks chunks; by default, a warning says how many. HDF5, zarr and sparse
        TIFFs may leave chunks out, which are read as one value.

    Returns
    -------
    ndarray [L, H, W] or [L, D, H, W] of float32
        Other precisions are rounded to float32. NaN where a GeoTIFF has no data (see
        `read_valid`), for which `refine` needs a mask.

    Raises
    ------
    OSError
        The file does not exist or cannot be read.
    ImportError
        The package that reads such files is not installed.
    TypeError
        The array has another dtype than `kind` says, such as logits of integers.
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
    logits = stored_logits(
        path, key=key, kind=kind, clip=clip, labels_last=labels_last, axes=axes, strict=strict
    )
    return halves.widened(logits) if logits.dtype == np.float16 else logits


def stored_logits(
    path: Path | str, *, key: str | None = None, kind: Kind = "logits", clip: bool = False,
    labels_last: bool = False, axes: int | None = None, strict: bool = False,
) -> Array:  # fmt: skip
    """Read logits as `read_logits` does, but float16 as it is, which `refine` reads too."""
    checks.option("kind", kind, get_args(Kind))
    check_clip(kind, clip)
    path = Path(path)
    array = read_maps(path, key=key, labels_last=labels_last, axes=axes, strict=strict)
    valid = read_valid(path, "scores")
    try:
        if kind == "probabilities":
            logits = unaries.logits_from_probabilities(array, clip=clip, mask=valid)
            return _without_data(logits, valid)
        if array.dtype.kind != "f":
            raise TypeError(
                f"logits are {array.dtype}; they must be floating point. If these are "
                "probabilities, pass kind='probabilities'; for label maps use read_labels; "
                "dequantise quantised scores first"
            )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error
    if array.dtype == np.float16 and array.dtype.isnative:
        return _without_data(array if valid is None else array.copy(), valid)
    with np.errstate(over="ignore"):  # an infinity from this conversion is rejected later
        return _without_data(np.ascontiguousarray(array, dtype=np.float32), valid)


def check_clip(kind: str, clip: bool) -> None:
    """Raise ValueError if maps that are no probabilities are to be clipped to 0..1."""
    if clip and kind != "probabilities":
        raise ValueError(
            f"clip is about probabilities, but kind is {kind!r}; pass kind='probabilities', or "
            "leave clip out"
        )


def _without_data(logits: Array, valid: Array | None) -> Array:
    """Set logits [L, *S] to NaN outside the mask `valid`."""
    if valid is not None:
        logits[:, ~valid] = np.nan
    return logits


def read_maps(
    path: Path | str, *, key: str | None = None, labels_last: bool = False, axes: int | None = None,
    strict: bool = False,
) -> Array:  # fmt: skip
    """Read maps of scores [L, H, W] or [L, D, H, W] as they are stored, in any dtype.

    Parameters
    ----------
    path, key, labels_last, axes, strict
        As in `read_logits`.

    Returns
    -------
    ndarray [L, H, W] or [L, D, H, W]

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.zeros((8, 9, 3), np.float16))
    ...     maps = read_maps(f"{folder}/a.npy", labels_last=True)
    >>> maps.shape, maps.dtype.name
    ((3, 8, 9), 'float16')
    """
    path, names = Path(path), None
    use = "grey_maps" if formats.can(path, "grey_maps") else "scores"
    check_whole(path, key, strict)
    array: Array = formats.read(path, use, key)
    if formats.kind(path) == "picture":
        check_upright(path)
    if formats.kind(path) == "array":
        if labels_last and array.ndim >= 3:
            array = np.moveaxis(array, -1, 1 if _is_batch(array, axes) else 0)
        if _is_batch(array, axes) or (axes == 2 and array.ndim == 5 and array.shape[0] == 1):
            array = array[0]
        if axes == 2 and array.ndim == 4 and array.shape[1] == 1:  # a volume of depth one
            array = array[:, 0]
        array = nnunet.completed(path, key, array)
        if array.ndim == 2 and not holds_labels(array):  # one map has no other reading
            array = array[None]
        names = names_of_maps(path, array) if array.ndim in (3, 4) else None
    if array.ndim not in (3, 4):
        wanted = "[H, W, L] or [D, H, W, L]" if labels_last else "[L, H, W] or [L, D, H, W]"
        single = "; one foreground is saved as [1, H, W]; for label maps use read_labels"
        raise ValueError(
            f"{path}: scores of shape {array.shape}; they must be {wanted}"
            f"{single if array.ndim == 2 else ''}"
        )
    if names is not None and not np.array_equal(names, np.arange(len(array))):
        raise ValueError(
            f"{path}: holds maps of the labels {', '.join(map(str, names[:8]))}"
            f"{', ...' if len(names) > 8 else ''} (array 'classes'), which would be taken for "
            f"0..{len(names) - 1}; refine the original logits and choose the labels then, or save "
            "the maps without 'classes'"
        )
    return array


def holds_labels(array: Array) -> bool:
    """Return whether numbers are labels stored as floating point, not scores of one foreground."""
    return bool(array.dtype.kind == "f" and (array % 1 == 0).all())


def check_whole(path: Path, key: str | None, strict: bool, warn: bool = True) -> int:
    """Return how many chunks a file lacks; warn of them or, if `strict`, raise ValueError."""
    missing = formats.missing(path, key)
    if missing.lacking:
        found = (
            f"{path}: {missing.lacking} of {missing.of} chunks are not stored and read as "
            f"{missing.value}, as if a program had not finished"
        )
        if strict:
            raise ValueError(f"{found}; write them, or pass strict=False")
        if warn:
            warnings.warn(f"{found}; pass strict=True to refuse such files", stacklevel=4)
    return missing.lacking


def _is_batch(array: Array, axes: int | None) -> bool:
    """Return whether the first axis is a batch axis, of length 1."""
    sizes = (4, 5) if axes is None else (axes + 2,)
    return array.ndim in sizes and array.shape[0] == 1


def read_image(
    path: Path | str,
    *,
    key: str | None = None,
    axes: int | None = None,
    bands: Sequence[int] | None = None,
    exif: Exif = "auto",
    size: Sequence[int] | None = None,
) -> Array:
    """Read an image with its channels last, in the intensity units of the file.

    Parameters
    ----------
    path : path
        An image file (palette indices become colours, alpha is dropped), a NIfTI volume, an
        OME-Zarr group, or an array file.
    key : str, optional
        Name of the array in a file that holds several.
    axes : {2, 3}, optional
        Number of spatial axes: distinguishes an array [H, W, C] from a volume [D, H, W] without a
        channel axis, and pages of a TIFF that are channels from pages that are layers. Default:
        three axes of an array are [H, W, C], and pages are layers unless they are named channels.
    bands : sequence of int, optional
        Channels of a TIFF to use, counted from 1; default all but alpha.
    exif : {"auto", "apply", "ignore"}
        Orientation of an image file that stores one (EXIF data, a tag of a TIFF): "apply" turns
        the image as viewers do; "ignore" reads it as stored, as Pillow does; "auto" turns it
        unless only the stored orientation fits `size`, and warns (`FileNote`) of what it did.
    size : sequence of int, optional
        Size [H, W] of the logits, for "auto".

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
    if bands is not None and not formats.can(path, "valid"):
        raise ValueError(f"{path}: only a TIFF has bands; leave them out")
    more = {"axes": axes, "bands": bands} if formats.can(path, "valid") else {}
    array: Array = formats.read(path, "image", key, **more)
    if formats.kind(path) == "picture":
        array = upright(path, array, exif, size, channels=1)
    if formats.kind(path) == "array" and (array.ndim == 2 or array.ndim == axes):
        array = array[..., None]
    if array.ndim not in (3, 4):
        raise ValueError(f"{path}: of shape {array.shape}; an image is [H, W, C] or [D, H, W, C]")
    return array


def read_spacing(path: Path | str, *, key: str | None = None) -> tuple[float, ...] | None:
    """Return the voxel size along depth, row and column of a NIfTI or OME-Zarr volume, else None.

    Parameters
    ----------
    path : path
    key : str, optional
        As in `read_image`.

    Returns
    -------
    tuple of 3 floats, or None
        In the file's unit, usually millimetres or micrometres.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_image`; also for a size that cannot be a spacing.

    Examples
    --------
    >>> import nibabel, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = np.zeros((9, 8, 4), np.uint8)  # x, y, z
    ...     nibabel.save(nibabel.Nifti1Image(stored, np.diag([1, 1, 2.5, 1])), f"{folder}/a.nii")
    ...     read_spacing(f"{folder}/a.nii")
    (2.5, 1.0, 1.0)
    """
    geometry = read_geometry(path, key=key)
    if geometry is None or len(geometry.size) != 3:
        return None
    try:
        return checks.spacing(geometry.spacing, 3)
    except ValueError as error:
        raise ValueError(
            f"{path}: of the voxel size in the header, {error}; correct the header, or pass "
            "spacing=(depth, row, column)"
        ) from error


def read_valid(
    path: Path | str,
    use: Literal["scores", "image", "labels"] = "labels",
    *,
    axes: int | None = None,
    bands: Sequence[int] | None = None,
    exif: Exif = "auto",
    size: Sequence[int] | None = None,
) -> Array | None:
    """Read which pixels of a TIFF or of a label map in PNG have data.

    A pixel has no data if the file's mask excludes it, if all of its bands hold the nodata value
    (in an image of signed integers or floating point: any band), or, in an image, if an alpha band
    is 0. Scores and labels have no alpha band. In a PNG that `write_labels` marked, pixels of the
    value `nodata` have none.

    Parameters
    ----------
    path : path
    use : {"scores", "image", "labels"}
        What the file is read as.
    axes, bands, exif, size
        As in `read_image`.

    Returns
    -------
    ndarray [H, W] or [D, H, W] of bool, or None
        True where there are data; None if the file has none of these marks.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import write_raster
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_raster(f"{folder}/a.tif", np.array([[0, 1, 9]], np.uint8), nodata=9)
    ...     read_valid(f"{folder}/a.tif").tolist()
    [[True, True, False]]
    """
    checks.option("use", use, ("scores", "image", "labels"))
    path = Path(path)
    valid: Array | None = None
    if formats.can(path, "valid"):
        valid = formats.function(path, "valid")(path, use, axes, bands)
    elif use == "labels" and formats.can(path, "nodata"):
        value = formats.read(path, "nodata")
        valid = None if value is None else formats.read(path, "labels") != value
    return None if valid is None else upright(path, valid, exif, size)
