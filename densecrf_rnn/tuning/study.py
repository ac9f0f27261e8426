"""Optuna studies: kept in a file, resumed only with the same task, and read out."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _platform
from ..kernels import leading, with_leading
from ..params import CRFParams

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial

_HELD: set[str] = set()  # files that this process holds
_DIGITS = 3  # significant digits of values tried: printed settings are exactly those scored


def setting(base: CRFParams, values: Mapping[str, float]) -> CRFParams:
    """Return `base` with these values, rounded to three significant digits.

    Values of `base` itself are not rounded: the first setting tried is exactly `base`. If it has
    several bandwidths, the value replaces the first; the others keep their ratio.
    """
    new = {name: value for name, value in values.items() if value != value_of(base, name)}
    return replace(base, **{n: _rounded(v) for n, v in varied(base, new).items()})


def varied(base: CRFParams, values: Mapping[str, float]) -> dict[str, Any]:
    """Return the parameters that `values` stand for: several bandwidths keep their ratio."""
    return {
        name: with_leading(getattr(base, name), value) if name.startswith("theta") else value
        for name, value in values.items()
    }


def value_of(base: CRFParams, name: str) -> float | None:
    """Return the value of a parameter that a search varies: a number, or the first bandwidth.

    None: weights per label, which are not searched.
    """
    value = getattr(base, name)
    return None if isinstance(value, tuple) and name.startswith("w_") else leading(value)


def ended(study: "Study") -> list[Any]:
    """Return the trials of a study that were scored or pruned."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]


def completed(study: "Study") -> list[Any]:
    """Return the trials of a study that were scored on all examples."""
    return [t for t in ended(study) if t.state.name == "COMPLETE"]


def settings(study: "Study", base: CRFParams) -> list[tuple[CRFParams, float]]:
    """Return each setting that was scored on all examples, with its score.

    Parameters
    ----------
    study : optuna.Study
        As `Tuned.study`.
    base : CRFParams
        The values of all parameters that were not searched, as in `Task`.

    Returns
    -------
    list of (CRFParams, float)

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> from densecrf_rnn.tuning import Task, tune
    >>> truth = np.arange(24).reshape(4, 6) // 12
    >>> logits = 2 * np.eye(2, dtype=np.float32)[:, truth]
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), logits, truth)
    >>> found = tune([one], Task(iterations=2), trials=2)
    >>> [score for params, score in settings(found.study, CRFParams())]
    [1.0, 1.0]
    """
    return [(setting(base, t.params), float(t.value)) for t in completed(study)]


def importances(study: "Study") -> dict[str, float]:
    """Compute how much each parameter decides whether a setting is among the better ones.

    Returns
    -------
    dict
        Parameter -> share; shares sum to 1. Empty if fewer than four different scores are known.

    Notes
    -----
    PED-ANOVA (Watanabe, Bansal and Hutter, 2023), as Optuna implements it, on the settings that
    were scored on all examples.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> from densecrf_rnn.tuning import Task, tune
    >>> truth = np.arange(24).reshape(4, 6) // 12
    >>> logits = 2 * np.eye(2, dtype=np.float32)[:, truth]
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), logits, truth)
    >>> importances(tune([one], Task(iterations=2), trials=2).study)  # fewer than four scores
    {}
    """
    from optuna import create_study
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    # A base outside the ranges is a trial without parameters, of which the evaluator would warn.
    searched = [t for t in completed(study) if t.params]
    if len({t.value for t in searched}) < 4:
        return {}
    part = create_study(direction="maximize")
    part.add_trials(searched)
    found = get_param_importances(part, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def sampler(ranges: Mapping[str, tuple[float, float]], seed: int, startup: int) -> "TPESampler":
    """Return a sampler of all `ranges` together, drawing `startup` settings at random first.

    Optuna's own samples only the parameters that all trials have: none if the base, which is the
    first trial, lies outside the ranges.
    """
    import optuna

    space: dict[str, BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(*ranges[name], log=True)
        for name in sorted(ranges)
        if ranges[name][0] < ranges[name][1]
    }

    class Sampler(optuna.samplers.TPESampler):
        def infer_relative_search_space(
            self, study: "Study", trial: "FrozenTrial"
        ) -> "dict[str, BaseDistribution]":
            return dict(space)

    return Sampler(seed=seed, multivariate=True, n_startup_trials=startup)


def open_study(file: str, name: str, facts: dict[str, Any]) -> "Study":
    """Create the study `name` in a file, or open it if it was created with the same `facts`.

    Only trials that have ended are added to it, so a killed process leaves no partial trial.
    """
    import optuna
    from sqlalchemy.engine import URL

    url = URL.create("sqlite", database=file).render_as_string()
    facts = json.loads(json.dumps(facts))  # tuples become lists, as in the file
    with stored(file):
        study = optuna.create_study(
            storage=url, study_name=name, direction="maximize", load_if_exists=True
        )
        known = study.user_attrs.get("task")
        if known is None:
            study.set_user_attr("task", facts)
            return study
    for key in [*facts, *(known.keys() - facts.keys())]:
        if known.get(key) != facts.get(key):
            shared = key in known and key in facts  # else another version wrote the study
            raise ValueError(
                f"{file} holds a study {name!r} with other {key}: {_brief(known.get(key))}, now "
                f"{_brief(facts.get(key))}; name another file"
                + (f", or use the same {key}" if shared else "")
            )
    return study


@contextlib.contextmanager
def stored(file: str) -> Iterator[None]:
    """Turn errors of the database of a study into a ValueError that names its file."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{file} cannot be used as a study: {reason}") from error


def _rounded(value: Any) -> Any:
    several = isinstance(value, tuple)
    return tuple(map(_rounded, value)) if several else float(f"{value:.{_DIGITS}g}")


@contextlib.contextmanager
def held(file: str | None) -> Iterator[None]:
    """Keep other processes from using a study inside the with block, by a lock on FILE.lock.

    SQLite's own locks last one transaction: two searches that share a file would both create its
    tables, or mix their trials. In one process the with blocks may be nested. None does nothing.

    Raises
    ------
    ValueError
        Another process holds the study.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, held(f"{folder}/study.db"):
    ...     pass  # what reads and writes the study
    """
    if file is None or os.path.realpath(file) in _HELD:
        yield
        return
    path = os.path.realpath(file)
    try:
        lock = _locked(f"{path}.lock")
    except OSError:  # no such folder, or it is read-only: `open_study` says so
        yield
        return
    if lock is None:
        raise ValueError(
            f"another search is using {file}; wait until it ends, or name another file"
        )
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        with contextlib.suppress(OSError):
            os.unlink(f"{path}.lock")  # before it is released, so that nobody waits for this file
        os.close(lock)


def _locked(path: str) -> int | None:
    """Create and lock a file; return its descriptor, or None if another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _platform.lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # it was removed by the search that held it: try again
            pass
        except OSError:  # whether the file is still there cannot be checked
            return descriptor
        os.close(descriptor)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
