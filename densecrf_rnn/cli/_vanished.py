"""Labels that were in the input of a file and are in no pixel of the output: said once per run."""

import math
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np

from .._typing import Array

# A label counts if it covered at least so many pixels, and this part of them: the speckles of a
# network's noise, which should vanish, are smaller (up to 0.32 % of an image of Pascal VOC).
_PIXELS, _PART = 50, 0.005
# What the input covered is counted in a grid of about so many pixels, since the argmax of a whole
# image takes long compared with its refinement.
_SAMPLE = 1 << 14


def stride(size: tuple[int, ...]) -> int:
    """Return the step along each axis of the grid of pixels that are counted."""
    return max(1, int((math.prod(size) / _SAMPLE) ** (1 / len(size))))


class Vanished:
    """Counts in how many files each label, or region, vanished; several threads may add files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()

    def add(self, before: Array, share: float, after: Array, names: Array) -> None:
        """Compare the labels of one file.

        Parameters
        ----------
        before : ndarray of int
            Labels of the input, of a `share` of the pixels.
        share : float
        after : ndarray of int
            Labels of the output, of all pixels.
        names : ndarray [L]
            The label of each value.
        """
        sizes = np.bincount(before.ravel(), minlength=len(names))[: len(names)]
        held = np.flatnonzero(sizes >= max(_PIXELS * share, _PART * before.size, 1))
        lost = [value for value in held if not (after == value).any()]
        with self._lock:
            self._held.update(names[held].tolist())
            self._lost.update(names[lost].tolist())

    def sentences(self, regions: bool) -> Iterator[str]:
        """Yield a sentence for each label that vanished."""
        what = "region" if regions else "label"
        for name, lost in sorted(self._lost.items()):
            if name < 0:
                continue
            held = self._held[name]
            yield (
                f"{what} {name} is absent after refinement in {lost} of {held} "
                f"file{'s' * (held != 1)} that held it; lower the weights (--w-bilateral, "
                "--w-spatial), or find others by `densecrf-rnn tune`"
            )
