"""OME-Zarr groups, versions 0.1 to 0.5: images of named axes, at several resolutions, with scale.

The spatial axes of arrays here are z, y, x, in whatever order they are stored. The time axis and an
axis z of length 1 are left out.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from ..tiles import Sliceable
from . import sizes
from .arrays import choose
from .containers import Missing, checked_zarr, missing_of, stored_zarr, zarr_group
from .geometry import Geometry
from .paths import is_of_disk
from .windows import Source, View

_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_ROLES = {"multiscales", "bioformats2raw.layout", "labels", "plate", "well"}


def is_ome_zarr(path: Path) -> bool:
    """Return whether a folder is an OME-Zarr group, from its JSON attributes."""
    for name in ("zarr.json", ".zattrs"):
        try:
            if not (path / name).is_file() or (path / name).is_symlink():
                continue
            stored = json.loads((path / name).read_text(encoding="utf-8"))
            attributes = stored.get("attributes") if name == "zarr.json" else stored
            return bool(_ROLES & _ome(attributes).keys())
        except (OSError, ValueError, AttributeError, TypeError) as error:
            if is_of_disk(error):  # opening the group says so; an array without a place would not
                return True
    return False


def read_scores(path: Path, key: str | None) -> Array:
    """Read logits or probabilities [L, *S] from an image with a channel per label."""
    return _whole(path, _level(path, key))


def read_image(path: Path, key: str | None) -> Array:
    """Read an image [*S, C]."""
    return np.moveaxis(_whole(path, _level(path, key)), 0, -1)


def read_labels(path: Path, key: str | None) -> Array:
    """Read a label map [*S], or [C, *S] if the file has several channels."""
    maps = _whole(path, _level(path, key))
    return maps[0] if len(maps) == 1 else maps


def read_geometry(path: Path, key: str | None = None) -> Geometry:
    """Read scale and translation of the spatial axes."""
    return _level(path, key).geometry


def read_shape(path: Path, key: str | None = None) -> tuple[int, ...]:
    """Return the lengths of the spatial axes."""
    return _level(path, key).geometry.size


def missing(path: Path, key: str | None = None) -> Missing:
    """Count the chunks of one resolution that are not stored."""
    return missing_of(_level(path, key).array)


def opened(path: Path, stack: contextlib.ExitStack, key: str | None = None) -> Source:
    """Open one resolution of an image to be read in parts."""
    return _OmeZarr(path, _level(path, key))


class _OmeZarr(Source):
    """One resolution of an image that is read in parts."""

    def __init__(self, path: Path, level: "_Level") -> None:
        super().__init__(path, level.maps())
        self._level = level

    def image(self, axes: int, bands: Sequence[int] | None = None) -> Sliceable:
        """Return the image [*S, C]; `bands` must be None."""
        super().image(axes, bands)  # refuses bands
        maps = self._array
        shape = (*maps.shape[1:], maps.shape[0])
        return View(shape, maps.dtype, lambda w: np.moveaxis(maps[(w[-1], *w[:-1])], 0, -1))

    def labels(self) -> Sliceable:
        """Return the label map [*S], the single channel."""
        maps = self._array
        if maps.shape[0] != 1:
            raise ValueError(
                f"{self.path}: has {maps.shape[0]} channels; a label map, or a mask, has one"
            )
        return View(maps.shape[1:], maps.dtype, lambda where: maps[(slice(0, 1), *where)][0])

    def geometry(self) -> Geometry:
        """Return where the pixels are."""
        return self._level.geometry


@dataclass(frozen=True)
class _Level:
    """One resolution of an image.

    Attributes
    ----------
    array : zarr array
    channel : int or None
        The channel axis of the array.
    spatial : list of int
        Its axes z, y, x.
    geometry : Geometry
    """

    array: Any
    channel: int | None
    spatial: list[int]
    geometry: Geometry

    def maps(self) -> View:
        """Return the array as [C, *S], read when it is sliced."""
        array, channel, spatial = self.array, self.channel, self.spatial
        order = [axis for axis in (channel, *spatial) if axis is not None]

        def part(where: tuple[slice, ...]) -> Array:
            chosen = dict(zip(order, where[-len(order) :], strict=True))
            stored = np.asarray(array[tuple(chosen.get(i, 0) for i in range(array.ndim))])
            kept = sorted(order)
            found = stored.transpose([kept.index(axis) for axis in order])
            return np.ascontiguousarray(found[None][where[0]] if channel is None else found)

        count = 1 if channel is None else array.shape[channel]
        return View((count, *self.geometry.size), array.dtype, part)


def _whole(path: Path, level: _Level) -> Array:
    maps = level.maps()
    sizes.check(path, maps.shape, maps.dtype, stored_zarr(path, level.array))
    return maps[tuple(slice(0, length) for length in maps.shape)]


def _ome(attributes: Any) -> dict[str, Any]:
    """Return the OME metadata among the attributes of a group: version 0.5 has a key for them."""
    attributes = dict(attributes)
    return dict(attributes.get("ome", attributes))


def _images(group: Any, name: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield the name, group and multiscale metadata of each image at or below a group.

    Images inside an image, which are its label images, follow it.
    """
    found = _ome(group.attrs).get("multiscales")
    if found:
        yield name, group, found[0]
    for below, member in group.groups():
        yield from _images(member, f"{name}/{below}".strip("/"))


