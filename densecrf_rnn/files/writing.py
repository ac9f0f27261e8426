"""Write label maps and marginals to files, each file completely or not at all."""

from pathlib import Path
from typing import Literal

import numpy as np

from .._typing import Array
from . import halves
from .formats import can, function
from .geometry import Geometry
from .npy import REGIONS, place_npz


def write_labels(
    path: Path | str,
    labels: Array,
    *,
    palette: Array | Literal["none"] | None = None,
    like: Path | str | None = None,
    nodata: int | None = None,
) -> None:
    """Write a label map in the format of the file name.

    Parameters
    ----------
    path : path
        .png: palette indices, or 16-bit grey values if a label exceeds 255; .nii or .nii.gz;
        .npz (array "labels") or .npy.
    labels : ndarray [H, W] or [D, H, W] of integers
        Labels from 0; a PNG holds two axes and labels up to 65535.
    palette : uint8 ndarray [256, 3], or "none"
        Colours of a PNG; default Pascal VOC's. "none" makes it 8-bit grey: OpenCV's imread then
        returns the labels, where it returns colours of a PNG with a palette.
    like : path, optional
        NIfTI file whose affine, units and orientation are copied; required for NIfTI.
    nodata : int, optional
        Value in `labels` of pixels without data. A PNG says so in a text, for `read_labels` and
        `read_valid`; other formats do not.

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    ValueError
        The format cannot hold these labels.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_labels(f"{folder}/a.png", np.array([[0, 300]]))
    ...     read_labels(f"{folder}/a.png").tolist()
    [[0, 300]]
    """
    path = Path(path)
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: labels must be integers of at least 0")
    more = {"nodata": nodata} if can(path, "nodata") else {}
    like = None if like is None else Path(like)
    function(path, "write_labels")(path, labels, palette, like, **more)


def write_marginals(
    path: Path | str,
    q: Array,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    classes: Array | None = None,
    geometry: Geometry | None = None,
    regions: bool = False,
) -> None:
    """Write marginals, uncompressed: compression would take most of the time and save little.

    Parameters
    ----------
    path : path
        .npz (array "marginals") or .npy.
    q : ndarray [L, H, W] or [L, D, H, W] of float32
    dtype : {"float16", "float32"}
        float16 rounds by at most 0.05 % (numbers above 6e-5), and numbers below 3e-8 to 0.
    classes : ndarray [L] of integers, optional
        The label of each map if they are not 0..L-1; array "classes" of an .npz.
    geometry : Geometry, optional
        Where the pixels are, from `read_geometry`; array "affine_nifti", "affine_geotiff" or
        "affine_ome_zarr" of an .npz, by which `read_geometry` and `aligned` find it again.
    regions : bool
        The maps may overlap (multilabel): array "regions" of an .npz numbers them, so that no
        reader takes the largest of them for the label.

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    ValueError
        The format holds no marginals, or no `classes`, `geometry` or `regions`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_marginals(f"{folder}/a.npz", np.full((2, 4, 5), 0.5, np.float32))
    ...     np.load(f"{folder}/a.npz")["marginals"].dtype.name
    'float16'
    """
    path, more = Path(path), {} if classes is None else {"classes": classes}
    if geometry is not None:
        more |= place_npz(geometry)
    if regions:
        more[REGIONS] = np.arange(len(q))
    q = q.astype(np.float32, copy=False)
    write = function(path, "write_marginals")
    write(path, marginals=halves.narrowed(q) if dtype == "float16" else q, **more)


def write_saliency(path: Path | str, p: Array) -> None:
    """Write the probability of one foreground as grey values: 0 is black, 1 is white.

    `read_logits` reads it with kind="probabilities"; `read_labels` rejects it.

    Parameters
    ----------
    path : path
        .png, 8 bits.
    p : ndarray [H, W] in 0..1

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    ValueError
        The format holds no probabilities, or `p` is no image or holds NaN.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import read_logits
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_saliency(f"{folder}/a.png", np.array([[0.5, 0.9]]))
    ...     read_logits(f"{folder}/a.png", kind="probabilities").round(1)
    array([[[0. , 2.2]]], dtype=float32)
    """
    path = Path(path)
    if p.ndim != 2:
        raise ValueError(f"{path}: an image of probabilities is [H, W], not of shape {p.shape}")
    if lacking := int(np.isnan(p).sum()):
        raise ValueError(
            f"{path}: {lacking} pixels have no data (NaN), which grey values cannot say; write "
            "marginals or label maps, which can"
        )
    function(path, "write_saliency")(path, p)
