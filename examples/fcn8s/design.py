"""What sections 6 and 7.1 of the paper say of training: gradients, convergence, loss and IU."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from densecrf_rnn.files import replaced
from densecrf_rnn.metrics import mean_iu

from . import digests, evaluation, figures
from .config import Config
from .stream import Stream, collate
from .study import Study, student, wait
from .tables import interval, save, write
from .training import LAST, is_first, load_trained, read_checkpoint, read_curve, step_loss

COUNTS = tuple(range(11))  # mean-field iterations T; 0 is the network alone
GRADIENT_BATCHES = 8  # batches of training images of which the gradient is taken
PARTS = 5  # of a training, for which the mean loss is printed
NO_INTERVAL = "none, as there is one seed"
CHECKPOINTS = 10  # of each training, evenly spaced
# Trainings of `loss_iu`, and their titles.
TRAININGS = {"network": "network without CRF", "end-to-end": "network and CRF, end to end"}
# Rows of `convergence`, and the compatibility that training starts from.
STARTS = {
    "end-to-end": "Potts",
    "zero-compatibility": "compatibility 0",
    "random-compatibility": "random compatibility",
}


# --- gradients -----------------------------------------------------------------------------------


def gradients(study: Study) -> Path:
    """Section 7.1: norm of the gradient that reaches the network, for T = 0 to 10 iterations."""
    study.announce(("end-to-end",))
    found = [seed_gradients(study, seed) for seed in study.seeds]
    save(study, "gradients", {"T": COUNTS, "seeds": dict(zip(study.seeds, found, strict=True))})
    rows, series = gradient_rows(found)
    if is_first():
        figures.curves(study.out / "gradients.png", COUNTS[1:], series,
                       "mean-field iterations T", "gradient norm relative to T = 5")
    note = (
        f"Norm of the gradient of the training loss with respect to the network's logits and to "
        f"its learned weights, relative to T = 5 on the same batch, without dropout: mean over "
        f"{GRADIENT_BATCHES} batches of training images. At the start the CRF "
        "is the one that training starts from. T = 0 is the network alone."
    )
    return write(study, "gradients", ("T", *series), rows, ("end-to-end",), note,
                 alone="95 %, Student's, over batches, not over seeds")


def gradient_rows(found: list[dict]) -> tuple[list, dict]:
    """Return the table's rows and the figure's series for the norms of each seed."""
    columns, series = [], {}
    for state, title in (("start", "at the start"), ("trained", "after training with T = 5")):
        for of, what in (("logits", "logits"), ("weights", "network's weights")):
            array = np.array([one[state][of] for one in found])  # [seeds, batches, T]
            ratios = array / array[..., COUNTS.index(5), None]
            per_count = (ratios.mean(1) if len(found) > 1 else ratios[0]).T
            points = [student(values) for values in per_count]
            columns.append([interval(*point) for point in points])
            series[f"{what}, {title}"] = tuple(zip(*points[1:], strict=True))
    return [(str(count), *cells) for count, *cells in zip(COUNTS, *columns, strict=True)], series


def seed_gradients(study: Study, seed: int) -> dict:
    """Return gradient norms [batches, T] by state and parameter, stored in a file."""
    base, trained = study.base(seed), study.row("end-to-end", seed)
    settings = study.untrained(base)
    config = study.row_config("end-to-end", seed)
    pictures = study.parts(config.dataset)["train"]
    made_of = study.made_of(base, pictures, [settings, COUNTS, GRADIENT_BATCHES])
    made_of += study.made_of(trained, pictures, [])

    def make():
        states = {"start": load_trained(base, study.labels, **settings)[0],
                  "trained": load_trained(trained, study.labels)[0]}
        return {name: gradient_norms(model, config, pictures, study.device)
                for name, model in states.items()}

    return stored(study.out / f"gradients-seed{seed}.json", made_of, make)


def gradient_norms(model, config: Config, pictures, device="cpu") -> dict[str, list[list[float]]]:
    """Return norms of the training loss's gradient for each batch and number of iterations.

    Returns
    -------
    dict
        "logits" and "weights" (the network's learned ones), each [batches, len(COUNTS)].
    """
    model.to(device).eval()
    learned = [p for p in model.fcn.parameters() if p.requires_grad]
    stream = Stream(pictures, config)
    seen: list[torch.Tensor] = []
    hook = model.fcn.register_forward_hook(lambda module, args, logits: seen.append(logits))
    crf, before = model.crf, model.crf.eval_iterations
    norms: dict[str, list[list[float]]] = {"logits": [], "weights": []}
    try:
        for number in range(GRADIENT_BATCHES):
            first = number * config.batch
            batch = collate([stream[first + k] for k in range(config.batch)])
            if config.cache:  # frozen layers: once per batch
                batch["lower"] = model.fcn.lower(batch["image"].to(device))
            for row in norms.values():
                row.append([])
            for count in COUNTS:
                model.crf, crf.eval_iterations = (crf if count else None), count
                loss = step_loss(model, batch, config, device)
                logits = seen.pop()
                one, *others = torch.autograd.grad(loss, [logits, *learned], allow_unused=True)
                total = sum(g.double().square().sum() for g in others if g is not None)
                norms["logits"][-1].append(float(one.double().norm()))
                norms["weights"][-1].append(float(total) ** 0.5)
    finally:
        hook.remove()
        model.crf, crf.eval_iterations = crf, before
    return norms


# --- convergence ---------------------------------------------------------------------------------


def convergence(study: Study) -> Path:
    """Section 6: training from a Potts compatibility, from zero and from a random one."""
    names = tuple(STARTS)
    study.announce(names)
    losses = {name: [] for name in names}
    scores = {name: [] for name in names}
    for seed in study.seeds:
        for name in names:
            array = study.after(name, seed, None)
            scores[name].append(study.score(array.sum(0, dtype=np.int64)))
            curve = read_curve(study.out / f"{name}-seed{seed}")
            losses[name].append([float(row["loss"]) for row in curve])
    save(study, "convergence", {"seeds": study.seeds, "losses": losses, "mean IU": scores})
    header, rows = convergence_rows(losses, scores)
    if is_first():
        series, steps = {}, len(losses["end-to-end"][0])
        for name, text in STARTS.items():
            smooth = [running_mean(one, max(1, steps // 20)) for one in losses[name]]
            points = [student(values) for values in np.transpose(smooth)]
            series[text] = tuple(zip(*points, strict=True))
        figures.curves(study.out / "convergence.png", range(1, steps + 1), series, "step",
                       "training loss, running mean", marker="")
    note = ("Mean training loss of each part of the training; rows below the first: its "
            "difference from the first row, on the same images in the same order.")
    return write(study, "convergence", header, rows, names, note, alone=NO_INTERVAL)


def convergence_rows(losses: dict, scores: dict) -> tuple[tuple, list]:
    """Return header and rows of the table, for losses [seeds, steps] and mean IU by row."""
    steps = len(losses["end-to-end"][0])
    bounds = np.linspace(0, steps, min(PARTS, steps) + 1).astype(int)
    reference = part_means(losses["end-to-end"], bounds)
    rows = []
    for name, text in STARTS.items():
        means = part_means(losses[name], bounds)
        first = name == "end-to-end"
        cells = [interval(*student(values), sign=not first, digits=4)
                 for values in (means if first else means - reference).T]
        rows.append((text, *cells, interval(*student(scores[name]))))
    parts = (f"steps {a + 1} to {b}" for a, b in zip(bounds, bounds[1:], strict=False))
    return ("training starts from", *parts, "mean IU"), rows


def part_means(losses, bounds) -> np.ndarray:
    """Return the mean loss [seeds, parts] between bounds."""
    return np.array([[np.mean(one[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
                     for one in losses])


def running_mean(values, width: int) -> np.ndarray:
    """Return the mean of the last `width` values (at the beginning: of fewer) at each place."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


# --- loss and IU ---------------------------------------------------------------------------------


def loss_iu(study: Study) -> Path:
    """Section 6: mean softmax loss against mean IU on the reported images, over checkpoints."""
    study.announce(("end-to-end",))
    found = {kind: [] for kind in TRAININGS}
    for seed in study.seeds:
        stages = study.stages(seed)
        base = study.out / f"base-{len(stages)}-seed{seed}"
        if stages[-1].steps:
            init = study.base(seed, stages=len(stages) - 1)
            found["network"].append(checkpoints(study, stages[-1], base, init))
        start = study.base(seed)
        config = study.row_config("end-to-end", seed).with_(**study.crf_settings(start))
        found["end-to-end"].append(
            checkpoints(study, config, study.out / f"end-to-end-seed{seed}", start))
    save(study, "loss-iu", {"seeds": study.seeds, **found})
    rows, points = loss_iu_rows(found)
    if is_first():
        figures.scatter(study.out / "loss-iu.png", points, "mean softmax loss", "mean IU, %")
    count = len(found["end-to-end"][0])
    note = (f"Spearman's rank correlation of the mean softmax loss per pixel and the mean IU over "
            f"up to {count} checkpoints of a training; -1: the lower the loss, the higher the IU.")
    header = ("training of", "mean rank correlation", "of each seed")
    return write(study, "loss-iu", header, rows, ("end-to-end",), note, alone=NO_INTERVAL)


def loss_iu_rows(found: dict) -> tuple[list, dict]:
    """Return the table's rows and the figure's points for the checkpoints of each training."""
    from scipy.stats import spearmanr

    rows, points = [], {}
    for kind, title in TRAININGS.items():
        if not found[kind]:
            continue
        ranks = [spearmanr([p["loss"] for p in one], [p["mean IU"] for p in one]).statistic
                 for one in found[kind]]
        rows.append((title, f"{np.mean(ranks):+.2f}", ", ".join(f"{r:+.2f}" for r in ranks)))
        points[title] = [(p["loss"], p["mean IU"]) for one in found[kind] for p in one]
    return rows, points


def checkpoints(study: Study, config: Config, folder: Path, init) -> list[dict[str, float]]:
    """Train in parts, and return step, mean loss and mean IU on the reported images after each.

    A training that other tables have finished is repeated in a folder of its own, to the same bits.
    """
    steps = np.unique(np.linspace(0, config.steps, CHECKPOINTS + 1).astype(int))[1:].tolist()
    if step_of(folder) > steps[0] and not list(folder.glob("point-*.json")):
        folder = folder.with_name(f"{folder.name}-checkpoints")

    def make(step):
        if step_of(folder) > step:
            raise ValueError(
                f"{folder} has no score of step {step} on these images, and its training has gone "
                "on; remove the folder and run the command again"
            )
        return point(study, study.train(config, folder, init, stop_at=step), step)

    points = []
    for step in steps:
        made_of = study.made_of(init, study.report, [asdict(config), step, study.score_classes])
        points.append(stored(folder / f"point-{step:06d}.json", made_of, partial(make, step)))
    study.train(config, folder, init)
    return points


def step_of(folder: Path) -> int:
    """Return how many steps a run has made."""
    return read_checkpoint(folder / LAST)["step"] if (folder / LAST).exists() else 0


def point(study: Study, checkpoint: Path, step: int) -> dict[str, float]:
    """Return step, mean softmax loss per pixel and mean IU in percent of a checkpoint."""
    model, _ = load_trained(checkpoint, study.labels)
    loss, confusion = evaluation.loss_and_confusion(model, study.report, study.device)
    return {"step": step, "loss": loss, "mean IU": 100 * mean_iu(confusion, study.score_classes)}


# --- stored results ------------------------------------------------------------------------------


def stored(path: Path, made_of, make: Callable[[], dict]) -> dict:
    """Return the result of `make`, from a file if it was made from the same inputs."""
    if digests.known(path).get("made_of") != made_of and is_first():
        result = make()
        with replaced(path) as part:
            part.write_text(json.dumps({"made_of": made_of, "result": result}, indent=1) + "\n")
    wait()
    return json.loads(path.read_text())["result"]
