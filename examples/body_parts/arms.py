"""The arms of the study: what each trains, what is searched for it, and how one is run.

An arm is run with a seed on the training frames. Searches use a seed of their own and are scored on
the frames to choose on; the frames to report on are read only when an arm is scored.
"""

import hashlib
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import learning
import torch
from frames import Frames, class_names, scores
from learning import GibbsOptions
from networks import NETWORKS, receptive_field
from torch import Tensor, nn

from densecrf_rnn.files import replaced

SEARCH_SEED = 100
MEASURE = "pixels of parts"  # the paper's; settings are chosen by it
INFERENCE_TRIALS = 40  # of bandwidths and weights of a dense CRF that is not trained
RANGES = {
    "theta_alpha": (2, 32), "theta_beta": (2, 40), "theta_gamma": (0.7, 16),
    "w_bilateral": (0.1, 10), "w_spatial": (0.1, 10),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    kind: "cnn", "disconnected", "crfrnn", "gibbs" or "depth" (tables that depend on depth steps).
    search: the search whose best values it uses; its own name by default.
    options: fields that replace those of GibbsOptions. epochs: 0 for the study's.
    after_cnn: begins with the network of the arm "cnn" instead of that of the first stage.
    """

    title: str
    kind: str
    search: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    guided: bool = True
    epochs: int = 0
    after_cnn: bool = False


SEPARATE = {"separate": True}
PERSISTENT = {**SEPARATE, "restart": 0}
ARMS = {
    "cnn": Arm("CNN alone", "cnn"),
    "disconnected": Arm("CNN, then a dense CRF (disconnected)", "disconnected"),
    "crfrnn": Arm("CRF-RNN, end to end", "crfrnn"),
    "gibbs": Arm("GibbsCRF, end to end", "gibbs"),
    "potts": Arm("GibbsCRF, Potts tables", "gibbs", "gibbs", {"form": "potts"}),
    "symmetric": Arm("GibbsCRF, symmetric tables", "gibbs", "gibbs", {"form": "symmetric"}),
    "separate": Arm("GibbsCRF, separate", "gibbs", "gibbs", SEPARATE),
    "separate-cnn": Arm(
        "GibbsCRF, separate behind the CNN alone, never restarted",
        "gibbs", options=PERSISTENT, after_cnn=True,
    ),  # fmt: skip
    "distance1": Arm("GibbsCRF, distance 1", "gibbs", "gibbs", {"radius": 1}),
    "unguided": Arm("CRF-RNN without the depth guide", "crfrnn", guided=False),
    "ascent": Arm("GibbsCRF, plain stochastic ascent", "gibbs", options={"optimiser": "SGD"}),
    "persistent": Arm("GibbsCRF, chains never restarted", "gibbs", "gibbs", {"restart": 0}),
    "depth": Arm("GibbsCRF, tables for depth steps", "depth", "gibbs"),
    "sweeps-8x10": Arm(
        "separate, never restarted, 8 epochs of 10 sweeps",
        "gibbs", "gibbs", {**PERSISTENT, "sweeps": 10}, epochs=8,
    ),  # fmt: skip
    "sweeps-80x1": Arm(
        "separate, never restarted, 80 epochs of 1 sweep",
        "gibbs", "gibbs", {**PERSISTENT, "sweeps": 1}, epochs=80,
    ),  # fmt: skip
    "sweeps-80x1-slow": Arm(
        "separate, never restarted, 80 epochs of 1 sweep, a tenth of the rate",
        "gibbs", "gibbs", {**PERSISTENT, "sweeps": 1, "table_lr": 0.1}, epochs=80,
    ),  # fmt: skip
}
GROUPS = {
    "main": ["cnn", "disconnected", "crfrnn", "gibbs", "potts", "symmetric"],
    "more": ["separate", "separate-cnn", "persistent", "distance1", "unguided", "ascent", "depth"],
    "sweeps": ["sweeps-8x10", "sweeps-80x1", "sweeps-80x1-slow"],
}


def dense_params(seed: int, guided: bool) -> Iterator[dict[str, float]]:
    """Yield settings of a dense CRF, drawn log-uniformly from `RANGES`."""
    rng = random.Random(seed)
    for _ in range(INFERENCE_TRIALS):
        drawn = {k: math.exp(rng.uniform(*map(math.log, r))) for k, r in RANGES.items()}
        yield drawn if guided else {k: drawn[k] for k in ("theta_gamma", "w_spatial")}


RATES = (3e-3, 1e-2, 3e-2, 1e-1)  # of a CRF
# Each search is a list of stages; a stage changes values of the best trial of all stages before.
DENSE_STAGES: list[list[dict[str, Any]]] = [
    [{"lr": rate, "network_lr": 1e-3} for rate in (*RATES, 3e-1, 1.0)],
    [{"network_lr": 3e-4}, {"lr": 3e-1, "network_lr": 3e-4}],
]  # fmt: skip
SEARCHES: dict[str, list[list[dict[str, Any]]]] = {
    "cnn": [[{"network_lr": rate} for rate in (3e-4, 1e-3, 3e-3)]],
    "crfrnn": DENSE_STAGES,
    "unguided": DENSE_STAGES,
    "gibbs": [
        [{"table_lr": rate, "network_lr": 1e-3} for rate in RATES],
        [{"network_lr": 3e-4}],
    ],
    "separate-cnn": [[{"table_lr": rate} for rate in (*RATES, 3e-1)]],
    "ascent": [
        [{"table_lr": rate, "network_lr": 1e-3} for rate in (0.1, 0.3, 1.0, 3.0, 10.0)],
        [{"network_lr": 3e-3}, {"network_lr": 3e-4}, {"network_lr": 1e-4}],
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What all arms of a study share; results with other settings are rejected."""

    network: str = "local"
    width: int = 16
    first_epochs: int = 40
    epochs: int = 10
    search_epochs: int = 12
    most: int = 0  # maximum frames per split; 0: all


class Study:
    """Frames, settings and the folders of results and of trained networks."""

    def __init__(self, data: Path, out: Path, work: Path, settings: Settings) -> None:
        self.settings, self.out, self.work = settings, out, work
        self.names = class_names(data)
        self.labels = len(self.names)
        self.splits = {s: Frames(data / s, settings.most) for s in ("train", "choose", "report")}
        highest = max(int(split.labels.max()) for split in self.splits.values())
        if highest >= self.labels:
            raise SystemExit(f"a frame has label {highest}, but classes.txt ends at "
                             f"{self.labels - 1}; add its line there, or give its pixels another "
                             "label: there is none for pixels without truth")  # fmt: skip
        self.train = self.splits["train"]
        height, width = self.train.labels.shape[1:]
        self.facts = {
            "network": settings.network, "width": settings.width,
            "first_epochs": settings.first_epochs, "size": [height, width],
            "frames": [len(split) for split in self.splits.values()],
            "digest": digest(self.names, self.splits.values()),
        }  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)

    def network(self) -> nn.Module:
        """Return a new network."""
        made = NETWORKS[self.settings.network](self.labels, self.settings.width)
        return learning.watched(made)

    def first(self, seed: int) -> nn.Module:
        """Return the network of a seed after its first stage, trained here or earlier."""
        torch.manual_seed(seed)
        network = self.network()

        def train() -> None:
            learning.train_first(network, self.train, self.settings.first_epochs)

        return self.kept(f"first-seed{seed}", network, train)

    def kept(self, name: str, network: nn.Module, train: Any, **further: Any) -> nn.Module:
        """Load the network from the folder of work if it is there, else train and store it.

        `further`: what it depends on besides the study's settings.
        """
        path, facts = self.work / f"{name}.pt", {**self.facts, **further}
        if path.exists():
            state = torch.load(path, weights_only=True)
            if state["facts"] != facts:
                raise SystemExit(f"{path} has other settings, or is of other frames; remove it or "
                                 "choose another --work")  # fmt: skip
            network.load_state_dict(state["network"])
        else:
            train()
            with replaced(path) as part:
                torch.save({"facts": facts, "network": network.state_dict()}, part)
        return network.eval()

    def alone(self, seed: int, values: dict[str, Any], epochs: int) -> nn.Module:
        """Return the network of a seed after its second stage without a CRF."""
        network = learning.clone(self.first(seed))
        torch.manual_seed(seed)

        def train() -> None:
            learning.train_alone(network, self.train, epochs, values["network_lr"])

        return self.kept(f"cnn-seed{seed}", network, train, epochs=epochs, **values)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a result that is there already, or None."""
        path = self.out / f"{name}.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        if found["study"] != self.facts or found["epochs"] != self.epochs_of(name):
            raise SystemExit(f"{path} has other settings, or is of other frames; remove it or "
                             "choose another --out")  # fmt: skip
        return found

    def run_of(self, name: str, seed: int) -> dict[str, Any] | None:
        """Return the result of a run, made with the values that are the best now, or None."""
        found = self.read(f"{name}-seed{seed}")
        search = ARMS[name].search or name
        if found is not None and found["values"] != self.best(search):
            path = self.out / f"{name}-seed{seed}.json"
            raise SystemExit(f"{path} was run with {found['values']}, but the search of {search} "
                             f"found {self.best(search)}; remove it, to run it again, or choose "
                             "another --out")  # fmt: skip
        return found

    def epochs_of(self, name: str) -> int:
        """Return the epochs of the second stage behind a result."""
        if name.startswith("search-"):
            return self.settings.search_epochs
        return ARMS[name.rsplit("-seed", 1)[0]].epochs or self.settings.epochs

    def write(self, name: str, result: dict[str, Any]) -> None:
        """Write a result with the study's settings and the machine."""
        machine = {"machine": processor(), "torch": torch.__version__,
                   "threads": torch.get_num_threads()}  # fmt: skip
        with replaced(self.out / f"{name}.json") as part:
            facts = {"study": self.facts, "epochs": self.epochs_of(name), **machine}
            part.write_text(json.dumps({**facts, **result}, indent=1) + "\n")

    def best(self, search: str) -> dict[str, Any]:
        """Return the best values of a search."""
        found = self.read(f"search-{search}")
        if found is None or "best" not in found:
            raise SystemExit(f"{self.out} holds no finished search of {search}; run study.py "
                             f"search --searches {search} first")  # fmt: skip
        return found["best"]

    def scores(self, split: str, predicted: Tensor) -> dict[str, float]:
        """Return the scores of predicted labels of a split."""
        return scores(predicted, self.splits[split].labels, self.names)


