"""Choosing bandwidths and weights: a search that scores refined logits against the truth.

The "cross-validation process" of [CRF-RNN] section 5. Optuna proposes, this module scores: images
in one fixed order, several settings per lattice, and settings that fall behind are given up early.
Optuna is imported when a search starts. What learns by gradients is in `nn.tuning`.
"""

import importlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ._typing import Array
from . import checks, metrics
from .inference.mean_field import Lattices, infer
from .params import CRFParams

if TYPE_CHECKING:
    from optuna import Study, Trial

Score = Callable[[Array], float]

# Where a search looks, both ends included; bandwidths in pixels and units of 0..255. All are
# searched by their logarithm.
RANGES: Mapping[str, tuple[float, float]] = {
    "theta_alpha": (5.0, 200.0),
    "theta_beta": (1.0, 50.0),
    "theta_gamma": (1.0, 10.0),
    "w_bilateral": (0.3, 30.0),
    "w_spatial": (0.1, 30.0),
}
# What a search tries first: a good start for a modern network's logits at image resolution.
START = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)
ITERATIONS = 5
_DIGITS = 3  # of the values that are tried, so that what is printed is what was scored
_STARTUP = 12  # settings drawn at random before the sampler learns from them
_PEERS = 5  # settings that must have been scored to the end before any is given up
_CHECKPOINTS = 20  # at most so many times is a setting compared with the others
_WARM_UP = 0.25  # of the images are scored before it first is


class Example(Protocol):
    """What is scored: an image, its logits and its true labels. `samples.Sample` is one.

    It may have a `mask` and a `spacing` too, as of `refine`.
    """

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def logits(self) -> Array:
        """[L, H, W] or [L, D, H, W], as of `refine`."""

    @property
    def image(self) -> Array:
        """[H, W, C] or [D, H, W, C], as of `refine`."""

    @property
    def truth(self) -> Array | None:
        """Label map, integers [H, W] or [D, H, W]."""


@dataclass(frozen=True)
class Task:
    """What is searched for: everything that a score depends on beside the examples.

    Parameters
    ----------
    base : CRFParams
        The first setting tried, and the value of whatever is not searched.
    ranges : mapping of parameter name to (low, high)
        What is searched, of theta_alpha, theta_beta, theta_gamma, w_bilateral and w_spatial; by its
        logarithm, so both ends are above 0.
    iterations : int, at least 1
        Mean-field updates.
    score : callable
        Takes the sum of the images' confusion matrices [L, L]; higher is better. See `metrics`.
    ignore : int
        Label of the truth whose pixels are not scored.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        At most this many threads; no result depends on it.
    about : mapping
        Whatever else scores depend on, such as how examples are read; plain values.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range.

    Examples
    --------
    >>> Task(ranges={"theta_alpha": (10, 100)}).ranges
    {'theta_alpha': (10.0, 100.0)}
    """

    base: CRFParams = START
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(RANGES))
    iterations: int = ITERATIONS
    score: Score = metrics.mean_iu
    ignore: int = 255
    backend: str = "auto"
    threads: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.params(self.base, CRFParams)
        checks.count("iterations", self.iterations, 1)
        if not self.ranges:
            raise ValueError("ranges is empty; name at least one parameter to search")
        found = {}
        for name, ends in self.ranges.items():
            checks.option("a name in ranges", name, tuple(RANGES))
            if len(ends) != 2:
                raise ValueError(f"ranges[{name!r}] is {ends!r}; it must be (low, high)")
            low, high = (checks.positive_number(f"ranges[{name!r}]", end) for end in ends)
            if low > high:
                raise ValueError(f"ranges[{name!r}] is {low:g} to {high:g}; the lower end is first")
            found[name] = (low, high)
        object.__setattr__(self, "ranges", found)

    def describe(self) -> dict[str, Any]:
        """What scores depend on, as plain values: two studies that differ in it do not mix."""
        score: Any = self.score
        extra = ""
        if isinstance(score, partial):
            score, extra = score.func, f" {score.keywords}"
        return {
            "base": self.base.to_dict(),
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "iterations": self.iterations,
            "score": getattr(score, "__qualname__", repr(type(score))) + extra,
            "ignore": self.ignore,
            **self.about,
        }


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes
    ----------
    params : CRFParams
        The best setting of all that were scored to the end.
    score, score_alone : float
        Of that setting, and of the logits without a CRF, on the same examples.
    confusions, confusions_alone : ndarray [examples, L, L]
        What both scores are made of; for `metrics.bootstrap_interval`.
    study : optuna.Study
        Every setting tried.
    compatibility : ndarray [L, L], optional
        Where it was learned (`nn.tuning`); None is Potts.
    """

    params: CRFParams
    score: float
    score_alone: float
    confusions: Array
    confusions_alone: Array
    study: "Study"
    compatibility: Array | None = None


@dataclass(frozen=True)
class Folds:
    """What cross-validation found: a search per fold, each scored on the images it did not see.

    Attributes
    ----------
    tuned : list of Tuned
        A search each, on all examples but those of its fold.
    held_out, held_out_alone : ndarray [examples, L, L]
        Confusion matrices of every example under the setting that was found without it, and of the
        logits without a CRF.
    score, score_alone : float
        Of their sums.
    """

    tuned: list[Tuned]
    held_out: Array
    held_out_alone: Array
    score: float
    score_alone: float

    @property
    def gain(self) -> float:
        """What the CRF gains on images that its parameters were not chosen on."""
        return self.score - self.score_alone

    @property
    def gain_seen(self) -> float:
        """What it seems to gain on the images that they were chosen on, a mean over the folds."""
        return statistics.fmean(t.score - t.score_alone for t in self.tuned)


def confusions(
    examples: Sequence[Example],
    params: CRFParams | None,
    task: Task,
    compatibility: Array | None = None,
) -> Array:
    """Confusion matrices of refined examples.

    Parameters
    ----------
    examples : sequence of Example
        Each is asked for when its turn comes, so they may be read from disk one at a time.
    params : CRFParams, or None for the logits without a CRF
    task : Task
    compatibility : ndarray [L, L], optional
        As of `refine`.

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
        one = _Scored(examples[index], task)
        found.append(one.confusion(params, compatibility))
        if len(found[-1]) != len(found[0]):
            raise ValueError(
                f"{one.name}: logits have {len(found[-1])} labels where those of "
                f"{examples[0].name} have {len(found[0])}"
            )
    return np.stack(found)


