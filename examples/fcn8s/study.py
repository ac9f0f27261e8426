"""The runs behind the tables: who starts from whom, what is already done, and how long the rest is.

One folder holds a study: a run in each of its folders, which all tables share. Whatever is done is
taken from there, so a command that was stopped goes on where it stood when it is given again.
"""

import shlex
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from densecrf_rnn.metrics import bootstrap_interval, mean_iu

from . import datasets, evaluation
from .config import Config, Recipe
from .stream import Stream, collate
from .training import (
    LAST, build, is_first, load_trained, make_optimizer, read_curve, start_processes, step_loss,
    train,
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
}


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

    def __post_init__(self):
        self.out = Path(self.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self._parts = {}
        start_processes(self.device)

    # --- settings ---

    def stages(self, seed: int) -> list[Config]:
        """Of the network alone, in order."""
        common = {**self.recipe.common, "seed": seed, "crf": False}
        return [Config().with_(**{**common, **stage, **self.settings, **self.base_settings})
                for stage in self.recipe.stages]

    def row_config(self, name: str, seed: int) -> Config:
        """Of a row, but for what the search for the CRF's settings finds."""
        common = {**self.recipe.common, "seed": seed}
        return Config().with_(**{**common, **self.recipe.rows, **self.settings,
                                 **self.row_settings, **ROWS[name]})

    def parts(self, dataset: str) -> dict:
        """The pictures of a dataset."""
        if dataset not in self._parts:
            self._parts[dataset] = datasets.load(dataset, self.data)
        return self._parts[dataset]

    @cached_property
    def dataset(self) -> str:
        """What the rows train on and are scored on."""
        return self.row_config("plain", 0).dataset

    @property
    def report(self) -> datasets.Pictures:
        """The pictures that the tables are about."""
        pictures = self.parts(self.dataset)["report"]
        return pictures.part(pictures.items[: self.limit], "the first") if self.limit else pictures

    @property
    def labels(self) -> int:
        return len(self.report.classes)

    # --- runs ---

    def _train(self, config: Config, folder: Path, init) -> Path:
        return train(
            config, self.parts(config.dataset)["train"], folder, init=init, device=self.device,
            workers=self.workers, cache_folder=self.out, tensorboard=self.tensorboard,
        )

    def base(self, seed: int) -> Path:
        """The checkpoint of the network alone, that all rows start from."""
        checkpoint = self.init
        for number, config in enumerate(self.stages(seed), 1):
            folder = self.out / f"base-{number}-seed{seed}"
            checkpoint = self._train(config, folder, checkpoint)
        return Path(checkpoint)

    def crf_settings(self, checkpoint: Path) -> dict:
        """Those with which an untrained CRF serves a trained network best, or the recipe's."""
        if not self.search:
            config = self.row_config("end-to-end", 0)
            return {name: getattr(config, name) for name in evaluation.START}
        path = checkpoint.parent / "crf.json"
        if is_first() and not path.exists():
            model, config = load_trained(checkpoint, self.labels)
            config = config.with_(eval_iterations=self.row_config("plain", 0).eval_iterations)
            select = self.parts(self.dataset)["select"]
            evaluation.choose_crf(model.fcn, config, select, path, self.device)
        wait()
        return evaluation.choose_crf(None, None, (), path)

    def row(self, name: str, seed: int) -> Path:
        """The checkpoint of a row."""
        base = self.base(seed)
        config = self.row_config(name, seed)
        if config.crf:
            config = config.with_(**self.crf_settings(base))
        return self._train(config, self.out / f"{name}-seed{seed}", base)

    def untrained(self, checkpoint: Path) -> dict:
        """Changes to a checkpoint that put an untrained CRF behind its network."""
        config = self.row_config("end-to-end", 0)
        return {**self.crf_settings(checkpoint), "crf": True,
                "eval_iterations": config.eval_iterations}

    def confusions(self, checkpoint: Path, name: str, iterations=(None,), widths=(), **changes):
        """Of each picture; see `evaluation.confusions`. Stored beside the checkpoint."""
        part = f"-first-{self.limit}" if self.limit else ""
        path = checkpoint.parent / f"confusions-{name}{part}.npz"

        def make():
            model, _ = load_trained(checkpoint, self.labels, **changes)
            return evaluation.confusions(model, self.report, iterations, self.device, widths)

        if is_first():
            evaluation.stored_confusions(path, make)
        wait()
        return evaluation.stored_confusions(path, None)

    def score(self, confusion) -> float:
        """Mean IU in percent of a confusion matrix."""
        return 100 * mean_iu(confusion.astype(np.int64), self.score_classes)

    # --- how long ---

    def announce(self, names) -> None:
        """Print what is left to do and how long it takes, from a few steps of each kind of run."""
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
                    config.freeze_fcn)
            if kind not in known:
                known[kind] = self.seconds_per_step(config)
            seconds += steps * known[kind]
        print(f"{len(todo)} runs left, {sum(n for _, n in todo)} steps: about "
              f"{seconds / 3600:.1f} hours, and the scoring", flush=True)

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

    def hours(self, names) -> float:
        """That the training of some rows took, and of what they start from.

        At the median pace of each run: a machine that slept, or a run that was stopped for a while,
        would count else.
        """
        folders = [self.out / f"{name}-seed{seed}" for name in names for seed in self.seeds]
        folders += [self.out / f"base-{n}-seed{seed}" for seed in self.seeds
                    for n in range(1, len(self.recipe.stages) + 1)]
        total = 0.0
        for folder in folders:
            if (folder / "curve.csv").exists():
                rows = (folder / "curve.csv").read_text().splitlines()[1:]
                seconds = [float(row.split(",")[-1]) for row in rows]
                if seconds:
                    total += len(seconds) * float(np.median(np.diff(seconds, prepend=0.0)))
        return total / 3600


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def summary(per_seed, score) -> tuple[float, float]:
    """Mean over seeds of a score, and half the width of its 95 % interval.

    Parameters
    ----------
    per_seed : list of ndarray [images, ...]
        What to score, of each seed.
    score : function
        From the sum over images to a number.

    Notes
    -----
    With several seeds the interval is Student's, over seeds; with one it is the bootstrap's, over
    pictures.
    """
    values = np.array([score(array.sum(0, dtype=np.int64)) for array in per_seed])
    if len(values) > 1:
        from scipy.stats import t

        error = values.std(ddof=1) / np.sqrt(len(values))
        return float(values.mean()), float(error * t.ppf(0.975, len(values) - 1))
    low, high = bootstrap_interval(per_seed[0], score, resamples=500)
    return float(values[0]), float((high - low) / 2)


def provenance(study: Study, names) -> str:
    """How the numbers of a table came to be, for people."""
    from importlib.metadata import version

    if study.device == "cpu":
        machine = " of ".join([f"CPU threads: {torch.get_num_threads()}", *cpu_lines()])
    else:
        machine = torch.cuda.get_device_name()
    count = len(study.seeds)
    interval = f"Student's, over {count} seeds" if count > 1 else "bootstrap, over pictures"
    classes = ""
    if study.score_classes is not None:
        names_of = ", ".join(study.report.classes[i] for i in study.score_classes)
        classes = f" Mean IU is that of {names_of}."
    return (
        f"`{shlex.join(['python', '-m', 'fcn8s', *sys.argv[1:]])}`\n\n"
        f"{study.report.name}, {len(study.report)} pictures; seeds "
        f"{', '.join(map(str, study.seeds))}; intervals: 95 %, {interval}.{classes} "
        f"{study.hours(names):.1f} hours of training on {machine}; torch {version('torch')}."
    )


def cpu_lines() -> list[str]:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")][:1]
