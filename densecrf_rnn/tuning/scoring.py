"""Scores of one setting: refine examples and count their confusion matrices."""

from collections.abc import Sequence

import numpy as np

from .._typing import Array
from .. import metrics
from ..inference.build import Lattices
from ..inference.mean_field import infer
from ..params import CRFParams
from ..postprocess import most_probable
from .task import Example, Task, optional


def confusions(
    examples: Sequence[Example],
    params: CRFParams | None,
    task: Task,
    compatibility: Array | None = None,
) -> Array:
    """Compute the confusion matrices of refined examples.

    Parameters
    ----------
    examples : sequence of Example
        Indexed once each, in order, so they may be read from disk one at a time.
    params : CRFParams, or None for the logits without a CRF
    task : Task
    compatibility : ndarray [L, L], optional
        As in `refine`.

    Returns
    -------
    ndarray [examples, L, L] of int64
        L is 2 for binary logits [1, H, W].

    Raises
    ------
    TypeError, ValueError
        An example that cannot be refined or scored; the message begins with its name.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.arange(24).reshape(4, 6) % 2
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), -np.eye(2, dtype="f")[:, truth], truth)
    >>> confusions([one], None, Task()).tolist()
    [[[0, 12], [12, 0]]]
    """
    if len(examples) == 0:
        raise ValueError("examples is empty; give at least one image with logits and truth")
    found: list[Array] = []
    for index in range(len(examples)):
        one = Scorer(examples[index], task)
        found.append(one.confusion(params, compatibility))
        if len(found[-1]) != len(found[0]):
            raise ValueError(
                f"{one.name}: logits have {len(found[-1])} labels where those of "
                f"{examples[0].name} have {len(found[0])}"
            )
    return np.stack(found)


class Scorer:
    """Scores settings on one example and caches its lattices between them."""

    def __init__(self, example: Example, task: Task) -> None:
        self._example, self._task = example, task
        self.name = example.name
        self._logits, self._image = example.logits, example.image  # read from disk once
        self._lattices: Lattices = {}

    def confusion(self, params: CRFParams | None, compatibility: Array | None = None) -> Array:
        """Return the confusion matrix [L, L] of a setting, or of the logits if it is None."""
        task, logits, truth = self._task, self._logits, self._example.truth
        try:
            if truth is None:
                raise ValueError("it has no true labels to score against")
            if params is not None:
                logits = infer(
                    logits, self._image, params, kernel_weights=None,
                    compatibility=compatibility, iterations=task.iterations,
                    backend=task.backend, threads=task.threads, marginals=True,
                    lattices=self._lattices, **optional(self._example),
                )  # fmt: skip
            prediction = most_probable(logits, 0.0 if params is None else 0.5)
            return metrics.confusion_matrix(
                truth, prediction, max(2, len(logits)), task.ignore
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: {error}") from error
