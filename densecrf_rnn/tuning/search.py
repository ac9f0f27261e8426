"""The search: Optuna proposes settings, which are scored image by image and pruned early."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._typing import Array
from .. import checks
from ..kernels import bandwidths_of
from ..params import CRFParams
from .advice import advise
from .study import completed, ended, held, open_study, sampler, setting, stored, value_of
from .task import Contents, Example, Scorer, Task, confusions, counted

if TYPE_CHECKING:
    from optuna import Study, Trial

_STARTUP = 12  # settings drawn at random before the sampler uses earlier scores
_PEERS = 5  # settings that must have been scored on all images before any is pruned
_CHECKPOINTS = 20  # maximum number of images after which a setting may be pruned
_WARM_UP = 0.25  # fraction of the images scored before a setting may be pruned


@dataclass(frozen=True)
class Outcome:
    """One setting that was tried, and its score.

    Attributes
    ----------
    number : int
        Counted from 1 over the whole study.
    params : CRFParams
    score : float
        On the first `seen` examples.
    seen : int
        Number of examples scored: all, or fewer if the setting was pruned.
    pruned : bool
    best : bool
        Whether it is the best setting so far.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.arange(24).reshape(4, 6) // 12
    >>> logits = 2 * np.eye(2, dtype=np.float32)[:, truth]
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), logits, truth)
    >>> seen = []
    >>> found = tune([one], Task(iterations=2), trials=2, on_trial=seen.append)
    >>> [(outcome.number, outcome.seen, outcome.pruned) for outcome in seen]
    [(1, 1, False), (2, 1, False)]
    """

    number: int
    params: CRFParams
    score: float
    seen: int
    pruned: bool
    best: bool


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes
    ----------
    params : CRFParams
        The best of all settings that were scored on all examples.
    score, score_alone : float
        Score of that setting, and of the logits without a CRF, on the same examples.
    confusions, confusions_alone : ndarray [examples, L, L]
        The confusion matrices behind `score` and `score_alone`; for `metrics.bootstrap_interval`.
    study : optuna.Study
        All settings tried. The first has no parameters if the base lies outside the ranges.
    compatibility : ndarray [L, L], optional
        Learned by `nn.tuning`; None is Potts.
    contents : mapping
        Checksums of the logits, images, true labels, masks and spacings of the examples.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.arange(24).reshape(4, 6) // 12
    >>> logits = 2 * np.eye(2, dtype=np.float32)[:, truth]
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), logits, truth)
    >>> found = tune([one], Task(iterations=2), trials=2)
    >>> found.score_alone, found.confusions.tolist()
    (1.0, [[[12, 0], [0, 12]]])
    """

    params: CRFParams
    score: float
    score_alone: float
    confusions: Array
    confusions_alone: Array
    study: "Study"
    compatibility: Array | None = None
    contents: Mapping[str, str] = field(default_factory=dict)


def tune(
    examples: Sequence[Example],
    task: Task = Task(),
    *,
    trials: int = 60,
    seed: int = 0,
    per_lattice: int = 2,
    study_file: str | None = None,
    study_name: str = "tune",
    on_trial: Callable[[Outcome], None] | None = None,
) -> Tuned:
    """Search for the parameters that score best on some examples.

    Parameters
    ----------
    examples : sequence of Example
        Indexed in order, one at a time, so they may be read from disk. Settings are pruned more
        reliably if the first images are of many kinds.
    task : Task
        What is searched, and how it is scored.
    trials : int, at least 1
        Number of settings to try, including `task.base`, which is the first, and those of an
        earlier run of the same study.
    seed : int, at least 0
        Random seed. Results are reproducible, whether or not the search was interrupted.
    per_lattice : int, at least 1
        Number of settings that share theta_alpha and theta_beta, and so the lattice of each image.
    study_file : str, optional
        SQLite file that stores the search, so that it can be resumed with examples of the same
        names and contents; default none. Only one process can use it at a time.
    study_name : str
        Name of the study in that file.
    on_trial : callable, optional
        Called with the `Outcome` of each setting when it ends.

    Returns
    -------
    Tuned

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range; an example that cannot be refined or scored; or a
        study in `study_file` that was started with another task, seed or other images, or that
        another process is using.
    ImportError
        Optuna is not installed; the message says how to install it.

    Notes
    -----
    Optuna's tree-structured Parzen estimator. The lattices of one image are held in memory at a
    time. After a quarter of the images, a setting is pruned if its score so far is below the
    median, at the same image, of the settings that were scored on all images; the first five
    settings are never pruned.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> rng = np.random.default_rng(0)
    >>> truth = np.arange(240).reshape(12, 20) // 120
    >>> image = np.repeat(np.uint8(200 * truth)[..., None], 3, -1)
    >>> logits = np.eye(2)[:, truth] + rng.normal(size=(2, 12, 20))
    >>> found = tune([Sample("one", image, logits, truth)], Task(iterations=2), trials=3)
    >>> found.score > found.score_alone, len(found.study.trials)
    (True, 3)
    """
    trials = checks.count("trials", trials, 1)
    seed = checks.count("seed", seed, 0)
    per_lattice = checks.count("per_lattice", per_lattice, 1)
    checks.package("optuna", "the search", "'densecrf-rnn[tune]'")
    contents = Contents()
    alone = counted(examples, None, task, contents=contents)
    score_alone = task.score(alone.sum(0))
    if math.isnan(score_alone):
        raise ValueError("the score is NaN: no label that counts occurs in the truth")
    advise(examples, task)
    with held(study_file):
        search = _Search(examples, task, seed, study_file, study_name, contents.facts())
        while search.ended < trials:
            for outcome in search.round(min(per_lattice, trials - search.ended)):
                if on_trial is not None:
                    on_trial(outcome)
    if search.study.best_value == -math.inf:
        raise ValueError(
            f"the score of all {search.ended} settings is NaN; give a task a score that is a "
            "number for every confusion matrix, such as metrics.mean_iu"
        )
    params = setting(task.base, search.study.best_trial.params)
    after = confusions(examples, params, task)
    return Tuned(
        params, task.score(after.sum(0)), score_alone, after, alone, search.study,
        contents=contents.facts(),
    )  # fmt: skip


