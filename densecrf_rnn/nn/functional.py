"""Mean-field inference of a dense CRF on tensors, differentiable; NumPy's twin of the same name."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import engines, checks
from ..kernels import Kernel, from_params
from ..params import CRFParams
from . import exact, fused, operators, transforms

Method = Literal["lattice", "exact"]
Update = Literal["softmax", "relu"]
Storage = Literal["full", "float16", "bfloat16"]

_NOTHING = nullcontext()


def mean_field(
    logits: Tensor,
    image: Tensor,
    params: CRFParams = CRFParams(),
    *,
    kernel_weights: Tensor | None = None,
    compatibility: Tensor | None = None,
    iterations: int = 5,
    kernels: Sequence[Kernel] | None = None,
    bandwidths: Tensor | None = None,
    guides: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    update: Update = "softmax",
    tied: bool = True,
    return_all: bool = False,
    memory_budget: int = 2**30,
    method: Method = "lattice",
    storage: Storage = "full",
    backend: str = "auto",
) -> Any:
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
    kernel_weights : Tensor [M], [M, L] or [M, L, L], optional
        Weights of the M kernels (bilateral, spatial) in place of those in `params`: a number, one
        per label, or a full matrix each. If not `tied`: [T, ...].
    compatibility : Tensor [L, L], optional
        Penalty of label l (row) at a pixel beside label l' (column); default Potts, 1 - I. If not
        `tied`: [T, L, L].
    iterations : int, at least 0
        Mean-field updates T; 0 returns the logits.
    kernels : sequence of M `kernels.Kernel`, optional
        In place of the two with the bandwidths of `params`. Default weights are ``w_bilateral`` for
        those that look at a guide and ``w_spatial`` for the others.
    bandwidths : Tensor [M, 2], optional
        Deviations (position, guide) of each kernel in place of its own, differentiable; what a
        kernel does not have is not looked at. Kernels of position alone are then filtered by
        lattices, for a grid has no such gradient.
    guides : mapping of names to tensors [B, C, *S], optional
        What `kernels` look at beside the image: depth, near infrared, an embedding.
    mask : Tensor [B, *S] of bool, optional
        Pixels that are False neither send nor receive messages, and come back unchanged; what
        logits and guides hold there is not looked at.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    update : {"softmax", "relu"}
        How marginals are made of logits; "relu" divides what is above 0 by its sum (all labels
        alike where nothing is).
    tied : bool
        Whether all iterations share weights and compatibility.
    return_all : bool
        Whether to return a list of the logits after each of the T iterations.
    memory_budget : int, at least 1
        Bytes that the forward pass may keep for the gradient, all images together. Where the
        marginals of all iterations do not fit, it keeps the values at the lattices' vertices if
        they are fewer, and the backward pass takes longer. (Without a self term: always marginals.)
        The exact method and the options below keep all marginals and messages whatever the budget.
    method : {"lattice", "exact"}
        How kernels are filtered: approximately in O(N), as `params.spatial` and `params.quality`
        say; or exactly in O(N^2), all kernels, whatever those say. N pixels.
    storage : {"full", "float16", "bfloat16"}
        What the CUDA engine keeps values at lattice vertices and grid cells in, in the forward
        pass: the dtype of `logits`; or of float32 logits 16 bits, for half the memory traffic, with
        all arithmetic in float32. The backward pass takes the rounding's derivative for 1.
    backend : str
        "auto", or a name from `available_backends()`. For the exact method "auto": it needs none.

    Returns
    -------
    Tensor, shape and dtype of `logits` (float32 for lower precision under autocast)
        U' of the last iteration: logits again, for cross-entropy. Differentiable in `logits`,
        `kernel_weights`, `compatibility` and `bandwidths`, and once in `image` and `guides`. With
        `return_all` a list of such tensors.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape, dtype, device or range, or with NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here; the message says why.

    Notes
    -----
    [CRF-RNN] section 4; "relu" section 6, untied iterations section 7.1. Lattices are built once
    per image and serve all iterations, all labels and the backward pass. The gradient for the image
    is that of the lattice, which is piecewise linear in the features, normaliser included. Threads:
    torch.get_num_threads().

    The options `update`, `tied` and `return_all` run filter by filter, in two to seven times the
    time, the most where a lattice has few vertices. The exact method runs on torch alone, on
    any device, and works each kernel out anew for every message and its gradient; it is what the
    lattice approximates. Memory is O(N).

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 4, 5, requires_grad=True)
    >>> refined = mean_field(logits, torch.zeros(1, 3, 4, 5))
    >>> refined.sum().backward()
    >>> logits.grad.shape
    torch.Size([1, 3, 4, 5])
    """
    if transforms.active():
        checks.alone("return_all", return_all, "torch.func")
        return transforms.opaque(
            mean_field, logits, image, params, kernel_weights=kernel_weights,
            compatibility=compatibility, iterations=iterations, kernels=kernels,
            bandwidths=bandwidths, guides=guides, mask=mask, spacing=spacing, update=update,
            tied=tied, memory_budget=memory_budget, method=method, storage=storage,
            backend=backend,
        )  # fmt: skip
    transforms.refuse_tangents(
        logits, image, kernel_weights, compatibility, bandwidths, *(guides or {}).values()
    )
    iterations = checks.count("iterations", iterations, 0)
    memory_budget = checks.count("memory_budget", memory_budget, 1, below_power=63)
    checks.option("update", update, ("softmax", "relu"))
    p = _problem(
        logits, image, params, kernel_weights, compatibility, kernels, bandwidths, guides, mask,
        spacing, iterations, tied, method, backend,
    )  # fmt: skip
    plain = method == "lattice" and update == "softmax" and tied and not return_all
    _check_storage(storage, p.given, plain, backend)
    with _no_autocast(p.given.device.type):
        if plain and _is_fused(backend, p.given.device.type):
            made = operators.on_lattices(p.gaussians, p.pixels, params, backend)
            inputs = made.inputs
            coupling = p.couplings[0][made.order] if len(made.order) > 1 else p.couplings[0]
            differentiable = [p.u, coupling, *inputs]
            keep = torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)
            options = (iterations, keep, memory_budget, storage, backend)
            steps = [fused.mean_field(p.u, coupling, inputs, *made.grid, *options)[0]]
        else:
            messages = _messages(p, params, method, backend)
            steps = fused.mean_field_unfused(p.u, p.couplings[:iterations], messages, update)
        found = [_as_logits(step, p.given, mask) for step in steps]
        return found if return_all else found[-1] if found else p.given.clone()


