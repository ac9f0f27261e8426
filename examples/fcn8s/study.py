"""The runs behind the tables: who starts from whom, what is already done, and how long the rest is.

One folder holds a study: a run in each of its folders, which all tables share. Whatever is done is
taken from there, so a command that was stopped goes on where it stood when it is given again.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from densecrf_rnn.files import replaced
from densecrf_rnn.metrics import bootstrap_interval, mean_iu

from . import datasets, digests, evaluation
from .config import Config, Recipe
from .pictures import Pictures, check_masks
from .stream import Stream, collate, lower_features, to_tensor
from .training import (
    ABOUT, LAST, build, is_first, load_trained, make_optimizer, read_curve, start_processes,
    step_loss, train,
)

# What the rows of all tables train, in addition to the recipe. All start from the same network,
# with the same settings of the CRF, and train for the same number of steps.
ROWS = {
    "plain": {"crf": False},
    "end-to-end": {"crf": True},
    "frozen": {"crf": True, "freeze_fcn": True},
    "potts-one-weight": {"crf": True, "kernel_weights": "scalar", "compatibility": "potts"},
    "potts": {"crf": True, "compatibility": "potts"},
    "ten-iterations": {"crf": True, "iterations": 10},
    "untied": {"crf": True, "tied": False},
    "relu": {"crf": True, "update": "relu"},
    "robust": {"crf": True, "loss": "robust"},
    # Untied copies start equal and part only if the head learns fast.
    "fast-head": {"crf": True, "lr_head": 10.0},
    "untied-fast": {"crf": True, "tied": False, "lr_head": 10.0},
    "zero-compatibility": {"crf": True, "initial_compatibility": "zero"},
    "random-compatibility": {"crf": True, "initial_compatibility": "random"},
}
# Of a study, and not for --set: its seeds, and the rows that have a head.
OWN = ("seed", "crf", "freeze_fcn")
# Settings of the head before it learns, that a search does not choose.
HEAD = ("iterations", "eval_iterations", "theta_gamma", "update", "tied", "spatial",
        "initial_compatibility")


def check_classes(classes: Sequence[int], pictures: Pictures) -> None:
    """Raise ValueError for classes to score that are none of the pictures'."""
    count = len(pictures.classes)
    if not classes or not all(0 <= c < count for c in classes):
        raise ValueError(
            f"the classes to score are {tuple(classes)}; {pictures.name} has 0 to {count - 1}"
        )


