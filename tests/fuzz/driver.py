"""Draw properties and problems from a seed, run them, and report the failures."""

import importlib
import importlib.util
import os
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import densecrf_rnn
from densecrf_rnn import gibbs
from densecrf_rnn.compat.pydensecrf import densecrf
from densecrf_rnn.engines import available_backends, why_unavailable

from .properties import PROPERTIES


class Api:
    """Makes the calls of the package and counts them."""

    def __init__(self, torch: bool = True, threads: int = 2, large: float = 0.01) -> None:
        self.calls, self.threads, self.large = 0, threads, large
        self.engines = [name for name in available_backends() if name in ("cpu", "numba")]
        self.tensor_engines = [
            name for name in ("cpu", "serial", "torch", "numba") if _serves_tensors(name)
        ]
        self.gibbs, self.densecrf = gibbs, densecrf
        self.torch = self.functional = self.losses = None
        if torch and importlib.util.find_spec("torch") is not None:
            self.torch = importlib.import_module("torch")
            self.functional = importlib.import_module("densecrf_rnn.nn.functional")
            self.losses = importlib.import_module("densecrf_rnn.nn.losses")

    def __call__(self, function: Any, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return function(*args, **options)

    def refine(self, *args: Any, **options: Any) -> Any:
        return self(densecrf_rnn.refine, *args, **options)

    def mean_field(self, *args: Any, **options: Any) -> Any:
        return self(densecrf_rnn.mean_field, *args, **options)

    def PermutohedralLattice(self, *args: Any, **options: Any) -> Any:  # noqa: N802
        return self(densecrf_rnn.PermutohedralLattice, *args, **options)


def _serves_tensors(name: str) -> bool:
    try:
        return why_unavailable(name) is None
    except ValueError:  # no engine of this name
        return False


@dataclass
class Outcome:
    """What a run found."""

    calls: int = 0
    problems: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # resident kB, every tenth of the run
    descriptors: list[int] = field(default_factory=list)


def run_one(seed: int, index: int, api: Api, only: str | None = None) -> str | None:
    """Run problem `index` of a seed; return the failure as text, or None."""
    rng = np.random.default_rng([seed, index])
    chosen = [
        p for p in PROPERTIES if only in (None, p.__name__, p.__module__.rpartition(".")[2])
    ]
    if not chosen:
        raise ValueError(f"there is no property {only!r}: {[p.__name__ for p in PROPERTIES]}")
    check = chosen[rng.integers(len(chosen))]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", UserWarning)  # random images have odd units
            check(rng, api)
    except Exception:  # an engine may raise anything; each is a finding
        return f"{check.__name__}, --replay {seed}:{index}\n{traceback.format_exc()}"
    return None


def run(
    seed: int,
    calls: int | None = None,
    seconds: float | None = None,
    api: Api | None = None,
    only: str | None = None,
    first: int = 0,
    step: int = 1,
    show: Any = None,
) -> Outcome:
    """Run problems first, first + step, ... until so many calls or seconds have passed."""
    api, outcome, began = api or Api(), Outcome(), time.monotonic()
    index, next_sample = first, 0
    while (calls is None or api.calls < calls) and (
        seconds is None or time.monotonic() - began < seconds
    ):
        failure = run_one(seed, index, api, only)
        if failure is not None:
            outcome.failures.append(failure)
            if show is not None:
                show(failure)
        outcome.problems += 1
        index += step
        if api.calls >= next_sample:
            outcome.memory.append(resident())
            outcome.descriptors.append(open_files())
            next_sample += (calls or 100_000) // 10
    outcome.calls, outcome.seconds = api.calls, time.monotonic() - began
    return outcome


def resident() -> int:
    """Return the resident memory of this process in kB; 0 where /proc is missing."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def open_files() -> int:
    """Return the number of open file descriptors; 0 where /proc is missing."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