def free_energy(
    refined: Tensor | Sequence[Tensor],
    logits: Tensor,
    image: Tensor,
    params: CRFParams = CRFParams(),
    *,
    kernel_weights: Tensor | None = None,
    compatibility: Tensor | None = None,
    kernels: Sequence[Kernel] | None = None,
    bandwidths: Tensor | None = None,
    guides: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    update: Update = "softmax",
    method: Method = "lattice",
    backend: str = "auto",
) -> Tensor:
    """The mean-field free energy F(Q) of each image: the smaller, the nearer Q is to the CRF.

    F(Q) = sum_i Q_i . (ln Q_i - U_i) + 1/2 sum_i Q_i . mu sum_m W_m (N_m K_m Q)_i, and
    KL(Q || P) = F(Q) + ln Z where the CRF has no self term.

    Parameters
    ----------
    refined : Tensor, shape and dtype of `logits`, or a sequence of T of them
        What `mean_field` returns, with `return_all` too; `update` makes the marginals Q of it.
    logits, image, params, kernel_weights, compatibility, kernels, bandwidths, guides, mask,
    spacing, update, method, backend
        As in `mean_field`, all iterations tied. Pixels outside the mask do not count.

    Returns
    -------
    Tensor [B], or for a sequence [T, B], dtype of `logits`
        In nats, summed over the pixels. Infinite where Q gives weight to a label that `logits`
        rules out. Differentiable in all that `mean_field` is, and in `refined`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, shape, dtype, device or range, or with NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here; the message says why.

    Notes
    -----
    [KK11] section 2, and docs/math.md, which says what an asymmetric operator and the self term
    make of it. Kernels are built once for all of a sequence.

    Examples
    --------
    >>> logits, image = torch.randn(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    >>> steps = mean_field(logits, image, return_all=True)
    >>> free_energy(steps, logits, image).shape
    torch.Size([5, 1])
    """
    if transforms.active():
        return transforms.opaque(
            free_energy, refined, logits, image, params, kernel_weights=kernel_weights,
            compatibility=compatibility, kernels=kernels, bandwidths=bandwidths, guides=guides,
            mask=mask, spacing=spacing, update=update, method=method, backend=backend,
        )  # fmt: skip
    steps = [refined] if isinstance(refined, Tensor) else list(refined)
    transforms.refuse_tangents(
        *steps, logits, image, kernel_weights, compatibility, bandwidths, *(guides or {}).values()
    )
    checks.option("update", update, ("softmax", "relu"))
    p = _problem(
        logits, image, params, kernel_weights, compatibility, kernels, bandwidths, guides, mask,
        spacing, 1, True, method, backend,
    )  # fmt: skip
    steps = [autocast_to_float32(step) for step in steps]
    found = []
    with _no_autocast(p.given.device.type):
        messages = _messages(p, params, method, backend)
        for step in steps:
            checks.refined(step, p.given, batched=True)
            checks.same_device(step, p.given, "refined")
            if mask is not None:
                step = step.where(mask[:, None], 0.0)
            if not torch.compiler.is_compiling():
                checks.logits_values(step.detach(), batched=True, name="refined")
            rows = _label_rows(step)
            of_pixel = fused.free_energy_unfused(rows, p.u, p.couplings[0], messages, update)
            if p.pixels.seen is not None:
                of_pixel = of_pixel * p.pixels.seen[..., 0]
            found.append(of_pixel.sum(1))
    if isinstance(refined, Tensor):
        return found[0]
    return torch.stack(found) if found else p.given.new_empty(0, len(p.given))


