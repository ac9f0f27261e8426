"""Checks of the kind, shape and dtype of arrays and tensors; `values` checks their contents.

NumPy arrays and torch tensors are read through the attributes that they share, so that torch is
not imported. `batched` tells the two interfaces apart: torch's takes tensors with a batch axis,
NumPy's takes arrays without one.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _limits
from . import numbers, wording

_FLOATS = ("float32", "float64")


def array_kind(name: str, array: Any, *, batched: bool) -> None:
    """Check that `array` is a tensor if `batched`, a NumPy array if not."""
    if batched and not hasattr(array, "requires_grad"):
        raise TypeError(f"{name} is {wording.kind(array)}; it must be a tensor (torch.as_tensor)")
    if not batched and not isinstance(array, np.ndarray):
        way_out = "np.asarray"
        if hasattr(array, "requires_grad"):
            wide = ".float()" if wording.dtype(array) == "bfloat16" else ""
            way_out = f"x.detach(){wide}.cpu().numpy()"
        raise TypeError(f"{name} is {wording.kind(array)}; it must be a NumPy array ({way_out})")
    unmasked(name, array)


def is_masked(array: Any) -> bool:
    """Return whether an array is a masked array of NumPy that has a mask."""
    # The module is slow to import, and imported where such an array exists. While another thread
    # imports it, it may lack the class.
    known = sys.modules.get("numpy.ma")
    kind = getattr(known, "MaskedArray", None)
    return bool(known and kind and isinstance(array, kind) and array.mask is not known.nomask)


def unmasked(name: str, array: Any) -> None:
    """Reject a masked array of NumPy, because its mask would be ignored."""
    if is_masked(array):
        axis = {"logits": ".any(0)", "image": ".any(-1)"}.get(name, "")
        raise TypeError(
            f"{name} is a masked array; pass {name}.data and the pixels to refine as mask="
            f"~np.ma.getmaskarray({name}){axis}"
        )


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
            way_out += f"; of points give features=[{'B, ' * batched}N, d], too"
        raise wording.shape_error("logits", array, layout + way_out)
    float_dtype("logits", array, batched=batched)
    if 0 in array.shape[batched:]:
        raise ValueError(
            f"logits has shape {wording.shape(array)}, without labels or without pixels; leave "
            "empty images out" + (" (an empty batch is allowed)" if batched else "")
        )


def stored_logits(array: Any, quantization: Any) -> tuple[float, float] | None:
    """Check logits [L, *S] as `logits` does, or of float16, or of uint8 with a quantization.

    Return the quantization, (scale, zero_point), as floats, or None.
    """
    if quantization is None:
        half = isinstance(array, np.ndarray) and array.dtype == np.float16 and array.dtype.isnative
        logits(np.broadcast_to(np.float32(0), array.shape) if half else array, batched=False)
        if half:
            unmasked("logits", array)
        return None
    if not numbers.is_sequence(quantization) or len(quantization) != 2:
        raise ValueError(f"quantization is {quantization!r}; it must be (scale, zero_point)")
    array_kind("logits", array, batched=False)
    if array.dtype != np.uint8:
        raise TypeError(
            f"quantization is given but logits has dtype {array.dtype}; it must be uint8, which "
            "stands for scale * (logits - zero_point); leave quantization out for floating point"
        )
    logits(np.broadcast_to(np.float32(0), array.shape), batched=False)
    scale = numbers.positive_number("the scale of quantization", quantization[0])
    return scale, numbers.number("the zero point of quantization", quantization[1])


def exchanged(logits: Any, image: Any, *, batched: bool) -> None:
    """Raise ValueError if logits and image seem to be exchanged, as other packages order them."""
    if not (hasattr(logits, "shape") and hasattr(image, "shape")):
        return
    one, other = logits.shape[batched:], image.shape[batched:]
    if len(one) != len(other) or len(one) not in (3, 4) or not batched and one[1:] == other[:-1]:
        return
    first, second = wording.dtype(logits), wording.dtype(image)
    if not second.startswith(("float", "bfloat")):
        return
    found = False
    if first in ("uint8", "uint16"):  # an image, if the numbers of channels and labels tell
        found = any(
            one[axis] in _CHANNELS
            and (other[of_other] not in _CHANNELS or axis == of_other == -1 and not batched)
            and tuple(one[rest]) == tuple(other[others])
            for axis, rest in _LAYOUTS for of_other, others in _LAYOUTS
        )  # fmt: skip
    if found or not batched and other[1:] == one[:-1]:  # [H, W, C] and [L, H, W]
        raise exchange_error(logits, image)


# The axis of channels or labels, and the spatial axes, of arrays with channels first and last.
_LAYOUTS = ((0, slice(1, None)), (-1, slice(None, -1)))
_CHANNELS = (1, 3, 4)  # of most images


def exchange_error(logits: Any, image: Any) -> ValueError:
    """Return the error for logits and image that seem to be exchanged."""
    return ValueError(
        f"logits has shape {wording.shape(logits)} and dtype {wording.dtype(logits)}, image "
        f"{wording.shape(image)} and {wording.dtype(image)}; they seem to be exchanged: the logits "
        "come first, then the image, as in refine(logits, image)"
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
    real_dtype(name, array)


def real_dtype(name: str, array: Any) -> None:
    """Check that the dtype is integer or floating point."""
    dtype = wording.dtype(array)
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
        return "enlarge coarse logits (torch.nn.functional.interpolate), or crop the larger one"
    ways_out = []
    if shape[1:] == size:
        ways_out.append("the channels come last: np.moveaxis(image, 0, -1)")
    if shape[:-1] == scores[:-1]:
        ways_out.append("the labels come first: np.moveaxis(logits, -1, 0)")
    if len(ways_out) == 2 and shape[0] != shape[-1]:  # the shorter axis is that of channels
        return ways_out[shape[-1] < shape[0]]
    if ways_out:
        return ", or ".join(ways_out)
    if shape[:-1] == size[::-1]:
        return (
            "one of them has rows and columns exchanged, or is turned by 90 degrees: compare them "
            "in a viewer"
        )
    if len(size) == 3 and shape[1:-1] == size[1:]:
        return "to refine a batch, pass one image at a time: logits[b], image[b]"
    return "enlarge coarse logits, or crop the larger one to the other"


def maps(
    values: Any, guide: Any, mask: Any, names: tuple[str, str] = ("values", "guide")
) -> None:
    """Check values [B, C, *S], and a guide [B, G, *S] and a mask [B, *S] of them or None each.

    `names` are those of the values and the guide.
    """
    own, of_guide = names
    if len(values.shape) not in (4, 5):
        raise wording.shape_error(own, values, "[B, C, H, W] or [B, C, D, H, W]")
    float_dtype(own, values, batched=True)
    images, size = values.shape[0], tuple(values.shape[2:])
    if 0 in size:
        raise ValueError(
            f"{own} has shape {wording.shape(values)}, without pixels; leave empty images out"
        )
    for name, array, axes in ((of_guide, guide, 2), ("mask", mask, 1)):
        if array is None:
            continue
        array_kind(name, array, batched=True)
        shape = tuple(array.shape)
        if shape[0] != images or shape[axes:] != size or len(shape) != len(size) + axes:
            wanted = "[B, G, *S]" if axes == 2 else "[B, *S]"
            raise ValueError(
                f"{name} has shape {wording.shape(array)} but {own} {wording.shape(values)}; "
                f"give {wanted} with the B and S of {own} [B, C, *S]"
            )
        if array.device != values.device:
            raise ValueError(
                f"{name} is on {array.device} but {own} on {values.device}; move one "
                f"({name}.to({str(values.device)!r}))"
            )
    if mask is not None and wording.dtype(mask) != "bool":
        raise TypeError(f"mask has dtype {wording.dtype(mask)}; it must be bool (such as mask > 0)")
    if guide is not None:
        most = _limits.MAX_DIMS - len(size)
        if not 1 <= guide.shape[1] <= most:
            raise ValueError(
                f"{of_guide} has {guide.shape[1]} channels; a filter takes 1 to {most} in addition "
                f"to {len(size)} positions, so select or combine channels"
            )
        real_dtype(of_guide, guide)
