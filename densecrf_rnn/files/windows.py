"""Arrays in files that are read and written in parts: zarr and .npy."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from ..tiles import Sliceable
from .paths import required

Write = Callable[[tuple[slice, ...], Array], None]

_CHUNK = {2: 1024, 3: 128}  # length of the chunks of zarr arrays, by number of spatial axes


class View:
    """An array whose parts are computed by a function when they are read."""

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, part: Callable[[tuple[slice, ...]], Array]
    ) -> None:
        self.shape, self.dtype, self._part = shape, np.dtype(dtype), part

    def __getitem__(self, where: tuple[slice, ...]) -> Array:
        return self._part(where)


class Source:
    """An open file that is read in parts, as logits, image or mask; S are its spatial axes.

    This base class reads an array (.npy, zarr); a subclass overrides it for other formats.
    """

    def __init__(self, path: Path, array: Any) -> None:
        self.path, self._array = path, array

    def maps(self) -> Sliceable:
        """Return the logits [L, *S]."""
        return self._array

    def image(self, axes: int, bands: Sequence[int] | None = None) -> Sliceable:
        """Return the image [*S, C] with `axes` spatial axes.

        An array of only `axes` axes gets a channel axis. `bands` chooses the channels of a GeoTIFF,
        counted from 1; for other formats it must be None.
        """
        if bands is not None:
            raise ValueError(f"{self.path}: only a GeoTIFF has bands; leave them out")
        array = self._array
        if len(array.shape) != axes:
            return array
        return View((*array.shape, 1), array.dtype, lambda where: self._part(where[:-1])[..., None])

    def nonzero(self) -> Sliceable:
        """Return a mask, bool [*S]: True where the file's array or single band is not 0."""
        return View(self._array.shape, bool, lambda where: self._part(where) != 0)

    def valid(self) -> Sliceable | None:
        """Return a mask, bool [H, W]: True where all bands of a GeoTIFF have data.

        None if the file does not mark pixels as without data.
        """
        return None

    def ground(self) -> dict[str, Any]:
        """Return the georeference as keywords of rasterio.open; empty if there is none."""
        return {}

    def _part(self, where: tuple[slice, ...]) -> Array:
        return np.asarray(self._array[where])


def open_npy(path: Path, stack: contextlib.ExitStack) -> Source:
    """Open a .npy file as a memory map."""
    return Source(path, np.lib.format.open_memmap(path, mode="r"))


def open_zarr(path: Path, stack: contextlib.ExitStack) -> Source:
    """Open a zarr array."""
    return Source(path, required("zarr", "raster", path).open_array(str(path), mode="r"))


@contextlib.contextmanager
def created_npy(
    path: Path, shape: tuple[int, ...], dtype: Any, axes: int, nodata: float | None, ground: Any
) -> Iterator[Write]:
    """Create a .npy file and yield a function that writes a part of it; see `formats.Format`."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    yield _writer(array, axes)
    array.flush()


@contextlib.contextmanager
def created_zarr(
    path: Path, shape: tuple[int, ...], dtype: Any, axes: int, nodata: float | None, ground: Any
) -> Iterator[Write]:
    """Create a zarr array and yield a function that writes a part of it; see `formats.Format`."""
    array = required("zarr", "raster", path).open_array(
        str(path), mode="w", shape=shape, dtype=dtype,
        chunks=tuple(min(n, _CHUNK[axes]) for n in shape),
        fill_value=0 if nodata is None else nodata,
    )  # fmt: skip
    if "transform" in ground:
        array.attrs["crs"] = ground["crs"].to_wkt() if ground["crs"] else None
        array.attrs["transform"] = list(ground["transform"])[:6]
    yield _writer(array, axes)


def _writer(array: Any, axes: int) -> Write:
    labels = (slice(None),) * (len(array.shape) - axes)

    def write(where: tuple[slice, ...], values: Array) -> None:
        array[(*labels, *where)] = values

    return write
