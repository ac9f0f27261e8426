"""Filtering with a built lattice as an operator: K values, or K' values."""

from typing import Any

import torch
from torch import Tensor

from .. import device
from . import dispatch
from .dispatch import native_for, no_second_derivative, nothing_to_keep, operator
from .kernels import Lattice, rows


@operator("densecrf_rnn::lattice_filter")
def lattice_filter(
    values: Tensor, vertex: Tensor, weight: Tensor, links: Tensor, transpose: bool, backend: str
) -> Tensor:
    """Return K values or, with `transpose`, K' values [B, N, C], for B lattices or a shared one."""
    _check_values(values, vertex, weight)
    lattice = Lattice(vertex, weight, links)
    native = native_for(backend, values)
    if native is not None:
        return device.lattice_filter(native, values, lattice, transpose)
    engine = dispatch.engine(backend)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    arrays = (lattice.plans(len(values)), rows(values), out.numpy())
    for plan, given, found in zip(*arrays, strict=True):
        engine.filter(plan, given, found, transpose, torch.get_num_threads())
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, vertex, weight, links, ctx.transpose, ctx.backend = inputs
    kept = values if ctx.needs_input_grad[2] else None
    ctx.save_for_backward(kept, vertex, weight, links)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
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


lattice_filter.register_autograd(_backward, setup_context=_setup_context)


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
    """Return the gradient of <cotangent, K values> (or K') for the weights, in their shape.

    `values` and `cotangent` are [B, N, C]. If all images share one lattice, the gradient is summed
    over the images.
    """
    _check_values(values, vertex, weight)
    _check_values(cotangent, vertex, weight)
    if cotangent.shape != values.shape:
        raise ValueError(
            f"cotangent has shape {tuple(cotangent.shape)} but values {tuple(values.shape)}"
        )
    lattice = Lattice(vertex, weight, links)
    native = native_for(backend, values)
    if native is not None:
        out = device.filter_weight_gradient(native, values, cotangent, lattice, transpose)
        return over_images(out, len(weight))
    engine = dispatch.engine(backend)
    out = weight.new_empty(len(values), *weight.shape[1:])
    arrays = (lattice.plans(len(values)), rows(values), rows(cotangent), out.numpy())
    for plan, given, d, found in zip(*arrays, strict=True):
        engine.filter_weight_gradient(plan, given, d, transpose, found, torch.get_num_threads())
    return over_images(out, len(weight))


@lattice_filter_weight_gradient.register_fake
def _(values: Tensor, cotangent: Tensor, vertex: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return weight.new_empty(weight.shape)


lattice_filter_weight_gradient.register_autograd(
    no_second_derivative, setup_context=nothing_to_keep
)


def over_images(gradients: Tensor, lattices: int) -> Tensor:
    """Return gradients [B, ...], summed over the images to [1, ...] if `lattices` is 1."""
    return gradients if lattices == len(gradients) else gradients.sum(0, keepdim=True)
