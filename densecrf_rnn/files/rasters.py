"""Refine rasters that are larger than memory, from files to a file, tile by tile."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .._typing import Array
from .. import checks, postprocess, tiles, unaries
from ..checks.wording import size as shown
from ..params import CRFParams
from .._atomic import replaced
from . import formats, geotiff, tiff, windows
from .geometry import Turn, turn_onto
from .label_maps import integers, mask_in_parts
from .label_values import positions
from .paths import is_of_disk
from .reading import check_clip, check_whole, holds_labels
from .windows import Source, View, turned

Kind = Literal["logits", "probabilities", "labels"]

_ROWS = 256  # of a raster that are read at once


def refine_raster(
    logits: Path | str,
    image: Path | str,
    out: Path | str,
    params: CRFParams = CRFParams(),
    *,
    key: str | None = None,
    image_key: str | None = None,
    kind: Kind = "logits",
    num_labels: int | None = None,
    confidence: float = unaries.CONFIDENCE,
    unsure: int | None = None,
    classes: Sequence[int] | None = None,
    temperature: float = 1.0,
    clip: bool = False,
    bands: Sequence[int] | None = None,
    marginals: bool = False,
    tile: int | Sequence[int] | None = None,
    halo: tiles.Halo = None,
    compatibility: Array | None = None,
    multilabel: bool = False,
    order: Sequence[int] | None = None,
    iterations: int = 10,
    mask: Path | str | None = None,
    spacing: Sequence[float] | None = None,
    prune: float = 0.0,
    backend: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    strict: bool = False,
) -> None:
    """Refine a raster of any size from files into a file, with one tile in memory at a time.

    Parameters
    ----------
    logits : path
        TIFF (.tif, .tiff) with a band or a page per label; or .zarr or .npy of shape [L, H, W] or
        [L, D, H, W], or [H, W] for one foreground. Floating point; float16 is computed with as
        float32.
    image : path
        TIFF with a band or a page per channel, of which an alpha band is excluded; or .zarr or
        .npy of shape [H, W, C] or [D, H, W, C]; the axis of a single channel may be missing.
    out : path
        Output: GeoTIFF, with the georeference of `image`, else of `logits`; .zarr or .npy. It
        appears when it is complete, and replaces an existing file.
    params : CRFParams
        As in `refine`.
    key, image_key : str, optional
        Name of the array in a zarr group of logits or of the image that holds several.
    kind : {"logits", "probabilities", "labels"}
        Content of `logits`; see `read_logits`. "labels" is a label map [H, W] or [D, H, W].
    num_labels, confidence, unsure
        With kind "labels", as in `unaries.logits_from_labels`.
    classes : sequence of int, optional
        Labels to keep, at least two; all others are excluded. Labels keep their numbers;
        marginals are those of `classes`, in this order.
    temperature : positive float
        Divides the logits; see `unaries.scale_temperature`.
    clip : bool
        Clip probabilities to 0..1 and divide them by their sum, as `logits_from_probabilities`.
    bands : sequence of int, optional
        Bands of a TIFF `image` to use as channels, counted from 1; default all but alpha. Give
        all four if GDAL has marked a fourth channel as alpha, which it does by default.
    marginals : bool
        Write the marginals, float32 [L, ...]. By default the most probable labels are written, in
        the smallest unsigned integer type that holds them.
    tile, halo
        As in `refine_tiled`. Tiles are written fastest in multiples of 256 (GeoTIFF) or 1024
        (zarr).
    compatibility, iterations, spacing, prune, backend, threads
        As in `refine`.
    multilabel : bool
        Refine maps that may overlap, each by a binary CRF, as in `refine`. A mask of 0 and 1 is
        written per region, [L, *S], unless `order` is given or `marginals`.
    order : sequence of L int, optional
        With `multilabel`: write one label map, as `postprocess.labels_of_regions`.
    mask : path, optional
        One band, or an array without channels; pixels where it is 0 are excluded. Pixels that
        a TIFF marks as without data are excluded too: by a nodata value or a mask, in the image
        also by an alpha band of 0 (see docs/refinement.md). Excluded pixels are nodata in the
        output: the maximum of the integer type, or NaN.
    progress : function of two ints, optional
        Called after each tile with the number of pixels done and the total.
    strict : bool
        Refuse logits that lack chunks; see `read_logits`.

    Raises
    ------
    OSError
        A file does not exist, or `out` cannot be written; an existing `out` is unchanged.
    ImportError
        The package that reads or writes such files is not installed.
    TypeError, ValueError
        As in `refine_tiled`; also for a file of another format, a damaged file, files that lie
        on different grids (see `aligned`), or an `out` that is one of the inputs.

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
    checks.option("kind", kind, get_args(Kind))
    _check_of_kind(kind, num_labels, confidence, unsure, clip)
    _check_multilabel(multilabel, kind, classes, order)
    out = Path(out)
    _check_apart(out, logits, image, mask)
    create: formats.Create = formats.function(out, "create")
    check_whole(Path(logits), key, strict, warn=kind != "labels")
    with contextlib.ExitStack() as stack:
        scores, guide, *masks = (
            formats.open_in_parts(Path(path), stack, name)
            for path, name in ((logits, key), (image, image_key), (mask, None))
            if path is not None
        )
        ground = guide.ground() or scores.ground()
        turns: dict[Source, Turn | None] = {guide: None, scores: _turn(scores, guide)}
        turns |= {mask: _turn(mask, guide if guide.geometry() else scores) for mask in masks}
        names = _names(kind, num_labels, classes)
        content = scores.labels() if kind == "labels" else windows.of_image(scores, guide)
        content = windows.named(content, scores.path)
        if kind != "labels" and len(content.shape) == 2:
            content = _one_foreground(content, scores.path, kind)
        has_data, content = windows.valid(content), turned(content, turns[scores])
        axes = len(content.shape) - (kind != "labels")
        channels = windows.named(guide.image(axes, bands), guide.path)
        valid = [(scores, has_data), (guide, windows.valid(channels))]
        valid += [(one, windows.named(mask_in_parts(one), one.path)) for one in masks]
        valid = [(s, None if one is None else turned(one, turns[s])) for s, one in valid]
        seen = _all(valid, tuple(content.shape[-axes:]))
        integers_used = kind == "probabilities" and np.dtype(content.dtype).kind == "u"
        scale = checks.IntegerScale(content.dtype) if integers_used else None
        u = _logits(
            content, scores.path, kind, names, confidence, unsure, temperature, clip, seen,
            multilabel, scale,
        )  # fmt: skip
        for place in (guide.geometry(), scores.geometry()) if axes == 3 else ():
            if spacing is None and place is not None and place.standard == "OME-Zarr":
                spacing = place.spacing
        parts = tiles.refined_tiles(
            u, windows.filled(channels), params, tile=tile, halo=halo,
            compatibility=compatibility, multilabel=multilabel, iterations=iterations, mask=seen,
            spacing=spacing, prune=prune, labels=not (marginals or multilabel), backend=backend,
            threads=threads,
        )  # fmt: skip
        if axes == 3 and formats.kind(out) == "picture":
            raise ValueError(f"{out}: a GeoTIFF holds no volumes; write .zarr or .npy")
        size, most = u.shape[1:], u.shape[0] - 1 if names is None else int(names.max())
        if multilabel:
            most = 1 if order is None else max(postprocess.checked_order(order, u.shape[0]))
        dtype, nodata = _stored(most, marginals, seen is not None)
        shape = u.shape if marginals or (multilabel and order is None) else size
        with replaced(out) as part, create(part, shape, dtype, axes, nodata, ground) as write:
            done = 0
            for where, values in parts:
                if multilabel and not marginals:
                    values = _regions(values, order)
                elif names is not None and not marginals:
                    values = names[values]
                values = values.astype(dtype, copy=False)
                if nodata is not None and seen is not None:
                    values[..., ~seen[where]] = nodata
                write(where, values)
                done += math.prod(values.shape[-axes:])
                if progress is not None:
                    progress(done, math.prod(size))
        if scale is not None:
            scale.judge(multilabel=multilabel)


