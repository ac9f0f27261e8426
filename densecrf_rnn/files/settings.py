"""Store the parameters of a refinement in JSON files, which `tune` writes and `refine` reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import checks
from ..checks.wording import kind
from ..params import CRFParams
from .._atomic import remove_leftovers_of, replaced
from .json_text import parsed


@dataclass(frozen=True, eq=False)
class Settings:
    """Parameters, iterations and compatibility: the arguments of `refine` that tuning determines.

    Parameters
    ----------
    params : CRFParams
    iterations : int, at least 0
    compatibility : ndarray [L, L], optional
        Penalty for a label (row) next to another (column); default Potts.
    tuned : str
        Names the search that found the settings; empty if none did. The command then takes
        theta_beta for right, and `tune` does not replace the settings of another search.

    Raises
    ------
    TypeError, ValueError
        A value of the wrong kind or range.

    Examples
    --------
    >>> values = Settings(CRFParams(theta_alpha=30), iterations=5).to_dict()
    >>> values["params"]["theta_alpha"], Settings.from_dict(values).iterations
    (30.0, 5)
    """

    params: CRFParams = CRFParams()
    iterations: int = 10
    compatibility: Array | None = None
    tuned: str = ""

    def __post_init__(self) -> None:
        checks.params(self.params, CRFParams)
        checks.count("iterations", self.iterations, 0)
        if self.compatibility is not None:
            checks.array_kind("compatibility", self.compatibility, batched=False)
            checks.compatibility(self.compatibility, len(self.compatibility))
        if not isinstance(self.tuned, str):
            raise TypeError(f"tuned is {self.tuned!r}; it must be text")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON can hold."""
        mu = self.compatibility
        return {
            "params": self.params.to_dict(),
            "iterations": self.iterations,
            "compatibility": None if mu is None else mu.tolist(),
        } | ({"tuned": self.tuned} if self.tuned else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Return the settings that `to_dict` wrote; missing ones have their defaults.

        Raises
        ------
        TypeError, ValueError
            An unknown name, or a value of the wrong kind or range.
        """
        unknown = set(values) - {"params", "iterations", "compatibility", "tuned"}
        if unknown:
            raise ValueError(
                f"settings hold {', '.join(sorted(map(repr, unknown)))}; they may hold 'params', "
                "'iterations', 'compatibility' and 'tuned'"
            )
        mu = values.get("compatibility")
        if mu is not None:
            try:
                mu = np.asarray(mu, np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError("compatibility must be a list of L lists of L numbers") from error
            if mu.ndim != 2:
                raise ValueError("compatibility must be a list of L lists of L numbers")
        params = values.get("params", {})
        if not isinstance(params, Mapping):
            raise TypeError("params must be a mapping of names to values")
        iterations = values.get("iterations", cls.iterations)
        return cls(CRFParams.from_dict(params), iterations, mu, values.get("tuned", ""))


def read_settings(path: Path | str) -> Settings:
    """Read settings from a JSON file.

    Parameters
    ----------
    path : path
        A file as `write_settings` and ``densecrf-rnn tune`` write it.

    Returns
    -------
    Settings

    Raises
    ------
    OSError
        The file does not exist or cannot be read.
    ValueError
        The file holds no valid settings in JSON.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_settings(f"{folder}/best.json", Settings(CRFParams(theta_beta=5)))
    ...     print(read_settings(f"{folder}/best.json").params)
    CRFParams(theta_beta=5.0)
    """
    try:
        values = parsed(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it must be an object {...}")
        return Settings.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not valid settings in JSON: {error}") from error


def write_settings(path: Path | str, settings: Settings) -> None:
    """Write settings as JSON; the inverse of `read_settings`.

    Parameters
    ----------
    path : path
        A file that exists is replaced, once the new one is complete.
    settings : Settings

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    TypeError
        `settings` are no `Settings`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_settings(f"{folder}/best.json", Settings(CRFParams(theta_beta=5), iterations=5))
    ...     read_settings(f"{folder}/best.json").iterations
    5
    """
    if not isinstance(settings, Settings):
        raise TypeError(
            f"settings is {kind(settings)}; it must be Settings(params, iterations, compatibility)"
        )
    remove_leftovers_of(path)
    with replaced(path) as partial:
        partial.write_text(json.dumps(settings.to_dict(), indent=1) + "\n", encoding="utf-8")
