"""The mean field as textbooks write it: every message a filter, everything else NumPy.

The same native lattice as the fused engine uses, without the fusion: what the fusion is worth, and
the numbers that it must reproduce.
"""

from collections.abc import Callable

import numpy as np
from problems import Problem

from densecrf_rnn import PermutohedralLattice


def softmax(logits: np.ndarray) -> np.ndarray:
    """[N, L], over labels."""
    q = np.exp(logits - logits.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def mean_field(problem: Problem, iterations: int, threads: int) -> np.ndarray:
    """Marginals [L, *size] under the problem's parameters, which normalise symmetrically."""
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
    """A case's work (measure.py)."""
    return lambda: mean_field(problem, iterations, threads)
