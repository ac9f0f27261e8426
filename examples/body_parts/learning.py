"""Train a network alone, with a CRF-RNN, and with a GibbsCRF, and decode frames with each."""

import copy
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from frames import FAR, Frames
from torch import Tensor, nn

from densecrf_rnn import CRFRNN, CRFParams, GibbsCRF, kernels
from densecrf_rnn.gibbs import sparse_neighbourhood
from densecrf_rnn.nn import Chains, ChainStore

BATCH = 4
FIRST_LR = 3e-3  # of a new network
AVERAGED = 1 / 3  # parameters are averaged over this last part of the second stage
# Labels are the argmax of the marginals of several short chains: one chain stays on the side of the
# body on which it starts.
DECODING = {"chains": 8, "burn_in": 10, "sweeps": 10}
FRESH_SWEEPS = 50  # of the new chains that the persistent ones are compared with

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of a batch's indices, depth and labels
Log = list[dict[str, float]]


class Diverged(ArithmeticError):
    """Parameters or a network's output became infinite or NaN: the rate is too high."""


def watched(network: nn.Module) -> nn.Module:
    """Return the network, which raises `Diverged` from now on if its output is not finite."""
    def check(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not output.isfinite().all():
            raise Diverged("the network's output is no longer finite; lower the rates")

    network.register_forward_hook(check)
    return network


class Average:
    """Mean of a module's parameters over steps; `put` gives it to the module."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.parameters = [p for module in modules for p in module.parameters()]
        self.sums = [torch.zeros_like(p, dtype=torch.float64) for p in self.parameters]
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Add the current parameters."""
        self.count += 1
        for total, p in zip(self.sums, self.parameters, strict=True):
            total += p

    @torch.no_grad()
    def put(self) -> None:
        """Set the parameters to their mean."""
        for total, p in zip(self.sums, self.parameters, strict=True):
            p.copy_(total / self.count)


def fit(
    groups: list[dict[str, Any]], frames: Frames, epochs: int, loss_of: Loss, *, name: str,
    optimiser: str = "Adam", averaged: Iterable[nn.Module] = (),
    facts_of: Callable[[int], dict[str, float]] = lambda epoch: {},
) -> Log:  # fmt: skip
    """Train `groups` of parameters; return the mean loss and `facts_of` after each epoch.

    The rates fall to 0 along half a cosine. The modules `averaged` end as the mean of their
    parameters over the steps of the last third of the epochs. Raises `Diverged`.
    """
    optimizer = getattr(torch.optim, optimiser)(groups)
    steps = epochs * math.ceil(len(frames) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average, log = Average(averaged), []
    for epoch in range(epochs):
        losses = []
        for batch in frames.batches(BATCH):
            optimizer.zero_grad()
            loss = loss_of(*batch)
            loss.backward()
            optimizer.step()
            if not all(p.isfinite().all() for g in optimizer.param_groups for p in g["params"]):
                raise Diverged(f"{name} diverged in epoch {epoch + 1}; lower the rates")
            schedule.step()
            if epoch >= epochs - math.ceil(AVERAGED * epochs):
                average.add()
            losses.append(loss.item())
        log.append({"epoch": epoch + 1, "loss": statistics.fmean(losses), **facts_of(epoch + 1)})
        line = ", ".join(f"{k} {v:.4g}" for k, v in log[-1].items())
        print(f"  {name}: {line} (of {epochs} epochs)", flush=True)
    average.put()
    return log


def train_first(network: nn.Module, frames: Frames, epochs: int) -> Log:
    """Train a new network by cross-entropy. It stays in eval mode from here on.

    So batch normalisation uses its running mean and variance in the second stage, whatever is
    trained on top.
    """
    def loss_of(index: Tensor, depth: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(depth), target)

    groups = [{"params": network.parameters(), "lr": FIRST_LR}]
    log = fit(groups, frames, epochs, loss_of, name="first stage")
    network.eval()
    return log


def train_alone(network: nn.Module, frames: Frames, epochs: int, lr: float) -> Log:
    """Train the network further by cross-entropy: the likelihood of a CRF without edges."""
    def loss_of(index: Tensor, depth: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(depth), target)

    groups = [{"params": network.parameters(), "lr": lr}]
    return fit(groups, frames, epochs, loss_of, name="CNN", averaged=[network])


# --- CRF-RNN -------------------------------------------------------------------------------------


def centimetres(depth: Tensor) -> Tensor:
    """Return the guide of the appearance kernel, [B, 1, H, W]: the depth in cm."""
    return depth[:, :1] * (FAR * 100)


def dense_crf(labels: int, params: dict[str, float], guided: bool) -> CRFRNN:
    """Return a CRF-RNN whose appearance kernel uses depth, or the smoothness kernel alone."""
    given = CRFParams(**params)
    if guided:
        return CRFRNN(labels, params=given)
    crf = CRFRNN(labels, kernels=[kernels.Spatial(given.theta_gamma)])
    nn.init.constant_(crf.kernel_weights, given.w_spatial)
    return crf


def train_crfrnn(
    network: nn.Module, crf: CRFRNN, frames: Frames, epochs: int, lr: float, network_lr: float
) -> Log:
    """Train the network with a CRF-RNN end to end, by cross-entropy."""
    groups = [
        {"params": crf.parameters(), "lr": lr},
        {"params": network.parameters(), "lr": network_lr},
    ]

    def loss_of(index: Tensor, depth: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(crf(network(depth), centimetres(depth)), target)

    log = fit(groups, frames, epochs, loss_of, name="CRF-RNN", averaged=[network, crf])
    crf.eval()
    return log


# --- GibbsCRF ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GibbsOptions:
    """How a GibbsCRF is learned.

    form: "free" tables, "symmetric" ones, or "potts": one score per offset for equal labels.
    separate: the network is frozen, and its logits are computed once.
    optimiser: "Adam", or "SGD" for the plain stochastic ascent of the paper.
    restart: epochs after which chains start anew from the network's logits; 0: never, as in the
    paper.
    """

    form: str = "free"
    separate: bool = False
    optimiser: str = "Adam"
    radius: int = 16
    sweeps: int = 10
    restart: int = 1
    table_lr: float = 0.01
    network_lr: float = 3e-4


def restrict(crf: GibbsCRF, form: str) -> None:
    """Keep the tables, which start at 0, of one form, by projecting their gradient.

    Optimisers that treat all entries alike keep equal what has equal gradients.
    """
    if form == "symmetric":
        crf.tables.register_hook(lambda gradient: (gradient + gradient.mT) / 2)
    elif form == "potts":
        equal = torch.eye(crf.num_classes)
        crf.tables.register_hook(lambda g: (g * equal).mean((1, 2), keepdim=True) * equal)
    elif form != "free":
        raise ValueError(f"form is {form!r}; it must be free, symmetric or potts")


@torch.no_grad()
def logits_of(network: nn.Module, frames: Frames) -> Tensor:
    """Return the network's logits of all frames, [N, L, H, W]."""
    return torch.cat([network(depth) for _, depth, _ in frames.batches(BATCH, shuffled=False)])


def mean_gap(crf: GibbsCRF, frames: Frames, labels: dict[int, Tensor]) -> float:
    """Return the mean over offsets of `statistics_gap` between samples and truth of all frames."""
    order = sorted(labels)
    sampled = Chains(torch.stack([labels[i] for i in order]), order, [1] * len(order), 0)
    return float(crf.statistics_gap(frames.labels[order], sampled).mean())


def train_gibbs(
    network: nn.Module, frames: Frames, labels: int, epochs: int, options: GibbsOptions, seed: int
) -> tuple[GibbsCRF, Log, dict[str, float]]:
    """Train a GibbsCRF on a trained network's logits; unless separate, the network as well.

    Returns
    -------
    crf, log
        The log has, after each epoch, the gap between the chains' label pairs and the truth's, the
        largest table entry, and the fraction of draws that changed a label.
    facts : dict
        "fresh gap": the gap of new chains that start from the network alone, after 50 sweeps of
        the averaged model. Near the log's gap, the persistent chains represent the model.
    """
    crf = GibbsCRF(labels, sparse_neighbourhood(options.radius), **DECODING)
    restrict(crf, options.form)
    store, states, acceptance = ChainStore(1000 * seed), {}, []
    cached = logits_of(network, frames) if options.separate else None
    groups = [{"params": crf.parameters(), "lr": options.table_lr}]
    if not options.separate:
        groups.append({"params": network.parameters(), "lr": options.network_lr})

    def loss_of(index: Tensor, depth: Tensor, target: Tensor) -> Tensor:
        logits = network(depth) if cached is None else cached[index]
        chains = store.chains(index, logits)
        loss = crf.loss(logits, target, chains, sweeps=options.sweeps)
        store.keep(chains)
        states.update(zip(chains.index, chains.labels.clone()))
        acceptance.append(chains.acceptance)
        return loss

    def facts_of(epoch: int) -> dict[str, float]:
        nonlocal store
        most = float(crf.tables.detach().abs().max())
        changed = statistics.fmean(acceptance)
        acceptance.clear()
        if options.restart and epoch % options.restart == 0:
            store = ChainStore(1000 * seed + epoch)
        return {"gap": mean_gap(crf, frames, states), "max table": most, "acceptance": changed}

    modules = [crf] if options.separate else [network, crf]
    log = fit(
        groups, frames, epochs, loss_of, name=f"GibbsCRF, {options.form}",
        optimiser=options.optimiser, averaged=modules, facts_of=facts_of,
    )  # fmt: skip
    drawn = {}
    with torch.no_grad():
        for index, depth, _ in frames.batches(BATCH, shuffled=False):
            fresh = crf.sample(network(depth), sweeps=FRESH_SWEEPS, seed=seed + 1)
            drawn.update(zip(index.tolist(), fresh))
    return crf, log, {"fresh gap": mean_gap(crf, frames, drawn)}


def train_depth_steps(
    network: nn.Module, frames: Frames, labels: int, epochs: int, options: GibbsOptions, seed: int
) -> tuple[Any, Log, dict[str, float]]:
    """Train a grid CRF whose tables depend on steps in depth end to end, as `train_gibbs`."""
    import depth_steps  # needs Numba, as no other arm does

    crf = depth_steps.DepthStepCRF(labels, sparse_neighbourhood(options.radius), **DECODING)
    depth_steps.seed_draws(seed)
    acceptance: list[float] = []
    groups = [
        {"params": crf.parameters(), "lr": options.table_lr},
        {"params": network.parameters(), "lr": options.network_lr},
    ]

    def loss_of(index: Tensor, depth: Tensor, target: Tensor) -> Tensor:
        loss = crf.loss(network(depth), depth, target, index, options.sweeps)
        acceptance.append(crf.acceptance)
        return loss

    def facts_of(epoch: int) -> dict[str, float]:
        most = float(crf.tables.detach().abs().max())
        changed = statistics.fmean(acceptance)
        acceptance.clear()
        gap = crf.gap(frames, crf.chains)
        if options.restart and epoch % options.restart == 0:
            crf.chains.clear()
        return {"gap": gap, "max table": most, "acceptance": changed}

    log = fit(
        groups, frames, epochs, loss_of, name="depth steps", averaged=[network, crf],
        facts_of=facts_of,
    )  # fmt: skip
    drawn = {}
    with torch.no_grad():
        for index, depth, _ in frames.batches(BATCH, shuffled=False):
            for number, one in zip(index.tolist(), network(depth), strict=True):
                drawn[number], _ = crf.draw(one, crf.steps[number], None, FRESH_SWEEPS)
    return crf, log, {"fresh gap": crf.gap(frames, drawn)}


# --- decoding ------------------------------------------------------------------------------------


@torch.no_grad()
def predictions(frames: Frames, label_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the predicted labels [N, H, W] of all frames."""
    return torch.cat([label_of(depth) for _, depth, _ in frames.batches(BATCH, shuffled=False)])


def clone(network: nn.Module) -> nn.Module:
    """Return a copy of a network that has ended its first stage."""
    return copy.deepcopy(network).eval()


def flatness(log: Log) -> float | None:
    """Return the mean gap of the log's last quarter over that of the quarter before it.

    Near 1, learning has converged. None if the log is too short.
    """
    quarter = len(log) // 4
    if quarter == 0:
        return None
    gaps = [entry["gap"] for entry in log]
    return statistics.fmean(gaps[-quarter:]) / statistics.fmean(gaps[-2 * quarter : -quarter])
