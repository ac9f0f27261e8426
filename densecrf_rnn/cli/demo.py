"""`densecrf-rnn demo`: show the effect of the CRF on the photographs that the package contains.

Refines saved logits, scores and draws the result, then trains a CRF-RNN head for some seconds; or
refines photographs of the user's own. `_photos` reads those, `_panels` draws, `nn.tuning` trains.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import engines, metrics, samples
from ..kernels import leading
from ..params import CRFParams
from ..inference.refine import refine
from ..tuning import Task
from . import _types, make_folder, progress, require


# Among the best settings of a search over bandwidths, weights and normalisations. The search used
# the seven photographs with ground truth that the demo scores, so the gain shown is optimistic.
# The defaults of CRFParams are meant for training with the network and score lower on them.
PARAMS = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)
ITERATIONS = 5
STEPS = 105  # fifteen passes: about 10 s on two cores; the loss hardly falls after that
_STRIDE = 3  # training uses every third pixel of every third row
_LABELS = len(samples.CLASS_NAMES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add = parser.add_argument
    add("photos", nargs="*", type=_types.path, metavar="PHOTO",
        help="refine your own photographs, scored by the sample network (21 Pascal VOC classes, "
        "such as person, cat or car; needs torch), in place of those of the package")
    add("--out", **_types.FOLDER, default=Path("densecrf-demo"),
        help="output folder for the images (default: %(default)s)")
    add("--no-train", action="store_true", help="do not train a CRF-RNN head")
    add("--steps", **_types.COUNT, default=STEPS,
        help="training steps, one photograph each (default: %(default)s)")
    add("--threads", **_types.COUNT, help="maximum number of threads (default: one per processor)")


def run(args: argparse.Namespace) -> int:
    """Refine, draw and train; print the scores."""
    require("demo", "skimage", "matplotlib", "tqdm")
    if args.photos:
        require("demo of your own photographs", "torch", extra="torch")
    # By default, torch's idle OpenMP threads spin and compete with those of the native engine:
    # training takes three times as long on two cores. OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    backend = engines.resolve("auto")
    make_folder(args.out, "--out")
    threads = args.threads or engines.default_threads()
    if args.photos:
        from . import _photos

        photos = _photos.read_photos(args.photos)
        _photos.check_out(photos, args.photos, args.out)
    print(
        f"Refining class scores of DeepLabv3-MobileNetV2: {ITERATIONS} mean-field iterations,\n"
        f"backend {backend}, {threads} thread{'s' if threads > 1 else ''}, {PARAMS}\n"
    )
    if args.photos:
        _photos.refine_photos(photos, args.out, PARAMS, ITERATIONS, args.threads)
    else:
        pairs = _refine_all(args.out, args.threads)
        if not args.no_train:
            _train(pairs, args.steps, args.threads)
    print(
        f"Images: {args.out}{'/' if args.out.name else ''}*.png. "
        "For the logits of your own network: densecrf-rnn refine --help.\nTo train the CRF as its "
        "last layer: help(densecrf_rnn.CRFRNN) in Python. The guide is docs/usage.md."
    )
    return 0


def _refine_all(out: Path, threads: int | None) -> list[samples.Sample]:
    """Refine, score and draw every sample; return those with ground truth."""
    from . import _panels
    from ._charts import save

    pairs = []
    total = np.zeros((2, _LABELS, _LABELS), np.int64)  # before, after
    print(f"{'photograph':<12} {'size':>9} {'time':>8}   {'mean IU, %':<14}  accuracy, %")
    names = samples.names()
    with progress(total=len(names), desc="refining", unit="photo", delay=2) as bar:
        for name in names:
            sample = samples.load(name)
            start = time.perf_counter()
            q = refine(sample.logits, sample.image, PARAMS, iterations=ITERATIONS, threads=threads)
            milliseconds = 1000 * (time.perf_counter() - start)
            before, after = sample.logits.argmax(0), q.argmax(0)
            figure = _panels.draw(sample, before, after)
            save(figure, out / f"{name}.png")
            height, width = before.shape
            line = f"{name:<12} {f'{width}x{height}':>9} {milliseconds:>5.0f} ms   "
            if sample.truth is None:
                line += f"no ground truth; {100 * (before != after).mean():.1f} % of pixels changed"
            else:
                pairs.append(sample)
                scores = [
                    metrics.confusion_matrix(sample.truth, labels, _LABELS, samples.IGNORE)
                    for labels in (before, after)
                ]
                total += scores
                line += _row(scores)
            bar.write(line)
            sys.stdout.flush()  # a pipe would buffer the lines until the end
            bar.update()
    print(f"{f'all {len(pairs)} pairs':<34}{_row(total)}")
    gain = 100 * (metrics.mean_iu(total[1]) - metrics.mean_iu(total[0]))
    print(
        f"\nMean IU {gain:+.1f} points, with parameters chosen on these photographs. The ground\n"
        "truth stores void borders as background, which lowers both columns.\n"
    )
    return pairs


def _row(confusions: Sequence[Array] | Array) -> str:
    """Return mean IU and accuracy, before -> after, in percent."""
    before, after = confusions
    return "   ".join(
        f"{100 * score(before):4.1f} -> {100 * score(after):4.1f}"
        for score in (metrics.mean_iu, metrics.pixel_accuracy)
    )


def _train(pairs: Sequence[samples.Sample], steps: int, threads: int | None) -> None:
    if importlib.util.find_spec("torch") is None:
        print("Training is skipped: it needs torch; pip install 'densecrf-rnn[torch]'.\n")
        return
    from ..nn import tuning

    # Every _STRIDE-th pixel is kept, so bandwidths in pixels become _STRIDE times smaller.
    alpha, gamma = (leading(theta) / _STRIDE for theta in (PARAMS.theta_alpha, PARAMS.theta_gamma))
    params = replace(PARAMS, theta_alpha=alpha, theta_gamma=gamma)
    task = Task(params, iterations=ITERATIONS, ignore=samples.IGNORE, threads=threads)
    reduced = [_reduced(sample) for sample in pairs]
    print(
        f"Training a CRF-RNN head on the {len(pairs)} pairs, one pixel in {_STRIDE**2}, "
        f"from these parameters: {steps} steps",
        flush=True,
    )
    with (
        tuning.torch_threads(threads),
        progress(total=steps, desc="training", unit="step") as bar,
    ):
        start = time.perf_counter()
        head = tuning.make_head(reduced, params, task, trainable_bandwidths=False)
        fits = [tuning.evaluate(refiner, reduced, task) for refiner in (None, head)]
        recent: deque[float] = deque(maxlen=len(reduced))  # losses of the last pass
        for loss, _ in islice(tuning.train(head, reduced, task), steps):
            recent.append(loss)
            bar.set_postfix_str(f"loss {statistics.fmean(recent):.3f}", refresh=False)
            bar.update()
        fits.append(tuning.evaluate(head, reduced, task))
        seconds = time.perf_counter() - start
    print(f"\n{'':<22}{'loss':>6} {'mean IU, %':>12}")
    names = ("network alone", "head before training", "head after training")
    for name, (loss, mean_iu) in zip(names, fits, strict=True):
        print(f"{name:<22}{loss:6.3f} {100 * mean_iu:12.1f}")
    print(
        f"\nTraining took {seconds:.0f} s. The loss is the cross-entropy over all pairs. Before "
        "training, the head is\nright more often than the network, but overconfident where it is "
        "wrong. The scores are those of\nthe training images; expect lower ones on others.\n"
    )


def _reduced(sample: samples.Sample) -> samples.Sample:
    """Keep every third pixel of every third row, which cuts the cost of training to a ninth."""
    assert sample.truth is not None
    rows = slice(None, None, _STRIDE)
    return replace(
        sample, image=sample.image[rows, rows], logits=sample.logits[:, rows, rows],
        truth=sample.truth[rows, rows],
    )  # fmt: skip
