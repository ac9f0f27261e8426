"""Mean field that leaves out labels which provably do not matter, slow and in plain NumPy.

A tile is a set of points. The blurred values at the vertices (or grid cells) that its points read
bound every message in the tile from both sides, so they bound the marginals too. A label whose
marginal is at most `delta` at all points of the tile is left out there, in this iteration: its
marginal counts as 0. The bound is derived anew in every iteration, so a label comes back as soon as
it may matter.

The bound. Let U be the logits, C_m = mu W_m, and M_m(l) the message of kernel m about label l. For
any label k the marginal of l is at most

    q(l) <= q(l) / q(k) = exp(U(l) - U(k) + sum_m sum_l' (C_m[k, l'] - C_m[l, l']) M_m(l')).

A point reads its message from its vertices v as sum_v weight_v V_v(l), with weights >= 0. It is the
point's total, sum_l M_m(l), times a convex mean of the shares V_v(l) / sum_l' V_v(l'). So the
greatest and the least share at the tile's vertices bound M_m(l) / total. The total is at most the
point's R, the message if every point sends 1, and at least (1 - L delta) R, because each of L
labels of a sender lacks at most delta. N points, L labels, T iterations.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .._typing import Array


class Kernel(NamedTuple):
    """A kernel whose message is sum_c weights[:, c] * V[corners[:, c]] - own * q."""

    corners: Array  # [N, c] int: rows of V that each point reads, vertices or grid cells
    weights: Array  # [N, c], at least 0, with all scales of the receiving point
    spread: Callable[[Array], Array]  # values [N, L] of the points to values V [M, L], at least 0
    own: Array | None = None  # [N], at least 0: factor of the removed diagonal term; None: kept

    def slice(self, spread: Array, values: Array) -> Array:
        """Compute the messages [N, L] from V, the result of `spread(values)`."""
        found = np.zeros_like(values)
        for corner, weight in zip(self.corners.T, self.weights.T, strict=True):
            found += weight[:, None] * spread[corner]
        return found if self.own is None else found - self.own[:, None] * values


class Bounds(NamedTuple):
    """Bounds of one kernel's messages in one tile, for each label."""

    low: Array  # [L]
    high: Array  # [L]


class State(NamedTuple):
    """The logits at the start of an iteration, and what is kept of their marginals."""

    refined: Array  # [N, L]
    kept: Array  # [tiles, L] bool
    marginals: Array  # [N, L]; 0 for labels that are not kept


def states(
    logits: Array,
    kernels: Sequence[Kernel],
    coupling: Array,
    tiles: Sequence[Array],
    delta: float,
    iterations: int,
) -> list[State]:
    """Run all iterations and return the state before each of them and after the last.

    Parameters
    ----------
    logits : ndarray [N, L]
    kernels : sequence of K `Kernel`
    coupling : ndarray [K, L, L]
        mu W of each kernel; columns are the sender's label.
    tiles : sequence of ndarrays of int
        Indices of each tile's points; every point is in one tile.
    delta : float, 0 <= delta < 1 / L
        The maximum marginal of a label that is left out.
    iterations : int

    Returns
    -------
    list of T + 1 states
        Of each label, no marginal is lower than that of the softmax of `refined` by more than
        `delta`. Marginals that are kept are higher, so that they sum to 1.
    """
    received = [k.slice(k.spread(np.ones_like(logits[:, :1])), np.ones_like(logits[:, :1]) * 0)
                for k in kernels]  # fmt: skip
    refined = logits
    spread: list[Array] | None = None
    found: list[State] = []
    for iteration in range(iterations + 1):
        bounds = [
            [] if spread is None else [
                message_bounds(kernel, values, total[:, 0], tile, delta)
                for kernel, values, total in zip(kernels, spread, received, strict=True)
            ]
            for tile in tiles
        ]
        kept = np.stack([
            needed(logits[tile], of_tile, coupling, delta)
            for tile, of_tile in zip(tiles, bounds, strict=True)
        ]) if tiles else np.zeros((0, logits.shape[1]), bool)
        marginals = np.empty_like(refined)
        for tile, labels in zip(tiles, kept, strict=True):
            marginals[tile] = softmax(np.where(labels, refined[tile], -np.inf))
        found.append(State(refined, kept, marginals))
        if iteration < iterations:
            spread = [kernel.spread(marginals) for kernel in kernels]
            messages = [k.slice(v, marginals) for k, v in zip(kernels, spread, strict=True)]
            refined = logits - sum(m @ c.T for m, c in zip(messages, coupling, strict=True))
    return found


