"""CRFRNN: the mean field of a dense CRF as a trainable layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import checks, engines
from ..kernels import Kernel, from_params
from ..params import CRFParams, Normalization
from . import rates, settings, transforms
from .advice import FirstCalls, advise
from .arguments import STORAGES, Method, Storage, check_engine, default_weights
from .bilateral import within_range
from .functional import free_energy, mean_field
from .hub import Pretrained
from .precision import WideBuffers, wide
from .segmenter import Returns, Segmenter
from .stepwise import UPDATES, Update
from .subclasses import plain_inside


class CRFRNN(Pretrained, WideBuffers):
    """A CRF-RNN head that refines logits, given the image, and trains with the backbone.

    Parameters
    ----------
    num_classes : int
        Number L of labels, at least 2; or 1 for binary segmentation, where one logit x stands for
        the two logits (0, x). If `multilabel`, the number of maps.
    multilabel : bool
        Whether the L maps may overlap, as the outputs of networks that are trained with a sigmoid
        per map: regions inside one another, several labels per pixel, instances. Each map is then
        the logit of its own foreground and gets a binary CRF with Potts; the kernels are shared.
    params : CRFParams
        Bandwidths (fixed unless `trainable_bandwidths`) and initial kernel weights. The state_dict
        keeps them, with the options: a checkpoint that was saved with others causes a warning when
        it is loaded, and `nn.read_settings` returns its own.
    iterations, eval_iterations : int
        Number of mean-field updates in train() and in eval() mode. `eval_iterations` defaults to
        10, or to `iterations` if not `tied`.
    kernel_weights : {"diagonal", "scalar", "full"}
        Shape of each kernel's weights: one per label, one for all labels, or an L x L matrix. If
        `multilabel`, one per map or one for all maps.
    compatibility : {"learned", "potts"}, optional
        A learned L x L matrix, which may become asymmetric and starts as Potts; or fixed Potts.
        Default "learned", or "potts" if `multilabel`, where nothing else is allowed.
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
        Lowers the memory that a forward pass keeps for the backward pass; see
        `functional.mean_field`, which says what bounds it.
    method : {"lattice", "exact"}
        How kernels are filtered: in O(N), or exactly in O(N^2); see `functional.mean_field`.
    storage : {"full", "float16", "bfloat16"}
        Precision of lattice values in the CUDA engine; see `functional.mean_field`.
    prune : float, 0 <= prune < 1 / L
        Save time in eval() mode under ``torch.no_grad()`` by leaving labels out where they
        provably do not matter; see `densecrf_rnn.mean_field`. All other calls are exact. For
        tensors on a CPU.
    backend : str
        "auto", or a name from `available_backends()`.

    Attributes
    ----------
    kernel_weights : nn.Parameter [M, L], [M] or [M, L, L]; [T, ...] if not `tied`
        Weights of the M kernels (bilateral, then spatial), for each of T untied iterations. If
        num_classes is 1 and `multilabel` False, L is 2 here and in `compatibility`.
    compatibility : nn.Parameter or buffer [L, L]; [T, L, L] if not `tied`; None if `multilabel`
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
    >>> crf.bandwidths.tolist()  # theta_alpha and theta_beta, then theta_gamma
    [[160.0, 3.0], [3.0, 1.0]]
    >>> crf.freeze("compatibility").compatibility.requires_grad
    False
    >>> crf.settings()["iterations"]
    5
    >>> model = CRFRNN.wrap(nn.Conv2d(3, 4, 1), num_classes=4)  # a network with its head
    """

    kernel_weights: Tensor
    compatibility: Any  # Tensor or None
    log_bandwidths: nn.Parameter | None
    initial_bandwidths: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        multilabel: bool = False,
        params: CRFParams = CRFParams(),
        iterations: int = 5,
        eval_iterations: int | None = None,
        kernel_weights: Literal["diagonal", "scalar", "full"] = "diagonal",
        compatibility: Literal["learned", "potts"] | None = None,
        trainable_bandwidths: bool = False,
        tied: bool = True,
        update: Update = "softmax",
        normalization: Normalization | None = None,
        self_term: bool | None = None,
        kernels: Sequence[Kernel] | None = None,
        memory_budget: int = 2**30,
        method: Method = "lattice",
        storage: Storage = "full",
        prune: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_classes = checks.count("num_classes", num_classes, 1)
        checks.flag("multilabel", multilabel)
        self.multilabel = multilabel
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
        if compatibility is None:
            compatibility = "potts" if multilabel else "learned"
        checks.option("compatibility", compatibility, ("learned", "potts"))
        if multilabel and (kernel_weights == "full" or compatibility == "learned"):
            option = "kernel_weights='full'" if kernel_weights == "full" else (
                "compatibility='learned'"
            )
            raise ValueError(
                f"{option} couples labels but multilabel is True, so each map is a binary CRF of "
                "its own with Potts; leave it out, or use multilabel=False"
            )
        checks.option("update", update, UPDATES)
        self.update = update
        checks.params(params, CRFParams)
        if normalization is not None:
            params = replace(params, normalization=normalization)
        if self_term is not None:
            params = replace(params, self_term=self_term)
        self.params = params
        check_engine(method, backend)
        self.method = method
        checks.option("storage", storage, STORAGES)
        self.storage = storage
        self.prune = checks.prune(prune, 2 if multilabel else max(2, num_classes))
        if method == "lattice" and backend != "auto":
            engines.check_pruning(backend, self.prune)
        self.backend = backend

        self.kernels = from_params(params) if kernels is None else tuple(kernels)
        checks.kernels(self.kernels, Kernel, None)
        checks.flag("trainable_bandwidths", trainable_bandwidths)

        labels = self.num_classes if multilabel else max(2, self.num_classes)
        eye = torch.eye(labels)
        weights = default_weights(params, labels, self.kernels, multilabel=multilabel).to(eye)
        if kernel_weights == "scalar" and weights.dim() == 2:
            raise ValueError(
                f"kernel_weights is 'scalar' but params has a weight for each "
                f"{'map' if multilabel else 'label'}; give one weight per kernel, or use 'diagonal'"
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
        if multilabel:
            self.register_buffer("compatibility", None)
        elif compatibility == "learned":
            self.compatibility = nn.Parameter(mu.clone())
        else:
            self.register_buffer("compatibility", mu.clone())
        thetas = [k.bandwidths for k in self.kernels]
        # The settings in the state_dict determine this buffer.
        self.register_buffer("initial_bandwidths", wide(thetas), persistent=False)
        learns = nn.Parameter(torch.zeros(len(thetas), 2)) if trainable_bandwidths else None
        self.register_parameter("log_bandwidths", learns)
        self._first_calls = FirstCalls()

    def _wide(self) -> dict[str, Any]:
        """Return the initial bandwidths, which learned ones are factors of."""
        return {"initial_bandwidths": [kernel.bandwidths for kernel in self.kernels]}

    @property
    def bandwidths(self) -> Tensor:
        """The bandwidths (position, guide) of each kernel, [M, 2]; 1 where a kernel has none.

        ``initial * 16 ** tanh(log_bandwidths)``, which stays within a factor of 16. Of several
        bandwidths, one per axis or channel, it is the first; the others keep their ratio to it.
        """
        if self.log_bandwidths is None:
            return self.initial_bandwidths
        return within_range(self.initial_bandwidths, self.log_bandwidths)

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

    def parameter_groups(
        self, lr: float, *, loss: rates.Loss = "mean", **multipliers: float
    ) -> list[dict[str, Any]]:
        """Return the parameters for an optimiser, each with its own learning rate.

        Warns if a rate is larger than the parameter that it moves.

        Parameters
        ----------
        lr : float
            The network's learning rate.
        loss : {"mean", "sum"}
            How the loss is taken over the pixels. "mean", as in torch's cross_entropy: all
            parameters get 10 `lr`. "sum", as in the released code of [CRF-RNN], whose `lr` is
            1e-13: weights get 1e4 `lr`, compatibility and bandwidths 1e3 `lr`.
        **multipliers : float
            Multipliers of `lr` by parameter name ("kernel_weights", "compatibility",
            "bandwidths"), which replace those of `loss`.

        Returns
        -------
        list of dict
            In the form that torch optimisers take; frozen parameters are left out.

        Raises
        ------
        ValueError
            A name is unknown, or this head does not learn that parameter.

        Examples
        --------
        >>> crf = CRFRNN(4)
        >>> groups = crf.parameter_groups(1e-3, compatibility=1)
        >>> [group["lr"] for group in groups]
        [0.01, 0.001]
        """
        return rates.groups(self._learned(), lr, loss, multipliers)

    def _learned(self) -> dict[str, nn.Parameter]:
        """Return the learned parameters by the names that `freeze` and its callers use."""
        found = {"kernel_weights": self.kernel_weights, "compatibility": self.compatibility}
        if self.log_bandwidths is not None:
            found["bandwidths"] = self.log_bandwidths
        return {name: p for name, p in found.items() if isinstance(p, nn.Parameter)}

    @plain_inside
    def forward(
        self,
        logits: Tensor,
        image: Tensor | None = None,
        *,
        features: Tensor | None = None,
        guides: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        return_all: bool = False,
    ) -> Any:
        """Refine logits; `functional.mean_field` documents the arguments and the errors.

        The first call with each dtype and device warns about values that suggest a mistake.

        Parameters
        ----------
        logits : Tensor [B, num_classes, H, W], [B, num_classes, D, H, W] or [B, num_classes, N]
        image : Tensor [B, C, H, W] or [B, C, D, H, W], in the units of theta_beta (0..255)
            None if no kernel uses it, as in ``CRFRNN(4, kernels=[kernels.Spatial(3.0)])``.
        features : Tensor [B, N, d], optional
            Points without a grid, instead of an image, for
            ``CRFRNN(4, kernels=[kernels.Custom(1.0, "features")])``.
        guides : tensors [B, C, *S] by name, optional
        mask : Tensor [B, *S] of bool, optional
        spacing : one float per spatial axis, optional
        return_all : bool

        Returns
        -------
        Tensor, shape, dtype and class of `logits` (float32 for 16 bits under autocast)
            With `return_all` a list of them, one per iteration.
        """
        checks.array_kind("logits", logits, batched=True)
        axes = (4, 5) if features is None else (3,)
        if logits.dim() in axes and logits.shape[1] != self.num_classes:
            fits = getattr(image, "shape", ())[1:] == (self.num_classes, *logits.shape[2:])
            raise ValueError(
                f"logits has {logits.shape[1]} labels but this CRFRNN was built for "
                f"{self.num_classes}; build it with num_classes={logits.shape[1]}"
                + (", or, if the image was given first, exchange them: crf(logits, image)"
                   if fits else "")
            )
        iterations = self.iterations if self.training else self.eval_iterations
        refined = mean_field(
            logits, image, features=features, iterations=iterations, guides=guides, mask=mask,
            spacing=spacing, tied=self.tied, return_all=return_all,
            memory_budget=self.memory_budget, storage=self.storage, warn=False,
            prune=0.0 if self.training else self.prune,
            **self._settings(),
        )  # fmt: skip
        seen = logits if image is None else image
        if self._first_calls.is_first(seen) and not transforms.active():
            if advise(logits, image, self.kernels, mask, multilabel=self.multilabel):
                self._first_calls.add(seen)
        return refined

    def free_energy(
        self,
        refined: Tensor | Sequence[Tensor],
        logits: Tensor,
        image: Tensor | None = None,
        *,
        features: Tensor | None = None,
        guides: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        """Compute the free energy of this head's output; see `functional.free_energy`.

        Parameters
        ----------
        refined : Tensor, or the list that ``forward(..., return_all=True)`` returns
        logits, image, features, guides, mask, spacing
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
            refined, logits, image, features=features, guides=guides, mask=mask, spacing=spacing,
            **self._settings(),
        )  # fmt: skip

    @classmethod
    def _arguments(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments for what config.json holds."""
        if "num_classes" not in config:
            raise TypeError(
                "num_classes is neither saved nor given, so this is no head; load a wrapped model "
                "by nn.Segmenter.from_pretrained(path, backbone=network), whose .crf is the head"
            )
        return super()._arguments(config)

    def settings(self) -> dict[str, Any]:
        """Return the arguments that results depend on, as values for JSON; see `read_settings`."""
        return settings.of_head(self)

    def _adopt(self, saved: dict[str, Any]) -> None:
        """Take over the bandwidths that learned ones are factors of."""
        settings.adopt_bandwidths(self, saved)

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `functional` that describe this CRF."""
        return {
            "params": self.params,
            "kernel_weights": self.kernel_weights,
            "compatibility": self.compatibility,
            "multilabel": self.multilabel,
            "kernels": self.kernels,
            "bandwidths": None if self.log_bandwidths is None else self.bandwidths,
            "update": self.update,
            "method": self.method,
            "backend": self.backend,
        }

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (
            f"num_classes={self.num_classes}, multilabel={self.multilabel}, params={self.params}, "
            f"iterations={self.iterations}, eval_iterations={self.eval_iterations}, "
            f"kernel_weights={list(self.kernel_weights.shape)}, tied={self.tied}, "
            f"update={self.update!r}, method={self.method!r}"
            + (f", prune={self.prune:g}" if self.prune else "")
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
        returns: Returns = "logits",
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
        returns : {"logits", "same"}
            Return the refined logits, or the backbone's output with refined logits in it.
        **options
            Keyword arguments of `CRFRNN`.

        Returns
        -------
        Segmenter
        """
        crf = cls(num_classes, **options)
        return Segmenter(
            backbone, crf, mean=mean, std=std, scale=scale, pick=pick, returns=returns
        )
