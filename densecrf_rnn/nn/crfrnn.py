"""CRFRNN: dense-CRF mean field as a trainable layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .. import _backends, _checks
from ..params import CRFParams, Normalization
from .functional import autocast_to_float32, default_weights, mean_field

if TYPE_CHECKING:
    from .segmenter import Segmenter


class CRFRNN(nn.Module):
    """A CRF-RNN head: logits and their image in, refined logits out, trained with the backbone.

    Parameters
    ----------
    num_classes : int
        Labels L, at least 2; or 1 for a binary segmenter whose one logit x stands for the labels
        (0, x).
    params : CRFParams
        Bandwidths (fixed) and initial kernel weights. They belong to the constructor, not to the
        state_dict: build the module that loads a checkpoint with the same ones.
    iterations, eval_iterations : int
        Mean-field updates in train() and in eval() mode.
    kernel_weights : {"diagonal", "scalar", "full"}
        What is learned for each kernel: a weight per label, one weight, or an L x L matrix.
    compatibility : {"learned", "potts"}
        A learned L x L matrix, asymmetric, that starts at Potts; or Potts, fixed.
    normalization, self_term
        In place of those in `params`, if given.
    memory_budget : int
        Bytes that a forward pass may keep for the gradient; see `functional.mean_field`.
    backend : str
        "auto", or a name from `available_backends()`.

    Attributes
    ----------
    kernel_weights : nn.Parameter [2, L], [2] or [2, L, L]
        Bilateral, then spatial. For num_classes=1, L is 2 here and below: the labels (0, x).
    compatibility : nn.Parameter or buffer [L, L]
        Penalty of a label (row) at a pixel beside another (column).

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    Train the backbone before the head, as the paper does: behind an untrained network the head
    settles on the commonest label.
    [CRF-RNN] sections 3 to 5; defaults as published: 160 / 3 / 3, weights 5 and 3, T = 5 in
    training and 10 at test time.

    Examples
    --------
    >>> crf = CRFRNN(num_classes=4)
    >>> logits, image = torch.randn(2, 4, 8, 9), torch.rand(2, 3, 8, 9) * 255
    >>> crf(logits, image).shape
    torch.Size([2, 4, 8, 9])
    """

    kernel_weights: Tensor
    compatibility: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        params: CRFParams = CRFParams(),
        iterations: int = 5,
        eval_iterations: int = 10,
        kernel_weights: Literal["diagonal", "scalar", "full"] = "diagonal",
        compatibility: Literal["learned", "potts"] = "learned",
        normalization: Normalization | None = None,
        self_term: bool | None = None,
        memory_budget: int = 2**30,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_classes = _checks.count("num_classes", num_classes, 1)
        self.iterations = _checks.count("iterations", iterations, 0)
        self.eval_iterations = _checks.count("eval_iterations", eval_iterations, 0)
        self.memory_budget = _checks.count("memory_budget", memory_budget, 1, below_power=63)
        _checks.option("kernel_weights", kernel_weights, ("diagonal", "scalar", "full"))
        _checks.option("compatibility", compatibility, ("learned", "potts"))
        _checks.params(params, CRFParams)
        if normalization is not None:
            params = replace(params, normalization=normalization)
        if self_term is not None:
            params = replace(params, self_term=self_term)
        self.params = params
        _backends.resolve(backend)
        self.backend = backend

        labels = max(2, self.num_classes)
        eye = torch.eye(labels)
        weights = default_weights(params, labels).to(eye)
        if kernel_weights == "scalar" and weights.dim() == 2:
            raise ValueError(
                "kernel_weights is 'scalar' but params has a weight for each label; give one "
                "weight per kernel, or use 'diagonal'"
            )
        if kernel_weights != "scalar":
            weights = weights.reshape(2, -1).expand(2, labels).clone()
        if kernel_weights == "full":
            weights = weights[:, :, None] * eye
        self.kernel_weights = nn.Parameter(weights)
        if compatibility == "learned":
            self.compatibility = nn.Parameter(1 - eye)
        else:
            self.register_buffer("compatibility", 1 - eye)

    def forward(
        self, logits: Tensor, image: Tensor, *, spacing: Sequence[float] | None = None
    ) -> Tensor:
        """Refined logits; see `functional.mean_field` for the arguments and the errors.

        Parameters
        ----------
        logits : Tensor [B, num_classes, H, W] or [B, num_classes, D, H, W]
        image : Tensor [B, C, H, W] or [B, C, D, H, W], in the units of theta_beta (0..255)
        spacing : one float per spatial axis, optional

        Returns
        -------
        Tensor, shape and dtype of `logits`
        """
        logits = autocast_to_float32(logits)
        _checks.logits(logits, batched=True)
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits has {logits.shape[1]} labels but this CRFRNN was made for "
                f"{self.num_classes}; make it with num_classes={logits.shape[1]}"
            )
        return mean_field(
            logits,
            image,
            self.params,
            kernel_weights=self.kernel_weights,
            compatibility=self.compatibility,
            iterations=self.iterations if self.training else self.eval_iterations,
            spacing=spacing,
            memory_budget=self.memory_budget,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The settings that print with the module."""
        return (
            f"num_classes={self.num_classes}, params={self.params}, "
            f"iterations={self.iterations}, eval_iterations={self.eval_iterations}, "
            f"kernel_weights={list(self.kernel_weights.shape)}"
        )

    @classmethod
    def wrap(
        cls,
        backbone: nn.Module,
        num_classes: int,
        *,
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
        scale: float = 255.0,
        pick: Callable[[Any], Tensor] | None = None,
        **options: Any,
    ) -> "Segmenter":
        """A model of `backbone` followed by a CRF-RNN head; see `Segmenter`.

        Parameters
        ----------
        backbone : nn.Module
            Maps images [B, C, *S] to logits [B, num_classes, *s]; S = (H, W) or (D, H, W), and s
            may be smaller. Logits are found in a tensor, in a mapping with "out" or "logits"
            (torchvision) and in an object with `.logits` (Hugging Face).
        num_classes : int
        mean, std : one float per channel, or one for all
            What the images were normalised with, as fractions of `scale`: the head sees
            (image * std + mean) * scale, which brings them back to 0..255.
        scale : float
            Top of the intensity range that theta_beta refers to; 1 for images that are already
            in the units of theta_beta.
        pick : function, optional
            Takes the logits out of what the backbone returns, where that is something else.
        **options
            Keyword arguments of `CRFRNN`.

        Returns
        -------
        Segmenter
        """
        from .segmenter import Segmenter

        crf = cls(num_classes, **options)
        return Segmenter(backbone, crf, mean=mean, std=std, scale=scale, pick=pick)
