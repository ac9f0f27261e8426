"""Bring the array of one file onto the grid of another, if both say where their pixels are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from .. import checks
from .._typing import Array
from . import formats
from .geometry import Geometry, Upsample, turn_onto


def read_geometry(path: Path | str, *, key: str | None = None) -> Geometry | None:
    """Return where the pixels of a file are; None if the file does not say, as .npy and .png.

    Parameters
    ----------
    path : path
        NIfTI: the affine, sform before qform. GeoTIFF: transform and coordinate reference system.
        OME-Zarr: scale and translation. .npz: what `write_marginals` was told.
    key : str, optional
        Name of the array in a file that holds several.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`.

    Examples
    --------
    >>> import nibabel, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = np.zeros((9, 8, 4), np.uint8)  # x, y, z
    ...     nibabel.save(nibabel.Nifti1Image(stored, np.diag([1, 1, 2.5, 1])), f"{folder}/a.nii")
    ...     found = read_geometry(f"{folder}/a.nii")
    >>> found.standard, found.size, found.spacing
    ('NIfTI', (4, 8, 9), (2.5, 1.0, 1.0))
    """
    path = Path(path)
    return formats.read_geometry(path, key) if formats.can(path, "geometry") else None


def axes_of(path: Path | str, *, key: str | None = None) -> int | None:
    """Return the number of spatial axes of a NIfTI or OME-Zarr image; None for other files.

    Parameters
    ----------
    path : path
    key : str, optional
        Name of the array in a file that holds several, as in `read_image`.

    Returns
    -------
    {2, 3} or None

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_logits`.

    Examples
    --------
    >>> import nibabel, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = np.zeros((9, 8, 4), np.uint8)  # x, y, z
    ...     nibabel.save(nibabel.Nifti1Image(stored, np.diag([1, 1, 2.5, 1])), f"{folder}/a.nii")
    ...     np.save(f"{folder}/b.npy", stored)
    ...     axes_of(f"{folder}/a.nii"), axes_of(f"{folder}/b.npy")
    (3, None)
    """
    geometry = read_geometry(path, key=key) if formats.kind(Path(path)) == "volume" else None
    return None if geometry is None else len(geometry.size)


def first_placed(*files: tuple[Path, str | None]) -> dict[str, Any]:
    """Return the arguments `like` and `like_key` of `aligned` for one of several files.

    It is the first of the `files` (path, key) that says where its pixels are, else the last.
    """
    for path, key in files:
        geometry = read_geometry(path, key=key)
        if geometry is not None and geometry.placed:
            break
    return {"like": path, "like_key": key}


def aligned(
    array: Array,
    path: Path | str,
    like: Path | str,
    *,
    key: str | None = None,
    like_key: str | None = None,
    channels_last: bool = False,
    upsample: Upsample | None = None,
    covers: Sequence[int] | None = None,
) -> Array:
    """Bring an array onto the grid of another file: turn it if it is stored in other directions.

    Each pixel keeps its place in the world. The files are compared if both say where their pixels
    are: two NIfTI files, two GeoTIFFs or two OME-Zarr groups, or marginals of an image in one of
    these formats, which `write_marginals` told. Others (.npy, .png, a NIfTI file
    whose sform and qform codes are 0) must be stored like the other file.

    Parameters
    ----------
    array : ndarray [..., *S]
        Logits [L, *S], labels [*S] or a mask [*S] that were read from `path`; S are the spatial
        axes.
    path : path
    like : path
        The file whose grid is wanted, such as the image or the ground truth.
    key, like_key : str, optional
        Name of the array in `path` and in `like`, if they hold several.
    channels_last : bool
        `array` is an image [*S, C].
    upsample : {"corners", "centers"}, optional
        `array` is smaller and will be enlarged: with "corners" the centres of the corner pixels
        must coincide, as in `upsampling.upsample` with align_corners=True, with "centers" the
        outer edges.
    covers : sequence of int, optional
        With `upsample`: size of the area that `array` covers, in pixels of `like`; its first corner
        is that of `like`. Default: the size of `like`.

    Returns
    -------
    ndarray
        `array` itself or, if its file stores the same grid in another order or direction of the
        axes, a turned copy.

    Raises
    ------
    OSError, ImportError
        As `read_logits`.
    ValueError
        The files lie on different grids: pixel size, direction, origin or coordinate system differ,
        so that a corner is more than a tenth of a pixel from its place.

    Examples
    --------
    >>> import nibabel, tempfile
    >>> import numpy as np
    >>> from densecrf_rnn.files import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     here, there = f"{folder}/a.nii.gz", f"{folder}/b.nii.gz"
    ...     stored = np.arange(4, dtype=np.uint8).reshape(4, 1, 1)
    ...     nibabel.save(nibabel.Nifti1Image(stored, np.diag([2, 2, 2, 1])), here)
    ...     flipped = np.array([[-2, 0, 0, 6], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    ...     nibabel.save(nibabel.Nifti1Image(stored[::-1], flipped), there)
    ...     labels = read_labels(there)
    ...     print(labels.ravel(), aligned(labels, there, here).ravel())
    [3 2 1 0] [0 1 2 3]
    """
    if upsample is not None:
        checks.option("upsample", upsample, get_args(Upsample))
    own = read_geometry(path, key=key)
    if own is None:
        return array
    turn = turn_onto(own, read_geometry(like, key=like_key), (path, like), upsample, covers)
    return array if turn is None else turn(array, int(channels_last))
