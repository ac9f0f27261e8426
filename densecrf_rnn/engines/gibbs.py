"""What an engine that samples grid CRFs is: the plain data it works on, and its operations."""

from dataclasses import dataclass
from typing import Protocol


from .._typing import Array


@dataclass(frozen=True)
class GibbsProblem:
    """Sweeps of a batch of grid CRFs that share tables and edge classes."""

    logits: Array  # [B, L, H, W] float32
    labels: Array  # [B, H, W] int32, written; below 0: the pixel takes no part
    tables: Array  # [C, L, L] float32
    offsets: Array  # [C, 2] int32, rows and columns
    colouring: tuple[int, int, int]  # a pixel's colour is (a column + b row) mod m
    seed: int  # below 2^64
    chains: Array  # [B] uint64; with seed, sweep and pixel they make the random numbers
    first_sweep: Array  # [B] uint64, the number of the first sweep of each
    inverse_temperature: Array  # [S] float32, of each sweep; infinity: the likeliest label
    marginals: Array | None  # [B, H, W, L] float64, the conditionals drawn from are added
    changes: Array  # [B, S] int64, written: how many labels changed


class GibbsEngine(Protocol):
    """A backend that samples grid CRFs; any two of them give the same bits."""

    def gibbs_sweep(self, problem: GibbsProblem, threads: int) -> None:
        """Draw every pixel once in each sweep, colour by colour."""

    def gibbs_statistics(
        self, labels: Array, offsets: Array, counts: Array, threads: int
    ) -> None:
        """Add to counts [C, L, L] int64 the pairs of labels [B, H, W] at the ends of edges."""
