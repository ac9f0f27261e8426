"""The exact dense CRF, O(N^2), in float64: the definition that every fast engine approximates.

It follows docs/math.md line by line and is meant for at most a few thousand points. N points, L
labels, M kernels, T iterations. The backward pass is written out, so that it checks the gradients
of the engines without sharing code with them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array

# A point whose mass n = K 1 is at most this neither receives nor sends messages (docs/math.md).
# The value repeats kernels.EMPTY_MASS, because the reference shares no code with what it checks.
EMPTY_MASS = 0.01


def feature_rows(
    image: Array,
    theta_position: Any,
    theta_guide: Any,
    spacing: Sequence[float],
) -> Array:
    """Compute a kernel's features of an image [*S, C], in any order of pixels' axes. [N, D]

    A bandwidth is a number, one number per axis or per channel, or None to leave the part out.
    """
    columns = []
    if theta_position is not None:
        for axis, step in enumerate(spacing):
            theta = theta_position if np.ndim(theta_position) == 0 else theta_position[axis]
            columns.append(np.indices(image.shape[:-1])[axis].ravel() * step / theta)
    if theta_guide is not None:
        for channel in range(image.shape[-1]):
            theta = theta_guide if np.ndim(theta_guide) == 0 else theta_guide[channel]
            columns.append(image[..., channel].astype(np.float64).ravel() / theta)
    return np.stack(columns, axis=1)


def gaussian_kernel(features: Array) -> Array:
    """Compute K with K_ij = exp(-|f_i - f_j|^2 / 2). [N, D] -> [N, N]"""
    features = np.asarray(features, np.float64)
    difference = features[:, None, :] - features[None, :, :]  # [N, N, D]
    return np.exp(-0.5 * (difference**2).sum(-1))


def gaussian_filter(features: Array, values: Array, block: int = 256) -> Array:
    """Compute K values without storing K, `block` rows at a time. [N, D], [N, C] -> [N, C]"""
    features = np.asarray(features, np.float64)
    square = 0.5 * (features**2).sum(1)
    out = np.empty(values.shape)
    for begin in range(0, len(features), block):
        rows = slice(begin, begin + block)
        exponent = features[rows] @ features.T - square[rows, None] - square[None, :]
        out[rows] = np.exp(np.minimum(exponent, 0)) @ values
    return out


def normalized_kernel(
    features: Array, normalization: str = "after", self_term: bool = True
) -> Array:
    """Compute the normalised kernel N K of features [N, D]; arguments as in `normalized`. [N, N]"""
    return normalized(gaussian_kernel(features), normalization, self_term)


def normalized(kernel: Array, normalization: str = "after", self_term: bool = True) -> Array:
    """Normalise a kernel matrix K by n = K 1, without its diagonal unless `self_term`. [N, N]"""
    if not self_term:
        kernel = kernel - np.diag(np.diag(kernel))
    inverse = np.array([1 / n if n > EMPTY_MASS else 0.0 for n in kernel.sum(1)])
    if normalization == "after":
        return inverse[:, None] * kernel
    if normalization == "before":
        return kernel * inverse[None, :]
    if normalization == "symmetric":
        return np.sqrt(inverse)[:, None] * kernel * np.sqrt(inverse)[None, :]
    if normalization == "none":
        return kernel
    raise ValueError(f"normalization is {normalization!r}")


def weight_matrix(weight: Any, labels: int) -> Array:
    """Return W as a matrix, from a number, [L] (diagonal) or [L, L]."""
    weight = np.asarray(weight, np.float64)
    return weight if weight.ndim == 2 else weight * np.eye(labels)


def softmax(logits: Array) -> Array:
    """Compute the marginals of each row. [N, L]"""
    q = np.exp(logits - logits.max(axis=1, keepdims=True))
    return q / q.sum(axis=1, keepdims=True)


def rectified(logits: Array) -> Array:
    """Divide the positive part of each row by its sum; 1 / L if no entry is positive. [N, L]"""
    q = np.maximum(logits, 0)
    total = q.sum(axis=1, keepdims=True)
    return np.where(total > 0, q / np.where(total > 0, total, 1), 1 / logits.shape[1])


class Step(NamedTuple):
    """Intermediate results of one iteration, for the backward pass."""

    q: Array  # [N, L]
    messages: list[Array]  # N_m K_m Q, M times [N, L]
    weighted: Array  # sum_m W_m message_m, [N, L]
    refined: Array  # U' = U - mu weighted, [N, L]


def mean_field_steps(
    logits: Array, kernels: Sequence[Array], weights: Sequence[Any], mu: Array, iterations: int
) -> list[Step]:
    """Run all mean-field iterations; `refined` of the last step is the result.

    Parameters
    ----------
    logits : ndarray [N, L]
    kernels : M ndarrays [N, N]
        Normalised kernels.
    weights : M numbers, ndarrays [L] or ndarrays [L, L]
    mu : ndarray [L, L]
        Compatibility: the penalty of a label (row) next to another (column).
    iterations : int
    """
    labels = logits.shape[1]
    steps: list[Step] = []
    refined = logits
    for _ in range(iterations):
        q = softmax(refined)
        messages = [kernel @ q for kernel in kernels]
        weighted = np.zeros_like(logits)
        for weight, message in zip(weights, messages, strict=True):
            weighted += message @ weight_matrix(weight, labels).T
        refined = logits - weighted @ mu.T
        steps.append(Step(q, messages, weighted, refined))
    return steps


def mean_field(
    logits: Array, kernels: Sequence[Array], weights: Sequence[Any], mu: Array, iterations: int
) -> Array:
    """Compute refined logits U' [N, L]; arguments as in `mean_field_steps`."""
    steps = mean_field_steps(logits, kernels, weights, mu, iterations)
    return steps[-1].refined if steps else logits