class _Scored:
    """An example at work: its lattices are kept for the settings that share them."""

    def __init__(self, example: Example, task: Task) -> None:
        self._example, self._task = example, task
        self.name = example.name
        self._logits, self._image = example.logits, example.image  # read from disk once
        self._lattices: Lattices = {}

    def confusion(self, params: CRFParams | None, compatibility: Array | None = None) -> Array:
        """[L, L] under a setting, or of the logits alone."""
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
            labels = max(2, len(logits))
            prediction = most_likely(logits, 0.0 if params is None else 0.5)
            return metrics.confusion_matrix(truth, prediction, labels, task.ignore)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: {error}") from error


def optional(example: Example) -> dict[str, Any]:
    """What an example need not have."""
    return {name: getattr(example, name, None) for name in ("mask", "spacing")}


def most_likely(scores: Array, threshold: float) -> Array:
    """The label of each pixel; of one score [1, *S], whether it exceeds the threshold."""
    return (scores[0] > threshold).astype(np.uint8) if len(scores) == 1 else scores.argmax(0)


def tune(
    examples: Sequence[Example],
    task: Task = Task(),
    *,
    trials: int = 60,
    seed: int = 0,
    per_lattice: int = 2,
    study_file: str | None = None,
    study_name: str = "tune",
    on_trial: Callable[["Outcome"], None] | None = None,
) -> Tuned:
    """Search for the parameters that score best on some examples.

    Parameters
    ----------
    examples : sequence of Example
        Each is asked for when its turn comes, in this order, so they may be read from disk one at
        a time. Images of many kinds early on make settings that fall behind easier to tell.
    task : Task
        What is searched, and how it is scored.
    trials : int, at least 1
        Settings to try, those of an earlier run of the same study included.
    seed : int, at least 0
        The same seed finds the same, whether or not the search was interrupted.
    per_lattice : int, at least 1
        Settings that share theta_alpha and theta_beta, and with them the lattice of each image.
    study_file : str, optional
        SQLite file that keeps the search, to go on with it; default none. One process at a time.
    study_name : str
        Its name in that file.
    on_trial : callable, optional
        Called with the `Outcome` of each setting, as they end.

    Returns
    -------
    Tuned

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range; an example that cannot be refined or scored; or a
        study in `study_file` that was started with something else, which the message names.
    ImportError
        Optuna is not installed; the message says how to get it.

    Notes
    -----
    Optuna's tree-structured Parzen estimator. Beside the examples, the memory of one image's
    lattices is held at a time. From a quarter of the images on, a setting is given up if its score
    so far is below the median, at that image, of those that were scored to the end; the first
    five never are.

    Examples
    --------
    >>> from densecrf_rnn import samples, tuning
    >>> pair = [samples.load("2007_000033"), samples.load("2007_000346")]
    >>> found = tuning.tune(pair, tuning.Task(iterations=2), trials=3)  # doctest: +SKIP
    >>> found.params  # doctest: +SKIP
    """
    trials = checks.count("trials", trials, 1)
    seed = checks.count("seed", seed, 0)
    per_lattice = checks.count("per_lattice", per_lattice, 1)
    _require_optuna()
    alone = confusions(examples, None, task)
    score_alone = task.score(alone.sum(0))
    if math.isnan(score_alone):
        raise ValueError("the score is NaN: no label that counts occurs in the truth")
    searched = _Search(examples, task, seed, study_file, study_name)
    while searched.ended < trials:
        count = min(per_lattice, trials - searched.ended)
        for outcome in searched.round(count):
            if on_trial is not None:
                on_trial(outcome)
    params = searched.best()
    after = confusions(examples, params, task)
    return Tuned(params, task.score(after.sum(0)), score_alone, after, alone, searched.study)


