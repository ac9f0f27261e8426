"""Warnings about an image whose units do not suit theta_beta, which then hides edges or sees noise.

A sample of the image decides. It is so small that correct calls take well below a hundredth of a
refinement longer; only an image that the sample makes suspicious is looked at more closely.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from .numbers import LARGEST, SMALLEST
from .values import INTENSITY_LIMIT, is_float, warn

# Pixels of the first sample, at most one in _SPARSE of the image; and of the second, which decides.
_FEW, _MANY, _SPARSE = 2048, 8192, 32
_BLOCKS = 3  # blocks of pixels along each axis
_TINY = 16  # images, or parts inside a mask, of fewer pixels are not judged
# An image is blank if it spans fewer theta_beta than this (percentiles 1 to 99). The limit is
# higher for floating-point images in the ranges of networks' inputs: 0..1, and zero-mean of about
# unit variance. Integers, or numbers that reach further, may be dark pictures in their own right.
_BLANK, _BLANK_UNIT, _BLANK_SIGNED = 0.5, 1.0, 2.0
_SIGNED_SPAN = 12.0
# An image is noise if neighbours differ by more than _APART theta_beta (median), so that the kernel
# couples no pixel to another, although the image spans more of them than 8 bits do. If it spans
# many more, as 16 bits do, the limit is lower.
_APART, _WIDE = 8.0, 100.0
_APART_FAR, _WIDE_FAR = 2.0, 400.0
# White noise has no edges at any theta_beta: neighbours differ as much as any two pixels.
_WHITE = 0.9
# A larger theta_beta hides the edges of any 16-bit image, so it is meant to.
_DELIBERATE = 65535.0
# theta_beta that suits most images, as a fraction of their span: 5 of 255.
_SUITABLE = 0.02


class Units(NamedTuple):
    """A sample of an image, compared with theta_beta."""

    low: Array  # percentile 1 of each channel
    high: Array  # percentile 99
    neighbours: Array  # differences of neighbours that are not equal, [n, C]
    others: Array  # differences of any two pixels that are not equal, [n, C]
    theta: Array  # theta_beta of each channel
    floating: bool

    @property
    def span(self) -> Array:
        """high - low, in theta_beta, of each channel."""
        return (self.high - self.low) / self.theta

    @property
    def apart(self) -> float:
        """Median difference of neighbours, in theta_beta."""
        return _median(self.neighbours / self.theta)

    @property
    def is_blank(self) -> bool:
        """Whether theta_beta hides the edges of every channel."""
        limit = np.full(len(self.low), _BLANK)
        if self.floating:
            signed = (self.low < 0) & (self.high > 0) & (self.high - self.low <= _SIGNED_SPAN)
            limit[signed] = _BLANK_SIGNED
            limit[(self.low >= 0) & (self.high <= 1)] = _BLANK_UNIT
        return bool((self.span < limit).all() and (self.high > self.low).any())

    @property
    def is_noise(self) -> bool:
        """Whether theta_beta tells all neighbours apart."""
        apart, span = self.apart, float(self.span.max())
        wide = (apart > _APART and span > _WIDE) or (apart > _APART_FAR and span > _WIDE_FAR)
        return wide and apart <= _WHITE * _median(self.others / self.theta)

    @property
    def suitable(self) -> float | tuple[float, ...]:
        """A theta_beta in the units of the image, to two digits; one per channel if they differ."""
        spans = self.high - self.low
        theta = _SUITABLE * np.where(spans > 0, spans, spans.max())
        # Neighbours shall differ by at most half of what counts as noise.
        theta *= max(1.0, 2 * _median(self.neighbours / theta) / _APART)
        found = tuple(float(f"{one:.2g}") for one in theta)
        if SMALLEST <= max(found) <= LARGEST:  # else none is accepted; see `factor`
            found = tuple(max(one, SMALLEST) for one in found)
        return found if max(found) > 4 * min(found) else max(found)

    @property
    def factor(self) -> float | None:
        """A factor of the image that makes theta_beta suit it; None if `suitable` is accepted."""
        suitable = np.asarray(self.suitable)
        if SMALLEST <= suitable.max() <= LARGEST:
            return None
        return float((self.theta / suitable).min())


def image_units(
    array: Any,
    theta_beta: Any,
    *,
    mask: Any = None,
    batched: bool = False,
    rescale: bool = True,
) -> bool:
    """Warn if theta_beta hides all edges of an image, or tells all its neighbours apart.

    Parameters
    ----------
    array : array [*S, C] or tensor [B, C, *S]
    theta_beta : float, or one per channel
    mask : array [*S] or tensor [B, *S] of bool, optional
        Only pixels where it is True are judged.
    batched : bool
        Whether `array` is a batch of channels-first images, as in torch.
    rescale : bool
        Whether the message offers to rescale the image.

    Returns
    -------
    bool
        Whether the image decides the question: False if it is constant.
    """
    found = units(array, theta_beta, mask=mask, batched=batched)
    if found is None:
        return True
    low, high = float(found.low.min()), float(found.high.max())
    ends = f"{low:.4g} to {high:.4g}, percentiles 1 to 99"
    if found.is_blank:
        problem = (
            f"image spans {found.span.max():.2g} theta_beta ({ends}), so the appearance kernel "
            "sees no edges"
        )
        remedy = _rescaled(found, low, high, batched) if rescale else ""
    elif found.is_noise:
        problem = (
            f"neighbouring pixels of image differ by {found.apart:.3g} theta_beta (median; the "
            f"image holds {ends}), so the appearance kernel sees noise"
        )
        remedy = ""
        if batched and low >= 0 and 255 < high <= 255 * 255:  # as `wrap` makes of 0..255
            remedy = ", or pass scale=1 if CRFRNN.wrap was given images in 0..255"
    else:
        return bool((found.high > found.low).any())
    way_out = f"give theta_beta={_shown(found.suitable)}, in the units of the image{remedy}"
    warn(f"{problem}; {rescaling(found, normalize=rescale and not batched) or way_out}")
    return True


def rescaling(found: Units, *, normalize: bool) -> str:
    """Return how to rescale an image if theta_beta in its units is out of range, or nothing.

    With `normalize` the advice has `files.normalized` as an alternative.
    """
    if found.factor is None:
        return ""
    alternative = " or files.normalized(image, 'percentile')" if normalize else ""
    return (
        f"pass image * {found.factor:.2g}{alternative}, because a theta_beta in the units of the "
        f"image ({_shown(found.suitable)}) is outside of {SMALLEST:g}..{LARGEST:g}"
    )


def _shown(theta: Any) -> str:
    return f"({', '.join(map(_shown, theta))})" if isinstance(theta, tuple) else f"{theta:g}"


def _rescaled(found: Units, low: float, high: float, batched: bool) -> str:
    """Return how the image can be brought to the units of theta_beta, if that is clear."""
    theta = float(found.theta.max())
    if 0 <= low and high <= 1 and 255 * (high - low) > _BLANK * theta:
        return ", or pass image * 255"
    if -1 <= low < 0 and high <= 1 and 127.5 * (high - low) > _BLANK * theta:
        return ", or pass (image + 1) * 127.5"
    if theta > 2 * 255 or not found.floating:
        return ""
    if batched:
        return ", or pass the image as it was before it was normalised (CRFRNN.wrap: mean, std)"
    return ", or pass files.normalized(image, 'percentile')"


def units(array: Any, theta_beta: Any, *, mask: Any = None, batched: bool = False) -> Units | None:
    """Compare an image with theta_beta; None if it is clearly in its units, or not to be judged."""
    channels = array.shape[1 if batched else -1]
    size = (array.shape[0], *array.shape[2:]) if batched else tuple(array.shape[:-1])
    theta = np.broadcast_to(np.asarray(theta_beta, np.float64), channels)
    if 0 in array.shape or math.prod(size) < _TINY or theta.min() > _DELIBERATE:
        return None
    if mask is not None and not bool(mask.any()):
        return None
    pixels, inside = _sample(array, mask, batched, size, min(_FEW, math.prod(size) // _SPARSE))
    some = pixels if inside is None else pixels[inside]
    if some.size >= _TINY * channels:
        planes = [some[..., channel] for channel in range(channels)]  # faster than over one axis
        spans = [float(p.max()) - float(p.min()) for p in planes]
        if 2 * _BLANK_SIGNED <= max(spans / theta) <= _WIDE:
            return None
    pixels, inside = _sample(array, mask, batched, size, _MANY)
    return _compared(pixels.astype(np.float64), inside, theta, is_float(array))


def _compared(pixels: Array, inside: Array | None, theta: Array, floating: bool) -> Units | None:
    """Compare a sample, blocks [k, b, k, b, ..., C] of float64, with theta_beta."""
    channels = pixels.shape[-1]
    values = (pixels if inside is None else pixels[inside]).reshape(-1, channels)
    if len(values) < _TINY or not (abs(values) <= INTENSITY_LIMIT).all():  # refused elsewhere
        return None
    low, high = np.percentile(values, [1, 99], axis=0)
    steps = []
    for axis in (pixels.ndim - 2, pixels.ndim - 4):  # of the last two spatial axes, within blocks
        if axis < 1:
            continue
        step = np.diff(pixels, axis=axis)
        if inside is not None:
            n = inside.shape[axis]
            step = step[inside.take(range(1, n), axis) & inside.take(range(n - 1), axis)]
        steps.append(step.reshape(-1, channels))
    every = np.concatenate(steps) if steps else np.zeros((0, channels))
    neighbours = _unequal(every)  # leaves out the constant ground around a volume
    if len(neighbours) < len(every) / 10:
        neighbours = neighbours[:0]
    any_other = np.random.default_rng(0).permutation(len(values))
    others = _unequal(values[any_other] - values)
    return Units(low, high, neighbours, others, theta, floating)


def _unequal(differences: Array) -> Array:
    return differences[(differences != 0).any(-1)]


def _median(differences: Array) -> float:
    """Return the median length of differences [n, C]; 0 if there are none."""
    return float(np.median(np.sqrt((differences**2).sum(-1)))) if len(differences) else 0.0


def _sample(
    array: Any, mask: Any, batched: bool, size: tuple[int, ...], wanted: int
) -> tuple[Array, Array | None]:
    """Return some pixels in contiguous blocks that are spread over an image, and their mask.

    Along each axis there are k blocks of b pixels: [k, b, k, b, ..., C] and [k, b, k, b, ...]. The
    images of a batch are an axis of blocks of one. With a mask the blocks lie within its bounds.
    """
    box = [(0, n) for n in size] if mask is None else _bounding_box(mask)
    axes = len(size) - batched
    side = max(4, round((max(wanted, _TINY) / _BLOCKS**axes) ** (1 / axes)))
    shape: list[int] = []
    index: Any = []
    for axis, (start, stop) in enumerate(box):
        n = stop - start
        if batched and axis == 0:
            blocks, length = min(n, _BLOCKS), 1
        elif n <= _BLOCKS * side:
            blocks, length = 1, n
        else:
            blocks, length = _BLOCKS, side
        starts = start + _starts(n, blocks, length)
        index.append((starts[:, None] + np.arange(length)).ravel())
        shape += [blocks, length]
    pixels = _taken(array, index, batched, channels=True)
    return (
        pixels.reshape(*shape, pixels.shape[-1]),
        None if mask is None else _taken(mask, index, batched, channels=False).reshape(shape) > 0,
    )


def _starts(n: int, blocks: int, length: int) -> Array:
    """Return where blocks begin that lie in the middles of equal parts of an axis of n pixels."""
    middles = (2 * np.arange(blocks) + 1) * n // (2 * blocks)
    return np.maximum(middles - length // 2, 0) if n else middles[:0]


def spread(n: int, length: int) -> list[slice]:
    """Return a few parts of `length` of an axis of n pixels, or all of it if it is no longer."""
    if n <= _BLOCKS * length:
        return [slice(0, n)]
    return [slice(start, start + length) for start in _starts(n, _BLOCKS, length).tolist()]


def _taken(array: Any, index: Sequence[Array], batched: bool, *, channels: bool) -> Array:
    """Return array[ix_(index)] with channels last, from a NumPy array or a tensor."""
    moved = batched and channels  # channels are the second axis
    if not hasattr(array, "detach"):
        array = np.moveaxis(array, 1, -1) if moved else array
        return array[np.ix_(*index)]
    found = array.detach()
    for axis, rows in enumerate(index):
        before = axis + (moved and axis > 0)
        found = found[(slice(None),) * before + (rows.tolist(),)]
    taken: Array = found.cpu().float().numpy()
    return np.moveaxis(taken, 1, -1) if moved else taken


def _bounding_box(mask: Any) -> list[tuple[int, int]]:
    """Return the first and one past the last index inside the mask along each axis."""
    inside = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    box = []
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        found = np.flatnonzero(inside.any(others))
        box.append((int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0))
    return box
