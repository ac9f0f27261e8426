"""Mean-field inference of a dense CRF on tensors, differentiable; NumPy's twin of the same name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _backends, _checks, kernels
from ..params import CRFParams
from . import ops


def mean_field(
    logits: Tensor,
    image: Tensor,
    params: CRFParams = CRFParams(),
    *,
    kernel_weights: Tensor | None = None,
    compatibility: Tensor | None = None,
    iterations: int = 5,
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Refined logits after some mean-field iterations of a dense CRF.

    Parameters
    ----------
    logits : Tensor [B, L, H, W] or [B, L, D, H, W], float32 or float64
        (Under autocast float16 and bfloat16 too: they are then computed with in float32.)
        Log-likelihood of each label up to a constant per pixel; higher is likelier. -inf rules a
        label out. L = 1: one logit x, treated as the labels (0, x). B may be 0.
    image : Tensor [B, C, H, W] or [B, C, D, H, W], integer or floating point, on the same device
        Guide of the appearance kernel, up to 14 channels (13 in 3-D), in the units of
        ``params.theta_beta`` (0..255 by default). A constant: no gradient flows to it.
    params : CRFParams
        Bandwidths, weights and options.
    kernel_weights : Tensor [2], [2, L] or [2, L, L], optional
        Weights of the bilateral and the spatial kernel in place of those in `params`: a number,
        one per label, or a full matrix each.
    compatibility : Tensor [L, L], optional
        Penalty of label l (row) at a pixel beside label l' (column); default Potts, 1 - I.
    iterations : int, at least 0
        Mean-field updates T; 0 returns the logits.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    backend : str
        "auto", or a name from `available_backends()`.

    Returns
    -------
    Tensor, shape and dtype of `logits` (float32 for lower precision under autocast)
        U' of the last iteration: logits again, for cross-entropy. Differentiable in `logits`,
        `kernel_weights` and `compatibility`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape, dtype, device or range, or with NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here; the message says why.

    Notes
    -----
    [CRF-RNN] section 4. Lattices are built once per image and serve all iterations, all labels
    and the backward pass. Threads: torch.get_num_threads().

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 4, 5, requires_grad=True)
    >>> refined = mean_field(logits, torch.zeros(1, 3, 4, 5))
    >>> refined.sum().backward()
    >>> logits.grad.shape
    torch.Size([1, 3, 4, 5])
    """
    logits = autocast_to_float32(logits)
    _check(logits, image, params, backend)
    iterations = _checks.count("iterations", iterations, 0)
    size = logits.shape[2:]
    labels = max(2, logits.shape[1])
    with torch.autocast(logits.device.type, enabled=False):  # float32 stays float32
        coupling = _coupling(params, kernel_weights, compatibility, labels, logits)
        u = logits.flatten(2)  # [B, L, N]
        if logits.shape[1] == 1:
            u = torch.cat([torch.zeros_like(u), u], dim=1)
        spacing = _checks.spacing(spacing, len(size))
        normalized = _kernels(image, params, spacing, logits.dtype, backend)
        iterate = _fused if _is_fused(backend) else ops.mean_field_unfused
        refined = iterate(u, coupling, normalized, iterations, backend)  # [B, L, N]
        if logits.shape[1] == 1:
            refined = refined[:, 1:] - refined[:, :1]
        return refined.reshape(logits.shape)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_fused(backend: str) -> bool:
    return _backends.fused_engine(backend) is not None


def _fused(
    u: Tensor, coupling: Tensor, normalized: Sequence[ops.Kernel], iterations: int, backend: str
) -> Tensor:
    """All iterations in one operator."""
    keep = torch.is_grad_enabled() and (u.requires_grad or coupling.requires_grad)
    return ops.mean_field(u, coupling, ops.flatten(normalized), iterations, keep, backend)[0]


def autocast_to_float32(logits: Tensor) -> Tensor:
    """What an autocast backbone gives, as float32: like torch's own losses, the CRF wants that."""
    lower = logits.dtype in (torch.float16, torch.bfloat16)
    if lower and torch.is_autocast_enabled(logits.device.type):
        return logits.float()
    return logits


def _check(logits: Tensor, image: Tensor, params: CRFParams, backend: str) -> None:
    _checks.params(params, CRFParams)
    _checks.logits(logits, batched=True)
    _checks.image(image, logits, batched=True)
    _checks.same_device(image, logits)
    if image.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "image requires grad, but no gradient flows to the image; pass image.detach()"
        )
    if logits.device.type != "cpu":
        raise _backends.BackendUnavailableError(
            f"logits is on {logits.device}, but no backend for that device exists yet; "
            "use .cpu() tensors"
        )
    if not torch.compiler.is_compiling():  # values are not known while a graph is traced
        _backends.resolve(backend)
        _checks.image_values(image, params.theta_beta)


