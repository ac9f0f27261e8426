"""The lattice as torch operators, each with its fake kernel and gradient.

A built lattice travels as plain tensors, so nothing is cached and any thread may call. Tensors on a
CPU reach the engines as NumPy views, image by image; those on a device go to device.py, whole.
"""

from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from .. import engines, checks
from . import device
from .dispatch import operator
from .tensors import Lattice, rows


def device_module(backend: str, like: Tensor) -> Any:
    """The native module for tensors on the device of `like`; None for NumPy's engines."""
    return engines.device_module(backend, like.device.type)


def no_second_derivative(ctx: Any, *gradients: Tensor) -> NoReturn:
    """The gradient of an operator that is itself a gradient for lattice weights."""
    raise NotImplementedError(
        "the gradient for an image or for features cannot be differentiated again; for a second "
        "derivative with respect to logits or weights, pass image.detach()"
    )


def nothing_to_keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """The set-up of a gradient that is never taken."""


# --- build ---------------------------------------------------------------------------------------


@operator("densecrf_rnn::lattice_build")
def lattice_build(
    features: Tensor, quality: str, backend: str, name: str = "features"
) -> tuple[Tensor, Tensor, Tensor]:
    """The lattice of each point set in features [B, N, D]; the fields of `Lattice`.

    The features may have any strides. The gradient for `weight` passes on to them. NaN and infinity
    are refused as those of `name`.
    """
    checks.float_dtype("features", features, batched=True)
    native = device_module(backend, features)
    if native is not None:
        return device.lattice_build(native, features, quality, name)
    images = [image.numpy() for image in features.detach()]
    for image in images:
        checks.feature_rows(image)
    batch, points, dims = features.shape
    size = engines.Plan.links_size(points, dims, quality)
    lattice = Lattice(
        features.new_empty(batch, points, dims + 1, dtype=torch.int32),
        features.new_empty(batch, points, dims + 1),
        torch.from_numpy(engines.reserve((batch, size), np.int32)),
    )
    plans = [lattice.plan(b) for b in range(batch)]
    engine = engines.engine(backend)
    if not engine.build(images, plans, quality, torch.get_num_threads()):
        checks.refuse_features(*images, name=name)
    return lattice


@lattice_build.register_fake
def _(
    features: Tensor, quality: str, backend: str, name: str = "features"
) -> tuple[Tensor, Tensor, Tensor]:
    batch, points, dims = features.shape
    links: tuple[Any, ...]
    if device_module(backend, features) is not None:
        links = (torch.library.get_ctx().new_dynamic_size(),)
    else:
        links = (batch, engines.Plan.links_size(points, dims, quality))
    return (
        features.new_empty(batch, points, dims + 1, dtype=torch.int32),
        features.new_empty(batch, points, dims + 1),
        features.new_empty(links, dtype=torch.int32),
    )


def _build_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, _, ctx.backend, _ = inputs
    ctx.save_for_backward(features)
    ctx.mark_non_differentiable(output[0], output[2])
    ctx.set_materialize_grads(False)  # or autograd would fill their gradients with zeros


def _build_backward(
    ctx: Any, _: None, d_weight: Tensor | None, __: None
) -> tuple[Tensor | None, None, None, None]:
    if d_weight is None:
        return None, None, None, None
    (features,) = ctx.saved_tensors
    return lattice_feature_gradient(features, d_weight, ctx.backend), None, None, None


lattice_build.register_autograd(_build_backward, setup_context=_build_setup_context)


@operator("densecrf_rnn::lattice_feature_gradient")
def lattice_feature_gradient(features: Tensor, d_weight: Tensor, backend: str) -> Tensor:
    """The gradient for features [B, N, D] of any strides, from that for the weights."""
    native = device_module(backend, features)
    if native is not None:
        return device.feature_gradient(native, features, d_weight)
    engine = engines.engine(backend)
    out = features.new_empty(features.shape)
    for b, image in enumerate(features.detach()):
        arrays = (image.numpy(), rows(d_weight[b]), out[b].numpy())
        engine.feature_gradient(*arrays, torch.get_num_threads())
    return out


@lattice_feature_gradient.register_fake
def _(features: Tensor, d_weight: Tensor, backend: str) -> Tensor:
    return features.new_empty(features.shape)


lattice_feature_gradient.register_autograd(no_second_derivative, setup_context=nothing_to_keep)


# --- filter --------------------------------------------------------------------------------------


@operator("densecrf_rnn::lattice_filter")
def lattice_filter(
    values: Tensor, vertex: Tensor, weight: Tensor, links: Tensor, transpose: bool, backend: str
) -> Tensor:
    """K values, or K' values, for values [B, N, C] and the lattices of B images, or of one."""
    _check_values(values, vertex, weight)
    lattice = Lattice(vertex, weight, links)
    native = device_module(backend, values)
    if native is not None:
        return device.lattice_filter(native, values, lattice, transpose)
    engine = engines.engine(backend)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    for b in range(len(values)):
        args = (rows(values[b]), out[b].numpy(), transpose, torch.get_num_threads())
        engine.filter(lattice.plan(b), *args)
    return out


