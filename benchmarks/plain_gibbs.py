"""A Gibbs sweep as anyone would write it in Numba: pixel after pixel, row after row.

Same model, same number of draws; other random numbers and another order, so other samples of the
same distribution.
"""

import numpy as np
from numba import njit


@njit
def sweep(logits, labels, tables, offsets):
    """logits [L, H, W] and tables [C, L, L] float32, labels [H, W] int32, changed in place."""
    count, height, width = logits.shape
    scores = np.empty(count, np.float32)
    for row in range(height):
        for column in range(width):
            for label in range(count):
                scores[label] = logits[label, row, column]
            for c in range(len(offsets)):
                y, x = row + offsets[c, 0], column + offsets[c, 1]
                if 0 <= y < height and 0 <= x < width:
                    other = labels[y, x]
                    for label in range(count):
                        scores[label] += tables[c, label, other]
                y, x = row - offsets[c, 0], column - offsets[c, 1]
                if 0 <= y < height and 0 <= x < width:
                    other = labels[y, x]
                    for label in range(count):
                        scores[label] += tables[c, other, label]
            greatest = scores.max()
            total = np.float32(0)
            for label in range(count):
                total += np.exp(scores[label] - greatest)
                scores[label] = total
            where = np.random.random() * total
            drawn = 0
            while drawn < count - 1 and scores[drawn] <= where:
                drawn += 1
            labels[row, column] = drawn
