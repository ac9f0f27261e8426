"""Gibbs sweeps and label-pair counts of tensors: on CPUs by NumPy engines, else by native code."""

import math
import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._typing import Array
from ... import engines
from ...engines.gibbs import (
    Colouring, DeviceGibbsBatch, DeviceNeighbours, GibbsProblem, gibbs_engine,
)  # fmt: skip
from ...gibbs.neighbourhood import ends
from .. import self_test
from ..ops.device import Call
from ..ops.dispatch import native_for, serving
from ..ops.kernels import rows


def check_backend(backend: str) -> None:
    """Raise BackendUnavailableError unless the backend can draw samples on some device."""
    if backend == "torch":
        raise engines.BackendUnavailableError(
            "backend 'torch' filters but draws no samples; use backend='auto', which samples "
            "by the CUDA engine on its devices and else on the CPU"
        )
    if backend != "cuda":  # checked when a tensor shows the device
        engines.resolve(backend)


class TensorEngine:
    """A `GibbsEngine` that takes logits, labels, tables, marginals and counts as tensors.

    CPU tensors share their memory with the arrays that a NumPy engine works on. A native module
    works on tensors of other devices and, with the backend "serial" (for tests), on CPU tensors. On
    devices without one, sweeps are copied to the CPU and back: a sweep is a chain of small steps,
    one for each colour, which torch operations would launch one by one.

    Parameters
    ----------
    backend : str
        "auto", "cpu", "numba" or "cuda"; `available_backends()` says which can run here.
    like : Tensor
        A tensor on the device of all tensors.
    """

    def __init__(self, backend: str, like: Tensor) -> None:
        if backend == "auto":
            self_test.once(like.device)
        check_backend(backend)
        self._backend, self._native = backend, native_for(backend, like)
        self._copies = serving(backend, like.device) == "torch" and like.device.type != "cpu"
        if self._copies:
            warnings.warn(
                f"no engine draws samples on {like.device} here, so sweeps run on the CPU and "
                "their results are copied back; move the module and its inputs to the CPU, or "
                "install with DENSECRF_RNN_CUDA=ON for an NVIDIA GPU",
                stacklevel=2,
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def gibbs_sweep(self, problem: GibbsProblem, threads: int) -> None:
        if self._native is not None:
            return _sweep_on_device(self._native, problem)
        sums = problem.marginals
        labels, own_sums = problem.labels, sums
        if self._copies:
            labels, own_sums = labels.cpu(), None if sums is None else sums.cpu()
        arrays = replace(
            problem, logits=rows(problem.logits), labels=labels.numpy(),
            tables=rows(problem.tables), marginals=None if sums is None else own_sums.numpy(),
        )  # fmt: skip
        gibbs_engine(self._backend).gibbs_sweep(arrays, threads)
        if self._copies:
            problem.labels.copy_(labels)
            if sums is not None:
                sums.copy_(own_sums)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def gibbs_statistics(self, labels: Any, offsets: Array, counts: Any, threads: int) -> None:
        if self._native is not None or self._copies:
            return _count_pairs(labels, offsets, counts)
        engine = gibbs_engine(self._backend)
        engine.gibbs_statistics(rows(labels), offsets, counts.numpy(), threads)


def _count_pairs(labels: Tensor, offsets: Array, counts: Tensor) -> None:
    """Add the label pairs of labels [B, H, W] at the two ends of edges to counts [C, L, L]."""
    for table, offset in zip(counts, offsets, strict=True):
        i, j = ends(labels, offset)
        both = ((i >= 0) & (j >= 0)).flatten()
        pair = (i.clamp(min=0).long() * len(table) + j.clamp(min=0)).flatten()
        table.view(-1).scatter_add_(0, pair, both.long())  # integers: exact in any order


def _sweep_on_device(native: Any, problem: GibbsProblem) -> None:
    """Run the sweeps of a problem of tensors; write its labels, marginals and changes."""
    logits, offsets, sums = problem.logits, problem.offsets, problem.marginals
    images, count, height, width = logits.shape
    if images == 0:
        return
    call = Call(native, logits)

    def copied(array: Any, dtype: torch.dtype) -> int:
        """Copy an array to the device and return its address."""
        return call.address(torch.as_tensor(array, dtype=dtype).to(logits.device), dtype)

    # The margin of the padded labels is as wide as the longest offset: above, below and to the
    # right of the image. The right margin of a row is also the left one of the next.
    down, right = (int(n) for n in np.abs(offsets).max(0, initial=0))
    stride = width + right
    steps = offsets.astype(np.int64) @ np.array([stride, 1])
    # Rows psi_c(., l) and psi_c(l, .), and a row of zeros for the label L of masked pixels.
    both_ways = torch.cat([problem.tables.mT, problem.tables])
    neighbours = DeviceNeighbours(
        classes=len(offsets),
        labels=count,
        rows=call.address(torch.nn.functional.pad(both_ways, (0, 0, 0, 1))),
        step=copied(steps, torch.int64),
    )
    step, first = _stripes(problem.colouring)
    changes = torch.zeros(problem.changes.shape, dtype=torch.int64, device=logits.device)
    batch = DeviceGibbsBatch(
        images=images,
        height=height,
        width=width,
        neighbours=neighbours,
        logits=call.address(logits.movedim(1, -1)),
        labels=call.room(problem.labels, torch.int32),
        padded_size=(height + 2 * down) * stride + right,
        padded_first=right + down * stride,
        padded_stride=stride,
        colours=problem.colouring.m,
        step=step,
        first=copied(first, torch.int32),
        seed=problem.seed,
        chain=copied(problem.chains.view(np.int64), torch.int64),  # uint64 as int64
        first_sweep=copied(problem.first_sweep.view(np.int64), torch.int64),
        sweeps=len(problem.inverse_temperature),
        inverse_temperature=copied(problem.inverse_temperature, torch.float32),
        marginals=0 if sums is None else call.room(sums, torch.float64),
        changes=call.room(changes, torch.int64),
    )
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        native.gibbs_sweep(batch, call.workspace(native.gibbs_workspace(batch)), call.stream)
    problem.changes[:] = changes.cpu()


def _stripes(colours: Colouring) -> tuple[int, Array]:
    """Return the column distance between pixels of one colour in a row, and the first columns.

    The first columns are an array [m, m], indexed by colour and row mod m; -1 means that the colour
    does not occur in the row.
    """
    a, b, m = colours
    step = m // math.gcd(a, m)
    first = np.full((m, m), -1, np.int32)
    rows, columns = np.meshgrid(np.arange(m), np.arange(step), indexing="ij")
    first[(a * columns + b * rows) % m, rows] = columns
    return step, first
