"""Warnings about values of tensors that suggest a mistake: reading them waits for a device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import Kernel
from .ops.dispatch import is_captured

# An image lies far outside of 0..scale if it exceeds either end by this fraction of it. Augmented
# images exceed it by less: noise, interpolation, changes of contrast.
_FAR = 0.5


def advise(
    logits: Tensor,
    image: Tensor | None,
    kernels: Sequence[Kernel],
    mask: Tensor | None,
    *,
    multilabel: bool,
) -> bool:
    """Warn about logits that may be probabilities, and about an image in other units than theta.

    Returns
    -------
    bool
        Whether the values decide the question; constant ones, as in a trial run, do not.
    """
    seen = logits if mask is None else logits.where(mask[:, None], 0.0)
    decided = checks.probabilities(for_checks(seen), batched=True, multilabel=multilabel)
    thetas = [k.theta_guide for k in kernels if k.guide == "image" and k.theta_guide is not None]
    if thetas and image is not None:
        inside = None if mask is None else for_checks(mask)
        given = for_checks(image)
        decided &= checks.image_units(given, thetas[0], mask=inside, batched=True)
    return decided


def advise_range(guide: Tensor, scale: float, mask: Tensor | None) -> bool:
    """Warn if an image that was denormalised lies far outside of 0..scale, inside the mask.

    Returns
    -------
    bool
        Whether the values decide the question; constant ones, as in a trial run, do not.
    """
    if scale == 1:  # any units
        return True
    seen = guide.detach()
    seen = seen if mask is None else seen.movedim(1, -1)[mask]
    if seen.numel() == 0:
        return False
    low, high = float(seen.min()), float(seen.max())
    if low < -_FAR * scale or high > (1 + _FAR) * scale:
        checks.warn(
            f"the head sees an image in {low:.5g}..{high:.5g}, far outside of 0..{scale:g}: it "
            "undoes a normalisation by (image * std + mean) * scale, with mean and std in "
            "fractions of scale; for images in 0..255, less a mean colour or not, pass scale=1 and "
            "the mean in their units; for normalised images pass their mean and std"
        )
    return low < high


class FirstCalls:
    """The dtypes and devices with which a module has been called with values that decide."""

    def __init__(self) -> None:
        self._known: set[tuple[torch.dtype, torch.device]] = set()

    def is_first(self, like: Tensor) -> bool:
        """Return whether values are still to be judged; never while a graph is made of the call."""
        return not is_captured(like.device) and (like.dtype, like.device) not in self._known

    def add(self, like: Tensor) -> None:
        """Judge no more images of this dtype and device."""
        self._known.add((like.dtype, like.device))


def for_checks(tensor: Tensor) -> Any:
    """View a CPU tensor as a NumPy array if possible: NumPy is faster for a few numbers."""
    tensor = tensor.detach()
    arrays = tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16
    return tensor.numpy() if arrays else tensor