@dataclass
class Study:
    """A recipe on some data, for some seeds.

    Parameters
    ----------
    recipe : Recipe
    data : str or Path
        Where the datasets are.
    out : str or Path
        Where everything is written.
    seeds : sequence of int
    settings, base_settings, row_settings : dict
        In place of the recipe's: in all runs, in the stages alone, in the rows alone.
    init : str or Path, optional
        Weights for the first stage.
    score_classes : sequence of int, optional
        Classes whose mean IU is reported; default all.
    search : bool
        Search for the settings of the CRF that rows start with; else they are the recipe's.
    limit : int, optional
        Score so many pictures alone, for trials.
    command : str
        What was given, to be written beside the numbers.

    Raises
    ------
    ValueError
        A seed twice, a setting that is the study's own, a class that is not there.
    """

    recipe: Recipe
    data: str | Path
    out: str | Path
    seeds: tuple[int, ...] = (0,)
    settings: dict = field(default_factory=dict)
    base_settings: dict = field(default_factory=dict)
    row_settings: dict = field(default_factory=dict)
    init: str | Path | None = None
    score_classes: tuple[int, ...] | None = None
    search: bool = True
    limit: int | None = None
    device: str = "cpu"
    workers: int = 0
    tensorboard: bool = False
    command: str = ""

    def __post_init__(self):
        self._parts = {}
        self._check()
        self.out = Path(self.out)
        self.out.mkdir(parents=True, exist_ok=True)
        start_processes(self.device)

    def _check(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"the seeds are {self.seeds}; give each once")
        for name in (*self.settings, *self.base_settings, *self.row_settings):
            if name in OWN:
                raise ValueError(
                    f"{name} is not to be set for a table, whose rows differ in it; "
                    + ("give --seeds" if name == "seed" else "`train` makes a run of any settings")
                )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"the limit is {self.limit}; score at least one picture")
        if self.score_classes is not None:  # else no dataset is loaded yet
            check_classes(self.score_classes, self.report)

    # --- settings ---

    def stages(self, seed: int) -> list[Config]:
        """Return the configurations of the stages without the CRF, in order."""
        common = {**self.recipe.common, "seed": seed, "crf": False}
        return [Config().with_(**{**common, **stage, **self.settings, **self.base_settings})
                for stage in self.recipe.stages]

    def row_config(self, name: str, seed: int) -> Config:
        """Return the settings of a row, without those that a search finds."""
        common = {**self.recipe.common, "seed": seed}
        return Config().with_(**{**common, **self.recipe.rows, **self.settings,
                                 **self.row_settings, **ROWS[name]})

    def head(self) -> dict:
        """Return the initial settings of the CRF, without those that a search finds."""
        config = self.row_config("end-to-end", 0)
        return {name: getattr(config, name) for name in HEAD}

    def parts(self, dataset: str) -> dict:
        """Return the parts of a dataset, loaded once."""
        if dataset not in self._parts:
            self._parts[dataset] = datasets.load(dataset, self.data)
        return self._parts[dataset]

    @cached_property
    def dataset(self) -> str:
        """Name of the dataset that rows are trained and scored on."""
        return self.row_config("plain", 0).dataset

    @property
    def report(self) -> Pictures:
        """The pictures that the tables are about."""
        pictures = self.parts(self.dataset)["report"]
        return pictures.part(pictures.items[: self.limit], "the first") if self.limit else pictures

    @property
    def labels(self) -> int:
        return len(self.report.classes)

    # --- runs ---

    def train(self, config: Config, folder: Path, init, stop_at: int | None = None) -> Path:
        """Train one run of this study and return its checkpoint; see `training.train`."""
        return train(
            config, self.parts(config.dataset)["train"], folder, init=init, device=self.device,
            workers=self.workers, cache_folder=self.out, tensorboard=self.tensorboard,
            stop_at=stop_at,
        )

    def base(self, seed: int, stages: int | None = None) -> Path | None:
        """Return the checkpoint of the network without a CRF, from which all rows start.

        `stages` ends earlier, after so many; after none it is the file of initial weights, if any.
        """
        checkpoint = self.init
        for number, config in enumerate(self.stages(seed)[:stages], 1):
            folder = self.out / f"base-{number}-seed{seed}"
            checkpoint = self.train(config, folder, checkpoint)
        return None if checkpoint is None else Path(checkpoint)

    def crf_settings(self, checkpoint: Path) -> dict:
        """Those with which an untrained CRF serves a trained network best, or the recipe's.

        What a search found is stored beside the checkpoint.
        """
        config = self.row_config("end-to-end", 0)
        if not self.search:
            return {name: getattr(config, name) for name in evaluation.START}
        path = checkpoint.parent / "crf.json"
        select = self.parts(self.dataset)["select"]
        made_of = self.made_of(
            checkpoint, select, [self.head(), self.score_classes, evaluation.SEARCH])
        if digests.known(path).get("made_of") != made_of and is_first():
            fcn = load_trained(checkpoint, self.labels)[0].fcn
            chosen, tried = evaluation.choose_crf(
                fcn, config, select, self.device, self.score_classes)
            with replaced(path) as part:
                part.write_text(json.dumps(
                    {"chosen": chosen, "tried": tried, "made_of": made_of}, indent=1))
        wait()
        return json.loads(path.read_text())["chosen"]

    def made_of(self, checkpoint: Path | None, pictures: Pictures, settings) -> str:
        """Return a text that names everything a result depends on."""
        weights = None if checkpoint is None else digests.of_file(checkpoint)
        return json.dumps([weights, digests.of_pictures(pictures), settings])

    def row(self, name: str, seed: int) -> Path:
        """Train a row unless that is done, and return its checkpoint."""
        base = self.base(seed)
        config = self.row_config(name, seed)
        if config.crf:
            config = config.with_(**self.crf_settings(base))
        return self.train(config, self.out / f"{name}-seed{seed}", base)

    def untrained(self, checkpoint: Path) -> dict:
        """Return the settings that add an untrained CRF to a checkpoint."""
        return {**self.head(), **self.crf_settings(checkpoint), "crf": True}

    def confusions(self, checkpoint: Path, name: str, iterations=(None,), widths=(), changes=None):
        """Return `evaluation.confusions` of a checkpoint, stored next to it.

        `changes` override the settings of the checkpoint, see `untrained`.
        """
        changes = changes or {}
        part = f"-first-{self.limit}" if self.limit else ""
        path = checkpoint.parent / f"confusions-{name}{part}.npz"
        made_of = self.made_of(checkpoint, self.report, [iterations, widths, changes])

        def make():
            model, _ = load_trained(checkpoint, self.labels, **changes)
            return evaluation.confusions(model, self.report, iterations, self.device, widths)

        if is_first():
            evaluation.stored_confusions(path, made_of, make)
        wait()
        return evaluation.stored_confusions(path, made_of, make)

    def after(self, name: str, seed: int, iterations: int | None) -> np.ndarray:
        """Return a row's confusion matrices [images, L, L] after some iterations, or its own."""
        stored = "own" if iterations is None else f"T{iterations}"
        return self.confusions(self.row(name, seed), stored, iterations=(iterations,))[:, 0, 0]

    def score(self, confusion) -> float:
        """Return the mean IU of a confusion matrix in percent."""
        return 100 * mean_iu(confusion.astype(np.int64), self.score_classes)

    # --- how long ---

    def announce(self, names) -> None:
        """Print what is left to do and how long it takes, from a few steps of each kind of run.

        Raises
        ------
        ValueError
            With these settings two rows of a table are the same.
        """
        same = {}
        for name in names:
            other = same.setdefault(self.row_config(name, 0), name)
            if other != name:
                theirs = {*ROWS[name], *ROWS[other]}
                given = [s for s in (*self.settings, *self.row_settings) if s in theirs]
                raise ValueError(
                    f"the rows {other!r} and {name!r} of this table are the same with "
                    f"{', '.join(given)} as given; leave that away"
                )
        if is_first():
            self.check_masks()
        wait()
        if not is_first():
            return
        todo = []
        for seed in self.seeds:
            runs = [(self.out / f"base-{n}-seed{seed}", c)
                    for n, c in enumerate(self.stages(seed), 1)]
            runs += [(self.out / f"{name}-seed{seed}", self.row_config(name, seed))
                     for name in names]
            for folder, config in runs:
                done = len(read_curve(folder)) if (folder / LAST).exists() else 0
                if config.steps > done:
                    todo.append((config, config.steps - done))
        seconds, known = 0.0, {}
        for config, steps in todo:
            kind = (config.dataset, config.stride, config.crf, config.iterations, config.update,
                    config.freeze_fcn, config.loss)
            if kind not in known:
                known[kind] = self.seconds_per_step(config)
            seconds += steps * known[kind]
        print(f"{len(todo)} runs left, {sum(n for _, n in todo)} steps: about "
              f"{seconds / 3600:.1f} hours, and the scoring", flush=True)
        stored = next((config for config, _ in todo if config.cache), None)
        if stored and not list(self.out.glob("features-*")):
            print(self.feature_cost(stored), flush=True)

    def feature_cost(self, config: Config) -> str:
        """Describe time and disk that storing the frozen layers' features takes."""
        pictures = self.parts(config.dataset)["train"]
        fcn = build(config, len(pictures.classes)).fcn.to(self.device).eval()
        image = to_tensor(pictures.image(0))[None].to(self.device)
        for _ in range(2):
            start = time.perf_counter()
            found = lower_features(fcn, image)
            seconds = time.perf_counter() - start
        views = len(pictures) * (1 + config.flip)
        size = sum(x.numel() * x.element_size() for x in found) * views
        return (f"features of the frozen layers are stored first, of {len(pictures)} images: about "
                f"{seconds * views / 3600:.1f} hours and {size / 1e9:.1f} GB")

    def check_masks(self) -> None:
        """Check the masks of all images that the study uses, unless an earlier call has."""
        path = self.out / "masks.json"
        known = digests.known(path).get("checked", [])
        used = [self.parts(config.dataset)["train"] for config in self.stages(0) if config.steps]
        for pictures in (*used, *self.parts(self.dataset).values()):
            digest = digests.of_pictures(pictures)
            if digest not in known:
                check_masks(pictures)
                known.append(digest)
        with replaced(path) as part:
            part.write_text(json.dumps({"checked": known}) + "\n")

    def seconds_per_step(self, config: Config) -> float:
        """Of a training step, measured on two."""
        pictures = self.parts(config.dataset)["train"]
        model = build(config, len(pictures.classes)).to(self.device)
        if config.freeze_fcn:
            model.fcn.requires_grad_(False)
        stream = Stream(pictures, config)
        batch = collate([stream[i] for i in range(config.batch)])
        if config.cache:
            batch["lower"] = model.fcn.lower(batch["image"].to(self.device))
        optimizer = make_optimizer(model, config)
        for _ in range(2):
            start = time.perf_counter()
            step_loss(model, batch, config, self.device).backward()
            optimizer.zero_grad()
            if self.device != "cpu":
                torch.cuda.synchronize()
        return time.perf_counter() - start

    def folders(self, names) -> list[Path]:
        """Of some rows and of what they start from."""
        stages = [f"base-{n}" for n in range(1, len(self.recipe.stages) + 1)]
        return [self.out / f"{name}-seed{seed}" for name in (*names, *stages)
                for seed in self.seeds]

    def hours(self, names) -> float:
        """That the training of some rows took, and of what they start from.

        At the median pace of each run: a machine that slept, or a run that was stopped for a while,
        would count else.
        """
        total = 0.0
        for folder in self.folders(names):
            seconds = [float(row["seconds"]) for row in read_curve(folder)]
            if seconds:
                total += len(seconds) * float(np.median(np.diff(seconds, prepend=0.0)))
        return total / 3600

    def machines(self, names) -> list[str]:
        """On what some rows, and what they start from, were trained."""
        return sorted({json.loads((folder / ABOUT).read_text())["machine"]
                       for folder in self.folders(names)})


