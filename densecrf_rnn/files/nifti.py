"""NIfTI volumes. They store x, y, z; arrays here are [D, H, W], that is z, y, x."""

from pathlib import Path
from typing import Any

import numpy as np

from .._atomic import replaced
from .._typing import Array
from .paths import reading, required


def read_volume(path: Path) -> Array:
    """Read a volume [D, H, W], or [C, D, H, W] if the file has channels, on its axis 4 or 5.

    Values are scaled by the slope and intercept of the header.
    """
    data = np.asanyarray(_load(path).dataobj)
    if data.dtype.fields:
        raise ValueError(f"{path}: a NIfTI file of colours; save numbers, [x, y, z, channel]")
    if data.ndim == 5 and data.shape[3] == 1:  # the standard stores vectors on axis 5
        data = data[:, :, :, 0]
    if data.ndim not in (3, 4):
        raise ValueError(
            f"{path}: a NIfTI file of shape {data.shape}; it must be [x, y, z] or "
            "[x, y, z, channel]"
        )
    return np.ascontiguousarray(data.T)


def read_scores(path: Path) -> Array:
    """Read logits or probabilities [L, D, H, W]."""
    volume = read_volume(path)
    return volume[None] if volume.ndim == 3 else volume


def read_image(path: Path) -> Array:
    """Read an image [D, H, W, C]."""
    return np.moveaxis(read_scores(path), 0, -1)


def read_voxel_size(path: Path) -> tuple[float, float, float]:
    """Read the voxel size along depth, row and column, in the file's unit, usually millimetres."""
    x, y, z = (float(size) for size in _load(path).header.get_zooms()[:3])
    return z, y, x


def write_labels(path: Path, labels: Array, palette: Array | None, like: Path | None) -> None:
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
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.int32
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the display range of `like` does not suit labels
    image = type(model)(np.ascontiguousarray(labels.T).astype(dtype), model.affine, header)
    with replaced(path) as partial:
        nibabel.save(image, partial)


def _load(path: Path) -> Any:
    return required("nibabel", "files", path).load(path)
