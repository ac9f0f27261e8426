"""refine_dask: tiled refinement of dask arrays, on one machine or on a cluster.

The tiles are the chunks of the arrays. dask's scheduler decides where and when they are computed:
threads, processes, or a dask.distributed cluster, which recomputes the tiles of a lost worker.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._typing import Array
from . import checks, postprocess, tiles
from .kernels import Window
from .params import CRFParams
from .unaries import Kind

__all__ = ["refine_dask"]


def refine_dask(
    logits: Any,
    image: Any,
    params: CRFParams = CRFParams(),
    *,
    halo: tiles.Halo = None,
    labels: bool = False,
    kind: Kind = "logits",
    compatibility: Array | None = None,
    multilabel: bool = False,
    iterations: int = 10,
    mask: Any = None,
    spacing: Sequence[float] | None = None,
    prune: float = 0.0,
    backend: str = "auto",
    threads: int | None = 1,
) -> Any:
    """Refine dask arrays tile by tile, lazily, on one machine or on a cluster.

    Parameters
    ----------
    logits : dask array [L, H, W] or [L, D, H, W], float16, float32 or float64
        As in `refine_tiled`. Its chunks along the spatial axes are the tiles; chunks along the
        labels are merged.
    image : dask array [H, W, C] or [D, H, W, C], integer or floating point
        As in `refine_tiled`; rechunked like `logits`.
    params : CRFParams
        As in `refine`.
    halo : int or sequence of one int per spatial axis, or "exact", optional
        As in `refine_tiled`. Chunks narrower than the halo are merged.
    labels : bool
        Return the most probable label of each pixel instead of the marginals, as in
        `refine_tiled`.
    kind, compatibility, multilabel, iterations, spacing, prune, backend
        As in `refine`.
    mask : dask array [H, W] or [D, H, W] of bool, optional
        As in `refine`.
    threads : int, optional
        Threads per tile; default one, because dask refines several tiles at a time. None: one per
        processor.

    Returns
    -------
    dask array [L, H, W] or [L, D, H, W], float32
        Lazy marginals; or with `labels` the labels, [H, W] or [D, H, W].

    Raises
    ------
    ImportError
        dask is not installed.
    TypeError, ValueError
        As in `refine_tiled`: for options and shapes at once, for values when computed.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    Runs `dask.array.map_overlap` with boundary "none". Each worker needs this package, and memory
    for its tiles with their halos.

    Examples
    --------
    >>> import dask.array as da
    >>> rng = np.random.default_rng(0)
    >>> logits = da.from_array(rng.normal(size=(3, 40, 50)).astype(np.float32), chunks=(3, 20, 25))
    >>> image = da.from_array(rng.integers(0, 255, (40, 50, 3), np.uint8), chunks=(20, 25, 3))
    >>> q = refine_dask(logits, image, CRFParams(theta_alpha=2, theta_beta=20, theta_gamma=1))
    >>> q.shape, q.chunks[1:]
    ((3, 40, 50), ((20, 20), (25, 25)))
    >>> bool(np.allclose(q.sum(0).compute(), 1))
    True
    """
    checks.flag("labels", labels)
    checks.one_label(labels, multilabel)
    da = checks.package(
        "dask.array", "refine_dask", "'densecrf-rnn[dask]'", " (refine_tiled works without it)"
    )
    given = {"logits": logits, "image": image} | ({} if mask is None else {"mask": mask})
    for name, array in given.items():
        if not isinstance(array, da.Array):
            raise TypeError(
                f"{name} is {type(array).__name__}; it must be a dask array "
                "(dask.array.from_array, from_zarr), or use refine_tiled for NumPy arrays"
            )
        if any(n != n for n in array.shape):
            raise ValueError(
                f"{name} has chunks of unknown size; call {name}.compute_chunk_sizes()"
            )
    options = {
        "params": params, "kind": kind, "compatibility": compatibility, "multilabel": multilabel,
        "iterations": iterations, "spacing": spacing, "prune": prune, "labels": False,
        "backend": backend, "threads": threads,
    }  # fmt: skip
    tiles.check(logits, image, mask, options)
    size = logits.shape[1:]
    depth = tiles.halo_of(halo, params, size, iterations, spacing)

    # Merge chunks narrower than the halo; an axis of a single chunk needs no halo.
    chunks = tuple(
        da.overlap.ensure_minimum_chunksize(min(d, n), c)
        for d, n, c in zip(depth, size, logits.chunks[1:], strict=True)
    )
    depth = tuple(0 if len(c) == 1 else d for d, c in zip(depth, chunks, strict=True))
    # With channels first, the spatial axes come last in all arrays.
    arrays = [
        logits.rechunk({0: -1, **dict(enumerate(chunks, 1))}),
        da.moveaxis(image, -1, 0).rechunk({0: -1, **dict(enumerate(chunks, 1))}),
    ]
    if mask is not None:
        arrays.append(mask.rechunk(dict(enumerate(chunks))))
    q = da.map_overlap(
        _refine_block,
        *arrays,
        depth=[dict(enumerate((0,) * (a.ndim - len(size)) + depth)) for a in arrays],
        boundary="none",
        align_arrays=False,  # they are aligned, except along labels and channels
        allow_rechunk=False,
        starts=tuple(tuple(np.cumsum((0, *c[:-1])).tolist()) for c in chunks),
        halo=depth,
        size=size,
        options=options,
        dtype=np.float32,
        meta=np.empty((0,) * logits.ndim, np.float32),
    )
    if not labels:
        return q
    dtype = postprocess.label_dtype(logits.shape[0])
    meta = np.empty((0,) * len(size), dtype)
    return q.map_blocks(postprocess.most_probable, drop_axis=0, dtype=dtype, meta=meta)


def _refine_block(
    logits: Array, image: Array, mask: Array | None = None, *,
    starts: tuple[tuple[int, ...], ...], halo: tuple[int, ...], size: tuple[int, ...],
    options: dict[str, Any], block_id: tuple[int, ...],
) -> Array:  # fmt: skip
    """Compute the marginals of a chunk with its halo, which dask then trims."""
    origin = tuple(
        max(0, axis[i] - h) for axis, i, h in zip(starts, block_id[1:], halo, strict=True)
    )
    image = np.moveaxis(image, 0, -1)
    # One chunk is examined, the central one, because a warning for each would be too many.
    if block_id[1:] == tuple(len(axis) // 2 for axis in starts):
        tiles.advise(logits, image, mask, options)
    return tiles.refined_window(logits, image, mask, options, Window(origin, size))
