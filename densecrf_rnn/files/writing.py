"""Write label maps and marginals to files, each file completely or not at all."""

from pathlib import Path
from typing import Literal

import numpy as np

from .. import checks
from .._typing import Array
from ..checks.wording import kind
from . import halves
from .formats import can, function
from .geometry import Geometry
from .npy import REGIONS, check_classes, place_npz

_ROUNDING = 1e-3  # probabilities that leave 0..1 by no more do so by rounding


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
        Colours of a PNG; default Pascal VOC's. Fewer rows suffice for lower labels. "none" makes it
        8-bit grey: OpenCV's imread then returns the labels, where it returns colours of a PNG with
        a palette.
    like : path, optional
        NIfTI file whose affine, units and orientation are copied; required for NIfTI.
    nodata : int, optional
        Value in `labels` of pixels without data. A PNG says so in a text, for `read_labels` and
        `read_valid`; other formats do not.

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    TypeError, ValueError
        The format cannot hold these labels, or an argument has the wrong type or shape.

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
    checks.array_kind("labels", labels, batched=False)
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: labels must be integers of at least 0")
    _check_palette(path, palette, int(labels.max(initial=0)))
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
    TypeError, ValueError
        The format holds no marginals, or no `classes`, `geometry` or `regions`; or an argument has
        the wrong type, shape or value, as logits have.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_marginals(f"{folder}/a.npz", np.full((2, 4, 5), 0.5, np.float32))
    ...     np.load(f"{folder}/a.npz")["marginals"].dtype.name
    'float16'
    """
    path, more = Path(path), {} if classes is None else {"classes": classes}
    checks.option("dtype", dtype, ("float16", "float32"))
    checks.array_kind("q", q, batched=False)
    if q.ndim not in (3, 4) or q.dtype.kind != "f":
        raise ValueError(
            f"{path}: q has shape {q.shape} and dtype {q.dtype}; marginals are [L, H, W] or "
            "[L, D, H, W], floating point"
        )
    if classes is not None:
        check_classes(path, "classes", classes, len(q))
    if geometry is not None:
        more |= place_npz(geometry)
    if regions:
        more[REGIONS] = np.arange(len(q))
    q = _probabilities(path, "q", q.astype(np.float32, copy=False))
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
    TypeError, ValueError
        The format holds no probabilities, or `p` is no image, or holds NaN or other numbers than
        0..1.

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
    checks.array_kind("p", p, batched=False)
    if p.ndim != 2:
        raise ValueError(f"{path}: an image of probabilities is [H, W], not of shape {p.shape}")
    if lacking := int(np.isnan(p).sum()):
        raise ValueError(
            f"{path}: {lacking} pixels have no data (NaN), which grey values cannot say; write "
            "marginals or label maps, which can"
        )
    function(path, "write_saliency")(path, _probabilities(path, "p", p))


def _probabilities(path: Path, name: str, p: Array) -> Array:
    """Return probabilities, clipped if they leave 0..1 by rounding; NaN stays NaN.

    Raise ValueError if they leave it by more.
    """
    low, high = np.fmin.reduce(p, None, initial=0), np.fmax.reduce(p, None, initial=1)
    if low == 0 and high == 1:
        return p
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"{path}: {name} holds {low:.6g}..{high:.6g}, but probabilities lie in 0..1; refine "
            f"logits first, and for probabilities with outliers pass {name}.clip(0, 1)"
        )
    return p.clip(0, 1)


def _check_palette(path: Path, palette: Array | Literal["none"] | None, most: int) -> None:
    """Check that a palette is one, with a colour for each label up to `most`."""
    if palette is None or (isinstance(palette, str) and palette == "none"):
        return
    wanted = "give the colours of the labels, a uint8 array [256, 3], or 'none'"
    if not isinstance(palette, np.ndarray):
        by_default = "; leave it out for Pascal VOC's" if isinstance(palette, str) else ""
        raise TypeError(f"palette is {kind(palette)}; {wanted}{by_default}")
    if palette.dtype != np.uint8 or palette.shape[1:] != (3,) or not 0 < len(palette) <= 256:
        raise ValueError(f"palette has shape {palette.shape} and dtype {palette.dtype}; {wanted}")
    if can(path, "palette") and len(palette) <= most < 256:
        raise ValueError(
            f"{path}: holds the label {most}, but palette lists {len(palette)} colours; list one "
            "for each label"
        )
