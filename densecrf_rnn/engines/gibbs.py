"""Engines that sample grid CRFs: their input structs, their operations, a module per backend."""

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._typing import Array
from . import registry


class Colouring(NamedTuple):
    """A colouring of the pixels: the colour of a pixel is (a column + b row) mod m.

    No two pixels of one colour are neighbours, so all of them can be drawn at once.
    """

    a: int
    b: int
    m: int  # number of colours

    def of(self, size: tuple[int, int]) -> Array:
        """Return the colour of each pixel of an image of `size` (H, W)."""
        rows, columns = np.ogrid[: size[0], : size[1]]
        return np.asarray((self.a * columns + self.b * rows) % self.m)


@dataclass(frozen=True)
class GibbsProblem:
    """Inputs and outputs of Gibbs sweeps over a batch of grid CRFs with shared tables.

    Fields of type Any are NumPy arrays for engines on NumPy arrays, and tensors for devices.

    Raises
    ------
    ValueError
        Labels or tables do not have the shape that logits and offsets imply.
    """

    logits: Any  # [B, L, H, W] float32
    labels: Any  # [B, H, W] int32, updated in place; negative outside the mask
    tables: Any  # [C, L, L] float32
    offsets: Array  # [C, 2] int32, rows and columns
    colouring: Colouring
    seed: int  # below 2^64
    chains: Array  # [B] uint64; the random numbers depend on seed, chain, sweep and pixel
    first_sweep: Array  # [B] uint64, number of the first sweep of each chain
    inverse_temperature: Array  # [S] float32, one per sweep; infinity selects the argmax
    marginals: Any  # [B, H, W, L] float64, to which each conditional is added; or None
    changes: Array  # [B, S] int64, output: number of labels that each sweep changed

    def __post_init__(self) -> None:
        images, count, height, width = self.logits.shape
        for name, array, shape in (
            ("labels", self.labels, (images, height, width)),
            ("tables", self.tables, (len(self.offsets), count, count)),
        ):
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape} where {shape} is needed")


class DeviceNeighbours(NamedTuple):
    """Edge classes and their tables on a device; see `Neighbours` in cpp/core/gibbs.hpp."""

    classes: int
    labels: int
    rows: int  # [2 * classes, labels + 1, labels] float32: each table and its transpose
    step: int  # [classes] int64: index of the neighbour minus that of the pixel, in padded labels


class DeviceGibbsBatch(NamedTuple):
    """A `GibbsProblem` on a device, by array addresses; see `GibbsBatch` in cpp/cuda/engine.hpp."""

    images: int
    height: int
    width: int
    neighbours: DeviceNeighbours
    logits: int  # [B, H, W, L] float32
    labels: int  # [B, H, W] int32
    padded_size: int  # number of labels of an image that is padded by a margin
    padded_first: int  # index of the image's first pixel in the padded image
    padded_stride: int  # index distance between rows of the padded image
    colours: int
    step: int  # column distance between pixels of the same colour in a row
    first: int  # [colours, colours] int32: first column of a colour in row mod colours, or -1
    seed: int
    chain: int  # [B] uint64
    first_sweep: int  # [B] uint64
    sweeps: int
    inverse_temperature: int  # [S] float32
    marginals: int  # [B, H, W, L] float64, or 0
    changes: int  # [B, S] int64


class GibbsEngine(Protocol):
    """A module that samples grid CRFs; the results of all such modules are bit-identical."""

    def gibbs_sweep(self, problem: GibbsProblem, threads: int) -> None:
        """Draw every pixel once in each sweep, one colour after another."""

    def gibbs_statistics(self, labels: Array, offsets: Array, counts: Array, threads: int) -> None:
        """Count the label pairs of all edges of labels [B, H, W] into counts [C, L, L] int64."""


_MODULES = {"cpu": "densecrf_rnn._cpu", "numba": "densecrf_rnn.reference.gibbs_numba"}


def gibbs_engine(name: str) -> GibbsEngine:
    """Return the Gibbs engine of backend `name`; "auto" selects the first that can run.

    Raises
    ------
    BackendUnavailableError
        The backend cannot run here or does not work on NumPy arrays.
    """
    registry.engine(name)  # raises where the backend cannot run
    module: Any = importlib.import_module(_MODULES[registry.resolve(name)])
    return module
