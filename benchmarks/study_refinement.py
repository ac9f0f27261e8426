"""Measure how much refinement helps: tune on one half of some images, score the other half.

    python benchmarks/study_refinement.py --data FOLDER

prints the tables of docs/refinement.md, section "Does it help?". It needs the extras cli and tune,
torch for the row that is learned by gradients, and pydensecrf2 for the rows to compare with.
Without --data it uses the sample images of the package. FOLDER may hold the following; absent parts
are skipped:

    logits/voc_val_mnv2.npz        voc/JPEGImages/ID.jpg  voc/SegmentationClass/ID.png
                                   voc/ImageSets/val_first60.txt
    logits/camvid_val_fcn8s_mnv2.npz     camvid/val/ID.jpg  camvid/valannot/ID.png
    brats3d/*.npz                  flair, t1c, label and prob (uint8, a plane per label, 255 for 1)

The archives of logits hold `ids`, and `q` [images, rows, columns, labels] of small integers:
the logits are (q - zero_point) * scale on a coarse grid, whose corners are those of the network's
input.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not occupy processors

import numpy as np  # noqa: E402
import peers  # noqa: E402

from densecrf_rnn import CRFParams, files, metrics, refine, samples, tuning, unaries  # noqa: E402

MIOU7 = (0, 8, 10, 12, 13, 15, 17)  # background, cat, cow, dog, horse, person, sheep
BAND = 10  # pixels on each side of a true border
PYDENSECRF = CRFParams(50, 5, 3, 5, 3, normalization="symmetric", spatial="lattice")
TRIALS, IMAGES, ITERATIONS = 24, 30, 5

Refiner = Callable[[Any], np.ndarray]  # takes an example, returns its label map


# --- data ----------------------------------------------------------------------------------------


class Stored(Sequence[samples.Sample]):
    """Images of a folder with true labels and coarse logits, read on access."""

    def __init__(
        self, archive: Path, image: str, truth: str, ids: Sequence[str] | None, side: int | None
    ) -> None:
        with np.load(archive) as stored:
            self._q = stored["q"]
            self._scale = np.float32(stored["scale"])
            self._zero = np.float32(stored["zero_point"])
            self._row = {str(name): row for row, name in enumerate(stored["ids"])}
        self.ids = list(self._row) if ids is None else [name for name in ids if name in self._row]
        self._image, self._truth, self._side = image, truth, side

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        """Return an example, or for a slice a sequence that reads its examples on access."""
        if isinstance(index, slice):
            part = object.__new__(Stored)
            part.__dict__.update(self.__dict__, ids=self.ids[index])
            return part
        name = self.ids[index]
        image = files.read_image(self._image.format(name))
        size = image.shape[:2]
        coarse = (self._q[self._row[name]].astype(np.float32) - self._zero) * self._scale
        side = size if self._side is None else (self._side, self._side)
        logits = samples.upsample(np.moveaxis(coarse, -1, 0), side, crop=size)
        return samples.Sample(name, image, logits, files.read_labels(self._truth.format(name)))


def voc(data: Path, names: str | None = None) -> Stored | None:
    """Return Pascal VOC with logits of DeepLabv3-MobileNetV2 at 513 x 513; None if absent."""
    ids = None
    if names is not None:
        path = data / "voc" / "ImageSets" / names
        if not path.is_file():
            return None
        ids = path.read_text().split()
    folder = f"{data}/voc"
    return _stored(
        data / "logits" / "voc_val_mnv2.npz",
        f"{folder}/JPEGImages/{{}}.jpg", f"{folder}/SegmentationClass/{{}}.png", ids, 513,
    )  # fmt: skip


def camvid(data: Path) -> Stored | None:
    """Return CamVid's validation frames with logits of an FCN-8s; None if absent."""
    folder = f"{data}/camvid"
    return _stored(
        data / "logits" / "camvid_val_fcn8s_mnv2.npz",
        f"{folder}/val/{{}}.jpg", f"{folder}/valannot/{{}}.png", None, None,
    )  # fmt: skip


def _stored(archive: Path, image: str, *rest: Any) -> Stored | None:
    if not archive.is_file() or not Path(image).parent.is_dir():
        return None
    return Stored(archive, image, *rest)


