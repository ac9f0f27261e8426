"""The training loop of all recipes; an interrupted run continues bit-identically."""

import contextlib
import csv
import json
import os
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from densecrf_rnn import CRFRNN, CRFParams
from densecrf_rnn.files import replaced
from densecrf_rnn.nn.losses import robust_log_likelihood

from . import digests, weights
from .config import Config
from .pictures import IGNORE, Pictures
from .networks import FCNCRF, cut, make_fcn
from .stream import Features, Stream, batches

LAST = "last.pt"
ABOUT = "run.json"
CURVE = "curve.csv"


def build(config: Config, labels: int) -> FCNCRF:
    """Return the model of a configuration, with random weights from its seed."""
    torch.manual_seed(config.seed)
    fcn = make_fcn(config.backbone, labels, config.stride, config.at_once, config.width)
    return FCNCRF(fcn, make_crf(config, labels) if config.crf else None)


def make_crf(config: Config, labels: int) -> CRFRNN:
    """Return the head of a configuration."""
    params = CRFParams(
        theta_alpha=config.theta_alpha, theta_beta=config.theta_beta,
        theta_gamma=config.theta_gamma, w_bilateral=config.w_bilateral, w_spatial=config.w_spatial,
        spatial=config.spatial,
    )
    crf = CRFRNN(
        labels, params=params, iterations=config.iterations,
        eval_iterations=config.eval_iterations if config.tied else config.iterations,
        kernel_weights=config.kernel_weights, compatibility=config.compatibility,
        tied=config.tied, update=config.update,
    )
    with torch.no_grad():
        if config.initial_compatibility == "zero":
            crf.compatibility.zero_()
        elif config.initial_compatibility == "random":
            generator = torch.Generator().manual_seed(config.seed)
            random = torch.randn(labels, labels, generator=generator) / labels**0.5
            crf.compatibility.copy_(random.expand_as(crf.compatibility))
    return crf


