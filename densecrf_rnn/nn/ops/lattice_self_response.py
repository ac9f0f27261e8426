"""The diagonal of a lattice kernel as an operator."""

from typing import Any

import torch
from torch import Tensor

from .. import device
from . import dispatch
from .dispatch import native_for, no_second_derivative, nothing_to_keep, operator
from .kernels import Lattice, rows


@operator("densecrf_rnn::lattice_self_response")
def lattice_self_response(vertex: Tensor, weight: Tensor, links: Tensor, backend: str) -> Tensor:
    """Return the diagonal of the kernel K of each lattice, [B, N]."""
    lattice = Lattice(vertex, weight, links)
    native = native_for(backend, weight)
    if native is not None:
        return device.self_response(native, lattice, None)
    engine = dispatch.engine(backend)
    out = weight.new_empty(weight.shape[:2])
    for plan, found in zip(lattice.plans(len(out)), out.numpy(), strict=True):
        engine.self_response(plan, found, torch.get_num_threads())
    return out


@lattice_self_response.register_fake
def _(vertex: Tensor, weight: Tensor, links: Tensor, backend: str) -> Tensor:
    return weight.new_empty(weight.shape[:2])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *lattice, ctx.backend = inputs
    ctx.save_for_backward(*lattice)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return None, lattice_self_response_gradient(grad, *ctx.saved_tensors, ctx.backend), None, None


lattice_self_response.register_autograd(_backward, setup_context=_setup_context)


@operator("densecrf_rnn::lattice_self_response_gradient")
def lattice_self_response_gradient(
    cotangent: Tensor, vertex: Tensor, weight: Tensor, links: Tensor, backend: str
) -> Tensor:
    """Return the gradient of <cotangent, diagonal> for the weights; cotangent [B, N]."""
    lattice = Lattice(vertex, weight, links)
    native = native_for(backend, weight)
    if native is not None:
        return device.self_response(native, lattice, cotangent)
    engine = dispatch.engine(backend)
    out = weight.new_empty(weight.shape)
    for plan, d, found in zip(lattice.plans(len(out)), rows(cotangent), out.numpy(), strict=True):
        engine.self_response_gradient(plan, d, found, torch.get_num_threads())
    return out


@lattice_self_response_gradient.register_fake
def _(cotangent: Tensor, vertex: Tensor, weight: Tensor, links: Tensor, backend: str) -> Tensor:
    return weight.new_empty(weight.shape)


lattice_self_response_gradient.register_autograd(
    no_second_derivative, setup_context=nothing_to_keep
)
