"""Whether arrays can be written, and whether two of them hold the same bytes, also in files.

NumPy knows of memory alone. An HDF5 or zarr file gives a new object each time a dataset is looked
up, and two memory maps of one file are of different memory.
"""

import os
from typing import Any

import numpy as np


def is_read_only(array: Any) -> bool:
    """Return whether an array says that it cannot be written: of NumPy, zarr or h5py."""
    flags, file = (getattr(array, name, None) for name in ("flags", "file"))
    closed = getattr(flags, "writeable", True) is False or getattr(file, "mode", "") == "r"
    return closed or getattr(array, "read_only", False) is True


def is_shared(one: Any, other: Any) -> bool:
    """Return whether writing one of two arrays may change the other: of NumPy, zarr or h5py."""
    if one is other:
        return True
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.may_share_memory(one, other) or _maps_same_bytes(one, other)
    if type(one) is not type(other) or isinstance(one, np.ndarray):
        return False
    if hasattr(one, "id") and hasattr(one, "file"):  # h5py
        return bool(one.id == other.id) or _same(
            (one.file.filename, one.name), (other.file.filename, other.name)
        )
    if hasattr(one, "store") and hasattr(one, "path"):  # zarr
        return one.store is other.store and one.path == other.path or _same(
            (_place(one.store), one.path), (_place(other.store), other.path)
        )
    return False


def _same(one: tuple[Any, str], other: tuple[Any, str]) -> bool:
    """Return whether two (file or folder, name in it) are the same, however they are written."""
    places = [place for place, _ in (one, other) if place is not None and os.path.exists(place)]
    return len(places) == 2 and one[1] == other[1] and os.path.samefile(*places)


def _place(store: Any) -> Any:
    """Return the folder of a zarr store, of versions 2 and 3, or None."""
    place = getattr(store, "root", getattr(store, "path", None))
    return place if isinstance(place, (str, os.PathLike)) else None


def _maps_same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays are memory maps of parts of one file that overlap."""
    found = [_mapped(array) for array in (one, other)]
    if None in found:
        return False
    (path, start, end), (other_path, other_start, other_end) = found  # type: ignore[misc]
    return os.path.samefile(path, other_path) and start < other_end and other_start < end


def _mapped(array: np.ndarray) -> tuple[Any, int, int] | None:
    """Return the file that an array is a map of, and its range of bytes there, or None."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    path = getattr(root, "filename", None)
    if not isinstance(root, np.memmap) or path is None or not os.path.exists(path):
        return None
    steps = [(size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)]
    begin = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    begin += root.offset
    low, high = sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps)
    return path, begin + low, begin + high + array.itemsize
