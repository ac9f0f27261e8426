"""Make the tables and figures of the paper, each by a function of a study."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import evaluation, figures
from .design import convergence, gradients, loss_iu
from .study import Study, provenance, student, summary
from .tables import gain, interval, number, save, seed_scores, write
from .training import is_first, load_trained, make_crf

# Mean IU in percent. Reduced VOC 2012 validation list, without and with COCO; Context's val list.
TABLE_1 = {"plain": (61.3, 68.3), "disconnected": (63.7, 69.5), "end-to-end": (69.6, 72.9)}
TABLE_3 = {"plain": 37.78, "end-to-end": 39.28}
NAMES = {"plain": "FCN-8s", "disconnected": "FCN-8s and CRF, disconnected",
         "end-to-end": "CRF-RNN, end to end"}
# Section 7.1 and, of ReLU, section 6: (what changes, to, from, published difference). A row is a
# run and the iterations at test; "untied" was measured with COCO, 70.9 against 72.9.
ABLATIONS = (
    ("a kernel weight for each label", ("potts", 10), ("potts-one-weight", 10), 1.8),
    ("a learned, asymmetric compatibility", ("end-to-end", 10), ("potts", 10), 0.9),
    ("T = 10 instead of 5 at test", ("end-to-end", 10), ("end-to-end", 5), 0.2),
    ("T = 10 instead of 5 in training", ("ten-iterations", 10), ("end-to-end", 10), -0.7),
    ("end to end from the initial CRF", ("end-to-end", 10), ("initial", 10), 3.4),
    ("the CRF alone from the initial one, FCN frozen", ("frozen", 10), ("initial", 10), 1.0),
    ("iterations with parameters of their own", ("untied", None), ("end-to-end", 10), -2.0),
    ("the same, the head at ten times its rate", ("untied-fast", None), ("fast-head", 10), None),
    ("ReLU in place of the softmax", ("relu", 10), ("end-to-end", 10), -1.0),
    # "did not result in increased accuracy"
    ("the robust loss in place of the softmax loss", ("robust", 10), ("end-to-end", 10), None),
)
ITERATIONS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
WIDTHS = (1, 2, 4, 8, 12, 16, 24, 32)  # pixels on each side of a border


def scored(study: Study, name: str, seed: int) -> np.ndarray:
    """Return the confusion matrices of a row of Table 1, [images, L, L]."""
    if name == "disconnected":
        checkpoint = study.row("plain", seed)
        changes = study.untrained(checkpoint)
        return study.confusions(checkpoint, "disconnected", changes=changes)[:, 0, 0]
    config = study.row_config(name, seed)
    return study.after(name, seed, config.eval_iterations if config.crf else 0)


def table1(study: Study, coco: bool = False) -> Path:
    """Table 1: the network alone, with a CRF behind it, and both trained together."""
    published = {row: numbers[coco] for row, numbers in TABLE_1.items()}
    if study.dataset == "voc2011":  # the numbers are of VOC 2012; the first version has none
        published = {}
    return comparison(study, "table1", published, "VOC with COCO" if coco else "VOC")


def context(study: Study) -> Path:
    """Table 3: the same on Pascal Context, 59 classes."""
    return comparison(study, "table3", TABLE_3, "Context")


def comparison(study: Study, name: str, published: dict, where: str) -> Path:
    """Write the three rows of Table 1 next to the published numbers."""
    study.announce(("plain", "end-to-end"))
    found = {row: [] for row in NAMES}
    for seed in study.seeds:
        for row in NAMES:
            found[row].append(scored(study, row, seed))
    rows, dots, above = [], [], None
    for row, text in NAMES.items():
        value, half = summary(found[row], study.score)
        paper = published.get(row)
        gains = ["", "", ""]
        if above:
            gains = [interval(*gain(study, found[row], found[other]), sign=True)
                     for other in ("plain", above)]
            over = None if paper is None else paper - published["plain"]
            gains.append(number(over, sign=True))
        rows.append((text, interval(value, half), *gains[:2], number(paper), gains[2]))
        dots.append((text, value, half, paper))
        above = row
    scores = {row: seed_scores(study, found[row]) for row in NAMES}
    save(study, name, {"seeds": study.seeds, "mean IU": scores}, ("plain", "end-to-end"))
    holds = sum(a < b < c for a, b, c in zip(*scores.values(), strict=True))
    note = f"End to end > disconnected > plain with {holds} of {len(study.seeds)} seeds."
    header = ("", "mean IU", "over FCN-8s", "over the row above", f"paper, {where}",
              "paper over FCN-8s")
    if is_first():
        figures.dots(study.out / f"{name}.png", dots, "mean IU, %")
    return write(study, name, header, rows, ("plain", "end-to-end"), note)


def ablations(study: Study, rows: Sequence[str] | None = None) -> Path:
    """Section 7.1: one change at a time, from the same network and for the same steps.

    With `rows`, only the changes that train one of them, in files named after the rows.
    """
    name = "-".join(["ablations", *(rows or ())])
    chosen = [one for one in ABLATIONS if rows is None or one[1][0] in rows]
    needed = {each for _, *pair, _ in chosen for each in pair}
    trained = tuple(sorted({row for row, _ in needed} - {"initial"}))
    study.announce(trained)
    found = {}
    for seed in study.seeds:
        for row, iterations in sorted(needed, key=str):
            if row == "initial":
                checkpoint = study.base(seed)
                array = study.confusions(
                    checkpoint, "initial", changes=study.untrained(checkpoint))
                array = array[:, 0, 0]
            else:
                array = study.after(row, seed, iterations)
            found.setdefault((row, iterations), []).append(array)
    parted = {row: [parting(study, row, seed) for seed in study.seeds]
              for row in ("untied", "untied-fast") if row in trained}
    scores = {row: seed_scores(study, arrays) for row, arrays in found.items()}
    named = {f"{row}, T = {count or 'its own'}": each for (row, count), each in scores.items()}
    save(study, name, {"seeds": study.seeds, "mean IU": named, "parting": parted}, trained)
    lines, dots = [], []
    for text, changed, unchanged, paper in chosen:
        value, half = gain(study, found[changed], found[unchanged])
        before, after = (number(np.mean(scores[row])) for row in (unchanged, changed))
        lines.append((text, before, after, interval(value, half, sign=True),
                      number(paper, sign=True)))
        dots.append((text, value, half, paper))
    if is_first():
        figures.dots(study.out / f"{name}.png", dots, "difference in mean IU, points", zero=True)
    header = ("change", "before", "after", "difference", "paper, VOC")
    note = ""
    if ("initial", 10) in needed:
        note = ("The initial CRF stands behind the network that all rows start from, so the two "
                "rows that are compared with it have also trained for longer. ")
    for row, apart in parted.items():
        note += (f"{row!r}: copies of the iterations' parameters differ from their mean by "
                 f"{interval(*student(100 * np.array(apart)))} % of what the mean has moved. ")
    return write(study, name, header, lines, trained, note)


def parting(study: Study, name: str, seed: int) -> float:
    """Return how far untied copies of the head's parameters have parted.

    It is the root mean square of the copies' differences from their mean, divided by that of the
    mean's difference from where training started.
    """
    config = study.row_config(name, seed).with_(**study.crf_settings(study.base(seed)))
    before = make_crf(config, study.labels)
    after = load_trained(study.row(name, seed), study.labels)[0].crf
    apart = moved = 0.0
    for parameter in ("kernel_weights", "compatibility"):
        old, new = (getattr(crf, parameter).detach().double() for crf in (before, after))
        apart += float((new - new.mean(0)).square().mean())
        moved += float((new.mean(0) - old[0]).square().mean())
    return (apart / moved) ** 0.5


def iterations(study: Study) -> Path:
    """Mean IU after each number of iterations at test, T = 5 and T = 10 in training."""
    names = ("end-to-end", "ten-iterations")
    study.announce(names)
    series, columns, scores = {}, [], {}
    for name in names:
        found = []
        for seed in study.seeds:
            found.append(study.confusions(study.row(name, seed), "curve", iterations=ITERATIONS))
        scores[name] = [seed_scores(study, [array[:, i, 0] for array in found])
                        for i in range(len(ITERATIONS))]
        points = [summary([array[:, i, 0] for array in found], study.score)
                  for i in range(len(ITERATIONS))]
        title = f"trained with T = {study.row_config(name, 0).iterations}"
        series[title] = tuple(zip(*points, strict=True))
        columns.append([interval(*point) for point in points])
    save(study, "iterations", {"seeds": study.seeds, "T": ITERATIONS, "mean IU": scores}, names)
    if is_first():
        figures.curves(study.out / "iterations.png", ITERATIONS, series, "iterations at test",
                       "mean IU, %")
    rows = list(zip(map(str, ITERATIONS), *columns, strict=True))
    note = "0 iterations are the network's own labels."
    return write(study, "iterations", ("T at test", *series), rows, names, note)


def trimap(study: Study) -> Path:
    """Mean IU within bands of growing width along the true borders."""
    study.announce(("plain", "end-to-end"))
    series, columns, scores = {}, [], {}
    for name, text in NAMES.items():
        found = []
        for seed in study.seeds:
            checkpoint = study.row("plain" if name == "disconnected" else name, seed)
            changes = study.untrained(checkpoint) if name == "disconnected" else {}
            found.append(study.confusions(
                checkpoint, f"bands-{name}", widths=WIDTHS, changes=changes))
        bands = [[array[:, 0, 1 + i] for array in found] for i in range(len(WIDTHS))]
        scores[name] = [seed_scores(study, band) for band in bands]
        points = [summary(band, study.score) for band in bands]
        series[text] = tuple(zip(*points, strict=True))
        columns.append([interval(*point) for point in points])
    save(study, "trimap", {"seeds": study.seeds, "pixels": WIDTHS, "mean IU": scores},
         ("plain", "end-to-end"))
    if is_first():
        figures.curves(study.out / "trimap.png", WIDTHS, series,
                       "pixels on each side of a true border", "mean IU, %")
    rows = list(zip(map(str, WIDTHS), *columns, strict=True))
    return write(study, "trimap", ("pixels", *series), rows, ("plain", "end-to-end"), "")


def figure3(study: Study, count: int = 5) -> Path:
    """Images, their labels and those of the rows of Table 1, as in Figure 3 of the paper.

    The pictures are evenly spaced in the list, not chosen.
    """
    study.seeds = study.seeds[:1]  # only these networks are trained, drawn and described
    study.announce(("plain", "end-to-end"))
    seed = study.seeds[0]
    plain, trained = (study.row(name, seed) for name in ("plain", "end-to-end"))
    untrained = study.untrained(plain)
    path = study.out / "figure3.png"
    if is_first():
        models = [load_trained(plain, study.labels)[0],
                  load_trained(plain, study.labels, **untrained)[0],
                  load_trained(trained, study.labels)[0]]
        rows = []
        for i in np.unique(np.linspace(0, len(study.report) - 1, count).astype(int)):
            image = study.report.image(i)
            maps = [study.report.labels(i)]
            for model in models:
                maps += evaluation.predict(model.to(study.device), image, (None,), study.device)
            rows.append([image, *(figures.colours(m, study.labels) for m in maps)])
        figures.grid(path, ("picture", "truth", *NAMES.values()), rows)
        text = f"# figure3\n\n{provenance(study, ('plain', 'end-to-end'))}\n\n![](figure3.png)\n"
        (study.out / "figure3.md").write_text(text, encoding="utf-8")
    return study.out / "figure3.md"


EXPERIMENTS = {"table1": table1, "table3": context, "ablations": ablations,
               "iterations": iterations, "gradients": gradients, "convergence": convergence,
               "loss-iu": loss_iu, "trimap": trimap, "figure3": figure3}
