"""Check and convert the arguments of `mean_field` and `free_energy`, once per call."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .. import checks, engines
from ..kernels import (
    Kernel, check_bandwidths, from_params, is_on_grid, weights as weights_of, with_leading,
)  # fmt: skip
from ..params import CRFParams
from . import points, self_test
from .advice import advise, for_checks
from .build import Gaussian, Pixels
from .ops import device_build, dispatch
from .ops.answers import Answers
from .ops.check_values import (
    check_bandwidths as checked_bandwidths, check_coupling, check_values, refuse_coupling,
)  # fmt: skip

Method = Literal["lattice", "exact"]
Storage = Literal["full", "float16", "bfloat16"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
HALVES = (torch.float16, torch.bfloat16)

_NOTHING = nullcontext()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def refuse_onnx() -> None:
    """Raise if ``torch.onnx.export`` is running: ONNX has no operation for a lattice.

    torch.compile calls this while it traces; traced, `is_in_onnx_export` would be False.
    """
    exporting = torch.compiler.is_exporting() or torch._C._get_tracing_state()
    if exporting and torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            "torch.onnx.export cannot export a CRF, because ONNX has no operation for lattices; "
            "use densecrf_rnn.nn.export_onnx(model, args, file), which makes each CRFRNN one node"
        )


def check_method(method: Method, backend: str) -> None:
    """Check the filtering method; "exact" runs in torch only, so it needs backend "auto"."""
    checks.option("method", method, get_args(Method))
    if method == "exact" and backend != "auto":
        raise ValueError(
            f"backend is {backend!r} but method is 'exact', which runs in torch only; leave "
            "backend at 'auto', or use method='lattice'"
        )


def check_engine(method: Method, backend: str) -> None:
    """Check method and backend when a module is built, which says at once what cannot run here."""
    check_method(method, backend)
    if method == "lattice" and backend != "auto":  # the exact method needs no engine
        engines.resolve(backend)


def in_float32(logits: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Convert logits of float16 or bfloat16, and then others of these dtypes, to float32."""
    if logits.dtype not in HALVES:
        return logits, *others
    return logits.float(), *(
        one.float() if isinstance(one, Tensor) and one.dtype in HALVES else one for one in others
    )


def result_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype of the logits; under autocast float32 for 16 bits, as torch's own losses."""
    lower = logits.dtype in HALVES and torch.is_autocast_enabled(logits.device.type)
    return torch.float32 if lower else logits.dtype


def full_precision(logits: Tensor) -> AbstractContextManager[Any]:
    """Return a context that turns autocast off; if it is off already, a cheap null context."""
    device = logits.device.type
    on = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else _NOTHING


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(device: str) -> bool:
    """Tell whether there is autocast for a type of device; torch 2.11 cannot trace its answer."""
    return torch.amp.is_autocast_available(device)


@dataclass(frozen=True)
class Arguments:
    """The checked arguments of a mean field."""

    logits: Tensor  # [B, L, *S]; of points [B, L, 1, N]
    shape: torch.Size  # of the logits as they were given
    # the logits as [B, K, N]; 0 outside the mask. K = max(L, 2), or 2 L labels if multilabel
    u: Tensor
    mask: Tensor | None  # [B, *S] of bool
    # mu W [M, K, K] of each iteration, at least one; if multilabel a block [M, 2, 2] for each map
    couplings: list[Tensor]
    gaussians: list[Gaussian]
    pixels: Pixels
    params: CRFParams
    method: Method
    backend: str
    # whether an engine runs the mean field as one operator, which checks the logits' values itself
    fused: bool
    multilabel: bool
    answers: Answers | None  # on a device: checks of values whose answers are still to be read


