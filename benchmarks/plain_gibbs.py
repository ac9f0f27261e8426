"""A straightforward Gibbs sweep in Numba: pixel after pixel, row after row.

Model and number of draws are those of `densecrf_rnn.gibbs`; random numbers and order differ, so it
draws other samples of the same distribution.
"""

import numpy as np
from numba import njit


@njit
def sweep(logits, labels, tables, offsets):
    """Draw each pixel once, changing `labels` in place.

    Takes logits [L, H, W] and tables [C, L, L] of float32, labels [H, W] of int32, offsets [C, 2].
    """
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
            largest = scores.max()
            total = np.float32(0)
            for label in range(count):
                total += np.exp(scores[label] - largest)
                scores[label] = total
            where = np.random.random() * total
            drawn = 0
            while drawn < count - 1 and scores[drawn] <= where:
                drawn += 1
            labels[row, column] = drawn
