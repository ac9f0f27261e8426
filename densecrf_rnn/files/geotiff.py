"""The pages of TIFF files in windows, GeoTIFF metadata, and writing GeoTIFFs, by rasterio."""

import contextlib
import errno
import itertools
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from .._typing import Array
from .geometry import Geometry
from .paths import required
from .readback import Checked, Where, Write, disk_errors, failure

_CACHE = 512  # MB of blocks that GDAL caches; its default is a twentieth of the machine's memory
_QUIET = threading.Lock()  # held while filters of warnings differ; threads share the filters
_BLOCK = 256  # side, in pixels, of the blocks of the files written


class Pages:
    """The pages of a TIFF, opened by rasterio and read in windows.

    Parameters
    ----------
    path : path
    offsets : sequence of int
        Position of each page in the file; 0 for the first page of the file.
    located : bool
        The file is a GeoTIFF; otherwise it has no georeference, nodata value or mask.
    stack : ExitStack
        Closes the file when it exits.

    Attributes
    ----------
    dtype : NumPy dtype of the pixels
    nodata : float or None
        Value of pixels without data.
    masked : bool
        A mask, in the file or next to it, says which pixels have data.
    """

    def __init__(
        self, path: Path, offsets: Sequence[int], located: bool, stack: contextlib.ExitStack
    ) -> None:
        what = "a GeoTIFF" if located else ".tif in parts"
        rasterio = checks.package("rasterio", f"{path}: {what}", "'densecrf-rnn[raster]'")
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
        with _QUIET, warnings.catch_warnings(), _all_tags(path):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            self._datasets: list[Any] = [
                stack.enter_context(
                    rasterio.open(f"GTIFF_DIR:off:{at}:{path}" if at else path, driver="GTiff")
                )
                for at in offsets
            ]
        first = self._datasets[0]
        self.dtype = np.result_type(*first.dtypes)
        self.nodata: float | None = first.nodata if located else None
        flags = {flag.name for flag in first.mask_flag_enums[0]}
        self.masked = located and "per_dataset" in flags and "alpha" not in flags

    def read(self, planes: Array, samples: int, window: tuple[slice, ...]) -> Array:
        """Return planes [N, h, w] within a window; plane = page * samples + sample."""
        found = [
            self._datasets[page].read(
                [1 + int(plane) % samples for plane in group], window=_window(window, self._size)
            )
            for page, group in itertools.groupby(planes, lambda plane: int(plane) // samples)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def mask(self, window: tuple[slice, ...]) -> Array:
        """Return the file's mask within a window, bool [h, w]: True where there are data."""
        return self._datasets[0].read_masks(1, window=_window(window, self._size)) != 0

    @property
    def _size(self) -> tuple[int, int]:
        return self._datasets[0].shape

    def ground(self) -> dict[str, Any]:
        """Return the georeference as keywords of rasterio.open; empty if there is none."""
        dataset = self._datasets[0]
        found: dict[str, Any] = {}
        points, crs = dataset.gcps
        if dataset.crs is not None or not dataset.transform.is_identity:
            found |= {"crs": dataset.crs, "transform": dataset.transform}
        elif points:
            found |= {"crs": crs, "gcps": points}
        if dataset.rpcs is not None:
            found["rpcs"] = dataset.rpcs
        return found

    def geometry(self) -> Geometry | None:
        """Return where the pixels are; None if the file has no transform."""
        return _geometry(self._datasets[0])


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
    size = bands * height * width * np.dtype(dtype).itemsize
    with rasterio.Env(GDAL_CACHEMAX=_CACHE):
        with _QUIET, warnings.catch_warnings(), disk_errors(path, size):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            dataset = rasterio.open(
                path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=dtype,
                nodata=nodata, BIGTIFF="IF_SAFER", **options, **ground,
            )  # fmt: skip

        def write(where: Where, values: Array) -> None:
            dataset.write(
                values.reshape(-1, *values.shape[-2:]), window=_window(where, (height, width))
            )

        checked = Checked(path, size, write)
        try:
            yield checked
        finally:
            with disk_errors(path, size):
                dataset.close()
        with contextlib.ExitStack() as stack, disk_errors(path, size):
            pages = Pages(path, [0], True, stack)
            checked.compare(lambda where: pages.read(np.arange(bands), bands, where))
            if not _is_located(pages, nodata, ground):
                raise failure(path, size)


def _is_located(pages: Pages, nodata: float | None, ground: dict[str, Any]) -> bool:
    """Return whether a file that was written holds this nodata value and georeference."""
    found = pages.ground()
    if (pages.nodata is None) != (nodata is None) or found.keys() < ground.keys():
        return False
    if "transform" in ground:
        lost = ground["crs"] is not None and found["crs"] is None
        return not lost and np.allclose(found["transform"], ground["transform"])
    return len(found.get("gcps", ())) == len(ground.get("gcps", ()))


@contextlib.contextmanager
def _all_tags(path: Path) -> Iterator[None]:
    """Raise OSError if the disk does not return a tag of a file that is opened.

    GDAL only warns, and leaves out what the tag says: the georeference, or nodata.
    """
    thread, ignored = threading.get_ident(), []

    def note(record: logging.LogRecord) -> bool:
        if record.thread == thread and "IO error" in record.getMessage():
            ignored.append(record)
        return True

    logger = logging.getLogger("rasterio._env")
    logger.addFilter(note)
    try:
        yield
    finally:
        logger.removeFilter(note)
    if ignored:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def _geometry(dataset: Any) -> Geometry | None:
    """Return where the pixels of an open file are; None if it has no transform."""
    t = dataset.transform
    if t.is_identity or t.is_degenerate:
        return None
    x, y = t.c + (t.a + t.b) / 2, t.f + (t.d + t.e) / 2
    return Geometry(
        dataset.shape, np.array([[t.b, t.a, x], [t.e, t.d, y], [0, 0, 1]], float), "GeoTIFF",
        dataset.crs,
    )  # fmt: skip


def _window(where: tuple[slice, ...], size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(axis.indices(n)[:2] for axis, n in zip(where, size, strict=True))
