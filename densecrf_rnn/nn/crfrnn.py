"""CRFRNN: the mean field of a dense CRF as a trainable layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import checks, engines
from ..kernels import Kernel, from_params
from ..params import CRFParams, Normalization
from .arguments import STORAGES, Method, Storage, check_method, default_weights
from .functional import free_energy, mean_field
from .segmenter import Segmenter
from .stepwise import UPDATES, Update

# A learned bandwidth stays within this factor of its initial value.
BANDWIDTH_RANGE = 16.0
# Multipliers of the network's learning rate in the released code of [CRF-RNN].
LEARNING_RATES = {"kernel_weights": 1e4, "compatibility": 1e3, "bandwidths": 1e3}


class CRFRNN(nn.Module):
    """A CRF-RNN head that refines logits, given the image, and trains with the backbone.

    Parameters
    ----------
    num_classes : int
        Number L of labels, at least 2; or 1 for binary segmentation, where one logit x stands for
        the two logits (0, x).
    params : CRFParams
        Bandwidths (fixed unless `trainable_bandwidths`) and initial kernel weights. The state_dict
        does not contain these bandwidths: to load a checkpoint, build the module with the same
        `params`.
    iterations, eval_iterations : int
        Number of mean-field updates in train() and in eval() mode. `eval_iterations` defaults to
        10, or to `iterations` if not `tied`.
    kernel_weights : {"diagonal", "scalar", "full"}
        Shape of each kernel's weights: one per label, one for all labels, or an L x L matrix.
    compatibility : {"learned", "potts"}
        A learned L x L matrix, which may become asymmetric and starts as Potts; or fixed Potts.
    trainable_bandwidths : bool
        Whether the kernels' bandwidths are learned. Each stays within a factor of 16 of its initial
        value, so training can neither collapse nor overflow it. A kernel over positions alone is
        then filtered by a lattice, also in eval(), because a grid has no gradient for its
        bandwidth.
    tied : bool
        Whether all iterations share weights and compatibility; otherwise each has its own.
    update : {"softmax", "relu"}
        How marginals are computed from logits; see `functional.mean_field`.
    normalization, self_term
        Unless None, they replace the options of the same name in `params`.
    kernels : sequence of M `kernels.Kernel`, optional
        Kernels to use instead of the bilateral and the spatial kernel that `params` describes.
    memory_budget : int
        Bytes that a forward pass may keep for the backward pass; see `functional.mean_field`.
    method : {"lattice", "exact"}
        How kernels are filtered: in O(N), or exactly in O(N^2); see `functional.mean_field`.
    storage : {"full", "float16", "bfloat16"}
        Precision of lattice values in the CUDA engine; see `functional.mean_field`.
    backend : str
        "auto", or a name from `available_backends()`.

    Attributes
    ----------
    kernel_weights : nn.Parameter [M, L], [M] or [M, L, L]; [T, ...] if not `tied`
        Weights of the M kernels (bilateral, then spatial), for each of T untied iterations. If
        num_classes is 1, L is 2 here and in `compatibility`.
    compatibility : nn.Parameter or buffer [L, L]; [T, L, L] if not `tied`
        Penalty of a label (row) next to another label (column).
    log_bandwidths : nn.Parameter [M, 2] or None
        Parameters from which `bandwidths` (position, guide) are computed; None if they are fixed.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or range.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    Train the backbone before the head, as the paper does: with an untrained network the head
    learns to predict the most frequent label everywhere.

    [CRF-RNN] sections 3 to 5; defaults as published: theta_alpha 160, theta_beta 3, theta_gamma 3,
    kernel weights 5 (bilateral) and 3 (spatial), 5 iterations in training and 10 at test time.

    Examples
    --------
    >>> crf = CRFRNN(num_classes=4)
    >>> logits, image = torch.randn(2, 4, 8, 9), torch.rand(2, 3, 8, 9) * 255
    >>> crf(logits, image).shape
    torch.Size([2, 4, 8, 9])
    """

    kernel_weights: Tensor
    compatibility: Tensor
    log_bandwidths: nn.Parameter | None
    initial_bandwidths: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        params: CRFParams = CRFParams(),
        iterations: int = 5,
        eval_iterations: int | None = None,
        kernel_weights: Literal["diagonal", "scalar", "full"] = "diagonal",
        compatibility: Literal["learned", "potts"] = "learned",
        trainable_bandwidths: bool = False,
        tied: bool = True,
        update: Update = "softmax",
        normalization: Normalization | None = None,
        self_term: bool | None = None,
        kernels: Sequence[Kernel] | None = None,
        memory_budget: int = 2**30,
        method: Method = "lattice",
        storage: Storage = "full",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_classes = checks.count("num_classes", num_classes, 1)
        self.iterations = checks.count("iterations", iterations, 0)
        checks.flag("tied", tied)
        self.tied = tied
        if eval_iterations is None:
            eval_iterations = 10 if tied else iterations
        self.eval_iterations = checks.count("eval_iterations", eval_iterations, 0)
        if not tied and (iterations == 0 or eval_iterations != iterations):
            raise ValueError(
                f"iterations is {iterations} and eval_iterations {eval_iterations}; iterations "
                "that are not tied have parameters of their own, so give one positive number for "
                "both"
            )
        self.memory_budget = checks.count("memory_budget", memory_budget, 1, below_power=63)
        checks.option("kernel_weights", kernel_weights, ("diagonal", "scalar", "full"))
        checks.option("compatibility", compatibility, ("learned", "potts"))
        checks.option("update", update, UPDATES)
        self.update = update
        checks.params(params, CRFParams)
        if normalization is not None:
            params = replace(params, normalization=normalization)
        if self_term is not None:
            params = replace(params, self_term=self_term)
        self.params = params
        check_method(method, backend)
        if method == "lattice":  # the exact method needs no engine
            engines.resolve(backend)
        self.method = method
        checks.option("storage", storage, STORAGES)
        self.storage = storage
        self.backend = backend

        self.kernels = from_params(params) if kernels is None else tuple(kernels)
        checks.kernels(self.kernels, Kernel, None)
        checks.flag("trainable_bandwidths", trainable_bandwidths)

        labels = max(2, self.num_classes)
        eye = torch.eye(labels)
        weights = default_weights(params, labels, self.kernels).to(eye)
        if kernel_weights == "scalar" and weights.dim() == 2:
            raise ValueError(
                "kernel_weights is 'scalar' but params has a weight for each label; give one "
                "weight per kernel, or use 'diagonal'"
            )
        if kernel_weights != "scalar":
            count = len(self.kernels)
            weights = weights.reshape(count, -1).expand(count, labels)
        if kernel_weights == "full":
            weights = weights[:, :, None] * eye
        mu = 1 - eye
        if not tied:
            weights, mu = (t.expand(self.iterations, *t.shape) for t in (weights, mu))
        self.kernel_weights = nn.Parameter(weights.clone())
        if compatibility == "learned":
            self.compatibility = nn.Parameter(mu.clone())
        else:
            self.register_buffer("compatibility", mu.clone())
        thetas = [[k.theta_position or 1.0, k.theta_guide or 1.0] for k in self.kernels]
        # The arguments determine this buffer, so it is not saved in the state_dict.
        self.register_buffer("initial_bandwidths", torch.tensor(thetas), persistent=False)
        learns = nn.Parameter(torch.zeros(len(thetas), 2)) if trainable_bandwidths else None
        self.register_parameter("log_bandwidths", learns)

    @property
    def bandwidths(self) -> Tensor:
        """The bandwidths (position, guide) of each kernel, [M, 2]; 1 where a kernel has none.

        ``initial * 16 ** tanh(log_bandwidths)``, which stays within a factor of 16.
        """
        if self.log_bandwidths is None:
            return self.initial_bandwidths
        return self.initial_bandwidths * BANDWIDTH_RANGE ** self.log_bandwidths.tanh()

    def freeze(self, *names: str, frozen: bool = True) -> "CRFRNN":
        """Exclude parameters from training, or include them again.

        Parameters
        ----------
        *names : "kernel_weights", "compatibility", "bandwidths"
            Parameters to exclude; all if no name is given.
        frozen : bool
            False includes them again.

        Returns
        -------
        CRFRNN
            This module.

        Raises
        ------
        ValueError
            A name is unknown, or this head does not learn that parameter.
        """
        found = self._learned()
        for name in names:
            checks.option("a name to freeze", name, tuple(found))
        for name in names or found:
            found[name].requires_grad_(not frozen)
        return self

    def parameter_groups(self, lr: float, **multipliers: float) -> list[dict[str, Any]]:
        """Return the parameters for an optimiser, each with its own learning rate.

        Parameters
        ----------
        lr : float
            The network's learning rate.
        **multipliers : float
            Multiplier of `lr` by parameter name. The defaults are those of the released code of
            [CRF-RNN], 1e4 for weights and 1e3 for the compatibility, chosen for its loss summed
            over pixels.

        Returns
        -------
        list of dict
            In the form that torch optimisers take; frozen parameters are left out.

        Examples
        --------
        >>> crf = CRFRNN(4)
        >>> groups = crf.parameter_groups(1e-3, kernel_weights=10, compatibility=1)
        >>> [group["lr"] for group in groups]
        [0.01, 0.001]
        """
        found = self._learned()
        for name in multipliers:
            checks.option("a multiplier", name, tuple(found))
        rates = {**LEARNING_RATES, **multipliers}
        return [
            {"params": [parameter], "lr": lr * rates[name], "name": name}
            for name, parameter in found.items()
            if parameter.requires_grad
        ]

    def _learned(self) -> dict[str, nn.Parameter]:
        """Return the learned parameters by the names that `freeze` and its callers use."""
        found = {"kernel_weights": self.kernel_weights, "compatibility": self.compatibility}
        if self.log_bandwidths is not None:
            found["bandwidths"] = self.log_bandwidths
        return {name: p for name, p in found.items() if isinstance(p, nn.Parameter)}

    def forward(
        self,
        logits: Tensor,
        image: Tensor,
        *,
        guides: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        return_all: bool = False,
    ) -> Any:
        """Refine logits; `functional.mean_field` documents the arguments and the errors.

        Parameters
        ----------
        logits : Tensor [B, num_classes, H, W] or [B, num_classes, D, H, W]
        image : Tensor [B, C, H, W] or [B, C, D, H, W], in the units of theta_beta (0..255)
        guides : tensors [B, C, *S] by name, optional
        mask : Tensor [B, *S] of bool, optional
        spacing : one float per spatial axis, optional
        return_all : bool

        Returns
        -------
        Tensor, shape and dtype of `logits`
            With `return_all` a list of them, one per iteration.
        """
        checks.array_kind("logits", logits, batched=True)
        if logits.dim() in (4, 5) and logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits has {logits.shape[1]} labels but this CRFRNN was built for "
                f"{self.num_classes}; build it with num_classes={logits.shape[1]}"
            )
        iterations = self.iterations if self.training else self.eval_iterations
        return mean_field(
            logits, image, iterations=iterations, guides=guides, mask=mask, spacing=spacing,
            tied=self.tied, return_all=return_all, memory_budget=self.memory_budget,
            storage=self.storage, **self._settings(),
        )  # fmt: skip

    def free_energy(
        self,
        refined: Tensor | Sequence[Tensor],
        logits: Tensor,
        image: Tensor,
        *,
        guides: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        """Compute the free energy of this head's output; see `functional.free_energy`.

        Parameters
        ----------
        refined : Tensor, or the list that ``forward(..., return_all=True)`` returns
        logits, image, guides, mask, spacing
            The arguments of that `forward`.

        Returns
        -------
        Tensor [B], or for a list of T [T, B]

        Raises
        ------
        ValueError
            The iterations are not tied, so there is no single energy.

        Examples
        --------
        >>> crf = CRFRNN(num_classes=4)
        >>> logits, image = torch.randn(2, 4, 8, 9), torch.rand(2, 3, 8, 9) * 255
        >>> crf.free_energy(crf(logits, image, return_all=True), logits, image).shape
        torch.Size([5, 2])
        """
        if not self.tied:
            raise ValueError(
                "tied is False, so every iteration has an energy of its own; give "
                "functional.free_energy the kernel_weights and compatibility of one"
            )
        return free_energy(
            refined, logits, image, guides=guides, mask=mask, spacing=spacing, **self._settings()
        )

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `functional` that describe this CRF."""
        return {
            "params": self.params,
            "kernel_weights": self.kernel_weights,
            "compatibility": self.compatibility,
            "kernels": self.kernels,
            "bandwidths": None if self.log_bandwidths is None else self.bandwidths,
            "update": self.update,
            "method": self.method,
            "backend": self.backend,
        }

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (
            f"num_classes={self.num_classes}, params={self.params}, "
            f"iterations={self.iterations}, eval_iterations={self.eval_iterations}, "
            f"kernel_weights={list(self.kernel_weights.shape)}, tied={self.tied}, "
            f"update={self.update!r}, method={self.method!r}"
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
    ) -> Segmenter:
        """Build a model of `backbone` followed by a CRF-RNN head; see `Segmenter`.

        Parameters
        ----------
        backbone : nn.Module
            Maps images [B, C, *S] to logits [B, num_classes, *s]; S = (H, W) or (D, H, W), and s
            may be smaller. Logits are found in a tensor, in a mapping with "out" or "logits"
            (torchvision) and in an object with `.logits` (Hugging Face).
        num_classes : int
        mean, std : one float per channel, or one for all
            The mean and standard deviation that the images were normalised with, as fractions of
            `scale`. The head uses (image * std + mean) * scale, that is, 0..255.
        scale : float
            Upper end of the intensity range that theta_beta refers to; 1 for images that are
            already in the units of theta_beta.
        pick : function, optional
            Extracts the logits from any other output of the backbone.
        **options
            Keyword arguments of `CRFRNN`.

        Returns
        -------
        Segmenter
        """
        crf = cls(num_classes, **options)
        return Segmenter(backbone, crf, mean=mean, std=std, scale=scale, pick=pick)
