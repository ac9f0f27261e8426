"""Segmenter: any segmentation network followed by a CRF-RNN head."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .. import checks
from ..unaries import from_queries
from . import transforms
from .advice import FirstCalls, advise_range
from .hub import Pretrained
from .precision import WideBuffers, wide
from .settings import arguments_of

# Normalisation of images for ImageNet backbones (RGB, fractions of 255).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What a model returns: the refined logits, or what its backbone does, with refined logits.
Returns = Literal["logits", "same"]


class Segmenter(Pretrained, WideBuffers):
    """A backbone and a CRF-RNN head that train together; built by `CRFRNN.wrap`.

    Parameters
    ----------
    backbone : nn.Module
        Maps images [B, C, *S] to logits [B, L, *s]: a tensor, a mapping with "out" or "logits", an
        object with `.logits`, or one with class and mask queries (`unaries.from_queries`).
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
    returns : {"logits", "same"}
        Return the refined logits; or what the backbone returns, in which the refined logits
        replace its own, for training loops that expect a mapping with "out" or an object with
        `.logits`. "same" cannot be combined with `pick`.

    Examples
    --------
    >>> from densecrf_rnn import CRFRNN
    >>> model = CRFRNN.wrap(nn.Conv2d(3, 2, 1), 2, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    >>> model(torch.randn(1, 3, 6, 7)).shape
    torch.Size([1, 2, 6, 7])
    >>> sorted(model.settings())
    ['mean', 'scale', 'std']
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
        returns: Returns = "logits",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.crf = crf
        self.scale = checks.positive_number("scale", scale)
        if pick is not None and not callable(pick):
            raise TypeError(f"pick is {type(pick).__name__}; it must be a function of the outputs")
        self.pick = pick
        checks.option("returns", returns, get_args(Returns))
        if returns == "same" and pick is not None:
            raise ValueError(
                "returns is 'same' but pick is given, which does not say where the refined logits "
                "belong; leave one of them out"
            )
        self.returns = returns
        # The settings in the state_dict hold them as they were given.
        self._normalisation: dict[str, Any] = {}
        self._first_calls = FirstCalls()
        for name, given in (("mean", mean), ("std", std)):
            numbers = self._normalisation[name] = checks.weight(name, given)
            entries = numbers if isinstance(numbers, tuple) else (numbers,)
            if name == "std" and min(entries, default=1.0) <= 0:
                raise ValueError(f"std is {given!r}; it must be positive")
            self.register_buffer(name, wide(entries), persistent=False)

    def _wide(self) -> dict[str, Any]:
        """Return mean and std."""
        return self._normalisation

    def settings(self) -> dict[str, Any]:
        """Return the arguments that results depend on, as values for JSON."""
        return {**self._normalisation, "scale": self.scale}

    def _config(self) -> dict[str, Any]:
        """Return the settings, with those of the head."""
        if not isinstance(self.crf, Pretrained):
            raise TypeError(
                f"crf is {type(self.crf).__name__}, whose settings are unknown; save_pretrained "
                "needs a CRFRNN, and torch.save(model.state_dict(), path) any module"
            )
        return {**self.settings(), "returns": self.returns, "crf": self.crf.settings()}

    @classmethod
    def _arguments(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments, with a head that its settings describe."""
        if "backbone" not in config:
            raise TypeError(
                "backbone is not given; from_pretrained makes the head and loads the weights, and "
                "needs the network: Segmenter.from_pretrained(path, backbone=network)"
            )
        if "crf" not in config:
            raise TypeError(
                "the folder holds no wrapped model; if it holds a head: "
                "CRFRNN.wrap(...) of your network, then model.crf = CRFRNN.from_pretrained(path)"
            )
        if isinstance(config["crf"], Mapping):
            config["crf"] = cls.kinds["CRFRNN"](**arguments_of(config["crf"]))
        return config

    def forward(
        self,
        image: Tensor,
        *,
        guide: Tensor | None = None,
        return_outputs: bool = False,
        **options: Any,
    ) -> Any:
        """Return refined logits at the size of the image.

        Logits of another size are interpolated (bi- or trilinearly, align_corners=False). The
        gradient for an image that requires grad flows through the backbone and the head's kernels.

        Parameters
        ----------
        image : Tensor [B, C, *S]
        guide : Tensor [B, C, *S], optional
            Image for the head, in the units of theta_beta, if it is not to see `image`: the same
            pixels before augmentations that change intensities or erase parts of them.
        return_outputs : bool
            Also return the backbone's unchanged outputs, for example the logits before the head,
            hidden states or torchvision's "aux" for an auxiliary loss.
        **options
            Keyword arguments of the head, such as `spacing`; see `CRFRNN.forward`.

        Returns
        -------
        Tensor [B, L, *S]
            With ``returns="same"`` a copy of the backbone's outputs that holds it in place of the
            backbone's logits. With `return_outputs` a tuple of it and the backbone's outputs.

        Raises
        ------
        TypeError
            No logits are found in the backbone's output.
        ValueError
            `mean` or `std` has neither 1 nor C entries, or `CRFRNN` rejects its arguments.
        """
        outputs = self.backbone(image)
        refined = self.refine(outputs, image, guide=guide, **options)
        if self.returns == "same":
            refined = self.replace_logits(outputs, refined)
        return (refined, outputs) if return_outputs else refined

    def refine(
        self, outputs: Any, image: Tensor, *, guide: Tensor | None = None, **options: Any
    ) -> Any:
        """Return refined logits at the size of the image from the backbone's outputs.

        Parameters
        ----------
        outputs
            What the backbone returned for the image.
        image : Tensor [B, C, *S]
            Normalised as for the backbone.
        guide : Tensor [B, C, *S], optional
            Image for the head; see `forward`.
        **options
            Keyword arguments of the head.

        Returns
        -------
        Tensor [B, L, *S]

        Raises
        ------
        TypeError, ValueError
            As `forward`.

        Examples
        --------
        >>> from densecrf_rnn import CRFRNN
        >>> model, image = CRFRNN.wrap(nn.Conv2d(3, 2, 1), 2), torch.rand(1, 3, 6, 7)
        >>> torch.equal(model.refine(model.backbone(image), image), model(image))
        True
        """
        logits = coarse = self._logits(outputs)
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
        if guide is not None:
            return self._refined(coarse, logits, guide, options)
        guide = self._guide(image)
        if self._first_calls.is_first(guide) and not transforms.active():
            mask = options.get("mask")
            checks.mask(mask, (len(guide), *size), batched=True)
            # Before the head, whose warnings of noise such a range causes.
            if advise_range(guide, self.scale, mask):
                self._first_calls.add(guide)
        return self._refined(coarse, logits, guide, options)

    def _refined(
        self, coarse: Tensor, logits: Tensor, guide: Tensor, options: Mapping[str, Any]
    ) -> Any:
        """Apply the head to logits, perhaps interpolated from `coarse`; explain what that broke."""
        if logits is coarse or torch.compiler.is_compiling():
            return self.crf(logits, guide, **options)
        try:
            return self.crf(logits, guide, **options)
        except ValueError as error:
            infinite = int(coarse.isinf().sum())
            of_values = str(error).startswith(("logits contains", "logits is -infinity"))
            if not of_values or not infinite or bool(coarse.isnan().any()):
                raise
            raise ValueError(
                f"the backbone's logits contain infinity ({infinite} "
                f"entr{'y' if infinite == 1 else 'ies'}), so they cannot be interpolated to the "
                "size of the image; to rule a label out, set its logit to -1e4 instead"
            ) from error

    @staticmethod
    def replace_logits(outputs: Any, logits: Any) -> Any:
        """Return a copy of a backbone's outputs in which `logits` replace its own.

        Parameters
        ----------
        outputs : Tensor, mapping with "out" or "logits", or object with `.logits`
        logits : Tensor

        Returns
        -------
        Same type as `outputs`
            Entries other than the logits are shared with `outputs`, which is not modified.

        Raises
        ------
        TypeError
            The outputs have no place for logits.

        Examples
        --------
        >>> Segmenter.replace_logits({"out": 1, "aux": 2}, 3)
        {'out': 3, 'aux': 2}
        """
        if isinstance(outputs, Tensor):
            return logits
        key = None
        if isinstance(outputs, Mapping):
            key = "out" if "out" in outputs else "logits" if "logits" in outputs else None
        if key is not None and type(outputs) in (dict, OrderedDict):
            same = outputs.copy()  # which torch.compile traces
            same[key] = logits
            return same
        if isinstance(outputs, tuple) and hasattr(outputs, "_replace"):
            return outputs._replace(logits=logits)
        if key is None and not hasattr(outputs, "logits"):
            raise TypeError(
                f"the backbone returned {type(outputs).__name__}, which has no place for refined "
                "logits (\"out\", \"logits\" or .logits); leave returns at 'logits'"
            )
        found: Any = copy(outputs)
        if key is None:
            found.logits = logits
        else:
            found[key] = logits
        return found

    def _logits(self, outputs: Any) -> Tensor:
        """Find the logits in the backbone's output."""
        if self.pick is not None:
            found = self.pick(outputs)
        elif isinstance(outputs, Mapping) and "class_queries_logits" not in outputs:
            # Before any hasattr, which torch.compile does not trace for an OrderedDict.
            found = outputs.get("out", outputs.get("logits"))
        elif hasattr(outputs, "class_queries_logits"):
            found = from_queries(outputs)
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
