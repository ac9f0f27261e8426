"""Gibbs sampling of a grid CRF by its definition: one pixel after another, in plain NumPy.

The first part is the model of [Kirillov15] in float64 (score, statistics, conditional). The second
is the arithmetic that all engines reproduce bit-identically (philox, weights, draw, sweep), in
float32 and integers. It is slow and simple; the engines are tested against it.

Arrays are logits [L, H, W], labels [H, W], tables [C, L, L] and offsets [C, 2]. A pixel with a
negative label is masked out: neither it nor its edges count.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._typing import Array

Pixel = tuple[int, int]


# --- the model -----------------------------------------------------------------------------------


def counted(labels: Array, pixel: Pixel) -> bool:
    """Return whether a pixel is in the image and not masked out, so that it counts."""
    row, column = pixel
    height, width = labels.shape
    return 0 <= row < height and 0 <= column < width and bool(labels[pixel] >= 0)


def edges(labels: Array, offset: Array) -> Iterable[tuple[Pixel, Pixel]]:
    """Yield all pairs of pixels (i, i + offset) that are both counted."""
    for i in np.ndindex(labels.shape):
        j = i[0] + int(offset[0]), i[1] + int(offset[1])
        if counted(labels, i) and counted(labels, j):
            yield i, j


def score(logits: Array, labels: Array, tables: Array, offsets: Array) -> float:
    """Return E(y) = sum_i psi_i(y_i) + sum_c sum_{ij in E_c} psi_c(y_i, y_j); higher is better."""
    total = 0.0
    for pixel in zip(*np.nonzero(labels >= 0), strict=True):
        total += float(logits[(labels[pixel], *pixel)])
    for table, offset in zip(tables, offsets, strict=True):
        for i, j in edges(labels, offset):
            total += float(table[labels[i], labels[j]])
    return total


def statistics(labels: Array, num_classes: int, offsets: Array) -> Array:
    """Count the label pairs at the two ends of edges, for each edge class, [C, L, L]."""
    counts = np.zeros((len(offsets), num_classes, num_classes), np.int64)
    for c, offset in enumerate(offsets):
        for i, j in edges(labels, offset):
            counts[c, labels[i], labels[j]] += 1
    return counts


def label_scores(
    logits: Array, labels: Array, tables: Array, offsets: Array, pixel: Pixel
) -> Array:
    """Return the logarithm of one pixel's conditional, up to a constant, [L].

    Table entries of edges that begin at the pixel are added to its logits one by one, in the order
    of the classes. Entries of edges that end at it are summed separately, and that sum is added
    last. All sums are in the dtype of the logits.
    """
    row, column = pixel
    outward = logits[:, row, column].copy()
    inward = np.zeros_like(outward)
    for table, (down, right) in zip(tables.astype(logits.dtype), offsets.tolist(), strict=True):
        for sign, into in ((1, outward), (-1, inward)):
            other = row + sign * down, column + sign * right
            if counted(labels, other):
                into += table[:, labels[other]] if sign == 1 else table[labels[other]]
    return outward + inward


def conditional(logits: Array, labels: Array, tables: Array, offsets: Array, pixel: Pixel) -> Array:
    """Return p(y_i = l | all others) of one pixel in float64, [Kirillov15] equation (7), [L]."""
    s = label_scores(logits.astype(np.float64), labels, tables, offsets, pixel)
    p = np.exp(s - s.max())
    return p / p.sum()


# --- the arithmetic that all engines share -------------------------------------------------------

PHILOX_ROUNDS = 10
PHILOX_FACTORS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
# Coefficients of the polynomial that approximates exp(r), the highest power first.
EXP_COEFFICIENTS = (1.3981999e-3, 8.3683203e-3, 4.1666485e-2, 1.6666521e-1, 0.5, 1.0, 1.0)
WEIGHT_BITS = 24  # the largest weight is 2^24, which float32 represents exactly
_WORD = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return four random words for a counter and a key: Philox4x32-10 of [Salmon11]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(PHILOX_ROUNDS):
        first, second = PHILOX_FACTORS[0] * c0, PHILOX_FACTORS[1] * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & _WORD,
            (first >> 32) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + PHILOX_KEY_STEPS[0]) & _WORD, (k1 + PHILOX_KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def random_word(seed: int, chain: int, sweep: int, pixel: int) -> int:
    """Return 32 random bits for one pixel in one sweep of one chain."""
    counter = (pixel, sweep, chain & _WORD, chain >> 32)
    return philox(counter, (seed & _WORD, seed >> 32))[0]


def exponential(x: Array) -> Array:
    """Return exp(x) of float32 x <= 0, each step rounded to float32.

    The relative error is below 4e-7 for x >= -87; the result is 0 for x <= -88.
    """
    f = np.float32
    # Adding 1.5 * 2^23 + 127 rounds to an integer n and leaves n + 127, the biased exponent of 2^n,
    # in the low bits. At n = -127 these bits are 0, which makes 2^n exactly 0.
    magic = f(12583039.0)
    clamped = np.where(x > f(-88.0), x, f(-88.0))
    shifted = clamped * f(1.44269504) + magic  # log2(e)
    n = shifted - magic
    r = (clamped - n * f(0.693359375)) - n * f(-2.12194440e-4)  # ln 2 in two parts
    p = np.full_like(r, f(EXP_COEFFICIENTS[0]))
    for c in EXP_COEFFICIENTS[1:]:
        p = p * r + f(c)
    power = (shifted.view(np.uint32) << np.uint32(23)).view(np.float32)
    return p * power


def weight_scale(labels: int) -> Any:
    """Return the weight of the most probable of `labels` labels, a power of two, as float32.

    It is small enough for the sum of all weights to stay below 2^32.
    """
    return np.float32(2.0 ** min(WEIGHT_BITS, 32 - labels.bit_length()))


def weights(scores: Array, inverse_temperature: float = 1.0) -> Array:
    """Return the conditional of float32 scores [L] as unnormalised integer weights.

    They are integers, because the sum of integers does not depend on the order of addition.
    """
    if np.isinf(inverse_temperature):  # argmax; of equal scores, the lowest label
        return (np.arange(len(scores)) == scores.argmax()).astype(np.int64)
    with np.errstate(over="ignore"):  # -infinity gives the weight 0
        x = (scores - scores.max()) * np.float32(inverse_temperature)
    return (exponential(x) * weight_scale(len(scores))).astype(np.int64)  # rounds towards 0


def draw(weights: Array, word: int) -> int:
    """Return the label that a random word of 32 bits selects by cumulative weights."""
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
) -> tuple[Array, Array]:
    """Draw each pixel once; return the labels and the conditionals they were drawn from.

    Logits and tables are float32; `order` lists the pixels as row * W + column. The labels are
    [H, W]; the conditionals are [L, H, W] float64 and 0 outside the mask.
    """
    labels = labels.copy()
    found = np.zeros(logits.shape)
    for pixel in order:
        at = divmod(int(pixel), labels.shape[1])
        if labels[at] < 0:
            continue
        w = weights(label_scores(logits, labels, tables, offsets, at), inverse_temperature)
        found[(slice(None), *at)] = w * (1.0 / w.sum())
        labels[at] = draw(w, random_word(seed, chain, number, int(pixel)))
    return labels, found
