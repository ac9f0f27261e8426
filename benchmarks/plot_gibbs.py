"""Plot the time of Gibbs sweeps against pixels, labels and offsets.

    pytest benchmarks/bench_gibbs.py -k linearly --results benchmarks/results/gibbs_axes.json
    python benchmarks/plot_gibbs.py benchmarks/results/gibbs_axes.json docs/images/gibbs_cost.png
"""

import argparse
import json
import re
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

CASE = re.compile(r"(\d+) Gibbs sweeps, (\d+) (pixels|labels|offsets)")
FIXED = {"pixels": "L = 20, C = 12", "labels": "120 x 160, C = 12", "offsets": "120 x 160, L = 20"}


def series(rows: list[dict]) -> dict[str, list[tuple[int, list[float]]]]:
    """Return values and milliseconds per sweep of each run, by axis."""
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for row in rows:
        if match := CASE.fullmatch(row["case"]):
            sweeps, value, axis = match.groups()
            each = [ms / int(sweeps) for ms in row["milliseconds"]]
            found.setdefault(axis, []).append((int(value), each))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="file of --results")
    parser.add_argument("image", type=Path, help="file to write")
    options = parser.parse_args()
    panels = series(json.loads(options.results.read_text())["rows"])
    if set(panels) != set(FIXED):
        raise SystemExit(f"{options.results} lacks rows of {', '.join(set(FIXED) - set(panels))}")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, (what, points) in zip(axes, panels.items(), strict=True):
        xs = np.array([value for value, _ in points])
        low, middle, high = (np.array([np.quantile(ms, q) for _, ms in points])
                             for q in (0.25, 0.5, 0.75))  # fmt: skip
        axis.errorbar(xs, middle, [middle - low, high - middle], fmt="C0o-", markersize=4)
        axis.plot(xs, middle[-1] / xs[-1] * xs, "k:", linewidth=1, label="in proportion")
        axis.set(xscale="log", yscale="log", xlabel=what, title=FIXED[what])
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
    axes[0].set_ylabel("milliseconds per sweep")
    axes[0].legend(fontsize=8)
    options.image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.image, dpi=100)


if __name__ == "__main__":
    main()
