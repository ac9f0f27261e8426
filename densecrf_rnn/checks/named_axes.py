"""Checks of arrays whose axes have names and coordinates, such as xarray.DataArray."""

from typing import Any

import numpy as np

_CHANNEL = {
    "band", "bands", "c", "channel", "channels", "class", "classes", "feature", "label", "labels",
    "rgb", "wavelength",
}  # fmt: skip
# Order of the spatial axes.
_SPATIAL = {
    **dict.fromkeys(("z", "d", "depth", "lev", "level", "plane", "slice"), 1),
    **dict.fromkeys(("y", "h", "height", "lat", "latitude", "northing", "row", "rows"), 2),
    **dict.fromkeys(
        ("x", "w", "width", "lon", "longitude", "easting", "col", "cols", "column", "columns"), 3
    ),
}  # fmt: skip


def named_axes(logits: Any, image: Any, mask: Any = None) -> None:
    """Check that named axes are in the order [L, *S], [*S, C] and [*S], on the same coordinates.

    Axes without a known name keep their place; arrays without names pass.
    """
    _order("logits", logits, 0)
    _order("image", image, 4)
    _order("mask", mask, 0)
    if _named(image) and len(image.dims) == len(getattr(logits, "shape", ())) - 1:
        raise ValueError(
            f"image has the axes {image.dims}, without channels; pass "
            "image.expand_dims('channel', axis=-1)"
        )
    if not (_named(logits) and _named(image)):
        return
    axes = tuple(logits.dims[1:])
    if axes != tuple(image.dims[:-1]) and set(axes) == set(image.dims[:-1]):
        raise ValueError(_transposed("image", image, [*axes, image.dims[-1]]))
    for axis in axes:
        if axis in image.dims and axis in logits.coords and axis in image.coords:
            one, other = (np.asarray(array.coords[axis]) for array in (logits, image))
            if one.shape == other.shape and not _equal(one, other):
                raise ValueError(
                    f"logits and image have other coordinates along {axis!r}, {one[0]}..{one[-1]} "
                    f"and {other[0]}..{other[-1]}; pass image.sel({axis}=logits.{axis}) where the "
                    f"image has them, or image.interp({axis}=logits.{axis})"
                )


def _named(array: Any) -> bool:
    return isinstance(getattr(array, "dims", None), tuple) and hasattr(array, "coords")


def _order(name: str, array: Any, channel: int) -> None:
    """Check the order of the axes of one array, of which `channel` is the rank of the channels."""
    if not _named(array):
        return
    ranks = dict.fromkeys(_CHANNEL, channel) | _SPATIAL
    found = [ranks.get(str(axis).lower()) for axis in array.dims]
    if channel not in found and found.count(None) == 1:
        found[found.index(None)] = channel  # the one axis that is not known to be spatial
    known = [rank for rank in found if rank is not None]
    if known != sorted(known):
        by_rank = sorted(zip(found, array.dims), key=lambda of: 2 if of[0] is None else of[0])
        raise ValueError(_transposed(name, array, [axis for _, axis in by_rank]))


def _transposed(name: str, array: Any, order: list[Any]) -> str:
    wanted = ", ".join(map(repr, order))
    return (
        f"{name} has the axes {array.dims}, which must be in another order: pass "
        f"{name}.transpose({wanted})"
    )


def _equal(one: Any, other: Any) -> bool:
    """Return whether coordinates agree to a hundredth of a pixel."""
    if one.dtype.kind not in "iuf" or other.dtype.kind not in "iuf":
        return bool((one == other).all())
    steps = np.abs(np.diff(one.astype(float)))
    step = steps.min() if steps.size else 1.0
    return bool((np.abs(one.astype(float) - other) <= step / 100).all())
