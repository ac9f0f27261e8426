"""Gibbs sweeps and pair statistics of tensors, by the NumPy engines or by a device program."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import checks
from ..._typing import Array
from ...engines.gibbs import GibbsProblem, gibbs_engine
from ...gibbs.checks import check_logits
from ...gibbs.neighbourhood import colouring
from ..arguments import autocast_to_float32
from ..ops.dispatch import native_for
from ..ops.kernels import rows
from . import device


def float32_logits(logits: Any) -> Tensor:
    """Check logits [B, L, H, W] and return them, under autocast converted to float32."""
    checks.array_kind("logits", logits, batched=True)
    logits = autocast_to_float32(logits)
    check_logits(logits.detach(), batched=True)
    return logits


@dataclass
class Sampler:
    """Gibbs chains on a batch of images; `gibbs.schedules` can run them. Arguments are checked."""

    logits: Tensor  # [B, L, H, W] float32
    labels: Tensor  # [B, H, W] int32, updated in place; negative outside the mask
    tables: Tensor  # [C, L, L] float32
    offsets: Array  # [C, 2] int32
    seed: int
    chains: Sequence[int]  # number of each image's chain
    sweeps: Sequence[int]  # that each chain has had: the number of its next sweep
    backend: str

    def __post_init__(self) -> None:
        self.logits = self.logits.detach().contiguous()
        self.tables = self.tables.detach().contiguous()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def draw(self, inverse_temperature: Array, sums: Tensor | None = None) -> Tensor:
        """Sweep once for each inverse temperature [S] float32; infinity takes the argmax.

        Adds the conditionals that labels were drawn from to `sums` [B, H, W, L] float64. Returns
        the number of labels that each sweep changed, [B, S] int64 on the CPU.
        """
        first = self.sweeps
        self.sweeps = [number + len(inverse_temperature) for number in first]
        colours = colouring(self.offsets)
        native = native_for(self.backend, self.logits)
        if native is not None:
            return device.gibbs_sweep(
                native, self.logits, self.labels, self.tables, self.offsets, colours, self.seed,
                self.chains, first, inverse_temperature, sums,
            )  # fmt: skip
        changes = np.empty((len(self.labels), len(inverse_temperature)), np.int64)
        problem = GibbsProblem(
            rows(self.logits), self.labels.numpy(), rows(self.tables), self.offsets, colours,
            self.seed, np.array(self.chains, np.uint64), np.array(first, np.uint64),
            inverse_temperature, None if sums is None else sums.numpy(), changes,
        )  # fmt: skip
        gibbs_engine(self.backend).gibbs_sweep(problem, torch.get_num_threads())
        return torch.from_numpy(changes)


def start(
    logits: Tensor, mask: Tensor | None, *, seed: int, chains: Sequence[int], backend: str
) -> Tensor:
    """Draw labels [B, H, W] int32 from the logits alone, as sweep 0; -1 outside the mask."""
    images, count, height, width = logits.shape
    labels = logits.new_zeros((images, height, width), dtype=torch.int32)
    if mask is not None:
        labels = labels.where(mask, -1)
    no_tables, no_offsets = logits.new_zeros(0, count, count), np.zeros((0, 2), np.int32)
    sampler = Sampler(
        logits, labels, no_tables, no_offsets, seed, chains, [0] * images, backend
    )
    sampler.draw(np.ones(1, np.float32))
    return labels


@torch.compiler.disable  # type: ignore[untyped-decorator]
def pair_counts(labels: Tensor, num_classes: int, offsets: Array, backend: str) -> Tensor:
    """Count the label pairs of labels [B, H, W] int32 at the two ends of edges, [C, L, L]."""
    if native_for(backend, labels) is not None:
        return device.pair_counts(labels, num_classes, offsets)
    counts = np.zeros((len(offsets), num_classes, num_classes), np.int64)
    gibbs_engine(backend).gibbs_statistics(rows(labels), offsets, counts, torch.get_num_threads())
    return torch.from_numpy(counts)
