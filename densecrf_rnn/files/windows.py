"""Arrays in files that are read and written in parts: zarr and .npy."""

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _platform
from .._typing import Array
from ..tiles import Sliceable
from . import containers, npy
from .geometry import Geometry, Turn
from .paths import reading, required
from .readback import Checked, Where, Write, disk_errors

_CHUNK = {2: 1024, 3: 128}  # length of the chunks of zarr arrays, by number of spatial axes


class View:
    """An array whose parts are computed by a function when they are read.

    Parameters
    ----------
    shape : tuple of int
    dtype : NumPy dtype
    part : function of a tuple of slices, one per axis
    valid : array-like, optional
        Where there are data, bool [*S]; None if no pixel is marked as without data.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        part: Callable[[tuple[slice, ...]], Array],
        valid: Sliceable | None = None,
    ) -> None:
        self.shape, self.dtype, self._part, self.valid = shape, np.dtype(dtype), part, valid

    def __getitem__(self, where: tuple[slice, ...]) -> Array:
        return self._part(where)


def turned(array: Sliceable, turn: Turn | None) -> Sliceable:
    """Return a view of an array [..., *S] with its spatial axes turned; None turns nothing."""
    if turn is None or turn.is_identity:
        return array
    first = len(array.shape) - len(turn.order)
    shape = (*array.shape[:first], *(array.shape[first + axis] for axis in turn.order))

    def part(where: tuple[slice, ...]) -> Array:
        spots = list(where)
        for axis, (source, flipped) in enumerate(zip(turn.order, turn.flipped, strict=True)):
            at, length = where[first + axis], shape[first + axis]
            if flipped:
                at = slice(length - at.stop, length - at.start)
            spots[first + source] = at
        return turn(np.asarray(array[tuple(spots)]))

    has_data = valid(array)
    return View(shape, array.dtype, part, None if has_data is None else turned(has_data, turn))


def valid(view: Sliceable) -> Sliceable | None:
    """Return where a view has data, bool [*S]; None if no pixel is marked as without data."""
    return getattr(view, "valid", None)


def named(view: Sliceable, path: Path) -> Sliceable:
    """Return the same view; its errors name the file that it reads."""

    def part(where: tuple[slice, ...]) -> Array:
        with reading(path, "a file that can be read in parts"):
            return np.asarray(view[where])

    return View(view.shape, view.dtype, part, valid(view))


def one_map(view: Sliceable) -> Sliceable:
    """Return a view of one map [H, W] as [1, H, W]."""
    return View((1, *view.shape), view.dtype, lambda where: np.asarray(view[where[-2:]])[None])


def filled(view: Sliceable) -> Sliceable:
    """Return a view of an image [*S, C] that is 0 where there are no data."""
    has_data = valid(view)
    if has_data is None:
        return view

    def part(where: tuple[slice, ...]) -> Array:
        values = np.asarray(view[where]).copy()
        values[~has_data[where[:-1]]] = 0
        return values

    return View(view.shape, view.dtype, part)


def _plain(array: Any) -> Sliceable:
    """Return an array as `read_logits` reads it: in native byte order, and no long doubles."""
    dtype = np.dtype(array.dtype)
    if dtype.kind == "f" and dtype.itemsize > 8:
        wanted = np.dtype(np.float32)
    else:
        wanted = dtype.newbyteorder("=")
    if wanted == dtype and dtype.isnative:
        return array
    return View(array.shape, wanted, lambda where: np.asarray(array[where]).astype(wanted))


def of_image(scores: "Source", guide: "Source") -> Sliceable:
    """Return the logits [L, *S] of `scores` without an axis of a batch, or of depth, of length 1.

    An axis 0 or 1 of length 1 is dropped if only without it the maps have the size of the image
    `guide`; see `read_logits`.
    """
    maps = scores.maps()
    shape = tuple(maps.shape)
    if type(scores) is not Source:  # the axes of other formats are known
        return maps
    dropped = [axis for axis in (0, 1) if len(shape) in (4, 5) and shape[axis] == 1]
    for axis in (None, *dropped):
        left = [n for i, n in enumerate(shape) if i != axis]
        if len(left) in (3, 4) and _size(guide, len(left) - 1) == tuple(left[1:]):
            return maps if axis is None else _without(maps, axis)
    return _without(maps, 0) if 0 in dropped else maps


def _size(guide: "Source", axes: int) -> tuple[int, ...] | None:
    with contextlib.suppress(ValueError):
        return tuple(guide.image(axes).shape[:-1])
    return None


def _without(array: Sliceable, axis: int) -> View:
    """Return a view of an array without an axis of length 1."""
    shape = (*array.shape[:axis], *array.shape[axis + 1 :])

    def part(where: tuple[slice, ...]) -> Array:
        found = np.asarray(array[(*where[:axis], slice(0, 1), *where[axis:])])
        return found.reshape(*found.shape[:axis], *found.shape[axis + 1 :])

    return View(shape, array.dtype, part)


class Source:
    """An open file that is read in parts, as logits, image or mask; S are its spatial axes.

    This base class reads an array (.npy, zarr); a subclass overrides it for other formats.
    """

    def __init__(self, path: Path, array: Any) -> None:
        self.path = path
        self._array: Any = _plain(array)

    def maps(self) -> Sliceable:
        """Return the logits [L, *S]."""
        return self._array

    def image(self, axes: int, bands: Sequence[int] | None = None) -> Sliceable:
        """Return the image [*S, C] with `axes` spatial axes.

        An array of only `axes` axes gets a channel axis. `bands` chooses the channels of a TIFF,
        counted from 1; for other formats it must be None.
        """
        if bands is not None:
            raise ValueError(f"{self.path}: only a TIFF has bands; leave them out")
        array = self._array
        if len(array.shape) != axes:
            return array
        return View((*array.shape, 1), array.dtype, lambda where: self._part(where[:-1])[..., None])

    def labels(self) -> Sliceable:
        """Return the label map, or mask, [*S]."""
        return self._array

    def ground(self) -> dict[str, Any]:
        """Return the georeference as keywords of rasterio.open; empty if there is none."""
        return {}

    def geometry(self) -> Geometry | None:
        """Return where the pixels are; None if the file does not say."""
        return None

    def _part(self, where: tuple[slice, ...]) -> Array:
        return np.asarray(self._array[where])


def open_npy(path: Path, stack: contextlib.ExitStack, key: str | None = None) -> Source:
    """Open a .npy file as a memory map."""
    return Source(path, npy.map_npy(path, key))


def open_zarr(path: Path, stack: contextlib.ExitStack, key: str | None = None) -> Source:
    """Open a zarr array, or one array of a zarr group."""
    required("zarr", "raster", path)
    return Source(path, containers.open_zarr(path, key))


@contextlib.contextmanager
def created_npy(
    path: Path, shape: tuple[int, ...], dtype: Any, axes: int, nodata: float | None, ground: Any
) -> Iterator[Write]:
    """Create a .npy file and yield a function that writes a part of it; see `formats.Format`.

    No memory map is used: on a full disk, writing into one ends the process.
    """
    dtype = np.dtype(dtype)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
    )
    start, size = header.tell(), math.prod(shape) * dtype.itemsize
    with open(path, "xb+", buffering=0) as file:
        _platform.reserve_room(file.fileno(), start + size)
        _pwrite(file.fileno(), header.getbuffer(), 0)

        def write(where: Where, values: Array) -> None:
            data, done = memoryview(values).cast("B"), 0  # type: ignore[arg-type]
            for at, length in runs(shape, _all_labels(shape, where)):
                stop = done + length * dtype.itemsize
                _pwrite(file.fileno(), data[done:stop], start + at * dtype.itemsize)
                done = stop

        checked = Checked(path, size, write)
        yield checked
    with open(path, "rb", buffering=0) as file:

        def read(where: Where) -> Array:
            return np.concatenate(
                [_pread(file.fileno(), n, start + at * dtype.itemsize, dtype)
                 for at, n in runs(shape, _all_labels(shape, where))]
            )  # fmt: skip

        checked.compare(read)


def runs(shape: tuple[int, ...], where: Where) -> Iterator[tuple[int, int]]:
    """Iterate over the runs of elements of an array that a part consists of: (first, number).

    Examples
    --------
    >>> list(runs((4, 5), (slice(1, 3), slice(0, 5))))
    [(5, 10)]
    >>> list(runs((4, 5), (slice(1, 3), slice(2, 4))))
    [(7, 2), (12, 2)]
    """
    axis = len(shape) - 1  # the last one of which only a part is taken
    while axis > 0 and (where[axis].start, where[axis].stop) == (0, shape[axis]):
        axis -= 1
    steps = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    first, number = where[axis].start * steps[axis], where[axis].stop - where[axis].start
    for index in itertools.product(*(range(s.start, s.stop) for s in where[:axis])):
        yield first + sum(map(math.prod, zip(index, steps))), number * steps[axis]


def _all_labels(shape: tuple[int, ...], where: Where) -> Where:
    return (*(slice(0, n) for n in shape[: len(shape) - len(where)]), *where)


def _pwrite(file: int, data: memoryview, at: int) -> None:
    while data:
        written = _platform.write_at(file, data, at)
        data, at = data[written:], at + written


def _pread(file: int, count: int, at: int, dtype: Any) -> Array:
    data, got = bytearray(count * dtype.itemsize), 0
    while got < len(data):
        block = _platform.read_at(file, len(data) - got, at + got)
        if not block:
            raise EOFError("the file is too short")
        data[got : got + len(block)] = block
        got += len(block)
    return np.frombuffer(data, dtype)


@contextlib.contextmanager
def created_zarr(
    path: Path, shape: tuple[int, ...], dtype: Any, axes: int, nodata: float | None, ground: Any
) -> Iterator[Write]:
    """Create a zarr array and yield a function that writes a part of it; see `formats.Format`."""
    zarr, size = required("zarr", "raster", path), math.prod(shape) * np.dtype(dtype).itemsize
    with disk_errors(path, size):
        array = zarr.open_array(
            str(path), mode="w-", shape=shape, dtype=dtype,
            chunks=tuple(min(n, _CHUNK[axes]) for n in shape),
            fill_value=0 if nodata is None else nodata,
        )  # fmt: skip
        if "transform" in ground:
            array.attrs["crs"] = ground["crs"].to_wkt() if ground["crs"] else None
            array.attrs["transform"] = list(ground["transform"])[:6]

    def write(where: Where, values: Array) -> None:
        array[_all_labels(shape, where)] = values

    checked = Checked(path, size, write)
    yield checked
    checked.compare(lambda where: zarr.open_array(str(path), mode="r")[_all_labels(shape, where)])