def _coupling(
    params: CRFParams,
    kernel_weights: Tensor | None,
    compatibility: Tensor | None,
    labels: int,
    like: Tensor,
) -> Tensor:
    """mu W for each kernel: how a message about one label bears on another. [M, L, L]"""
    eye = torch.eye(labels, dtype=like.dtype, device=like.device)
    mu = 1 - eye if compatibility is None else compatibility
    if kernel_weights is None:
        kernel_weights = default_weights(params, labels).to(eye)
    given = {"compatibility": mu, "kernel_weights": kernel_weights}
    for name, tensor in given.items():
        _checks.array_kind(name, tensor, batched=True)
        if tensor.dtype != like.dtype or tensor.device != like.device:
            raise TypeError(
                f"{name} is {tensor.dtype} on {tensor.device} but logits {like.dtype} on "
                f"{like.device}; move one with .to(...) (a module: crf.to(logits))"
            )
    if not torch.compiler.is_compiling():
        _checks.compatibility(mu.detach(), labels)
        _checks.kernel_weights(kernel_weights.detach(), 2, labels)
    if kernel_weights.dim() == 3:
        coupling = torch.bmm(mu.expand(len(kernel_weights), -1, -1), kernel_weights)
    else:
        weights = kernel_weights if kernel_weights.dim() == 2 else kernel_weights[:, None]
        coupling = mu * weights[:, None, :]  # one weight per column, or one for all
    if not torch.compiler.is_compiling():
        points = like.shape[2:].numel()
        _checks.coupling(coupling.detach(), points, torch.finfo(like.dtype).max)
    return coupling


def default_weights(params: CRFParams, labels: int) -> Tensor:
    """The weights in `params`, bilateral then spatial, float64: [2], or [2, L] if one has L."""
    given = {"w_bilateral": params.w_bilateral, "w_spatial": params.w_spatial}
    for name, weight in given.items():
        _checks.weights_fit(name, weight, labels)  # type: ignore[arg-type]
    tensors = [torch.tensor(weight, dtype=torch.float64) for weight in given.values()]
    per_label = any(tensor.dim() == 1 for tensor in tensors)
    return torch.stack([t.expand(labels) if per_label else t for t in tensors])


@torch.no_grad()
def _kernels(
    image: Tensor, params: CRFParams, spacing: Sequence[float], dtype: torch.dtype, backend: str
) -> list[ops.Kernel]:
    """The operator N K of each kernel."""
    guide = image.flatten(2).mT.to(dtype)  # [B, N, C]
    positions = _positions(image.shape[2:], params, spacing, guide)[None]  # [1, N, S]
    found = []
    for kernel in kernels.from_params(params):
        features = positions / kernel.theta_position
        if kernel.theta_guide is not None:
            features = features.expand(len(guide), -1, -1)
            features = torch.cat([features, guide / kernel.theta_guide], dim=-1)
        found.append(_normalized_kernel(features, params, backend))
    return found


def _positions(
    size: Sequence[int], params: CRFParams, spacing: Sequence[float], like: Tensor
) -> Tensor:
    """Coordinates of every pixel, [N, S]; see kernels.positions."""
    axes = [
        torch.arange(n, dtype=like.dtype, device=like.device) * s
        for n, s in zip(size, spacing, strict=True)
    ]
    grids = [grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")]
    return torch.stack(grids[::-1] if params.feature_order == "xy" else grids, dim=-1)


def _normalized_kernel(features: Tensor, params: CRFParams, backend: str) -> ops.Kernel:
    lattice = ops.Lattice(*ops.lattice_build(features, backend))
    none = features.new_empty(0)
    diagonal = none
    if not params.self_term:
        diagonal = ops.lattice_self_response(*lattice, backend)[..., None]
    raw = ops.Kernel(lattice, none, none, diagonal)
    if params.normalization == "none":
        return raw
    mass = ops.filtered(raw, features.new_ones(*features.shape[:2], 1), backend)  # [B, N, 1]
    scale = torch.where(mass > kernels.EMPTY_MASS, 1 / mass, 0.0)
    if params.normalization == "symmetric":
        scale = scale.sqrt()
    before = scale if params.normalization in ("before", "symmetric") else none
    after = scale if params.normalization in ("after", "symmetric") else none
    return ops.Kernel(lattice, before, after, diagonal)