@dataclass(frozen=True)
class Outcome:
    """One setting, and its score on all examples; or on so many, `seen`, before it was given up."""

    number: int  # counts from 1
    params: CRFParams
    score: float
    seen: int
    given_up: bool
    best: bool  # of all so far


def cross_validate(
    examples: Sequence[Example],
    folds: int,
    find: Callable[[Sequence[Example], int], Tuned],
    task: Task = Task(),
) -> Folds:
    """How much of the gain of tuned parameters survives on images they were not tuned on.

    Parameters
    ----------
    examples : sequence of Example
        Folds are stretches of it, so neighbours (frames of a film) stay together.
    folds : int, at least 2 and at most one per example
    find : callable
        Takes the examples outside a fold, and the fold's number from 1, and returns what was found
        on them: `tune` with arguments of your choice.
    task : Task
        How held-out examples are scored.

    Returns
    -------
    Folds

    Raises
    ------
    TypeError, ValueError
        `folds` is out of range, or whatever `find` raises.

    Examples
    --------
    >>> from densecrf_rnn import samples, tuning
    >>> pairs = [samples.load(name) for name in samples.names()[:6]]
    >>> folds = tuning.cross_validate(
    ...     pairs, 3, lambda seen, fold: tuning.tune(seen, trials=20))  # doctest: +SKIP
    >>> folds.gain, folds.gain_seen  # doctest: +SKIP
    """
    folds = checks.count("folds", folds, 2)
    if folds > len(examples):
        raise ValueError(
            f"folds is {folds} but there are {len(examples)} examples; one fold each at most"
        )
    tuned, parts, parts_alone = [], [], []
    for fold, held in enumerate(np.array_split(np.arange(len(examples)), folds), start=1):
        seen = [i for i in range(len(examples)) if i not in held]
        tuned.append(find(_Some(examples, seen), fold))
        rest = _Some(examples, held.tolist())
        parts.append(confusions(rest, tuned[-1].params, task, tuned[-1].compatibility))
        parts_alone.append(confusions(rest, None, task))
    held_out, alone = np.concatenate(parts), np.concatenate(parts_alone)
    return Folds(tuned, held_out, alone, task.score(held_out.sum(0)), task.score(alone.sum(0)))


class _Some(Sequence[Any]):
    """Some of the examples, still asked for one at a time."""

    def __init__(self, examples: Sequence[Example], indices: Sequence[int]) -> None:
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[self._indices[index]]


# --- the search ----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Trial:
    """A setting at work."""

    trial: "Trial"
    params: CRFParams
    total: Array | int = 0  # the sum of confusion matrices so far
    curve: dict[int, float] = field(default_factory=dict)  # score after so many examples


