"""Measure pixels per second of Gibbs sweeps: ours, the reference and a plain sweep in Numba."""

import functools
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from measure import ROWS, Case, Row, compare
from problems import Problem

from densecrf_rnn import gibbs
from densecrf_rnn.gibbs.neighbourhood import colouring, dense_neighbourhood, sparse_neighbourhood
from densecrf_rnn.reference import gibbs as reference

SWEEPS = 50  # per call, as few as in practice, so that the set-up of a call has its weight


@dataclass(frozen=True)
class GridCRF(Problem):
    """The logits of an image with edge classes whose tables favour equal labels slightly."""

    neighbourhood: str = "dense 2"

    @property
    def vertices(self) -> None:
        """None: a grid CRF has no lattice."""

    @property
    def offsets(self) -> np.ndarray:
        """Offsets of the edge classes, [C, 2]."""
        kind, radius = self.neighbourhood.split()
        helper = {"dense": dense_neighbourhood, "sparse": sparse_neighbourhood}[kind]
        return helper(int(radius))

    @property
    def tables(self) -> np.ndarray:
        """Pairwise tables of the edge classes, [C, L, L]."""
        shape = (len(self.offsets), self.labels, self.labels)
        noise = 0.1 * np.random.default_rng(0).normal(size=shape)
        return (noise + 0.3 * np.eye(self.labels)).astype(np.float32)

    def inputs(self):
        """Return logits, initial labels, tables and offsets."""
        logits = np.ascontiguousarray(self.logits)
        return logits, logits.argmax(0).astype(np.uint8), self.tables, self.offsets


PROBLEMS = {
    "20 labels, 12 classes": GridCRF(size=(120, 160), labels=20),
    "20 labels, 16 long classes": GridCRF(size=(120, 160), labels=20, neighbourhood="sparse 10"),
    "8 labels, 12 classes": GridCRF(size=(240, 320), labels=8),
    "2 labels, 4 classes": GridCRF(size=(240, 320), labels=2, neighbourhood="dense 1"),
}


def ours(problem, threads):
    inputs = problem.inputs()
    return lambda: gibbs.sweep(*inputs, sweeps=SWEEPS, threads=threads)[0]


def plain(problem, threads, sweeps=SWEEPS):
    from plain_gibbs import sweep

    logits, labels, tables, offsets = problem.inputs()
    labels = labels.astype(np.int32)
    sweep(logits, labels.copy(), tables, offsets)  # compiles

    def run():
        for _ in range(sweeps):
            sweep(logits, labels, tables, offsets)
        return labels

    return run


def by_definition(problem, threads):
    """Prepare one sweep of the slow NumPy reference."""
    logits, labels, tables, offsets = problem.inputs()
    colours = colouring(offsets).of(labels.shape)
    order = np.argsort(colours.ravel(), kind="stable")
    return lambda: reference.sweep(logits, labels, tables, offsets, order, seed=0)[0]


@pytest.mark.parametrize("name", PROBLEMS)
def test_sweep(name):
    pytest.importorskip("numba")
    problem = PROBLEMS[name]
    height, width = problem.size
    outcomes = compare(
        f"{SWEEPS} Gibbs sweeps {height}x{width}, {name}",
        problem,
        [Case("a plain Numba sweep", plain), Case("ours", ours), Case("ours", ours, 2)],
        peer="a plain Numba sweep",
    )
    for outcome in outcomes.values():
        updates = SWEEPS * height * width
        seconds = np.median(outcome.row.milliseconds) / 1e3
        outcome.row.note = f"{updates / seconds / 1e6:.2f} million pixels per second"
    np.testing.assert_array_equal(outcomes["ours", 2].value, outcomes["ours", 1].value)
    score = functools.partial(gibbs.energy, problem.inputs()[0])
    _, _, tables, offsets = problem.inputs()
    found = [score(outcomes[k].value, tables, offsets) for k in outcomes]
    assert found[0] == pytest.approx(found[1], rel=0.02)  # samples of one distribution


def test_sweep_against_the_reference():
    pytest.importorskip("numba")
    problem = GridCRF(size=(60, 80), labels=20)
    case = "a Gibbs sweep 60x80, 20 labels, 12 classes"
    cases = [
        Case("NumPy reference", by_definition),
        Case("a plain Numba sweep", one_plain_sweep),
        Case("ours", one_sweep),
    ]
    outcomes = compare(case, problem, cases, peer="NumPy reference", runs=3)
    for outcome in outcomes.values():
        seconds = np.median(outcome.row.milliseconds) / 1e3
        outcome.row.note = f"{60 * 80 / seconds / 1e6:.3f} million pixels per second"
    np.testing.assert_array_equal(
        outcomes["ours", 1].value, outcomes["NumPy reference", 1].value
    )


def one_plain_sweep(problem, threads):
    return plain(problem, threads, sweeps=1)


def one_sweep(problem, threads):
    inputs = problem.inputs()
    return lambda: gibbs.sweep(*inputs, threads=threads)[0]


# --- time against pixels, labels and offsets -----------------------------------------------------

BASE = GridCRF(size=(120, 160), labels=20)
# The values on each axis, and the problem of a value; all else as BASE.
AXES = {
    "pixels": {
        h * w: replace(BASE, size=(h, w))
        for h, w in ((30, 40), (60, 80), (120, 160), (240, 320), (480, 640))
    },
    "labels": {n: replace(BASE, labels=n) for n in (2, 4, 8, 16, 32, 64, 128)},
    "offsets": {
        2 * r * (r + 1): replace(BASE, neighbourhood=f"dense {r}") for r in (1, 2, 3, 5, 7, 10)
    },
}
SWEEPS_OF_AXES, TURNS = 10, 5


@pytest.mark.parametrize("axis", AXES)
def test_time_grows_at_most_linearly(axis):
    """Add a row for each value; the time of the largest problem is in proportion to the value.

    From 32 to 64 labels the time per label doubles: up to 32 labels, scores stay in registers.
    """
    calls = {}
    for value, problem in AXES[axis].items():
        inputs = problem.inputs()
        calls[value] = functools.partial(gibbs.sweep, *inputs, sweeps=SWEEPS_OF_AXES, threads=1)
    times: dict[int, list[float]] = {value: [] for value in calls}
    for turn in range(TURNS + 1):  # the first is not counted
        for value, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:
                times[value].append(1e3 * (time.perf_counter() - begin))
    for value, milliseconds in times.items():
        height, width = AXES[axis][value].size
        draws = SWEEPS_OF_AXES * height * width
        note = f"{1e6 * np.median(milliseconds) / draws:.1f} ns per pixel and sweep"
        case = f"{SWEEPS_OF_AXES} Gibbs sweeps, {value} {axis}"
        ROWS.append(Row(case, "ours", 1, None, milliseconds, note=note))
    few, many = sorted(calls)[-2:]  # where the set-up of a call no longer counts
    assert np.median(times[many]) < 1.5 * many / few * np.median(times[few])