def make_optimizer(model: FCNCRF, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer, with separate learning rates for weights, biases and head."""
    decay = config.weight_decay
    named = [(n, p) for n, p in model.fcn.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if not n.endswith("bias")], "lr": config.lr,
         "weight_decay": decay},
        {"params": [p for n, p in named if n.endswith("bias")], "lr": config.lr * config.bias_lr,
         "weight_decay": 0.0},
    ]
    if model.crf is not None:
        multipliers = {"kernel_weights": config.lr_kernel_weights * config.lr_head}
        if config.compatibility == "learned":
            multipliers["compatibility"] = config.lr_compatibility * config.lr_head
        for group in model.crf.parameter_groups(config.lr, loss=config.reduction, **multipliers):
            groups.append({**group, "weight_decay": decay if config.crf_weight_decay else 0.0})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.lr)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    for group in optimizer.param_groups:
        group["full_lr"] = group["lr"]
    return optimizer


def set_rates(optimizer, config: Config, step: int) -> None:
    """Set the learning rates of a step."""
    factor = (1 - step / config.steps) ** 0.9 if config.schedule == "poly" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor


def loss_of(logits, labels, config: Config, world: int = 1):
    """Return a process's loss, scaled so that averaged gradients are the batch's."""
    losses = {"softmax": cross_entropy, "robust": robust_log_likelihood}
    total = losses[config.loss](
        logits.float(), labels, ignore_index=IGNORE, reduction="sum")
    if config.reduction == "sum":
        return total * world / config.batch
    scored = (labels != IGNORE).sum()
    if world > 1:
        dist.all_reduce(scored)
    return total * world / scored.clamp(min=1)


def train(
    config: Config,
    pictures: Pictures,
    folder: str | Path,
    *,
    init: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    cache_folder: str | Path | None = None,
    save_every: int = 200,
    stop_at: int | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train to the last step of a configuration, from where an earlier call stopped.

    Parameters
    ----------
    config : Config
    pictures : Pictures
        To train on.
    folder : str or Path
        Takes last.pt (the checkpoint), run.json (settings and machine) and curve.csv.
    init : str or Path, optional
        Weights to start from; see `weights.load`.
    device : str
    workers : int
        Processes that read pictures.
    cache_folder : str or Path, optional
        Where `config.cache` stores features; default `folder`.
    save_every : int
        Steps between checkpoints.
    stop_at : int, optional
        Stop there, as if interrupted.
    tensorboard : bool
        Write its curves too.

    Returns
    -------
    Path
        Of the checkpoint.

    Raises
    ------
    ValueError
        The folder holds a run with other settings, from other weights or on other pictures.
    FloatingPointError
        The loss became infinite or NaN.
    """
    rank, world = start_processes(device)
    folder = Path(folder)
    checkpoint = folder / LAST
    if init is not None:
        fitting = weights.fitting(config, init)
        if fitting != config and rank == 0:
            tqdm.write(f"the CRF in {init} has full weight matrices, so the head has "
                       f"kernel_weights='full' instead of {config.kernel_weights!r}")
        config = fitting
    made_of = {"starting point": None if init is None else digests.of_file(init),
               "set of pictures": digests.of_pictures(pictures)}
    state = None
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        # Settings that did not exist when a run was made have their defaults.
        before = {**asdict(Config()), **state["config"], **state["made_of"]}
        differing = [k for k, v in {**asdict(config), **made_of}.items() if before.get(k) != v]
        if differing:
            raise ValueError(
                f"{checkpoint} is of a run with another {', '.join(differing)}; give another "
                f"folder, or remove {folder}"
            )
        if state["step"] >= config.steps:
            return checkpoint
    model = build(config, len(pictures.classes))
    if state is not None:
        model.load_state_dict(state["model"])
    elif init is not None:
        report = weights.load(model, init)
        if rank == 0:
            tqdm.write(str(report))
        missing = [n for n in report.left if "score_" in n]
        if not config.steps and missing:
            raise ValueError(
                f"{init} has no {', '.join(missing)} for {len(pictures.classes)} labels, and this "
                "recipe has no stage that learns them; give the weights of a whole FCN of the same "
                "dataset, or another recipe"
            )
    folder.mkdir(parents=True, exist_ok=True)
    if config.freeze_fcn:
        model.fcn.requires_grad_(False)
    model.to(device)
    optimizer = make_optimizer(model, config)
    first = 0
    torch.manual_seed(config.seed * 1000 + rank)  # of dropout
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        # Other processes than the first draw from a new seed after an interruption.
        torch.manual_seed(config.seed * 1000 + rank + first * 100_003)
        if rank == 0:
            restore_random_state(state["random"])

    features = None
    if config.cache:
        where = Path(cache_folder or folder)
        features = Features(model.fcn, pictures, where, device, config.flip)
    parallel = model
    if world > 1:
        parallel = nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device != "cpu" else None
        )
    last = config.steps if stop_at is None else min(stop_at, config.steps)
    loader = batches(Stream(pictures, config, features), first, last, rank, world, workers)

    def save(step):
        if rank == 0:
            save_checkpoint(checkpoint, config, made_of, model, optimizer, step)

    if rank == 0:
        about = {"config": asdict(config), "made_of": made_of, "machine": machine(device)}
        with replaced(folder / ABOUT) as part:
            part.write_text(json.dumps(about, indent=1) + "\n")
    if first == 0 and (last == 0 or config.steps == 0):
        save(0)
    with Curve(folder, first, tensorboard) if rank == 0 else contextlib.nullcontext() as curve:
        bar = tqdm(loader, folder.name, config.steps, initial=first, leave=False,
                   disable=True if rank else None)  # None: where nobody is looking
        for step, batch in enumerate(bar, first):
            model.train()
            if config.freeze_fcn:
                model.fcn.eval()
            set_rates(optimizer, config, step)
            optimizer.zero_grad(set_to_none=True)
            loss = step_loss(parallel, batch, config, device, world)
            loss.backward()
            optimizer.step()
            value = loss.item()
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the loss of step {step} is {value}; lower lr, or the head's multipliers"
                )
            if curve is not None:
                curve.add(step, value, optimizer.param_groups[0]["lr"])
                bar.set_postfix(loss=f"{value:.4g}")
            if (step + 1) % save_every == 0 or step + 1 == last:
                save(step + 1)
    if world > 1:
        dist.barrier()
    return checkpoint


def step_loss(model, batch, config: Config, device, world=1):
    """Return the loss of a batch, or of a window of each image if configured."""
    image, labels = batch["image"].to(device), batch["labels"].to(device)
    lower = batch.get("lower")
    if lower is not None:
        lower = tuple(x.to(device) for x in lower)
    windows = None
    if config.window is not None:
        rows, columns = (min(a, b) for a, b in zip(config.window, labels.shape[1:], strict=True))
        windows = [(row, column, rows, columns) for row, column in batch["window"]]
        labels = cut(labels[:, None], windows)[:, 0]
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=config.autocast):
        logits = model(image, lower, windows)
    return loss_of(logits, labels, config, world)


