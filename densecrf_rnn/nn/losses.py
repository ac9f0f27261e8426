"""Losses that torch lacks. The softmax loss of the papers is torch's cross_entropy."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from .. import checks
from ..kernels import Kernel
from ..params import NORMALIZATIONS, QUALITIES, Normalization, Quality
from . import transforms
from .arguments import Method, check_engine, full_precision, in_float32
from .build import Gaussian, Pixels
from .filtering import filter_rows
from .ops import dispatch
from .subclasses import plain_inside

__all__ = ["DenseCRFLoss", "robust_log_likelihood"]


def robust_log_likelihood(
    logits: Tensor,
    target: Tensor,
    *,
    epsilon: float = 0.05,
    ignore_index: int = 255,
    reduction: str = "mean",
) -> Tensor:
    """Compute the robust log-likelihood loss, which is bounded, so that outliers count less.

    Parameters
    ----------
    logits : Tensor [B, L, *S], floating point
        L = 1: one logit x, treated as the two logits (0, x).
    target : Tensor [B, *S], integer
        Labels 0..L-1, or `ignore_index`.
    epsilon : float, positive
        A pixel's loss is -log((q + epsilon) / (1 + epsilon)), where q is the marginal of its label:
        0 where q = 1, at most log(1 + 1 / epsilon). It tends to the softmax loss as epsilon tends
        to 0.
    ignore_index : int
        Label of pixels to exclude.
    reduction : {"mean", "sum", "none"}
        Mean or sum over the pixels that are not excluded; "none" returns the loss of each pixel
        [B, *S], which is 0 at excluded pixels. The mean of no pixel is NaN, as that of
        `torch.nn.functional.cross_entropy`.

    Returns
    -------
    Tensor

    Raises
    ------
    TypeError, ValueError
        `epsilon` is not a positive number, `reduction` is unknown, or `ignore_index` or `target` is
        not integer. Torch checks the shapes.
    IndexError
        From torch, on a CPU: `target` holds another label than 0..L-1 and `ignore_index`. On a GPU
        it ends in a failed assertion of the device.

    Notes
    -----
    The robust log-likelihood of [KK13]. [CRF-RNN] section 6 tried it and kept the softmax loss.

    Examples
    --------
    >>> loss = robust_log_likelihood(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long())
    >>> round(loss.item(), 4)  # -log(0.55 / 1.05)
    0.6466
    """
    epsilon = checks.positive_number("epsilon", epsilon)
    checks.option("reduction", reduction, ("mean", "sum", "none"))
    checks.count("ignore_index", ignore_index, -(2**63), 63)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target has dtype {target.dtype}; it must be integer (target.long())")
    if logits.dim() > 1 and logits.shape[1] == 1:  # one logit x stands for (0, x)
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    log_q = -cross_entropy(logits, target.long(), ignore_index=ignore_index, reduction="none")
    counts = target != ignore_index
    # The gradient flows through exp(log q) <= 1, so nothing is divided by a small marginal.
    loss = torch.where(counts, -torch.log((log_q.exp() + epsilon) / (1 + epsilon)), 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counts.sum()


class DenseCRFLoss(nn.Module):
    """The energy of a dense Potts CRF, relaxed to probabilities: a loss that needs no labels.

    It is low where pixels that are near and alike have the same label, so that a network which is
    trained with few labels (scribbles, points, parts of an image) extends them to the edges of the
    image. Add it to the loss of the pixels that have labels.

    Parameters
    ----------
    weight : float
        Factor of the loss. For the sum over pixels (the default) published weights are about 1e-9;
        for ``normalization="after", reduction="mean"``, where the loss lies in -1..0, start with 1.
    sigma_rgb : float or sequence of C floats
        Bandwidth in the image's values, positive, in their own units.
    sigma_xy : float or sequence of one float per spatial axis
        Bandwidth in position, positive, in pixels of the image before it is scaled.
    scale_factor : float, 0 < scale_factor <= 1
        Factor by which maps are made smaller first, to save time: probabilities by linear
        interpolation between the pixels inside the mask, image, mask and labels by taking the
        nearest pixel.
    gate : bool
        Whether a pixel's term is multiplied by 1 - max_l s_l, a constant without gradient, so that
        pixels whose label is certain count less; unlabelled pixels keep the factor 1.
    ignore_index : int
        The label that unlabelled pixels have.
    normalization : {"none", "after", "before", "symmetric"}
        How the kernel matrix K is normalised, see `functional.gaussian_filter`. With "none" (as in
        rloss, which uses a lattice too) the loss and its gradient on a lattice are about half of
        those of the exact filter for colour images, so a weight for one does not suit the other.
    reduction : {"sum", "mean"}
        Sum over the pixels and mean over the images; or mean over all pixels inside the mask.
    quality, method, backend
        See `functional.gaussian_filter`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or range.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    The loss of an image is -weight sum_l s_l' G K s_l with probabilities s_l [N] of label l, zero
    outside the mask; gates G = diag(g); and K_ij = exp(-|p_i - p_j|^2 / 2 sigma_xy^2 - |I_i -
    I_j|^2 / 2 sigma_rgb^2), including i = j. Without gates and for probabilities that sum to 1 it
    differs from sum_l s_l' K (1 - s_l), the energy of the Potts model, by a constant. [Tang18],
    released as "rloss"; with gates it is "DenseEnergyLoss" of [Zhang20]. The gradient is
    that of this formula: with gates -(G K + K' G) s, where the released code returns -2 G K s.

    Examples
    --------
    >>> loss = DenseCRFLoss(weight=1.0, normalization="after", reduction="mean")
    >>> logits, image = torch.randn(2, 3, 8, 10, requires_grad=True), torch.rand(2, 3, 8, 10) * 255
    >>> loss(logits.softmax(1), image).backward()
    >>> logits.grad.shape
    torch.Size([2, 3, 8, 10])
    """

    def __init__(
        self,
        weight: float = 1e-9,
        sigma_rgb: float = 15.0,
        sigma_xy: float = 100.0,
        scale_factor: float = 0.5,
        *,
        gate: bool = False,
        ignore_index: int = 255,
        normalization: Normalization = "none",
        reduction: Literal["sum", "mean"] = "sum",
        quality: Quality = "standard",
        method: Method = "lattice",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.weight = checks.number("weight", weight)
        self.sigma_rgb: Any = checks.bandwidth("sigma_rgb", sigma_rgb)
        self.sigma_xy: Any = checks.bandwidth("sigma_xy", sigma_xy)
        self.scale_factor = checks.positive_number("scale_factor", scale_factor)
        if self.scale_factor > 1:
            raise ValueError(
                f"scale_factor is {self.scale_factor:g}; it must lie in 0 < scale_factor <= 1"
            )
        checks.flag("gate", gate)
        self.gate = gate
        self.ignore_index = checks.count("ignore_index", ignore_index, -(2**63), 63)
        checks.option("normalization", normalization, NORMALIZATIONS)
        checks.option("reduction", reduction, ("sum", "mean"))
        checks.option("quality", quality, QUALITIES)
        check_engine(method, backend)
        self.normalization, self.reduction = normalization, reduction
        self.quality, self.method, self.backend = quality, method, backend

    @plain_inside
    def forward(
        self,
        probabilities: Tensor,
        image: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        probabilities : Tensor [B, L, H, W] or [B, L, D, H, W], floating point, in 0..1
            Such as ``logits.softmax(1)``. L = 1: those of the foreground.
        image : Tensor [B, C, *S], integer or floating point, on the same device
            S and C together are at most 16.
        mask : Tensor [B, *S] of bool, optional
            Pixels where the mask is False are excluded.
        labels : Tensor [B, *S], integer, optional
            Labels of the pixels, for the gate: where they are `ignore_index` it is 1.

        Returns
        -------
        Tensor []
            Differentiable with respect to the probabilities, and once with respect to the image.

        Raises
        ------
        TypeError, ValueError
            An argument has the wrong type, shape, dtype, device or range, or holds NaN or infinity.
        """
        checks.array_kind("probabilities", probabilities, batched=True)
        (s,) = in_float32(probabilities)
        checks.maps(s, image, mask, names=("probabilities", "image"))
        self._check_labels(s, labels)
        if not (transforms.active() or dispatch.is_traced() or dispatch.capturing(s)):
            found = s.detach()
            found = found if mask is None else found.where(mask[:, None], 0)
            checks.in_unit_range("probabilities", found)
        axes, channels = s.dim() - 2, image.shape[1]
        checks.bandwidths_fit("sigma_xy", self.sigma_xy, axes, f"there are {axes} spatial axes")
        several = f"the image has {channels} channel{'s' * (channels != 1)}"
        checks.bandwidths_fit("sigma_rgb", self.sigma_rgb, channels, several)
        given = self._scaled(s, image, mask, labels)
        if transforms.active():
            energy: Tensor = transforms.opaque(self._energy, *given)
            return energy
        transforms.refuse_tangents(s, image)
        return self._energy(*given)

    def _energy(
        self, s: Tensor, image: Tensor, mask: Tensor | None, unlabelled: Tensor | None
    ) -> Tensor:
        """Return the loss of checked maps that were made smaller."""
        s = torch.cat([1 - s, s], 1) if s.shape[1] == 1 else s
        s = s if mask is None else s.where(mask[:, None], 0)
        axes = s.dim() - 2
        xy = self.sigma_xy if isinstance(self.sigma_xy, tuple) else (self.sigma_xy,) * axes
        position = tuple(theta * self.scale_factor for theta in xy)
        with full_precision(s):
            pixels = Pixels.of({"image": image}, mask, "xy", (1.0,) * axes, s)
            kernel = Gaussian(Kernel(position, self.sigma_rgb), position, self.sigma_rgb)
            rows = s.flatten(2).mT
            messages = filter_rows(
                rows, kernel.features(pixels), pixels.inside, normalization=self.normalization,
                quality=self.quality, method=self.method, backend=self.backend, name="image",
                guide=pixels.given["image"].detach(),
            )  # fmt: skip
            terms = (rows * messages).sum(-1)
        if self.gate:
            gate = 1 - s.detach().amax(1)
            gate = gate if unlabelled is None else gate.where(~unlabelled, 1)
            terms = terms * gate.flatten(1)
        if self.reduction == "sum":
            return -self.weight * terms.sum() / max(len(s), 1)
        count = max(terms.numel(), 1) if mask is None else mask.sum().clamp(min=1)
        return -self.weight * terms.sum() / count

    def _scaled(
        self, s: Tensor, image: Tensor, mask: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the maps made smaller, and where they are unlabelled, [B, *S] each."""
        image = image.to(s.dtype)
        unlabelled = None if labels is None else labels == self.ignore_index
        if self.scale_factor == 1:
            return s, image, mask, unlabelled
        if min(s.shape[2:]) * self.scale_factor < 1:
            raise ValueError(
                f"scale_factor is {self.scale_factor:g}, which leaves no pixel of images of size "
                f"{' x '.join(map(str, s.shape[2:]))}; use a greater one, up to 1"
            )

        def nearest(maps: Tensor) -> Tensor:
            return interpolate(maps, scale_factor=self.scale_factor)

        def of_flags(flags: Tensor | None) -> Tensor | None:
            return None if flags is None else nearest(flags[:, None].to(s.dtype))[:, 0] > 0.5

        def linear(maps: Tensor) -> Tensor:
            mode = "bilinear" if s.dim() == 4 else "trilinear"
            return interpolate(maps, scale_factor=self.scale_factor, mode=mode, align_corners=False)

        if mask is None:
            return linear(s), nearest(image), None, of_flags(unlabelled)
        # The mean over the pixels inside: those outside may hold anything. A place counts if the
        # pixel nearest to it is inside, and one of those that its mean is taken of.
        flags = mask[:, None].to(s.dtype)
        inside = linear(flags)
        smaller = linear(s.where(mask[:, None], 0)) / inside.where(inside > 0, 1)
        kept = (nearest(flags) > 0.5) & (inside > 0)
        return smaller, nearest(image), kept[:, 0], of_flags(unlabelled)

    def _check_labels(self, s: Tensor, labels: Tensor | None) -> None:
        if labels is None:
            return
        if not self.gate:
            raise ValueError(
                "labels are given but gate is False, so they would not be used; build "
                "DenseCRFLoss(gate=True), or leave the labels out"
            )
        checks.array_kind("labels", labels, batched=True)
        if labels.shape != (s.shape[0], *s.shape[2:]):
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} but probabilities {tuple(s.shape)}; give "
                "[B, *S], without the axis of labels"
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels has dtype {labels.dtype}; it must be integer (labels.long())")

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (
            f"weight={self.weight:g}, sigma_rgb={self.sigma_rgb}, sigma_xy={self.sigma_xy}, "
            f"scale_factor={self.scale_factor:g}, gate={self.gate}, normalization="
            f"{self.normalization!r}, reduction={self.reduction!r}"
        )