def wait() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def summary(per_seed, score) -> tuple[float, float]:
    """Return the mean of a score over seeds and half the width of its 95 % interval.

    Parameters
    ----------
    per_seed : list of ndarray [images, ...]
        What to score, of each seed.
    score : function
        From the sum over images to a number.

    Notes
    -----
    With several seeds the interval is Student's, over seeds; with one it is the bootstrap's, over
    pictures, the wider of its sides, and NaN if there is one picture.
    """
    values = [score(array.sum(0, dtype=np.int64)) for array in per_seed]
    if len(values) > 1:
        return student(values)
    value = float(values[0])
    if len(per_seed[0]) == 1:
        return value, float("nan")
    low, high = bootstrap_interval(per_seed[0], score, resamples=500)
    return value, float(max(high - value, value - low))


def student(values) -> tuple[float, float]:
    """Return the mean of some numbers and half the width of Student's 95 % interval.

    The interval of a single number is NaN.
    """
    from scipy.stats import t

    values = np.asarray(values, float)
    if len(values) == 1:
        return float(values[0]), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(error * t.ppf(0.975, len(values) - 1))


def provenance(study: Study, names, alone="95 %, bootstrap, over pictures alone, not over seeds"):
    """Describe how the numbers of a table were obtained; `alone`: the intervals of one seed."""
    count = len(study.seeds)
    interval = f"95 %, Student's, over {count} seeds" if count > 1 else alone
    classes = ""
    if study.score_classes is not None:
        names_of = ", ".join(study.report.classes[i] for i in study.score_classes)
        classes = f" Mean IU is that of {names_of}."
    return (
        f"`{study.command}`\n\n"
        f"{study.report.name}, {len(study.report)} pictures; seeds "
        f"{', '.join(map(str, study.seeds))}; intervals: {interval}.{classes} "
        f"{study.hours(names):.1f} hours of training on {'; '.join(study.machines(names))}."
    )
