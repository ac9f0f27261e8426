"""refine_tiled: refine an image of any size, one tile in memory at a time.

Each tile is refined together with a halo of surrounding pixels, whose marginals are discarded. Its
feature coordinates are those of the whole image, so a halo as wide as messages travel gives the
marginals of the whole image; docs/refinement.md measures narrower halos. Inputs are anything that
can be sliced like an array; this module knows no file format.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from ._limits import FILTER_VARIANCE
from ._typing import Array
from . import checks, unaries
from .checks.storage import is_read_only, is_shared
from .checks.units import spread
from .inference import grid
from .kernels import (
    Window, check_bandwidths, from_params, in_feature_order, is_on_grid, normalizer, weights,
)  # fmt: skip
from .inference.mean_field import infer
from .params import CRFParams, Quality
from .postprocess import label_dtype
from .unaries import Kind

__all__ = ["reach", "refine_tiled"]

Halo = int | Sequence[int] | Literal["exact"] | None

# Default side of a tile, by number of axes: a tile has about as many pixels as a core refines in a
# second, and is a multiple of the blocks and chunks in which files are usually stored.
_DEFAULT_TILE = {2: 1024, 3: 128}
# Half the side of the crop at the image's centre whose values are checked for common mistakes.
_PROBE = 16
# Sides of the blocks whose units are compared with theta_beta, by the number of axes.
_BLOCK = {2: 16, 3: 8}

# Number of simplices that a message crosses on a lattice: one each in splat and slice, two in blur.
# "filled" also inserts the neighbours of vertices, one simplex further.
_SIMPLICES: dict[Quality, int] = {"standard": 4, "symmetric": 4, "filled": 5}


class _Typed(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


class Sliceable(_Typed, Protocol):
    """An input that is read in tiles: an array of NumPy (including memmap), zarr, h5py, ..."""

    def __getitem__(self, where: tuple[slice, ...], /) -> Any: ...


class Writable(_Typed, Protocol):
    """An output that is written in tiles."""

    def __setitem__(self, where: tuple[slice, ...], values: Any, /) -> None: ...


class Tile(NamedTuple):
    """A part of an image: one slice per axis."""

    inner: tuple[slice, ...]  # the pixels that are written
    outer: tuple[slice, ...]  # the pixels that are read: `inner` and its halo, within the image

    @property
    def origin(self) -> tuple[int, ...]:
        """Index of the first pixel that is read."""
        return tuple(axis.start for axis in self.outer)

    @property
    def kept(self) -> tuple[slice, ...]:
        """`inner` relative to `origin`."""
        return tuple(
            slice(i.start - o.start, i.stop - o.start)
            for i, o in zip(self.inner, self.outer, strict=True)
        )


def refine_tiled(
    logits: Sliceable,
    image: Sliceable,
    params: CRFParams = CRFParams(),
    *,
    tile: int | Sequence[int] | None = None,
    halo: Halo = None,
    out: Writable | None = None,
    labels: bool = False,
    kind: Kind = "logits",
    compatibility: Array | None = None,
    multilabel: bool = False,
    iterations: int = 10,
    mask: Sliceable | None = None,
    spacing: Sequence[float] | None = None,
    prune: float = 0.0,
    backend: str = "auto",
    threads: int | None = None,
) -> Any:
    """Refine an image that is larger than memory: read, refine and write it tile by tile.

    Parameters
    ----------
    logits : array-like [L, H, W] or [L, D, H, W], float16, float32 or float64
        As in `refine`. Anything with `shape`, `dtype` and slicing: ``np.load(..., mmap_mode="r")``,
        an array of zarr or h5py. float16 is converted to float32.
    image : array-like [H, W, C] or [D, H, W, C], integer or floating point
        As in `refine`.
    params : CRFParams
        As in `refine`.
    tile : int or sequence of one int per spatial axis, optional
        Size of a tile without its halo, in pixels; default 1024 (128 in volumes), or the halo if
        that is larger. If `out` is stored in chunks, preferably a multiple of them.
    halo : int or sequence of one int per spatial axis, or "exact", optional
        Pixels read beyond the tile on each side. Default: the distance that one message travels,
        `reach`. "exact": the distance that messages of all iterations travel, which leaves seams
        of rounding errors only.
    out : array-like [L, H, W] or [L, D, H, W] (with `labels`: without L), optional
        Array to write the result to: anything with `shape`, `dtype` and assignment to slices
        that shares no memory with the inputs. Default: a new NumPy array, which must fit into
        memory.
    labels : bool
        Write the most probable label of each pixel instead of the marginals. L = 1: 1 for the
        foreground. Not with `multilabel`, where a pixel may have several labels.
    kind, compatibility, multilabel, iterations, spacing, prune, backend, threads
        As in `refine`.
    mask : array-like [H, W] or [D, H, W] of bool, optional
        As in `refine`, but also anything with `shape`, `dtype` and slicing.

    Returns
    -------
    out
        Marginals, float32 unless `out` has another dtype; or with `labels` the labels, in the
        smallest unsigned integer unless `out` has another dtype.

    Raises
    ------
    TypeError, ValueError
        As in `refine`; or `tile`, `halo` or `out` do not fit. Options and shapes are checked
        before anything is read or written, values when their tile is refined.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [KK11] algorithm 1 on each tile. Memory use is that of a tile with its halo, for any image size.
    Positions count from the corner of the image, in the dtype of computation. float32 resolves
    positions within some 100,000 theta; a larger image raises ValueError and needs float64 logits.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(3, 40, 50)).astype(np.float32)
    >>> image = rng.integers(0, 255, (40, 50, 3), np.uint8)
    >>> params = CRFParams(theta_alpha=2, theta_beta=20, theta_gamma=1)
    >>> q = refine_tiled(logits, image, params, tile=16, halo="exact", iterations=2)
    >>> from densecrf_rnn import refine
    >>> bool(np.allclose(q, refine(logits, image, params, iterations=2), atol=1e-6))
    True
    """
    checks.flag("labels", labels)
    checks.one_label(labels, multilabel)
    parts = refined_tiles(
        logits, image, params, tile=tile, halo=halo, kind=kind, compatibility=compatibility,
        multilabel=multilabel, iterations=iterations, mask=mask, spacing=spacing, prune=prune,
        labels=labels, backend=backend, threads=threads,
    )  # fmt: skip
    into: Any = out
    if out is None:
        shape = logits.shape[1:] if labels else logits.shape
        into = np.empty(shape, label_dtype(logits.shape[0]) if labels else np.float32)
    _check_out(into, logits, image, mask, labels)
    for inner, found in parts:
        into[inner if labels else (slice(None), *inner)] = found
    return into


def refined_tiles(
    logits: Sliceable, image: Sliceable, params: CRFParams = CRFParams(), *,
    tile: int | Sequence[int] | None = None, halo: Halo = None, kind: Kind = "logits",
    compatibility: Array | None = None, multilabel: bool = False, iterations: int = 10,
    mask: Sliceable | None = None, spacing: Sequence[float] | None = None, prune: float = 0.0,
    labels: bool = False, backend: str = "auto", threads: int | None = None,
) -> Iterator[tuple[tuple[slice, ...], Array]]:  # fmt: skip
    """Iterate over the refined tiles of `refine_tiled`, to write them anywhere.

    Parameters
    ----------
    logits, image, params, tile, halo, kind, compatibility, multilabel, iterations, mask, spacing,
    prune, labels, backend, threads
        As in `refine_tiled`.

    Returns
    -------
    iterator of (tuple of slices, ndarray [L, *tile] float32, or with `labels` [*tile])
        Position of the tile in the image, and its marginals or labels. The tiles cover each pixel
        once, row by row.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As in `refine_tiled`: for options and shapes at once, for values when a tile is refined.

    Examples
    --------
    >>> logits, image = np.zeros((2, 5, 7), np.float32), np.zeros((5, 7, 3), np.uint8)
    >>> for where, q in refined_tiles(logits, image, tile=4):
    ...     print([(axis.start, axis.stop) for axis in where], q.shape)
    [(0, 4), (0, 4)] (2, 4, 4)
    [(0, 4), (4, 7)] (2, 4, 3)
    [(4, 5), (0, 4)] (2, 1, 4)
    [(4, 5), (4, 7)] (2, 1, 3)
    """
    options = {
        "params": params, "kind": kind, "compatibility": compatibility, "multilabel": multilabel,
        "iterations": iterations, "spacing": spacing, "prune": prune, "labels": labels,
        "backend": backend, "threads": threads,
    }  # fmt: skip
    check(logits, image, mask, options)
    size = logits.shape[1:]
    plan = tiling(size, tile, halo_of(halo, params, size, iterations, spacing))

    def refined() -> Iterator[tuple[tuple[slice, ...], Array]]:
        decided = advise(logits, image, mask, options)
        for part in plan:
            window = Window(part.origin, size)
            inside = None if mask is None else np.asarray(mask[part.outer])
            scores, pixels = _read(logits, image, part.outer)
            if not decided:  # so far the logits were constant, as in the background of a mask
                seen = scores if inside is None else scores[:, inside]
                decided = checks.probabilities(seen, batched=False, multilabel=multilabel)
            found = refined_window(scores, pixels, inside, options, window)
            del scores, pixels  # frees them before the next tile is read
            where: tuple[Any, ...] = (..., *part.kept)
            yield part.inner, found[where].copy()  # frees the memory of the halo

    return refined()


def refined_window(
    logits: Array, image: Array, mask: Array | None, options: dict[str, Any], window: Window
) -> Array:
    """Compute the marginals of a part of an image, in float32, or its labels.

    Raises
    ------
    ValueError
        An invalid value; the message names the rows and columns of the part.
    """
    try:
        return _refined(logits, image, mask, options, window)
    except ValueError as error:
        names = ("layers", "rows", "columns")[-len(window.whole) :]
        where = ", ".join(
            f"{name} {start}..{start + n - 1}"
            for name, start, n in zip(names, window.origin, logits.shape[1:], strict=True)
        )
        raise ValueError(f"{error} (in {where})") from error


def _refined(
    logits: Array, image: Array, mask: Array | None, options: dict[str, Any], window: Window
) -> Array:
    kind, of_infer = options["kind"], {k: v for k, v in options.items() if k != "kind"}
    logits = unaries.as_logits(logits, kind, multilabel=options["multilabel"], mask=mask)
    found = infer(
        _computable(logits), image, mask=mask, kernel_weights=None, marginals=True, window=window,
        warn=False, **of_infer,
    )  # fmt: skip
    return found if options["labels"] else found.astype(np.float32, copy=False)


def reach(
    params: CRFParams, size: Sequence[int], spacing: Sequence[float] | None = None
) -> tuple[int, ...]:
    """Compute the distance that one message travels along each axis, in pixels.

    Beyond this distance, the filtered kernels are exactly 0.

    Parameters
    ----------
    params : CRFParams
    size : (H, W) or (D, H, W)
        Size of the image.
    spacing : sequence of one float per spatial axis, optional
        As in `refine`.

    Returns
    -------
    tuple of int
        One distance per axis of `size`, at most its length.

    Notes
    -----
    [Adams10]. A lattice's splat and slice each reach across one simplex, its blur across two more:
    4 sqrt(3/2 j / (j+1)) bandwidths in all along the j-th feature, whatever the other features
    are. That is 3.46, 4 and 4.24 theta_alpha along columns, rows and layers (with feature order
    "xy"), or of the number for that axis if there are several. The vertices that a message passes
    through lie within the same bound.

    Examples
    --------
    >>> reach(CRFParams(theta_alpha=30), (5000, 5000))
    (120, 104)
    """
    spacing = checks.spacing(spacing, len(size))
    own = from_params(params)
    check_bandwidths(own, params, size, {})
    feature = in_feature_order(list(range(1, len(size) + 1)), params.feature_order)
    simplex = [math.sqrt(j / (j + 1) / FILTER_VARIANCE) for j in feature]
    found = [0] * len(size)
    for kernel, weight in zip(own, weights(params).values(), strict=True):
        if not np.any(weight):
            continue
        for axis, (n, step) in enumerate(zip(size, spacing, strict=True)):
            if kernel.theta_position is None:
                pixels = n
            elif is_on_grid(kernel, params.spatial):
                pixels = grid.reach(grid.axis(n, kernel.along_axes(len(size))[axis] / step))
            else:
                bandwidths = _SIMPLICES[params.quality] * simplex[axis]
                theta = kernel.along_axes(len(size))[axis]
                pixels = math.ceil(min(n, bandwidths * theta / step))
            found[axis] = max(found[axis], pixels)
    return tuple(found)


def halo_of(
    halo: Halo, params: CRFParams, size: Sequence[int], iterations: int,
    spacing: Sequence[float] | None,
) -> tuple[int, ...]:  # fmt: skip
    """Convert the argument `halo` of `refine_tiled` to pixels, one number per axis."""
    if halo is None:
        return reach(params, size, spacing)
    if isinstance(halo, str):
        checks.option("halo", halo, ("exact",))
        # A sender's mass must be exact too if its messages are scaled by it: one distance more.
        messages = iterations + normalizer(params.normalization).scales_input
        return tuple(min(n, messages * r) for n, r in zip(size, reach(params, size, spacing)))
    return _per_axis("halo", halo, len(size), 0)


def tiling(
    size: Sequence[int], tile: int | Sequence[int] | None, halo: Sequence[int]
) -> list[Tile]:
    """Return the tiles of an image of this size, row by row."""
    if tile is None:
        # A tile narrower than its halo would discard most of the work.
        lengths = tuple(max(_DEFAULT_TILE[len(size)], h) for h in halo)
    else:
        lengths = _per_axis("tile", tile, len(size), 1)
    axes = map(_spans, size, lengths, halo)
    return [Tile(*zip(*along, strict=True)) for along in itertools.product(*axes)]


def _spans(n: int, length: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Iterate over the tiles along one axis of n pixels: the slices to write and to read."""
    for start in range(0, n, length):
        stop = min(n, start + length)
        yield slice(start, stop), slice(max(0, start - halo), min(n, stop + halo))


