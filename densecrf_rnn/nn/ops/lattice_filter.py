"""Filtering with a built lattice as an operator: K values, or K' values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import torch_engine
from . import device, dispatch
from .dispatch import empty_like, in_torch, native_for, no_second_derivative, operator
from .kernels import Lattice, check_filtered, over_images, rows


@operator("densecrf_rnn::lattice_filter")
def lattice_filter(
    values: Tensor, lattice: Sequence[Tensor], transpose: bool, backend: str
) -> Tensor:
    """Return K values or, with `transpose`, K' values [B, N, C], for B lattices or a shared one."""
    of = Lattice(*lattice)
    check_filtered(values, of.weight, "the lattice")
    if in_torch(backend, values):
        return torch_engine.lattice_filter(values, of, transpose)
    native = native_for(backend, values)
    if native is not None:
        return device.lattice_filter(native, values, of, transpose)
    engine = dispatch.engine(backend)
    out = empty_like(values)
    arrays = (of.plans(len(values)), rows(values), out.numpy())
    for plan, given, found in zip(*arrays, strict=True):
        engine.filter(plan, given, found, transpose, torch.get_num_threads())
    return out


lattice_filter.register_fake(empty_like)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, lattice, ctx.transpose, ctx.backend = inputs
    weight_needs_grad = ctx.needs_input_grad[2]  # of the flattened inputs: values, vertex, weight
    ctx.save_for_backward(values if weight_needs_grad else None, *lattice)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    values, *lattice = ctx.saved_tensors
    options = (lattice, ctx.transpose, ctx.backend)
    d_values = d_weight = None
    if ctx.needs_input_grad[0]:
        # The filter is linear in `values`, so the vector-Jacobian product is the transposed filter.
        d_values = lattice_filter(grad, lattice, not ctx.transpose, ctx.backend)
    if values is not None:
        d_weight = lattice_filter_weight_gradient(values, grad, *options)
    return d_values, [None, d_weight, None, None], None, None


lattice_filter.register_autograd(_backward, setup_context=_setup_context)


@operator("densecrf_rnn::lattice_filter_weight_gradient")
def lattice_filter_weight_gradient(
    values: Tensor, cotangent: Tensor, lattice: Sequence[Tensor], transpose: bool, backend: str
) -> Tensor:
    """Return the gradient with respect to the barycentric weights, in their shape.

    It is that of <cotangent, K values> or, with `transpose`, of <cotangent, K' values>, for
    `values` and `cotangent` [B, N, C]; summed over the images if they share one lattice.
    """
    of = Lattice(*lattice)
    check_filtered(values, of.weight, "the lattice")
    check_filtered(cotangent, of.weight, "the lattice")
    if cotangent.shape != values.shape:
        raise ValueError(
            f"cotangent has shape {tuple(cotangent.shape)} but values {tuple(values.shape)}"
        )
    if in_torch(backend, values):
        return torch_engine.filter_weight_gradient(values, cotangent, of, transpose)
    native = native_for(backend, values)
    if native is not None:
        out = device.filter_weight_gradient(native, values, cotangent, of, transpose)
        return over_images(out, len(of.weight))
    engine = dispatch.engine(backend)
    out = of.weight.new_empty(len(values), *of.weight.shape[1:])
    arrays = (of.plans(len(values)), rows(values), rows(cotangent), out.numpy())
    for plan, given, d, found in zip(*arrays, strict=True):
        engine.filter_weight_gradient(plan, given, d, transpose, found, torch.get_num_threads())
    return over_images(out, len(of.weight))


@lattice_filter_weight_gradient.register_fake
def _(values: Tensor, cotangent: Tensor, lattice: Sequence[Tensor], *args: Any) -> Tensor:
    weight = Lattice(*lattice).weight
    return weight.new_empty(weight.shape)


lattice_filter_weight_gradient.register_autograd(no_second_derivative)