@lattice_filter.register_fake
def _(values: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _check_values(values: Tensor, vertex: Tensor, weight: Tensor) -> None:
    if values.dtype != weight.dtype:
        raise TypeError(f"values has dtype {values.dtype} but the lattice {weight.dtype}")
    lattices, points = vertex.shape[:2]
    if values.dim() != 3 or values.shape[1] != points or lattices not in (1, len(values)):
        raise ValueError(
            f"values has shape {tuple(values.shape)} but the lattices are those of {lattices} "
            f"images of {points} points; give [B, {points}, C]"
        )


def _filter_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, vertex, weight, links, ctx.transpose, ctx.backend = inputs
    kept = values if ctx.needs_input_grad[2] else None
    ctx.save_for_backward(kept, vertex, weight, links)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, *lattice = ctx.saved_tensors
    d_values = d_weight = None
    if ctx.needs_input_grad[0]:
        # Linear in `values`, so the vector-Jacobian product is the transposed filter.
        d_values = lattice_filter(grad, *lattice, not ctx.transpose, ctx.backend)
    if ctx.needs_input_grad[2]:
        d_weight = lattice_filter_weight_gradient(
            values, grad, *lattice, ctx.transpose, ctx.backend
        )
    return d_values, None, d_weight, None, None, None


lattice_filter.register_autograd(_filter_backward, setup_context=_filter_setup_context)


@operator("densecrf_rnn::lattice_filter_weight_gradient")
def lattice_filter_weight_gradient(
    values: Tensor,
    cotangent: Tensor,
    vertex: Tensor,
    weight: Tensor,
    links: Tensor,
    transpose: bool,
    backend: str,
) -> Tensor:
    """The gradient of <cotangent, K values> (or K') for the weights, in their shape.

    Both [B, N, C]; where one lattice serves all images it is the sum over them.
    """
    _check_values(values, vertex, weight)
    _check_values(cotangent, vertex, weight)
    if cotangent.shape != values.shape:
        raise ValueError(
            f"cotangent has shape {tuple(cotangent.shape)} but values {tuple(values.shape)}"
        )
    lattice = Lattice(vertex, weight, links)
    native = device_module(backend, values)
    if native is not None:
        arrays = (values, cotangent, lattice, transpose)
        return over_images(device.filter_weight_gradient(native, *arrays), len(weight))
    engine = engines.engine(backend)
    out = weight.new_empty(len(values), *weight.shape[1:])
    for b in range(len(values)):
        args = (lattice.plan(b), rows(values[b]), rows(cotangent[b]), transpose)
        engine.filter_weight_gradient(*args, out[b].numpy(), torch.get_num_threads())
    return over_images(out, len(weight))


@lattice_filter_weight_gradient.register_fake
def _(
    values: Tensor,
    cotangent: Tensor,
    vertex: Tensor,
    weight: Tensor,
    links: Tensor,
    transpose: bool,
    backend: str,
) -> Tensor:
    return weight.new_empty(weight.shape)


lattice_filter_weight_gradient.register_autograd(
    no_second_derivative, setup_context=nothing_to_keep
)


def over_images(gradients: Tensor, lattices: int) -> Tensor:
    """Gradients [B, ...] for what there are `lattices` of: their sum if one serves all images."""
    return gradients if lattices == len(gradients) else gradients.sum(0, keepdim=True)


# --- self response -------------------------------------------------------------------------------


@operator("densecrf_rnn::lattice_self_response")
def lattice_self_response(vertex: Tensor, weight: Tensor, links: Tensor, backend: str) -> Tensor:
    """The diagonal of each K, [B, N]."""
    lattice = Lattice(vertex, weight, links)
    native = device_module(backend, weight)
    if native is not None:
        return device.self_response(native, lattice, None)
    engine = engines.engine(backend)
    out = weight.new_empty(weight.shape[:2])
    for b in range(len(out)):
        engine.self_response(lattice.plan(b), out[b].numpy(), torch.get_num_threads())
    return out


@lattice_self_response.register_fake
def _(vertex: Tensor, weight: Tensor, links: Tensor, backend: str) -> Tensor:
    return weight.new_empty(weight.shape[:2])


def _self_response_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *lattice, ctx.backend = inputs
    ctx.save_for_backward(*lattice)


def _self_response_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return None, lattice_self_response_gradient(grad, *ctx.saved_tensors, ctx.backend), None, None


lattice_self_response.register_autograd(
    _self_response_backward, setup_context=_self_response_setup_context
)


@operator("densecrf_rnn::lattice_self_response_gradient")
def lattice_self_response_gradient(
    cotangent: Tensor, vertex: Tensor, weight: Tensor, links: Tensor, backend: str
) -> Tensor:
    """The gradient of <cotangent, diagonal> for the weights, in their shape; cotangent [B, N]."""
    lattice = Lattice(vertex, weight, links)
    native = device_module(backend, weight)
    if native is not None:
        return device.self_response(native, lattice, cotangent)
    engine = engines.engine(backend)
    out = weight.new_empty(weight.shape)
    for b in range(len(out)):
        arrays = (rows(cotangent[b]), out[b].numpy())
        engine.self_response_gradient(lattice.plan(b), *arrays, torch.get_num_threads())
    return out


@lattice_self_response_gradient.register_fake
def _(cotangent: Tensor, vertex: Tensor, weight: Tensor, links: Tensor, backend: str) -> Tensor:
    return weight.new_empty(weight.shape)


lattice_self_response_gradient.register_autograd(
    no_second_derivative, setup_context=nothing_to_keep
)
