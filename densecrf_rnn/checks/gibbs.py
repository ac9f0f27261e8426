"""Checks of grid CRFs."""

import math
from typing import Any

import numpy as np

from .._typing import Array
from .arrays import array_kind
from .values import extremes as _range
from .values import finite as _finite
from .wording import dtype as _dtype
from .wording import kind as _kind
from .wording import raise_non_finite as _refuse_non_finite
from .wording import shape as _shape
from .wording import size as _by


def gibbs_logits(array: Any, *, batched: bool) -> None:
    """[L, H, W], or [B, L, H, W]; float32, in which labels are drawn; finite."""
    array_kind("logits", array, batched=batched)
    layout = "[B, L, H, W]" if batched else "[L, H, W]"
    if len(array.shape) != 3 + batched:
        raise ValueError(f"logits has shape {_shape(array)}; a grid CRF takes images, {layout}")
    if 0 in array.shape[batched:]:
        raise ValueError(f"logits has shape {_shape(array)}, without labels or without pixels")
    _float32("logits", array, batched)
    labels, pixels = array.shape[int(batched)], math.prod(array.shape[1 + batched :])
    if labels >= 2**16 or pixels >= 2**31:
        raise ValueError(
            f"logits has {labels} labels and {pixels} pixels; a grid CRF takes fewer than 2^16 and "
            "2^31, so cut the image into tiles"
        )
    if array.shape[0] and not _finite(array):
        _refuse_non_finite("logits", array)


def offsets(value: Any, size: tuple[int, int] | None = None) -> Array:
    """Translation vectors [C, 2], each once and not its opposite; within an image of `size`."""
    array = _even("offsets", value)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise ValueError(
            f"offsets has shape {_shape(array)}; it must be [C, 2], at least one translation "
            "vector (rows, columns)"
        )
    if array.dtype.kind not in "iu":
        raise TypeError(f"offsets has dtype {array.dtype}; it must be whole numbers of pixels")
    seen: dict[tuple[int, int], int] = {}
    for i, (down, right) in enumerate(array.tolist()):
        name = f"offsets[{i}] is ({down}, {right})"
        if (down, right) == (0, 0):
            raise ValueError(f"{name}, which joins a pixel to itself; leave it out")
        if max(abs(down), abs(right)) >= 2**15:
            raise ValueError(f"{name}; an offset must be below 2^15 pixels")
        if size is not None and (abs(down) >= size[0] or abs(right) >= size[1]):
            raise ValueError(
                f"{name} but the image is {_by(size)} (H, W), where it joins no two pixels; use "
                "shorter offsets or larger images"
            )
        if (down, right) in seen:
            raise ValueError(f"{name}, as offsets[{seen[down, right]}]; give each once")
        if (-down, -right) in seen:
            raise ValueError(
                f"{name}, the opposite of offsets[{seen[-down, -right]}]: the same edges, whose "
                "one table holds both directions; keep one of them"
            )
        seen[down, right] = i
    return array.astype(np.int32)


def tables(array: Any, classes: int, labels: int) -> None:
    """[C, L, L] float32, finite."""
    array_kind("tables", array, batched=False)
    if tuple(array.shape) != (classes, labels, labels):
        raise ValueError(
            f"tables has shape {_shape(array)}; it must be [{classes}, {labels}, {labels}], for "
            "each offset the score of a label (row) at a pixel and another (column) at the offset "
            "from it"
        )
    _float32("tables", array, False)
    if not _finite(array):
        _refuse_non_finite("tables", array)


def potentials(logits: Any, tables: Any) -> None:
    """Finite logits and tables whose sums stay finite too."""
    ends = [max(-low, high) for low, high in map(_range, (logits, tables))]
    if not ends[0] + 2 * tables.shape[0] * ends[1] < 1e30:
        raise ValueError(
            f"logits reach {ends[0]:g} and tables {ends[1]:g}; scores of a pixel must stay below "
            "1e30, so rescale them (to rule a label out, -1e4 will do)"
        )


def labelling(name: str, array: Any, size: tuple[int, ...], labels: int, taken: Any) -> None:
    """Integer labels 0..L-1 of the size of the logits, at least where the mask `taken` is True."""
    layout = "[B, H, W]" if len(size) == 3 else "[H, W]"
    array_kind(name, array, batched=len(size) == 3)
    if tuple(array.shape) != size:
        raise ValueError(
            f"{name} is {_by(array.shape)} but logits is {_by(size)} ({layout}); they must belong "
            "to one image"
        )
    dtype = _dtype(array)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"{name} has dtype {dtype}; labels must be integers")
    seen = array if taken is None else array[taken]
    if not math.prod(seen.shape):
        return
    low, high = int(seen.min()), int(seen.max())
    if low < 0 or high >= labels:
        bad = low if low < 0 else high
        raise ValueError(
            f"{name} holds the label {bad} but there are {labels}: 0 to {labels - 1}; to leave "
            "pixels out, use mask"
        )


def temperatures(value: Any, sweeps: int) -> Array:
    """One for all sweeps or one for each, at least 0, as inverse temperatures [S] float32."""
    given = _even("temperature", value)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"temperature is {_kind(value)}; it must be a number, or one for a sweep")
    if given.shape not in ((), (sweeps,)):
        raise ValueError(
            f"temperature has shape {_shape(given)}; it must be one number, or [{sweeps}], one for "
            "each sweep"
        )
    given = np.broadcast_to(given.astype(np.float64), sweeps)
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(
            "temperature holds a number below 0, NaN or infinity; it must be finite, 1 to sample "
            "and 0 to take the likeliest label"
        )
    with np.errstate(divide="ignore"):
        return np.where(given > 1e-30, 1 / given, np.inf).astype(np.float32)


def _even(name: str, value: Any) -> Array:
    """An array of nested sequences whose rows are of one length."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} holds rows of several lengths; make them one") from None


def _float32(name: str, array: Any, batched: bool) -> None:
    if _dtype(array) != "float32" or not (batched or array.dtype.isnative):
        cast = f"{name}.float()" if batched else f"{name}.astype(np.float32)"
        found = _dtype(array) if batched or array.dtype.isnative else array.dtype
        raise TypeError(f"{name} has dtype {found}; labels are drawn in float32 ({cast})")
