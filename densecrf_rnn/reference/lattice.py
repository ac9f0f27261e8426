"""The permutohedral lattice in Numba: every phase a plain loop, the numerics all engines share.

Serves as the reference for the native engines and stands in for them where none was compiled.
Phases carry the same names as in C++: locate, build, splat, blur, slice. Serial on purpose.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


def _compiled(function: Any) -> Any:
    """The function compiled at its first call, and kept on disk where a folder can be written."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # Numba found no such folder
        return njit(function)


def elevation_scale(dims: int, dtype: Any) -> Array:
    """Scale of each feature that makes splat + blur + slice a Gaussian of unit deviation. [d]"""
    i = np.arange(dims, dtype=np.float64)
    return (np.sqrt(2.0 / 3.0) * (dims + 1) / np.sqrt((i + 1) * (i + 2))).astype(dtype)


@_compiled
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


@_compiled
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


@_compiled
def _grown(coordinates, count, table):
    """A table of twice the size that holds the first `count` vertices, and room for as many."""
    table = np.full(2 * table.size, -1, np.int64)
    room = np.empty((table.size // 2 + 1, coordinates.shape[1]), np.int64)
    room[:count] = coordinates[:count]
    for v in range(count):
        table[_slot(room[v], room, table)] = v
    return room, table


@_compiled
def _build(features, scale, vertex, weight, neighbour, offset, entry):
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
            at = _slot(coordinate, coordinates, table)
            if table[at] < 0:
                if 2 * count >= table.size:
                    coordinates, table = _grown(coordinates, count, table)
                    at = _slot(coordinate, coordinates, table)
                coordinates[count] = coordinate
                table[at] = count
                count += 1
            vertex[p, k] = table[at]

    for v in range(count):
        for axis in range(d + 1):
            for side in range(2):
                step = 1 if side == 1 else -1
                for j in range(d + 1):
                    coordinate[j] = coordinates[v, j] + step
                coordinate[axis] = coordinates[v, axis] - step * d
                found = table[_slot(coordinate, coordinates, table)]
                neighbour[(axis * count + v) * 2 + side] = found if found >= 0 else count

    offset[: count + 1] = 0
    for p in range(points):
        for k in range(d + 1):
            offset[vertex[p, k] + 1] += 1
    for v in range(count):
        offset[v + 1] += offset[v]
    at_vertex = offset[:count].copy()
    for p in range(points):
        for k in range(d + 1):
            v = vertex[p, k]
            entry[at_vertex[v]] = p * (d + 1) + k
            at_vertex[v] += 1
    return count


@_compiled
def _filter(vertex, weight, neighbour, count, values, transpose, alpha, out):
    points, corners = vertex.shape
    channels = values.shape[1]
    half = alpha.dtype.type(0.5)
    front = np.zeros((count + 1, channels), values.dtype)  # row M stays zero: the missing vertices
    back = np.zeros((count + 1, channels), values.dtype)
    for p in range(points):  # splat
        for k in range(corners):
            for c in range(channels):
                front[vertex[p, k], c] += weight[p, k] * values[p, c]
    for step in range(corners):  # blur
        axis = corners - 1 - step if transpose else step
        for v in range(count):
            left = neighbour[(axis * count + v) * 2]
            right = neighbour[(axis * count + v) * 2 + 1]
            for c in range(channels):
                back[v, c] = front[v, c] + half * (front[left, c] + front[right, c])
        front, back = back, front
    for p in range(points):  # slice
        for c in range(channels):
            out[p, c] = 0
        for k in range(corners):
            scaled = alpha[0] * weight[p, k]
            for c in range(channels):
                out[p, c] += scaled * front[vertex[p, k], c]


@_compiled
def _route(start, between, side, sense, neighbour, count, half):
    """The product of a walk along the axes where `between` is `side`; 0 if a vertex is missing."""
    at = start
    product = half + half
    for axis in range(between.size):
        if between[axis] == side:
            at = neighbour[(axis * count + at) * 2 + sense]
            if at == count:
                return half - half
            product *= half
    return product


@_compiled
def _self_response(vertex, weight, neighbour, count, alpha, out):
    """What a pixel receives of its own value, over all pairs of its corners.

    A step along every axis in one sense closes, so between two corners there are just two routes:
    the axes that separate them in one sense, or all the others in the opposite one.
    """
    points, corners = vertex.shape
    half = alpha.dtype.type(0.5)
    path = np.zeros(corners, np.int64)  # the axis that leads from corner k to corner k + 1
    for p in range(points):
        for k in range(corners - 1):
            for axis in range(corners):
                if neighbour[(axis * count + vertex[p, k]) * 2 + 1] == vertex[p, k + 1]:
                    path[k] = axis
        total = half - half
        for a in range(corners):
            between = np.zeros(corners, np.bool_)
            for b in range(a, corners):
                if b > a:
                    between[path[b - 1]] = True
                start = vertex[p, a]
                share = _route(start, between, False, 0, neighbour, count, half)
                if b > a:
                    share += _route(start, between, True, 1, neighbour, count, half)
                    # and the way back, from b to a, in the opposite senses
                    start = vertex[p, b]
                    share += _route(start, between, True, 0, neighbour, count, half)
                    share += _route(start, between, False, 1, neighbour, count, half)
                else:
                    share += _route(start, between, False, 1, neighbour, count, half) + half + half
                total += weight[p, a] * weight[p, b] * share
        out[p] = alpha[0] * total


def _alpha(dims: int, dtype: Any) -> Array:
    """The slice scale 1 / (1 + 2^-d), in an array so that Numba keeps its type. [1]"""
    return np.array([1.0 / (1.0 + 2.0**-dims)], dtype)


def build(
    features: Array, vertex: Array, weight: Array, neighbour: Array, offset: Array, entry: Array
) -> int:
    """Fill the arrays of a lattice (cpp/cpu/lattice.hpp says what each holds); the vertex count."""
    scale = elevation_scale(features.shape[1], features.dtype)
    return int(_build(features, scale, vertex, weight, neighbour, offset, entry))


def filter(
    vertex: Array,
    weight: Array,
    neighbour: Array,
    vertices: int,
    values: Array,
    out: Array,
    transpose: bool,
) -> None:
    """Write K values, or K' values, to `out`; both [N, C]."""
    alpha = _alpha(vertex.shape[1] - 1, weight.dtype)
    _filter(vertex, weight, neighbour, vertices, values, transpose, alpha, out)


def self_response(
    vertex: Array, weight: Array, neighbour: Array, vertices: int, out: Array
) -> None:
    """Write the diagonal of K to `out` [N]."""
    alpha = _alpha(vertex.shape[1] - 1, weight.dtype)
    _self_response(vertex, weight, neighbour, vertices, alpha, out)
