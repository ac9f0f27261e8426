"""Exact filtering with the Gaussian kernel as an operator, in O(N^2) time, without any engine.

K is computed tile by tile with torch's own arithmetic, on the tensors' device. Tiles are not kept,
so memory is O(N).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .dispatch import empty_like, no_second_derivative, operator
from .kernels import check_filtered

# Bytes of a tile of K. On CPUs a side of 1024 float32 was the fastest of 128 to 2048: the tile and
# a scratch tile fit the caches. On a device the work on a tile must take long compared with the
# launch of a GPU program.
_TILE = {"cpu": 2**22, "device": 2**26}


def tile_side(like: Tensor) -> int:
    """Return the side length of a tile of K for the dtype and the device of `like`."""
    size = _TILE["cpu" if like.device.type == "cpu" else "device"]
    return math.isqrt(size // like.element_size())


class _Tiles:
    """Computes the tiles of K for N points one at a time, reusing the same memory.

    If memory were allocated for each tile, page faults would take longer than the arithmetic.
    """

    def __init__(self, like: Tensor, points: int) -> None:
        self._points = points
        self._side = min(tile_side(like), points)
        self._room = like.new_empty(2, self._side * self._side)
        # Entries of K below exp(least exponent) (float32: 1e-31) are set to 0: their products would
        # be subnormal numbers, with which processors take ten times as long.
        normal = torch.finfo(like.dtype)
        self._least_exponent = math.log(normal.tiny / normal.eps)

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of the tiles on and above the diagonal; K is symmetric."""
        begins = range(0, self._points, self._side)
        cuts = [slice(begin, min(begin + self._side, self._points)) for begin in begins]
        for i, rows in enumerate(cuts):
            for columns in cuts[i:]:
                yield rows, columns

    def kernel(self, planes: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return a tile of K from one image's features [D, N], and scratch memory of its shape.

        It is computed from differences of features, because in float32 |f_i|^2 + |f_j|^2 - 2 f_i .
        f_j cancels where distances are small compared with |f_i|. So K_ii is exactly 1, and the
        accuracy does not depend on the origin.
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
    """Return values [B, N, C] as they are, or as [1, N, B * C] if all images share one kernel."""
    if groups == len(values):
        return values
    return values.transpose(0, 1).flatten(1)[None]


# --- filter --------------------------------------------------------------------------------------


@operator("densecrf_rnn::exact_filter")
def exact_filter(values: Tensor, features: Tensor, self_term: bool) -> Tensor:
    """Return K values, where K_ij = exp(-|f_i - f_j|^2 / 2); K_ii = 0 without a self term.

    Parameters
    ----------
    values : Tensor [B, N, C], float32 or float64
    features : Tensor [B, N, D], or [1, N, D] shared by all images
        Already divided by the bandwidths; dtype and device of `values`.

    Raises
    ------
    TypeError, ValueError
        `values` and `features` differ in dtype, or their shapes do not match.

    Notes
    -----
    [CRF-RNN] section 3. O(N^2 (D + C)) time, O(N) memory. The precision of matrix products is that
    of torch.set_float32_matmul_precision, by default full float32.
    """
    check_filtered(values, features, "features")
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


exact_filter.register_fake(empty_like)


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


# --- gradient with respect to the features -------------------------------------------------------


@operator("densecrf_rnn::exact_feature_gradient")
def exact_feature_gradient(values: Tensor, cotangent: Tensor, features: Tensor) -> Tensor:
    """Return the gradient of <cotangent, K values> with respect to `features`, in their shape.

    With v for values, g for cotangent and S_ij = K_ij (<g_i, v_j> + <v_i, g_j>), the gradient with
    respect to the features f_i of point i is the sum over j of S_ij (f_j - f_i). The term i = j is
    0, so the gradient does not depend on the self term.
    """
    check_filtered(values, features, "features")
    check_filtered(cotangent, features, "features")
    groups = len(features)
    v, g = _side_by_side(values, groups), _side_by_side(cotangent, groups)
    left, right = torch.cat([g, v], -1), torch.cat([v, g], -1)
    out = features.new_zeros(groups, features.shape[2], features.shape[1])  # [B or 1, D, N]
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


exact_feature_gradient.register_autograd(no_second_derivative)
