"""Plot the time of a mean field against pixels, labels, iterations and vertices.

    python benchmarks/plot_cost.py docs/images/cost.png      # about four minutes
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import matplotlib  # noqa: E402
import peers  # noqa: E402
from measure import Case  # noqa: E402
from problems import WIDE, Problem  # noqa: E402

from densecrf_rnn import refine  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BASE = Problem("coffee", (500, 500), 21, WIDE)
ITERATIONS, RUNS = 5, 3
SIDES = (64, 125, 250, 500, 1000)
LABELS = (2, 4, 8, 16, 21, 32, 64)
STEPS = (1, 2, 5, 10, 20)
THETA_BETAS = (40, 20, 13, 8, 5, 3, 2)
STYLES = {"pydensecrf, 1 thread": "C3o-", "ours, 1 thread": "C0o-", "ours, 2 threads": "C0o--"}


def ours(problem, threads, iterations):
    """Prepare `refine` with the default spatial filter, the grid."""
    logits, image = problem.logits, problem.image
    return lambda: refine(logits, image, problem.params, iterations=iterations, threads=threads)


def seconds(problem: Problem, iterations: int = ITERATIONS) -> dict[str, float]:
    """Return each contender's median time, lattices included, measured in turn."""
    cases = [*peers.cases(peers.forward(iterations))]
    cases += [Case("ours", lambda p, n: ours(p, n, iterations), n) for n in (1, 2)]
    times: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for case in cases:
            run = case.work(problem, case.threads)
            begin = time.perf_counter()
            run()
            name = f"{case.who}, {case.threads} thread{'s' if case.threads > 1 else ''}"
            times.setdefault(name, []).append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="file to write")
    path = parser.parse_args().image
    betas = [replace(BASE, params=replace(WIDE, theta_beta=b)) for b in THETA_BETAS]
    sizes = [replace(BASE, size=(n, n)) for n in SIDES]
    labels = [replace(BASE, labels=n) for n in LABELS]
    panels = {
        "pixels N": [(n * n, seconds(p)) for n, p in zip(SIDES, sizes, strict=True)],
        "labels L": [(n, seconds(p)) for n, p in zip(LABELS, labels, strict=True)],
        "iterations T": [(n, seconds(BASE, n)) for n in STEPS],
        "bilateral vertices M": [(p.vertices, seconds(p)) for p in betas],
    }
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for axis, (what, points) in zip(axes, panels.items(), strict=True):
        for name in points[0][1]:
            xs, ys = [x for x, _ in points], [1e3 * times[name] for _, times in points]
            axis.plot(xs, ys, STYLES[name], label=name, markersize=4)
            print(what, name, *[f"{x}:{y:.0f}ms" for x, y in zip(xs, ys, strict=True)])
        axis.set(xscale="log", yscale="log", xlabel=what)
        if points[-1][0] < 100:  # few enough to label each
            axis.set_xticks([x for x, _ in points], [str(x) for x, _ in points])
            axis.minorticks_off()
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend(fontsize=8)
    figure.suptitle(
        "One mean field with its lattices. Fixed unless on the axis: 500 x 500, L = 21, T = 5, "
        f"80/13, M = {BASE.vertices:,}", fontsize=10,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
