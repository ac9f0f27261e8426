"""The Gaussian kernel itself as an operator, in O(N^2) time: no lattice, no grid, no engine.

K is worked out tile by tile with torch's own arithmetic, wherever the tensors are, and forgotten
again, so memory is O(N). This file knows no image and no mean field.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from .dispatch import operator
from .ops import no_second_derivative, nothing_to_keep

# Bytes of a tile. On CPUs 1024 x 1024 float32 was the fastest of 128 to 2048: it and a scratch tile
# fit the caches. On a device the work on a tile must be long beside the launch of a kernel.
_TILE = {"cpu": 2**22, "device": 2**26}


def tile_side(like: Tensor) -> int:
    """Rows and columns of a tile of K, for the dtype and the device of `like`."""
    size = _TILE["cpu" if like.device.type == "cpu" else "device"]
    return math.isqrt(size // like.element_size())


class _Tiles:
    """Tiles of K, one at a time, for N points; in memory that serves for all of them.

    Memory of their own each would cost more time than the arithmetic, in page faults.
    """

    def __init__(self, like: Tensor, points: int) -> None:
        self._points = points
        self._side = min(tile_side(like), points)
        self._room = like.new_empty(2, self._side * self._side)
        # K below this counts as 0 (float32: 1e-31), as its products would leave the normal range
        # of numbers, where processors take ten times as long.
        normal = torch.finfo(like.dtype)
        self._least_exponent = math.log(normal.tiny / normal.eps)

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of the tiles on and above the diagonal; K is symmetric."""
        begins = range(0, self._points, self._side)
        cuts = [slice(begin, min(begin + self._side, self._points)) for begin in begins]
        for i, rows in enumerate(cuts):
            for columns in cuts[i:]:
                yield rows, columns

    def kernel(self, planes: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """A tile of K from the features of one image [D, N], and scratch memory of its shape.

        By differences: |f_i|^2 + |f_j|^2 - 2 f_i . f_j would lose in float32 what is small beside
        |f_i|^2. So K_ii is 1, and pixels far from the origin are as good as others.
        """
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        exponent, scratch = (room[: shape[0] * shape[1]].view(shape) for room in self._room)
        exponent.zero_()
        for plane in planes:
            torch.sub(plane[rows, None], plane[columns], out=scratch)
            exponent.addcmul_(scratch, scratch, value=-0.5)
        torch.threshold_(exponent, self._least_exponent, -math.inf)
        return exponent.exp_(), scratch


def _side_by_side(values: Tensor, groups: int) -> Tensor:
    """Values [B, N, C]; where one kernel serves all images, as [1, N, B * C]."""
    if groups == len(values):
        return values
    return values.transpose(0, 1).flatten(1)[None]


def _check_shapes(values: Tensor, features: Tensor) -> None:
    if values.dtype != features.dtype:
        raise TypeError(f"values has dtype {values.dtype} but features {features.dtype}")
    groups, points = features.shape[:2]
    if values.dim() != 3 or values.shape[1] != points or groups not in (1, len(values)):
        raise ValueError(
            f"values has shape {tuple(values.shape)} but features {tuple(features.shape)}; give "
            f"[B, {points}, C]"
        )


# --- filter --------------------------------------------------------------------------------------


@operator("densecrf_rnn::exact_filter")
def exact_filter(values: Tensor, features: Tensor, self_term: bool) -> Tensor:
    """K values, where K_ij = exp(-|f_i - f_j|^2 / 2); with K_ii = 0 if there is no self term.

    Parameters
    ----------
    values : Tensor [B, N, C], float32 or float64
    features : Tensor [B, N, D], or [1, N, D] for all images, in bandwidths
        Of the dtype and on the device of `values`.

    Raises
    ------
    TypeError, ValueError
        `values` and `features` do not go together.

    Notes
    -----
    [CRF-RNN] section 3. O(N^2 (D + C)) time, O(N) memory. Matrix products are as exact as
    torch.set_float32_matmul_precision asks, by default fully.
    """
    _check_shapes(values, features)
    given = _side_by_side(values, len(features))
    out = torch.zeros_like(given, memory_format=torch.contiguous_format)
    tiles = _Tiles(features, features.shape[1])
    for planes, v, found in zip(features.mT.contiguous(), given, out, strict=True):
        for rows, columns in tiles.places():
            kernel, _ = tiles.kernel(planes, rows, columns)
            if rows != columns:
                found[columns].addmm_(kernel.T, v[rows])
            elif not self_term:
                kernel.fill_diagonal_(0)
            found[rows].addmm_(kernel, v[columns])
    if len(features) == len(values):
        return out
    batch, points, channels = values.shape
    return out.reshape(points, batch, channels).transpose(0, 1).contiguous()


@exact_filter.register_fake
def _(values: Tensor, features: Tensor, self_term: bool) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _filter_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, features, ctx.self_term = inputs
    ctx.save_for_backward(values if ctx.needs_input_grad[1] else None, features)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, features = ctx.saved_tensors
    d_values = d_features = None
    if ctx.needs_input_grad[0]:
        d_values = exact_filter(grad, features, ctx.self_term)  # K is its own transpose
    if ctx.needs_input_grad[1]:
        d_features = exact_feature_gradient(values, grad, features)
    return d_values, d_features, None


exact_filter.register_autograd(_filter_backward, setup_context=_filter_setup_context)


# --- its gradient for features -------------------------------------------------------------------


@operator("densecrf_rnn::exact_feature_gradient")
def exact_feature_gradient(values: Tensor, cotangent: Tensor, features: Tensor) -> Tensor:
    """The gradient of <cotangent, K values> for the features, in their shape.

    With S_ij = K_ij (<g_i, v_j> + <v_i, g_j>) that of f_i is the sum over j of S_ij (f_j - f_i).
    A pixel's term with itself is 0, so whether K has it does not matter.
    """
    _check_shapes(values, features)
    _check_shapes(cotangent, features)
    groups = len(features)
    v, g = _side_by_side(values, groups), _side_by_side(cotangent, groups)
    left, right = torch.cat([g, v], -1), torch.cat([v, g], -1)
    out = features.new_zeros(groups, features.shape[2], features.shape[1])  # [., D, N]
    tiles = _Tiles(features, features.shape[1])
    for planes, a, b, found in zip(features.mT.contiguous(), left, right, out, strict=True):
        for rows, columns in tiles.places():
            s, scratch = tiles.kernel(planes, rows, columns)
            s.mul_(torch.mm(a[rows], b[columns].T, out=scratch))
            for plane, d_plane in zip(planes, found, strict=True):
                pull = torch.sub(plane[columns], plane[rows, None], out=scratch).mul_(s)
                d_plane[rows] += pull.sum(1)
                if rows != columns:
                    d_plane[columns] -= pull.sum(0)
    return out.mT.contiguous()


@exact_feature_gradient.register_fake
def _(values: Tensor, cotangent: Tensor, features: Tensor) -> Tensor:
    return features.new_empty(features.shape)


exact_feature_gradient.register_autograd(no_second_derivative, setup_context=nothing_to_keep)


# --- what comes in -------------------------------------------------------------------------------


@operator("densecrf_rnn::checked")
def checked(
    logits: Tensor, guides: Sequence[Tensor], names: str, theta_beta: float
) -> Tensor:
    """A copy of the logits, once their values and those of the guides have been looked at.

    The guides' names stand one to a line.

    An operator, so that a compiled graph looks as well: nothing else here refuses NaN.
    """
    for guide, name in zip(guides, names.split("\n"), strict=True):
        checks.image_values(guide, theta_beta, name)
    checks.logits_values(logits, batched=True)
    return logits.clone(memory_format=torch.contiguous_format)


@checked.register_fake
def _(
    logits: Tensor, guides: Sequence[Tensor], names: str, theta_beta: float
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _checked_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grad, [None] * ctx.guides, None, None


def _checked_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.guides = len(inputs[1])


checked.register_autograd(_checked_backward, setup_context=_checked_setup_context)
