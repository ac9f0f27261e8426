"""The table of file formats: by extension, the functions that read and write them.

To add a format, write its functions in a module of this folder and add its extension to `FORMATS`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .._typing import Array
from . import arrays, geotiff, nifti, pillow, tiff, windows
from .paths import extension, reading

Read = Callable[..., Array]
Open = Callable[[Path, contextlib.ExitStack], windows.Source]
Create = Callable[..., contextlib.AbstractContextManager[windows.Write]]


@dataclass(frozen=True)
class Format:
    """The functions that read and write one format; None for what it does not support.

    S stands for the spatial axes, [H, W] or [D, H, W].

    Attributes
    ----------
    kind : {"array", "picture", "volume"}
        Arrays are read as they are stored, with axes in any order; pictures are image files, with
        channels last; volumes have a voxel size.
    content : str
        What such a file should be, for the message about a damaged one.
    scores, image, labels : functions of a path; of kind "array", also of the array's name
        Read logits or probabilities [L, *S], images [*S, C] and label maps [*S].
    voxel_size : function of a path
        Read the size of a voxel along depth, row and column.
    palette : function of a path
        Read the colours of a palette image, uint8 [256, 3]; None for other images.
    write_labels : function of (path, labels, palette, like)
    write_marginals : function of (path, marginals=..., classes=...)
    open : function of (path, stack)
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
    voxel_size: Callable[[Path], tuple[float, float, float]] | None = None
    palette: Callable[[Path], Array | None] | None = None
    write_labels: Callable[[Path, Array, Array | None, Path | None], None] | None = None
    write_marginals: Callable[..., None] | None = None
    open: Open | None = None
    create: Create | None = None


def _array(
    content: str, read: Read, write: Callable[..., None] | None = None, **more: Any
) -> Format:
    if write is not None:
        more["write_marginals"] = write
        more["write_labels"] = lambda path, labels, palette, like: write(path, labels=labels)
    return Format("array", content, read, read, read, **more)


_PICTURE = Format("picture", "an image", None, pillow.read_image, pillow.read_labels)
_PNG = replace(_PICTURE, palette=pillow.read_palette, write_labels=pillow.write_labels)
_TIFF = Format(
    "picture", "a TIFF that tifffile can decode", tiff.read_scores, tiff.read_image,
    tiff.read_labels, open=geotiff.GeoTiff, create=geotiff.created,
)  # fmt: skip
_NIFTI = Format(
    "volume", "a NIfTI file", nifti.read_scores, nifti.read_image, nifti.read_volume,
    nifti.read_voxel_size, write_labels=nifti.write_labels,
)  # fmt: skip
_HDF5 = _array("an HDF5 file", arrays.read_hdf5)
_TORCH = _array("tensors saved by torch.save", arrays.read_torch)

FORMATS = {
    ".npy": _array(
        "a .npy file", arrays.read_npy, arrays.write_npy,
        open=windows.open_npy, create=windows.created_npy,
    ),
    ".npz": _array("an .npz file", arrays.read_npz, arrays.write_npz),
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".safetensors": _array("a .safetensors file that NumPy can hold", arrays.read_safetensors),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".zarr": _array(
        "a zarr array or group", arrays.read_zarr,
        open=windows.open_zarr, create=windows.created_zarr,
    ),
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
    "write_labels": "written as a label map", "write_marginals": "written as marginals",
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


def can(path: Path, use: str) -> bool:
    """Return whether the format of a file supports `use`, an attribute of `Format`."""
    return extension(path) in extensions(use)


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
    return getattr(FORMATS[extension(path)], use)


def kind(path: Path) -> str | None:
    """Return `Format.kind` of the format of a file; None if the format is unknown."""
    return FORMATS[extension(path)].kind if extension(path) in FORMATS else None


def read(path: Path, use: str, key: str | None = None) -> Any:
    """Read a file with the function `use`, an attribute of `Format`, of its format.

    Array files keep their axes and dtype.

    Raises
    ------
    FileNotFoundError, PermissionError, ImportError, ValueError
        The file does not exist or cannot be read; the package for it is not installed; the file
        is damaged, or of another format.
    """
    with _existing(path, use) as function_of:
        if kind(path) == "array":
            return arrays.checked(path, function_of(path, key))
        return function_of(path)


def open_in_parts(path: Path, stack: contextlib.ExitStack) -> windows.Source:
    """Open a file that is read in parts; `stack` closes it.

    Raises
    ------
    OSError, ImportError, ValueError
        The file does not exist; the package for it is not installed; the file is damaged, or of
        another format.
    """
    with _existing(path, "open") as opened:
        return opened(path, stack)


@contextlib.contextmanager
def _existing(path: Path, use: str) -> Iterator[Any]:
    """Yield the function `use` for an existing file; exceptions of the with block name the file."""
    found = function(path, use)
    if not path.exists():  # not every library reports a missing file
        raise FileNotFoundError(2, "no such file", str(path))
    with reading(path, FORMATS[extension(path)].content):
        yield found