def digest(names: list[str], splits: Iterable[Frames]) -> str:
    """Return a digest of names and frames, which does not depend on how files store them."""
    found = hashlib.sha256(str(names).encode())
    for split in splits:
        for part in (split.depth, split.labels):
            found.update(part.contiguous().numpy())
    return found.hexdigest()[:16]


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


@dataclass
class Trained:
    """What an arm has trained: decoders of depth by name, its log and further facts."""

    decoders: dict[str, Any]
    log: learning.Log = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    model: Any = None


def train(
    study: Study, arm: Arm, seed: int, values: dict[str, Any], epochs: int, decisions: bool = False
) -> Trained:
    """Train an arm with the values of a search; `decisions`: decode in other ways too."""
    if arm.kind in ("cnn", "disconnected"):
        cnn_values = values if arm.kind == "cnn" else study.best("cnn")
        network = study.alone(seed, cnn_values, epochs)
        if arm.kind == "cnn":
            return Trained({"": lambda depth: network(depth).argmax(1)})
        crf = learning.dense_crf(study.labels, values, arm.guided).eval()
        return Trained({"": lambda d: crf(network(d), learning.centimetres(d)).argmax(1)})
    if arm.after_cnn:
        network = study.alone(seed, study.best("cnn"), epochs)
    else:
        network = learning.clone(study.first(seed))
    torch.manual_seed(seed)
    by_network = {"its network alone": lambda depth: network(depth).argmax(1)}
    if arm.kind == "crfrnn":
        params = dict(study.best("disconnected" if arm.guided else "disconnected-unguided"))
        crf = learning.dense_crf(study.labels, params, arm.guided)
        log = learning.train_crfrnn(
            network, crf, study.train, epochs, values["lr"], values["network_lr"]
        )
        decoder = {"": lambda d: crf(network(d), learning.centimetres(d)).argmax(1)}
        return Trained({**decoder, **by_network}, log, model=crf)
    if arm.kind == "gibbs":
        given = {**values, **arm.options}
        if "table_lr" in arm.options:  # relative to the search's
            given["table_lr"] *= values["table_lr"]
        options = replace(GibbsOptions(), **given)
        crf, log, facts = learning.train_gibbs(
            network, study.train, study.labels, epochs, options, seed
        )
        decoders = {"": lambda depth: crf.decode(network(depth)), **by_network}
        if decisions:
            for name, other in other_decisions(crf).items():
                decoders[name] = partial(decode_by, network, crf, other)
        return Trained(decoders, log, {**facts, "flat": learning.flatness(log)}, crf)
    if arm.kind == "depth":
        crf, log, facts = learning.train_depth_steps(
            network, study.train, study.labels, epochs, GibbsOptions(**values), seed
        )
        decoders = {"": lambda depth: crf.decode(network(depth), depth), **by_network}
        return Trained(decoders, log, {**facts, "flat": learning.flatness(log)}, crf)
    raise ValueError(f"{arm.kind!r} is the kind of no arm")


