"""GeoTIFF files that are read and written in parts, by rasterio."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from ..tiles import Sliceable
from .paths import reading, required
from .windows import Source, View, Write

_CACHE = 512  # MB of blocks that GDAL caches; its default is a twentieth of the machine's memory
_BLOCK = 256  # side, in pixels, of the blocks of the files written


class GeoTiff(Source):
    """An open GeoTIFF.

    Parameters
    ----------
    path : path
    stack : ExitStack
        Closes the file when it exits.
    """

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        rasterio = required("rasterio", "raster", path)
        self.path = path
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
        with reading(path, "a GeoTIFF"):
            self._dataset: Any = stack.enter_context(rasterio.open(path))
        self._masked = bool(self._flags() - {"all_valid"})  # some may lack data

    def maps(self) -> Sliceable:
        """Return the bands [band, H, W]."""
        return self._bands(self._dataset.indexes)

    def image(self, axes: int, bands: Sequence[int] | None = None) -> Sliceable:
        """Return the chosen bands [H, W, band], by default all but alpha.

        `bands` count from 1. An alpha band among `bands` is a channel and masks no pixels.
        """
        dataset = self._dataset
        colours = {i: colour.name for i, colour in zip(dataset.indexes, dataset.colorinterp)}
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
        shape = (*planes.shape[1:], planes.shape[0])
        return View(shape, planes.dtype, lambda w: np.moveaxis(planes[(w[-1], *w[:-1])], 0, -1))

    def nonzero(self) -> Sliceable:
        """Return a mask, bool [H, W]: True where the file's single band is not 0."""
        if self._dataset.count != 1:
            raise ValueError(f"{self.path}: has {self._dataset.count} bands; a mask has one")
        band = self._bands([1])
        return View(band.shape[1:], bool, lambda where: band[(slice(0, 1), *where)][0] != 0)

    def valid(self) -> Sliceable | None:
        """Return a mask, bool [H, W]: True where all bands have data.

        None if the file does not mark pixels as without data.
        """
        if not self._masked:
            return None
        dataset = self._dataset

        def part(where: tuple[slice, ...]) -> Array:
            with reading(self.path, "a GeoTIFF"):
                return (dataset.read_masks(window=_window(where)) != 0).all(0)

        return View(dataset.shape, bool, part)

    def ground(self) -> dict[str, Any]:
        """Return the georeference as keywords of rasterio.open; empty if there is none."""
        dataset = self._dataset
        found: dict[str, Any] = {}
        points, crs = dataset.gcps
        if dataset.crs is not None or not dataset.transform.is_identity:
            found |= {"crs": dataset.crs, "transform": dataset.transform}
        elif points:
            found |= {"crs": crs, "gcps": points}
        if dataset.rpcs is not None:
            found["rpcs"] = dataset.rpcs
        return found

    def _flags(self) -> set[str]:
        """Return the names of rasterio's mask flags: how pixels without data are marked."""
        return {flag.name for flags in self._dataset.mask_flag_enums for flag in flags}

    def _bands(self, indexes: Sequence[int]) -> View:
        """Return bands [band, H, W], with 0 where there is no data."""
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
    """Create a GeoTIFF and yield a function that writes a part of it; see `formats.Format`."""
    rasterio = required("rasterio", "raster", path)
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
        yield lambda where, values: dataset.write(
            values.reshape(-1, *values.shape[-2:]), window=_window(where)
        )


def _window(where: tuple[slice, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((axis.start, axis.stop) for axis in where)
