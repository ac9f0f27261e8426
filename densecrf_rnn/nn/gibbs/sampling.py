"""Gibbs sweeps and pair statistics of tensors, by the NumPy engines or by a device program."""

from collections.abc import Sequence
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


class Sampler:
    """Gibbs chains on a batch of images; `gibbs.schedules` can run them. Arguments are checked.

    Parameters
    ----------
    logits : Tensor [B, L, H, W] float32
    labels : Tensor [B, H, W] int32
        Current labels, updated in place; negative outside the mask.
    tables : Tensor [C, L, L] float32
    offsets : ndarray [C, 2] int32
    seed : int
    chains, first_sweep : sequence of B int
        Number of each image's chain and of its first sweep.
    backend : str
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        tables: Tensor,
        offsets: Array,
        *,
        seed: int,
        chains: Sequence[int],
        first_sweep: Sequence[int],
        backend: str,
    ) -> None:
        self.labels = labels
        self._logits, self._tables = logits.detach().contiguous(), tables.detach().contiguous()
        self._offsets, self._colours = offsets, colouring(offsets)
        self._seed, self._chains, self._next = seed, chains, list(first_sweep)
        self._backend = backend

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def draw(self, inverse_temperature: Array, sums: Tensor | None = None) -> Tensor:
        """Sweep once for each inverse temperature [S] float32; infinity takes the argmax.

        Adds the conditionals that labels were drawn from to `sums` [B, H, W, L] float64. Returns
        the number of labels that each sweep changed, [B, S] int64 on the CPU.
        """
        first = self._next
        self._next = [number + len(inverse_temperature) for number in first]
        native = native_for(self._backend, self._logits)
        if native is not None:
            return device.gibbs_sweep(
                native, self._logits, self.labels, self._tables, self._offsets, self._colours,
                self._seed, self._chains, first, inverse_temperature, sums,
            )  # fmt: skip
        changes = np.empty((len(self.labels), len(inverse_temperature)), np.int64)
        problem = GibbsProblem(
            rows(self._logits), self.labels.numpy(), rows(self._tables), self._offsets,
            self._colours, self._seed, np.array(self._chains, np.uint64),
            np.array(first, np.uint64), inverse_temperature,
            None if sums is None else sums.numpy(), changes,
        )  # fmt: skip
        gibbs_engine(self._backend).sweep(problem, torch.get_num_threads())
        return torch.from_numpy(changes)


def start(
    logits: Tensor, mask: Tensor | None, *, seed: int, chains: Sequence[int], backend: str
) -> Tensor:
    """Draw labels [B, H, W] int32 from the logits alone, as sweep 0; -1 outside the mask."""
    images, count, height, width = logits.shape
    labels = logits.new_zeros((images, height, width), dtype=torch.int32)
    if mask is not None:
        labels = labels.where(mask, -1)
    state = Sampler(
        logits, labels, logits.new_zeros(0, count, count), np.zeros((0, 2), np.int32), seed=seed,
        chains=chains, first_sweep=[0] * images, backend=backend,
    )  # fmt: skip
    state.draw(np.ones(1, np.float32))
    return labels


@torch.compiler.disable  # type: ignore[untyped-decorator]
def pair_counts(labels: Tensor, num_classes: int, offsets: Array, backend: str) -> Tensor:
    """Count the label pairs of labels [B, H, W] int32 at the two ends of edges, [C, L, L]."""
    if native_for(backend, labels) is not None:
        return device.pair_counts(labels, num_classes, offsets)
    counts = np.zeros((len(offsets), num_classes, num_classes), np.int64)
    gibbs_engine(backend).statistics(rows(labels), offsets, counts, torch.get_num_threads())
    return torch.from_numpy(counts)
