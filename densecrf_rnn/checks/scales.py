"""Notice integer probabilities of another scale than that of their dtype."""

from typing import Any

import numpy as np

from .values import warn

# What programs take for the probability 1: masks, percentages, and ranges of 7 to 15 bits.
_SCALES = (1, 100, 127, 255, 1000, 1023, 4095, 10_000, 16_383, 32_767)


class IntegerScale:
    """Looks at integer probabilities of the foreground, part by part, and judges their scale.

    Maps of nothing, and of a network that is unsure, have a low maximum too. So the maximum must
    be that of another scale, up to a quarter, or the only value but 0.

    Parameters
    ----------
    dtype : dtype
        An unsigned integer type.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._most = int(np.iinfo(self._dtype).max)
        self._least, self._largest = self._most, 0  # of the values above 0

    def add(self, values: Any) -> None:
        """Look at an array of any shape."""
        largest = int(values.max(initial=0))
        self._largest = max(self._largest, largest)
        if 0 < largest < self._most / 2:
            least = values.min(initial=largest, where=values > 0)
            self._least = min(self._least, int(least))

    def judge(self, *, multilabel: bool = False) -> None:
        """Warn if what was added has probably another scale than 0 to the dtype's maximum."""
        largest = self._largest
        if not 0 < largest < self._most / 2:
            return
        scale = min(one for one in (*_SCALES, self._most) if one >= largest)
        probable = 0.75 * scale < largest or (scale < 256 < self._most)
        if not probable and self._least < largest:
            return
        scale = scale if probable else largest
        masks = "; for a mask or a label map use unaries.logits_from_labels" * (not multilabel)
        warn(
            f"the largest value of the probabilities is {largest}, but in {self._dtype.name} "
            f"{self._most} stands for the probability 1, so no pixel would rather be foreground; "
            f"if {scale} stands for 1 here, divide them by {scale} as floating point{masks}"
        )
