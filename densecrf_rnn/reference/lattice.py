"""The permutohedral lattice in Numba: every phase a plain loop, the numerics all engines share.

Serves as the reference for the native engines and stands in for them where none was compiled.
Phases carry the same names as in C++: locate, build, splat, blur, slice. Serial on purpose.
"""

from typing import Any

import numpy as np

from .._typing import Array
from .compiled import compiled


def elevation_scale(dims: int, dtype: Any) -> Array:
    """Scale of each feature that makes splat + blur + slice a Gaussian of unit deviation. [d]

    The first factor is rounded to `dtype` by itself, as in pydensecrf: points on faces of simplices
    then fall to the side they do there.
    """
    i = np.arange(dims, dtype=np.float64)
    common = np.float64(np.dtype(dtype).type(np.sqrt(2.0 / 3.0) * (dims + 1)))
    return (common / np.sqrt((i + 1) * (i + 2))).astype(dtype)


@compiled
def _locate(feature, scale, up, down, elevated, delta, rank, quotient, weight):
    """The simplex of one point: quotient and rank of each axis, weight of each corner. [d+1] each

    Corner k has the coordinates (d+1) (quotient_j - [rank_j > d-k]) + k, so k is its remainder.
    """
    d = feature.size
    total = up - up  # a zero of the array's own type
    for j in range(d, 0, -1):
        scaled = feature[j - 1] * scale[j - 1]
        elevated[j] = total - delta.dtype.type(j) * scaled
        total += scaled
    elevated[0] = total

    excess = 0
    for j in range(d + 1):
        rounded = np.rint(elevated[j] * down)  # ties go to even
        quotient[j] = int(rounded)
        delta[j] = elevated[j] - rounded * up
        excess += quotient[j]
        rank[j] = 0
    for i in range(d):
        for j in range(i + 1, d + 1):
            if delta[i] < delta[j]:  # ties: the lower axis ranks first
                rank[i] += 1
            else:
                rank[j] += 1
    for j in range(d + 1):
        rank[j] += excess
        if rank[j] < 0:
            rank[j] += d + 1
            quotient[j] += 1
            delta[j] -= up
        elif rank[j] > d:
            rank[j] -= d + 1
            quotient[j] -= 1
            delta[j] += up
        elevated[rank[j]] = delta[j] * down  # from here on: the deltas by rank, in units of d+1
    weight[0] = delta.dtype.type(1) + (elevated[d] - elevated[0])
    for k in range(1, d + 1):
        weight[k] = elevated[d - k] - elevated[d - k + 1]


@compiled
def _slot(coordinate, coordinates, table):
    """Where the vertex `coordinate` [d+1] is in the hash table, or the free slot for it."""
    h = np.uint64(0)
    for j in range(coordinate.size - 1):  # the last coordinate follows from the others
        h = (h ^ np.uint64(coordinate[j])) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(32)
    mask = table.size - 1
    at = np.int64(h & np.uint64(mask))
    while table[at] >= 0:
        same = True
        for j in range(coordinate.size - 1):
            if coordinates[table[at], j] != coordinate[j]:
                same = False
                break
        if same:
            break
        at = (at + 1) & mask
    return at


