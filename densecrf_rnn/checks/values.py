"""Checks of the values in arrays and tensors, and warnings about ranges that suggest a mistake."""

import math
import sys
import warnings
from typing import Any

import numpy as np

from . import wording
from .arrays import exchange_error

INTENSITY_LIMIT = 1e30  # squares of differences stay within the range of float64


def logits_values(array: Any, *, batched: bool, name: str = "logits") -> None:
    """Check that logits hold no NaN and no +inf, and a finite label at every pixel."""
    if 0 in array.shape:
        return
    peak = getattr(array, "amax", array.max)(int(batched))  # over the labels; propagates NaN
    if finite(peak):
        return
    if bool((peak != peak).any()):
        wording.raise_non_finite(name, array)
    if bool((peak == math.inf).any()):
        raise ValueError(
            f"{name} contains +infinity; to fix a label, set the others to -infinity instead"
        )
    if array.shape[int(batched)] == 1:
        return  # one logit x stands for the pair (0, x), so -inf leaves label 0
    dead = int((peak == -math.inf).sum())
    raise ValueError(
        f"{name} is -infinity for every label at {dead} pixels; leave at least one label possible "
        "(equal logits, such as 0, make all labels equally probable)"
    )


def probabilities(array: Any, *, batched: bool, multilabel: bool = False) -> bool:
    """Warn if logits lie in 0..1 and are not constant, as probabilities and masks do.

    Percentages, probabilities in 0..255, and single maps that reach down to 0 and not below, as
    masks do, are noticed, too. A corner of the array decides most cases, so that the whole array
    is seldom read.

    Returns
    -------
    bool
        Whether the values decide the question: False if they are constant within 0..1, or few.
    """
    axis = int(batched)
    if math.prod(array.shape) < 8:  # so few logits may lie in 0..1 by chance
        return False
    for part in (_corner(array, axis + 1), array):
        low = float(part.min())  # below 0 in most logits: the maximum is not needed then
        if not low >= 0:
            return True
        high = float(part.max())
    if not high <= 1:
        if scale := _scale(array, axis, multilabel, low, high):
            warn(scale)
        return True
    if low < high:
        warn(_way_out_of_probabilities(array, batched, multilabel))
    return low < high


def _scale(array: Any, axis: int, multilabel: bool, low: float, high: float) -> str:
    """Return in which units logits of at least 0 that exceed 1 seem to be probabilities, if any."""
    if multilabel or array.shape[axis] == 1:
        if low > 1e-3 * high:  # all foreground, as in a tile
            return ""
        return (
            f"logits lie in 0..{high:.4g}, as masks and scaled probabilities do, so every pixel "
            "would rather be foreground; if they are, bring them to 0..1 first"
        )
    total = array.sum(axis)
    least, most = extremes(total)
    for one in (100, 255):
        if max(one - least, most - one) <= 1 + array.shape[axis] / 2:  # rounding
            return (
                f"logits are at least 0 and sum to {one} over the labels, as scaled probabilities "
                f"do; if they are, divide them by {one} first"
            )
    return ""