class _Problem(NamedTuple):
    """The arguments of a mean field, once they have been looked at."""

    given: Tensor  # the logits in the dtype of the arithmetic, [B, L, *S]
    u: Tensor  # the same, 0 outside the mask, two labels at least; [B, L, N]
    couplings: list[Tensor]  # [M, L, L] for each iteration
    gaussians: list[operators.Gaussian]
    pixels: operators.Pixels


def _problem(
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
) -> _Problem:
    given = autocast_to_float32(logits)
    kernels = from_params(params) if kernels is None else tuple(kernels)
    every_guide = {"image": image, **(guides or {})}
    if mask is not None:
        checks.logits(given, batched=True)
        checks.mask(mask, (given.shape[0], *given.shape[2:]), batched=True)
        logits = given.where(mask[:, None], 0.0)
    else:
        logits = given
    _check(logits, every_guide, mask, kernels, params, method, backend)
    size = logits.shape[2:]
    labels = max(2, logits.shape[1])
    with _no_autocast(logits.device.type):
        couplings = _couplings(
            params, kernels, kernel_weights, compatibility, labels, iterations, tied, logits
        )
        gaussians = _gaussians(kernels, bandwidths, logits)
        used = {k.guide for k in kernels if k.theta_guide is not None} | {"image"}
        looked_at = {name: every_guide[name] for name in used}
        spacing = checks.spacing(spacing, len(size))
        pixels = operators.pixels(looked_at, mask, params, spacing, logits.dtype)
        if method == "exact":
            seen = looked_at if mask is None else pixels.guides
            logits = exact.checked(logits, list(seen.values()), "\n".join(seen), params.theta_beta)
        return _Problem(given, _label_rows(logits), couplings, gaussians, pixels)


def _messages(
    p: _Problem, params: CRFParams, method: Method, backend: str
) -> list[fused.Message]:
    """The operator N K of each kernel, for filtering one by one."""
    if method == "exact":
        return operators.exact_messages(p.gaussians, p.pixels, params)
    made = operators.on_lattices(p.gaussians, p.pixels, params, backend)
    found = fused.messages_of(made.inputs, made.grid, backend)
    return [found[made.order.index(kernel)] for kernel in range(len(found))]


def _no_autocast(device: str) -> AbstractContextManager[None]:
    """Where float32 stays float32; nothing where it does anyway, for even that takes its time."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING


def _as_logits(rows: Tensor, given: Tensor, mask: Tensor | None) -> Tensor:
    """Refined [B, L, N] in the shape of what was given, and that where the mask is False."""
    if given.shape[1] == 1:
        rows = rows[:, 1:] - rows[:, :1]
    refined = rows.reshape(given.shape)
    return refined if mask is None else refined.where(mask[:, None], given)


def _label_rows(logits: Tensor) -> Tensor:
    """Logits [B, L, *S] as [B, L, N], one logit x as those of the labels (0, x)."""
    u = logits.flatten(2)
    return torch.cat([torch.zeros_like(u), u], dim=1) if u.shape[1] == 1 else u


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_fused(backend: str, device: str) -> bool:
    on_device = engines.device_module(backend, device) is not None
    return on_device or engines.fused_engine(backend) is not None


def autocast_to_float32(logits: Tensor) -> Tensor:
    """What an autocast backbone gives, as float32: like torch's own losses, the CRF wants that."""
    lower = logits.dtype in (torch.float16, torch.bfloat16)
    if lower and torch.is_autocast_enabled(logits.device.type):
        return logits.float()
    return logits


def _check(
    logits: Tensor,
    guides: Mapping[str, Tensor],
    mask: Tensor | None,
    kernels: Sequence[Kernel],
    params: CRFParams,
    method: Method,
    backend: str,
) -> None:
    checks.method(method, backend)
    checks.params(params, CRFParams)
    checks.logits(logits, batched=True)
    checks.kernels(kernels, Kernel, guides)
    for name, guide in guides.items():
        checks.image(guide, logits, batched=True, name=name)
        checks.same_device(guide, logits, name)
    if mask is not None:
        checks.same_device(mask, logits, "mask")
    # Values are not known while a graph is traced. Those for the exact method an operator checks.
    if method == "lattice" and not torch.compiler.is_compiling():
        native = engines.device_module(backend, logits.device.type)
        engines.resolve("auto" if backend == "auto" and native is not None else backend)
        if mask is None:
            checks.image_range(guides["image"].detach(), params.theta_beta)
        if native is not None or _is_fused(backend, "cpu"):  # that finds what else is wrong
            checks.probabilities(logits.detach(), batched=True)
        else:
            checks.logits_values(logits.detach(), batched=True)


