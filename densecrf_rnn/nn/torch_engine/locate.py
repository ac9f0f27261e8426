"""Find the simplex of each point, with the operations and the rounding of cpp/core/simplex.hpp.

Arrays are planes [d+1, P]: one row per coordinate, or per corner, of P points.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._limits import FILTER_VARIANCE, MAX_ELEVATED_FLOAT32, MAX_ELEVATED_FLOAT64

_LIMITS = {torch.float32: MAX_ELEVATED_FLOAT32, torch.float64: MAX_ELEVATED_FLOAT64}


class Simplices(NamedTuple):
    """The simplex of each point; vertex k is (d+1) (quotient_j - [rank_j > d-k]) + k, j = 0..d."""

    quotient: Tensor  # [d+1, P] int64
    rank: Tensor  # [d+1, P] int64
    weight: Tensor  # [d+1, P], barycentric weights of the vertices


def elevation_scale(dims: int, dtype: torch.dtype) -> list[float]:
    """Return the scale of each feature that gives the filter unit variance, rounded to `dtype`."""
    of: Any = np.float32 if dtype == torch.float32 else np.float64
    common = float(of(np.sqrt(FILTER_VARIANCE) * (dims + 1)))
    i = np.arange(dims, dtype=np.float64)
    return [float(of(s)) for s in common / np.sqrt((i + 1) * (i + 2))]


def indexable(features: Tensor) -> Tensor:
    """Return whether features [B, N, D] are finite and within the lattice's coordinates, []."""
    dims = features.shape[2]
    reach = features.abs().amax((0, 1))
    scale = elevation_scale(dims, features.dtype)
    # One by one, because a tensor of these numbers would be copied to the device, and waited for.
    bound = torch.stack([reach[i] * (s * (i + 1)) for i, s in enumerate(scale)]).sum()
    return bound <= _LIMITS[features.dtype]  # False for NaN


def locate(features: Tensor) -> Simplices:
    """Find the simplices of the points features [B, N, D], which are `indexable`; P = B N.

    Every operation is a call of its own, because a compiler could contract two of them to one with
    another rounding, and points on faces would change their simplex.
    """
    dims = features.shape[2]
    scale = elevation_scale(dims, features.dtype)
    up, down = _up_down(dims, features)
    rows = features.reshape(-1, dims).T
    total = torch.zeros_like(rows[0], memory_format=torch.contiguous_format)
    elevated: list[Tensor] = []
    for j in range(dims, 0, -1):
        scaled = rows[j - 1] * scale[j - 1]
        elevated.append(total - scaled * j)
        total = total + scaled
    planes = torch.stack([total, *elevated[::-1]])
    rounded = torch.round(planes * down)  # ties to even
    delta = planes - rounded * up
    quotient = rounded.long()
    rank = _ranks(delta) + quotient.sum(0)
    low, high = rank < 0, rank > dims
    turn = low.long() - high.long()
    rank += turn * (dims + 1)
    quotient += turn
    delta = (delta - turn * up) * down
    ordered = torch.empty_like(delta).scatter_(0, rank, delta)
    weight = torch.empty_like(delta)
    weight[0] = 1 + (ordered[dims] - ordered[0])
    for k in range(1, dims + 1):
        weight[k] = ordered[dims - k] - ordered[dims - k + 1]
    return Simplices(quotient, rank, weight)


def _within_reach(features: Tensor) -> Tensor:
    """Return features with 0 in place of points that `locate` cannot take: not `indexable`.

    The features were checked before the forward pass, but their memory may have changed since.
    """
    scale = elevation_scale(features.shape[2], features.dtype)
    reach = sum(features[..., i].abs() * (s * (i + 1)) for i, s in enumerate(scale))
    assert isinstance(reach, Tensor)
    return torch.where((reach <= 1.25 * _LIMITS[features.dtype])[..., None], features, 0)


def _up_down(dims: int, like: Tensor) -> tuple[float, float]:
    """Return d + 1 and its reciprocal, rounded to the dtype of `like`."""
    of: Any = np.float32 if like.dtype == torch.float32 else np.float64
    return float(dims + 1), float(of(1) / of(dims + 1))


def _ranks(delta: Tensor) -> Tensor:
    """Return the rank of each delta among those of its point, the largest first."""
    corners = len(delta)
    rank = torch.zeros_like(delta, dtype=torch.int64)
    for i in range(corners - 1):
        below = delta[i] < delta[i + 1 :]  # ties: the lower axis gets the lower rank
        rank[i] += below.sum(0)
        rank[i + 1 :] += ~below
    return rank


def feature_gradient(features: Tensor, d_weight: Tensor) -> Tensor:
    """Return the gradient with respect to features [B, N, D].

    `d_weight` [B, N, D+1] is the gradient with respect to the barycentric weights.
    """
    dims = features.shape[2]
    if features.numel() == 0:
        return torch.zeros_like(features, memory_format=torch.contiguous_format)
    scale = elevation_scale(dims, features.dtype)
    _, down = _up_down(dims, features)
    rise = dims - locate(_within_reach(features.detach())).rank
    planes = d_weight.reshape(-1, dims + 1).T
    d_elevated = (planes.gather(0, rise) - planes.gather(0, (rise + 1) % (dims + 1))) * down
    total, found = d_elevated[0], []
    for j in range(1, dims + 1):
        found.append(scale[j - 1] * (total - d_elevated[j] * j))
        total = total + d_elevated[j]
    return torch.stack(found, dim=1).reshape(features.shape)
