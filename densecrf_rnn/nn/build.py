"""Build the normalised filters N K of a CRF's kernels: on lattices, on a grid, or exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import Kernel, in_feature_order, is_on_grid, normalizer
from ..params import CRFParams, FeatureOrder
from .ops.dispatch import is_captured
from .ops.exact_filter import exact_filter
from .ops.grid_diagonal import grid_diagonal
from .ops.kernels import Grid, Kernel as LatticeKernel, Kernels, Lattice
from .ops.lattice_build import lattice_build
from .ops.lattice_self_response import lattice_self_response
from .ops.shared import shared
from .stepwise import Message, filtered, grid_filtered, scaled

# A bandwidth, or one per axis (in the order of `spacing`) or channel; tensors are differentiated.
Theta = Tensor | float | tuple[Tensor | float, ...]


@dataclass(frozen=True)
class Pixels:
    """One batch's pixels, flattened: coordinates, guides and mask."""

    size: torch.Size  # (H, W) or (D, H, W)
    spacing: tuple[float, ...]
    order: FeatureOrder
    like: Tensor  # of the dtype and on the device of the features
    guides: Mapping[str, Tensor]  # [B, C, N], in the dtype of `like`; 0 outside the mask
    given: Mapping[str, Tensor]  # the same in the dtype of the image, for checks of values
    inside: Tensor | None = None  # [B, N, 1], 1 inside the mask, 0 outside; None without mask

    @classmethod
    def of(
        cls,
        guides: Mapping[str, Tensor],
        mask: Tensor | None,
        order: FeatureOrder,
        spacing: tuple[float, ...],
        like: Tensor,
    ) -> "Pixels":
        """Flatten guides [B, C, *S] and a mask [B, *S] of bool; `like` is a tensor [B, C, *S]."""
        size, dtype = like.shape[2:], like.dtype
        given = {name: guide.flatten(2) for name, guide in guides.items()}
        inside = None
        if mask is not None:
            within = mask.flatten(1)
            given = {name: guide.where(within[:, None], 0) for name, guide in given.items()}
            inside = within[..., None].to(dtype)
        flat = {name: g if g.dtype == dtype else g.to(dtype) for name, g in given.items()}
        return cls(size, spacing, order, like.detach(), flat, given, inside)

    def positions(self, theta: Theta) -> Tensor:
        """Return the coordinates divided by a bandwidth, [1, S, N] for S spatial axes."""
        dtype, device = self.like.dtype, self.like.device
        make = _positions.__wrapped__ if is_captured(device) else _positions
        key = (self.size, self.spacing, self.order, dtype, device)
        if isinstance(theta, tuple):
            theta = tuple(in_feature_order(list(theta), self.order))
        return make(*key, theta) if is_fixed(theta) else _divided(make(*key, 1.0), theta)


@shared(maxsize=4)  # images mostly have one size
def _positions(
    size: Sequence[int],
    spacing: Sequence[float],
    order: FeatureOrder,
    dtype: torch.dtype,
    device: torch.device,
    theta: float | tuple[float, ...],
) -> Tensor:
    with torch.inference_mode(False):  # a later call may train
        axes = [
            torch.arange(n, dtype=dtype, device=device) * s
            for n, s in zip(size, spacing, strict=True)
        ]
        found = [positions.flatten() for positions in torch.meshgrid(*axes, indexing="ij")]
        return _divided(torch.stack(in_feature_order(found, order))[None], theta)


def is_fixed(theta: Any) -> bool:
    """Return whether a bandwidth is a number, or numbers, and not computed from a tensor."""
    return isinstance(theta, float) or (
        isinstance(theta, tuple) and all(isinstance(one, float) for one in theta)
    )


def _divided(tensor: Tensor, theta: Theta) -> Tensor:
    """Divide [B, D, N] by a bandwidth, or by D of them, with the same rounding on every device.

    On CUDA, torch divides by a Python number or a CPU tensor by multiplying with its rounded
    reciprocal, so the divisor must be a tensor on the device. `full` creates it there, without a
    copy from the host.
    """
    return tensor / _divisor(theta, tensor)


