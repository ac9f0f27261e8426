"""Optuna studies: kept in a file, resumed only with the same task, and read out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..params import CRFParams

if TYPE_CHECKING:
    from optuna import Study

_DIGITS = 3  # significant digits of values tried: printed settings are exactly those scored


def setting(base: CRFParams, values: Mapping[str, float]) -> CRFParams:
    """Return `base` with these values, rounded to three significant digits."""
    rounded = {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()}
    return replace(base, **rounded)  # type: ignore[arg-type]


def ended(study: "Study") -> list[Any]:
    """Return the trials of a study that were scored or pruned."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]


def completed(study: "Study") -> list[Any]:
    """Return the trials of a study that were scored on all examples."""
    return [t for t in ended(study) if t.state.name == "COMPLETE"]


def settings(study: "Study", base: CRFParams) -> list[tuple[CRFParams, float]]:
    """Return each setting that was scored on all examples, with its score."""
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
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len({t.value for t in completed(study)}) < 4:
        return {}
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def open_study(file: str, name: str, facts: dict[str, Any]) -> "Study":
    """Create the study `name` in a file, or open it if it was created with the same `facts`.

    Only trials that have ended are added to it, so a killed process leaves no partial trial.
    """
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    url = URL.create("sqlite", database=file).render_as_string()
    try:
        study = optuna.create_study(
            storage=url, study_name=name, direction="maximize", load_if_exists=True
        )
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{file} cannot be used as a study: {reason}") from error
    facts = json.loads(json.dumps(facts))  # tuples become lists, as in the file
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


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
