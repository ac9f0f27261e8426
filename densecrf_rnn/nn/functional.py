"""Mean-field inference of a dense CRF on tensors, differentiable; NumPy's twin of the same name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _backends, _checks, kernels
from ..params import CRFParams
from . import fused, ops, transforms
from .tensors import NO_GRID, Grid, Kernel, Lattice


def mean_field(
    logits: Tensor,
    image: Tensor,
    params: CRFParams = CRFParams(),
    *,
    kernel_weights: Tensor | None = None,
    compatibility: Tensor | None = None,
    iterations: int = 5,
    spacing: Sequence[float] | None = None,
    memory_budget: int = 2**30,
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
        ``params.theta_beta`` (0..255 by default).
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
    memory_budget : int, at least 1
        Bytes that the forward pass may keep for the gradient, all images together. Where the
        marginals of all iterations do not fit, it keeps the values at the lattices' vertices if
        they are fewer, and the backward pass takes longer. (Without a self term: always marginals.)
    backend : str
        "auto", or a name from `available_backends()`.

    Returns
    -------
    Tensor, shape and dtype of `logits` (float32 for lower precision under autocast)
        U' of the last iteration: logits again, for cross-entropy. Differentiable in `logits`,
        `kernel_weights` and `compatibility`, and once in `image`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape, dtype, device or range, or with NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here; the message says why.

    Notes
    -----
    [CRF-RNN] section 4. Lattices are built once per image and serve all iterations, all labels
    and the backward pass. The gradient for the image is that of the lattice, which is piecewise
    linear in the features, normaliser included. Threads: torch.get_num_threads().

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 4, 5, requires_grad=True)
    >>> refined = mean_field(logits, torch.zeros(1, 3, 4, 5))
    >>> refined.sum().backward()
    >>> logits.grad.shape
    torch.Size([1, 3, 4, 5])
    """
    if transforms.active():
        return transforms.opaque(
            mean_field, logits, image, params, kernel_weights=kernel_weights,
            compatibility=compatibility, iterations=iterations, spacing=spacing,
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip
    transforms.refuse_tangents(logits, image, kernel_weights, compatibility)
    logits = autocast_to_float32(logits)
    _check(logits, image, params, backend)
    iterations = _checks.count("iterations", iterations, 0)
    memory_budget = _checks.count("memory_budget", memory_budget, 1, below_power=63)
    size = logits.shape[2:]
    labels = max(2, logits.shape[1])
    with torch.autocast(logits.device.type, enabled=False):  # float32 stays float32
        coupling = _coupling(params, kernel_weights, compatibility, labels, logits)
        u = logits.flatten(2)  # [B, L, N]
        if logits.shape[1] == 1:
            u = torch.cat([torch.zeros_like(u), u], dim=1)
        spacing = _checks.spacing(spacing, len(size))
        lattices, grid = _kernels(image, params, spacing, logits.dtype, backend)
        if _is_fused(backend, logits.device.type):
            inputs = [u, coupling, *fused.flatten(lattices)]
            keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
            options = (iterations, keep, memory_budget, backend)
            refined = fused.mean_field(u, coupling, inputs[2:], *grid, *options)[0]  # [B, L, N]
        else:
            refined = fused.mean_field_unfused(u, coupling, lattices, grid, iterations, backend)
        if logits.shape[1] == 1:
            refined = refined[:, 1:] - refined[:, :1]
        return refined.reshape(logits.shape)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_fused(backend: str, device: str) -> bool:
    on_device = _backends.device_module(backend, device) is not None
    return on_device or _backends.fused_engine(backend) is not None


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
    if not torch.compiler.is_compiling():  # values are not known while a graph is traced
        native = _backends.device_module(backend, logits.device.type)
        _backends.resolve("auto" if backend == "auto" and native is not None else backend)
        _checks.image_range(image.detach(), params.theta_beta)
        if native is not None or _is_fused(backend, "cpu"):  # that finds what else is wrong
            _checks.probabilities(logits.detach(), batched=True)
        else:
            _checks.logits_values(logits.detach(), batched=True)


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


def _kernels(
    image: Tensor, params: CRFParams, spacing: Sequence[float], dtype: torch.dtype, backend: str
) -> tuple[list[Kernel], Grid]:
    """The operator N K of each kernel: those on lattices, then that on a grid."""
    size = image.shape[2:]
    guide = image.flatten(2).to(dtype)  # [B, C, N]
    positions = _positions(size, params, spacing, guide)  # [S, N]
    lattices, grid = [], NO_GRID
    for kernel in kernels.from_params(params):
        if kernel.theta_guide is None and params.spatial == "grid":
            deviation = [kernel.theta_position / s for s in spacing]
            grid = Grid(size, deviation, params.normalization, params.self_term)
            continue
        features = (positions / kernel.theta_position)[None]  # [1, S, N]
        if kernel.theta_guide is not None:
            features = features.expand(guide.shape[0], -1, -1)
            features = torch.cat([features, guide / kernel.theta_guide], dim=1)  # [B, D, N]
        try:
            name = "features" if kernel.theta_guide is None else "image"
            lattices.append(_normalized_kernel(features.mT, params, backend, name))
        except ValueError:  # no lattice can be built; an image that is to blame can be named
            _checks.image_values(image.detach(), params.theta_beta)
            raise
    return lattices, grid


def _positions(
    size: Sequence[int], params: CRFParams, spacing: Sequence[float], like: Tensor
) -> Tensor:
    """Coordinates of every pixel, [S, N]; see kernels.positions."""
    axes = [
        torch.arange(n, dtype=like.dtype, device=like.device) * s
        for n, s in zip(size, spacing, strict=True)
    ]
    found = [positions.flatten() for positions in torch.meshgrid(*axes, indexing="ij")]
    return torch.stack(found[::-1] if params.feature_order == "xy" else found)


def _normalized_kernel(
    features: Tensor, params: CRFParams, backend: str, name: str
) -> Kernel:
    """The operator N K of the lattices of features [B, N, D]; NaN is refused as that of `name`."""
    lattice = Lattice(*ops.lattice_build(features, params.quality, backend, name))
    none = features.new_empty(0)
    diagonal = none
    if not params.self_term:
        diagonal = ops.lattice_self_response(*lattice, backend)[..., None]
    raw = Kernel(lattice, none, none, diagonal)
    if params.normalization == "none":
        return raw
    mass = fused.filtered(raw, features.new_ones(*features.shape[:2], 1), backend)  # [B, N, 1]
    # An infinite mass gives 0, and a gradient of 0 where 1 / 0 would give one of NaN.
    mass = mass.where(mass > kernels.EMPTY_MASS, torch.inf)
    scale = mass.rsqrt() if params.normalization == "symmetric" else mass.reciprocal()
    before = scale if params.normalization in ("before", "symmetric") else none
    after = scale if params.normalization in ("after", "symmetric") else none
    return Kernel(lattice, before, after, diagonal)
