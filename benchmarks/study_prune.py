"""Measure what leaving labels out changes: labels, marginals, mean IU and time.

    python benchmarks/study_prune.py --data FOLDER --plot docs/images/prune.png

FOLDER is as study_refinement.py describes. All pictures of a set are refined exactly and with
`prune` 1e-3 and 1e-4 at three settings; --plot draws time and error against `prune` for 12 pictures
of each set, timed on one thread, and needs matplotlib.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from problems import TIGHT, WIDE
from study_refinement import MIOU7, camvid, machine, voc

from densecrf_rnn import CRFParams, metrics, refine

README = CRFParams(30, 5, 3, 3, 3, normalization="symmetric")
SETTINGS = {"80/13": WIDE, "160/3": TIGHT, "30/5": README}
ALL, CURVE, TIMED = (1e-3, 1e-4), (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5), 12


def sets(data: Path) -> dict[str, tuple[Sequence[Any], int, Any]]:
    """Return the sets that are there: pictures, label to ignore, score."""
    found = {
        "VOC": (voc(data), 255, partial(metrics.mean_iu, over=MIOU7)),
        "CamVid": (camvid(data), 11, metrics.mean_iu),
    }
    return {name: each for name, each in found.items() if each[0] is not None}


def compare(pictures: Sequence[Any], params: CRFParams, ignore: int, score: Any, threads: int):
    """Print a row per `prune` over all pictures."""
    counts: dict[float, Any] = dict.fromkeys((0.0, *ALL), 0)
    most, changed, points = dict.fromkeys(ALL, 0.0), dict.fromkeys(ALL, 0), 0
    for example in (pictures[i] for i in range(len(pictures))):
        q = refine(example.logits, example.image, params, iterations=5, threads=threads)
        labels, exact = len(q), q.argmax(0)
        counts[0.0] += metrics.confusion_matrix(example.truth, exact, labels, ignore)
        points += exact.size
        for prune in ALL:
            other = refine(
                example.logits, example.image, params, iterations=5, threads=threads, prune=prune
            )
            found = other.argmax(0)
            most[prune] = max(most[prune], float(np.abs(q - other).max()))
            changed[prune] += int((found != exact).sum())
            counts[prune] += metrics.confusion_matrix(example.truth, found, labels, ignore)
    yield f"{100 * score(counts[0.0]):.3f}"
    for prune in ALL:
        yield f"{100 * score(counts[prune]):.3f}"
        yield f"{most[prune]:.1e}"
        yield f"{1e6 * changed[prune] / points:.2f}"


def curve(pictures: Sequence[Any], params: CRFParams) -> list[tuple[float, float]]:
    """Return time over that of exact passes, and the greatest change of a marginal, by `prune`."""
    step = max(1, len(pictures) // TIMED)
    chosen = [pictures[i] for i in range(0, len(pictures), step)][:TIMED]
    seconds = {prune: 0.0 for prune in (0.0, *CURVE)}
    most = dict.fromkeys(CURVE, 0.0)
    for example in chosen:
        exact = None
        for prune in (0.0, *CURVE):
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                q = refine(
                    example.logits, example.image, params, iterations=5, threads=1, prune=prune
                )
                times.append(time.perf_counter() - begin)
            seconds[prune] += sorted(times)[1]
            exact = q if exact is None else exact
            if prune:
                most[prune] = max(most[prune], float(np.abs(q - exact).max()))
    return [(seconds[prune] / seconds[0.0], most[prune]) for prune in CURVE]


def plot(found: dict[tuple[str, str], list[tuple[float, float]]], path: Path) -> None:
    """Draw the curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (name, setting), points in found.items():
        style = "-" if name == "VOC" else "--"
        ratios = [ratio for ratio, _ in points]
        left.plot(CURVE, ratios, style, marker="o", label=f"{name} {setting}")
        right.plot(CURVE, [max(most, 1e-6) for _, most in points], style, marker="o")
    left.set(xscale="log", xlabel="prune", ylabel="time over exact", ylim=(0, 1.2))
    right.set(xscale="log", yscale="log", xlabel="prune", ylabel="greatest change of a marginal")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table, and draw the plot if it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw time and error to it")
    parser.add_argument("--only-plot", action="store_true", help="without the table")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print(machine(), flush=True)
    curves = {}
    if not args.only_plot:
        print("| | pictures | mean IU, exact | at 1e-3 | max change | labels changed per million "
              "| at 1e-4 | max change | labels changed per million |")  # fmt: skip
        print("|---" * 9 + "|")
    for name, (pictures, ignore, score) in sets(args.data).items():
        for setting, params in SETTINGS.items():
            if not args.only_plot:
                cells = compare(pictures, params, ignore, score, args.threads)
                print(f"| {name} {setting} | {len(pictures)} |", " | ".join(cells), "|", flush=True)
            if args.plot:
                curves[name, setting] = curve(pictures, params)
    if args.plot:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