class Volume:
    """An example: a brain scan with a classifier's probabilities."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        with np.load(path) as stored:
            self.image = np.stack([stored["flair"], stored["t1c"]], axis=-1)
            self.truth = stored["label"]
            self._probabilities = np.moveaxis(stored["prob"], -1, 0)

    @cached_property
    def logits(self) -> np.ndarray:
        """Logits [L, *S]."""
        return unaries.logits_from_probabilities(self._probabilities, clip=True)


def shipped() -> list[samples.Sample]:
    """Return the samples with true labels."""
    return [one for one in map(samples.load, samples.names()) if one.truth is not None]


# --- scoring -------------------------------------------------------------------------------------


def alone(example: Any) -> np.ndarray:
    """Return the argmax of the network's logits."""
    return example.logits.argmax(0)


def ours(params: CRFParams, iterations: int, compatibility: Any = None) -> Refiner:
    """Return a refiner that uses `refine`."""
    options: dict[str, Any] = {"iterations": iterations, "compatibility": compatibility}
    return lambda e: refine(e.logits, e.image, params, **options).argmax(0)


def theirs(params: CRFParams, iterations: int) -> Refiner:
    """Return a refiner that uses pydensecrf."""

    def labels(example: Any) -> np.ndarray:
        problem = SimpleNamespace(
            logits=example.logits,
            image=np.array(example.image, order="C"),  # pydensecrf needs a writable array
            size=example.image.shape[:-1],
            params=params,
        )
        return peers.forward(iterations)(problem, 1)().argmax(0)

    return labels


def count(examples: Sequence[Any], refiners: Mapping[str, Refiner], labels: int, ignore: int):
    """Return confusion matrices of images and border bands, [images, refiners, 2, L, L]."""
    found = []
    for index in range(len(examples)):
        example = examples[index]
        band = metrics.trimap(example.truth, BAND)
        row = []
        for refiner in refiners.values():
            prediction = refiner(example)
            row.append([
                metrics.confusion_matrix(example.truth, prediction, labels, ignore),
                metrics.confusion_matrix(example.truth[band], prediction[band], labels, ignore),
            ])  # fmt: skip
        found.append(row)
    return np.array(found)


