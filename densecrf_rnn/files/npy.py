"""Read arrays in .npy and .npz files, after a look at their headers; never pickles."""

import io
import math
import os
import threading
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .._typing import Array
from . import hashing, sizes
from .geometry import STANDARDS, Geometry
from .arrays import check_no_key, check_numbers, choose
from .paths import PICKLED, extension, reading

_LONGEST_HEADER = 2**16  # bytes; that of a plain array has 128
# NumPy parses headers by Python's compiler, whose recursion count goes wrong in Python 3.11 if
# several threads use it at once ("AST constructor recursion depth mismatch").
_PARSING = threading.Lock()
_MAGIC = b"\x93NUMPY"
# Names of arrays that say where the pixels of "marginals" are: Geometry.affine, and `rounded`.
_PLACES = {f"affine_{name.lower().replace('-', '_')}": name for name in STANDARDS}
REGIONS = "regions"  # array of an .npz, which says that its marginals are of maps that may overlap


def read_npy(path: Path, key: str | None) -> Array:
    """Read the array of a .npy file."""
    with hashing.source(path) as file:
        return _data(file, _checked_npy(path, key, file))


def shape_npy(path: Path, key: str | None) -> tuple[int, ...]:
    """Return the shape of the array of a .npy file."""
    with open(path, "rb") as file:
        return _checked_npy(path, key, file).shape


def map_npy(path: Path, key: str | None) -> Array:
    """Open the array of a .npy file as a memory map."""
    with open(path, "rb") as file:
        found = _checked_npy(path, key, file, unpacked=False)
        return np.memmap(
            path, found.dtype, "r", file.tell(), found.shape, "F" if found.fortran else "C"
        )


def _checked_npy(path: Path, key: str | None, file: IO[bytes], unpacked: bool = True) -> "_Header":
    check_no_key(path, key)
    found = _header(path, file)
    _check_length(found, os.fstat(file.fileno()).st_size - file.tell())
    if unpacked:
        sizes.check(path, found.shape, found.dtype)
    return found


def read_npz(path: Path, key: str | None) -> Array:
    """Read one array of an .npz file."""
    with _Archive(path) as archive:
        return archive.read(choose(path, archive.maps(key), key))


def shape_npz(path: Path, key: str | None) -> tuple[int, ...]:
    """Return the shape of one array of an .npz file."""
    with _Archive(path) as archive:
        return archive.header(choose(path, archive.maps(key), key)).shape


def names_npz(path: Path) -> list[str]:
    """Return the names of the arrays of an .npz file."""
    with _Archive(path) as archive:
        return archive.names


def place_npz(geometry: Geometry) -> dict[str, Array]:
    """Return the array, by its name, that says where the pixels of marginals are."""
    name = next(name for name, standard in _PLACES.items() if standard == geometry.standard)
    return {name: np.stack([one.affine for one in geometry.statements])}


def geometry_npz(path: Path, key: str | None) -> Geometry | None:
    """Return where the pixels of marginals are, if `write_marginals` was told; else None."""
    with _Archive(path) as archive:
        found = [name for name in archive.names if name in _PLACES]
        if len(found) != 1 or "marginals" not in archive.names or key not in (None, "marginals"):
            return None
        size = archive.header("marginals").shape[1:]
        affines = archive.read(found[0]).astype(np.float64)
    side = len(size) + 1
    if affines.shape not in ((1, side, side), (2, side, side)) or not np.isfinite(affines).all():
        raise ValueError(
            f"{path}: its array {found[0]!r} must hold one or two affines, {side} x {side} numbers"
        )
    if any(np.linalg.det(affine) == 0 for affine in affines):
        raise ValueError(f"{path}: its array {found[0]!r} holds an affine that cannot be inverted")
    rounded = affines[1] if len(affines) == 2 else None
    return Geometry(size, affines[0], _PLACES[found[0]], rounded=rounded)


