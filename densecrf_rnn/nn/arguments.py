"""Check and convert the arguments of `mean_field` and `free_energy`, once per call."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .. import checks, engines
from ..kernels import Kernel, from_params, weights as weights_of
from ..params import CRFParams
from .build import Gaussian, Pixels
from .ops import dispatch
from .ops.check_values import check_values

Method = Literal["lattice", "exact"]
Storage = Literal["full", "float16", "bfloat16"]
STORAGES: tuple[Storage, ...] = get_args(Storage)

_NOTHING = nullcontext()


def check_method(method: Method, backend: str) -> None:
    """Check the filtering method; "exact" runs in torch only, so it needs backend "auto"."""
    checks.option("method", method, get_args(Method))
    if method == "exact" and backend != "auto":
        raise ValueError(
            f"backend is {backend!r} but method is 'exact', which runs in torch only; leave "
            "backend at 'auto', or use method='lattice'"
        )


def autocast_to_float32(logits: Tensor) -> Tensor:
    """Convert float16 and bfloat16 logits to float32 under autocast, as torch's own losses do."""
    lower = logits.dtype in (torch.float16, torch.bfloat16)
    if lower and torch.is_autocast_enabled(logits.device.type):
        return logits.float()
    return logits


def full_precision(logits: Tensor) -> AbstractContextManager[Any]:
    """Return a context that turns autocast off; if it is off already, a cheap null context."""
    device = logits.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else _NOTHING


@dataclass(frozen=True)
class Arguments:
    """The checked arguments of a mean field."""

    logits: Tensor  # [B, L, *S]
    u: Tensor  # the logits as [B, L, N] with at least two labels; 0 outside the mask
    mask: Tensor | None  # [B, *S] of bool
    couplings: list[Tensor]  # mu W [M, L, L] of each iteration; at least one
    gaussians: list[Gaussian]
    pixels: Pixels
    params: CRFParams
    method: Method
    backend: str
    fused: bool  # whether an engine runs the mean field as one operator


def check(
    logits: Tensor,
    image: Tensor,
    params: CRFParams,
    kernel_weights: Tensor | None,
    compatibility: Tensor | None,
    kernels: Sequence[Kernel] | None,
    bandwidths: Tensor | None,
    guides: Mapping[str, Tensor] | None,
    mask: Tensor | None,
    spacing: Sequence[float] | None,
    iterations: int,
    tied: bool,
    method: Method,
    backend: str,
) -> Arguments:
    """Check the arguments that `mean_field` and `free_energy` share; see `mean_field`.

    Values are unknown while a graph is traced, so they are checked in eager calls only. For the
    exact method an operator checks them, which works in compiled graphs too.
    """
    checks.params(params, CRFParams)
    check_method(method, backend)
    checks.logits(logits, batched=True)
    kernels = from_params(params) if kernels is None else tuple(kernels)
    every_guide = {"image": image, **(guides or {})}
    checks.kernels(kernels, Kernel, every_guide)
    for name, guide in every_guide.items():
        checks.image(guide, logits, batched=True, name=name)
        checks.same_device(guide, logits, name)
    inside = logits
    if mask is not None:
        checks.mask(mask, (logits.shape[0], *logits.shape[2:]), batched=True)
        checks.same_device(mask, logits, "mask")
        inside = logits.where(mask[:, None], 0.0)
    spacing = checks.spacing(spacing, logits.dim() - 2)
    fused = method == "lattice" and _has_fused(backend, logits.device.type)
    if method == "lattice" and not torch.compiler.is_compiling():
        _check_values(inside, image if mask is None else None, params, fused)
    couplings = _couplings(
        params, kernels, kernel_weights, compatibility, iterations, tied, logits
    )
    gaussians = _gaussians(kernels, bandwidths, logits)
    used = {k.guide for k in kernels if k.theta_guide is not None} | {"image"}
    used_guides = {name: guide for name, guide in every_guide.items() if name in used}
    pixels = Pixels.of(used_guides, mask, params.feature_order, spacing, logits.dtype)
    if method == "exact":
        seen = used_guides if mask is None else pixels.guides
        inside = check_values(inside, list(seen.values()), "\n".join(seen), params.theta_beta)
    return Arguments(
        logits, label_rows(inside), mask, couplings, gaussians, pixels, params, method, backend,
        fused,
    )  # fmt: skip


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_fused(backend: str, device: str) -> bool:
    """Tell whether an engine for tensors on `device` runs whole mean fields; raise if none can."""
    if dispatch.native_module(backend, device) is not None:
        return True
    return engines.fused(dispatch.engine(backend)) is not None


def _check_values(logits: Tensor, image: Tensor | None, params: CRFParams, fused: bool) -> None:
    """Check values and warn of likely mistakes; a fused engine rejects bad logits itself."""
    if image is not None:
        checks.image_range(_for_checks(image), params.theta_beta)
    checks.probabilities(_for_checks(logits), batched=True)
    if not fused:
        checks.logits_values(_for_checks(logits), batched=True)


def _for_checks(tensor: Tensor) -> Any:
    """View a CPU tensor as a NumPy array if possible: NumPy is faster for a few numbers."""
    tensor = tensor.detach()
    arrays = tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16
    return tensor.numpy() if arrays else tensor


def check_refined(refined: Tensor, like: Arguments) -> Tensor:
    """Check a result of `mean_field`; return it as [B, L, N] with at least two labels."""
    checks.refined(refined, like.logits, batched=True)
    checks.same_device(refined, like.logits, "refined")
    if like.mask is not None:
        refined = refined.where(like.mask[:, None], 0.0)
    if not torch.compiler.is_compiling():
        checks.logits_values(refined.detach(), batched=True, name="refined")
    return label_rows(refined)


