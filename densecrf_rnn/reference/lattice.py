"""The permutohedral lattice in Numba, in plain serial loops: the numerics that all engines share.

It is the reference for the native engines, and replaces them where none was compiled. The phases
have the same names as in C++: locate, build, splat, blur, slice.
"""

from typing import Any

import numpy as np

from .._typing import Array
from .compiled import compiled


# Blur weight of each of a vertex's two neighbours along an axis; its own is 1.
BLUR_SIDE = 0.5
# Variances along every feature, in units of (d+1)^2. The blurs along all d + 1 axes together are
# isotropic and add the variance of one axis's weights 1/2, 1, 1/2 in every direction. Splat and
# slice add variance because they spread a point over its simplex.
BLUR_VARIANCE = 2 * BLUR_SIDE / (1 + 2 * BLUR_SIDE)
SPLAT_VARIANCE = 1 / 12
FILTER_VARIANCE = BLUR_VARIANCE + 2 * SPLAT_VARIANCE


def elevation_scale(dims: int, dtype: Any) -> Array:
    """Compute the scale of each feature for which the filter has unit variance. [d]

    The factor `common` is rounded to `dtype` separately, as in pydensecrf, so that points on faces
    between simplices are assigned to the same simplex as there.
    """
    i = np.arange(dims, dtype=np.float64)
    common = np.float64(np.dtype(dtype).type(np.sqrt(FILTER_VARIANCE) * (dims + 1)))
    return (common / np.sqrt((i + 1) * (i + 2))).astype(dtype)


@compiled
def _locate(feature, scale, up, down, elevated, delta, rank, quotient, weight):
    """Find the simplex of one point: quotient and rank per axis, weight per vertex. [d+1] each

    Vertex k has the coordinates (d+1) (quotient_j - [rank_j > d-k]) + k for j = 0..d, all of which
    have the remainder k. The other arguments are constants and scratch arrays [d+1].
    """
    d = feature.size
    total = up - up  # 0 of the array's dtype
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
        if not 0 <= rank[j] <= d:  # NaN or infinity, written into the features after their check
            rank[j] = 0
        elevated[rank[j]] = delta[j] * down  # reused: the deltas by rank, in units of d+1
    weight[0] = delta.dtype.type(1) + (elevated[d] - elevated[0])
    for k in range(1, d + 1):
        weight[k] = elevated[d - k] - elevated[d - k + 1]