def other_decisions(crf: Any) -> dict[str, dict[str, Any]]:
    """Return options of `crf.decode`, by the name of a decision.

    One chain and annealing make as many sweeps in all as the usual chains together.
    """
    sweeps, burn_in = crf.chains * crf.sweeps, crf.chains * crf.burn_in
    return {
        "one chain": {"chains": 1, "sweeps": sweeps, "burn_in": burn_in},
        "annealed": {"method": "annealed", "sweeps": sweeps + burn_in},
        "icm": {"method": "icm"},
    }  # fmt: skip


def decode_by(network: nn.Module, crf: Any, options: dict[str, Any], depth: Tensor) -> Tensor:
    """Decode with other options than those of `crf`."""
    return crf.decode(network(depth), **options)


def run_arm(study: Study, name: str, seed: int) -> dict[str, Any]:
    """Train and score an arm; return its result, and keep labels of some frames for the figure."""
    arm = ARMS[name]
    values = study.best(arm.search or name)
    begin = time.process_time()
    epochs = study.epochs_of(name)
    trained = train(study, arm, seed, values, epochs, decisions=name == "gibbs")
    between = time.process_time()
    each = {}
    for decoder, label_of in trained.decoders.items():
        predicted = learning.predictions(study.splits["report"], label_of)
        each[decoder] = study.scores("report", predicted)
        if not decoder:
            kept = {"labels": predicted.byte()}
            if arm.kind == "gibbs":
                crf = trained.model
                kept |= {"tables": crf.tables.detach(), "offsets": crf.offsets}
            with replaced(study.work / f"labels-{name}-seed{seed}.pt") as part:
                torch.save(kept, part)
    end = time.process_time()
    return {
        "arm": name, "seed": seed, "values": values, "scores": each.pop(""),
        "other decisions": each, **trained.facts,
        "seconds": {"training": between - begin, "scoring": end - between}, "log": trained.log,
    }  # fmt: skip


