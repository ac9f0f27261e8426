"""Checks of the kind, shape and dtype of arrays and tensors; `values` checks their contents.

NumPy arrays and torch tensors are read through the attributes that they share, so that torch is
not imported. `batched` tells the two interfaces apart: torch's takes tensors with a batch axis,
NumPy's takes arrays without one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _limits
from . import wording

_FLOATS = ("float32", "float64")


def array_kind(name: str, array: Any, *, batched: bool) -> None:
    """Check that `array` is a tensor if `batched`, a NumPy array if not."""
    if batched and not hasattr(array, "requires_grad"):
        raise TypeError(f"{name} is {wording.kind(array)}; it must be a tensor (torch.as_tensor)")
    if not batched and not isinstance(array, np.ndarray):
        way_out = "x.detach().cpu().numpy()" if hasattr(array, "requires_grad") else "np.asarray"
        raise TypeError(f"{name} is {wording.kind(array)}; it must be a NumPy array ({way_out})")


def float_dtype(name: str, array: Any, *, batched: bool, allowed: Sequence[str] = _FLOATS) -> None:
    """Check that the dtype is one of `allowed`, in native byte order."""
    native = batched or array.dtype.isnative
    if wording.dtype(array) not in allowed or not native:
        cast = f"{name}.float()" if batched else f"{name}.astype(np.float32)"
        found = array.dtype if not native else wording.dtype(array)
        raise TypeError(f"{name} has dtype {found}; it must be {' or '.join(allowed)} ({cast})")


def same_device(array: Any, logits: Any, name: str = "image") -> None:
    """Check that two tensors are on one device."""
    if array.device != logits.device:
        raise ValueError(
            f"{name} is on {array.device} but logits on {logits.device}; move one "
            f"({name}.to({str(logits.device)!r}))"
        )


def logits(array: Any, *, batched: bool) -> None:
    """Check the kind, shape [L, *S] or [B, L, *S] and dtype of logits."""
    layout = "[B, L, H, W] or [B, L, D, H, W]" if batched else "[L, H, W] or [L, D, H, W]"
    array_kind("logits", array, batched=batched)
    if len(array.shape) - batched not in (3, 4):
        way_out = ""
        if len(array.shape) - batched == 2:
            way_out = "; a binary map is " + ("logits[:, None]" if batched else "logits[None]")
        raise wording.shape_error("logits", array, layout + way_out)
    float_dtype("logits", array, batched=batched)
    if 0 in array.shape[batched:]:
        raise ValueError(
            f"logits has shape {wording.shape(array)}, without labels or without pixels; leave "
            "empty images out" + (" (an empty batch is allowed)" if batched else "")
        )


def refined(array: Any, logits: Any, *, batched: bool) -> None:
    """Check that refined logits have the kind, shape and dtype of `logits`."""
    array_kind("refined", array, batched=batched)
    if tuple(array.shape) != tuple(logits.shape):
        raise ValueError(
            f"refined has shape {wording.shape(array)} but logits {wording.shape(logits)}; pass "
            "the output of mean_field for these logits"
        )
    if array.dtype != logits.dtype:
        raise TypeError(
            f"refined has dtype {wording.dtype(array)} but logits {wording.dtype(logits)}; "
            "convert one to the dtype of the other"
        )


def image(array: Any, logits: Any, *, batched: bool, name: str = "image") -> None:
    """Check the kind, shape [*S, C] or [B, C, *S] and dtype of an image of the size of `logits`."""
    array_kind(name, array, batched=batched)
    size = tuple(logits.shape[1 + batched :])
    axes = "D, H, W" if len(size) == 3 else "H, W"
    layout = f"[B, C, {axes}]" if batched else f"[{axes}, C]"
    if len(array.shape) != len(size) + 1 + batched:
        way_out = ""
        if not batched and len(size) == 3 and tuple(array.shape[:2]) == size[1:]:
            way_out = "; to refine a batch, pass one image at a time: logits[b]"
        elif len(array.shape) == len(size) + batched:
            one = "[:, None]" if batched else "[..., None]"
            way_out = f"; a one-channel image is {name}{one}"
        raise wording.shape_error(name, array, layout + way_out)
    found = tuple(array.shape[2:] if batched else array.shape[:-1])
    if found != size:
        raise ValueError(
            f"{name} is {wording.size(found)} but logits is {wording.size(size)} ({axes}); "
            + _size_hint(array, logits, batched)
        )
    if batched and array.shape[0] != logits.shape[0]:
        raise ValueError(
            f"{name} holds {array.shape[0]} images but logits {logits.shape[0]}; give one each"
        )
    channels, most = array.shape[1 if batched else -1], _limits.MAX_DIMS - len(size)
    if not 1 <= channels <= most:
        raise ValueError(
            f"{name} has {channels} channels; a kernel takes 1 to {most} in addition to "
            f"{len(size)} position features, so select or combine channels"
        )
    dtype = wording.dtype(array)
    if not batched and not array.dtype.isnative:
        raise TypeError(
            f"{name} has dtype {dtype}, which is not in native byte order; pass "
            f"{name}.astype({name}.dtype.newbyteorder('='))"
        )
    if not (dtype.startswith(("int", "uint")) or dtype in (*_FLOATS, "float16", "bfloat16")):
        raise TypeError(f"{name} has dtype {dtype}; it must be integer or floating point")


def mask(array: Any, size: tuple[int, ...], *, batched: bool = False) -> None:
    """Check that a mask is None, or boolean of shape [*S] or [B, *S]."""
    if array is None:
        return
    array_kind("mask", array, batched=batched)
    if tuple(array.shape) != size:
        way_out = "give [B, *S], without labels" if batched else "make them equal"
        raise ValueError(
            f"mask is {wording.size(array.shape)} but logits is {wording.size(size)}; {way_out}"
        )
    if wording.dtype(array) != "bool":
        raise TypeError(
            f"mask has dtype {wording.dtype(array)}; it must be bool, True where pixels are "
            "refined (such as mask > 0)"
        )


def _size_hint(image: Any, logits: Any, batched: bool) -> str:
    """Return the most probable remedy for an image and logits that differ in size."""
    shape, scores = tuple(image.shape), tuple(logits.shape)
    size = scores[1 + batched :]
    if batched:
        if shape[1:-1] == size:
            return "channels come first in tensors: image.movedim(-1, 1)"
        return "resize one to the other (torch.nn.functional.interpolate)"
    if shape[1:] == size:
        return "the channels come last: np.moveaxis(image, 0, -1)"
    if shape[:-1] == scores[:-1]:
        return "the labels come first: np.moveaxis(logits, -1, 0)"
    if shape[:-1] == size[::-1]:
        return "rows come before columns: swap the axes of one"
    if len(size) == 3 and shape[1:-1] == size[1:]:
        return "to refine a batch, pass one image at a time: logits[b], image[b]"
    return "resize one to the other"
