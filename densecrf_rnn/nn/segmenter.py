"""Segmenter: any segmentation network followed by a CRF-RNN head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .. import checks

# Normalisation of images for ImageNet backbones (RGB, fractions of 255).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """A backbone and a CRF-RNN head that train together; built by `CRFRNN.wrap`.

    Parameters
    ----------
    backbone : nn.Module
        Maps images [B, C, *S] to logits [B, L, *s]: a tensor, a mapping with "out" or "logits", or
        an object with `.logits`.
    crf : CRFRNN
    mean, std : one float per channel, or one for all
        The mean and standard deviation that the images were normalised with, as fractions of
        `scale`.
    scale : float
        Upper end of the intensity range that theta_beta refers to: the head uses
        (image * std + mean) * scale.
    pick : function, optional
        Extracts the logits from any other output of the backbone: for a tuple
        ``pick=lambda outputs: outputs[0]``. (To pickle the model, use a named function.)

    Examples
    --------
    >>> from densecrf_rnn import CRFRNN
    >>> model = CRFRNN.wrap(nn.Conv2d(3, 2, 1), 2, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    >>> model(torch.randn(1, 3, 6, 7)).shape
    torch.Size([1, 2, 6, 7])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        crf: nn.Module,
        *,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
        scale: float = 255.0,
        pick: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.crf = crf
        self.scale = checks.positive_number("scale", scale)
        if pick is not None and not callable(pick):
            raise TypeError(f"pick is {type(pick).__name__}; it must be a function of the outputs")
        self.pick = pick
        # The arguments determine these buffers, so they are not saved in the state_dict.
        for name, given in (("mean", mean), ("std", std)):
            numbers = checks.weight(name, given)
            if name == "std" and not torch.tensor(numbers).gt(0).all():
                raise ValueError(f"std is {given!r}; it must be positive")
            self.register_buffer(name, torch.tensor(numbers).reshape(-1), persistent=False)

    def forward(self, image: Tensor, *, return_outputs: bool = False, **options: Any) -> Any:
        """Return refined logits at the size of the image.

        Logits of another size are interpolated (bi- or trilinearly, align_corners=False). The
        gradient for an image that requires grad flows through the backbone and the head's kernels.

        Parameters
        ----------
        image : Tensor [B, C, *S]
        return_outputs : bool
            Also return the backbone's unchanged outputs, for example the logits before the head,
            hidden states or torchvision's "aux" for an auxiliary loss.
        **options
            Keyword arguments of the head, such as `spacing`; see `CRFRNN.forward`.

        Returns
        -------
        Tensor [B, L, *S]
            With `return_outputs` a tuple of it and the backbone's outputs.

        Raises
        ------
        TypeError
            No logits are found in the backbone's output.
        ValueError
            `mean` or `std` has neither 1 nor C entries, or `CRFRNN` rejects its arguments.
        """
        outputs = self.backbone(image)
        logits = self._logits(outputs)
        size = image.shape[2:]
        if logits.dim() != image.dim():
            raise ValueError(
                f"the backbone's logits have shape {tuple(logits.shape)} for images of shape "
                f"{tuple(image.shape)}; they must be [B, L, *S], so extract them with "
                "CRFRNN.wrap(..., pick=...)"
            )
        if logits.shape[2:] != size:
            mode = "bilinear" if len(size) == 2 else "trilinear"
            logits = interpolate(logits, size=size, mode=mode, align_corners=False)
        refined = self.crf(logits, self._guide(image), **options)
        return (refined, outputs) if return_outputs else refined

    def _logits(self, outputs: Any) -> Tensor:
        """Find the logits in the backbone's output."""
        if self.pick is not None:
            found = self.pick(outputs)
        elif isinstance(outputs, Mapping):
            found = outputs.get("out", outputs.get("logits"))
        else:
            found = getattr(outputs, "logits", outputs)
        if isinstance(found, Tensor):
            return found
        what = type(outputs).__name__
        if self.pick is not None:
            what = f"{type(found).__name__} from pick"
        elif isinstance(outputs, Mapping):
            what += f" with {', '.join(map(repr, outputs)) or 'no entries'}"
        raise TypeError(
            f"the backbone returned {what}; CRFRNN.wrap finds logits in a tensor, in a mapping "
            'with "out" or "logits" and in an object with .logits; for any other output pass '
            "pick=, a function that extracts them"
        )

    def _guide(self, image: Tensor) -> Tensor:
        """Undo the normalisation of the image: return it in the units of theta_beta."""
        channels = image.shape[1]
        for name in ("mean", "std"):
            found = getattr(self, name).shape[0]
            if found not in (1, channels):
                raise ValueError(
                    f"{name} has {found} entries but the image {channels} channels; give one "
                    "for each channel, or one for all"
                )
        shape = (1, -1) + (1,) * (image.dim() - 2)
        return (image * self.std.view(shape) + self.mean.view(shape)) * self.scale