def _check_storage(storage: Storage, logits: Tensor, plain: bool, backend: str) -> None:
    checks.option("storage", storage, ("full", "float16", "bfloat16"))
    if storage == "full":
        return
    if logits.dtype != torch.float32:
        raise TypeError(
            f"storage is {storage!r} but logits {logits.dtype}, which is kept in full; give float32"
        )
    if engines.device_module(backend, logits.device.type) is None:
        raise ValueError(
            f"storage is {storage!r}, which the CUDA engine alone has, but logits are on "
            f"{logits.device}; leave storage at 'full', or move them to a GPU"
        )
    if not plain:
        raise ValueError(
            f"storage is {storage!r} but method, update, tied or return_all is not the default, "
            "and those keep float32; leave storage at 'full'"
        )


def _gaussians(
    kernels: Sequence[Kernel], bandwidths: Tensor | None, like: Tensor
) -> list[operators.Gaussian]:
    """Each kernel with its deviations: its own, or those given."""
    if bandwidths is None:
        return [operators.Gaussian(k, k.theta_position, k.theta_guide) for k in kernels]
    checks.array_kind("bandwidths", bandwidths, batched=True)
    _same_kind("bandwidths", bandwidths, like)
    if not torch.compiler.is_compiling():
        checks.bandwidths(bandwidths.detach(), len(kernels))
    return [
        operators.Gaussian(
            k,
            None if k.theta_position is None else theta[0],
            None if k.theta_guide is None else theta[1],
        )
        for k, theta in zip(kernels, bandwidths, strict=True)
    ]


def _same_kind(name: str, tensor: Tensor, like: Tensor) -> None:
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
    labels: int,
    iterations: int,
    tied: bool,
    like: Tensor,
) -> list[Tensor]:
    """The coupling of each iteration; at least one."""
    eye = torch.eye(labels, dtype=like.dtype, device=like.device)
    mu = 1 - eye if compatibility is None else compatibility
    if kernel_weights is None:
        kernel_weights = default_weights(params, labels, kernels).to(eye)
    for name, tensor in (("compatibility", mu), ("kernel_weights", kernel_weights)):
        checks.array_kind(name, tensor, batched=True)
        _same_kind(name, tensor, like)
        if not tied and (name == "kernel_weights" or compatibility is not None):
            checks.untied(name, tensor, iterations)
    if tied:
        return [_coupling(mu, kernel_weights, len(kernels), like)] * max(iterations, 1)
    mus = [mu] * iterations if compatibility is None else list(mu)
    return [
        _coupling(m, w, len(kernels), like) for m, w in zip(mus, kernel_weights, strict=True)
    ]


def _coupling(mu: Tensor, kernel_weights: Tensor, kernels: int, like: Tensor) -> Tensor:
    """mu W for each kernel: how a message about one label bears on another. [M, L, L]"""
    if not torch.compiler.is_compiling():
        checks.compatibility(mu.detach(), max(2, like.shape[1]))
        checks.kernel_weights(kernel_weights.detach(), kernels, max(2, like.shape[1]))
    if kernel_weights.dim() == 3:
        coupling = torch.bmm(mu.expand(len(kernel_weights), -1, -1), kernel_weights)
    else:
        weights = kernel_weights if kernel_weights.dim() == 2 else kernel_weights[:, None]
        coupling = mu * weights[:, None, :]  # one weight per column, or one for all
    if not torch.compiler.is_compiling():
        points = like.shape[2:].numel()
        checks.coupling(coupling.detach(), points, torch.finfo(like.dtype).max)
    return coupling


def default_weights(
    params: CRFParams, labels: int, kernels: Sequence[Kernel] | None = None
) -> Tensor:
    """The weights in `params` of each kernel, float64: [M], or [M, L] if one has L."""
    if kernels is None:
        kernels = from_params(params)
    given = {"w_bilateral": params.w_bilateral, "w_spatial": params.w_spatial}
    for name, weight in given.items():
        checks.weights_fit(name, weight, labels)  # type: ignore[arg-type]
    names = ["w_spatial" if k.theta_guide is None else "w_bilateral" for k in kernels]
    tensors = [torch.tensor(given[name], dtype=torch.float64) for name in names]
    per_label = any(tensor.dim() == 1 for tensor in tensors)
    return torch.stack([t.expand(labels) if per_label else t for t in tensors])
