"""What a call of `refine` or `mean_field` did, and how long each step took."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Info:
    """What one call did: the second result of `refine` and `mean_field` with ``return_info=True``.

    Attributes
    ----------
    backend : str
        The engine that ran.
    pixels : int
        Number of pixels inside the mask.
    labels : int
        Number of labels, at least 2.
    vertices : tuple of int
        Of each kernel the number of lattice vertices, or of cells if it is on a grid: the time of
        an iteration grows with them. Empty if there was nothing to do.
    prune : float
        As passed.
    kept : tuple of float
        Mean number of labels that a tile keeps, at the start of each iteration.
    pruned : float, 0..1
        Share of the labels of tiles that were left out, over all iterations.
    exact : bool
        Nothing was left out: `prune` was 0, or the engine does not prune with these options.
    seconds : dict
        Wall time of each step: "check", "build" (lattices and normalisers), "run" (all iterations)
        and "shape".

    Examples
    --------
    >>> import numpy as np
    >>> from densecrf_rnn import refine
    >>> logits = np.zeros((3, 8, 9), np.float32)
    >>> q, info = refine(logits, np.zeros((8, 9, 3), np.uint8), iterations=2, return_info=True)
    >>> info.pixels, info.labels, info.kept, info.exact
    (72, 3, (3.0, 3.0), True)
    >>> sorted(info.seconds)
    ['build', 'check', 'run', 'shape']
    """

    backend: str
    pixels: int
    labels: int
    vertices: tuple[int, ...]
    prune: float
    kept: tuple[float, ...]
    pruned: float
    exact: bool
    seconds: dict[str, float]


@dataclass
class Clock:
    """Measures the wall time of each step, in seconds."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("check", "build", "run", "shape"), 0.0)
    )
    _start: float = field(default_factory=time.perf_counter)

    def done(self, step: str) -> None:
        """Say that a step has ended, and that the next one begins."""
        now = time.perf_counter()
        self.seconds[step] += now - self._start
        self._start = now
