"""The Gibbs sweep in Numba, one colour after another: used where no native module was compiled.

Each step computes what reference/gibbs.py does, so results are bit-identical. It is serial.
"""

import math
from typing import Any

import numpy as np

from .compiled import compiled
from .gibbs import EXP_COEFFICIENTS, PHILOX_FACTORS, PHILOX_KEY_STEPS, PHILOX_ROUNDS, weight_scale


@compiled
def philox(counter, key):
    """Replace a counter [4] by its four random words; counter and key [2] are uint32."""
    c0, c1, c2, c3 = counter[0], counter[1], counter[2], counter[3]
    k0, k1 = key[0], key[1]
    for _ in range(PHILOX_ROUNDS):
        first = np.uint64(PHILOX_FACTORS[0]) * np.uint64(c0)
        second = np.uint64(PHILOX_FACTORS[1]) * np.uint64(c2)
        c0 = np.uint32(second >> np.uint64(32)) ^ c1 ^ k0
        c1 = np.uint32(second & np.uint64(0xFFFFFFFF))
        c2 = np.uint32(first >> np.uint64(32)) ^ c3 ^ k1
        c3 = np.uint32(first & np.uint64(0xFFFFFFFF))
        k0 = np.uint32(k0 + np.uint32(PHILOX_KEY_STEPS[0]))
        k1 = np.uint32(k1 + np.uint32(PHILOX_KEY_STEPS[1]))
    counter[0], counter[1], counter[2], counter[3] = c0, c1, c2, c3


@compiled
def _exponential(x, cell, bits):
    """Return exp(x) of a float32 x <= 0, as `exponential` in reference/gibbs.py does.

    `cell` [1] float32 and its uint32 view `bits` are scratch memory.
    """
    magic = np.float32(12583039.0)
    clamped = x if x > np.float32(-88.0) else np.float32(-88.0)
    shifted = np.float32(clamped * np.float32(1.44269504)) + magic
    n = shifted - magic
    r = (clamped - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
    p = np.float32(0)
    for c in EXP_COEFFICIENTS:
        p = p * r + np.float32(c)
    cell[0] = shifted
    bits[0] = bits[0] << np.uint32(23)
    return p * cell[0]


@compiled
def _sweep(
    logits, labels, tables, offsets, a, b, m, step, key, chain, number, beta, scale, marginals,
    scratch,
):
    """Draw each pixel of one image once; return the number of changed labels.

    The conditionals are added to `marginals` [H, W, L], unless it is empty.
    """
    count, height, width = logits.shape
    greedy = np.isinf(beta)
    outward, inward, weight, counter, cell, bits = scratch
    changed = 0
    for colour in range(m):
        for row in range(height):
            first = 0  # a colour repeats every `step` columns or does not occur in this row
            while first < step and (a * first + b * row) % m != colour:
                first += 1
            for column in range(first, width if first < step else 0, step):
                if labels[row, column] < 0:
                    continue
                for label in range(count):
                    outward[label] = logits[label, row, column]
                    inward[label] = 0
                for c in range(len(offsets)):
                    y, x = row + offsets[c, 0], column + offsets[c, 1]
                    if 0 <= y < height and 0 <= x < width and labels[y, x] >= 0:
                        for label in range(count):
                            outward[label] += tables[c, label, labels[y, x]]
                    y, x = row - offsets[c, 0], column - offsets[c, 1]
                    if 0 <= y < height and 0 <= x < width and labels[y, x] >= 0:
                        for label in range(count):
                            inward[label] += tables[c, labels[y, x], label]
                best = 0
                for label in range(count):
                    outward[label] += inward[label]
                    if outward[label] > outward[best]:
                        best = label
                greatest = outward[best]
                total = 0
                for label in range(count):
                    if greedy:
                        weight[label] = int(label == best)
                    else:
                        p = _exponential((outward[label] - greatest) * beta, cell, bits)
                        weight[label] = int(p * scale)
                    total += weight[label]
                counter[0], counter[1] = row * width + column, number
                counter[2] = chain & np.uint64(0xFFFFFFFF)
                counter[3] = chain >> np.uint64(32)
                philox(counter, key)
                threshold = (np.uint64(counter[0]) * np.uint64(total)) >> np.uint64(32)
                drawn, below = 0, np.uint64(0)
                for label in range(count):
                    below += np.uint64(weight[label])
                    if below <= threshold:
                        drawn += 1
                if marginals.size > 0:
                    share = 1.0 / total
                    for label in range(count):
                        marginals[row, column, label] += weight[label] * share
                changed += drawn != labels[row, column]
                labels[row, column] = drawn
    return changed


def gibbs_sweep(problem: Any, threads: int) -> None:
    """Run the sweeps of an `engines.gibbs.GibbsProblem`; `threads` is ignored."""
    p = problem
    count = p.logits.shape[1]
    key = np.array([p.seed & 0xFFFFFFFF, p.seed >> 32], np.uint32)
    cell = np.zeros(1, np.float32)
    sums = np.zeros((2, count), np.float32)
    scratch = (
        sums[0], sums[1], np.zeros(count, np.int64), np.zeros(4, np.uint32), cell,
        cell.view(np.uint32),
    )  # fmt: skip
    step = p.colouring.m // math.gcd(p.colouring.a, p.colouring.m)
    for image in range(len(p.logits)):
        kept = np.zeros((0, 0, 0)) if p.marginals is None else p.marginals[image]
        for s, beta in enumerate(p.inverse_temperature):
            number = np.uint32(int(p.first_sweep[image]) + s)
            p.changes[image, s] = _sweep(
                p.logits[image], p.labels[image], p.tables, p.offsets, *p.colouring, step, key,
                p.chains[image], number, beta, weight_scale(count), kept, scratch,
            )  # fmt: skip


@compiled
def gibbs_statistics(labels, offsets, counts, threads):
    """Add the label pairs of all edges of labels [B, H, W] to counts [C, L, L], for C offsets."""
    height, width = labels.shape[1:]
    for c in range(len(offsets)):
        for image, row, column in np.ndindex(labels.shape):
            y, x = row + offsets[c, 0], column + offsets[c, 1]
            if 0 <= y < height and 0 <= x < width:
                i, j = labels[image, row, column], labels[image, y, x]
                if i >= 0 and j >= 0:
                    counts[c, i, j] += 1
