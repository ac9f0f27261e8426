"""The table of file formats: by extension, the functions that read and write them.

To add a format, write its functions in a module of this folder and add its extension to `FORMATS`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .._typing import Array
from . import (
    arrays, containers, geotiff, nifti, npy, ome_zarr, pillow, readback, tiff, windows
)  # fmt: skip
from .geometry import Geometry
from .paths import extension, reading

Read = Callable[..., Array]
Open = Callable[..., windows.Source]
Create = Callable[..., contextlib.AbstractContextManager[readback.Write]]


@dataclass(frozen=True)
class Format:
    """The functions that read and write one format; None for what it does not support.

    S stands for the spatial axes, [H, W] or [D, H, W].

    Attributes
    ----------
    kind : {"array", "picture", "volume"}
        Arrays are read as they are stored, with axes in any order; pictures are image files, with
        channels last; the axes of volumes, which may also have two axes of space, are known.
    content : str
        What such a file should be, for the message about a damaged one.
    shape : function of a path; if `keyed`, also of the array's name or None
        Read the shape of an array, or the spatial size of a picture or volume, not its content.
    keyed : bool
        Whether a file holds several arrays by name.
    missing : function with the arguments of `shape`
        Count the chunks that are not stored, if the format allows it.
    scores, image, labels : functions of a path; if `keyed`, also of the array's name or None
        Read logits or probabilities [L, *S], images [*S, C] and label maps [*S].
    geometry : function of (path, key)
        Read where the pixels are; None if the file does not say.
    grey_maps : function of a path
        Read grey values as maps of probabilities [1, H, W], of formats without `scores`.
    colours : function of a path
        Read the colours of a label map, uint8 [H, W, 3]; None if its values are labels.
    palette : function of a path
        Read the colours of a palette image, uint8 [256, 3]; None for other images.
    nodata : function of a path
        Read the value of pixels without data in a label map; None if there is none. `write_labels`
        has an argument `nodata` then.
    valid : function of (path, use, axes, bands)
        Read where a file has data, bool [*S], for the `use` "scores", "image" or "labels"; such a
        format reads an image with the arguments `axes` and `bands`, too.
    write_labels : function of (path, labels, palette, like)
    write_saliency : function of (path, probabilities)
    write_marginals : function of (path, marginals=..., classes=..., and that of `npy.place_npz`)
    open : function of (path, stack); if `keyed`, of (path, stack, key)
        Open a file to be read in parts; `stack` closes it.
    create : context manager of (path, shape, dtype, axes, nodata, ground)
        Create a file and yield a function that writes a part of it. `shape` is [*S] or [L, *S],
        with `axes` spatial axes. The value `nodata` marks pixels without data; `ground` is the
        georeference.
    """

    kind: Literal["array", "picture", "volume"]
    content: str
    scores: Read | None
    image: Read
    labels: Read
    shape: Callable[..., tuple[int, ...]] | None
    keyed: bool = False
    missing: Callable[..., containers.Missing] | None = None
    geometry: Callable[[Path, str | None], Geometry | None] | None = None
    grey_maps: Read | None = None
    colours: Callable[[Path], Array | None] | None = None
    palette: Callable[[Path], Array | None] | None = None
    nodata: Callable[[Path], float | None] | None = None
    valid: Callable[..., Array | None] | None = None
    write_labels: Callable[..., None] | None = None
    write_saliency: Callable[[Path, Array], None] | None = None
    write_marginals: Callable[..., None] | None = None
    open: Open | None = None
    create: Create | None = None


def _array(
    content: str, read: Read, shape: Callable[..., tuple[int, ...]] | None,
    write: Callable[..., None] | None = None, **more: Any,
) -> Format:  # fmt: skip
    if write is not None:
        more["write_marginals"] = write
        more["write_labels"] = lambda path, labels, palette, like: write(path, labels=labels)
    return Format("array", content, read, read, read, shape, keyed=True, **more)


_PICTURE = Format(
    "picture", "an image", None, pillow.read_image, pillow.read_labels, pillow.read_shape,
    grey_maps=pillow.read_maps, colours=pillow.read_colours,
)  # fmt: skip
_PNG = replace(
    _PICTURE, palette=pillow.read_palette, nodata=pillow.read_nodata,
    write_labels=pillow.write_labels,
    write_saliency=pillow.write_saliency,
)  # fmt: skip
_TIFF = Format(
    "picture", tiff.CONTENT, tiff.read_scores, tiff.read_image, tiff.read_labels, tiff.read_shape,
    missing=tiff.missing, geometry=tiff.read_geometry, colours=tiff.read_colours,
    nodata=tiff.read_nodata, valid=tiff.read_valid, open=tiff.Tiff, create=geotiff.created,
)  # fmt: skip
_ZARR = _array(
    "a zarr array or group", containers.read_zarr, containers.shape_zarr,
    missing=containers.missing_zarr, open=windows.open_zarr, create=windows.created_zarr,
)  # fmt: skip
# Of the same extension; `format_of` tells them apart.
_OME_ZARR = Format(
    "volume", _ZARR.content, ome_zarr.read_scores, ome_zarr.read_image, ome_zarr.read_labels,
    ome_zarr.read_shape, keyed=True, missing=ome_zarr.missing, geometry=ome_zarr.read_geometry,
    open=ome_zarr.opened, create=windows.created_zarr,
)  # fmt: skip
_NIFTI = Format(
    "volume", "a NIfTI file", nifti.read_scores, nifti.read_image, nifti.read_volume,
    nifti.read_shape,
    geometry=nifti.read_geometry, write_labels=nifti.write_labels,
)  # fmt: skip
_HDF5 = _array(
    "an HDF5 file", containers.read_hdf5, containers.shape_hdf5, missing=containers.missing_hdf5
)
_TORCH = _array("tensors saved by torch.save", arrays.read_torch, None)

FORMATS = {
    ".npy": _array(
        "a .npy file", npy.read_npy, npy.shape_npy, arrays.write_npy,
        open=windows.open_npy, create=windows.created_npy,
    ),
    ".npz": _array("an .npz file", npy.read_npz, npy.shape_npz, arrays.write_npz,
                   geometry=npy.geometry_npz),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".safetensors": _array(
        "a .safetensors file that NumPy can hold", arrays.read_safetensors,
        arrays.shape_safetensors,
    ),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".zarr": _ZARR,
    ".png": _PNG,
    **dict.fromkeys((".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"), _PICTURE),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
}  # fmt: skip
# Packages that the readers and writers use, by their names on PyPI.
PACKAGES = ("pillow", "tifffile", "nibabel", "h5py", "zarr", "safetensors", "rasterio", "torch")


_USES = {
    "scores": "read as logits", "image": "read as an image", "labels": "read as a label map",
    "geometry": "compared in space", "write_labels": "written as a label map",
    "write_marginals": "written as marginals",
    "write_saliency": "written as probabilities of the foreground",
    "shape": "measured", "missing": "searched for missing chunks",
    "open": "read and written in parts", "create": "read and written in parts",
}  # fmt: skip


def extensions(use: str) -> list[str]:
    """Return the extensions of the formats that support `use`, an attribute of `Format`.

    Examples
    --------
    >>> extensions("write_marginals")
    ['.npy', '.npz']
    """
    return [end for end, form in FORMATS.items() if getattr(form, use) is not None]


def format_of(path: Path) -> Format | None:
    """Return the format of a file; None if it is unknown."""
    found = FORMATS.get(extension(path))
    return _OME_ZARR if found is _ZARR and ome_zarr.is_ome_zarr(path) else found


def can(path: Path, use: str) -> bool:
    """Return whether the format of a file supports `use`, an attribute of `Format`."""
    return getattr(format_of(path), use, None) is not None


def function(path: Path, use: str) -> Any:
    """Return the function `use`, an attribute of `Format`, for the format of a file.

    Raises
    ------
    ValueError
        The format of the file is unknown or does not support `use`.
    """
    if not can(path, use):
        raise ValueError(
            f"{path}: {extension(path) or 'a file without extension'} cannot be {_USES[use]}; "
            f"choose from {' '.join(extensions(use))}"
        )
    return getattr(format_of(path), use)


def kind(path: Path) -> str | None:
    """Return `Format.kind` of the format of a file; None if the format is unknown."""
    found = format_of(path)
    return None if found is None else found.kind


def read(path: Path, use: str, key: str | None = None, **more: Any) -> Any:
    """Read a file with the function `use`, an attribute of `Format`, of its format.

    Array files keep their axes and dtype. `more` are further arguments of the function.

    Raises
    ------
    FileNotFoundError, PermissionError, ImportError, ValueError
        The file does not exist or cannot be read; the package for it is not installed; the file
        is damaged, or of another format.
    """
    with _existing(path, use) as function_of:
        if FORMATS[extension(path)].keyed:
            return arrays.checked(path, function_of(path, key))
        return function_of(path, **more)


def read_stored(path: Path, key: str | None = None) -> Array:
    """Read an array as an array file stores it, also from an OME-Zarr group; errors as `read`."""
    with _existing(path, "labels"):
        return arrays.checked(path, FORMATS[extension(path)].labels(path, key))


def pixels(path: Path, key: str | None = None) -> int | None:
    """Return the number of pixels of an image, or more, from its header; None if it is not known.

    A last axis of 1 to 4 of an array with three axes or more counts as channels; a longer one may
    be spatial.
    """
    shape: tuple[int, ...] | None = None
    with contextlib.suppress(ImportError, OSError, ValueError, TypeError):
        shape = _asked(path, "shape", key)
    if shape is None:
        return None
    channels = kind(path) == "array" and len(shape) > 2 and shape[-1] <= 4
    return math.prod(shape[:-1] if channels else shape)


def missing(path: Path, key: str | None = None) -> containers.Missing:
    """Count the chunks of an array that are not stored; errors as `read`."""
    if not can(path, "missing"):
        return containers.Missing(0, 1, None)
    found: containers.Missing = _asked(path, "missing", key)
    return found


def _asked(path: Path, use: str, key: str | None) -> Any:
    with _existing(path, use) as function_of:
        return function_of(path, key) if FORMATS[extension(path)].keyed else function_of(path)


def read_geometry(path: Path, key: str | None = None) -> Geometry | None:
    """Read where a file's pixels lie in the world, None if it does not say; errors as `read`."""
    with _existing(path, "geometry") as function_of:
        return function_of(path, key)


def open_in_parts(
    path: Path, stack: contextlib.ExitStack, key: str | None = None
) -> windows.Source:
    """Open a file that is read in parts; `stack` closes it, `key` is as in `read`.

    Raises
    ------
    OSError, ImportError, ValueError
        The file does not exist; the package for it is not installed; the file is damaged, or of
        another format.
    """
    with _existing(path, "open") as opened:
        return opened(path, stack, key) if FORMATS[extension(path)].keyed else opened(path, stack)


@contextlib.contextmanager
def _existing(path: Path, use: str) -> Iterator[Any]:
    """Yield the function `use` for an existing file; exceptions of the with block name the file."""
    found = function(path, use)
    if not path.exists():  # not every library reports a missing file
        raise FileNotFoundError(2, "no such file", str(path))
    if not path.is_file() and not path.is_dir():  # a FIFO would be waited for
        raise ValueError(f"{path}: neither a file nor a folder; save its content as a file")
    with reading(path, FORMATS[extension(path)].content):
        yield found
