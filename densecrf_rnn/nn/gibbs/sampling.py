"""Gibbs sweeps and pair statistics of tensors: by the NumPy engines, or where the tensors are."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..._typing import Array
from ...engines.gibbs import GibbsProblem, gibbs_engine
from ...gibbs.neighbourhood import colouring
from .. import ops
from . import device as sampling_device
from ..tensors import rows


@torch.compiler.disable  # type: ignore[untyped-decorator]
def gibbs_sweep(
    logits: Tensor,
    labels: Tensor,
    tables: Tensor,
    offsets: Array,
    *,
    seed: int,
    chains: Sequence[int],
    first_sweep: Sequence[int],
    inverse_temperature: Array,
    sums: Tensor | None = None,
    backend: str,
) -> Tensor:
    """Draw every pixel of a batch once in each sweep; checked before.

    logits [B, L, H, W] and tables [C, L, L] float32, labels [B, H, W] int32, written, below 0 where
    a pixel takes no part; to `sums` [B, H, W, L] float64 the conditionals are added. Returns how
    many labels each sweep changed, [B, S] int64 on the CPU.
    """
    logits, tables = logits.detach().contiguous(), tables.detach().contiguous()
    colours = colouring(offsets)
    native = ops.device_module(backend, logits)
    if native is not None:
        return sampling_device.gibbs_sweep(
            native, logits, labels, tables, offsets, colours, seed, chains, first_sweep,
            inverse_temperature, sums,
        )  # fmt: skip
    changes = np.empty((len(labels), len(inverse_temperature)), np.int64)
    problem = GibbsProblem(
        rows(logits), labels.numpy(), rows(tables), offsets, colours, seed,
        np.array(chains, np.uint64), np.array(first_sweep, np.uint64), inverse_temperature,
        None if sums is None else sums.numpy(), changes,
    )  # fmt: skip
    gibbs_engine(backend).sweep(problem, torch.get_num_threads())
    return torch.from_numpy(changes)


def start(
    logits: Tensor, labels: Tensor, *, seed: int, chains: Sequence[int], backend: str
) -> None:
    """Draw labels [B, H, W] int32 from the logits alone, as sweep 0; below 0 they stay."""
    count = logits.shape[1]
    gibbs_sweep(
        logits, labels, logits.new_zeros(0, count, count), np.zeros((0, 2), np.int32), seed=seed,
        chains=chains, first_sweep=[0] * len(logits), inverse_temperature=np.ones(1, np.float32),
        backend=backend,
    )  # fmt: skip


@torch.compiler.disable  # type: ignore[untyped-decorator]
def pair_counts(labels: Tensor, num_classes: int, offsets: Array, backend: str) -> Tensor:
    """How often each pair of labels [B, H, W] int32 stands at the ends of an edge, [C, L, L]."""
    if ops.device_module(backend, labels) is not None:
        return sampling_device.pair_counts(labels, num_classes, offsets)
    counts = np.zeros((len(offsets), num_classes, num_classes), np.int64)
    engine = gibbs_engine(backend)
    engine.statistics(rows(labels), offsets, counts, torch.get_num_threads())
    return torch.from_numpy(counts)
