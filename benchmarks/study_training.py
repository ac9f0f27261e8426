"""Measure how to train a head: the order, the rates, the bandwidths and what the head sees.

    python benchmarks/study_training.py --data FOLDER --out study_training.json

prints the tables of docs/training.md: on shapes that it makes, each row trained with three seeds
and scored on held-out images, and on the CamVid frames of FOLDER, which study_refinement.py
describes (absent: that table is left out). A row that is in the file of --out already is not
measured again. One core, about eight minutes.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not occupy processors

import numpy as np  # noqa: E402
import shapes  # noqa: E402
import torch  # noqa: E402
from study_refinement import camvid  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy, interpolate  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, metrics, tuning  # noqa: E402
from densecrf_rnn._atomic import replaced  # noqa: E402
from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD, Segmenter  # noqa: E402

NORMALISATION = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
ITERATIONS, BATCH = 5, 8
ALPHAS, BETAS = (4.0, 8.0, 16.0), (15.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True)
class Sizes:
    """How much is measured: training steps of the network alone and of both, images, seeds."""

    first: int = 300
    second: int = 100
    train: int = 100
    test: int = 60
    frames: int = 20
    steps: int = 40  # on frames
    seeds: int = 3


@dataclass(frozen=True)
class Trial:
    """One row: what is trained in which order, by which loss and optimiser, at which rates.

    order: "first stage" and "alone" (without a head), "test only" (a head that is not trained),
    "network, then head", "network, then both", "one stage".
    loss: "mean", "weighted" or "sum". sees: what is done to the image or the logits on their way.
    """

    name: str
    order: str = "network, then both"
    loss: str = "mean"
    optimiser: str = "Adam"
    rate: float = 1e-4  # of the network, in the second stage
    head_rate: float = 1e-2
    theta: tuple[float, float] | None = None  # None: the best of the search
    learned: bool = False  # whether the bandwidths are
    sees: str = "image"


# --- shapes --------------------------------------------------------------------------------------


def groups(model: Any, trial: Trial) -> list[dict[str, Any]]:
    """Return the optimiser's groups: the network at one rate, the head at another."""
    found = []
    if trial.order != "network, then head":
        rate = 1e-3 if trial.order == "one stage" else trial.rate
        found = [{"params": model.backbone.parameters(), "lr": rate}]
    if trial.order in ("first stage", "alone"):
        return found
    if trial.loss == "sum":
        return found + model.crf.parameter_groups(trial.rate, loss="sum")
    return found + model.crf.parameter_groups(trial.head_rate / 10)


def weights(truth: torch.Tensor) -> torch.Tensor:
    """Return a weight per label, the inverse of its frequency, with a mean of 1 over the pixels."""
    counts = torch.bincount(truth.flatten(), minlength=shapes.LABELS)
    return counts.sum() / (shapes.LABELS * counts.clamp(min=1))


