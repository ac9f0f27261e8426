"""Build the normalised filters N K of a CRF's kernels: on lattices, on a grid, or exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..kernels import Kernel, in_feature_order, is_on_grid, normalizer
from ..params import CRFParams, FeatureOrder
from .ops.dispatch import is_traced
from .ops.exact_filter import exact_filter
from .ops.grid_diagonal import grid_diagonal
from .ops.kernels import Grid, Kernel as LatticeKernel, Kernels, Lattice
from .ops.lattice_build import lattice_build
from .ops.lattice_self_response import lattice_self_response
from .stepwise import Message, filtered, grid_filtered, scaled

Theta = Tensor | float  # a bandwidth; a tensor if it is differentiated


@dataclass(frozen=True)
class Pixels:
    """One batch's pixels, flattened: coordinates, guides and mask."""

    size: torch.Size  # (H, W) or (D, H, W)
    spacing: tuple[float, ...]
    order: FeatureOrder
    guides: Mapping[str, Tensor]  # [B, C, N]; 0 outside the mask
    inside: Tensor | None = None  # [B, N, 1], 1 inside the mask, 0 outside; None without mask

    @classmethod
    def of(
        cls,
        guides: Mapping[str, Tensor],
        mask: Tensor | None,
        order: FeatureOrder,
        spacing: tuple[float, ...],
        dtype: torch.dtype,
    ) -> "Pixels":
        """Flatten guides [B, C, *S], one of them the image, and a mask [B, *S] of bool."""
        size = guides["image"].shape[2:]
        flat = {name: guide.flatten(2) for name, guide in guides.items()}
        flat = {name: g if g.dtype == dtype else g.to(dtype) for name, g in flat.items()}
        if mask is None:
            return cls(size, spacing, order, flat)
        inside = mask.flatten(1)
        flat = {name: guide.where(inside[:, None], 0.0) for name, guide in flat.items()}
        return cls(size, spacing, order, flat, inside[..., None].to(dtype))

    def positions(self, theta: Theta) -> Tensor:
        """Return the coordinates divided by a bandwidth, [1, S, N] for S spatial axes."""
        image = self.guides["image"]
        make = _positions.__wrapped__ if _is_captured(image.device) else _positions
        key = (self.size, self.spacing, self.order, image.dtype, image.device)
        return make(*key, theta) if isinstance(theta, float) else make(*key, 1.0) / theta


@lru_cache(maxsize=4)  # images mostly have one size
def _positions(
    size: Sequence[int],
    spacing: Sequence[float],
    order: FeatureOrder,
    dtype: torch.dtype,
    device: torch.device,
    theta: float,
) -> Tensor:
    with torch.inference_mode(False):  # a later call may train
        axes = [
            torch.arange(n, dtype=dtype, device=device) * s
            for n, s in zip(size, spacing, strict=True)
        ]
        found = [positions.flatten() for positions in torch.meshgrid(*axes, indexing="ij")]
        return _divided(torch.stack(in_feature_order(found, order))[None], theta)


def _is_captured(device: torch.device) -> bool:
    """Tell whether new tensors belong to a graph, so that they must not be cached."""
    return is_traced() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def _divided(tensor: Tensor, theta: Theta) -> Tensor:
    """Divide by a bandwidth, with the same rounding on every device.

    On CUDA, torch divides by a Python number or a CPU tensor by multiplying with its rounded
    reciprocal, so the divisor must be a tensor on the device. `full` creates it there, without a
    copy from the host.
    """
    if not isinstance(theta, Tensor):
        make = _number.__wrapped__ if _is_captured(tensor.device) else _number
        theta = make(theta, tensor.dtype, tensor.device)
    return tensor / theta


