"""Cross-validation: the gain of tuned parameters on images they were not tuned on."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import Array
from .. import checks
from .search import Tuned
from .task import Example, Task, confusions


@dataclass(frozen=True)
class Folds:
    """Result of `cross_validate`: one search per fold, scored on the held-out images.

    Attributes
    ----------
    tuned : list of Tuned
        The search of each fold, on all examples outside the fold.
    held_out, held_out_alone : ndarray [examples, L, L]
        Confusion matrix of each example under the setting found without it, and of its logits
        without a CRF.
    score, score_alone : float
        Score of the sum of `held_out`, and of the sum of `held_out_alone`.

    Examples
    --------
    >>> from densecrf_rnn.tuning import tune
    >>> from densecrf_rnn.samples import Sample
    >>> truth, image = np.arange(24).reshape(4, 6) // 12, np.zeros((4, 6, 3), np.uint8)
    >>> pairs = [Sample(name, image, 3 * np.eye(2)[:, truth], truth) for name in ("a", "b")]
    >>> task = Task(iterations=1)
    >>> folds = cross_validate(pairs, 2, lambda seen, fold: tune(seen, task, trials=1), task)
    >>> folds.gain, folds.gain_seen  # of right labels nothing can be gained
    (0.0, 0.0)
    """

    tuned: list[Tuned]
    held_out: Array
    held_out_alone: Array
    score: float
    score_alone: float

    @property
    def gain(self) -> float:
        """Gain of the CRF over the logits on held-out images."""
        return self.score - self.score_alone

    @property
    def gain_seen(self) -> float:
        """Gain of the CRF on the images its parameters were tuned on, averaged over the folds."""
        return statistics.fmean(t.score - t.score_alone for t in self.tuned)


def cross_validate(
    examples: Sequence[Example],
    folds: int,
    find: Callable[[Sequence[Example], int], Tuned],
    task: Task = Task(),
) -> Folds:
    """Measure how much of the gain of tuned parameters remains on images they were not tuned on.

    Parameters
    ----------
    examples : sequence of Example
        Folds are contiguous parts of it, so neighbours (frames of a film) stay together.
    folds : int, at least 2 and at most the number of examples
    find : callable
        Takes the examples outside a fold and the fold's number, counted from 1, and returns a
        `Tuned`: `tune` with arguments of your choice.
    task : Task
        How held-out examples are scored.

    Returns
    -------
    Folds

    Raises
    ------
    TypeError, ValueError
        `folds` is out of range, or an error that `find` raises.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth, image = np.arange(24).reshape(4, 6) // 12, np.zeros((4, 6, 3), np.uint8)
    >>> logits = 1 - 3 * np.eye(2)[:, truth]
    >>> pairs = [Sample(name, image, logits, truth) for name in ("a", "b", "c")]
    >>> from densecrf_rnn.tuning import tune
    >>> task = Task(iterations=1)
    >>> folds = cross_validate(pairs, 3, lambda seen, fold: tune(seen, task, trials=1), task)
    >>> len(folds.tuned), folds.held_out.shape, folds.score_alone
    (3, (3, 2, 2), 0.0)
    """
    folds = checks.count("folds", folds, 2)
    if folds > len(examples):
        raise ValueError(
            f"folds is {folds} but there are {len(examples)} examples; each fold needs one"
        )
    tuned, parts, parts_alone = [], [], []
    for fold, held in enumerate(np.array_split(np.arange(len(examples)), folds), start=1):
        seen = [i for i in range(len(examples)) if i not in held]
        tuned.append(find(_Subset(examples, seen), fold))
        rest = _Subset(examples, held.tolist())
        parts.append(confusions(rest, tuned[-1].params, task, tuned[-1].compatibility))
        parts_alone.append(confusions(rest, None, task))
    held_out, alone = np.concatenate(parts), np.concatenate(parts_alone)
    return Folds(tuned, held_out, alone, task.score(held_out.sum(0)), task.score(alone.sum(0)))


class _Subset(Sequence[Any]):
    """A part of the examples, which are still read only when indexed."""

    def __init__(self, examples: Sequence[Example], indices: Sequence[int]) -> None:
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[self._indices[index]]