# --- what is saved -------------------------------------------------------------------------------


def save_checkpoint(path: Path, config, made_of, model, optimizer, step) -> None:
    """Save everything that the next step depends on; the file is replaced as a whole."""
    state = {
        "step": step, "config": asdict(config), "made_of": made_of, "model": model.state_dict(),
        "optimizer": optimizer.state_dict(), "random": random_state(),
    }
    with replaced(path) as part:
        torch.save(state, part)


def read_checkpoint(path: str | Path) -> dict:
    """Read a file that `save_checkpoint` wrote."""
    state = weights.read_torch(path) if weights.kind_of(path) == "torch" else {}
    if (not {"step", "config", "made_of", "model"} <= state.keys()
            or "fcn.score_fr.bias" not in weights.check_arrays(state["model"], path)):
        raise ValueError(f"{path} is no checkpoint of these experiments; give a last.pt of a run")
    return state


def random_state():
    """Of the generators that dropout draws from; nothing else in a step is drawn from a state."""
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class Curve:
    """curve.csv: step, loss, learning rate, seconds; rows after the checkpoint are dropped."""

    HEAD = ("step", "loss", "lr", "seconds")

    def __init__(self, folder: Path, first: int, tensorboard: bool):
        rows = [row for row in read_curve(folder) if int(row["step"]) < first]
        self.before = float(rows[-1]["seconds"]) if rows else 0.0
        path = folder / CURVE
        with replaced(path) as part, open(part, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.HEAD)
            writer.writerows(row.values() for row in rows)
        self.file = open(path, "a", newline="")
        self.writer = csv.writer(self.file)
        self.board = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("--tensorboard needs tensorboard; pip install tensorboard"
                                  ) from error
            self.board = SummaryWriter(folder, purge_step=first)
        self.start = time.perf_counter()

    def add(self, step, loss, lr):
        seconds = self.before + time.perf_counter() - self.start
        self.writer.writerow((step, f"{loss:.6g}", f"{lr:.6g}", f"{seconds:.3f}"))
        self.file.flush()
        if self.board is not None:
            self.board.add_scalar("loss", loss, step)
            self.board.add_scalar("lr", lr, step)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.board is not None:
            self.board.close()


def load_trained(
    checkpoint: str | Path, labels: int | None = None, **changes
) -> tuple[FCNCRF, Config]:
    """The model of a checkpoint of ours, with other settings of its head if any are given.

    Raises
    ------
    ValueError
        It is no checkpoint, or has another number of labels than the images.
    """
    state = read_checkpoint(checkpoint)
    found = len(state["model"]["fcn.score_fr.bias"])
    labels = labels or found
    if found != labels:
        raise ValueError(
            f"{checkpoint} has {found} labels, but the images have {labels}; give images of the "
            "dataset that it was trained on"
        )
    try:
        config = Config().with_(**state["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint} has settings that are not known here: {error}") from error
    config = config.with_(**changes)
    model = build(config, labels)
    own = model.state_dict()
    # A head that the checkpoint has none of stays as it was made, and so do settings of the head.
    loaded = {k: v for k, v in state["model"].items() if not k.endswith("_extra_state")}
    try:
        model.load_state_dict({**own, **loaded} if config.crf else
                              {k: v for k, v in loaded.items() if k in own})
    except RuntimeError as error:
        raise ValueError(f"the weights in {checkpoint} do not fit its settings; copy it once more "
                         "from its run") from error
    return model.eval(), config


# --- several processes ---------------------------------------------------------------------------


def start_processes(device: str) -> tuple[int, int]:
    """Return rank and number of processes started by torchrun; 0 and 1 without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not dist.is_initialized():
        # The first process scores alone, and the others wait for it.
        dist.init_process_group("gloo" if device == "cpu" else "nccl", timeout=timedelta(hours=12))
    return dist.get_rank(), world


def is_first() -> bool:
    """Return whether this process writes the files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def read_curve(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's curve; an incomplete last row is dropped."""
    path = folder / CURVE
    if not path.exists():
        return []
    with open(path, newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(whole.splitlines()))


def machine(device: str) -> str:
    """Describe the device and the version of torch."""
    if device == "cpu":
        name = " of ".join([f"CPU threads: {torch.get_num_threads()}", *cpu_lines()])
    else:
        name = torch.cuda.get_device_name()
    return f"{name}; torch {torch.__version__}"


def cpu_lines() -> list[str]:
    """Return the processor's name if the system provides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")][:1]
