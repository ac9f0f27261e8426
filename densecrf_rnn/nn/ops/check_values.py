"""Checks of values as operators, so that compiled graphs contain them.

torch.compile may drop an operator whose result is unused, so each returns a copy of what it
checked, with which the call must continue.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import checks
from .dispatch import capturing, empty_like, operator


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


@operator("densecrf_rnn::checked")
def check_values(
    logits: Tensor, guides: Sequence[Tensor], names: str, multilabel: bool, name: str
) -> Tensor:
    """Check the values of logits [B, L, *S] and guides, and return a copy of the logits.

    `names` holds the guides' names, one per line, and `name` is that of the logits.
    """
    copy = _copy(logits)
    if capturing(logits):
        return copy
    for guide, guide_name in zip(guides, names.split("\n") if names else [], strict=True):
        checks.image_values(guide, guide_name)
    # A map may be -inf at a pixel, like a single logit.
    values = logits.flatten(0, 1).unsqueeze(1) if multilabel else logits
    checks.logits_values(values, batched=True, name=name)
    return copy


check_values.register_fake(empty_like)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.guides = len(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grad, [None] * ctx.guides, None, None, None


check_values.register_autograd(_backward, setup_context=_setup_context)


def refuse_coupling(coupling: Tensor, mu: Tensor, weights: Tensor, points: int) -> None:
    """Raise if a coupling mu W of kernels is not finite or too large, and name the cause."""
    try:
        checks.coupling(coupling, points, torch.finfo(coupling.dtype).max)
    except ValueError as error:
        way_out = (
            "; if training moved them there, the head's learning rate is too large: see "
            "CRFRNN.parameter_groups"
        )
        for name, parameter in (("compatibility", mu), ("kernel_weights", weights)):
            try:
                checks.parameter(name, parameter)
            except ValueError as cause:
                error = cause
                break
        raise ValueError(f"{error}{way_out}") from None


@operator("densecrf_rnn::checked_coupling")
def check_coupling(coupling: Tensor, mu: Tensor, weights: Tensor, points: int) -> Tensor:
    """Check the values of a coupling as `refuse_coupling`, and return a copy of it."""
    if not capturing(coupling):
        refuse_coupling(coupling, mu, weights, points)
    return _copy(coupling)


check_coupling.register_fake(empty_like)
check_coupling.register_autograd(lambda ctx, grad: (grad, None, None, None))


@operator("densecrf_rnn::checked_bandwidths")
def check_bandwidths(bandwidths: Tensor, kernels: int) -> Tensor:
    """Check the shape and the values of bandwidths [M, 2], and return a copy of them."""
    if not capturing(bandwidths):
        checks.bandwidths(bandwidths, kernels)
    return _copy(bandwidths)


check_bandwidths.register_fake(empty_like)
check_bandwidths.register_autograd(lambda ctx, grad: (grad, None))


@operator("densecrf_rnn::checked_summable")
def check_summable(values: Tensor, features: Tensor | None, name: str) -> Tensor:
    """Check that values [B, N, C] are finite and can be summed, and return a copy of them.

    Features [B, N, D] called `name`, if given, must be finite, too.
    """
    if not capturing(values):
        if features is not None:
            checks.image_values(features, name)
        checks.summable(values, values.shape[1], torch.finfo(values.dtype).max)
    return _copy(values)


check_summable.register_fake(empty_like)
check_summable.register_autograd(lambda ctx, grad: (grad, None, None))