def table(counts: np.ndarray, names: Sequence[str], score: tuning.Score, called: str) -> None:
    """Print a Markdown row per refiner, with gains over the first and bootstrap intervals."""
    print(f"| | {called} | gain | within {BAND} px of a border | gain | accuracy |")
    print("|---|---|---|---|---|---|")
    total = counts.sum(0)  # [refiners, 2, L, L]
    for index, name in enumerate(names):
        cells = [name]
        for part in (0, 1):
            value = score(total[index, part])
            low, high = metrics.bootstrap_interval(counts[:, index, part], score)
            gain = ""
            if index > 0:
                both = counts[:, [0, index], part]
                ends = metrics.bootstrap_interval(both, lambda c: score(c[1]) - score(c[0]))
                gain = f"{100 * (value - score(total[0, part])):+.1f}" + _range(ends, "+")
            cells += [f"{100 * value:.1f}" + _range((low, high)), gain]
        cells.append(f"{100 * metrics.pixel_accuracy(total[index, 0]):.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


def _range(ends: tuple[float, float], sign: str = "") -> str:
    low, high = (f"{100 * end:{sign}.1f}" for end in ends)
    return "" if low == high else f" ({low} to {high})"


def whole_tumour_dice(confusion: np.ndarray) -> float:
    """Return the Dice score of the union of all labels but 0."""
    merged = np.array([[confusion[0, 0], confusion[0, 1:].sum()],
                       [confusion[1:, 0].sum(), confusion[1:, 1:].sum()]])  # fmt: skip
    return float(metrics.class_dice(merged)[1])


# --- the study -----------------------------------------------------------------------------------


def halves(
    title: str,
    seen: Sequence[Any],
    unseen: Sequence[Any],
    task: tuning.Task,
    called: str,
    args: argparse.Namespace,
) -> None:
    """Tune on `seen`, score on `unseen`, and print both."""
    start = time.perf_counter()
    found = tuning.tune(seen, task, trials=args.trials, seed=args.seed, on_trial=_report)
    pruned = sum(t.state.name == "PRUNED" for t in found.study.trials)
    minutes = (time.perf_counter() - start) / 60
    print(
        f"### {title}\n\nTuned on {len(seen)}: `{found.params}`,\n"
        f"the best of {args.trials} settings, {pruned} of them pruned "
        f"({minutes:.0f} min). Scored on {len(unseen)} others:\n"
    )
    refiners = {
        "network alone": alone,
        f"`{tuning.START}`, not tuned": ours(tuning.START, task.iterations),
        "the defaults, `CRFParams()`": ours(CRFParams(), task.iterations),
        "tuned": ours(found.params, task.iterations),
    }
    if args.passes and importlib.util.find_spec("torch") is not None:
        from densecrf_rnn.nn.tuning import learn

        learned = learn(seen, found.params, task, passes=args.passes, seed=args.seed)
        after = ours(learned.params, task.iterations, learned.compatibility)
        refiners["tuned, then learned by gradients"] = after
    labels = len(unseen[0].logits)
    counts = count(unseen, refiners, labels, task.ignore)
    table(counts, list(refiners), task.score, called)
    total = dict(zip(refiners, counts[:, :, 0].sum(0)))
    gain = task.score(total["tuned"]) - task.score(total["network alone"])
    print(
        f"The images tuned on gained {100 * (found.score - found.score_alone):+.1f} points, "
        f"the others {100 * gain:+.1f}.\n",
        flush=True,
    )


def yardstick(
    title: str,
    examples: Sequence[Any],
    params: CRFParams,
    score: tuning.Score,
    called: str,
    ignore: int,
) -> None:
    """Compare pydensecrf and `refine` with the same settings on the same images."""
    if importlib.util.find_spec("pydensecrf") is None:
        print(f"{title}: skipped, as pydensecrf is not installed", file=sys.stderr)
        return
    print(f"### {title}\n\n`{params}`, 10 iterations, {len(examples)} images:\n")
    refiners = {
        "network alone": alone,
        "pydensecrf": theirs(params, 10),
        "ours": ours(params, 10),
        'ours, `spatial="grid"`': ours(replace(params, spatial="grid"), 10),
    }
    counts = count(examples, refiners, len(examples[0].logits), ignore)
    table(counts, list(refiners), score, called)


def _report(outcome: tuning.Outcome) -> None:
    state = f"given up after {outcome.seen}" if outcome.pruned else "scored"
    line = f"setting {outcome.number}: {100 * outcome.score:.2f} {state}, {outcome.params}"
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run each part whose data are present."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--trials", type=int, default=TRIALS, help="(default: %(default)s)")
    parser.add_argument(
        "--images", type=int, default=IMAGES,
        help="maximum number of images to tune on (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--passes", type=int, default=1,
        help="passes of gradient learning over the images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    quiet()
    print(machine(), flush=True)
    if args.data is None:
        pairs = shipped()
        task = tuning.Task(iterations=ITERATIONS)
        halves("The sample images", pairs[0::2], pairs[1::2], task, "mean IU", args)
        return
    miou7 = partial(metrics.mean_iu, over=MIOU7)
    first60, val = voc(args.data, "val_first60.txt"), voc(args.data)
    if first60 is not None:
        yardstick("VOC against pydensecrf", first60, PYDENSECRF, miou7, "mIoU7", 255)
    if val is not None:
        task = tuning.Task(iterations=ITERATIONS, score=miou7)
        seen = val[0::2][: args.images]
        halves("VOC", seen, val[1::2], task, "mIoU7", args)
    frames = camvid(args.data)
    if frames is not None:
        params = replace(PYDENSECRF, theta_alpha=30, w_bilateral=3)
        fifth = frames[::5]
        yardstick("CamVid against pydensecrf", fifth, params, metrics.mean_iu, "mean IU", 11)
        task = tuning.Task(iterations=ITERATIONS, ignore=11)
        middle = len(frames) // 2  # halves of the sequence, as neighbouring frames are nearly equal
        seen, unseen = frames[:middle][: args.images], frames[middle:]
        halves("CamVid", seen, unseen, task, "mean IU", args)
    volumes = sorted((args.data / "brats3d").glob("*.npz"))
    ranges = {**tuning.RANGES, "theta_alpha": (1.0, 60.0), "theta_beta": (2.0, 100.0)}
    for path in volumes if len(volumes) > 1 else []:
        others = [Volume(other) for other in volumes if other != path]
        task = tuning.Task(iterations=ITERATIONS, score=whole_tumour_dice, ranges=ranges)
        halves(f"BRATS, scored on {path.stem}", others, [Volume(path)], task, "Dice", args)


def quiet() -> None:
    """Silence optuna's log, as this script reports each trial itself."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def machine() -> str:
    """Return a line with date, machine and versions."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors ({platform.machine()}), Python "
        f"{platform.python_version()}, optuna {importlib.metadata.version('optuna')}\n"
    )


if __name__ == "__main__":
    main()