@compiled
def _slot(coordinate, coordinates, table):
    """Return the slot of the vertex `coordinate` [d+1] in the hash table, or a free slot."""
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
    """Return coordinates and hash table enlarged to twice the size, with `count` vertices."""
    table = np.full(2 * table.size, -1, np.int64)
    room = np.empty((table.size // 2 + 1, coordinates.shape[1]), np.int64)
    room[:count] = coordinates[:count]
    for v in range(count):
        table[_slot(room[v], room, table)] = v
    return room, table


@compiled
def _vertex(coordinate, coordinates, count, table):
    """Return the index of the vertex at `coordinate`, inserted if new, and the updated arrays."""
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
def _step(start, axis, direction, coordinate):
    """Write to `coordinate` the neighbour of `start` along `axis`; direction 0 is backward."""
    step = 1 if direction == 1 else -1
    for j in range(start.size):
        coordinate[j] = start[j] + step
    coordinate[axis] = start[axis] - step * (start.size - 1)


@compiled
def _build(features, scale, filled, vertex, weight, neighbour):
    """Fill the arrays of a lattice, as `build` does, and return the number of vertices."""
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
        for v in range(count):  # over the points' vertices only, not those that are added here
            for axis in range(d + 1):
                for direction in range(2):
                    _step(coordinates[v], axis, direction, coordinate)
                    _, coordinates, count, table = _vertex(coordinate, coordinates, count, table)

    for v in range(count):
        for axis in range(d + 1):
            for direction in range(2):
                _step(coordinates[v], axis, direction, coordinate)
                found = table[_slot(coordinate, coordinates, table)]
                neighbour[(axis * count + v) * 2 + direction] = found if found >= 0 else count
    return count


@compiled
def _feature_gradient(features, scale, d_weight, out):
    """Write the gradient with respect to the features to `out`: the chain rule through `_locate`.

    `d_weight` is the gradient with respect to the barycentric weights. Inside a simplex, rounding
    and ranks are constant.
    """
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
        for j in range(d + 1):  # gradient with respect to elevated[j], by its rank
            k = d - rank[j]
            elevated[j] = (d_weight[p, k] - d_weight[p, (k + 1) % (d + 1)]) * down
        total = elevated[0]
        for j in range(1, d + 1):
            out[p, j - 1] = scale[j - 1] * (total - features.dtype.type(j) * elevated[j])
            total += elevated[j]


@compiled
def _splat(vertex, weight, vertices, values):
    """Compute S' values [M+1, C]; the last row stays 0 and stands for missing vertices."""
    out = np.zeros((vertices + 1, values.shape[1]), values.dtype)
    for p in range(len(vertex)):
        for k in range(vertex.shape[1]):
            for c in range(values.shape[1]):
                out[vertex[p, k], c] += weight[p, k] * values[p, c]
    return out


@compiled
def _blur_axes(front, neighbour, reverse):
    """Blur `front` [M+1, C] along each axis, first to last or in reverse."""
    corners, vertices = neighbour.shape[:2]
    side = front.dtype.type(BLUR_SIDE)
    back = np.zeros_like(front)
    for step in range(corners):
        axis = corners - 1 - step if reverse else step
        for v in range(vertices):
            left = neighbour[axis, v, 0]
            right = neighbour[axis, v, 1]
            for c in range(front.shape[1]):
                back[v, c] = front[v, c] + side * (front[left, c] + front[right, c])
        front, back = back, front
    return front


@compiled
def _blur(front, neighbour, symmetric, transpose):
    """Blur `front` [M+1, C]; with `symmetric`, average both orders of the axes."""
    if not symmetric:
        return _blur_axes(front, neighbour, transpose)
    forward = _blur_axes(front.copy(), neighbour, False)
    return (forward + _blur_axes(front, neighbour, True)) / front.dtype.type(2)


@compiled
def _filter(vertex, weight, neighbour, symmetric, transpose, alpha, values, out):
    """Splat, blur and slice values [N, C] to `out` [N, C]."""
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
    """Compute the gradient with respect to the barycentric weights.

    The weights occur twice: in the splat and in the slice.
    """
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
def _route(start, between, wanted, direction, neighbour, side):
    """Multiply the blur weights of a walk along the axes where `between` is `wanted`.

    Return 0 if a vertex on the way is missing.
    """
    at = start
    product = side / side
    for axis in range(between.size):
        if between[axis] == wanted:
            at = neighbour[axis, at, direction]
            if at == neighbour.shape[1]:
                return side - side
            product *= side
    return product


@compiled
def _shares(corner, neighbour, share):
    """Compute the blur weight between each pair of one pixel's vertices, in share[a, b >= a].

    For a < b it is the sum over both directions. One step along every axis in the same direction
    returns to the start. So exactly two routes lead from one vertex to another: along the axes that
    separate them in one direction, or along all other axes in the opposite one. Blurring the axes
    in reverse order takes the same routes backward, so the result is the same for all qualities.
    """
    corners = corner.size
    side = share.dtype.type(BLUR_SIDE)
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
            total = _route(corner[a], between, False, 0, neighbour, side)
            if b > a:
                total += _route(corner[a], between, True, 1, neighbour, side)
                # from b to a, in the opposite directions
                total += _route(corner[b], between, True, 0, neighbour, side)
                total += _route(corner[b], between, False, 1, neighbour, side)
            else:  # from a to itself: one step along every axis, or no step at all
                total += _route(corner[a], between, False, 1, neighbour, side) + side / side
            share[a, b] = total


@compiled
def _self_response(vertex, weight, neighbour, alpha, out):
    """Sum weight * share * weight over all pairs of a pixel's vertices: the diagonal of K."""
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
    """Write the gradient of <cotangent, diagonal of K> to `out` [N, d+1].

    It is taken with respect to the barycentric weights.
    """
    points, corners = vertex.shape
    share = np.zeros((corners, corners), weight.dtype)
    for p in range(points):
        _shares(vertex[p], neighbour, share)
        out[p] = 0
        for a in range(corners):
            for b in range(a, corners):  # a = b adds twice: the derivative of a square
                scaled = alpha[0] * cotangent[p] * share[a, b]
                out[p, a] += scaled * weight[p, b]
                out[p, b] += scaled * weight[p, a]


def _alpha(vertex: Array, dtype: Any) -> Array:
    """Return the slice scale 1 / (1 + 2^-d) as an array [1] of `dtype`, not a Python float."""
    return np.array([1 / (1 + 2 * BLUR_SIDE ** vertex.shape[1])], dtype)


# Arguments of the functions below: vertex [N, d+1] int32 and weight [N, d+1], the vertices of each
# point's simplex and their barycentric weights; neighbour [d+1, M, 2] int32, the vertex one step
# backward and forward along each axis, M if there is none. With `symmetric` the filter averages the
# results of blurring the axes first to last and last to first. K is the filter as a matrix [N, N].


def build(
    features: Array, vertex: Array, weight: Array, neighbour: Array, *, filled: bool
) -> int:
    """Fill the arrays of a lattice and return the number of vertices M.

    `neighbour` is flat and long enough for any M; its first 2 (d+1) M entries are written. With
    `filled` all neighbours of the points' vertices become vertices too.
    """
    scale = elevation_scale(features.shape[1], features.dtype)
    rows = np.ascontiguousarray(features)
    return int(_build(rows, scale, filled, vertex, weight, neighbour))


def feature_gradient(features: Array, d_weight: Array, out: Array) -> None:
    """Write the gradient with respect to the features [N, d] to `out`.

    `d_weight` [N, d+1] is the gradient with respect to the barycentric weights.
    """
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
    """Filter values [N, C] to `out` [N, C]: K values or, with `transpose`, K' values."""
    alpha = _alpha(vertex, weight.dtype)
    _filter(vertex, weight, neighbour, symmetric, transpose, alpha, values, out)


def spread(
    vertex: Array, weight: Array, neighbour: Array, values: Array, *, symmetric: bool
) -> Array:
    """Splat and blur values [N, C]: the values at the vertices [M, C], which `filter` slices."""
    front = _splat(vertex, weight, neighbour.shape[1], np.ascontiguousarray(values))
    return _blur(front, neighbour, symmetric, False)[:-1]


def slice_weights(weight: Array) -> Array:
    """Return the weights [N, d+1] with which `filter` slices values at vertices."""
    return weight * _alpha(weight, weight.dtype)


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
    """Write the gradient with respect to the barycentric weights to `out` [N, d+1].

    It is the gradient of <cotangent, K values> or, with `transpose`, of <cotangent, K' values>.
    """
    alpha = _alpha(vertex, weight.dtype)
    plan = (vertex, weight, neighbour, symmetric, transpose, alpha)
    _filter_weight_gradient(*plan, values, cotangent, out)


def self_response(vertex: Array, weight: Array, neighbour: Array, out: Array) -> None:
    """Write the diagonal of K to `out` [N]."""
    _self_response(vertex, weight, neighbour, _alpha(vertex, weight.dtype), out)


def self_response_gradient(
    vertex: Array, weight: Array, neighbour: Array, cotangent: Array, out: Array
) -> None:
    """Write the gradient of <cotangent, diagonal of K> to `out` [N, d+1].

    It is taken with respect to the barycentric weights.
    """
    alpha = _alpha(vertex, weight.dtype)
    _self_response_gradient(vertex, weight, neighbour, alpha, cotangent, out)
