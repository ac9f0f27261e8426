"""The diagonal of a lattice kernel as an operator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import torch_engine
from . import device, dispatch
from .dispatch import in_torch, native_for, no_second_derivative, operator
from .kernels import Lattice, rows


@operator("densecrf_rnn::lattice_self_response")
def lattice_self_response(lattice: Sequence[Tensor], backend: str) -> Tensor:
    """Return the diagonal of the kernel K of each lattice, [B, N]."""
    of = Lattice(*lattice)
    if in_torch(backend, of.weight):
        return torch_engine.self_response(of, None)
    native = native_for(backend, of.weight)
    if native is not None:
        return device.self_response(native, of, None)
    engine = dispatch.engine(backend)
    out = of.weight.new_empty(of.weight.shape[:2])
    for plan, found in zip(of.plans(len(out)), out.numpy(), strict=True):
        engine.self_response(plan, found, torch.get_num_threads())
    return out


@lattice_self_response.register_fake
def _(lattice: Sequence[Tensor], backend: str) -> Tensor:
    weight = Lattice(*lattice).weight
    return weight.new_empty(weight.shape[:2])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    lattice, ctx.backend = inputs
    ctx.save_for_backward(*lattice)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    d_weight = lattice_self_response_gradient(grad, ctx.saved_tensors, ctx.backend)
    return [None, d_weight, None, None], None


lattice_self_response.register_autograd(_backward, setup_context=_setup_context)


@operator("densecrf_rnn::lattice_self_response_gradient")
def lattice_self_response_gradient(
    cotangent: Tensor, lattice: Sequence[Tensor], backend: str
) -> Tensor:
    """Return the gradient of <cotangent, diagonal> with respect to the barycentric weights.

    `cotangent` is [B, N], the gradient [B, N, D+1].
    """
    of = Lattice(*lattice)
    if in_torch(backend, of.weight):
        return torch_engine.self_response(of, cotangent)
    native = native_for(backend, of.weight)
    if native is not None:
        return device.self_response(native, of, cotangent)
    engine = dispatch.engine(backend)
    out = of.weight.new_empty(of.weight.shape)
    for plan, d, found in zip(of.plans(len(out)), rows(cotangent), out.numpy(), strict=True):
        engine.self_response_gradient(plan, d, found, torch.get_num_threads())
    return out


@lattice_self_response_gradient.register_fake
def _(cotangent: Tensor, lattice: Sequence[Tensor], backend: str) -> Tensor:
    weight = Lattice(*lattice).weight
    return weight.new_empty(weight.shape)


lattice_self_response_gradient.register_autograd(no_second_derivative)
