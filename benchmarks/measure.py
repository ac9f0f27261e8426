"""Measure time and memory of cases, and collect the rows of the table printed at the end."""

import ctypes
import gc
import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from problems import Problem

# Takes a problem and a number of threads, prepares (not timed) and returns the call to be timed.
Work = Callable[[Problem, int], Callable[[], Any]]


@dataclass
class Row:
    """One line of the table; None in fields that do not apply."""

    case: str
    who: str
    threads: int | None = None
    vertices: int | None = None
    milliseconds: list[float] | None = None  # of each run
    memory: float | None = None  # peak, MB above the inputs, the result included
    against: str | None = None  # the contender that `ratio` refers to
    ratio: float | None = None  # its time divided by this one
    note: str = ""


ROWS: list[Row] = []
HEADER = ["case", "M", "who", "threads", "median ms", "[quartiles]", "peak MB", "speed", "note"]


@dataclass(frozen=True)
class Case:
    """A contender: its name, its work and its threads.

    Memory is measured on `whole` if it is given, for work that is only part of a computation.
    """

    who: str
    work: Work
    threads: int = 1
    whole: Work | None = None


@dataclass
class Outcome:
    """A row that was added, and the value that the measured call returned."""

    row: Row
    value: Any


def compare(
    name: str,
    problem: Problem,
    cases: Sequence[Case],
    peer: str,
    runs: int = 7,
    warm_up: bool = True,
) -> dict[tuple[str, int], Outcome]:
    """Measure the cases in turn (A B A B ...), add a row each; return outcomes by (who, threads).

    All cases of a turn meet the same load of the machine, so ratios are stable even if absolute
    times drift. A ratio is the median over turns, against `peer` on as many threads, or else on 1.
    """
    memory = [peak_memory(case, problem) for case in cases]
    seconds: list[list[float]] = [[] for _ in cases]
    values: list[Any] = [None for _ in cases]
    for turn in range(runs + warm_up):
        for i, case in enumerate(cases):
            timed = case.work(problem, case.threads)
            begin = time.perf_counter()
            value = timed()
            end = time.perf_counter()
            if turn == 0:
                values[i] = value
            if turn >= warm_up:
                seconds[i].append(end - begin)
            del timed, value

    keys = [(case.who, case.threads) for case in cases]
    outcomes = {}
    for i, key in enumerate(keys):
        row = Row(name, *key, problem.vertices, [1e3 * s for s in seconds[i]], memory[i])
        base = next((k for k in ((peer, key[1]), (peer, 1)) if k in keys), None)
        if base is not None and key[0] != peer:
            other = seconds[keys.index(base)]
            row.against = peer
            row.ratio = statistics.median(o / s for o, s in zip(other, seconds[i], strict=True))
        ROWS.append(row)
        outcomes[key] = Outcome(row, values[i])
    return outcomes


def peak_memory(case: Case, problem: Problem) -> float | None:
    """Return the peak memory of a case in MB above its inputs, in a new process; Linux only."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    # The server that forks the processes imports these once; absent packages are ignored.
    context.set_forkserver_preload(["skimage.io", "skimage.data", "skimage.transform", "torch"])
    with ProcessPoolExecutor(1, context) as fresh:
        return fresh.submit(_peak, case.whole or case.work, problem, case.threads).result()


def _peak(work: Work, problem: Problem, threads: int) -> float | None:
    work(problem.tiny(), threads)()  # loads libraries and compiles
    timed = work(problem, threads)
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is reused would not count
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        before = _status("VmRSS")
    except (AttributeError, OSError):
        return None
    result = timed()
    peak = _status("VmHWM")
    del result
    return (peak - before) / 1e3


def _status(field: str) -> float:
    """Return a field of /proc/self/status, in kB."""
    with open("/proc/self/status") as file:
        return next(float(line.split()[1]) for line in file if line.startswith(field + ":"))


def cells(row: Row) -> list[str]:
    """Return the row as strings, one per column of HEADER."""
    median = quartiles = "-"
    if row.milliseconds:
        low, middle, high = statistics.quantiles(row.milliseconds, n=4, method="inclusive")
        median, quartiles = f"{middle:.1f}", f"[{low:.1f}, {high:.1f}]"
    return [
        row.case,
        f"{row.vertices:,}" if row.vertices else "-",
        row.who,
        str(row.threads or "-"),
        median,
        quartiles,
        "-" if row.memory is None else f"{row.memory:.0f}",
        "-" if row.ratio is None else f"{row.ratio:.2f}x {row.against}",
        row.note,
    ]


def commit() -> str:
    """Return the commit of this checkout; "-" without git or outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return "-"
    return done.stdout.strip() or "-"