class _Search:
    """A study and what it needs to go on."""

    def __init__(
        self,
        examples: Sequence[Example],
        task: Task,
        seed: int,
        file: str | None,
        name: str,
    ) -> None:
        import optuna

        self._examples, self._task, self._seed = examples, task, seed
        self.study = optuna.create_study(direction="maximize")
        self._kept = None
        if file is not None:
            names = [examples[i].name for i in range(len(examples))]
            self._kept = _kept_study(file, name, {**task.describe(), "seed": seed, "images": names})
            self.study.add_trials(self._kept.get_trials(deepcopy=False))
        every = math.ceil(len(examples) / _CHECKPOINTS)
        self._checkpoints = range(
            max(every, math.ceil(len(examples) * _WARM_UP)), len(examples), every
        )
        ended = _ended(self.study)
        self.ended = len(ended)
        self._finished = [t.intermediate_values for t in ended if t.state.name == "COMPLETE"]

    def round(self, count: int) -> list[Outcome]:
        """Try `count` settings of one lattice; all images, or until each is given up."""
        import optuna

        # Made anew from what has ended: so a search that goes on draws as one that never stopped.
        state = np.random.SeedSequence([self._seed, self.ended]).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(
            seed=int(state[0]), multivariate=True, n_startup_trials=_STARTUP
        )
        running = [self._ask()]
        shared = {
            name: running[0].trial.params[name]
            for name in ("theta_alpha", "theta_beta")
            if name in self._task.ranges
        }
        running += [self._ask(shared) for _ in range(count - 1)]
        batch, outcomes = list(running), []
        for index in range(len(self._examples)):
            if not running:
                break
            one = _Scored(self._examples[index], self._task)
            for entry in list(running):
                entry.total = entry.total + one.confusion(entry.params)
                if index + 1 in self._checkpoints and self._falls_behind(entry, index + 1):
                    running.remove(entry)
        for entry in batch:
            outcomes.append(self._tell(entry, given_up=entry not in running))
        return outcomes

    def _ask(self, shared: Mapping[str, float] | None = None) -> _Trial:
        if shared is None and self.ended == 0 and self._base_in_ranges():
            shared = {name: getattr(self._task.base, name) for name in self._task.ranges}
        if shared:
            self.study.enqueue_trial(dict(shared))
        trial = self.study.ask()
        for name, (low, high) in self._task.ranges.items():
            trial.suggest_float(name, low, high, log=True)
        return _Trial(trial, _setting(self._task.base, trial.params))

    def _base_in_ranges(self) -> bool:
        values = {name: getattr(self._task.base, name) for name in self._task.ranges}
        return all(
            isinstance(value, float) and low <= value <= high
            for value, (low, high) in zip(values.values(), self._task.ranges.values(), strict=True)
        )

    def _falls_behind(self, entry: _Trial, seen: int) -> bool:
        """Whether a setting's score so far is below the median of those scored to the end.

        Optuna's own median pruner takes the best score so far, which is right for curves that
        rise; here the first images' scores are chance.
        """
        value = self._task.score(np.asarray(entry.total))
        if math.isnan(value):
            return False
        entry.curve[seen] = value
        entry.trial.report(value, seen)
        others = [curve[seen] for curve in self._finished if seen in curve]
        return len(others) >= _PEERS and value < statistics.median(others)

    def _tell(self, entry: _Trial, given_up: bool) -> Outcome:
        from optuna.trial import TrialState

        seen = max(entry.curve) if given_up else len(self._examples)
        value = entry.curve[seen] if given_up else self._task.score(np.asarray(entry.total))
        if given_up:
            ended = self.study.tell(entry.trial, state=TrialState.PRUNED)
        else:
            ended = self.study.tell(entry.trial, value)
            self._finished.append(entry.curve)
        if self._kept is not None:
            self._kept.add_trial(ended)
        self.ended += 1
        best = not given_up and self.study.best_trial.number == ended.number
        return Outcome(self.ended, entry.params, value, seen, given_up, best)

    def best(self) -> CRFParams:
        """The best setting of those scored to the end."""
        return _setting(self._task.base, self.study.best_trial.params)


def _setting(base: CRFParams, values: Mapping[str, float]) -> CRFParams:
    """`base` with values in place, to three digits."""
    rounded = {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()}
    return replace(base, **rounded)  # type: ignore[arg-type]


def _ended(study: "Study") -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]


def _kept_study(file: str, name: str, facts: dict[str, Any]) -> "Study":
    """The study of that name in a file, new or started with the same facts.

    It is given settings that have ended, so a process killed at work leaves nothing half done.
    """
    import optuna

    try:
        study = optuna.create_study(
            storage=_url(file), study_name=name, direction="maximize", load_if_exists=True
        )
    except _database_errors() as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{file} cannot be used as a study: {reason}") from error
    facts = json.loads(json.dumps(facts))  # tuples come back as lists
    known = study.user_attrs.get("task")
    if known is None:
        study.set_user_attr("task", facts)
        return study
    for key, value in facts.items():
        if known.get(key) != value:
            raise ValueError(
                f"{file} holds a study {name!r} with other {key}: {_brief(known.get(key))}, now "
                f"{_brief(value)}; name another file, or the same {key}"
            )
    return study


def _require_optuna() -> None:
    try:
        importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise ImportError(
            "the search needs optuna, which is not installed; pip install 'densecrf-rnn[tune]'"
        ) from error


def _url(file: str) -> str:
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=file).render_as_string()


def _database_errors() -> tuple[type[Exception], ...]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def settings(study: "Study", base: CRFParams) -> list[tuple[CRFParams, float]]:
    """Every setting of a study that was scored to the end, and its score."""
    return [
        (_setting(base, t.params), float(t.value))
        for t in _ended(study)
        if t.state.name == "COMPLETE"
    ]


def importances(study: "Study") -> dict[str, float]:
    """How much each parameter decides whether a setting is among the better ones; they sum to 1.

    Of settings scored to the end; empty where these are too few or too alike to tell.

    Notes
    -----
    PED-ANOVA (Watanabe, Bansal and Hutter, 2023), as Optuna implements it.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    values = {t.value for t in _ended(study) if t.state.name == "COMPLETE"}
    if len(values) < 4:
        return {}
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}