def _check_of_kind(
    kind: Kind, num_labels: int | None, confidence: float, unsure: int | None, clip: bool
) -> None:
    """Raise ValueError if an argument is about files of another kind."""
    given = {
        "num_labels": num_labels is not None, "confidence": confidence != unaries.CONFIDENCE,
        "unsure": unsure is not None,
    }  # fmt: skip
    for name in (name for name, is_given in given.items() if is_given and kind != "labels"):
        raise ValueError(
            f"{name} is about label maps, but kind is {kind!r}; pass kind='labels', or leave "
            f"{name} out"
        )
    check_clip(kind, clip)


def _check_multilabel(
    multilabel: bool, kind: Kind, classes: Sequence[int] | None, order: Sequence[int] | None
) -> None:
    if order is not None and not multilabel:
        raise ValueError("order is given but multilabel is False; it is about regions that overlap")
    if multilabel and (kind == "labels" or classes is not None):
        one = "kind is 'labels'" if kind == "labels" else "classes is given"
        raise ValueError(
            f"{one} but multilabel is True: labels of one map do not overlap; leave one of them out"
        )


def _check_apart(out: Path, *inputs: Path | str | None) -> None:
    """Raise ValueError if `out` is an input, holds one, or lies inside one; it would be lost."""
    written = os.path.join(os.path.realpath(out), "")
    for path in inputs:
        read = "" if path is None else os.path.join(os.path.realpath(path), "")
        if read and (read.startswith(written) or written.startswith(read)):
            how = "is" if read == written else "holds" if read.startswith(written) else "is inside"
            raise ValueError(f"{out} {how} one of the inputs ({path}); choose another path for out")