def check(
    logits: Tensor,
    image: Tensor | None,
    features: Tensor | None,
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
    multilabel: bool,
    warn: bool = False,
    plain: bool = False,
) -> Arguments:
    """Check the arguments that `mean_field` and `free_energy` share; see `mean_field`.

    With `warn`, values of CPU tensors that suggest a mistake cause warnings. `plain` says whether a
    fused engine, if there is one, will run the call. It checks the logits; otherwise the operator
    `check_values` does. Operators are part of compiled graphs, while no values are known here when
    a graph is traced. Guides are checked where they are used: by the operator that builds
    lattices, or for the exact method by `check_values`.
    """
    refuse_onnx()
    checks.params(params, CRFParams)
    check_method(method, backend)
    checks.flag("multilabel", multilabel)
    checks.exchanged(logits, image, batched=True)
    shape = logits.shape
    if features is not None:
        logits, kernels, guides, mask = points.as_image(
            logits, image, features, kernels, guides, mask, spacing
        )
    checks.logits(logits, batched=True)
    kernels = from_params(params, image is not None) if kernels is None else tuple(kernels)
    if image is not None and guides and "image" in guides:
        raise ValueError(
            "guides has an entry 'image', the name of the argument image in kernels; give the "
            "guide another name, or leave the image out"
        )
    every_guide = dict(guides or {}) if image is None else {"image": image, **(guides or {})}
    checks.kernels(kernels, Kernel, every_guide)
    if method == "lattice" and not dispatch.is_traced():
        if not all(is_on_grid(kernel, params.spatial) for kernel in kernels):
            device_build.refuse_capture(logits)  # before any value is read
    for name, given in every_guide.items():
        if features is None or name != points.GUIDE:
            checks.image(given, logits, batched=True, name=name)
        checks.same_device(given, logits, name)
    inside = logits
    if mask is not None:
        checks.mask(mask, (logits.shape[0], *logits.shape[2:]), batched=True)
        checks.same_device(mask, logits, "mask")
        inside = logits.where(mask[:, None], 0.0)
    spacing = checks.spacing(spacing, logits.dim() - 2)
    channels = {name: guide.shape[1] for name, guide in every_guide.items()}
    check_bandwidths(kernels, params, logits.shape[2:], channels)
    for kernel in kernels:
        if method == "lattice" and not is_on_grid(kernel, params.spatial):
            axes = 0 if kernel.theta_position is None else logits.dim() - 2
            more = 0 if kernel.theta_guide is None else channels[kernel.guide]
            checks.pixels(math.prod(logits.shape[2:]), axes + more)
    fused = False
    if method == "lattice":
        backend, fused = engine_of(backend, logits.device)
        # A graph holds the operations of engine "torch" one by one, and the checks next to them.
        fused = fused and plain and not (backend == "torch" and dispatch.is_compiled())
    if warn and logits.device.type == "cpu" and not dispatch.is_traced():
        advise(logits, image, kernels, mask, multilabel=multilabel)
    guide = image if mask is None and not dispatch.is_traced() else None
    if guide is not None and logits.shape == guide.shape:
        checks.exchanged_values(for_checks(logits), for_checks(guide))  # elsewhere shapes tell
    eager = not (dispatch.is_traced() or dispatch.capturing(logits))
    answers = Answers() if fused and eager and _on_device(backend, logits) else None
    couplings = _couplings(
        params, kernels, kernel_weights, compatibility, iterations, tied, logits, multilabel,
        fused, answers,
    )  # fmt: skip
    gaussians = _gaussians(kernels, bandwidths, logits, answers)
    used = {k.guide for k in kernels if k.theta_guide is not None}
    used_guides = {n: guide for n, guide in every_guide.items() if n in used}
    pixels = Pixels.of(used_guides, mask, params.feature_order, spacing, logits)
    if not fused:
        seen = {n: g for n, g in pixels.given.items() if method == "exact" and n in used}
        inside = check_values(inside, list(seen.values()), "\n".join(seen), multilabel, "logits")
    return Arguments(
        logits, shape, label_rows(inside, multilabel), mask, couplings, gaussians, pixels, params,
        method, backend, fused, multilabel, answers,
    )  # fmt: skip


