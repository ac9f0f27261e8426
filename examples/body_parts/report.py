"""Tables and figures of the study, from the files that study.py has written."""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import ARMS, GROUPS, MEASURE, Study
from learning import DECODING
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy import stats

from densecrf_rnn.files import replaced

MEASURES = ("pixels of parts", "mean of parts", "kind", "side", "mean IU")
# Pairs of arms, the first of which is claimed or expected to be better.
CLAIMS = (
    ("disconnected", "cnn"), ("crfrnn", "cnn"), ("crfrnn", "disconnected"),
    ("crfrnn", "unguided"), ("gibbs", "cnn"), ("gibbs", "disconnected"), ("gibbs", "crfrnn"),
    ("gibbs", "separate"), ("gibbs", "sweeps-8x10"), ("gibbs", "separate-cnn"),
    ("gibbs", "persistent"), ("gibbs", "potts"), ("gibbs", "symmetric"),
    ("gibbs", "distance1"), ("gibbs", "ascent"), ("ascent", "separate"),
    ("ascent", "sweeps-8x10"), ("ascent", "separate-cnn"), ("depth", "gibbs"), ("depth", "crfrnn"),
    ("sweeps-80x1", "sweeps-8x10"), ("sweeps-80x1-slow", "sweeps-8x10"),
)  # fmt: skip
START, END = "<!-- results: written by study.py table -->\n", "<!-- end of results -->\n"

Runs = dict[str, dict[int, dict[str, Any]]]  # results by arm and seed


def read(folder: Path) -> Runs:
    """Return all results of a folder."""
    runs: Runs = {}
    for name in ARMS:
        paths = folder.glob(f"{name}-seed*.json")
        found = {int(p.stem.rsplit("-seed", 1)[1]): json.loads(p.read_text()) for p in paths}
        if found:
            runs[name] = dict(sorted(found.items()))
    return runs


def interval(values: list[float]) -> tuple[float, float | None]:
    """Return the mean and half its 95 % Student's interval, None for a single value."""
    if len(values) < 2:
        return values[0], None
    error = statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(stats.t.ppf(0.975, len(values) - 1)) * error


def written(values: list[float], form: str = ".1f") -> str:
    """Return mean and interval as text."""
    mean, half = interval(values)
    return f"{mean:{form}}" + ("" if half is None else f" ± {half:.1f}")