def message_bounds(
    kernel: Kernel, spread: Array, received: Array, tile: Array, delta: float
) -> Bounds:
    """Bound the messages of one kernel to the points of a tile.

    `spread` [M, L] is V, and `received` [N] is R: each point's message if every point sends 1.
    """
    labels = spread.shape[1]
    read = kernel.corners[tile][kernel.weights[tile] > 0]
    values = spread[np.unique(read)].astype(np.float64)
    totals = values.sum(1)
    values = values[totals > 0] / totals[totals > 0, None]  # the others send nothing
    if len(values) == 0:
        return Bounds(np.zeros(labels), np.zeros(labels))
    high = values.max(0) * received[tile].max()
    low = values.min(0) * received[tile].min() * (1 - labels * delta)
    if kernel.own is not None:  # the removed term is at most that of a marginal of 1
        low = np.maximum(low - kernel.own[tile].max(), 0)
    return Bounds(low, high)


def needed(logits: Array, bounds: Sequence[Bounds], coupling: Array, delta: float) -> Array:
    """Return which labels may have a marginal above `delta` at a point of a tile. [L] bool

    Parameters
    ----------
    logits : ndarray [n, L]
        The logits U at the tile's points.
    bounds : sequence of Bounds
        Of each kernel's messages to the tile; empty before the first message.
    coupling : ndarray [K, L, L]
    """
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    greatest, least = shifted.max(0), shifted.min(0)
    penalty = np.zeros(logits.shape[1])  # upper bound of sum_m (C_m M_m)(l)
    for c, (low, high) in zip(coupling.astype(np.float64), bounds):
        penalty += np.maximum(c, 0) @ high + np.minimum(c, 0) @ low
    best = int(np.argmax(least - penalty))  # k, the label that is certainly the most probable
    if least[best] == -np.inf:  # every label is excluded somewhere in the tile
        return greatest > -np.inf
    ratio = greatest - least[best]  # upper bound of log q(l) / q(k)
    for c, (low, high) in zip(coupling.astype(np.float64), bounds):
        difference = c[best] - c
        ratio += np.maximum(difference, 0) @ high + np.minimum(difference, 0) @ low
    with np.errstate(divide="ignore"):
        return ratio > np.log(delta)


def softmax(logits: Array) -> Array:
    """Compute the marginals of each row. [N, L]"""
    q = np.exp(logits - logits.max(axis=1, keepdims=True))
    return q / q.sum(axis=1, keepdims=True)


def grid_kernel(
    axes: Sequence[tuple[Array, Array, Array, Array, int]],
    pixel: Array | None,
    before: Array | None,
    after: Array | None,
    diagonal: Array | None,
) -> Kernel:
    """Return the kernel on a grid.

    Parameters
    ----------
    axes : sequence of (cell [n], splat [n, 3], slice [n, 3], band [2 r + 1], cells)
        Of each axis: the first of a pixel's three cells, the pixel's weights for them in splat and
        slice, the blur between cells, and the number of cells.
    pixel : ndarray [N] or None
        The pixel of each point; None: all pixels.
    before, after, diagonal : ndarrays [N] or None
        The kernel is after * (K - diag(diagonal)) before.
    """
    size = tuple(len(cell) for cell, *_ in axes)
    points = np.arange(np.prod(size)) if pixel is None else pixel
    corners, weights = np.zeros((len(points), 1), np.int64), np.ones((len(points), 1))
    for (cell, _, taps, _, cells), at in zip(axes, np.unravel_index(points, size), strict=True):
        along = cell[at][:, None] + np.arange(3)
        corners = (corners[:, :, None] * cells + along[:, None, :]).reshape(len(points), -1)
        weights = (weights[:, :, None] * taps[at][:, None, :]).reshape(len(points), -1)

    def spread(values: Array) -> Array:
        field = np.zeros((int(np.prod(size)), values.shape[1]))
        field[points] = values if before is None else values * before[:, None]
        field = field.reshape(*size, -1)
        for axis, (cell, splat, _, band, cells) in enumerate(axes):
            matrix = np.zeros((cells, len(cell)))  # transposed: from pixels to cells
            np.add.at(matrix, (cell[:, None] + np.arange(3), np.arange(len(cell))[:, None]), splat)
            r = len(band) // 2
            blur = sum(b * np.eye(cells, k=k - r) for k, b in enumerate(band))
            field = np.moveaxis(np.tensordot(blur @ matrix, field, (1, axis)), 0, axis)
        return field.reshape(-1, values.shape[1]).astype(values.dtype)

    return Kernel(corners, scaled(weights, after), spread, own(before, after, diagonal))


def scaled(weights: Array, after: Array | None) -> Array:
    """Multiply the weights [N, c] of each point by its scale. [N, c]"""
    return weights if after is None else weights * after[:, None]


def own(before: Array | None, after: Array | None, diagonal: Array | None) -> Array | None:
    """Return the factor of each point's own marginal that is removed from its message. [N]"""
    if diagonal is None:
        return None
    return diagonal * (1 if before is None else before) * (1 if after is None else after)
