"""Gibbs sampling of a grid CRF by its definition: one pixel after another, in plain NumPy.

Two things in one: the model of [Kirillov15] in float64 (energy, statistics, conditional), and the
arithmetic that every engine shares to the bit (philox, weights, draw, sweep), in float32 and whole
numbers. Slow and obvious; the engines are tested against it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._typing import Array

Pixel = tuple[int, int]


# --- the model -----------------------------------------------------------------------------------


def edges(size: tuple[int, ...], offset: Array) -> Iterable[tuple[Pixel, Pixel]]:
    """All pairs of pixels (i, i + offset) of an image."""
    height, width = size
    for row in range(height):
        for column in range(width):
            other = row + int(offset[0]), column + int(offset[1])
            if 0 <= other[0] < height and 0 <= other[1] < width:
                yield (row, column), other


def energy(
    logits: Array, labels: Array, tables: Array, offsets: Array, mask: Array | None = None
) -> float:
    """E(y) = sum_i psi_i(y_i) + sum_c sum_{ij in E_c} psi_c(y_i, y_j), a score: higher is likelier.

    logits [L, H, W], labels [H, W], tables [C, L, L], offsets [C, 2], mask [H, W].
    """
    size = labels.shape
    taken = np.ones(size, bool) if mask is None else mask
    total = 0.0
    for pixel in zip(*np.nonzero(taken), strict=True):
        total += float(logits[(labels[pixel], *pixel)])
    for table, offset in zip(tables, offsets, strict=True):
        for i, j in edges(size, offset):
            if taken[i] and taken[j]:
                total += float(table[labels[i], labels[j]])
    return total


def statistics(labels: Array, num_classes: int, offsets: Array, mask: Array | None = None) -> Array:
    """How often each pair of labels stands at the ends of an edge of each class. [C, L, L]"""
    taken = np.ones(labels.shape, bool) if mask is None else mask
    counts = np.zeros((len(offsets), num_classes, num_classes), np.int64)
    for c, offset in enumerate(offsets):
        for i, j in edges(labels.shape, offset):
            if taken[i] and taken[j]:
                counts[c, labels[i], labels[j]] += 1
    return counts


def scores(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Array,
    pixel: Pixel,
    mask: Array | None = None,
) -> Array:
    """The logarithm of the conditional of a pixel given all others, up to a constant. [L]

    Edges that begin at the pixel are added to its logits, then the sum of those that end there, in
    the order of the classes and in the dtype of the logits. Neighbours that are not there, or are
    masked, add nothing.
    """
    row, column = pixel
    height, width = labels.shape
    outward = logits[:, row, column].copy()
    inward = np.zeros_like(outward)
    for table, (down, right) in zip(tables.astype(logits.dtype), offsets.tolist(), strict=True):
        for sign, into in ((1, outward), (-1, inward)):
            other = row + sign * down, column + sign * right
            if not (0 <= other[0] < height and 0 <= other[1] < width):
                continue
            if mask is not None and not mask[other]:
                continue
            into += table[:, labels[other]] if sign == 1 else table[labels[other]]
    return outward + inward


def conditional(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Array,
    pixel: Pixel,
    mask: Array | None = None,
) -> Array:
    """p(y_i = l | all others) of one pixel, in float64: equation (7) of [Kirillov15]. [L]"""
    s = scores(logits.astype(np.float64), labels, tables, offsets, pixel, mask)
    p = np.exp(s - s.max())
    return p / p.sum()


# --- the arithmetic that all engines share -------------------------------------------------------

_WORD = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random words of a counter and a key: Philox4x32-10 of [Salmon11]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & _WORD,
            (first >> 32) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def random_word(seed: int, chain: int, sweep: int, pixel: int) -> int:
    """The random word of a pixel in a sweep of a chain, whoever asks for it and when."""
    counter = (pixel, sweep, chain & _WORD, chain >> 32)
    return philox(counter, (seed & _WORD, seed >> 32))[0]


def exponential(x: Array) -> Array:
    """exp of float32 numbers up to 0 in single steps of float32: within 4e-7, 0 from -88 on."""
    f = np.float32
    # Adding 1.5 * 2^23 + 127 rounds to a whole number n and leaves n + 127, the exponent of 2^n, in
    # the low bits; at -127 those are the bits of 0.
    magic = f(12583039.0)
    clamped = np.where(x > f(-88.0), x, f(-88.0))
    shifted = clamped * f(1.44269504) + magic  # log2(e)
    n = shifted - magic
    r = (clamped - n * f(0.693359375)) - n * f(-2.12194440e-4)  # ln 2 in two parts
    p = np.full_like(r, f(1.3981999e-3))
    for c in (8.3683203e-3, 4.1666485e-2, 1.6666521e-1, 0.5, 1.0, 1.0):
        p = p * r + f(c)
    power = (shifted.view(np.uint32) << np.uint32(23)).view(np.float32)
    return p * power


def weight_scale(labels: int) -> Any:
    """The weight of the likeliest label: so large that the weights of all sum to below 2^32."""
    return np.float32(2.0 ** min(24, 32 - labels.bit_length()))


def weights(scores: Array, inverse_temperature: float = 1.0) -> Array:
    """The conditional of float32 scores [L] as whole numbers, whose sum is exact in any order."""
    if np.isinf(inverse_temperature):  # the lowest of the likeliest labels takes it all
        return (np.arange(len(scores)) == scores.argmax()).astype(np.int64)
    with np.errstate(over="ignore"):  # -infinity will do
        x = (scores - scores.max()) * np.float32(inverse_temperature)
    return (exponential(x) * weight_scale(len(scores))).astype(np.int64)  # towards 0


def draw(weights: Array, word: int) -> int:
    """The label that a random word of 32 bits falls on."""
    cumulative = np.cumsum(weights)
    threshold = (word * int(cumulative[-1])) >> 32
    return int((cumulative <= threshold).sum())


def sweep(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Array,
    order: Iterable[int],
    *,
    seed: int,
    chain: int = 0,
    number: int = 0,
    inverse_temperature: float = 1.0,
    mask: Array | None = None,
) -> tuple[Array, Array]:
    """The labels after each pixel was drawn once, and the conditionals they were drawn from.

    logits [L, H, W] and tables [C, L, L] float32, labels [H, W]; `order` lists the pixels by
    row * W + column. Returns [H, W] and [L, H, W] float64, 0 outside the mask.
    """
    labels = labels.copy()
    found = np.zeros(logits.shape)
    for pixel in order:
        at = divmod(int(pixel), labels.shape[1])
        if mask is not None and not mask[at]:
            continue
        s = scores(logits, labels, tables, offsets, at, mask)
        w = weights(s, inverse_temperature)
        found[(slice(None), *at)] = w * (1.0 / w.sum())
        labels[at] = draw(w, random_word(seed, chain, number, int(pixel)))
    return labels, found
