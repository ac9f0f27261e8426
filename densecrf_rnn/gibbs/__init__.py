"""Gibbs sampling of a grid CRF with arbitrary pairwise tables, on NumPy arrays.

Learning its tables is in `densecrf_rnn.nn`, see `GibbsCRF`.
"""

from .convergence import diagnose
from .model import conditional, energy, score, statistics
from .neighbourhood import colouring, dense_neighbourhood, sparse_neighbourhood
from .schedules import annealed, icm, marginals
from .sweeps import start, sweep

__all__ = [
    "annealed", "colouring", "conditional", "dense_neighbourhood", "diagnose", "energy", "icm",
    "marginals", "score", "sparse_neighbourhood", "start", "statistics", "sweep",
]  # fmt: skip
