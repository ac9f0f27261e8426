"""The third step of a mean field, run: all iterations on kernels that are built."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import engines
from .._limits import MAX_KERNELS
from .._typing import Array
from ..postprocess import label_dtype, most_probable
from . import grid


@dataclass(frozen=True)
class Run:
    """How the mean fields of an image are run, on kernels that are built."""

    engine: engines.Engine
    built: Sequence[engines.MeanFieldKernel]
    iterations: int  # at least 1
    marginals: bool  # return the softmax of the refined logits
    threads: int
    prune: float = 0.0
    labels: bool = False  # return the argmax of the refined logits [N] instead
    quantization: tuple[float, float] | None = None  # (scale, zero) of uint8 logits
    # [T, 2] int64: `engines.Problem.kept`, summed over all mean fields that ran
    kept: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", np.zeros((self.iterations, 2), np.int64))


def run(logits: Array, coupling: Array, how: Run) -> Array | None:
    """Run all iterations on logits [L, N] of at least two labels, of any strides.

    They have the coupling's dtype, or where it is float32 another that `in_dtype` converts. Return
    U', its softmax or its argmax; or None if the engine rejects the logits' values.
    """
    found = _run_each([logits], coupling, how)
    return None if found is None else found[0]


def run_maps(maps: Array, couplings: Array, how: Run) -> Array | None:
    """Run the binary mean field of each map x, as that of the logits (0, x). [L, ...] -> [L, N]

    Return the refined x or, with `marginals`, the foreground's; or None as `run`.
    """
    refined = np.empty((len(maps), math.prod(maps.shape[1:])), maps.dtype)
    start = 0
    while start < len(maps):
        # One call for maps that share a coupling; more at once than threads would take more memory
        stop = start + 1
        while (
            stop < min(len(maps), start + how.threads)
            and np.array_equal(couplings[stop], couplings[start])
        ):
            stop += 1
        logits = [as_rows(maps[i : i + 1]) for i in range(start, stop)]
        found = _run_each(logits, couplings[start], how)
        if found is None:
            return None
        for i, (background, foreground) in enumerate(found, start):
            refined[i] = foreground if how.marginals else foreground - background
        start = stop
    return refined


def _run_each(logits: Sequence[Array], coupling: Array, how: Run) -> list[Array] | None:
    """Do the work of `run` for several logits [L, N] of one image."""
    fused, pruner = engines.fused(how.engine), engines.pruner(how.engine)
    if fused is None or len(how.built) > MAX_KERNELS:
        given = [in_dtype(u, coupling.dtype, how.quantization) for u in logits]
        if pruner is not None and how.prune > 0:
            found = [_pruned(pruner, u, coupling, how) for u in given]
        else:
            of_built = (how.built, coupling, how.iterations, how.engine, how.threads)
            found = [iterate(u, *of_built) for u in given]
            if how.marginals and not how.labels:
                return [softmax(refined, axis=0) for refined in found]
        return [most_probable(refined) for refined in found] if how.labels else found
    kept = [np.zeros_like(how.kept) for _ in logits]
    nothing = np.empty((0, 0, 0), coupling.dtype)  # nothing is kept for a backward pass
    dtype = label_dtype(len(coupling[0]))
    problems = []
    for u, of_problem in zip(logits, kept, strict=True):
        labels = np.empty(u.shape[1], dtype) if how.labels else None
        out = nothing if how.labels else np.empty(u.shape, coupling.dtype)
        problems.append(engines.Problem(
            how.built, u, out, nothing, how.prune, of_problem, how.quantization, labels
        ))
    options = (how.iterations, how.marginals, 0, how.threads)
    if not fused.mean_field(problems, coupling, *options):
        return None
    how.kept[:] += np.sum(kept, axis=0)
    return [p.refined if p.label_map is None else p.label_map for p in problems]


def _pruned(
    engine: engines.PruningEngine, logits: Array, coupling: Array, how: Run
) -> Array:
    """Run one mean field by an engine that runs whole ones only if labels may be left out."""
    out, kept = np.empty(logits.shape, coupling.dtype), np.zeros_like(how.kept)
    problem = engines.Problem(how.built, logits, out, out[:0], how.prune, kept)
    engine.pruned_mean_field(problem, coupling, how.iterations, how.marginals and not how.labels)
    how.kept[:] += kept
    return out


def in_dtype(logits: Array, dtype: Any, quantization: tuple[float, float] | None) -> Array:
    """Return logits in the dtype of computation: those of uint8 are scale * (stored - zero)."""
    if quantization is None:
        return logits.astype(dtype, copy=False)
    scale, zero = (np.dtype(dtype).type(number) for number in quantization)
    return (logits.astype(dtype) - zero) * scale


def iterate(
    logits: Array,
    built: Sequence[engines.MeanFieldKernel],
    coupling: Array,
    iterations: int,
    engine: engines.Engine,
    threads: int,
) -> Array:
    """Run the iterations in NumPy, on an engine without a fused mean field. [L, N] -> [L, N]"""
    filters = [Filter(kernel, engine, threads) for kernel in built]
    u = np.ascontiguousarray(logits.T)  # [N, L]
    refined = u
    for _ in range(iterations):
        q = softmax(refined, axis=1)  # [N, L]
        pairwise = sum(f(q) @ c.T for f, c in zip(filters, coupling, strict=True))  # [N, L]
        refined = u - pairwise
    return refined.T


@dataclass(frozen=True)
class Filter:
    """Filtering by one kernel, called on values [N, L].

    The result [N, L] is after * (K - diag(diagonal)) (before * values).
    """

    kernel: engines.MeanFieldKernel
    engine: engines.Engine
    threads: int

    def __call__(self, values: Array) -> Array:
        kernel = self.kernel
        if kernel.before is not None:
            values = values * kernel.before[:, None]
        if isinstance(kernel, engines.GridKernel):
            out = grid.filtered(kernel, values)
        else:
            out = np.empty_like(values)
            self.engine.filter(kernel.plan, values, out, False, self.threads)
        if kernel.diagonal is not None:
            out -= kernel.diagonal[:, None] * values
        if kernel.after is not None:
            out *= kernel.after[:, None]
        return out


def as_rows(logits: Array) -> Array:
    """Flatten logits [L, ...] to [L, N], a view if strides allow it.

    One logit x becomes the two logits (0, x).
    """
    rows = engines.whole_strides(logits.reshape(len(logits), -1))
    return np.concatenate([np.zeros_like(rows), rows]) if len(rows) == 1 else rows


def softmax(logits: Array, axis: int) -> Array:
    """Compute marginals, which sum to 1 over the labels along `axis`."""
    with np.errstate(over="ignore", invalid="ignore"):  # huge differences; NaN outside a mask
        q = logits - logits.max(axis=axis, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(axis=axis, keepdims=True)
    return q


def log_softmax(logits: Array, axis: int) -> Array:
    """Compute the logarithms of the marginals."""
    with np.errstate(over="ignore"):  # huge differences become -inf, whose exponential is 0
        shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
