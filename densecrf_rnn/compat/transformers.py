"""Models of transformers with a CRF-RNN head, for Trainer, pipeline and save_pretrained."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from .. import checks
from ..nn import CRFRNN, Segmenter
from ..nn.settings import arguments_of

_hub = checks.package("transformers", "densecrf_rnn.compat.transformers", "transformers")
_outputs = checks.package(
    "transformers.modeling_outputs", "densecrf_rnn.compat.transformers", "transformers"
)
_initialization = checks.package(
    "transformers.initialization", "densecrf_rnn.compat.transformers", "'transformers>=5'"
)
_Config: Any = _hub.PretrainedConfig
_Model: Any = _hub.PreTrainedModel


class CRFConfig(_Config):
    """Configuration of `CRFForSemanticSegmentation`: its network's, and the head's settings.

    Parameters
    ----------
    backbone : dict, optional
        The network's configuration.
    architecture : str, optional
        The network's class in transformers.
    crf : dict, optional
        Settings of the head, as `CRFRNN.settings` returns them.
    mean, std : one float per channel, or one for all
        The normalisation of pixel_values, as fractions of `scale`.
    scale : float
        Upper end of the intensity range that theta_beta refers to.
    **options
        Fields of every configuration, such as id2label.

    Examples
    --------
    >>> CRFConfig(crf={"iterations": 3}).crf
    {'iterations': 3}
    """

    model_type = "densecrf-rnn"

    def __init__(
        self,
        backbone: Mapping[str, Any] | None = None,
        architecture: str | None = None,
        crf: Mapping[str, Any] | None = None,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
        scale: float = 255.0,
        **options: Any,
    ) -> None:
        self.backbone = dict(backbone or {})
        self.architecture = architecture
        self.crf = dict(crf or {})
        self.mean, self.std, self.scale = mean, std, scale
        super().__init__(**options)


class CRFForSemanticSegmentation(_Model):
    """A segmentation network of transformers followed by a CRF-RNN head; made by `wrap`.

    Attributes
    ----------
    segmenter : Segmenter
        The network (`segmenter.backbone`) and the head (`segmenter.crf`).

    Notes
    -----
    `save_pretrained`, `from_pretrained` and `push_to_hub` are those of transformers; the saved
    folder holds both, and `AutoModelForSemanticSegmentation` loads it after this module was
    imported. With Trainer, give the head its own learning rate by
    ``optimizers=(torch.optim.AdamW(model.parameter_groups(lr)), None)``.
    """

    config_class = CRFConfig
    main_input_name = "pixel_values"
    # The loss is a mean over one batch; Trainer then divides it by the number of batches that it
    # accumulates.
    accepts_loss_kwargs = False

    def __init__(self, config: CRFConfig) -> None:
        super().__init__(config)
        made = getattr(_hub, config.architecture or "", None)
        if made is None:
            raise ValueError(
                f"architecture is {config.architecture!r}, which transformers does not have; make "
                "the model by CRFForSemanticSegmentation.wrap(model)"
            )
        backbone = made(made.config_class.from_dict(config.backbone))
        self.segmenter = _segmenter(backbone, config)
        self.supports_gradient_checkpointing = made.supports_gradient_checkpointing
        self.post_init()

    @classmethod
    def wrap(
        cls,
        model: Any,
        processor: Any = None,
        *,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        scale: float = 255.0,
        **options: Any,
    ) -> "CRFForSemanticSegmentation":
        """Attach a head to a model; its weights are shared, not copied.

        Parameters
        ----------
        model : PreTrainedModel
            Returns logits (SegFormer, UperNet, DPT, BEiT, ...), or class and mask queries
            (MaskFormer, Mask2Former, OneFormer).
        processor : image processor, optional
            Its image_mean, image_std and rescale_factor are the normalisation of pixel_values.
        mean, std : one float per channel, or one for all, optional
            The normalisation, where there is no processor; default 0 and 1.
        scale : float
            Upper end of the intensity range that theta_beta refers to.
        **options
            Keyword arguments of `CRFRNN`. The configuration holds those that results depend on.

        Returns
        -------
        CRFForSemanticSegmentation

        Raises
        ------
        TypeError, ValueError
            An argument has the wrong type or value, or the model's class is not in transformers.

        Examples
        --------
        >>> from transformers import SegformerConfig, SegformerForSemanticSegmentation
        >>> network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=4))
        >>> model = CRFForSemanticSegmentation.wrap(network, iterations=3)
        >>> model(pixel_values=torch.rand(1, 3, 32, 32)).logits.shape
        torch.Size([1, 4, 32, 32])
        """
        if not isinstance(model, _hub.PreTrainedModel):
            raise TypeError(
                f"model is {type(model).__name__}; it must be a PreTrainedModel (for other modules "
                "there is CRFRNN.wrap)"
            )
        if processor is not None and (mean is not None or std is not None):
            raise ValueError("processor is given, and mean or std; leave one of them out")
        if processor is not None:
            normalizes = getattr(processor, "do_normalize", False)
            mean, std = (processor.image_mean, processor.image_std) if normalizes else (0.0, 1.0)
            # They are fractions of 255 if pixels were divided by that, as nearly all are.
            scaled = getattr(processor, "do_rescale", False)
            factor = processor.rescale_factor if scaled else 1 / 255
            if (unit := 1 / factor / 255) != 1:
                mean, std = (
                    (unit * torch.tensor(one, dtype=torch.float64)).tolist() for one in (mean, std)
                )
        crf = CRFRNN(model.config.num_labels, **options)
        mean, std = 0.0 if mean is None else mean, 1.0 if std is None else std
        segmenter = Segmenter(model, crf, mean=mean, std=std, scale=scale)
        config = CRFConfig(
            backbone=model.config.to_dict(), architecture=type(model).__name__,
            crf=crf.settings(), **segmenter.settings(),
            id2label=model.config.id2label, label2id=model.config.label2id,
        )  # fmt: skip
        with torch.device("meta"):  # no memory for a network that `model` replaces
            found = cls(config)
        found.segmenter = segmenter
        return found

    def parameter_groups(self, lr: float, **options: Any) -> list[dict[str, Any]]:
        """Return the parameters for an optimiser: the network's at `lr`, the head's at its own.

        Parameters
        ----------
        lr : float
            The network's learning rate.
        **options
            Other arguments of `CRFRNN.parameter_groups`.

        Returns
        -------
        list of dict
        """
        network = {"params": list(self.segmenter.backbone.parameters()), "lr": lr}
        crf: Any = self.segmenter.crf
        return [network, *crf.parameter_groups(lr, **options)]

    def save_pretrained(self, *args: Any, **options: Any) -> None:
        """Save the model; `PreTrainedModel.save_pretrained` documents the arguments.

        Weights keep the names of this version of transformers, where the method of the base class
        writes those of older versions: Trainer, which does not translate them when it resumes,
        would start again from random weights.
        """
        super().save_pretrained(*args, **{"save_original_format": False, **options})

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the network's output with refined logits and their loss.

        Parameters
        ----------
        pixel_values : Tensor [B, C, H, W]
        labels : Tensor [B, H, W] of int64, optional
            True labels, of a multilabel head 0 and 1 in [B, L, H, W]; the value that the network's
            configuration names (255) is ignored.
        pixel_mask : Tensor [B, H, W], optional
            0 at padding, which the head then excludes. Networks that take it get it as well.
        return_dict : bool, optional
            False returns a tuple.
        **options
            Other arguments of the network, such as output_hidden_states or task_inputs.

        Returns
        -------
        ModelOutput
            The class that the network returns (SemanticSegmenterOutput for queries), with logits
            [B, L, H, W] at the size of pixel_values. `loss` is the mean cross-entropy of the
            refined logits (binary for one label and for a multilabel head), plus the network's
            own loss if `options` make it compute one.
        """
        network = self.segmenter.backbone
        if pixel_mask is not None and "pixel_mask" in inspect.signature(network.forward).parameters:
            options["pixel_mask"] = pixel_mask
        outputs = network(pixel_values=pixel_values, return_dict=True, **options)
        mask = None if pixel_mask is None else pixel_mask.bool()
        logits = self.segmenter.refine(outputs, pixel_values, mask=mask)
        loss = getattr(outputs, "loss", None)
        if labels is not None:
            refined = self._loss(logits, labels)
            loss = refined if loss is None else loss + refined
        if "logits" in {field.name for field in dataclasses.fields(outputs)}:
            found = dataclasses.replace(outputs, loss=loss, logits=logits)
        else:
            found = _outputs.SemanticSegmenterOutput(loss=loss, logits=logits)
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        return found if return_dict else found.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss over the pixels that are not to be ignored."""
        config = self.segmenter.backbone.config
        names = ("semantic_loss_ignore_index", "loss_ignore_index", "ignore_value")
        ignored = next((getattr(config, name) for name in names if hasattr(config, name)), 255)
        several = self.segmenter.crf.multilabel
        if logits.shape[1] > 1 and not several:
            return cross_entropy(logits, labels, ignore_index=ignored)
        maps, valid = logits if several else logits[:, 0], labels != ignored
        return binary_cross_entropy_with_logits(maps[valid], labels[valid].to(logits.dtype))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the head; the network, a PreTrainedModel, initialises itself.

        Loading makes modules without values, and gives back no buffers that are not saved.
        """
        if not isinstance(module, Segmenter):
            return
        fresh = _segmenter(nn.Identity(), self.config)
        found = dict(module.named_parameters()) | dict(module.named_buffers())
        for name, tensor in [*fresh.named_parameters(), *fresh.named_buffers()]:
            _initialization.copy_(found[name], tensor)


def _segmenter(backbone: nn.Module, config: CRFConfig) -> Segmenter:
    """Build the head that a configuration describes, with values even where torch makes none."""
    with torch.device("cpu"):
        crf = CRFRNN(**{"num_classes": config.num_labels, **arguments_of(config.crf)})
        return Segmenter(backbone, crf, mean=config.mean, std=config.std, scale=config.scale)


_hub.AutoConfig.register(CRFConfig.model_type, CRFConfig, exist_ok=True)
_hub.AutoModelForSemanticSegmentation.register(
    CRFConfig, CRFForSemanticSegmentation, exist_ok=True
)
