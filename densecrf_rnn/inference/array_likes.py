"""Tensors, xarray.DataArray and other array-likes as NumPy arrays, or how to convert them."""

from typing import Any

import numpy as np

from .. import checks


def as_arrays(logits: Any, image: Any, mask: Any) -> tuple[Any, Any, Any]:
    """Return the arguments of `refine` as NumPy arrays, where this loses nothing.

    Tensors must be on a CPU and need no gradient, named axes must be in the right order. What
    cannot be converted is returned unchanged, so that the checks of `refine` reject it.
    """
    if all(isinstance(array, np.ndarray) or array is None for array in (logits, image, mask)):
        return logits, image, mask
    checks.named_axes(logits, image, mask)
    _check_tensors(logits, image)
    return as_array("logits", logits), as_array("image", image), as_array("mask", mask)


def as_array(name: str, value: Any) -> Any:
    """Return one argument as a NumPy array, or unchanged what is no array."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__array__"):
        return value
    if type(value).__module__.partition(".")[0] == "dask":
        raise TypeError(
            f"{name} is a dask array; densecrf_rnn.refine_dask(logits, image) refines it in "
            f"chunks, or load it: {name}.compute()"
        )
    if _is_tensor(value):
        on_cpu = value.device.type == "cpu"
        if value.requires_grad:
            cpu = "" if on_cpu else ".cpu()"
            raise TypeError(f"{name} requires grad; pass {name}.detach(){cpu}")
        return value.numpy() if on_cpu else value
    return np.asarray(value)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "requires_grad")


def _check_tensors(logits: Any, image: Any) -> None:
    """Reject tensors in the layout or precision of torch, with the line that converts them."""
    for name, value in (("logits", logits), ("image", image)):
        dtype = str(getattr(value, "dtype", ""))
        if _is_tensor(value) and dtype in ("torch.bfloat16", "torch.float16"):
            raise TypeError(f"{name} is a tensor of {dtype}; pass {name}.float()")
    one: tuple[int, ...] = tuple(getattr(logits, "shape", ()))
    other: tuple[int, ...] = tuple(getattr(image, "shape", ()))
    if len(one) != len(other) or one[1:] == other[:-1]:
        return
    if _is_tensor(image) and one[1:] == other[1:]:
        raise ValueError(
            f"image has shape {other}, channels first, as torch has it; refine takes the "
            "channels last: image.movedim(0, -1)"
        )
    if _is_tensor(image) and len(one) == 4 and one[0] == other[0] and one[2:] == other[2:]:
        raise ValueError(
            f"logits and image have shapes {one} and {other}, batches of torch; pass one image at "
            "a time: logits[b], image[b].movedim(0, -1)"
        )
    if _is_tensor(logits) and one[:-1] == other[:-1]:
        raise ValueError(f"logits has shape {one}; the labels come first: logits.movedim(-1, 0)")