def rows(header: list[str], lines: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    for line in lines:
        yield "| " + " | ".join(line) + " |"
    yield ""


def scores_of(runs: Runs, name: str, measure: str) -> dict[int, float]:
    """Return an arm's scores on the frames to report on, by seed."""
    return {seed: run["scores"][measure] for seed, run in runs.get(name, {}).items()}


def score_lines(runs: Runs) -> Iterator[str]:
    """Yield the table of scores of all arms, and the names of those that were not run."""
    lines = []
    names = [*GROUPS["main"], *GROUPS["more"]]
    for name in filter(runs.__contains__, names):
        cells = [written(list(scores_of(runs, name, m).values())) for m in MEASURES]
        lines.append([ARMS[name].title, str(len(runs[name])), *cells])
    yield from rows(["percent", "seeds", *MEASURES], lines)
    if missing := [name for name in names if name not in runs]:
        yield from (f"Not run: `--arms {' '.join(missing)}`.", "")


def verdict(differences: list[float]) -> str:
    """Say what the interval of paired differences shows."""
    mean, half = interval(differences)
    if half is None:
        return "one seed"
    if mean - half > 0:
        return "beats"
    return "loses" if mean + half < 0 else "open"


def claim_lines(runs: Runs) -> Iterator[str]:
    """Yield the table of paired differences between arms."""
    lines = []
    for better, worse in CLAIMS:
        seeds = sorted(set(runs.get(better, ())) & set(runs.get(worse, ())))
        if not seeds:
            continue
        title = f"{ARMS[better].title} − {ARMS[worse].title}"
        cells, found = [], ""
        for measure in MEASURES:
            first, second = (scores_of(runs, name, measure) for name in (better, worse))
            differences = [first[s] - second[s] for s in seeds]
            cells.append(written(differences, "+.1f"))
            if measure == MEASURE:
                found = verdict(differences)
        lines.append([title, str(len(seeds)), *cells, found])
    yield from rows(["difference, paired by seed", "seeds", *MEASURES, "verdict"], lines)


def convergence_lines(runs: Runs) -> Iterator[str]:
    """Yield the table of what shows that tables have converged; means over seeds."""
    lines = []
    for name, found in runs.items():
        if ARMS[name].kind not in ("gibbs", "depth"):
            continue
        each = list(found.values())

        def mean(of: Callable[[dict[str, Any]], float], form: str) -> str:
            return f"{statistics.fmean(of(run) for run in each):{form}}"  # noqa: B023

        lines.append([
            ARMS[name].title, str(each[0]["epochs"]),
            mean(lambda r: 100 * r["log"][0]["gap"], ".2f"),
            mean(lambda r: 100 * r["log"][-1]["gap"], ".2f"),
            mean(lambda r: r["flat"] or float("nan"), ".2f"),
            mean(lambda r: 100 * r["fresh gap"], ".2f"),
            mean(lambda r: r["log"][-1]["max table"], ".1f"),
            mean(lambda r: 100 * r["log"][-1]["acceptance"], ".2f"),
        ])  # fmt: skip
    if lines:
        yield from ("How far learning had come:", "")
        yield from rows(
            ["", "epochs", "gap after epoch 1, %", "gap at the end, %",
             "mean gap of the last quarter of the epochs / of the quarter before",
             "gap of new chains, %", "largest absolute score in the tables",
             "draws that change a label, %"], lines)


def decision_lines(runs: Runs) -> Iterator[str]:
    """Yield the table of decisions with the models learned end to end."""
    found = runs.get("gibbs", {})
    if not found:
        return
    first = [run["scores"] for run in found.values()]
    ways = {f"argmax of marginals, {DECODING['chains']} chains": first}
    for name in next(iter(found.values()))["other decisions"]:
        ways[name] = [run["other decisions"][name] for run in found.values()]
    lines = []
    for name, each in ways.items():
        cells = [written([run[m] for run in each]) for m in MEASURES]
        less = [a[MEASURE] - b[MEASURE] for a, b in zip(each, first, strict=True)]
        lines.append([name, *cells, "" if each is first else written(less, "+.1f")])
    yield from ("The end-to-end models decoded in other ways:", "")
    yield from rows(["decision", *MEASURES, "against marginals"], lines)


def sweep_lines(runs: Runs) -> Iterator[str]:
    """Yield the table of separate learning with equal numbers of sweeps."""
    lines = []
    for name in filter(runs.__contains__, GROUPS["sweeps"]):
        each = list(runs[name].values())
        cells = [written([r["scores"][m] for r in each]) for m in (MEASURE, "mean IU")]
        gaps = [f"{100 * statistics.fmean(of):.2f}" for of in (
            [r["log"][-1]["gap"] for r in each], [r["fresh gap"] for r in each])]  # fmt: skip
        lines.append([ARMS[name].title, str(len(each)), *cells, *gaps])
    if lines:
        yield from ("Separate learning with equal numbers of sweeps:", "")
        yield from rows(
            ["percent", "seeds", MEASURE, "mean IU", "gap at the end", "gap of new chains"], lines)


def search_lines(folder: Path) -> Iterator[str]:
    """Yield the searches: number of trials, range of scores, and the values that were chosen."""
    lines = []
    for path in sorted(folder.glob("search-*.json")):
        found = json.loads(path.read_text())
        scores = [t["scores"][MEASURE] for t in found["trials"] if t["scores"]]
        best = found.get("best", {})
        values = ", ".join(f"{k} {v:.3g}" for k, v in best.items()) or "not finished"
        span = f"{min(scores):.1f} to {max(scores):.1f}" if scores else ""
        diverged = len(found["trials"]) - len(scores)
        span += f" ({diverged} diverged)" if diverged else ""
        lines.append([path.stem.removeprefix("search-"), str(len(found["trials"])), span, values])
    if lines:
        yield from rows(["search", "trials", f"{MEASURE}, choose", "chosen"], lines)


def heading(folder: Path, runs: Runs) -> str:
    """Return a paragraph about the data, hours and machine behind the results of a folder."""
    each = [run for found in runs.values() for run in found.values()]
    searches = [json.loads(path.read_text()) for path in folder.glob("search-*.json")]
    if not each + searches:
        return "No result yet."
    one = (each + searches)[0]
    height, width = one["study"]["size"]
    frames = " / ".join(map(str, one["study"]["frames"]))
    hours = [sum(sum(run["seconds"].values()) for run in each) / 3600,
             sum(t["seconds"] for s in searches for t in s["trials"]) / 3600]  # fmt: skip
    machines = sorted({f"{r['threads']} thread of {r['machine']}" for r in each + searches})
    return (
        f"Network `{one['study']['network']}`, frames of {height} x {width} pixels, {frames} to "
        f"train, choose and report on. At most {hours[0]:.1f} hours of processor time for runs and "
        f"{hours[1]:.1f} for searches ({', '.join(machines)}, torch {one['torch']}). Intervals: "
        "95 %, Student's, over seeds."
    )


def text_of(folder: Path) -> str:
    """Return all tables of a folder of results."""
    runs = read(folder)
    lines = [heading(folder, runs), "", *score_lines(runs)]
    if runs:
        lines += [*claim_lines(runs), *convergence_lines(runs), *decision_lines(runs),
                  *sweep_lines(runs)]  # fmt: skip
    lines += ["What was chosen, with one seed that is not reported:", "", *search_lines(folder)]
    return "\n".join(lines)


def table(folder: Path, readme: Path | None) -> None:
    """Print all tables; write them into a file between its two marks, if one is given."""
    text = text_of(folder)
    print(text)
    if readme is None:
        return
    page = readme.read_text(encoding="utf-8")
    if START not in page or END not in page:
        raise SystemExit(f"{readme} lacks the marks {START.strip()} and {END.strip()}")
    before, rest = page.split(START)
    with replaced(readme) as part:
        part.write_text(before + START + text + END + rest.split(END)[1], encoding="utf-8")


# --- figures -------------------------------------------------------------------------------------


def figures(study: Study, seed: int, folder: Path) -> None:
    """Draw frames with the labels of each arm, as the paper's figure 1, and the learned tables."""
    found = {}
    for name in ("cnn", "disconnected", "crfrnn", "separate", "gibbs"):
        path = study.work / f"labels-{name}-seed{seed}.pt"
        if path.exists():
            found[name] = torch.load(path, weights_only=True)
    if "gibbs" not in found:
        raise SystemExit(f"{study.work} holds no labels of seed {seed}; study.py run makes them")
    folder.mkdir(parents=True, exist_ok=True)
    labels = {ARMS[name].title: one["labels"] for name, one in found.items()}
    draw_parts(folder / "body_parts.png", study, labels)
    tables, offsets = (found["gibbs"][key].numpy() for key in ("tables", "offsets"))
    draw_tables(folder / "body_tables.png", tables, offsets.tolist(), study.names)


def draw_parts(path: Path, study: Study, found: dict[str, torch.Tensor]) -> None:
    """Plot depth, true labels and the labels of each arm for evenly spaced frames."""
    frames = study.splits["report"]
    columns = {"depth": frames.depth[:, 0], "truth": frames.labels, **found}
    count = min(5, len(frames))
    figure = Figure(figsize=(2.0 * len(columns), 1.6 * count), layout="constrained")
    axes = figure.subplots(count, len(columns), squeeze=False)
    colours = colormaps["tab20"].resampled(study.labels)
    for row, number in enumerate(np.linspace(0, len(frames) - 1, count).astype(int)):
        for axis, (name, images) in zip(axes[row], columns.items(), strict=True):
            if name == "depth":
                axis.imshow(images[number], cmap="gray_r")
            else:
                seen = np.ma.masked_equal(images[number], 0)  # leaves the background white
                options = {"vmin": -0.5, "vmax": study.labels - 0.5, "interpolation": "nearest"}
                axis.imshow(seen, cmap=colours, **options)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name.replace(", ", ",\n", 1), fontsize=8)
    figure.savefig(path, dpi=110)


def draw_tables(
    path: Path, tables: np.ndarray, offsets: list[list[int]], names: list[str]
) -> None:
    """Plot each offset's table: rows are a pixel's label, columns the label at the offset."""
    columns = 4
    figure = Figure(figsize=(3.4 * columns, 3.4 * -(-len(tables) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(tables) // columns), columns, squeeze=False)
    most = float(np.abs(tables).max()) or 1.0
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, one, (down, right) in zip(axes.flat, tables, offsets):
        axis.set_axis_on()
        image = axis.imshow(one, cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title(f"{down} down, {right} right", fontsize=8)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=4)
        axis.set_yticks(range(len(names)), names, fontsize=4)
    figure.colorbar(image, ax=axes, shrink=0.4, label="score: red attracts, blue repels")
    figure.savefig(path, dpi=120)