def mean_field_variant(
    logits: Array,
    kernels: Sequence[Array],
    weights: Sequence[Sequence[Any]],
    mus: Sequence[Array],
    update: str,
) -> list[Array]:
    """Compute U' [N, L] of every iteration t, with weights[t] and mus[t] of its own.

    `update` turns logits into marginals: "softmax", or "relu" for `rectified`.
    """
    labels = logits.shape[1]
    found: list[Array] = []
    refined = logits
    for of_iteration, mu in zip(weights, mus, strict=True):
        q = {"softmax": softmax, "relu": rectified}[update](refined)
        refined = logits.copy()
        for kernel, weight in zip(kernels, of_iteration, strict=True):
            refined -= kernel @ q @ weight_matrix(weight, labels).T @ mu.T
        found.append(refined)
    return found


class Gradients(NamedTuple):
    """The gradients of sum(cotangent * mean_field(...))."""

    logits: Array  # [N, L]
    weights: Array  # [M, L, L]; see `reduce_weight_gradient`
    mu: Array  # [L, L]


def mean_field_gradients(
    logits: Array,
    kernels: Sequence[Array],
    weights: Sequence[Any],
    mu: Array,
    iterations: int,
    cotangent: Array,
) -> Gradients:
    """Backpropagate through all iterations, by the formulae of docs/math.md."""
    labels = logits.shape[1]
    matrices = [weight_matrix(weight, labels) for weight in weights]
    d_logits = np.zeros_like(logits)
    d_weights = np.zeros((len(kernels), labels, labels))
    d_mu = np.zeros((labels, labels))
    g = cotangent  # dLoss/dU' of the current iteration
    for step in reversed(mean_field_steps(logits, kernels, weights, mu, iterations)):
        d_logits = d_logits + g
        d_mu -= g.T @ step.weighted
        d_weighted = -g @ mu
        d_q = np.zeros_like(logits)
        for m, (kernel, matrix) in enumerate(zip(kernels, matrices, strict=True)):
            d_weights[m] += d_weighted.T @ step.messages[m]
            d_q += kernel.T @ (d_weighted @ matrix)
        g = step.q * (d_q - (step.q * d_q).sum(1, keepdims=True))  # the softmax's Jacobian
    return Gradients(d_logits + g, d_weights, d_mu)


def reduce_weight_gradient(full: Array, form: str) -> Array:
    """Reduce a gradient [M, L, L] to the `form` of the weights.

    "full" returns it unchanged, "diagonal" its diagonals [M, L], "scalar" their sums [M].
    """
    diagonal: Array = np.einsum("mll->ml", full)
    return {"full": full, "diagonal": diagonal, "scalar": diagonal.sum(1)}[form]


def relaxed_potts(kernel: Array, q: Array, gate: Array | None = None) -> tuple[float, Array]:
    """Compute the relaxed Potts energy -sum_il g_i q_il (K q)_il and its gradient for q [N, L].

    The gates g [N] are constants; default 1.
    """
    g = np.ones(len(q)) if gate is None else gate
    messages = kernel @ q
    value = -(g[:, None] * q * messages).sum()
    return float(value), -(g[:, None] * messages + kernel.T @ (g[:, None] * q))
