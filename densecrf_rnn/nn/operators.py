"""From pixels to the operators N K of a CRF's kernels: on lattices, on a grid, exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from .. import checks
from ..kernels import Kernel, normalizer
from ..params import CRFParams
from . import exact, fused, grids, ops, tensors
from .dispatch import is_traced


@dataclass(frozen=True)
class Pixels:
    """What kernels are made of."""

    size: torch.Size  # (H, W) or (D, H, W)
    spacing: Sequence[float]
    positions: Tensor  # [S, N], coordinates
    guides: Mapping[str, Tensor]  # [B, C, N]
    seen: Tensor | None = None  # [B, N, 1], 1 where the CRF acts and 0 elsewhere; None: everywhere


def pixels(
    guides: Mapping[str, Tensor],
    mask: Tensor | None,
    params: CRFParams,
    spacing: Sequence[float],
    dtype: torch.dtype,
) -> Pixels:
    """The pixels of guides [B, C, *S], one of them the image.

    `mask` [B, *S] is False where the CRF does not act; what a guide holds there is not looked at.
    """
    image = guides["image"]
    size = image.shape[2:]
    made = _positions.__wrapped__ if is_traced() else _positions
    positions = made(size, spacing, params.feature_order, dtype, image.device)
    flat = {name: guide.flatten(2).to(dtype) for name, guide in guides.items()}
    if mask is None:
        return Pixels(size, spacing, positions, flat)
    inside = mask.flatten(1)
    flat = {name: guide.where(inside[:, None], 0.0) for name, guide in flat.items()}
    return Pixels(size, spacing, positions, flat, inside[..., None].to(dtype))


@lru_cache(maxsize=4)  # most often all images have one size
def _positions(
    size: Sequence[int],
    spacing: Sequence[float],
    order: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The coordinates of the pixels of one image, [S, N]."""
    with torch.inference_mode(False):  # what is kept may be asked for in training too
        axes = [
            torch.arange(n, dtype=dtype, device=device) * s
            for n, s in zip(size, spacing, strict=True)
        ]
        found = [positions.flatten() for positions in torch.meshgrid(*axes, indexing="ij")]
        return torch.stack(found[::-1] if order == "xy" else found)


Theta = Tensor | float  # a deviation; what is differentiated for is a tensor


@dataclass(frozen=True)
class Gaussian:
    """A kernel whose deviations may be tensors of one number."""

    kernel: Kernel
    theta_position: Theta | None
    theta_guide: Theta | None

    def features(self, p: Pixels) -> Tensor:
        """Features [B, N, D]; [1, N, D] for all images if the kernel does not see them."""
        parts = []
        if self.theta_position is not None:
            parts.append(_divided(p.positions, self.theta_position)[None])  # [1, S, N]
        if self.theta_guide is not None:
            guide = p.guides[self.kernel.guide]
            parts.append(_divided(guide, self.theta_guide))  # [B, C, N]
            parts[0] = parts[0].expand(parts[-1].shape[0], -1, -1)
        features = torch.cat(parts, dim=1).mT if len(parts) > 1 else parts[0].mT
        return features if p.seen is None else _seen_features(features, p.seen)

    @property
    def name(self) -> str:
        """What an error about the features' values is about."""
        return "features" if self.theta_guide is None else self.kernel.guide


def _divided(tensor: Tensor, theta: Theta) -> Tensor:
    """Divide by a bandwidth, with the same rounding on every device.

    On CUDA torch divides by a Python number (and by a tensor on the CPU) as a product with the
    rounded reciprocal. `new_full` fills on the device, so nothing is copied there or waited for.
    """
    return tensor / (theta if isinstance(theta, Tensor) else tensor.new_full((), theta))


def _seen_features(features: Tensor, seen: Tensor) -> Tensor:
    """Features with the pixels outside the mask on the first one inside: no more vertices."""
    images, dims = seen.shape[0], features.shape[2]
    features = features.expand(images, -1, -1)
    first = seen[..., 0].argmax(1)[:, None, None].expand(-1, -1, dims)
    return torch.where(seen > 0, features, features.gather(1, first))


# --- lattices and a grid -------------------------------------------------------------------------


