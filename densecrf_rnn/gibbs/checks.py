"""Checks of the arguments that describe a grid CRF, for NumPy arrays and torch tensors.

Each error message says what was passed, what is required and how to fix it.
"""

import math
from typing import Any

import numpy as np

from .. import checks
from .._limits import INDEX_BITS, LABEL_BITS, OFFSET_BITS
from ..checks import array_kind, wording
from ..checks.values import extremes, finite
from .._typing import Array

SEED_BITS = 64  # seeds and numbers of chains are two words of Philox each
SWEEP_BITS = 31  # sweeps of a chain are numbered by one word, with room to add to it
MAX_SCORE = 1e30  # bound on a pixel's score, so that no sum overflows float32
MIN_TEMPERATURE = 1e-30  # a temperature up to this counts as 0, so that no reciprocal overflows


def check_model(logits: Array, tables: Array, offsets: Any, mask: Array | None) -> Array:
    """Check the NumPy arguments of one grid CRF; return its offsets as an int32 array [C, 2]."""
    check_logits(logits, batched=False)
    return check_edges(logits, tables, offsets, mask, batched=False)


def check_labelled_model(
    logits: Array, labels: Array, tables: Array, offsets: Any, mask: Array | None
) -> Array:
    """Check the arguments of one grid CRF and a labelling; return the offsets as int32 [C, 2]."""
    vectors = check_model(logits, tables, offsets, mask)
    check_labelling("labels", labels, logits.shape[1:], len(logits), mask)
    return vectors


def check_holds(labels: Array, count: int) -> None:
    """Check that the dtype of `labels`, which the result also has, holds the labels 0..count-1."""
    most = 1 if labels.dtype.kind == "b" else np.iinfo(labels.dtype).max
    if most < count - 1:
        raise TypeError(
            f"labels has dtype {labels.dtype}, which the result also has and which cannot hold "
            f"label {count - 1}; pass labels.astype(np.int32)"
        )


def check_edges(logits: Any, tables: Any, offsets: Any, mask: Any, *, batched: bool) -> Array:
    """Check tables, offsets and mask for logits that are checked; return offsets [C, 2] int32."""
    size = tuple(logits.shape[1 + batched :])
    vectors = check_offsets(offsets, size)
    check_tables(tables, len(vectors), logits.shape[int(batched)], batched=batched)
    if logits.shape[0]:
        check_potentials(logits, tables)
    checks.mask(mask, (*logits.shape[:batched], *size), batched=batched)
    return vectors


def check_logits(array: Any, *, batched: bool) -> None:
    """Check that logits are finite float32 [L, H, W], or [B, L, H, W] if `batched`."""
    array_kind("logits", array, batched=batched)
    layout, shape = "[B, L, H, W]" if batched else "[L, H, W]", wording.shape(array)
    if len(array.shape) != 3 + batched:
        raise ValueError(f"logits has shape {shape}; a grid CRF takes images, {layout}")
    if 0 in array.shape[batched:]:
        raise ValueError(f"logits has shape {shape}, without labels or without pixels")
    checks.float_dtype("logits", array, batched=batched, allowed=("float32",))
    labels, pixels = array.shape[int(batched)], math.prod(array.shape[1 + batched :])
    if labels >= 2**LABEL_BITS or pixels >= 2**INDEX_BITS:
        raise ValueError(
            f"logits has {labels} labels and {pixels} pixels; a grid CRF takes fewer than "
            f"2^{LABEL_BITS} and 2^{INDEX_BITS}, so cut the image into tiles"
        )
    if array.shape[0] and not finite(array):
        wording.raise_non_finite("logits", array)


