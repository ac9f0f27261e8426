"""Gibbs sweeps and pair statistics of tensors on a device, by the program of a native module."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._typing import Array
from ...engines.gibbs import Colouring, DeviceGibbsBatch, DeviceNeighbours
from ...gibbs.neighbourhood import ends
from ..device import Call


def pair_counts(labels: Tensor, num_classes: int, offsets: Array) -> Tensor:
    """Count the label pairs of labels [B, H, W] at the two ends of edges, [C, L, L]."""
    counts = torch.zeros(
        (len(offsets), num_classes**2), dtype=torch.int64, device=labels.device
    )
    for table, offset in zip(counts, offsets, strict=True):
        i, j = ends(labels, offset)
        both = ((i >= 0) & (j >= 0)).flatten()
        pair = (i.clamp(min=0).long() * num_classes + j.clamp(min=0)).flatten()
        table.scatter_add_(0, pair, both.long())  # integers: exact in any order
    return counts.reshape(-1, num_classes, num_classes)


def gibbs_sweep(
    native: Any,
    logits: Tensor,
    labels: Tensor,
    tables: Tensor,
    offsets: Array,
    colours: Colouring,
    seed: int,
    chains: Sequence[int],
    first_sweep: Sequence[int],
    inverse_temperature: Array,
    sums: Tensor | None,
) -> Tensor:
    """Sweep once for each inverse temperature; arguments as in `sampling.Sampler`."""
    images, count, height, width = logits.shape
    changes = torch.zeros(
        (images, len(inverse_temperature)), dtype=torch.int64, device=logits.device
    )
    if images == 0:
        return changes.cpu()
    call = Call(native, logits)

    def copied(array: Any, dtype: torch.dtype) -> int:
        """Copy an array to the device and return its address."""
        return call.address(torch.as_tensor(array, dtype=dtype).to(logits.device), dtype)

    # The margin of the padded labels is as wide as the longest offset: above, below and to the
    # right of the image. The margin to the left of a row is that of the row before.
    down, right = (int(n) for n in np.abs(offsets).max(0, initial=0))
    stride = width + right
    steps = offsets.astype(np.int64) @ np.array([stride, 1])
    # Rows psi_c(., l) and psi_c(l, .), and a row of zeros for the label L of masked pixels.
    tables_both_ways = torch.nn.functional.pad(torch.cat([tables.mT, tables]), (0, 0, 0, 1))
    in_order = logits.movedim(1, -1).contiguous()
    step, first = _stripes(colours)
    on_device = labels.contiguous()
    neighbours = DeviceNeighbours(
        classes=len(offsets),
        labels=count,
        rows=call.address(tables_both_ways),
        step=copied(steps, torch.int64),
    )
    batch = DeviceGibbsBatch(
        images=images,
        height=height,
        width=width,
        neighbours=neighbours,
        logits=call.address(in_order),
        labels=call.room(on_device, torch.int32),
        padded_size=(height + 2 * down) * stride + right,
        padded_first=right + down * stride,
        padded_stride=stride,
        colours=colours.m,
        step=step,
        first=copied(first, torch.int32),
        seed=seed,
        chain=copied(_words(chains), torch.int64),
        first_sweep=copied(_words(first_sweep), torch.int64),
        sweeps=len(inverse_temperature),
        inverse_temperature=copied(inverse_temperature, torch.float32),
        marginals=0 if sums is None else call.room(sums, torch.float64),
        changes=call.room(changes, torch.int64),
    )
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        native.gibbs_sweep(batch, call.workspace(native.gibbs_workspace(batch)), call.stream)
    if on_device is not labels:
        labels.copy_(on_device)
    return changes.cpu()


def _words(numbers: Sequence[int]) -> Array:
    """Return integers below 2^64 as int64 with the same bits."""
    return np.array(numbers, np.uint64).view(np.int64)


def _stripes(colours: Colouring) -> tuple[int, Array]:
    """Return the distance between pixels of one colour in a row, and the first column of each.

    The columns are [colour, row mod m], -1 where a colour does not occur in a row.
    """
    a, b, m = colours
    step = m // math.gcd(a, m)
    first = np.full((m, m), -1, np.int32)
    rows, columns = np.meshgrid(np.arange(m), np.arange(step), indexing="ij")
    first[(a * columns + b * rows) % m, rows] = columns
    return step, first
