"""NIfTI volumes. They store x, y, z; arrays here are [D, H, W], that is z, y, x."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np

from .._atomic import replaced
from .._typing import Array
from . import sizes
from .geometry import Geometry, corner_shift
from .paths import extension, reading, required

_ROUNDING = 2.0  # most voxels by which a rounded quaternion moves a corner of a large volume

_HEADER = 540  # bytes of the longer header, that of NIfTI-2; the other has 348
_FIRST_VOXEL = 2**24  # most bytes before the voxels: a header and notes


def read_volume(path: Path) -> Array:
    """Read a volume [D, H, W], or [C, D, H, W] if the file has channels, on its axis 4 or 5.

    Its byte order is native. Values are scaled by the slope and intercept of the header.
    """
    image = _load(path)
    dtype = image.get_data_dtype()
    if dtype.fields:
        raise ValueError(f"{path}: a NIfTI file of colours; save numbers, [x, y, z, channel]")
    scaled = image.dataobj.slope != 1 or image.dataobj.inter != 0
    dtype = np.result_type(dtype, np.float64) if scaled else dtype
    sizes.check(path, image.shape, dtype, labels=math.prod(image.shape[3:]))
    data = np.asanyarray(image.dataobj)
    if data.ndim == 5 and data.shape[3] == 1:  # the standard stores vectors on axis 5
        data = data[:, :, :, 0]
    if data.ndim not in (3, 4):
        raise ValueError(
            f"{path}: a NIfTI file of shape {data.shape}; it must be [x, y, z] or "
            "[x, y, z, channel]"
        )
    return np.ascontiguousarray(data.T, data.dtype.newbyteorder("="))


def read_scores(path: Path) -> Array:
    """Read logits or probabilities [L, D, H, W]."""
    volume = read_volume(path)
    return volume[None] if volume.ndim == 3 else volume


def read_image(path: Path) -> Array:
    """Read an image [D, H, W, C]."""
    return np.moveaxis(read_scores(path), 0, -1)


def read_geometry(path: Path, key: str | None = None) -> Geometry:
    """Read where the voxels are: the sform or, without one, the qform of the header.

    With neither, or with a matrix that cannot be inverted, only the voxel size is known.
    """
    image = _load(path)
    header = image.header
    size = tuple(map(int, (*image.shape, 1, 1)[:3]))
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:  # a code that the standard does not define
        unit = "unknown"
    affine = np.array(image.affine, np.float64)
    placed = any(int(header[code]) > 0 for code in ("sform_code", "qform_code"))
    if not placed or not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
        placed, affine = False, np.diag([*map(float, (*header.get_zooms(), 1, 1)[:3]), 1])
    qform = _rounded(header, affine, size) if placed else None
    zyx = [2, 1, 0, 3]  # the file stores x, y, z
    return Geometry(
        size[::-1], affine[:, zyx], "NIfTI", None if unit == "unknown" else unit, placed,
        None if qform is None else qform[:, zyx],
    )  # fmt: skip


def _rounded(header: Any, affine: Array, size: tuple[int, ...]) -> Array | None:
    """Return the qform of a header if it differs from the affine by its rounding only, else None.

    Near half a turn, float32 numbers of a quaternion leave angles of a thousandth open.
    """
    try:
        qform = header.get_qform(coded=True)[0]
    except Exception:  # not a quaternion; the sform alone is used
        return None
    if qform is None:
        return None
    shift = corner_shift(np.linalg.solve(affine, qform) - np.eye(4), size)
    return np.asarray(qform, np.float64) if 0 < shift.max() < _ROUNDING else None


def write_labels(path: Path, labels: Array, palette: object, like: Path | None) -> None:
    """Write labels [D, H, W] with affine, units and orientation of the NIfTI file `like`."""
    if labels.ndim != 3 or like is None:
        raise ValueError(
            f"{path}: NIfTI holds labels [D, H, W] with the affine of an image, but the labels "
            f"have shape {labels.shape} and the image is {like}; write another format, or give a "
            "NIfTI image"
        )
    nibabel = required("nibabel", "files", path)
    with reading(like, "a NIfTI file"):
        model = _load(like)
    header = model.header.copy()
    most = int(labels.max(initial=0))
    if most > np.iinfo(np.int32).max:
        raise ValueError(
            f"{path}: NIfTI label maps are written in 32 bits, but the largest label is {most}; "
            "renumber the labels, or write .npy"
        )
    dtype = np.uint8 if most < 256 else np.int32
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the display range of `like` does not suit labels
    image = type(model)(np.ascontiguousarray(labels.T).astype(dtype), model.affine, header)
    with replaced(path) as partial:
        nibabel.save(image, partial)


def read_shape(path: Path) -> tuple[int, ...]:
    """Return the lengths of the axes x, y and z."""
    return tuple(map(int, _load(path).shape[:3]))


def _load(path: Path) -> Any:
    nibabel = required("nibabel", "files", path)
    with gzip.open(path) if extension(path) == ".nii.gz" else open(path, "rb") as file:
        start = file.read(_HEADER)
    if not start:
        raise ValueError("it is empty")
    order = "<" if int.from_bytes(start[:4], "little") in (348, 540) else ">"
    second = 540 in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    magic, offset = (start[4:8], 168) if second else (start[344:348], 108)
    if magic in (b"ni1\0", b"ni2\0"):
        raise ValueError(
            f"{path}: the header of a pair, whose voxels are in another file (.img); save both as "
            "one .nii"
        )
    first = np.frombuffer(start, f"{order}{'i8' if second else 'f4'}", 1, offset)[0]
    if not first <= _FIRST_VOXEL:  # nibabel reads what is before it as notes
        raise ValueError(f"its voxels begin at byte {first:g}, beyond any header")
    return nibabel.load(path)
