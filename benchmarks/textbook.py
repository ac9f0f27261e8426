"""The mean field step by step: one lattice filter per message, all else in NumPy.

It uses the native lattice but not the fused engine, so it shows the gain of the fusion, and the
numbers that the fused engine must reproduce.
"""

from collections.abc import Callable

import numpy as np
from problems import Problem

from densecrf_rnn import PermutohedralLattice


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over labels of rows [N, L]."""
    q = np.exp(logits - logits.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def mean_field(problem: Problem, iterations: int, threads: int) -> np.ndarray:
    """Return marginals [L, *size]; the problem's parameters must normalise symmetrically."""
    params, logits = problem.params, problem.logits
    assert params.normalization == "symmetric" and params.self_term
    u = logits.reshape(len(logits), -1).T  # [N, L]
    mu = 1 - np.eye(len(logits), dtype=u.dtype)  # Potts
    lattices = [PermutohedralLattice(problem.features(k), threads=threads) for k in (0, 1)]
    ones = np.ones((len(u), 1), u.dtype)
    scales = [1 / np.sqrt(lattice.filter(ones)) for lattice in lattices]  # [N, 1]
    weights = (params.w_bilateral, params.w_spatial)

    refined = u
    for _ in range(iterations):
        q = softmax(refined)
        refined = u.copy()
        for weight, lattice, scale in zip(weights, lattices, scales, strict=True):
            message = scale * lattice.filter(scale * q)
            refined -= (weight * message) @ mu.T
    return softmax(refined).T.reshape(logits.shape)


def forward(problem: Problem, threads: int, iterations: int) -> Callable[[], np.ndarray]:
    """Prepare the work of a case (measure.py)."""
    return lambda: mean_field(problem, iterations, threads)