def _on_device(backend: str, like: Tensor) -> bool:
    """Tell whether reading a value waits for a device (or for the serial launcher, to test it)."""
    return like.device.type != "cpu" or _is_native(backend, like.device.type)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def engine_of(backend: str, device: torch.device) -> tuple[str, bool]:
    """Return the engine for tensors on `device`, and whether it runs whole mean fields.

    Raise if none can run.
    """
    if backend == "auto":
        self_test.once(device)
    name = dispatch.serving(backend, device)
    if name == "torch" or _is_native(name, device.type):
        return name, True
    return name, engines.fused(dispatch.engine(name)) is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_native(backend: str, device: str) -> bool:
    """Tell whether a native module for tensors on `device` runs a backend."""
    return dispatch.native_module(backend, device) is not None


def check_refined(refined: Tensor, like: Arguments) -> Tensor:
    """Check a result of `mean_field`; return it as [B, L, N] with at least two labels."""
    checks.refined(refined, like.logits.reshape(like.shape), batched=True)
    checks.same_device(refined, like.logits, "refined")
    refined = refined.reshape(like.logits.shape)
    if like.mask is not None:
        refined = refined.where(like.mask[:, None], 0.0)
    refined = check_values(refined, [], "", like.multilabel, "refined")
    return label_rows(refined, like.multilabel)


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
    if not _is_native(given.backend, given.logits.device.type):
        way_out = "" if given.logits.device.type == "cuda" else ", or move them to a GPU"
        raise ValueError(
            f"storage is {storage!r}, which the CUDA engine alone has, but logits are on "
            f"{given.logits.device} and engine {given.backend!r} serves them; leave storage at "
            f"'full'{way_out}"
        )
    if not plain:
        raise ValueError(
            f"storage is {storage!r} but method, update, tied or return_all is not the default, "
            "and 16-bit storage supports the defaults only; leave storage at 'full'"
        )


def check_prune(prune: float, given: Arguments, plain: bool) -> float:
    """Check `prune` and the engine; return it, or 0 if the call has options that run exactly.

    `plain` is as in `check_storage`.
    """
    prune = check_prune_range(prune, given.logits, given.multilabel)
    if not plain:
        return 0.0
    engines.check_pruning(given.backend, prune)
    return prune


def check_prune_range(prune: float, logits: Tensor, multilabel: bool) -> float:
    """Check that `prune` is a number below 1 / L, and return it."""
    return checks.prune(prune, 2 if multilabel else max(2, logits.shape[1]))


def label_rows(logits: Tensor, multilabel: bool = False) -> Tensor:
    """Return logits [B, L, *S] as [B, K, N], of K = L labels.

    A single logit x, or each one of a multilabel problem, becomes the two logits (0, x).
    """
    u = logits.flatten(2)
    if multilabel or u.shape[1] == 1:
        return torch.stack([torch.zeros_like(u), u], dim=2).flatten(1, 2)
    return u


