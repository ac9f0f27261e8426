"""The value checks of the exact method as an operator, so that compiled graphs contain them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import checks
from .dispatch import empty_like, operator


@operator("densecrf_rnn::checked")
def check_values(
    logits: Tensor, guides: Sequence[Tensor], names: str, theta_beta: float
) -> Tensor:
    """Check the values of logits and guides, and return a copy of the logits.

    `names` holds the guides' names, one per line. torch.compile may drop an operator whose result
    is unused, so the mean field must continue with the returned copy.
    """
    for guide, name in zip(guides, names.split("\n"), strict=True):
        checks.image_values(guide, name)
        if name == "image":
            checks.image_range(guide, theta_beta)
    checks.probabilities(logits, batched=True)
    checks.logits_values(logits, batched=True)
    return logits.clone(memory_format=torch.contiguous_format)


check_values.register_fake(empty_like)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.guides = len(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grad, [None] * ctx.guides, None, None


check_values.register_autograd(_backward, setup_context=_setup_context)
