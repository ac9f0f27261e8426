"""Segmenter: any segmentation network with a CRF-RNN head behind it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .. import _checks
from .crfrnn import CRFRNN

# The statistics that ImageNet backbones are normalised with (RGB, fractions of 255).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """A backbone and a CRF-RNN head that train as one; made by `CRFRNN.wrap`.

    Parameters
    ----------
    backbone : nn.Module
        Maps images [B, C, *S] to logits [B, L, *s], a tensor.
    crf : CRFRNN
    mean, std : one float per channel, or one for all
        What the images were normalised with, as fractions of `scale`.
    scale : float
        The head sees (image * std + mean) * scale.

    Examples
    --------
    >>> model = CRFRNN.wrap(nn.Conv2d(3, 2, 1), 2, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    >>> model(torch.randn(1, 3, 6, 7)).shape
    torch.Size([1, 2, 6, 7])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        crf: CRFRNN,
        *,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
        scale: float = 255.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.crf = crf
        self.scale = _checks.positive_number("scale", scale)
        # Known from the arguments, so not part of the state that is saved.
        for name, given in (("mean", mean), ("std", std)):
            numbers = _checks.weight(name, given)
            if name == "std" and not torch.tensor(numbers).gt(0).all():
                raise ValueError(f"std is {given!r}; it must be above 0")
            self.register_buffer(name, torch.tensor(numbers).reshape(-1), persistent=False)

    def forward(self, image: Tensor, *, spacing: Sequence[float] | None = None) -> Tensor:
        """Refined logits [B, L, *S] at the size of the image [B, C, *S].

        Logits smaller than the image are enlarged (bi- or trilinearly, corners not aligned).
        `spacing` is the pixel size along each axis: ([depth,] row, column). An image that requires
        grad gets the gradient through the backbone and that through the head's kernel.

        Raises
        ------
        TypeError
            The backbone returns something other than a tensor.
        ValueError
            `mean` or `std` has neither 1 nor C entries, or what `CRFRNN` refuses.
        """
        logits = self.backbone(image)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"the backbone returned {type(logits).__name__}; CRFRNN.wrap takes one that "
                "returns a tensor, so wrap it in a module that picks the logits out"
            )
        size = image.shape[2:]
        if logits.shape[2:] != size:
            mode = "bilinear" if len(size) == 2 else "trilinear"
            logits = interpolate(logits, size=size, mode=mode, align_corners=False)
        return self.crf(logits, self._guide(image), spacing=spacing)

    def _guide(self, image: Tensor) -> Tensor:
        """The image in the units of theta_beta."""
        channels = image.shape[1]
        for name in ("mean", "std"):
            found = len(getattr(self, name))
            if found not in (1, channels):
                raise ValueError(
                    f"{name} has {found} entries but the image {channels} channels; give one "
                    "for each channel, or one for all"
                )
        shape = (1, -1) + (1,) * (image.dim() - 2)
        return (image * self.std.view(shape) + self.mean.view(shape)) * self.scale