@dataclass(eq=False)
class _Trial:
    """A setting that is being scored."""

    trial: "Trial"
    params: CRFParams
    total: Array | int = 0  # sum of the confusion matrices so far


class _Search:
    """A study in memory, and its copy in a file if there is one.

    The intermediate value that a trial reports at step n is its score on the first n examples.
    """

    def __init__(
        self, examples: Sequence[Example], task: Task, seed: int, file: str | None, name: str,
        contents: Mapping[str, str],
    ) -> None:  # fmt: skip
        import optuna

        self._examples, self._task, self._seed = examples, task, seed
        self.study = optuna.create_study(direction="maximize")
        self._stored = None
        if file is not None:
            images = [examples[i].name for i in range(len(examples))]
            facts = {**task.describe(), "seed": seed, "images": images, **contents}
            self._stored, self._file = open_study(file, name, facts), file
            with stored(file):
                self.study.add_trials(self._stored.get_trials(deepcopy=False))
        every = math.ceil(len(examples) / _CHECKPOINTS)
        first = max(every, math.ceil(len(examples) * _WARM_UP))
        self._checkpoints = range(first, len(examples), every)
        self.ended = len(ended(self.study))

    def round(self, count: int) -> list[Outcome]:
        """Score `count` settings that share a lattice, each until it ends or is pruned.

        A base outside the ranges is scored alone: others cannot share its bandwidths.
        """
        # A new sampler, seeded by the trials that have ended: a resumed search then draws the same
        # settings as one that was never interrupted.
        state = np.random.SeedSequence([self._seed, self.ended]).generate_state(1)
        self.study.sampler = sampler(self._task.ranges, int(state[0]), _STARTUP)
        running = [self._ask() if self.ended else self._ask_base()]
        if first := running[0].trial.params:
            shared = {name: first[name] for name in bandwidths_of("w_bilateral") if name in first}
            running += [self._ask(shared) for _ in range(count - 1)]
        batch = list(running)
        for index in range(len(self._examples)):
            if not running:
                break
            one = Scorer(self._examples[index], self._task)
            for entry in list(running):
                entry.total = entry.total + one.confusion(entry.params)
                if index + 1 in self._checkpoints and self._is_pruned(entry, index + 1):
                    running.remove(entry)
        return [self._tell(entry, pruned=entry not in running) for entry in batch]

    def _ask_base(self) -> _Trial:
        """Propose the task's base, exactly.

        The sampler learns from it if it is in the ranges. Else its trial has no parameters, because
        Optuna takes none outside their range.
        """
        task = self._task
        base = {name: value_of(task.base, name) for name in task.ranges}
        known = {
            name: value
            for name, value in base.items()
            if value is not None and task.ranges[name][0] <= value <= task.ranges[name][1]
        }
        return self._ask(known) if len(known) == len(base) else _Trial(self.study.ask(), task.base)

    def _ask(self, fixed: Mapping[str, float] | None = None) -> _Trial:
        """Propose a setting, with the values in `fixed`."""
        task = self._task
        if fixed:
            self.study.enqueue_trial(dict(fixed))
        trial = self.study.ask()
        for name, (low, high) in task.ranges.items():
            trial.suggest_float(name, low, high, log=True)
        return _Trial(trial, setting(task.base, trial.params))

    def _is_pruned(self, entry: _Trial, seen: int) -> bool:
        """Record a setting's score so far; return whether it is below the median of completed ones.

        Optuna's median pruner compares the best intermediate score, which suits curves that rise;
        here scores on the first images vary by chance.
        """
        value = self._task.score(np.asarray(entry.total))
        if math.isnan(value):
            return False
        entry.trial.report(value, seen)
        curves = [t.intermediate_values for t in completed(self.study)]
        others = [curve[seen] for curve in curves if seen in curve]
        return len(others) >= _PEERS and value < statistics.median(others)

    def _tell(self, entry: _Trial, pruned: bool) -> Outcome:
        """End a trial in the study and in its file."""
        from optuna.trial import TrialState

        if pruned:
            told = self.study.tell(entry.trial, state=TrialState.PRUNED)
            seen = max(told.intermediate_values)
            value = told.intermediate_values[seen]
        else:
            value, seen = self._task.score(np.asarray(entry.total)), len(self._examples)
            # A score that does not exist, such as the precision of a label that occurs nowhere, is
            # the worst; Optuna would drop the trial.
            told = self.study.tell(entry.trial, -math.inf if math.isnan(value) else value)
        if self._stored is not None:
            with stored(self._file):
                self._stored.add_trial(told)
        self.ended += 1
        counts = not pruned and not math.isnan(value)
        best = counts and self.study.best_trial.number == told.number
        return Outcome(self.ended, entry.params, value, seen, pruned, best)
