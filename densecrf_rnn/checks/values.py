"""Checks of the values in arrays and tensors, and warnings about ranges that suggest a mistake."""

import math
import sys
import warnings
from typing import Any

from . import wording


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


def probabilities(array: Any, *, batched: bool) -> None:
    """Warn if logits lie in 0..1 and sum to 1 over the labels, as probabilities do.

    A corner of the array decides most cases, so that the whole array is seldom read.
    """
    axis = int(batched)
    if 0 in array.shape or array.shape[axis] == 1:
        return
    part = _corner(array, axis + 1)
    if not (float(part.min()) >= 0 and float(abs(part.sum(axis) - 1).max()) < 1e-3):
        return
    low, high = extremes(getattr(array, "amax", array.max)(axis))  # of the most probable label
    if 0 < low <= high <= 1:
        logarithm = "torch.log(p.clamp(min=1e-5))" if batched else "np.log(np.maximum(p, 1e-5))"
        warnings.warn(
            "logits lie in 0..1 and sum to 1 over the labels, as probabilities do; pass their "
            f"logarithm: {logarithm}",
            UserWarning,
            stacklevel=_callers_level(),
        )


def image_values(array: Any, name: str = "image") -> None:
    """Check that an image is finite and within 1e30."""
    if 0 in array.shape or not _is_float(array):
        return
    low, high = extremes(array)
    if not (math.isfinite(low) and math.isfinite(high)):
        wording.raise_non_finite(name, array)
    if max(-low, high) > 1e30:
        raise ValueError(
            f"{name} reaches {max(-low, high):g}; intensities must lie within 1e30, so rescale it"
        )


def image_range(array: Any, theta_beta: float) -> None:
    """Warn if a floating-point image lies in 0..1 and `theta_beta` is larger than 1.

    A corner of the array decides most cases, so that the whole array is seldom read.
    """
    if 0 in array.shape or not _is_float(array) or theta_beta <= 1:
        return
    for part in (_corner(array, 0), array):
        high = float(part.max())  # above 1 in most images: the minimum is not needed then
        if not high <= 1:
            return
        low = float(part.min())
        if not 0 <= low:
            return
    if low < high:
        warnings.warn(
            f"image lies in 0..1 but theta_beta is {theta_beta:g}, so the appearance kernel "
            "ignores all edges; pass image * 255, or divide theta_beta by 255",
            UserWarning,
            stacklevel=_callers_level(),
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


def _corner(array: Any, first_axis: int) -> Any:
    """Return a view of at most 30 entries along each axis from `first_axis` on."""
    axes = len(array.shape) - first_axis
    return array[(slice(None),) * first_axis + (slice(30),) * axes]


def _is_float(array: Any) -> bool:
    kind = getattr(array.dtype, "kind", None)  # dtypes of torch have no kind
    return bool(array.dtype.is_floating_point if kind is None else kind == "f")


def _callers_level() -> int:
    """Return the stacklevel of the first frame outside this package and torch."""
    inside = {__name__.partition(".")[0], "torch"}
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    return level