def check_offsets(value: Any, size: tuple[int, int] | None = None) -> Array:
    """Return translation vectors as an int32 array [C, 2] after checking them.

    Each must be nonzero, occur once, not be the opposite of another and, if `size` (H, W) is given,
    be shorter than the image.
    """
    array = _rectangular("offsets", value)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        wanted = "[C, 2], at least one translation vector (rows, columns)"
        raise wording.shape_error("offsets", array, wanted)
    if array.dtype.kind not in "iu":
        raise TypeError(f"offsets has dtype {array.dtype}; it must hold integers, in pixels")
    seen: dict[tuple[int, int], int] = {}
    for i, (down, right) in enumerate(array.tolist()):
        name = f"offsets[{i}] is ({down}, {right})"
        if (down, right) == (0, 0):
            raise ValueError(f"{name}, which joins a pixel to itself; leave it out")
        if max(abs(down), abs(right)) >= 2**OFFSET_BITS:
            raise ValueError(f"{name}; an offset must be below 2^{OFFSET_BITS} pixels")
        if size is not None and (abs(down) >= size[0] or abs(right) >= size[1]):
            raise ValueError(
                f"{name} but the image is {wording.size(size)} (H, W), so that it joins no two "
                "pixels; use shorter offsets or larger images"
            )
        if (down, right) in seen:
            raise ValueError(
                f"{name}, the same as offsets[{seen[down, right]}]; give each offset once"
            )
        if (-down, -right) in seen:
            raise ValueError(
                f"{name}, the opposite of offsets[{seen[-down, -right]}]; both stand for the same "
                "edges, whose one table scores either direction, so keep one of them"
            )
        seen[down, right] = i
    return array.astype(np.int32)


def check_tables(array: Any, classes: int, labels: int, *, batched: bool) -> None:
    """Check that tables are finite float32 [C, L, L]: a tensor if the logits are `batched`."""
    array_kind("tables", array, batched=batched)
    if tuple(array.shape) != (classes, labels, labels):
        raise ValueError(
            f"tables has shape {wording.shape(array)}; it must be [{classes}, {labels}, {labels}]: "
            "one table per offset, which scores a label (row) at a pixel with a label (column) at "
            "the pixel that the offset leads to"
        )
    checks.float_dtype("tables", array, batched=batched, allowed=("float32",))
    if not finite(array):
        wording.raise_non_finite("tables", array)


def check_potentials(logits: Any, tables: Any) -> None:
    """Check that no score of a pixel can overflow float32, given finite logits and tables."""
    largest = [max(-low, high) for low, high in map(extremes, (logits, tables))]
    if not largest[0] + 2 * tables.shape[0] * largest[1] < MAX_SCORE:
        raise ValueError(
            f"logits reach {largest[0]:g} and tables {largest[1]:g}; scores of a pixel must stay "
            f"below {MAX_SCORE:g}, so rescale them (-1e4 is enough to rule a label out)"
        )


def check_labelling(name: str, array: Any, size: tuple[int, ...], labels: int, mask: Any) -> None:
    """Check that a labelling has the size of the logits and holds integers 0..L-1.

    Values outside `mask` are not checked; None checks all.
    """
    layout = "[B, H, W]" if len(size) == 3 else "[H, W]"
    array_kind(name, array, batched=len(size) == 3)
    if tuple(array.shape) != size:
        raise ValueError(
            f"{name} is {wording.size(array.shape)} but logits is {wording.size(size)} ({layout}); "
            "they must belong to the same image"
        )
    dtype = wording.dtype(array)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"{name} has dtype {dtype}; labels must be integers")
    seen = array if mask is None else array[mask]
    if not math.prod(seen.shape):
        return
    low, high = int(seen.min()), int(seen.max())
    if low < 0 or high >= labels:
        bad = low if low < 0 else high
        raise ValueError(
            f"{name} holds the label {bad} but there are {labels}: 0 to {labels - 1}; to exclude "
            "pixels, use mask"
        )


def inverse_temperatures(value: Any, sweeps: int) -> Array:
    """Return inverse temperatures [S] float32, infinity for temperature 0, after checking `value`.

    `value` is one temperature for all sweeps or one for each.
    """
    given = _rectangular("temperature", value)
    if given.dtype.kind not in "fiu":
        raise TypeError(
            f"temperature is {wording.kind(value)}; it must be a number, or one for each sweep"
        )
    if given.shape not in ((), (sweeps,)):
        raise ValueError(
            f"temperature has shape {wording.shape(given)}; it must be one number, or [{sweeps}], "
            "one for each sweep"
        )
    given = np.broadcast_to(given.astype(np.float64), sweeps)
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(
            "temperature holds a negative number, NaN or infinity; it must be finite: 1 samples "
            "and 0 takes the most probable label"
        )
    with np.errstate(divide="ignore"):
        return np.where(given > MIN_TEMPERATURE, 1 / given, np.inf).astype(np.float32)


def _rectangular(name: str, value: Any) -> Array:
    """Convert nested sequences to an array, or raise if their lengths differ."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} holds rows of several lengths; give all the same length"
        ) from None