@dataclass(frozen=True)
class Operators:
    """The operators of a mean field, and where in the list of kernels each comes from."""

    lattices: list[tensors.Kernel]
    grid: tensors.Grid
    grid_scales: list[Tensor]  # before, after, diagonal, as those of a Kernel; or empty
    order: list[int]

    @property
    def inputs(self) -> list[Tensor]:
        """As the fused operators take them."""
        return [*fused.flatten(self.lattices), *self.grid_scales]


def on_lattices(
    gaussians: Sequence[Gaussian], p: Pixels, params: CRFParams, backend: str
) -> Operators:
    """One kernel of position alone on a grid, if `params` says so, the others on lattices."""
    lattices, on_grid, order = [], None, []
    for index, gaussian in enumerate(gaussians):
        fixed = isinstance(gaussian.theta_position, float)  # a grid has no gradient for it
        spatial = gaussian.theta_guide is None and fixed
        if spatial and params.spatial == "grid" and on_grid is None:
            on_grid = index
            continue
        lattices.append(_lattice(gaussian, p, params, backend))
        order.append(index)
    if on_grid is None:
        return Operators(lattices, tensors.NO_GRID, [], order)
    theta = gaussians[on_grid].theta_position
    assert isinstance(theta, float)
    deviation = [theta / s for s in p.spacing]
    if p.seen is None:
        grid = tensors.Grid(p.size, deviation, params.normalization, params.self_term)
        return Operators(lattices, grid, [], [*order, on_grid])
    # The normaliser depends on the mask, so it is worked out here, and the grid stays bare.
    grid = tensors.Grid(p.size, deviation, "none", True)
    none = p.seen.new_empty(0)
    diagonal = none
    if not params.self_term:
        diagonal = grids.grid_diagonal(p.seen, p.size, deviation)
    raw = partial(fused.grid_filtered, grid, [none, none, diagonal])
    before, after = _scales(raw, p.seen, params, True)
    return Operators(lattices, grid, [before, after, diagonal], [*order, on_grid])


def _lattice(gaussian: Gaussian, p: Pixels, params: CRFParams, backend: str) -> tensors.Kernel:
    """The operator N K of the lattices of one kernel."""
    features = gaussian.features(p)
    try:
        built = ops.lattice_build(features, params.quality, backend, gaussian.name)
    except ValueError:  # no lattice can be built; a guide that is to blame can be named
        if isinstance(gaussian.theta_guide, float):
            guide = p.guides[gaussian.kernel.guide].detach()
            checks.image_values(guide, gaussian.theta_guide, gaussian.kernel.guide)
        raise
    lattice = tensors.Lattice(*built)
    none = features.new_empty(0)
    diagonal = none
    if not params.self_term:
        diagonal = ops.lattice_self_response(*lattice, backend)[..., None]
    raw = tensors.Kernel(lattice, none, none, diagonal)
    ones = features.new_ones(*features.shape[:2], 1) if p.seen is None else p.seen
    operator = partial(fused.filtered, raw, backend=backend)
    before, after = _scales(operator, ones, params, p.seen is not None)
    return tensors.Kernel(lattice, before, after, diagonal)


def _scales(
    operator: fused.Message, ones: Tensor, params: CRFParams, masked: bool
) -> tuple[Tensor, Tensor]:
    """What normalises an operator K: `before` and `after` of a `Kernel`.

    `ones` [B, N, 1] are 1 at the pixels that take part; if that is not all, the scales are 0 at the
    others.
    """
    before = after = None
    normalize = normalizer(params.normalization)
    if normalize.needs_mass:
        before, after = normalize.scales(operator(ones), torch)  # [B, N, 1]
    if masked:
        before, after = (ones if scale is None else ones * scale for scale in (before, after))
    none = ones.new_empty(0)
    return none if before is None else before, none if after is None else after


# --- Gaussians themselves ------------------------------------------------------------------------


def _exact_operator(features: Tensor, self_term: bool) -> fused.Message:
    return lambda values: exact.exact_filter(values, features, self_term)


def exact_messages(
    gaussians: Sequence[Gaussian], p: Pixels, params: CRFParams
) -> list[fused.Message]:
    """The operator N K of each kernel."""
    messages: list[fused.Message] = []
    for gaussian in gaussians:
        features = gaussian.features(p)
        operator = _exact_operator(features, params.self_term)
        ones = features.new_ones(*features.shape[:2], 1) if p.seen is None else p.seen
        before, after = _scales(operator, ones, params, p.seen is not None)
        messages.append(partial(fused.scaled, operator, before, after))
    return messages
