"""Gibbs sampling of a grid CRF with arbitrary pairwise tables, on NumPy arrays."""

from .convergence import diagnose
from .neighbourhood import colouring, dense_neighbourhood, sparse_neighbourhood
from .sampling import annealed, conditional, energy, icm, marginals, start, statistics, sweep

__all__ = [
    "annealed",
    "colouring",
    "conditional",
    "dense_neighbourhood",
    "diagnose",
    "energy",
    "icm",
    "marginals",
    "sparse_neighbourhood",
    "start",
    "statistics",
    "sweep",
]
