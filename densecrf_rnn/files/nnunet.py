"""Probabilities that nnU-Net saves as NAME.npz, and what NAME.pkl next to it says of their place.

nnU-Net v1 (array "softmax") cuts images to the box of their non-zero voxels and saves the maps of
that box; NAME.pkl holds the box. v2 (array "probabilities") saves maps of the whole image; its
first versions stored zeros in all maps outside the box. With the reader NibabelIOWithReorient, v2
saves the maps in the directions R, A, S, whatever those of the image are; NAME.pkl holds both
affines.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from ..checks.wording import size as shown
from .geometry import Geometry, turn_onto
from .npy import names_npz
from .paths import extension
from .plain_pickle import Stored, read_plain

KEYS = ("softmax", "probabilities")
# Keys of NAME.pkl by version: size before cropping, box, size after cropping.
_CROPPING = (
    ("original_size_of_raw_data", "crop_bbox", "size_after_cropping"),
    (
        "shape_before_cropping", "bbox_used_for_cropping",
        "shape_after_cropping_and_before_resampling",
    ),
)  # fmt: skip
_ROUNDING = 0.02  # most that the sum of float16 probabilities of a pixel is off 1


def array_name(path: Path, key: str | None) -> str | None:
    """Return the name of the array of nnU-Net's probabilities in a file; None for other files.

    `key` is the array to be read if the file holds several, or None.
    """
    if extension(path) != ".npz" or not path.is_file():
        return None
    if key is not None:
        return key if key in KEYS else None
    try:
        names = names_npz(path)
    except Exception:  # damaged, or no .npz file: the reader says so
        return None
    return names[0] if len(names) == 1 and names[0] in KEYS else None


def properties_path(path: Path) -> Path | None:
    """Return NAME.pkl next to NAME.npz, if there is one."""
    properties = path.with_suffix(".pkl")
    return properties if properties.is_file() else None


def completed(path: Path, key: str | None, maps: Array) -> Array:
    """Return the maps of the whole image; `maps` were read from `path` with `key`.

    Arrays of other files, and arrays that are not maps, are returned as they are.

    Parameters
    ----------
    path : Path
    key : str or None
    maps : ndarray [L, *S]

    Returns
    -------
    ndarray [L, *S]
        Outside the box label 0 has the probability 1; maps of regions, which do not sum to 1, are 0
        there.

    Raises
    ------
    ValueError
        NAME.pkl does not fit the maps, or holds more than plain values and NumPy arrays.
    """
    if maps.dtype.kind != "f" or maps.ndim not in (3, 4) or array_name(path, key) is None:
        return maps
    properties = properties_path(path)
    about = {} if properties is None else read_plain(properties)
    if properties is not None and isinstance(about, dict):
        maps = _placed(path, properties, about, maps)
        maps = _in_directions_of_image(properties, about, maps)
    return _with_background(maps)


def _placed(path: Path, properties: Path, about: dict[Any, Any], maps: Array) -> Array:
    """Return the maps of the whole image: those that are of the box alone surrounded by zeros."""
    for names in _CROPPING:
        if any(name not in about for name in names):
            continue
        with _understood(properties):
            whole, box, inner = (_integers(about[name]) for name in names)
            low = box[:, 0]
            fits = len(whole) == len(box) == len(inner) and (low >= 0).all()
            fits = fits and (low + inner <= whole).all()
        found = np.array(maps.shape[1:])
        if sorted(found) == sorted(whole):  # v2 keeps the size before its own transposition
            return maps
        if not fits or not np.array_equal(found, inner):
            raise ValueError(
                f"{path}: holds maps of {shown(maps.shape[1:])}, but {properties.name} next to it "
                f"says {shown(tuple(whole))} for the image and {shown(tuple(inner))} for the part "
                f"that was predicted; if it belongs to other maps, move {properties.name} away"
            )
        placed = np.zeros((len(maps), *whole), maps.dtype)
        placed[(slice(None), *map(slice, low, low + inner))] = maps
        return placed
    return maps


def _in_directions_of_image(properties: Path, about: dict[Any, Any], maps: Array) -> Array:
    """Turn maps that nnU-Net saved in the directions R, A, S."""
    stored = about.get("nibabel_stuff")
    if not isinstance(stored, dict) or "reoriented_affine" not in stored:
        return maps
    with _understood(properties):
        own, whole = (
            np.array(_values(stored[name]), float)[:, [2, 1, 0, 3]]
            for name in ("reoriented_affine", "original_affine")
        )
        found = np.abs(np.linalg.solve(whole, own)[:3, :3])
        size = np.array(maps.shape[1:])[found.argmax(1)]
    here = Geometry(maps.shape[1:], own, "NIfTI")
    there = Geometry(tuple(map(int, size)), whole, "NIfTI")
    turn = turn_onto(here, there, (properties, "the image"))
    return maps if turn is None else turn(maps)


def _with_background(maps: Array) -> Array:
    """Give label 0 the probability 1 where all maps are 0 and they sum to 1 everywhere else."""
    if len(maps) < 2:
        return maps
    total = maps.sum(0, dtype=np.float32)
    empty = total == 0
    if not empty.any() or not (np.abs(total - 1) < _ROUNDING)[~empty].all():
        return maps
    maps = maps.copy()
    maps[0, empty] = 1
    return maps


@contextlib.contextmanager
def _understood(properties: Path) -> Iterator[None]:
    """Turn exceptions at values unlike nnU-Net's into a ValueError that names the file."""
    try:
        yield
    except (TypeError, ValueError, IndexError, np.linalg.LinAlgError) as error:
        raise ValueError(
            f"{properties}: not as nnU-Net writes it ({error}); move it away if it is of another "
            "program"
        ) from error


def _values(stored: Any) -> Any:
    return stored.values if isinstance(stored, Stored) else stored


def _integers(stored: Any) -> Array:
    """Return a size or a box as an array of integers."""
    return np.array([_values(part) for part in _values(stored)]).astype(np.int64, casting="safe")