def train(
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    parameters: list[dict[str, Any]],
    data: tuple[torch.Tensor, torch.Tensor],
    steps: int,
    seed: int,
    trial: Trial,
) -> None:
    """Take `steps` steps; `forward` maps augmented and raw images in 0..255 to logits."""
    made = torch.Generator().manual_seed(seed)
    options = {"momentum": 0.9} if trial.optimiser == "SGD" else {}
    optimizer = getattr(torch.optim, trial.optimiser)(parameters, **options)
    images, truths = data
    weight = weights(truths) if trial.loss == "weighted" else None
    reduction = "sum" if trial.loss == "sum" else "mean"
    for _ in range(steps):
        pick = torch.randint(len(images), (BATCH,), generator=made)
        raw = images[pick]
        seen = shapes.erase(raw, made) if trial.sees.startswith("erased") else raw
        loss = cross_entropy(forward(seen, raw), truths[pick], weight, reduction=reduction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Shapes:
    """Trials on shapes; each seed has images of its own, the held-out images are the same."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.held_out = shapes.make(sizes.test, 1)
        self.theta = CRFParams().theta_alpha, CRFParams().theta_beta
        self.first = lru_cache(None)(self._first)

    def data(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the training images of a seed and their labels."""
        return shapes.make(self.sizes.train, 100 + seed)

    def _first(self, seed: int, loss: str, erased: bool) -> dict[str, torch.Tensor]:
        """Return the state of a network that was trained alone."""
        torch.manual_seed(seed)
        network = shapes.network()
        large = [{"params": network.parameters(), "lr": 1e-3}]
        trial = Trial("", loss=loss, sees="erased" if erased else "image")
        train(
            lambda seen, _: enlarged(network(shapes.normalised(seen))), large, self.data(seed),
            self.sizes.first, seed, trial,
        )  # fmt: skip
        return network.state_dict()

    def network(self, seed: int, trial: Trial) -> nn.Module:
        """Return the network with which the second stage of a trial begins."""
        torch.manual_seed(seed)
        network = shapes.network()
        if trial.order != "one stage":
            loss = "weighted" if trial.loss == "weighted" else "mean"
            network.load_state_dict(self.first(seed, loss, trial.sees.startswith("erased")))
        return network

    def search(self) -> dict[str, float]:
        """Return mean IU by theta_alpha and theta_beta, on validation images, untrained head."""
        images, truths = shapes.make(self.sizes.test, 2)
        network = self.network(0, Trial("")).eval()
        found = {}
        with torch.no_grad():
            logits = enlarged(network(shapes.normalised(images)))
            for alpha in ALPHAS:
                for beta in BETAS:
                    crf = CRFRNN(shapes.LABELS, params=params((alpha, beta))).eval()
                    found[f"{alpha:g} / {beta:g}"] = 100 * metrics.mean_iu(
                        confusion(truths, crf(logits, images))
                    )
        return found

    def run(self, trial: Trial, seed: int) -> dict[str, Any]:
        """Train, and return the confusion matrix of the held-out images."""
        sizes, network = self.sizes, self.network(seed, trial)
        normalisation: dict[str, Any] = {"normalised": {}, "scale=1": {**NORMALISATION, "scale": 1}}
        if trial.sees == "softmax":
            network = nn.Sequential(network, nn.Softmax(1))
        crf = CRFRNN(
            shapes.LABELS, params=params(trial.theta or self.theta), iterations=ITERATIONS,
            trainable_bandwidths=trial.learned,
        )  # fmt: skip
        model = Segmenter(network, crf, **normalisation.get(trial.sees, NORMALISATION))
        alone = trial.order in ("first stage", "alone")

        def forward(seen: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
            image = shapes.normalised(seen)
            if alone:
                return enlarged(model.backbone(image))
            return model(image, guide=raw if trial.sees == "erased, guide=raw" else None)

        if trial.order == "network, then head":
            model.backbone.requires_grad_(False)
        steps = {"first stage": 0, "test only": 0, "one stage": sizes.first + sizes.second}
        train(
            forward, groups(model, trial), self.data(seed),
            steps.get(trial.order, sizes.second), 1000 + seed, trial,
        )  # fmt: skip
        model.eval()
        images, truths = self.held_out
        with torch.no_grad():
            if trial.sees.startswith("twice"):  # the size of the image at test
                large = interpolate(images, scale_factor=2.0, mode="bilinear")
                logits = interpolate(network(shapes.normalised(images)), large.shape[2:],
                                     mode="bilinear")  # fmt: skip
                spacing = (0.5, 0.5) if trial.sees == "twice, spacing" else None
                output = crf(logits, large, spacing=spacing)
                truths = truths.repeat_interleave(2, 1).repeat_interleave(2, 2)
            else:
                output = forward(images, images)
        matrix = confusion(truths, output)
        result = {"confusion": matrix.tolist()}
        if trial.learned:
            result["bandwidths"] = crf.bandwidths.detach().flatten().tolist()
        return result


def params(theta: Sequence[float]) -> CRFParams:
    """Return the defaults with theta_alpha and theta_beta."""
    return CRFParams(theta_alpha=theta[0], theta_beta=theta[1])


def enlarged(logits: torch.Tensor) -> torch.Tensor:
    """Return logits at the size of the image."""
    return interpolate(logits, (shapes.SIZE, shapes.SIZE), mode="bilinear")


def confusion(truths: torch.Tensor, logits: torch.Tensor, ignore: int = 255) -> np.ndarray:
    """Return the confusion matrix of the argmax."""
    found = logits.argmax(1).numpy()
    return metrics.confusion_matrix(truths.numpy(), found, logits.shape[1], ignore)


SECTIONS: dict[str, list[Trial]] = {
    "The order": [
        Trial("network alone, 300 steps", "first stage"),
        Trial("network alone, 400 steps", "alone", rate=1e-3),
        Trial("network alone, 400 steps, the last 100 at 1e-4", "alone"),
        Trial("network, head at test only, as it is built", "test only"),
        Trial("network, then the head", "network, then head"),
        Trial("network, then both"),
        Trial("both at once, head at 1e-2", "one stage"),
        Trial("both at once, head at 1e-3", "one stage", head_rate=1e-3),
    ],
    "Rates": [
        *(Trial(f"mean, Adam, network 1e-4, head {r:g}", head_rate=r)
          for r in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        *(Trial(f"mean, Adam, network {r:g}, head 0.01", rate=r) for r in (1e-5, 1e-3)),
        *(Trial(f"mean, SGD, network 0.001, head {r:g}", optimiser="SGD", rate=1e-3, head_rate=r)
          for r in (1e-2, 1e-1, 1.0)),
        Trial("mean, SGD, network 1e-13, head 1e-12", optimiser="SGD", rate=1e-13,
              head_rate=1e-12),
        *(Trial(f'sum, SGD, network {r:g}, `loss="sum"`', optimiser="SGD", loss="sum", rate=r)
          for r in (1e-13, 1e-10, 1e-9)),
    ],
    "Bandwidths": [
        Trial("160 / 3, not trained", "test only", theta=(160, 3)),
        *(Trial(f"160 / 3, head at {r:g}", theta=(160, 3), head_rate=r)
          for r in (1e-3, 1e-2, 1e-1, 1.0)),
        *(Trial(f"160 / 3, learned at {r:g}", theta=(160, 3), head_rate=r, learned=True)
          for r in (1e-2, 1e-1)),
        Trial("found by the search, head at 0.01"),
        Trial("found by the search, then learned at 0.01", learned=True),
    ],
    "What the head sees": [
        Trial("the image in 0..255"),
        Trial("the normalised image: mean and std forgotten", sees="normalised"),
        Trial("the image in 0..1: scale=1", sees="scale=1"),
        Trial("a softmax in place of logits", sees="softmax"),
        Trial("the same, head at test only", "test only", sees="softmax"),
        Trial("erased rectangles in training", sees="erased"),
        Trial("the same with guide=raw", sees="erased, guide=raw"),
        Trial("at test an image of twice the size", sees="twice"),
        Trial("the same with spacing=(0.5, 0.5)", sees="twice, spacing"),
    ],
    "Rare labels": [
        Trial("network alone, 300 steps", "first stage"),
        Trial("network, head at test only, as it is built", "test only"),
        Trial("network alone, 400 steps", "alone", rate=1e-3),
        Trial("network, then both"),
        Trial("network alone, 400 steps, weighted loss", "alone", loss="weighted", rate=1e-3),
        Trial("network, then both, weighted loss", loss="weighted"),
    ],
}  # fmt: skip


# --- CamVid --------------------------------------------------------------------------------------

FRAMES: dict[str, tuple[CRFParams, float, bool] | None] = {
    "network alone": None,
    "30 / 5, not trained": (tuning.START, 0.0, False),
    **{f"30 / 5, head at {r:g}": (tuning.START, r, False) for r in (1e-3, 1e-2, 1e-1)},
    "30 / 5, bandwidths learned too, at 0.01": (tuning.START, 1e-2, True),
    "160 / 3, not trained": (CRFParams(), 0.0, False),
    "160 / 3, head at 0.01": (CRFParams(), 1e-2, False),
}
FRAME_IGNORE = 11


class Frames:
    """Heads trained on stored logits of one half of CamVid's validation frames, half resolution."""

    def __init__(self, stored: Any, sizes: Sizes) -> None:
        middle, self.sizes = len(stored) // 2, sizes
        chosen = np.linspace(0, middle - 1, min(sizes.frames, middle)).round().astype(int)
        self.seen = [self._read(stored[int(i)]) for i in chosen]
        self.unseen = [self._read(stored[middle + int(i)]) for i in chosen]

    @staticmethod
    def _read(one: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        half = (slice(None), slice(None, None, 2), slice(None, None, 2))
        image = np.moveaxis(one.image, -1, 0)[half]
        arrays = one.logits[half], image.astype(np.float32), one.truth[None][half].astype(np.int64)
        logits, image, truth = (torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
        return logits[None], image[None], truth

    def run(self, row: tuple[CRFParams, float, bool] | None, seed: int) -> dict[str, Any]:
        """Train on frames in an order that the seed draws, and score the others."""
        labels = self.seen[0][0].shape[1]
        refined: Callable[..., torch.Tensor] = lambda logits, image: logits  # noqa: E731
        if row is not None:
            start, rate, learned = row
            crf = refined = CRFRNN(
                labels, params=start, iterations=ITERATIONS, eval_iterations=ITERATIONS,
                trainable_bandwidths=learned,
            )  # fmt: skip
            made = torch.Generator().manual_seed(seed)
            optimizer = torch.optim.Adam(crf.parameter_groups(rate / 10))
            for _ in range(self.sizes.steps if rate else 0):
                pick = int(torch.randint(len(self.seen), (1,), generator=made))
                logits, image, truth = self.seen[pick]
                optimizer.zero_grad()
                cross_entropy(crf(logits, image), truth, ignore_index=FRAME_IGNORE).backward()
                optimizer.step()
            crf.eval()
        with torch.no_grad():
            found = [
                confusion(truth, refined(logits, image), FRAME_IGNORE)
                for logits, image, truth in self.unseen
            ]
        return {"confusion": np.sum(found, 0).tolist()}


# --- tables --------------------------------------------------------------------------------------


PER_LABEL = "background", "discs", "squares", "small discs", "their recall", "their precision"


def scores(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the cells of a row: mean IU by seed, their mean, and pixel accuracy."""
    found = [100 * metrics.mean_iu(np.array(one["confusion"])) for one in results]
    exact = [100 * metrics.pixel_accuracy(np.array(one["confusion"])) for one in results]
    return [f"{np.mean(found):.1f}", ", ".join(f"{x:.1f}" for x in found), f"{np.mean(exact):.1f}"]


def tables(done: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables of what was measured."""
    head = "| mean IU | by seed | accuracy |"
    if search := done.get("search"):
        yield f"\n### Search\n\n| theta_alpha | {' | '.join(f'{b:g}' for b in BETAS)} |"
        yield "|---" * (1 + len(BETAS)) + "|"
        for alpha in ALPHAS:
            cells = [f"{search[f'{alpha:g} / {beta:g}']:.1f}" for beta in BETAS]
            yield f"| {alpha:g} | {' | '.join(cells)} |"
    for title, trials in SECTIONS.items():
        per_label = title == "Rare labels"
        columns = PER_LABEL if per_label else ()
        heads = head + "".join(f" {column} |" for column in columns)
        yield f"\n### {title}\n\n| {heads}\n|{'---|' * (4 + len(columns))}"
        for trial in trials:
            if results := done.get(key(trial)):
                cells = [trial.name, *scores(results)]
                if per_label:
                    counts = [np.array(one["confusion"]) for one in results]
                    found = [
                        *np.mean([metrics.class_iu(c) for c in counts], 0),
                        np.mean([metrics.class_accuracy(c)[-1] for c in counts]),
                        np.mean([metrics.class_accuracy(c.T)[-1] for c in counts]),
                    ]
                    cells += [f"{100 * value:.1f}" for value in found]
                if trial.learned:
                    ends = np.mean([r["bandwidths"][:3] for r in results], 0)
                    shown = (np.format_float_positional(b, 3, fractional=False, trim="-")
                             for b in ends)  # fmt: skip
                    cells[0] += f" (end at {', '.join(shown)})"
                yield f"| {' | '.join(cells)} |"
    yield f"\n### CamVid\n\n| {head}\n|{'---|' * 4}"
    for name in FRAMES:
        if results := done.get(f"CamVid: {name}"):
            yield f"| {' | '.join([name, *scores(results)])} |"


def key(trial: Trial) -> str:
    """Return the name of a trial in the file: all that its result depends on."""
    return repr(replace(trial, name=""))


def measure(
    sizes: Sizes, data: Path | None, done: dict[str, Any], save: Callable[[], None]
) -> None:
    """Add the results of rows that `done` lacks, and save after each row."""
    if done.setdefault("sizes", repr(sizes)) != repr(sizes):
        raise SystemExit(f"the file holds rows of {done['sizes']}, not of {sizes}: take another")
    study, started = Shapes(sizes), time.perf_counter()

    def add(name: str, result: Callable[[], Any]) -> None:
        if name not in done:
            begun = time.process_time()
            done[name] = result()
            done["seconds"] = done.get("seconds", 0.0) + time.process_time() - begun
            save()
            print(f"{time.perf_counter() - started:6.1f} s  {name}", flush=True)

    add("search", study.search)
    best = max(done["search"], key=done["search"].get)
    study.theta = tuple(float(x) for x in best.split(" / "))
    for trial in (trial for trials in SECTIONS.values() for trial in trials):
        add(key(trial), lambda: [study.run(trial, seed) for seed in range(sizes.seeds)])
    stored = None if data is None else camvid(data)
    if stored is not None:
        frames = Frames(stored, sizes)
        for name, row in FRAMES.items():
            add(f"CamVid: {name}", lambda: [frames.run(row, s) for s in range(sizes.seeds)])


def main(argv: Sequence[str] | None = None, sizes: Sizes = Sizes()) -> None:
    """Measure what is missing in the file, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("study_training.json"), metavar="FILE")
    parser.add_argument("--tables", action="store_true", help="only print the tables of FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    done = json.loads(args.out.read_text()) if args.out.is_file() else {}

    def save() -> None:
        with replaced(args.out) as partial:
            rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in done.items())
            partial.write_text("{\n" + ",\n".join(rows) + "\n}\n")

    if not args.tables:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some rows are wrong on purpose
            done.setdefault("machine", f"{time.strftime('%Y-%m-%d')}, {platform.machine()}")
            measure(sizes, args.data, done, save)
    print("\n".join([done.get("machine", ""), done.get("sizes", ""), *tables(done)]))
    print(f"\n{done.get('seconds', 0) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
