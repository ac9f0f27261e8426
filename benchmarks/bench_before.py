"""Measure `refine`, exact and pruned, against an earlier commit and pydensecrf, in turn.

    pytest benchmarks/bench_before.py --before=CHECKOUT --pictures=FOLDER

CHECKOUT is a checkout of the earlier commit with its native module built in place
(CONTRIBUTING.md); FOLDER holds the data that study_refinement.py describes. Without `--before` the
exact refinement of this commit is what others are compared with; without `--pictures` only the
photographs of scikit-image are refined. Each turn runs all contenders once, one process each.
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers
import pytest
import study_refinement
from contender import Contender, Task
from measure import ROWS, Row
from problems import TIGHT, WIDE, Problem

from densecrf_rnn import CRFParams

README = CRFParams(30, 5, 3, 3, 3, normalization="symmetric")
SETTINGS = {"wide": WIDE, "tight": TIGHT, "30/5": README}
ROOT = Path(__file__).resolve().parents[1]
PICTURES = 12  # of each set
Stored = tuple[str, str]  # files of logits and image


@pytest.fixture(scope="module")
def contenders(request: pytest.FixtureRequest) -> Iterator[dict[str, Contender]]:
    """Return the processes by name; "before" is absent without --before."""
    before = request.config.getoption("--before")
    found = {"now": Contender("now", ROOT)}
    if before is not None:
        found["before"] = Contender("before", before.resolve())
    if peers.cases(peers.build):
        found["pydensecrf"] = Contender("pydensecrf", ROOT)
    yield found
    for each in found.values():
        each.close()


@pytest.fixture(scope="module")
def stored(request: pytest.FixtureRequest) -> Iterator["Sets"]:
    """Return the sets of pictures, as files."""
    with tempfile.TemporaryDirectory() as folder:
        yield Sets(Path(folder), request.config.getoption("--pictures"))


class Sets:
    """Pictures with logits, written to files on first use."""

    def __init__(self, folder: Path, data: Path | None) -> None:
        self._folder, self._data = folder, data
        self._made: dict[tuple[str, int], list[Stored]] = {}

    def __call__(self, name: str, labels: int) -> list[Stored]:
        """Return the pictures of a set; skip where its data are absent."""
        if (name, labels) not in self._made:
            self._made[name, labels] = [
                self._write(f"{name}-{labels}-{i}", logits, image)
                for i, (logits, image) in enumerate(self._pictures(name, labels))
            ]
        return self._made[name, labels]

    def _write(self, stem: str, logits: np.ndarray, image: np.ndarray) -> Stored:
        files = tuple(str(self._folder / f"{stem}-{part}.npy") for part in ("logits", "image"))
        np.save(files[0], np.ascontiguousarray(logits, np.float32))
        np.save(files[1], np.ascontiguousarray(image))
        return files

    def _pictures(self, name: str, labels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if name == "photographs":
            for source in ("astronaut", "coffee"):
                problem = Problem(source, labels=labels)
                yield problem.logits, problem.image
            return
        if name == "1024x2048":
            problem = Problem("coffee", (1024, 2048), labels)
            yield problem.logits, problem.image
            return
        found = None
        if self._data is not None:
            read = {"VOC": study_refinement.voc, "CamVid": study_refinement.camvid}[name.split()[0]]
            found = read(self._data)
        if found is None:
            pytest.skip(f"needs --pictures with {name}")
        step = max(1, len(found) // PICTURES)
        for example in found[::step][:PICTURES]:
            logits = example.logits
            if labels > len(logits):  # further labels that noise lets matter here and there
                logits = with_simulated_labels(logits, labels)
            yield logits, example.image


def with_simulated_labels(logits: np.ndarray, labels: int) -> np.ndarray:
    """Return the logits with further labels: smooth noise about the fourth largest logit."""
    rng = np.random.default_rng(labels)
    size, more = logits.shape[1:], labels - len(logits)
    level = np.sort(logits, axis=0)[-4]
    coarse = rng.normal(-2, 1.5, (more, 9, 9)).astype(np.float32)
    from densecrf_rnn import samples

    return np.concatenate([logits, samples.upsample(coarse, size) + level])


def in_turn(
    case: str,
    pictures: list[Stored],
    contenders: dict[str, Contender],
    tasks: dict[str, tuple[str, dict]],
    runs: int = 5,
) -> dict[str, Row]:
    """Run every picture by every contender in turn; add and return a row each.

    `tasks` maps the name of a row to the contender and the changes of its Task. A time is the sum
    over the pictures, divided by their number.
    """
    tasks = {who: task for who, task in tasks.items() if task[0] in contenders}
    seconds: dict[str, list[float]] = {who: [] for who in tasks}
    for turn in range(runs + 1):
        for who, (by, changes) in tasks.items():
            total = sum(contenders[by](Task(*files, **changes)) for files in pictures)
            if turn > 0:
                seconds[who].append(total / len(pictures))
    base = "before" if "before" in tasks else next(iter(tasks))
    rows = {}
    for who, (_, changes) in tasks.items():
        row = Row(case, who, changes.get("threads", 1), None, [1e3 * s for s in seconds[who]])
        if who != base:
            over = statistics.median(
                s / b for s, b in zip(seconds[who], seconds[base], strict=True)
            )
            row.against, row.ratio = base, 1 / over
            row.note = f"time over {base} {over:.2f}"
        ROWS.append(row)
        rows[who] = row
    return rows


def add_errors(
    pictures: list[Stored], contender: Contender, exact: dict, pruned: dict, row: Row
) -> None:
    """Add to a row how far its marginals are from the exact ones, and how many labels differ."""
    most, changed, points = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "q.npy"
        for files in pictures:
            found = []
            for changes in (exact, pruned):
                contender(Task(*files, **changes), file)
                found.append(np.load(file))
            most = max(most, float(np.abs(found[0] - found[1]).max()))
            changed += int((found[0].argmax(0) != found[1].argmax(0)).sum())
            points += found[0][0].size
    row.note += f"; max |dq| {most:.1e}, labels changed {changed} of {points:,}"


def settings(name: str, **changes) -> dict:
    return {"params": dataclasses.asdict(SETTINGS[name]), **changes}


SETS = [
    ("photographs", 21), ("VOC", 21), ("CamVid", 11), ("photographs", 2), ("VOC simulated", 150)
]  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("pictures, labels", SETS)
def test_pruned(contenders, stored, pictures, labels, name):
    """Measure exact and pruned refinement, and how far the second is from the first."""
    files = stored(pictures, labels)
    if labels == 150:
        files = files[:2]
    exact = settings(name)
    tasks = {"before": ("before", exact), "now, exact": ("now", exact)}
    deltas = (1e-3, 1e-4) if labels > 2 else ()
    for delta in deltas:
        tasks[f"now, prune {delta:g}"] = ("now", settings(name, options=(("prune", delta),)))
    tasks["pydensecrf"] = ("pydensecrf", settings(name, what="pydensecrf"))
    runs = 3 if labels == 150 else 5
    rows = in_turn(f"{pictures} {name} L={labels} T=5", files, contenders, tasks, runs)
    for who, (_, changes) in tasks.items():
        if "prune" in who:
            add_errors(files, contenders["now"], exact, changes, rows[who])


@pytest.mark.parametrize("name", SETTINGS)
def test_build_with_normaliser(contenders, stored, name):
    """Measure features, the bilateral lattice and a filter of ones."""
    built = settings(name, what="build")
    tasks = {"before": ("before", built), "now": ("now", built)}
    in_turn(f"build and normaliser {name}", stored("photographs", 21), contenders, tasks, 9)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("labels", [21, 2])
def test_two_threads(contenders, stored, labels, name):
    """Measure `refine` on two threads against one."""
    one, two = settings(name), settings(name, threads=2)
    tasks = {"now, one thread": ("now", one), "now, two threads": ("now", two)}
    tasks |= {"before": ("before", two)}
    case = f"photographs {name} L={labels} T=5, two threads"
    in_turn(case, stored("photographs", labels), contenders, tasks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide", "tight"])
def test_large(contenders, stored, name):
    """Measure 1024 x 2048 pixels and 19 labels."""
    exact = settings(name)
    pruned = settings(name, options=(("prune", 1e-3),))
    tasks = {"before": ("before", exact), "now, exact": ("now", exact)}
    tasks |= {"now, prune 0.001": ("now", pruned)}
    tasks["pydensecrf"] = ("pydensecrf", settings(name, what="pydensecrf"))
    files = stored("1024x2048", 19)
    rows = in_turn(f"1024x2048 {name} L=19 T=5", files, contenders, tasks, 3)
    add_errors(files, contenders["now"], exact, pruned, rows["now, prune 0.001"])