@compiled
def _grown(coordinates, count, table):
    """A table of twice the size that holds the first `count` vertices, and room for as many."""
    table = np.full(2 * table.size, -1, np.int64)
    room = np.empty((table.size // 2 + 1, coordinates.shape[1]), np.int64)
    room[:count] = coordinates[:count]
    for v in range(count):
        table[_slot(room[v], room, table)] = v
    return room, table


@compiled
def _vertex(coordinate, coordinates, count, table):
    """The vertex at `coordinate`, made if it is new; with it what may have grown."""
    at = _slot(coordinate, coordinates, table)
    if table[at] < 0:
        if 2 * count >= table.size:
            coordinates, table = _grown(coordinates, count, table)
            at = _slot(coordinate, coordinates, table)
        coordinates[count] = coordinate
        table[at] = count
        count += 1
    return table[at], coordinates, count, table


@compiled
def _step(start, axis, sense, coordinate):
    """Write the vertex one step along `axis` from `start`; sense 0 is back, 1 is forth."""
    step = 1 if sense == 1 else -1
    for j in range(start.size):
        coordinate[j] = start[j] + step
    coordinate[axis] = start[axis] - step * (start.size - 1)


@compiled
def _build(features, scale, filled, vertex, weight, neighbour):
    points, d = features.shape
    up = features.dtype.type(d + 1)
    down = features.dtype.type(1) / up
    elevated = np.empty(d + 1, features.dtype)
    delta = np.empty(d + 1, features.dtype)
    rank = np.empty(d + 1, np.int64)
    quotient = np.empty(d + 1, np.int64)
    coordinate = np.empty(d + 1, np.int64)
    table = np.full(1 << 12, -1, np.int64)
    coordinates = np.empty((table.size // 2 + 1, d + 1), np.int64)
    count = 0
    for p in range(points):
        _locate(features[p], scale, up, down, elevated, delta, rank, quotient, weight[p])
        for k in range(d + 1):
            for j in range(d + 1):
                coordinate[j] = (d + 1) * (quotient[j] - (rank[j] > d - k)) + k
            v, coordinates, count, table = _vertex(coordinate, coordinates, count, table)
            vertex[p, k] = v

    if filled:
        for v in range(count):  # of the touched ones alone: one ring
            for axis in range(d + 1):
                for sense in range(2):
                    _step(coordinates[v], axis, sense, coordinate)
                    _, coordinates, count, table = _vertex(coordinate, coordinates, count, table)

    for v in range(count):
        for axis in range(d + 1):
            for sense in range(2):
                _step(coordinates[v], axis, sense, coordinate)
                found = table[_slot(coordinate, coordinates, table)]
                neighbour[(axis * count + v) * 2 + sense] = found if found >= 0 else count
    return count


@compiled
def _feature_gradient(features, scale, d_weight, out):
    """The chain rule through `_locate`; rounding and ranks are constant inside a simplex."""
    points, d = features.shape
    up = features.dtype.type(d + 1)
    down = features.dtype.type(1) / up
    elevated = np.empty(d + 1, features.dtype)
    delta = np.empty(d + 1, features.dtype)
    rank = np.empty(d + 1, np.int64)
    quotient = np.empty(d + 1, np.int64)
    weight = np.empty(d + 1, features.dtype)
    for p in range(points):
        _locate(features[p], scale, up, down, elevated, delta, rank, quotient, weight)
        for j in range(d + 1):  # of elevated[j], over the delta of its rank
            k = d - rank[j]
            elevated[j] = (d_weight[p, k] - d_weight[p, (k + 1) % (d + 1)]) * down
        total = elevated[0]
        for j in range(1, d + 1):
            out[p, j - 1] = scale[j - 1] * (total - features.dtype.type(j) * elevated[j])
            total += elevated[j]


@compiled
def _splat(vertex, weight, vertices, values):
    """S' values; the last of its [M+1, C] rows stays zero: the missing vertices."""
    out = np.zeros((vertices + 1, values.shape[1]), values.dtype)
    for p in range(len(vertex)):
        for k in range(vertex.shape[1]):
            for c in range(values.shape[1]):
                out[vertex[p, k], c] += weight[p, k] * values[p, c]
    return out


@compiled
def _blur_axes(front, neighbour, reverse):
    """Each axis in turn, first to last or in reverse."""
    corners, vertices = neighbour.shape[:2]
    half = front.dtype.type(0.5)
    back = np.zeros_like(front)
    for step in range(corners):
        axis = corners - 1 - step if reverse else step
        for v in range(vertices):
            left = neighbour[axis, v, 0]
            right = neighbour[axis, v, 1]
            for c in range(front.shape[1]):
                back[v, c] = front[v, c] + half * (front[left, c] + front[right, c])
        front, back = back, front
    return front


@compiled
def _blur(front, neighbour, symmetric, transpose):
    if not symmetric:
        return _blur_axes(front, neighbour, transpose)
    forward = _blur_axes(front.copy(), neighbour, False)
    return front.dtype.type(0.5) * (forward + _blur_axes(front, neighbour, True))


@compiled
def _filter(vertex, weight, neighbour, symmetric, transpose, alpha, values, out):
    points, corners = vertex.shape
    front = _splat(vertex, weight, neighbour.shape[1], values)
    front = _blur(front, neighbour, symmetric, transpose)
    for p in range(points):  # slice
        for c in range(values.shape[1]):
            out[p, c] = 0
        for k in range(corners):
            scaled = alpha[0] * weight[p, k]
            for c in range(values.shape[1]):
                out[p, c] += scaled * front[vertex[p, k], c]


@compiled
def _filter_weight_gradient(
    vertex, weight, neighbour, symmetric, transpose, alpha, values, cotangent, out
):
    """Weights act twice: they slice what came of `values` and splat what goes into `cotangent`."""
    vertices = neighbour.shape[1]
    sliced = _blur(_splat(vertex, weight, vertices, values), neighbour, symmetric, transpose)
    splatted = _splat(vertex, weight, vertices, cotangent)
    splatted = _blur(splatted, neighbour, symmetric, not transpose)
    for p in range(len(vertex)):
        for k in range(vertex.shape[1]):
            v = vertex[p, k]
            total = alpha[0] - alpha[0]
            for c in range(values.shape[1]):
                total += cotangent[p, c] * sliced[v, c] + values[p, c] * splatted[v, c]
            out[p, k] = alpha[0] * total


@compiled
def _route(start, between, side, sense, neighbour, half):
    """The product of a walk along the axes where `between` is `side`; 0 if a vertex is missing."""
    at = start
    product = half + half
    for axis in range(between.size):
        if between[axis] == side:
            at = neighbour[axis, at, sense]
            if at == neighbour.shape[1]:
                return half - half
            product *= half
    return product


@compiled
def _shares(corner, neighbour, share):
    """What the corners of one pixel [d+1] hear of one another, both ways, in share[a, b >= a].

    A step along every axis in one sense closes, so between two corners there are just two routes:
    the axes that separate them in one sense, or all the others in the opposite one. Blurring the
    axes in reverse order walks the same routes the other way, so all qualities share this.
    """
    corners = corner.size
    half = share.dtype.type(0.5)
    path = np.zeros(corners, np.int64)  # the axis that leads from corner k to corner k + 1
    for k in range(corners - 1):
        for axis in range(corners):
            if neighbour[axis, corner[k], 1] == corner[k + 1]:
                path[k] = axis
    for a in range(corners):
        between = np.zeros(corners, np.bool_)
        for b in range(a, corners):
            if b > a:
                between[path[b - 1]] = True
            total = _route(corner[a], between, False, 0, neighbour, half)
            if b > a:
                total += _route(corner[a], between, True, 1, neighbour, half)
                # and the way back, from b to a, in the opposite senses
                total += _route(corner[b], between, True, 0, neighbour, half)
                total += _route(corner[b], between, False, 1, neighbour, half)
            else:
                total += _route(corner[a], between, False, 1, neighbour, half) + half + half
            share[a, b] = total


@compiled
def _self_response(vertex, weight, neighbour, alpha, out):
    """What a pixel receives of its own value, over all pairs of its corners."""
    points, corners = vertex.shape
    share = np.zeros((corners, corners), weight.dtype)
    for p in range(points):
        _shares(vertex[p], neighbour, share)
        total = alpha[0] - alpha[0]
        for a in range(corners):
            for b in range(a, corners):
                total += weight[p, a] * weight[p, b] * share[a, b]
        out[p] = alpha[0] * total


@compiled
def _self_response_gradient(vertex, weight, neighbour, alpha, cotangent, out):
    points, corners = vertex.shape
    share = np.zeros((corners, corners), weight.dtype)
    for p in range(points):
        _shares(vertex[p], neighbour, share)
        out[p] = 0
        for a in range(corners):
            for b in range(a, corners):  # a = b adds twice, as a square does
                scaled = alpha[0] * cotangent[p] * share[a, b]
                out[p, a] += scaled * weight[p, b]
                out[p, b] += scaled * weight[p, a]


def _alpha(vertex: Array, dtype: Any) -> Array:
    """The slice scale 1 / (1 + 2^-d), in an array so that Numba keeps its type. [1]"""
    return np.array([1.0 / (1.0 + 2.0 ** (1 - vertex.shape[1]))], dtype)


# Below: vertex [N, d+1] int32, the row of values that each corner touches; weight [N, d+1];
# neighbour [d+1, M, 2] int32, the vertex one step back and forth along each axis, M where there is
# none. With `symmetric` the filter is the mean of the blurs in either order of the axes.


def build(
    features: Array, vertex: Array, weight: Array, neighbour: Array, *, filled: bool
) -> int:
    """Fill the arrays of a lattice; the number of vertices M.

    `neighbour` is flat and long enough for any M; its first 2 (d+1) M entries are written. With
    `filled` all neighbours of the vertices that some point touches are vertices too.
    """
    scale = elevation_scale(features.shape[1], features.dtype)
    rows = np.ascontiguousarray(features)
    return int(_build(rows, scale, filled, vertex, weight, neighbour))


def feature_gradient(features: Array, d_weight: Array, out: Array) -> None:
    """Write the gradient for the features [N, d], from that for the weights, to `out`."""
    scale = elevation_scale(features.shape[1], features.dtype)
    _feature_gradient(np.ascontiguousarray(features), scale, d_weight, out)


def filter(
    vertex: Array,
    weight: Array,
    neighbour: Array,
    values: Array,
    out: Array,
    *,
    symmetric: bool,
    transpose: bool,
) -> None:
    """Write K values, or K' values, to `out`; both [N, C]."""
    alpha = _alpha(vertex, weight.dtype)
    _filter(vertex, weight, neighbour, symmetric, transpose, alpha, values, out)


def filter_weight_gradient(
    vertex: Array,
    weight: Array,
    neighbour: Array,
    values: Array,
    cotangent: Array,
    out: Array,
    *,
    symmetric: bool,
    transpose: bool,
) -> None:
    """Write the gradient of <cotangent, K values>, or of K', for the weights to `out` [N, d+1]."""
    alpha = _alpha(vertex, weight.dtype)
    plan = (vertex, weight, neighbour, symmetric, transpose, alpha)
    _filter_weight_gradient(*plan, values, cotangent, out)


def self_response(vertex: Array, weight: Array, neighbour: Array, out: Array) -> None:
    """Write the diagonal of K to `out` [N]."""
    _self_response(vertex, weight, neighbour, _alpha(vertex, weight.dtype), out)


def self_response_gradient(
    vertex: Array, weight: Array, neighbour: Array, cotangent: Array, out: Array
) -> None:
    """Write the gradient of <cotangent, diagonal> for the weights to `out` [N, d+1]."""
    alpha = _alpha(vertex, weight.dtype)
    _self_response_gradient(vertex, weight, neighbour, alpha, cotangent, out)
