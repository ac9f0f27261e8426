"""Files that are read and written in parts: GeoTIFF by rasterio, zarr, .npy.

Knows where a part lies, and where a raster lies on the ground; not what either is for.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from ..tiles import Sliceable
from .arrays import reading, required
from .pairs import extension

Write = Callable[[tuple[slice, ...], Array], None]

GEOTIFF = (".tif", ".tiff")
KINDS = (*GEOTIFF, ".zarr", ".npy")

_CACHE = 512  # MB of blocks that GDAL keeps; its default is a twentieth of the machine's memory
_BLOCK = 256  # pixels a side, of the GeoTIFFs written
_CHUNK = {2: 1024, 3: 128}  # of the zarr arrays written, by their spatial axes; as default tiles


class View:
    """An array of which each part that is read comes from a function."""

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, part: Callable[[tuple[slice, ...]], Array]
    ) -> None:
        self.shape, self.dtype, self._part = shape, np.dtype(dtype), part

    def __getitem__(self, where: tuple[slice, ...]) -> Array:
        return self._part(where)


class Source:
    """An open file, to be read in parts as one thing or another.

    Parameters
    ----------
    path : path
        .tif, .tiff, .zarr or .npy.
    stack : ExitStack
        Closes the file.

    Raises
    ------
    OSError, ImportError, ValueError
        It is not there; the package for it is not installed; it is damaged, or of another kind.
    """

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        check_kind(path)
        if not path.exists():  # not every library says so
            raise FileNotFoundError(2, "no such file", str(path))
        self.path = path
        self._dataset: Any = None
        self._masked = False  # whether it marks pixels as without data
        if extension(path) in GEOTIFF:
            rasterio = required("rasterio", "rasterio", "raster", path)
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
            with reading(path, "a GeoTIFF"):
                self._dataset = stack.enter_context(rasterio.open(path))
            self._masked = bool(self._flags() - {"all_valid"})
            return
        if extension(path) == ".npy":
            with reading(path, "a .npy file without pickles"):
                self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            zarr = required("zarr", "zarr", "raster", path)
            with reading(path, "a zarr array"):
                self._array = zarr.open_array(str(path), mode="r")

    def maps(self) -> Sliceable:
        """[L, *S]: the bands, or the array as it is."""
        return self._array if self._dataset is None else self._bands(self._dataset.indexes)

    def image(self, axes: int, bands: Sequence[int] | None = None) -> Sliceable:
        """[*S, C]: the bands, counted from 1, by default all but alpha; or the array.

        An array of `axes` axes is one without the last. Alpha among `bands` masks nothing.
        """
        if self._dataset is None:
            if bands is not None:
                raise ValueError(f"{self.path}: bands are of a GeoTIFF; leave them out")
            array = self._array
            if len(array.shape) != axes:
                return array
            return View(
                (*array.shape, 1), array.dtype, lambda where: self._part(where[:-1])[..., None]
            )
        colours = dict(
            zip(self._dataset.indexes, (c.name for c in self._dataset.colorinterp), strict=True)
        )
        if "palette" in colours.values():
            raise ValueError(
                f"{self.path}: holds indices of a palette, not intensities; expand them first "
                "(gdal_translate -expand rgb)"
            )
        chosen = [i for i, colour in colours.items() if colour != "alpha"]
        if bands is not None:
            if not bands or not set(bands) <= set(colours):
                raise ValueError(
                    f"{self.path}: bands are {list(bands)}; choose from {list(colours)}"
                )
            chosen = list(bands)
        if any(colours[i] == "alpha" for i in chosen):
            self._masked = bool(self._flags() - {"all_valid", "alpha", "per_dataset"})
        planes = self._bands(chosen)
        return View(
            (*planes.shape[1:], planes.shape[0]),
            planes.dtype,
            lambda where: np.moveaxis(planes[(where[-1], *where[:-1])], 0, -1),
        )

    def nonzero(self) -> Sliceable:
        """[*S] of bool: where the only band, or the array, is not 0."""
        if self._dataset is None:
            return View(self._array.shape, bool, lambda where: self._part(where) != 0)
        if self._dataset.count != 1:
            raise ValueError(f"{self.path}: has {self._dataset.count} bands; a mask has one")
        band = self._bands([1])
        return View(band.shape[1:], bool, lambda where: band[(slice(0, 1), *where)][0] != 0)

    def valid(self) -> Sliceable | None:
        """[H, W] of bool: where all bands have data; None where nothing is marked as without."""
        if not self._masked:
            return None
        dataset = self._dataset

        def part(where: tuple[slice, ...]) -> Array:
            with reading(self.path, "a GeoTIFF"):
                return (dataset.read_masks(window=_window(where)) != 0).all(0)

        return View(dataset.shape, bool, part)

    def ground(self) -> dict[str, Any]:
        """Where a raster lies on the ground, as rasterio takes it; empty where nothing says so."""
        dataset = self._dataset
        found: dict[str, Any] = {}
        if dataset is None:
            return found
        points, crs = dataset.gcps
        if dataset.crs is not None or not dataset.transform.is_identity:
            found |= {"crs": dataset.crs, "transform": dataset.transform}
        elif points:
            found |= {"crs": crs, "gcps": points}
        if dataset.rpcs is not None:
            found["rpcs"] = dataset.rpcs
        return found

    def _flags(self) -> set[str]:
        """In what way pixels of a GeoTIFF are marked as without data."""
        return {flag.name for flags in self._dataset.mask_flag_enums for flag in flags}

    def _part(self, where: tuple[slice, ...]) -> Array:
        return np.asarray(self._array[where])

    def _bands(self, indexes: Sequence[int]) -> View:
        """[band, H, W]; 0 where there are no data."""
        dataset = self._dataset

        def part(where: tuple[slice, ...]) -> Array:
            wanted = list(indexes[where[0]])
            with reading(self.path, "a GeoTIFF"):
                values = dataset.read(wanted, window=_window(where[1:]), masked=self._masked)
            return values.filled(0) if self._masked else values

        dtype = np.result_type(*(dataset.dtypes[i - 1] for i in indexes))
        return View((len(indexes), *dataset.shape), dtype, part)


@contextlib.contextmanager
def created(
    path: Path, shape: tuple[int, ...], dtype: Any, axes: int, nodata: float | None, ground: Any
) -> Iterator[Write]:
    """A new file, as a function that writes the part of it that lies somewhere in the image.

    Parameters
    ----------
    path : path
        .tif, .tiff, .zarr or .npy.
    shape : (*S) or (L, *S)
    dtype : dtype
    axes : 2 or 3
        Of S; a GeoTIFF takes 2.
    nodata : number, optional
        What stands for no data.
    ground : mapping
        As `Source.ground` gives it.
    """
    leading = (slice(None),) * (len(shape) - axes)  # all labels
    if extension(path) in GEOTIFF:
        with _new_geotiff(path, shape, dtype, nodata, ground) as dataset:
            yield lambda where, values: dataset.write(
                values.reshape(-1, *values.shape[-2:]), window=_window(where)
            )
        return
    array: Any
    if extension(path) == ".zarr":
        zarr = required("zarr", "zarr", "raster", path)
        array = zarr.open_array(
            str(path), mode="w", shape=shape, dtype=dtype,
            chunks=tuple(min(n, _CHUNK[axes]) for n in shape),
            fill_value=0 if nodata is None else nodata,
        )  # fmt: skip
        if "transform" in ground:
            array.attrs["crs"] = ground["crs"].to_wkt() if ground["crs"] else None
            array.attrs["transform"] = list(ground["transform"])[:6]
    else:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)

    def write(where: tuple[slice, ...], values: Array) -> None:
        array[(*leading, *where)] = values

    yield write
    if extension(path) == ".npy":
        array.flush()


@contextlib.contextmanager
def _new_geotiff(
    path: Path, shape: tuple[int, ...], dtype: Any, nodata: float | None, ground: Any
) -> Iterator[Any]:
    rasterio = required("rasterio", "rasterio", "raster", path)
    bands, height, width = shape if len(shape) == 3 else (1, *shape)
    options = {"compress": "deflate", "predictor": 3 if np.dtype(dtype).kind == "f" else 2}
    if min(height, width) >= _BLOCK:
        options |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE),
        rasterio.open(
            path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=dtype,
            nodata=nodata, BIGTIFF="IF_SAFER", **options, **ground,
        ) as dataset,
    ):  # fmt: skip
        yield dataset


def check_kind(path: Path) -> None:
    """One of KINDS."""
    if extension(path) not in KINDS:
        raise ValueError(
            f"{path}: {extension(path) or 'no extension'} is not read and written in parts; "
            f"{', '.join(KINDS)} are"
        )


def _window(where: tuple[slice, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((axis.start, axis.stop) for axis in where)