def _regions(q: Array, order: Sequence[int] | None) -> Array:
    """Return the masks of regions that overlap, or with `order` one label map of them."""
    return postprocess.region_masks(q) if order is None else postprocess.labels_of_regions(q, order)


def is_geotiff(path: Path | str) -> bool:
    """Return whether a file is a TIFF with a georeference, a nodata value or a mask.

    False for a file that is absent or damaged.

    Parameters
    ----------
    path : path
        The file, with what lies next to it: .tfw, .aux.xml, .msk.

    Raises
    ------
    OSError
        The disk does not return the file.

    Examples
    --------
    >>> is_geotiff("image.png")
    False
    """
    path = Path(path)
    try:
        return formats.can(path, "valid") and tiff.is_located(path)
    except (ImportError, OSError, ValueError) as error:
        if is_of_disk(error):
            raise
        return False


def write_raster(
    path: Path | str, values: Array, *, like: Path | str | None = None, nodata: float | None = None
) -> None:
    """Write a label map, or a band per label, as GeoTIFF.

    Parameters
    ----------
    path : path
        .tif or .tiff
    values : ndarray [H, W] or [L, H, W]
    like : path, optional
        TIFF whose georeference is copied.
    nodata : float, optional
        Value of pixels without data.

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    ImportError
        rasterio is not installed.
    TypeError, ValueError
        `values` is no array or has other axes, or `path` has another extension.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_raster(f"{folder}/a.tif", np.array([[0, 1, 9]], np.uint8), nodata=9)
    ...     read_labels(f"{folder}/a.tif").tolist()
    [[0, 1, 9]]
    """
    path = Path(path)
    checks.array_kind("values", values, batched=False)
    if values.ndim not in (2, 3) or not formats.can(path, "valid"):
        raise ValueError(
            f"{path}: a GeoTIFF (.tif) holds [H, W] or [L, H, W], not the shape {values.shape}"
        )
    ground = {}
    if like is not None:
        with contextlib.ExitStack() as stack:
            ground = formats.open_in_parts(Path(like), stack).ground()
    whole = tuple(slice(0, n) for n in values.shape[-2:])
    with replaced(path) as part:
        with geotiff.created(part, values.shape, values.dtype, 2, nodata, ground) as write:
            write(whole, values)


def with_nodata(labels: Array, most: int, seen: Array | None) -> tuple[Array, int | None]:
    """Return labels in the dtype of outputs, nodata outside the mask `seen`, and that value.

    `most` is the largest label that may occur. The nodata value is the maximum of the dtype; None
    without a mask.

    Examples
    --------
    >>> with_nodata(np.array([0, 1, 0]), 1, np.array([True, True, False]))
    (array([  0,   1, 255], dtype=uint8), 255)
    """
    dtype, nodata = _stored(most, False, seen is not None)
    labels = labels.astype(dtype)
    if seen is not None:
        labels[~seen] = nodata
    return labels, None if nodata is None else int(nodata)