def run_search(study: Study, name: str) -> None:
    """Run the trials of a search that are not in its file, and write the best values."""
    dense = name.startswith("disconnected")
    arm = replace(ARMS["disconnected"], guided=name == "disconnected") if dense else ARMS[name]
    found = study.read(f"search-{name}") or {"trials": []}
    trials: list[dict[str, Any]] = found["trials"]
    known = len(trials)

    def score(values: dict[str, Any]) -> None:
        if any(t["values"] == values for t in trials):  # from an earlier call
            return
        begin = time.process_time()
        if name == "cnn":  # each trial trains a network of its own
            (study.work / f"cnn-seed{SEARCH_SEED}.pt").unlink(missing_ok=True)
        trial: dict[str, Any] = {"values": values}
        try:
            trained = train(study, arm, SEARCH_SEED, values, study.settings.search_epochs)
            predicted = learning.predictions(study.splits["choose"], trained.decoders[""])
            trial |= {"scores": study.scores("choose", predicted), **trained.facts}
            said = f"{trial['scores'][MEASURE]:.2f}"
        except learning.Diverged as error:
            trial["scores"], said = None, str(error)
        trials.append({**trial, "seconds": time.process_time() - begin})
        study.write(f"search-{name}", {"trials": trials})
        print(f"search of {name}: {values}: {said}", flush=True)

    listed = [list(dense_params(SEARCH_SEED, arm.guided))] if dense else SEARCHES[name]
    tried = 0
    for stage in listed:
        base = best_of(trials[:tried]) if tried else {}
        for change in stage:
            score({**base, **change})
        tried += len(stage)
    if "best" not in found or len(trials) > known:
        study.write(f"search-{name}", {"trials": trials, "best": best_of(trials)})
    if name == "cnn":
        (study.work / f"cnn-seed{SEARCH_SEED}.pt").unlink(missing_ok=True)


def best_of(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the values of the trial with the highest score on the frames to choose on."""
    ended = [t for t in trials if t["scores"]]
    if not ended:
        raise SystemExit("all trials of this search diverged; lower the rates of arms.SEARCHES")
    return max(ended, key=lambda t: t["scores"][MEASURE])["values"]


def describe(study: Study) -> str:
    """Return one line about the network and its receptive field."""
    network = study.network()
    count = sum(p.numel() for p in network.parameters())
    side = receptive_field(network)
    height, width = study.facts["size"]
    return (f"network {study.settings.network}: {count:,} parameters, receptive field {side} x "
            f"{side} pixels of {height} x {width}")  # fmt: skip


def mean_seconds(study: Study, name: str) -> float | None:
    """Return the mean duration of an arm's runs that are stored, or None."""
    found = [json.loads(p.read_text()) for p in study.out.glob(f"{name}-seed*.json")]
    return statistics.fmean(sum(f["seconds"].values()) for f in found) if found else None