def _per_axis(name: str, value: Any, axes: int, at_least: int) -> tuple[int, ...]:
    if checks.is_sequence(value):
        if len(value) != axes:
            raise ValueError(f"{name} is {value!r}; give one number, or {axes}, one per axis")
        return tuple(checks.count(f"{name}[{i}]", v, at_least) for i, v in enumerate(value))
    return (checks.count(name, value, at_least),) * axes


def _computable(logits: Array) -> Array:
    return logits.astype(np.float32) if logits.dtype == np.float16 else logits


def _read(
    logits: Sliceable, image: Sliceable, where: tuple[slice, ...]
) -> tuple[Array, Array]:
    scores = _computable(np.asarray(logits[(slice(None), *where)]))
    return scores, np.asarray(image[(*where, slice(None))])


# --- arguments -----------------------------------------------------------------------------------


def check(
    logits: Sliceable, image: Sliceable, mask: Sliceable | None, options: dict[str, Any]
) -> None:
    """Check shapes, dtypes and options without reading the arrays."""
    scores, pixels = _stand_in("logits", logits), _stand_in("image", image)
    inside = None if mask is None else _stand_in("mask", mask)
    checks.named_axes(logits, image, mask)
    checks.exchanged(scores, pixels, batched=False)
    checks.params(options["params"], CRFParams)
    if unaries.holds_probabilities(options["kind"]):
        checks.probability_dtype(scores)
        scores = np.broadcast_to(np.float32(0), scores.shape)
    checks.logits(scores, batched=False)
    checks.image(pixels, scores, batched=False)
    size = scores.shape[1:]
    if inside is not None:
        checks.mask(inside, size)
    # Run one dummy pixel with zero logits at the last corner: it can fail only on invalid options
    # or unresolvable coordinates.
    one = (1,) * len(size)
    corner = Window(tuple(n - 1 for n in size), size)
    dummy = np.zeros((*one, pixels.shape[-1]), pixels.dtype)
    zeros = np.zeros((len(scores), *one), scores.dtype)
    _refined(zeros, dummy, None, {**options, "kind": "logits"}, corner)