@lru_cache(maxsize=32)
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a 0-dimensional tensor."""
    with torch.inference_mode(False):  # a later call may train
        return torch.full((), value, dtype=dtype, device=device)


class Gaussian(NamedTuple):
    """A kernel with the bandwidths that it has in this call."""

    kernel: Kernel
    theta_position: Theta | None
    theta_guide: Theta | None

    def features(self, p: Pixels) -> Tensor:
        """Return features [B, N, D], or [1, N, D] shared by all images if no guide is used."""
        parts = []
        if self.theta_position is not None:
            parts.append(p.positions(self.theta_position))
        if self.theta_guide is not None:
            parts.append(_divided(p.guides[self.kernel.guide], self.theta_guide))
            parts[0] = parts[0].expand(parts[-1].shape[0], -1, -1)
        features = torch.cat(parts, dim=1).mT if len(parts) > 1 else parts[0].mT
        return features if p.inside is None else _features_inside(features, p.inside)


def _features_inside(features: Tensor, inside: Tensor) -> Tensor:
    """Give pixels outside the mask the features of the first pixel inside: no new vertices."""
    images, dims = inside.shape[0], features.shape[2]
    features = features.expand(images, -1, -1)
    first = inside[..., 0].argmax(1)[:, None, None].expand(-1, -1, dims)
    return torch.where(inside > 0, features, features.gather(1, first))


def on_lattices(
    gaussians: Sequence[Gaussian], p: Pixels, params: CRFParams, backend: str
) -> tuple[Kernels, list[int]]:
    """Build a lattice per kernel; one kernel over positions alone uses a grid if `params` allows.

    Returns
    -------
    kernels : Kernels
    order : list of int
        Index in `gaussians` of each kernel of `kernels`, in which the grid is last.
    """
    lattices, on_grid, order = [], None, []
    for index, gaussian in enumerate(gaussians):
        # A grid has no gradient for its bandwidth, so a bandwidth that is a tensor needs a lattice.
        fixed = isinstance(gaussian.theta_position, float)
        if is_on_grid(gaussian.kernel, params.spatial) and fixed and on_grid is None:
            on_grid = index
        else:
            lattices.append(_lattice(gaussian, p, params, backend))
            order.append(index)
    if on_grid is None:
        return Kernels(lattices), order
    theta: Any = gaussians[on_grid].theta_position
    return Kernels(lattices, *_grid(theta, p, params)), [*order, on_grid]


def _lattice(gaussian: Gaussian, p: Pixels, params: CRFParams, backend: str) -> LatticeKernel:
    """Build the operator N K of one kernel, with one lattice per image."""
    features = gaussian.features(p)
    name = "features" if gaussian.theta_guide is None else gaussian.kernel.guide
    try:
        lattice = Lattice(*lattice_build(features, params.quality, backend, name))
    except ValueError:  # if a guide's values are the reason, name the guide
        if gaussian.theta_guide is not None:
            checks.image_values(p.guides[name].detach(), name)
        raise
    none = features.new_empty(0)
    diagonal = none
    if not params.self_term:
        diagonal = lattice_self_response([*lattice], backend)[..., None]
    raw = partial(filtered, LatticeKernel(lattice, none, none, diagonal), backend=backend)
    return LatticeKernel(lattice, *_scales(raw, _ones(features, p), p, params), diagonal)


def _grid(theta: float, p: Pixels, params: CRFParams) -> tuple[Grid, Sequence[Tensor]]:
    """Build the operator N K of one kernel of position alone on a grid."""
    deviation = [theta / s for s in p.spacing]
    if p.inside is None:
        return Grid(p.size, deviation, params.normalization, params.self_term), ()
    # The normaliser depends on the mask, so it is computed here; the grid gets none.
    grid = Grid(p.size, deviation, "none", True)
    none = p.inside.new_empty(0)
    diagonal = none if params.self_term else grid_diagonal(p.inside, p.size, deviation)
    raw = partial(grid_filtered, grid, [none, none, diagonal])
    return grid, [*_scales(raw, p.inside, p, params), diagonal]


def exact(gaussians: Sequence[Gaussian], p: Pixels, params: CRFParams) -> list[Message]:
    """Return the exact operator N K of each kernel, in O(N^2)."""
    found: list[Message] = []
    for gaussian in gaussians:
        features = gaussian.features(p)
        raw = _exact_filter(features, params.self_term)
        scales = (*_scales(raw, _ones(features, p), p, params), features.new_empty(0))
        found.append(partial(scaled, raw, scales))
    return found


def _exact_filter(features: Tensor, self_term: bool) -> Message:
    return lambda values: exact_filter(values, features, self_term)


def _ones(features: Tensor, p: Pixels) -> Tensor:
    """Return the values whose filter response is the mass K 1: 1 inside the mask, 0 outside."""
    return features.new_ones(*features.shape[:2], 1) if p.inside is None else p.inside


def _scales(raw: Message, ones: Tensor, p: Pixels, params: CRFParams) -> tuple[Tensor, Tensor]:
    """Return the factors `before` and `after` that turn K (`raw`) into N K; 0 outside the mask."""
    before = after = None
    normalize = normalizer(params.normalization)
    if normalize.needs_mass:
        before, after = normalize.scales(raw(ones), torch)  # [B, N, 1]
    if p.inside is not None:
        before, after = (ones if scale is None else ones * scale for scale in (before, after))
    none = ones.new_empty(0)
    return none if before is None else before, none if after is None else after