class _Header(NamedTuple):
    """What the header of a .npy file says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def _header(path: Path, file: IO[bytes], name: str | None = None) -> _Header:
    """Read the header of an array in the format .npy, of a `name` in an archive.

    NumPy's own reader takes what begins otherwise for a pickle, and reads headers of any length.
    """
    start = file.read(8)
    if start[:6] != _MAGIC:
        if name is None and start.startswith(b"PK"):
            raise ValueError("it is an archive; rename it to .npz")
        if start.startswith(b"\x80"):
            raise ValueError(f"{path}: {PICKLED}")
        raise ValueError("it begins otherwise" if start else "it is empty")
    width = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(start[6:])
    if width is None:
        raise ValueError("it has an unknown version, or is cut short")
    stored = file.read(width)
    length = int.from_bytes(stored, "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header takes {sizes.shown(length)}")
    text = file.read(length)
    if start[6] == 3:  # of records alone
        raise ValueError(f"{path}: its array holds records, not numbers; save plain numbers")
    form = np.lib.format
    read = form.read_array_header_1_0 if width == 2 else form.read_array_header_2_0
    with _PARSING:
        found = _Header(*read(io.BytesIO(stored + text)))
    if found.dtype.hasobject:
        raise ValueError(f"{path}: {PICKLED}")
    check_numbers(path, found.dtype, name)
    return found


def _data(file: IO[bytes], header: _Header) -> Array:
    """Read the array that follows its header."""
    flat = np.empty(math.prod(header.shape), header.dtype)
    bytes_: Any = flat.view(np.uint8)
    rest = memoryview(bytes_)
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it is cut short")
        rest = rest[count:]
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _check_length(header: _Header, rest: int) -> None:
    """Raise ValueError if fewer bytes follow a header than it says."""
    needed = math.prod(header.shape) * header.dtype.itemsize
    if rest < needed:
        raise ValueError(
            f"it is cut short: {sizes.shown(max(rest, 0))} of {sizes.shown(needed)} are there"
        )


class _Archive:
    """An open .npz file; a context manager.

    Attributes
    ----------
    names : list of str
        Names of its arrays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            if file.read(6) == _MAGIC:
                raise ValueError(f"{path}: holds a plain array; rename it to .npy")
            file.seek(0)
            if file.read(1) == b"\x80":
                raise ValueError(f"{path}: {PICKLED}")
        self._zip = zipfile.ZipFile(path)
        self._members = {i.filename.removesuffix(".npy"): i for i in self._zip.infolist()}
        self.names = list(self._members)

    def maps(self, key: str | None) -> list[str]:
        """Return the names to choose from: without a `key`, marks of marginals are left out."""
        names = [name for name in self.names if name not in {*_PLACES, REGIONS}]
        return names if key is None and "marginals" in names else self.names

    def header(self, name: str) -> _Header:
        """Return the header of an array; raise ValueError if it must not be unpacked."""
        with self._zip.open(self._members[name]) as file:
            found = _header(self._path, file, name)
            _check_length(found, self._members[name].file_size - file.tell())
        sizes.check(self._path, found.shape, found.dtype, self._members[name].compress_size)
        return found

    def read(self, name: str) -> Array:
        """Read an array."""
        self.header(name)
        with self._zip.open(self._members[name]) as file:
            return _data(file, _header(self._path, file, name))

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()


def is_of_regions(path: Path | str) -> bool:
    """Return whether a file holds marginals of regions, as `write_marginals` marks them."""
    path = Path(path)
    if extension(path) != ".npz":
        return False
    with reading(path, "an .npz file"), _Archive(path) as archive:
        return set(archive.names) - _PLACES.keys() == {"marginals", REGIONS}


def names_of_maps(path: Path | str, maps: Array) -> Array | None:
    """Return the label of each of the `maps` [L, ...], which were read from the file `path`.

    `write_marginals` stores these labels if `classes` is given. Return None if the file is not an
    .npz with exactly the arrays "marginals" and "classes", apart from that of a place.

    Raises
    ------
    ValueError
        "classes" does not name a label for each map.
    """
    path = Path(path)
    if extension(path) != ".npz":
        return None
    with reading(path, "an .npz file"), _Archive(path) as archive:
        if set(archive.names) - _PLACES.keys() != {"marginals", "classes"}:
            return None
        classes = archive.read("classes")
    return check_classes(path, "its array 'classes'", classes, len(maps))


def check_classes(path: Path, name: str, classes: object, count: int) -> Array:
    """Check that `classes` holds labels of `count` maps, each once, and return it as int64."""
    found = np.asarray(classes)
    integers = found.dtype.kind in "iu" and found.min(initial=0) >= 0
    if not integers or found.shape != (count,) or len(np.unique(found)) < count:
        raise ValueError(
            f"{path}: {name} must hold the labels of the {count} maps, integers of at least 0, "
            "each once"
        )
    return found.astype(np.int64)