def _way_out_of_probabilities(array: Any, batched: bool, multilabel: bool) -> str:
    """Return what logits in 0..1 seem to be, and how they become logits."""
    axis = int(batched)
    if batched:
        regions = (
            "multilabel=True and remove the sigmoid (of probabilities from elsewhere pass "
            "torch.logit(p.clamp(1e-5, 1 - 1e-5)))"
        )
        logit, logarithm = "torch.logit(p.clamp(1e-5, 1 - 1e-5))", "torch.log(p.clamp(min=1e-5))"
        kind = " before the CRF, or of probabilities from elsewhere pass "
    else:
        kind = "kind='probabilities' to refine, or "
        regions = "kind='probabilities' and multilabel=True to refine"
        logit = "np.log(np.maximum(p, 1e-5) / np.maximum(1 - p, 1e-5))"
        logarithm = "np.log(np.maximum(p, 1e-5))"
    if multilabel and not batched:
        kind = "kind='probabilities' with multilabel=True, or "
    if multilabel or array.shape[axis] == 1:
        way_out = f"remove the sigmoid{kind}" if batched else f"pass {kind}"
        return (
            "logits lie in 0..1, as the probabilities of a sigmoid do, so every pixel would rather "
            f"be foreground; if they are, {way_out}their logit: {logit}"
        )
    total = array.sum(axis)
    one = abs(total - 1) < 0.01  # as wide as the rounding of bfloat16
    if bool((one | (total == 0)).all()) and bool(one.any()):  # pixels outside a mask hold 0
        way_out = f"remove the softmax{kind}" if batched else f"pass {kind}"
        return (
            "logits lie in 0..1 and sum to 1 over the labels, as probabilities do; if they are, "
            f"{way_out}their logarithm: {logarithm}"
        )
    return (
        "logits lie in 0..1 but do not sum to 1 over the labels, as sigmoids that overlap do; if "
        f"they are, pass {regions}, or for one label per pixel their logarithm: {logarithm}"
    )


# Rounding errors of probabilities computed in float16.
_ROUNDING = 1e-3
# Interpolated probabilities overshoot by less, and class activation maps seldom by more.
_OVERSHOOT = 4.0
# How far sums of probabilities may be off 1, unless the probabilities have 8 bits.
_MOST_OFF = 0.1


def exchanged_values(logits: Any, image: Any) -> None:
    """Raise ValueError if logits look like an image in 0..255, and the image does not.

    Corners decide: the integers of an image, and the negative scores of a network. Only NumPy
    arrays are read, because reading a device would wait for it.
    """
    if not hasattr(image, "flat"):
        return
    pixels = _corner(image, 2)
    if pixels.size == 0 or not float(pixels.min()) < 0:
        return
    scores = _corner(logits, 2)
    if float(scores.min()) >= 0 and 16 < float(scores.max()) <= 255:
        whole = (scores % 1 == 0).all() and not (pixels % 1 == 0).all()
        if whole and len(set(scores.flat)) > 16:  # a label map times a number has few values
            raise exchange_error(logits, image)


def probability_dtype(array: Any) -> None:
    """Check that an array of probabilities is floating point, uint8 or uint16."""
    kind, size = array.dtype.kind, array.dtype.itemsize  # in any byte order
    if kind != "f" and not (kind == "u" and size <= 2):
        raise TypeError(
            f"probabilities has dtype {array.dtype}; it must be floating point, uint8 or uint16"
        )


def probability_range(p: Any, *, clip: bool, multilabel: bool = False) -> None:
    """Check that probabilities [L, N] are finite and, unless they are clipped, lie in 0..1.

    Warn if clipping does more than cut off what overshoots.
    """
    if p.size == 0:
        return
    low, high = extremes(p)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"probabilities holds {'NaN' if math.isnan(low) else 'infinity'}; they must lie in "
            "0..1; replace such values, or exclude their pixels by a mask"
        )
    found = f"{p.min()!s}..{p.max()!s}"  # of a NumPy float32, whose str has all its digits
    if clip:
        if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
            warn(
                f"probabilities holds {found}, and clipping to 0..1 cuts off more than an "
                "overshoot; divide percentages by 100 and 8-bit values by 255 first; logits need "
                "no conversion"
            )
        return
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return
    way_out = (
        "and divided by their sum by unaries.logits_from_probabilities(p, clip=True); logits need "
        "no conversion"
    )
    if multilabel:
        way_out = (
            "by unaries.logits_from_probabilities(p, multilabel=True, clip=True); leave "
            "kind='probabilities' out for logits of the maps"
        )
    if high > 1 + _OVERSHOOT and low >= -_ROUNDING:
        way_out = (
            "percentages are divided by 100 and 8-bit values by 255 first; "
            + way_out.rpartition("; ")[2]
        )
    else:
        way_out = f"scores that overshoot are clipped {way_out}"
    raise ValueError(f"probabilities holds {found}; they must lie in 0..1; {way_out}")


