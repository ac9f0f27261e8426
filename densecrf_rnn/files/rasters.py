"""Refine rasters that are larger than memory, from files to a file, tile by tile."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import postprocess, tiles, unaries
from ..checks.wording import size as shown
from ..params import CRFParams
from .._atomic import replaced
from . import formats
from .reading import Kind
from .windows import Source, View


def refine_raster(
    logits: Path | str,
    image: Path | str,
    out: Path | str,
    params: CRFParams = CRFParams(),
    *,
    kind: Kind = "logits",
    bands: Sequence[int] | None = None,
    marginals: bool = False,
    tile: int | Sequence[int] | None = None,
    halo: tiles.Halo = None,
    compatibility: Array | None = None,
    iterations: int = 10,
    mask: Path | str | None = None,
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Refine a raster of any size from files into a file, with one tile in memory at a time.

    Parameters
    ----------
    logits : path
        GeoTIFF (.tif, .tiff) with a band per label; or .zarr or .npy of shape [L, H, W] or
        [L, D, H, W]. Floating point; float16 is computed with as float32.
    image : path
        GeoTIFF with a band per channel, of which an alpha band is excluded; or .zarr or .npy of
        shape [H, W, C] or [D, H, W, C]; the axis of a single channel may be missing.
    out : path
        Output: GeoTIFF, with the georeference of `image`, else of `logits`; .zarr or .npy. It
        appears when it is complete, and replaces an existing file.
    params : CRFParams
        As in `refine`.
    kind : {"logits", "probabilities"}
        Content of `logits`; see `read_logits`.
    bands : sequence of int, optional
        Bands of a GeoTIFF `image` to use as channels, counted from 1; default all but alpha. Give
        all four if GDAL has marked a fourth channel as alpha, which it does by default.
    marginals : bool
        Write the marginals, float32 [L, ...]. By default the most probable labels are written, in
        the smallest unsigned integer type that holds them.
    tile, halo
        As in `refine_tiled`. Tiles are written fastest in multiples of 256 (GeoTIFF) or 1024
        (zarr).
    compatibility, iterations, spacing, backend, threads
        As in `refine`.
    mask : path, optional
        One band, or an array without channels; pixels where it is 0 are excluded. Pixels that
        the GeoTIFF of the logits or of the image marks as without data (by a nodata value, a mask
        or an alpha band) are excluded too. Excluded pixels are nodata in the output: the maximum of
        the integer type, or NaN.
    progress : function of two ints, optional
        Called after each tile with the number of pixels done and the total.

    Raises
    ------
    OSError
        A file does not exist, or `out` cannot be written; an existing `out` is unchanged.
    ImportError
        The package that reads or writes such files is not installed.
    TypeError, ValueError
        As in `refine_tiled`; also for a file of another format, a damaged file, or GeoTIFFs of
        different georeference.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/logits.npy", np.zeros((3, 40, 50), np.float16))
    ...     np.save(f"{folder}/image.npy", np.zeros((40, 50, 4), np.uint8))
    ...     refine_raster(f"{folder}/logits.npy", f"{folder}/image.npy", f"{folder}/out.npy")
    ...     np.load(f"{folder}/out.npy").shape
    (40, 50)
    """
    out = Path(out)
    create: formats.Create = formats.function(out, "create")
    with contextlib.ExitStack() as stack:
        scores, guide, *masks = (
            formats.open_in_parts(Path(path), stack)
            for path in (logits, image, mask) if path is not None
        )  # fmt: skip
        ground = _common_ground(guide, scores)
        u = _logits(scores, kind)
        axes = len(u.shape) - 1
        channels = guide.image(axes, bands)
        valid = [(source, source.valid()) for source in (scores, guide)]
        valid += [(source, source.nonzero()) for source in masks]
        seen = _all(valid, tuple(u.shape[1:]))
        parts = tiles.refined_tiles(
            u, channels, params, tile=tile, halo=halo, compatibility=compatibility,
            iterations=iterations, mask=seen, spacing=spacing, backend=backend, threads=threads,
        )  # fmt: skip
        if axes == 3 and formats.kind(out) == "picture":
            raise ValueError(f"{out}: a GeoTIFF holds no volumes; write .zarr or .npy")
        size, count = u.shape[1:], u.shape[0]
        if seen is not None:
            count = max(2, count) + 1  # one value more than labels, for nodata
        dtype = np.float32 if marginals else postprocess.label_dtype(count)
        most = math.nan if marginals else int(np.iinfo(dtype).max)
        nodata = None if seen is None else most
        shape = u.shape if marginals else size
        with replaced(out) as part, create(part, shape, dtype, axes, nodata, ground) as write:
            done = 0
            for where, q in parts:
                values = q if marginals else postprocess.most_probable(q).astype(dtype)
                if seen is not None:
                    values[..., ~seen[where]] = nodata
                write(where, values)
                done += math.prod(values.shape[-axes:])
                if progress is not None:
                    progress(done, math.prod(size))


def _logits(source: Source, kind: Kind) -> tiles.Sliceable:
    """Return the maps of a file as logits; if they are probabilities, convert them."""
    maps = source.maps()
    if kind == "logits":
        return maps

    def part(where: tuple[slice, ...]) -> Array:
        try:
            return unaries.logits_from_probabilities(np.asarray(maps[where]))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{source.path}: {error}") from error

    return View(tuple(maps.shape), np.float32, part)


def _all(
    masks: Sequence[tuple[Source, tiles.Sliceable | None]], size: tuple[int, ...]
) -> tiles.Sliceable | None:
    """Return the conjunction of the masks that are not None; None if all are None."""
    given = [(source, mask) for source, mask in masks if mask is not None]
    for source, mask in given:
        if tuple(mask.shape) != size:
            found, wanted = shown(mask.shape), shown(size)
            raise ValueError(f"{source.path} is {found} but logits is {wanted}; make them equal")
    if not given:
        return None
    return View(size, bool, lambda where: np.logical_and.reduce([mask[where] for _, mask in given]))


def _common_ground(guide: Source, scores: Source) -> dict[str, Any]:
    """Return the image's georeference or, if it has none, that of the logits.

    Raise ValueError if both have one and they differ.
    """
    one, other = guide.ground(), scores.ground()
    if "transform" in one and "transform" in other:
        pixel = max(abs(one["transform"].a), abs(one["transform"].b))
        same = one["transform"].almost_equals(other["transform"], precision=pixel / 100)
        if one["crs"] != other["crs"] or not same:
            raise ValueError(
                f"{guide.path} lies at {_worded(one)} but {scores.path} at {_worded(other)}; "
                "warp one to the other"
            )
    return one or other


def _worded(ground: dict[str, Any]) -> str:
    numbers = ", ".join(f"{number:g}" for number in tuple(ground["transform"])[:6])
    return f"{ground['crs']} ({numbers})"
