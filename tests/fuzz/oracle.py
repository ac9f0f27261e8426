"""The oracle: a permutohedral lattice in a dictionary, and the dense mean field on its matrices.

It shares no code with the package. Simplices are found in another way than by the engines: the
lattice A*_d is the projection of Z^(d+1) along (1, ..., 1), and its Delaunay simplices are the
projections of Kuhn's (docs/math.md). So a point's simplex follows from the floor and the order of
the fractional parts of any preimage.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DictionaryLattice:
    """The filter of points [N, D] as a matrix; `safe` if rounding could not change a simplex."""

    matrix: np.ndarray  # [N, N]
    vertices: int
    safe: bool


def lattice(features, quality="standard", precision=None):
    """Build the lattice of features [N, D] in float64.

    `precision` is the machine epsilon of the engine under test; default that of the features.
    """
    points, dims = features.shape
    precision = np.finfo(features.dtype).eps if precision is None else precision
    preimage = _preimage(features.astype(np.float64))  # [N, D + 1]
    floor = np.floor(preimage)
    fraction = preimage - floor
    order = np.argsort(-fraction, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(dims + 1)[None].repeat(points, 0), axis=1)
    sorted_ = np.take_along_axis(fraction, order, axis=1)
    # Barycentric coordinates of Kuhn's simplex; its first and last vertex have one projection.
    weights = np.empty((points, dims + 1))
    weights[:, 0] = 1 - sorted_[:, 0] + sorted_[:, -1]
    weights[:, 1:] = sorted_[:, :-1] - sorted_[:, 1:]
    rounding = 64 * precision * max(1.0, np.abs(preimage).max(initial=0) * (dims + 1))
    safe = bool(weights.min(initial=1) > rounding)

    number: dict[tuple[int, ...], int] = {}
    splat = []
    for point in range(points):
        for corner in range(dims + 1):
            key = _key(floor[point] + (rank[point] < corner))
            splat.append((number.setdefault(key, len(number)), point, weights[point, corner]))
    if quality == "filled":
        for key in list(number):
            for axis in range(dims + 1):
                for side in (-1, 1):
                    number.setdefault(_neighbour(key, axis, side), len(number))
    to_vertices = np.zeros((len(number), points))
    for vertex, point, weight in splat:
        to_vertices[vertex, point] += weight

    values = _blurred(to_vertices, number, range(dims + 1))
    if quality != "standard":
        values = (values + _blurred(to_vertices, number, range(dims, -1, -1))) / 2
    matrix = to_vertices.T @ values / (1 + 2.0**-dims)
    return DictionaryLattice(matrix, len(number), safe)


def _preimage(features):
    """Scale and elevate features to a preimage of the projection along (1, ..., 1). [N, D + 1]"""
    dims = features.shape[1]
    i = np.arange(1, dims + 1)
    scaled = features * (np.sqrt(2 / 3) * (dims + 1) / np.sqrt(i * (i + 1)))
    tail = np.concatenate([np.cumsum(scaled[:, ::-1], 1)[:, ::-1], np.zeros((len(scaled), 1))], 1)
    elevated = tail.copy()
    elevated[:, 1:] -= i * scaled
    return elevated / (dims + 1)


def _key(integers):
    """Return the coordinates of a projected point of Z^(d+1): differences to the last one."""
    integers = integers.astype(np.int64)
    return tuple((integers[:-1] - integers[-1]).tolist())


def _neighbour(key, axis, side):
    """Return the key one step along the projection of a unit vector."""
    if axis == len(key):
        return tuple(k - side for k in key)
    return (*key[:axis], key[axis] + side, *key[axis + 1 :])


def _blurred(values, number, axes):
    for axis in axes:
        out = values.copy()
        for key, vertex in number.items():
            for side in (-1, 1):
                other = number.get(_neighbour(key, axis, side))
                if other is not None:
                    out[vertex] += values[other] / 2
        values = out
    return values


def pixel_features(image, theta_position, theta_image, order, spacing):
    """Return the features [N, D] of an image [*S, C]; a bandwidth None leaves its part out."""
    size = image.shape[:-1]
    rows = np.indices(size).reshape(len(size), -1).astype(np.float64)
    columns = list((rows.T * spacing / np.broadcast_to(theta_position, len(size))).T)
    if order == "xy":
        columns = columns[::-1]
    if theta_image is not None:
        columns += list((image.reshape(-1, image.shape[-1]) / np.asarray(theta_image, float)).T)
    return np.stack(columns, 1)


def gaussian(features):
    """Return the exact kernel matrix of features [N, D]. [N, N]"""
    square = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(-1)
    return np.exp(-square / 2)


def softmax(logits):
    """Marginals over the first axis."""
    exponentials = np.exp(logits - logits.max(0, keepdims=True))
    return exponentials / exponentials.sum(0, keepdims=True)


def normalized(kernel, normalization, self_term):
    """Normalise a kernel matrix by its row sums; rows with almost no mass become 0."""
    if not self_term:
        kernel = kernel - np.diag(np.diag(kernel))
    mass = kernel.sum(1)
    empty = mass <= 1e-2
    mass = np.where(empty, 1.0, mass)
    inverse = np.where(empty, 0.0, 1 / mass)
    if normalization == "none":
        return kernel
    if normalization == "after":
        return inverse[:, None] * kernel
    if normalization == "before":
        return kernel * inverse
    root = np.sqrt(inverse)
    return root[:, None] * kernel * root


def mean_field(logits, kernels, couplings, iterations):
    """Run the mean field on logits [L, N] with kernel matrices [N, N] and couplings [L, L]."""
    refined = logits
    for _ in range(iterations):
        q = softmax(refined)
        refined = logits - sum(c @ q @ k.T for k, c in zip(kernels, couplings, strict=True))
    return refined