def _one_foreground(content: tiles.Sliceable, path: Path, kind: Kind) -> tiles.Sliceable:
    """Return one map [H, W] of scores as [1, H, W]; raise ValueError for labels called logits."""
    if kind == "logits" and np.dtype(content.dtype).kind == "f":
        height, width = content.shape
        parts = (slice(y, min(y + _ROWS, height)) for y in range(0, height, _ROWS))
        if all(holds_labels(np.asarray(content[rows, slice(0, width)])) for rows in parts):
            raise ValueError(
                f"{path}: holds integers [H, W] as floating point; for a label map pass "
                "kind='labels', one foreground is saved as [1, H, W]"
            )
    return windows.one_map(content)


def _names(kind: Kind, num_labels: int | None, classes: Sequence[int] | None) -> Array | None:
    """Return the label of each channel of the logits; None if they are 0 to L - 1."""
    if classes is not None:
        return np.asarray(classes)
    if kind != "labels":
        return None
    if num_labels is None:
        raise ValueError("a label map does not contain the number of labels; give num_labels=")
    return np.arange(num_labels)


def _stored(most: int, marginals: bool, masked: bool) -> tuple[Any, float | None]:
    """Return the dtype of an output with labels up to `most`, and its nodata value, if any."""
    if marginals:
        return np.dtype(np.float32), math.nan if masked else None
    dtype = np.min_scalar_type(max(1, most) + masked)  # one value more than labels, for nodata
    return dtype, int(np.iinfo(dtype).max) if masked else None


def _logits(
    content: tiles.Sliceable, path: Path, kind: Kind, names: Array | None, confidence: float,
    unsure: int | None, temperature: float, clip: bool, seen: tiles.Sliceable | None,
    multilabel: bool, scale: checks.IntegerScale | None,
) -> tiles.Sliceable:  # fmt: skip
    """Return the content of a file as logits [L, *S] of the labels `names`, or of all labels.

    Pixels outside the mask `seen` are not converted; they are NaN.
    """
    if kind == "logits" and names is None and temperature == 1:
        return content
    size = tuple(content.shape if kind == "labels" else content.shape[1:])
    count = content.shape[0] if names is None else len(names)
    told: list[int] = []  # not empty once logits and probabilities are told apart

    def part(where: tuple[slice, ...]) -> Array:
        array = np.asarray(content[where[-len(content.shape) :]])
        if seen is None:
            return converted(array)
        inside = seen[where[1:]]
        logits = np.full((count, *inside.shape), np.nan, np.float32)
        if inside.any():
            logits[:, inside] = converted(array[..., inside])
        return logits

    def converted(array: Array) -> Array:
        try:
            if kind == "labels":
                assert names is not None
                array = _of_labels(integers(path, array), names, confidence, unsure)
            elif kind == "probabilities":
                p = unaries.checked_probabilities(
                    array, clip=clip, multilabel=multilabel, scale=scale
                )
                array = unaries.log_probabilities(p, multilabel=multilabel)
            if kind != "labels" and names is not None:
                array = unaries.select_classes(array, names.tolist())
            if temperature == 1:
                return array
            if kind == "logits" and temperature < 1 and not told:  # then they may exceed 1
                told[:] = [1] * checks.probabilities(array, batched=False, multilabel=multilabel)
            return unaries.scale_temperature(array, temperature)
        except (TypeError, ValueError) as error:
            if str(error).startswith(f"{path}: "):
                raise
            raise type(error)(f"{path}: {error}") from error

    return View((count, *size), content.dtype if kind == "logits" else np.float32, part)


def _of_labels(labels: Array, names: Array, confidence: float, unsure: int | None) -> Array:
    unknown = np.zeros(labels.shape, bool) if unsure is None else labels == unsure
    channels, foreign = positions(labels, names)
    channels[unknown] = -1
    if (foreign := labels[foreign & ~unknown]).size:
        raise ValueError(
            f"holds the label {foreign[0]}, not among those to keep (num_labels= or classes=); if "
            f"it means unknown, give unsure={foreign[0]}"
        )
    return unaries.logits_from_labels(channels, len(names), confidence, unsure=-1)


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


def _turn(source: Source, guide: Source) -> Turn | None:
    return turn_onto(source.geometry(), guide.geometry(), (source.path, guide.path))