def _level(path: Path, key: str | None) -> _Level:
    """Return the resolution that `key` names.

    `key` is the name of an array or of an image, whose full resolution is taken, or of a group with
    one image; None is the whole file.
    """
    images = list(_images(zarr_group(path)))
    levels = {}  # by name: group, metadata and dataset
    for name, group, image in images:
        for dataset in image["datasets"]:
            levels[f"{name}/{dataset['path']}".strip("/")] = (group, image, dataset)
    below = "" if key is None else key.strip("/")
    if below not in levels:
        inside = [n for n, *_ in images if below in ("", n) or n.startswith(below + "/")]
        outermost = [n for n in inside if not any(_contains(m, n) for m in inside)]
        if len(outermost) != 1:
            below = choose(path, outermost if outermost and key is None else list(levels), key)
        else:
            image = next(image for name, _, image in images if name == outermost[0])
            below = f"{outermost[0]}/{image['datasets'][0]['path']}".strip("/")
    group, image, dataset = levels[below]
    return _placed(path, checked_zarr(path, group[dataset["path"]]), image, dataset)


def _contains(outer: str, inner: str) -> bool:
    return outer != inner and (outer == "" or inner.startswith(outer + "/"))


def _placed(path: Path, array: Any, image: dict[str, Any], dataset: dict[str, Any]) -> _Level:
    """Return an array with its axes and geometry, from the metadata of its image and dataset."""
    if "coordinateSystems" in image:
        raise ValueError(
            f"{path}: OME-Zarr of version {image.get('version', '0.6')}; versions up to 0.5 are "
            "read, so convert it"
        )
    axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes", "tczyx")]
    if len(axes) != array.ndim:
        raise ValueError(f"{path}: names {len(axes)} axes, but its array has {array.ndim}")
    names = [axis["name"] for axis in axes]
    types = [axis.get("type", _TYPES.get(axis["name"])) for axis in axes]
    for name, kind, length in zip(names, types, array.shape, strict=True):
        if kind not in ("space", "channel") and length > 1:
            raise ValueError(
                f"{path}: has {length} positions along the axis {name}; save one image for each"
            )
    channels = [i for i, kind in enumerate(types) if kind == "channel"]
    spatial = [i for i, kind in enumerate(types) if kind == "space"]
    if {names[i] for i in spatial} <= set("zyx"):
        spatial.sort(key=lambda i: names[i], reverse=True)
    if len(spatial) == 3 and array.shape[spatial[0]] == 1:
        del spatial[0]
    if len(spatial) not in (2, 3) or len(channels) > 1:
        raise ValueError(
            f"{path}: has the axes {', '.join(names)}; an image has two or three axes of space and "
            "at most one of channels"
        )
    changes = [dataset.get("coordinateTransformations"), image.get("coordinateTransformations")]
    scale, shift = _transform(path, [change for some in changes for change in some or ()], axes)
    if not (scale[spatial] > 0).all():
        raise ValueError(f"{path}: has the scale {scale[spatial].tolist()}; it must be positive")
    affine = np.diag([*scale[spatial], 1])
    affine[:-1, -1] = shift[spatial]
    units = {str(axes[i].get("unit", "")) for i in spatial}
    unit = None if "" in units else " x ".join(sorted(units))
    size = tuple(int(array.shape[i]) for i in spatial)
    geometry = Geometry(size, affine, "OME-Zarr", unit, placed=any(map(bool, changes)))
    return _Level(array, channels[0] if channels else None, spatial, geometry)


def _transform(
    path: Path, changes: Sequence[dict[str, Any]], axes: Sequence[Any]
) -> tuple[Array, Array]:
    """Return scale and translation of each axis: those of `changes`, one after the other."""
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    for change in changes:
        kind = change["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in change:
            raise ValueError(
                f"{path}: has a coordinate transformation of type {kind}; only scale and "
                "translation, as numbers, are read"
            )
        numbers = np.array(change[kind], float)
        if numbers.shape != scale.shape:
            raise ValueError(
                f"{path}: has the {kind} {change[kind]}; it must be {len(axes)} numbers, one for "
                "each axis"
            )
        if kind == "scale":
            scale, shift = scale * numbers, shift * numbers
        else:
            shift = shift + numbers
    return scale, shift
