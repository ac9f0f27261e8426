"""Gibbs sweeps where the tensors are: what sampling.py does on a device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


def pair_counts(labels: Tensor, num_classes: int, offsets: Array) -> Tensor:
    """How often each pair of labels [B, H, W] stands at the ends of an edge, [C, L, L]."""
    height, width = labels.shape[1:]
    counts = torch.zeros(
        (len(offsets), num_classes**2), dtype=torch.int64, device=labels.device
    )
    for table, (down, right) in zip(counts, offsets.tolist(), strict=True):
        i = labels[
            :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
        ]
        j = labels[
            :, max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)
        ]
        both = ((i >= 0) & (j >= 0)).flatten()
        pair = (i.clamp(min=0).long() * num_classes + j.clamp(min=0)).flatten()
        table.scatter_add_(0, pair, both.long())  # whole numbers: the same in any order
    return counts.reshape(-1, num_classes, num_classes)


def gibbs_sweep(
    native: Any,
    logits: Tensor,
    labels: Tensor,
    tables: Tensor,
    offsets: Array,
    colours: tuple[int, int, int],
    seed: int,
    chains: Sequence[int],
    first_sweep: Sequence[int],
    inverse_temperature: Array,
    sums: Tensor | None,
) -> Tensor:
    """`sampling.gibbs_sweep` by a native module's program."""
    raise NotImplementedError
