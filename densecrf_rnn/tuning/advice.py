"""Warnings before a search: logits that may be probabilities, ranges in other units."""

from collections.abc import Sequence

import numpy as np

from .. import checks
from ..checks.numbers import LARGEST, SMALLEST
from ..checks.units import rescaling, units
from ..checks.values import warn
from .study import varied
from .task import Example, Task, optional

_IMAGES = 4  # images that are read for it, spread over the examples


def advise(examples: Sequence[Example], task: Task) -> None:
    """Warn, at most once of each, about the values of a few examples.

    The search itself must not warn: it tries bandwidths that do not suit on purpose.
    """
    logits_told = False
    for index in np.unique(np.linspace(0, len(examples) - 1, _IMAGES).astype(int)).tolist():
        one = examples[index]
        if not logits_told:
            logits_told = checks.probabilities(one.logits, batched=False)
        if _warned(one, task):
            break


def _warned(one: Example, task: Task) -> bool:
    """Warn if every theta_beta of the range hides the image's edges, or sees noise."""
    low, high = task.ranges.get("theta_beta", (None, None))
    for end in (low, high):
        theta = task.base.theta_beta
        if end is not None:
            theta = varied(task.base, {"theta_beta": end})["theta_beta"]
        found = units(one.image, theta, mask=optional(one)["mask"])
        blank = found is not None and found.is_blank and end == low
        noise = found is not None and found.is_noise and end == high
        if found is None or not (blank or noise):
            continue
        suitable = np.atleast_1d(np.asarray(found.suitable))[0]
        span = np.clip([suitable / 5, suitable * 10], SMALLEST, LARGEST)
        way_out = f"search ranges={{'theta_beta': ({span[0]:.2g}, {span[1]:.2g})}}"
        seen = "sees no edges" if blank else "sees noise"
        warn(
            f"image of {one.name} holds {found.low.min():.4g} to {found.high.max():.4g} "
            f"(percentiles 1 to 99), of which the appearance kernel {seen} at any theta_beta that "
            f"is tried ({'from' if blank else 'up to'} {np.atleast_1d(np.asarray(theta))[0]:g}); "
            f"{rescaling(found, normalize=True) or way_out}"
        )
        return True
    return False