def _gaussians(
    kernels: Sequence[Kernel], bandwidths: Tensor | None, like: Tensor, answers: Answers | None
) -> list[Gaussian]:
    """Return each kernel with its own bandwidths or, if `bandwidths` is given, with these."""
    if bandwidths is None:
        thetas: list[tuple[Any, Any]] = [(k.theta_position, k.theta_guide) for k in kernels]
        return [Gaussian(k, *own) for k, own in zip(kernels, thetas, strict=True)]
    _check_parameter("bandwidths", bandwidths, like)
    given = bandwidths.detach()
    if torch.compiler.is_compiling():
        bandwidths = checked_bandwidths(bandwidths, len(kernels))
    elif answers is not None:
        checks.bandwidths(given, len(kernels), values=False)
        good = (given.isfinite() & (given > 0)).all()
        answers.ask(good, lambda: checks.bandwidths(given, len(kernels)))
    elif not dispatch.capturing(like):
        checks.bandwidths(given, len(kernels))
    return [
        Gaussian(
            k,
            None if k.theta_position is None else with_leading(k.theta_position, theta[0]),
            None if k.theta_guide is None else with_leading(k.theta_guide, theta[1]),
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
    multilabel: bool,
    fused: bool,
    answers: Answers | None,
) -> list[Tensor]:
    """Return the couplings mu W [M, K, K] of each iteration, at least one; see `_coupling`."""
    maps = like.shape[1]
    labels = maps if multilabel else max(2, maps)
    weights = kernel_weights
    if weights is None:
        weights = default_weights(params, labels, kernels, multilabel=multilabel)
        weights = weights.to(like, non_blocking=True)
    mu = compatibility
    if multilabel:
        checks.no_compatibility(compatibility)
        mu = _potts_of_maps(maps, like)
    elif mu is None:
        mu = 1 - torch.eye(labels, dtype=like.dtype, device=like.device)
    for name, tensor in (("compatibility", mu), ("kernel_weights", weights)):
        _check_parameter(name, tensor, like)
    if tied:
        one = _coupling(mu, weights, len(kernels), like, multilabel, fused, answers)
        return [one] * max(iterations, 1)
    checks.untied("kernel_weights", weights, iterations)
    if compatibility is not None:
        checks.untied("compatibility", mu, iterations)
    mus = [mu] * iterations if compatibility is None else list(mu)
    return [
        _coupling(m, w, len(kernels), like, multilabel, fused, answers)
        for m, w in zip(mus, weights, strict=True)
    ]


def _potts_of_maps(maps: int, like: Tensor) -> Tensor:
    """Return the compatibility of the labels (0, x) of each map: within a map Potts, else 0."""
    eye = torch.eye(2 * maps, dtype=like.dtype, device=like.device)
    return eye.view(maps, 2, -1).flip(1).flatten(0, 1)  # exchanges the labels of each map


def _coupling(
    mu: Tensor,
    weights: Tensor,
    kernels: int,
    like: Tensor,
    multilabel: bool,
    fused: bool,
    answers: Answers | None,
) -> Tensor:
    """Return the coupling mu W of each kernel: the penalty of a label per unit of message.

    [M, K, K], from a compatibility [K, K] and weights [M], [M, L] or [M, L, L].
    """
    eager, maps = not torch.compiler.is_compiling(), like.shape[1]
    if eager:
        labels = 2 * maps if multilabel else max(2, maps)
        entries = maps if multilabel else labels
        checks.compatibility(mu, labels, values=False)
        checks.kernel_weights(weights, kernels, entries, values=False, multilabel=multilabel)
    given = (mu.detach(), weights.detach())
    if multilabel and weights.dim() == 2:
        weights = weights.repeat_interleave(2, dim=1)  # both labels of a map have its weight
    if weights.dim() == 3:
        coupling = torch.bmm(mu.expand(kernels, -1, -1), weights)
    else:  # one weight per column of mu, or one for all
        coupling = mu * (weights if weights.dim() == 2 else weights.unsqueeze(1)).unsqueeze(1)
    points = math.prod(like.shape[2:])  # numel() would be a constant in graphs
    if answers is not None:
        found = coupling.detach()
        good = checks.coupling_fits(found, points, torch.finfo(found.dtype).max)
        answers.ask(good, lambda: refuse_coupling(found, *given, points))
    elif eager and not dispatch.capturing(like):
        refuse_coupling(coupling.detach(), *given, points)
    elif not (fused and like.is_cuda):  # there the fused operator checks it without another wait
        coupling = check_coupling(coupling, *given, points)
    return coupling


def default_weights(
    params: CRFParams, labels: int, kernels: Sequence[Kernel], *, multilabel: bool = False
) -> Tensor:
    """Return each kernel's weight in `params`, float64: [M], or [M, L] if one is per label.

    L counts labels, or if `multilabel` maps.
    """
    given = weights_of(params)
    for name, weight in given.items():
        checks.weights_fit(name, weight, labels, multilabel=multilabel)
    chosen = list(given.values())
    if tuple(kernels) != from_params(params):  # whether a kernel uses a guide selects its weight
        chosen = [given["w_spatial" if k.theta_guide is None else "w_bilateral"] for k in kernels]
    tensors = [torch.tensor(weight, dtype=torch.float64) for weight in chosen]
    per_label = any(tensor.dim() == 1 for tensor in tensors)
    return torch.stack([t.expand(labels) if per_label else t for t in tensors])