def _divisor(theta: Theta, like: Tensor) -> Tensor:
    if isinstance(theta, Tensor):
        return theta
    if isinstance(theta, tuple):
        return torch.stack([_divisor(one, like) for one in theta])[:, None]
    make = _number.__wrapped__ if is_captured(like.device) else _number
    found: Tensor = make(theta, like.dtype, like.device)
    return found


@shared(maxsize=32)
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
        fixed = is_fixed(gaussian.theta_position)
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
    name, guide = "features", None
    if gaussian.theta_guide is not None:
        name = gaussian.kernel.guide
        guide = p.given[name].detach()
    return lattice_kernel(gaussian.features(p), p.inside, params, backend, name, guide)


def lattice_kernel(
    features: Tensor,
    inside: Tensor | None,
    params: CRFParams,
    backend: str,
    name: str = "features",
    guide: Tensor | None = None,
) -> LatticeKernel:
    """Build the operator N K of features [B, N, D]; `inside`, `name`, `guide`: `lattice_build`."""
    lattice = Lattice(*lattice_build(features, params.quality, backend, name, guide, inside))
    none = features.new_empty(0)
    diagonal = none
    if not params.self_term:
        diagonal = lattice_self_response([*lattice], backend)[..., None]
    raw = partial(filtered, LatticeKernel(lattice, none, none, diagonal), backend=backend)
    return LatticeKernel(lattice, *_scales(raw, features, inside, params), diagonal)


def _grid(theta: Any, p: Pixels, params: CRFParams) -> tuple[Grid, Sequence[Tensor]]:
    """Build the operator N K of one kernel of position alone on a grid."""
    thetas = theta if isinstance(theta, tuple) else (theta,) * len(p.spacing)
    deviation = [one / s for one, s in zip(thetas, p.spacing, strict=True)]
    if p.inside is None:
        return Grid(p.size, deviation, params.normalization, params.self_term), ()
    # The normaliser depends on the mask, so it is computed here; the grid gets none.
    grid = Grid(p.size, deviation, "none", True)
    none = p.inside.new_empty(0)
    diagonal = none if params.self_term else grid_diagonal(p.inside, p.size, deviation)
    raw = partial(grid_filtered, grid, [none, none, diagonal])
    return grid, [*_scales(raw, p.inside, p.inside, params), diagonal]


def exact(gaussians: Sequence[Gaussian], p: Pixels, params: CRFParams) -> list[Message]:
    """Return the exact operator N K of each kernel, in O(N^2)."""
    return [exact_kernel(gaussian.features(p), p.inside, params) for gaussian in gaussians]


def exact_kernel(features: Tensor, inside: Tensor | None, params: CRFParams) -> Message:
    """Return the exact operator N K of features [B, N, D]; `inside` as in `lattice_build`."""
    raw = _exact_filter(features, params.self_term)
    scales = (*_scales(raw, features, inside, params), features.new_empty(0))
    return partial(scaled, raw, scales)


def _exact_filter(features: Tensor, self_term: bool) -> Message:
    return lambda values: exact_filter(values, features, self_term)


def _scales(
    raw: Message, like: Tensor, inside: Tensor | None, params: CRFParams
) -> tuple[Tensor, Tensor]:
    """Return the factors `before` and `after` that turn K (`raw`) into N K; 0 outside the mask.

    `like` is a tensor [B, N, D] of the kernel's B, N and dtype.
    """
    before = after = None
    normalize = normalizer(params.normalization)
    if normalize.needs_mass:
        ones = like.new_ones(*like.shape[:2], 1) if inside is None else inside
        before, after = normalize.scales(raw(ones), torch)  # [B, N, 1]
    if inside is not None:
        before, after = (
            inside if scale is None else inside * scale for scale in (before, after)
        )
    none = like.new_empty(0)
    return none if before is None else before, none if after is None else after