def check_storage(storage: Storage, given: Arguments, plain: bool) -> None:
    """Check that `storage` is "full", or that the call supports 16-bit storage.

    `plain` says whether the call has the default options that 16-bit storage needs.
    """
    checks.option("storage", storage, STORAGES)
    if storage == "full":
        return
    if given.logits.dtype != torch.float32:
        raise TypeError(
            f"storage is {storage!r} but logits {given.logits.dtype}, which is kept in full; give "
            "float32"
        )
    if dispatch.native_module(given.backend, given.logits.device.type) is None:
        raise ValueError(
            f"storage is {storage!r}, which the CUDA engine alone has, but logits are on "
            f"{given.logits.device}; leave storage at 'full', or move them to a GPU"
        )
    if not plain:
        raise ValueError(
            f"storage is {storage!r} but method, update, tied or return_all is not the default, "
            "and 16-bit storage supports the defaults only; leave storage at 'full'"
        )


def label_rows(logits: Tensor) -> Tensor:
    """Return logits [B, L, *S] as [B, L, N]; a single logit x becomes the two logits (0, x)."""
    u = logits.flatten(2)
    return torch.cat([torch.zeros_like(u), u], dim=1) if u.shape[1] == 1 else u


def _gaussians(
    kernels: Sequence[Kernel], bandwidths: Tensor | None, like: Tensor
) -> list[Gaussian]:
    """Return each kernel with its own bandwidths or, if `bandwidths` is given, with these."""
    if bandwidths is None:
        return [Gaussian(k, k.theta_position, k.theta_guide) for k in kernels]
    _check_parameter("bandwidths", bandwidths, like)
    if not torch.compiler.is_compiling():
        checks.bandwidths(bandwidths.detach(), len(kernels))
    return [
        Gaussian(
            k,
            None if k.theta_position is None else theta[0],
            None if k.theta_guide is None else theta[1],
        )
        for k, theta in zip(kernels, bandwidths, strict=True)
    ]


def _check_parameter(name: str, tensor: Tensor, like: Tensor) -> None:
    """Check that a parameter is a tensor of the logits' dtype and device."""
    checks.array_kind(name, tensor, batched=True)
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise TypeError(
            f"{name} is {tensor.dtype} on {tensor.device} but logits {like.dtype} on "
            f"{like.device}; move one with .to(...) (a module: crf.to(logits))"
        )


def _couplings(
    params: CRFParams,
    kernels: Sequence[Kernel],
    kernel_weights: Tensor | None,
    compatibility: Tensor | None,
    iterations: int,
    tied: bool,
    like: Tensor,
) -> list[Tensor]:
    """Return the couplings mu W [M, L, L] of each iteration, at least one; see `_coupling`."""
    labels = max(2, like.shape[1])
    weights = kernel_weights
    if weights is None:
        weights = default_weights(params, labels, kernels).to(like)
    mu = compatibility
    if mu is None:
        mu = 1 - torch.eye(labels, dtype=like.dtype, device=like.device)
    for name, tensor in (("compatibility", mu), ("kernel_weights", weights)):
        _check_parameter(name, tensor, like)
    if tied:
        return [_coupling(mu, weights, len(kernels), like)] * max(iterations, 1)
    checks.untied("kernel_weights", weights, iterations)
    if compatibility is not None:
        checks.untied("compatibility", mu, iterations)
    mus = [mu] * iterations if compatibility is None else list(mu)
    return [_coupling(m, w, len(kernels), like) for m, w in zip(mus, weights, strict=True)]


def _coupling(mu: Tensor, weights: Tensor, kernels: int, like: Tensor) -> Tensor:
    """Return the coupling mu W of each kernel: the penalty of a label per unit of message.

    [M, L, L], from a compatibility [L, L] and weights [M], [M, L] or [M, L, L].
    """
    eager, labels = not torch.compiler.is_compiling(), max(2, like.shape[1])
    if eager:
        checks.compatibility(mu, labels, values=False)
        checks.kernel_weights(weights, kernels, labels, values=False)
    if weights.dim() == 3:
        coupling = torch.bmm(mu.expand(kernels, -1, -1), weights)
    else:  # one weight per column of mu, or one for all
        coupling = mu * (weights if weights.dim() == 2 else weights.unsqueeze(1)).unsqueeze(1)
    if eager:
        try:
            checks.coupling(coupling.detach(), like.shape[2:].numel(), torch.finfo(like.dtype).max)
        except ValueError:  # if mu or the weights are not finite, name the cause
            checks.compatibility(mu.detach(), labels)
            checks.kernel_weights(weights.detach(), kernels, labels)
            raise
    return coupling


def default_weights(params: CRFParams, labels: int, kernels: Sequence[Kernel]) -> Tensor:
    """Return each kernel's weight in `params`, float64: [M], or [M, L] if one is per label."""
    given = weights_of(params)
    for name, weight in given.items():
        checks.weights_fit(name, weight, labels)
    chosen = list(given.values())
    if tuple(kernels) != from_params(params):  # whether a kernel uses a guide selects its weight
        chosen = [given["w_spatial" if k.theta_guide is None else "w_bilateral"] for k in kernels]
    tensors = [torch.tensor(weight, dtype=torch.float64) for weight in chosen]
    per_label = any(tensor.dim() == 1 for tensor in tensors)
    return torch.stack([t.expand(labels) if per_label else t for t in tensors])