def in_unit_range(name: str, array: Any) -> None:
    """Check that the probabilities that a loss gets are finite and lie in 0..1, up to rounding."""
    if 0 in array.shape:
        return
    low, high = extremes(array)
    if not (math.isfinite(low) and math.isfinite(high)):
        wording.raise_non_finite(name, array)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"{name} holds {low:.4g}..{high:.4g}; it must lie in 0..1: pass logits.softmax(1), and "
            "the image after it"
        )


def sums_to_one(total: Any, maps: Any, mask: Any = None) -> bool:
    """Return whether probabilities sum to 1 over the labels, up to the rounding of 8 bits.

    `total` holds the sums of `maps` [L, *S], of which `mask` [*S] selects some. If the maps are no
    multiples of 1/255, the allowance stops growing with L at `_MOST_OFF`.
    """
    if total.size == 0:
        return True
    low, high = extremes(total)
    off = max(1 - low, high - 1)
    rounding = max(0.01, len(maps) / 255)  # truncation loses 1/255 of each map
    if off <= min(rounding, _MOST_OFF):
        return True
    return 0 < low and off <= rounding and _of_eight_bits(maps if mask is None else maps[:, mask])


def _of_eight_bits(p: Any) -> bool:
    """Return whether probabilities are multiples of 1/255, up to the rounding of float16."""
    steps = 255 * p.astype(np.float32)
    return bool((abs(steps - np.rint(steps)) <= 1e-3 + steps / 1024).all())


def probability_sums(total: Any, maps: Any, mask: Any = None) -> None:
    """Check that the sums of probabilities over the labels are 1; see `sums_to_one`."""
    if sums_to_one(total, maps, mask):
        return
    low, high = extremes(total)
    raise ValueError(
        f"probabilities sum to {low:.4g}..{high:.4g} over the labels, but those of one "
        "distribution sum to 1 at every pixel; pass multilabel=True if the maps may overlap, or "
        "divide by the sum with unaries.logits_from_probabilities(p, clip=True)"
    )


def image_values(array: Any, name: str = "image") -> None:
    """Check that an image is finite and within 1e30."""
    if 0 in array.shape or not is_float(array):
        return
    low, high = extremes(array)
    if not (math.isfinite(low) and math.isfinite(high)):
        wording.raise_non_finite(name, array)
    if max(-low, high) > INTENSITY_LIMIT:
        raise ValueError(
            f"{name} reaches {max(-low, high):g}; intensities must lie within 1e30, so rescale it"
        )


def parameter(name: str, array: Any) -> None:
    """Check that an array or tensor is real and finite."""
    dtype = wording.dtype(array)
    kind = getattr(array.dtype, "kind", dtype[0])  # "f", "i" or "u"; dtypes of torch have no kind
    if kind not in "fiu" and not dtype.startswith("bfloat"):
        raise TypeError(f"{name} has dtype {dtype}; it must be integer or floating point")
    if not finite(array):
        wording.raise_non_finite(name, array)


def extremes(array: Any) -> tuple[float, float]:
    """Return the minimum and the maximum; both are NaN if the array contains NaN."""
    return float(array.min()), float(array.max())


def finite(array: Any) -> bool:
    """Return whether every entry is finite. The array must not be empty."""
    return all(map(math.isfinite, extremes(array)))


def warn(message: str) -> None:
    """Give a warning at the first line outside this package and torch."""
    warnings.warn(message, UserWarning, stacklevel=_callers_level())


def _corner(array: Any, first_axis: int) -> Any:
    """Return a view of at most 30 entries along each axis from `first_axis` on."""
    axes = len(array.shape) - first_axis
    return array[(slice(None),) * first_axis + (slice(30),) * axes]


def is_float(array: Any) -> bool:
    """Return whether an array or a tensor is floating point."""
    kind = getattr(array.dtype, "kind", None)  # dtypes of torch have no kind
    return bool(array.dtype.is_floating_point if kind is None else kind == "f")


def _callers_level() -> int:
    """Return the stacklevel of the first frame outside this package and torch."""
    inside = {__name__.partition(".")[0], "torch"}
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    return level
