"""NIfTI volumes. They store x, y, z; arrays here are [D, H, W], that is z, y, x."""

from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .arrays import reading, required


def read_volume(path: Path) -> Array:
    """[D, H, W], or [C, D, H, W] if there are channels (axis 4 or 5), scaled as the header says."""
    with reading(path, "a NIfTI file"):
        data = np.asanyarray(_loaded(path).dataobj)
    if data.dtype.fields:
        raise ValueError(f"{path}: a NIfTI file of colours; save [x, y, z, channel] of numbers")
    if data.ndim == 5 and data.shape[3] == 1:  # the standard's place for vectors
        data = data[:, :, :, 0]
    if data.ndim not in (3, 4):
        raise ValueError(
            f"{path}: a NIfTI file of shape {data.shape}; it must be [x, y, z] or "
            "[x, y, z, channel]"
        )
    return np.ascontiguousarray(data.T)


def read_voxel_size(path: Path) -> tuple[float, float, float]:
    """Along depth, row and column, in the file's unit, which is millimetres as a rule."""
    with reading(path, "a NIfTI file"):
        x, y, z = (float(size) for size in _loaded(path).header.get_zooms()[:3])
    return z, y, x


def write_label_volume(path: Path, labels: Array, like: Path) -> None:
    """Labels [D, H, W] with affine, units and orientation of `like`."""
    nibabel = required("nibabel", "nibabel", "files", path)
    with reading(like, "a NIfTI file"):
        model = _loaded(like)
    header = model.header.copy()
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.int32
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # of the image's intensities
    image = type(model)(np.ascontiguousarray(labels.T).astype(dtype), model.affine, header)
    nibabel.save(image, path)


def _loaded(path: Path) -> Any:
    return required("nibabel", "nibabel", "files", path).load(path)
