"""Differentiable mean field and free energy of a dense CRF on tensors."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import Kernel
from ..params import CRFParams
from . import arguments, build, stepwise, torch_engine, transforms
from .arguments import Arguments, Method, Storage, full_precision, in_float32
from .filtering import gaussian_filter
from .ops import dispatch
from .ops.answers import asked
from .ops.device import good_logits
from .ops.mean_field import mean_field as fused_mean_field
from .ops.pruned import pruned_mean_field
from .stepwise import UPDATES, Update
from .subclasses import plain_inside

__all__ = ["free_energy", "gaussian_filter", "mean_field"]


@plain_inside
def mean_field(
    logits: Tensor,
    image: Tensor | None = None,
    params: CRFParams = CRFParams(),
    *,
    features: Tensor | None = None,
    kernel_weights: Tensor | None = None,
    compatibility: Tensor | None = None,
    multilabel: bool = False,
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
    prune: float = 0.0,
    backend: str = "auto",
    warn: bool = True,
) -> Any:
    """Refine logits by mean-field iterations of a dense CRF.

    Parameters
    ----------
    logits : Tensor [B, L, H, W] or [B, L, D, H, W]; with `features` [B, L, N]; floating point
        Log-likelihood of each label up to a constant per pixel. -inf excludes a label. L = 1: one
        logit x, treated as the two logits (0, x). B may be 0. float16 and bfloat16 are computed in
        float32, with parameters of 16 bits converted likewise.
    image : Tensor [B, C, H, W] or [B, C, D, H, W], integer or floating point, on the same device
        Guide of the appearance kernel, up to 14 channels (13 in 3-D), in the units of
        ``params.theta_beta`` (0..255 by default). None: no appearance kernel, so that labels are
        smoothed by position alone.
    params : CRFParams
        Bandwidths, weights and options.
    features : Tensor [B, N, d], integer or floating point, 1 <= d <= 16, optional
        N points without a grid, such as a point cloud, instead of the pixels of an image, already
        divided by their bandwidths. Their one kernel has the weight ``w_bilateral``, unless
        `kernels` says otherwise: they use the guide "features", as ``Custom(1.0, "features")``
        does. Masks are then [B, N] and `guides` [B, C, N].
    kernel_weights : Tensor [M], [M, L] or [M, L, L], optional
        Weights of the M kernels (bilateral, spatial), which replace those in `params`: one per
        kernel, one per kernel and label, or one matrix per kernel. If not `tied`: [T, ...].
    compatibility : Tensor [L, L], optional
        Penalty of label l (row) next to label l' (column); default Potts, 1 - I. If not `tied`:
        [T, L, L].
    multilabel : bool
        Refine each of the L maps by a binary CRF of its own, as ``logits[:, l : l + 1]`` alone
        would be, with kernels that are built once: for regions that overlap. `kernel_weights` are
        then [M], or [M, L] with one per map; matrices and a compatibility are rejected.
    iterations : int, at least 0
        Number T of mean-field updates; 0 returns the logits.
    kernels : sequence of M `kernels.Kernel`, optional
        Kernels to use instead of the bilateral and the spatial kernel that `params` describes.
        Default weights are ``w_bilateral`` for kernels that use a guide and ``w_spatial`` for
        kernels over positions alone.
    bandwidths : Tensor [M, 2], optional
        Bandwidths (position, guide) of each kernel, which replace its own; differentiable. If a
        kernel has several, one per axis or channel, the entry replaces the first, and the others
        keep their ratio to it. Entries for a bandwidth that a kernel does not have are ignored.
        Kernels over positions alone are
        then filtered by lattices, because a grid has no gradient for its bandwidth.
    guides : mapping of names to tensors [B, C, *S], optional
        Guides other than the image, by the names that `kernels` give them: depth, near infrared,
        an embedding. "image" is the name of the image.
    mask : Tensor [B, *S] of bool, optional
        Pixels where the mask is False are excluded: they neither send nor receive messages, and
        their logits are returned unchanged. At these pixels logits and guides may have any values.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    update : {"softmax", "relu"}
        How marginals are computed from logits; "relu" divides positive logits by their sum
        (uniform where none is positive).
    tied : bool
        Whether all iterations share weights and compatibility.
    return_all : bool
        Whether to return a list of the logits after each of the T iterations.
    memory_budget : int, at least 1
        Lowers the memory that the forward pass keeps for the backward pass, but does not bound it.
        If the marginals of all iterations need more bytes than this, for all images together, it
        keeps the values at the lattice vertices instead, provided that these need less memory, and
        the backward pass takes longer. (Without a self term it always keeps marginals.) Lattices
        are kept in any case, and the exact method and the options named in the notes keep all
        marginals and messages. What bounds the memory is ``torch.utils.checkpoint.checkpoint(crf,
        logits, image, use_reentrant=False)``: it keeps the inputs only, and runs the forward pass
        twice.
    method : {"lattice", "exact"}
        How kernels are filtered: approximately, in O(N) for N pixels, as `params.spatial` and
        `params.quality` say; or exactly, in O(N^2), in which case these two options are ignored.
    storage : {"full", "float16", "bfloat16"}
        How the CUDA engine stores values at lattice vertices and grid cells in the forward pass:
        in the dtype of `logits`; or, for float32 logits, in 16 bits, with half the memory traffic
        and all arithmetic in float32. The backward pass ignores the rounding.
    prune : float, 0 <= prune < 1 / L
        Save time on a CPU by leaving labels out where they provably do not matter; see
        `densecrf_rnn.mean_field`. 0 is exact, and so are calls outside of ``torch.no_grad()``,
        and calls with another `method`, `update`, `tied` or `return_all` than the default.
    backend : str
        "auto", or a name from `available_backends()`. For the exact method, which runs in torch,
        leave "auto".
    warn : bool
        Whether to warn about values of CPU tensors that suggest a mistake, such as an image in
        other units than theta_beta, judged by a sample. Values on other devices are not read,
        because the call would wait for the device; `CRFRNN` reads them in its first call.

    Returns
    -------
    Tensor, shape, dtype and class of `logits` (float32 for 16 bits under autocast)
        The refined logits, to be used with cross-entropy. Of a subclass of Tensor that intercepts
        operations, such as MONAI's MetaTensor, the result has a copy of the attributes.
        Differentiable with respect to `logits`, `kernel_weights` and `compatibility`, and once
        with respect to `bandwidths`, `image` and `guides`. With `return_all` (not under
        torch.func) a list of such tensors.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype, device or range, or holds NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here, or it does not prune; the message says why.

    Notes
    -----
    [CRF-RNN] section 4; section 6 has "relu", section 7.1 untied iterations. Lattices are built
    once per image and used by all iterations, all labels and the backward pass. The gradient with
    respect to the image is that of the lattice filter, which is piecewise linear in the features,
    and of its normaliser. The number of threads is torch.get_num_threads().

    With other values of `update`, `tied` and `return_all` than the defaults, every filter runs as
    an operator of its own, and a call takes two to seven times as long; the factor is largest where
    a lattice has few vertices. The exact method computes the filter that the lattice approximates.
    It runs in torch on any device, recomputes each kernel for every message and its gradient, and
    takes O(N) memory.

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 4, 5, requires_grad=True)
    >>> refined = mean_field(logits, torch.zeros(1, 3, 4, 5))
    >>> refined.sum().backward()
    >>> logits.grad.shape
    torch.Size([1, 3, 4, 5])
    """
    if transforms.active():
        if return_all:
            raise ValueError(
                "return_all is True, which cannot be combined with torch.func (it returns one "
                "tensor); leave return_all at False"
            )
        if prune != 0:  # derivatives are not pruned
            checks.logits(logits, batched=True)
            arguments.check_prune_range(prune, logits, multilabel)
        return transforms.opaque(
            mean_field, logits, image, params, features=features, kernel_weights=kernel_weights,
            compatibility=compatibility, multilabel=multilabel, iterations=iterations,
            kernels=kernels, bandwidths=bandwidths, guides=guides, mask=mask, spacing=spacing,
            update=update, tied=tied, memory_budget=memory_budget, method=method, storage=storage,
            backend=backend, warn=warn,
        )  # fmt: skip
    transforms.refuse_tangents(
        logits, image, features, kernel_weights, compatibility, bandwidths,
        *(guides or {}).values(),
    )  # fmt: skip
    iterations = checks.count("iterations", iterations, 0)
    memory_budget = checks.count("memory_budget", memory_budget, 1, below_power=63)
    checks.option("update", update, UPDATES)
    checks.array_kind("logits", logits, batched=True)
    dtype = arguments.result_dtype(logits)
    logits, kernel_weights, compatibility, bandwidths = in_float32(
        logits, kernel_weights, compatibility, bandwidths
    )
    with full_precision(logits):
        plain = method == "lattice" and update == "softmax" and tied and not return_all
        given = arguments.check(
            logits, image, features, params, kernel_weights, compatibility, kernels, bandwidths,
            guides, mask, spacing, iterations, tied, method, backend, multilabel, warn, plain,
        )  # fmt: skip
        arguments.check_storage(storage, given, plain)
        prune = arguments.check_prune(prune, given, plain)
        if prune and not torch.is_grad_enabled():
            steps = [_fused(given, iterations, memory_budget, storage, prune)]
        elif given.fused or (plain and given.backend == "torch"):
            steps = [_fused(given, iterations, memory_budget, storage)]
        else:
            couplings = given.couplings[:iterations]
            steps = stepwise.mean_field(
                given.u, couplings, _messages(given), update, pairs=multilabel
            )
        found = [_as_logits(step, given).to(dtype) for step in steps]
    return found if return_all else found[-1] if found else logits.to(dtype, copy=True)


@plain_inside
def free_energy(
    refined: Tensor | Sequence[Tensor],
    logits: Tensor,
    image: Tensor | None = None,
    params: CRFParams = CRFParams(),
    *,
    features: Tensor | None = None,
    kernel_weights: Tensor | None = None,
    compatibility: Tensor | None = None,
    multilabel: bool = False,
    kernels: Sequence[Kernel] | None = None,
    bandwidths: Tensor | None = None,
    guides: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    update: Update = "softmax",
    method: Method = "lattice",
    backend: str = "auto",
) -> Tensor:
    """Compute the mean-field free energy F(Q) of each image; lower is better.

    F(Q) = sum_i Q_i . (ln Q_i - U_i) + 1/2 sum_i Q_i . mu sum_m W_m (N_m K_m Q)_i, where U are the
    logits, mu is the compatibility, W_m are the kernel weights and N_m K_m the normalised kernels.
    Without a self term, KL(Q || P) = F(Q) + ln Z, where P is the distribution of the CRF.

    Parameters
    ----------
    refined : Tensor, shape and dtype of `logits`, or a sequence of T of them
        Logits that `mean_field` returned, one tensor or the list of `return_all`. Q are their
        marginals: the softmax, or with update="relu" the positive logits divided by their sum.
    logits, image, params, features, guides, mask, spacing, update, method, backend
        As in `mean_field`. Pixels outside the mask are excluded.
    kernel_weights, compatibility, multilabel, kernels, bandwidths
        As in `mean_field`, with one set of weights for all iterations (tied). The energy of a
        multilabel problem is the sum over its maps.

    Returns
    -------
    Tensor [B], or for a sequence [T, B], dtype of `logits` (float32 for 16 bits)
        The energies in nats, summed over the pixels. Infinite if Q is positive for a label whose
        logit is -inf. Differentiable with respect to `refined` and to the same arguments as
        `mean_field`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype, device or range, or holds NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here; the message says why.

    Notes
    -----
    [KK11] section 2; docs/math.md covers asymmetric operators and the self term. Kernels are built
    once for a whole sequence.

    Examples
    --------
    >>> logits, image = torch.randn(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    >>> steps = mean_field(logits, image, return_all=True)
    >>> free_energy(steps, logits, image).shape
    torch.Size([5, 1])
    """
    if transforms.active():
        return transforms.opaque(
            free_energy, refined, logits, image, params, features=features,
            kernel_weights=kernel_weights, compatibility=compatibility, multilabel=multilabel,
            kernels=kernels, bandwidths=bandwidths, guides=guides, mask=mask, spacing=spacing,
            update=update, method=method, backend=backend,
        )  # fmt: skip
    steps = [refined] if isinstance(refined, Tensor) else list(refined)
    transforms.refuse_tangents(
        *steps, logits, image, features, kernel_weights, compatibility, bandwidths,
        *(guides or {}).values(),
    )  # fmt: skip
    checks.option("update", update, UPDATES)
    checks.array_kind("logits", logits, batched=True)
    logits, kernel_weights, compatibility, bandwidths, *steps = in_float32(
        logits, kernel_weights, compatibility, bandwidths, *steps
    )
    with full_precision(logits):
        given = arguments.check(
            logits, image, features, params, kernel_weights, compatibility, kernels, bandwidths,
            guides, mask, spacing, 1, True, method, backend, multilabel,
        )  # fmt: skip
        messages = _messages(given)
        found = []
        for step in steps:
            rows = arguments.check_refined(step, given)
            per_pixel = stepwise.free_energy(
                rows, given.u, given.couplings[0], messages, update, pairs=multilabel
            )
            if given.pixels.inside is not None:
                per_pixel = per_pixel * given.pixels.inside[..., 0]
            found.append(per_pixel.sum(1))
    if isinstance(refined, Tensor):
        return found[0]
    return torch.stack(found) if found else logits.new_empty(0, logits.shape[0])


def _fused(
    given: Arguments, iterations: int, memory_budget: int, storage: Storage, prune: float = 0.0
) -> Tensor:
    """Run all iterations in one operator and return the refined logits [B, L, N].

    Each map of a multilabel problem has an operator of its own, which gets the same kernels.
    """
    maps = given.logits.shape[1] if given.multilabel else 1
    each = given.u.chunk(maps, 1)
    if given.answers is not None:
        for u in each:
            given.answers.ask(good_logits(u), partial(checks.logits_values, u, batched=True))
    try:
        with nullcontext() if given.answers is None else given.answers.waiting():
            kernels, order = build.on_lattices(
                given.gaussians, given.pixels, given.params, given.backend
            )
    except ValueError:
        if given.answers is not None:
            given.answers.raise_first()  # bandwidths may be the cause
        raise
    coupling = given.couplings[0]
    if order != sorted(order):
        coupling = torch.stack([coupling[kernel] for kernel in order])  # a list would be copied
    inputs = kernels.flatten()
    differentiable = [given.u, coupling, *inputs]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)

    def run(u: Tensor, coupling: Tensor, memory_budget: int) -> Tensor:
        if prune:
            of_kernels = (inputs, *kernels.grid)
            return pruned_mean_field(u, coupling, *of_kernels, iterations, prune, given.backend)
        if given.backend == "torch" and dispatch.is_compiled():
            problem = (u, coupling, inputs, kernels.grid, iterations)
            return torch_engine.traced_mean_field(*problem, memory_budget)
        options = (iterations, keep, memory_budget, storage, given.backend)
        return fused_mean_field(u, coupling, inputs, *kernels.grid, *options)[0]

    with nullcontext() if given.answers is None else asked():
        if given.multilabel:
            fields = zip(each, _blocks(coupling, maps), strict=True)
            found = torch.cat([run(u, c, memory_budget // maps) for u, c in fields], dim=1)
        else:
            found = run(given.u, coupling, memory_budget)
    if given.answers is not None:
        given.answers.raise_first()
    return found


def _blocks(coupling: Tensor, count: int) -> Sequence[Tensor]:
    """Return the blocks [M, K, K] on the diagonals of matrices [M, count K, count K]."""
    kernels, size = coupling.shape[0], coupling.shape[1] // count
    blocks = coupling.reshape(kernels, count, size, count, size)
    return blocks.diagonal(dim1=1, dim2=3).unbind(-1)


def _messages(given: Arguments) -> list[stepwise.Message]:
    """Return the operator N K of each kernel as a function, for `stepwise`."""
    problem = (given.gaussians, given.pixels, given.params)
    if given.method == "exact":
        return build.exact(*problem)
    kernels, order = build.on_lattices(*problem, given.backend)
    found = stepwise.messages(kernels, given.backend)
    return [found[order.index(kernel)] for kernel in range(len(found))]


def _as_logits(rows: Tensor, given: Arguments) -> Tensor:
    """Reshape refined [B, L, N] like the logits; pixels outside the mask keep their logits."""
    logits, mask = given.logits, given.mask
    if given.multilabel or logits.shape[1] == 1:
        rows = rows[:, 1::2] - rows[:, ::2]
    refined = rows.reshape(logits.shape)
    refined = refined if mask is None else refined.where(mask[:, None], logits)
    return refined.reshape(given.shape)
