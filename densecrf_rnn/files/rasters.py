"""refine_raster: from files to a file, tile by tile, for rasters that are larger than memory."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import postprocess, tiles, unaries
from ..params import CRFParams
from .._atomic import replaced
from .pairs import extension
from .reading import Kind
from .windows import GEOTIFF, Source, View, check_kind, created


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
    """Refine a raster of any size from files into a file, in the memory of a tile.

    Parameters
    ----------
    logits : path
        GeoTIFF (.tif, .tiff) with a band per label; or .zarr or .npy of shape [L, H, W] or
        [L, D, H, W]. Floating point; float16 is computed with as float32.
    image : path
        GeoTIFF with a band per channel, an alpha band left out; or .zarr or .npy of shape [H, W, C]
        or [D, H, W, C], of one channel also without that axis.
    out : path
        What to write: GeoTIFF, with the georeference of `image`, else of `logits`; .zarr or .npy.
        It appears when it is complete and replaces what was there.
    params : CRFParams
        As in `refine`.
    kind : {"logits", "probabilities"}
        What `logits` holds: see `read_logits`.
    bands : sequence of int, optional
        Bands of a GeoTIFF `image` that are its channels, counted from 1; default all but alpha.
        Name them where a fourth band is no alpha and yet marked so: GDAL marks it unless told
        otherwise.
    marginals : bool
        Write the marginals, float32 [L, ...], in place of the likeliest labels, the smallest
        unsigned integer [...] that holds them.
    tile, halo
        As in `refine_tiled`. A multiple of 256 suits a GeoTIFF, of 1024 a zarr array.
    compatibility, iterations, spacing, backend, threads
        As in `refine`.
    mask : path, optional
        One band, or an array without channels; where it is 0 pixels take no part. So do pixels that
        a GeoTIFF marks as without data (a nodata value, a mask or an alpha band), of either file.
        They come out as nodata: the largest number of their integer, or NaN.
    progress : function of two ints, optional
        Called after each tile with the number of pixels done and of all.

    Raises
    ------
    OSError
        A file is not there, or `out` cannot be written; what was there before is unchanged.
    ImportError
        The package that reads or writes such files is not installed.
    TypeError, ValueError
        As in `refine_tiled`; a file of another kind, or damaged; or two GeoTIFFs that do not lie on
        the same ground.

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
    check_kind(out)
    with contextlib.ExitStack() as stack:
        scores, picture = Source(Path(logits), stack), Source(Path(image), stack)
        ground = _common_ground(picture, scores)
        u = _logits(scores, kind)
        axes = len(u.shape) - 1
        guide = picture.image(axes, bands)
        valid = [(scores, scores.valid()), (picture, picture.valid())]
        if mask is not None:
            beside = Source(Path(mask), stack)
            valid.append((beside, beside.nonzero()))
        seen = _all(valid, tuple(u.shape[1:]))
        parts = tiles.refined_tiles(
            u, guide, params, tile=tile, halo=halo, compatibility=compatibility,
            iterations=iterations, mask=seen, spacing=spacing, backend=backend, threads=threads,
        )  # fmt: skip
        if extension(out) in GEOTIFF and axes == 3:
            raise ValueError(f"{out}: a GeoTIFF holds no volumes; write .zarr or .npy")
        size = u.shape[1:]
        shape, dtype = u.shape, np.float32
        if not marginals:
            shape, dtype = size, postprocess.label_dtype(u.shape[0])
        nodata: float | None = None
        if seen is not None and marginals:
            nodata = math.nan
        elif seen is not None:
            dtype = postprocess.label_dtype(max(2, u.shape[0]) + 1)  # one number more than labels
            nodata = int(np.iinfo(dtype).max)
        with (
            replaced(out) as partial,
            created(partial, shape, dtype, axes, nodata, ground) as write,
        ):
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
    """True where all are; None where none says anything."""
    given = []
    for source, mask in masks:
        if mask is None:
            continue
        if tuple(mask.shape) != size:
            found, wanted = (" x ".join(map(str, shape)) for shape in (mask.shape, size))
            raise ValueError(f"{source.path} is {found} but logits is {wanted}; make them equal")
        given.append(mask)
    if not given:
        return None
    return View(size, bool, lambda where: np.logical_and.reduce([mask[where] for mask in given]))


def _common_ground(picture: Source, scores: Source) -> dict[str, Any]:
    """Where the rasters lie on the ground; both must say the same, if they say anything."""
    one, other = picture.ground(), scores.ground()
    if "transform" in one and "transform" in other:
        pixel = max(abs(one["transform"].a), abs(one["transform"].b))
        same = one["transform"].almost_equals(other["transform"], precision=pixel / 100)
        if one["crs"] != other["crs"] or not same:
            raise ValueError(
                f"{picture.path} lies at {_worded(one)} but {scores.path} at {_worded(other)}; "
                "warp one to the other"
            )
    return one or other


def _worded(ground: dict[str, Any]) -> str:
    numbers = ", ".join(f"{number:g}" for number in tuple(ground["transform"])[:6])
    return f"{ground['crs']} ({numbers})"