def _stand_in(name: str, array: Sliceable) -> Array:
    """Return a broadcast array of the shape and dtype of an input, which takes no memory."""
    checks.unmasked(name, array)
    wanted = "a NumPy array, or one that is sliced like it (numpy.memmap, zarr, h5py)"
    if not all(hasattr(array, need) for need in ("shape", "dtype", "__getitem__")):
        raise TypeError(f"{name} is {type(array).__name__}; it must be {wanted}")
    try:
        one = np.zeros((), array.dtype)
    except TypeError:  # the dtype of a tensor
        raise TypeError(
            f"{name} has dtype {array.dtype}, which is not NumPy's; pass {wanted}"
        ) from None
    return np.broadcast_to(_computable(one), tuple(array.shape))


def advise(
    logits: Sliceable, image: Sliceable, mask: Sliceable | None, options: dict[str, Any]
) -> bool:
    """Give the warnings of `refine` about suspicious input values.

    Logits are judged by a crop at the centre and the image by a few blocks, so that the whole need
    not be read. Return whether the crop tells logits from probabilities.
    """
    where = tuple(
        slice(max(0, n // 2 - _PROBE), min(n, n // 2 + _PROBE)) for n in logits.shape[1:]
    )
    scores = _computable(np.asarray(logits[(slice(None), *where)]))
    if mask is not None:
        scores = scores[:, np.asarray(mask[where])]
    if np.any(options["params"].w_bilateral):
        blocks = [spread(n, _BLOCK[len(where)]) for n in logits.shape[1:]]
        pixels = _joined(image, blocks, (slice(None),))
        inside = None if mask is None else _joined(mask, blocks)
        checks.image_units(pixels, options["params"].theta_beta, mask=inside, rescale=False)
    if options["kind"] == "probabilities":
        return True
    return checks.probabilities(scores, batched=False, multilabel=options["multilabel"])


def _joined(
    array: Sliceable, blocks: Sequence[Sequence[slice]], rest: tuple[slice, ...] = (),
    where: tuple[slice, ...] = (),
) -> Array:  # fmt: skip
    """Read all combinations of the axes' blocks and join them to one array."""
    axis = len(where)
    if axis == len(blocks):
        return np.asarray(array[(*where, *rest)])
    parts = [_joined(array, blocks, rest, (*where, block)) for block in blocks[axis]]
    return np.concatenate(parts, axis)


def _check_out(
    out: Any, logits: Sliceable, image: Sliceable, mask: Sliceable | None, labels: bool
) -> None:
    if not all(hasattr(out, need) for need in ("shape", "dtype", "__setitem__")):
        raise TypeError(
            f"out is {type(out).__name__}; it must be a writable array (NumPy, zarr, h5py)"
        )
    if is_read_only(out):
        raise ValueError("out is read-only; give an array that is opened for writing")
    wanted = logits.shape[1:] if labels else logits.shape
    if tuple(out.shape) != tuple(wanted):
        raise ValueError(
            f"out has shape {tuple(out.shape)}; {'labels' if labels else 'marginals'} of these "
            f"logits need {tuple(wanted)}"
        )
    dtype, count = np.dtype(out.dtype), max(2, logits.shape[0])
    if labels and not (dtype.kind in "iu" and np.iinfo(dtype).max >= count - 1):
        raise TypeError(f"out has dtype {dtype}; it must be an integer that can hold {count - 1}")
    if not labels and dtype.kind != "f":
        raise TypeError(f"out has dtype {dtype}; marginals need floating point (float32)")
    for name, array in (("logits", logits), ("image", image), ("mask", mask)):
        if array is not None and is_shared(out, array):
            raise ValueError(
                f"out holds the same data as {name}, which is still read for the halos of later "
                "tiles; give another array"
            )
