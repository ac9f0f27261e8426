"""Segment body parts in depth images: a CNN alone, with a GibbsCRF, and with a CRF-RNN.

The experiment of "A Generic CNN-CRF Model for Semantic Segmentation" (2015), section 4:

    python examples/body_parts/run.py --data FOLDER --out RESULTS --seeds 0 1 2

frames.py describes the layout of FOLDER. The script writes results.md to RESULTS, and for each seed
its scores, images with labels (as the paper's figure 1) and the learned tables (red attracts, blue
repels). Seeds that have results are not run again, and several may run in parallel; run the command
once more with all seeds to gather them in one table.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from frames import FAR, Frames, class_names, scores
from matplotlib import colormaps
from matplotlib.figure import Figure
from network import UNet
from torch import Tensor, nn

from densecrf_rnn import CRFRNN, CRFParams, GibbsCRF
from densecrf_rnn.files import replaced
from densecrf_rnn.gibbs import diagnose, sparse_neighbourhood
from densecrf_rnn.nn import ChainStore

BATCH = 4
# Student's t by the number of seeds: a 95 % interval is the mean +- t standard errors.
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def fit(parameters, frames, epochs, lr, loss_of, name):
    """Train by Adam with a cosine schedule; `loss_of` takes a batch's indices, depth, labels."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    steps = epochs * -(-len(frames) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(epochs):
        losses = []
        for batch in frames.batches(BATCH):
            optimizer.zero_grad()
            loss = loss_of(*batch)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"  {name}: epoch {epoch + 1} of {epochs}, loss {np.mean(losses):.4f}", flush=True)


NETWORK_LR = 3e-3
LATER_LR = NETWORK_LR / 10  # for the network in the second stage, with or without a CRF


def train_network(network, frames, epochs, lr, name):
    """Train the network alone by cross-entropy, which is the likelihood of a CRF without edges."""

    def loss_of(index, depth, target):
        return nn.functional.cross_entropy(network(depth), target)

    fit(network.parameters(), frames, epochs, lr, loss_of, name)
    return network


def train_gibbs(network, frames, labels, options, separate):
    """Train a GibbsCRF on a trained network's logits; unless `separate`, the network as well."""
    network = copy.deepcopy(network)
    crf = GibbsCRF(labels, sparse_neighbourhood(options.radius), sweeps=100, burn_in=100)
    store = ChainStore(options.seed)
    network.requires_grad_(not separate)
    groups = [{"params": crf.parameters(), "lr": options.table_lr}]
    if not separate:
        groups.append({"params": network.parameters(), "lr": LATER_LR})

    def loss_of(index, depth, target):
        logits = network(depth)
        chains = store.chains(index, logits)
        loss = crf.loss(logits, target, chains, sweeps=options.sweeps)
        store.keep(chains)
        return loss

    name = "separate" if separate else "end to end"
    fit(groups, frames, options.crf_epochs, options.table_lr, loss_of, name)
    return network, crf


def train_crfrnn(network, frames, labels, options):
    """Train the network with a CRF-RNN end to end; the guide is the depth in cm."""
    network = copy.deepcopy(network)
    params = CRFParams(theta_alpha=8, theta_beta=10, theta_gamma=3, w_bilateral=1, w_spatial=1)
    crf = CRFRNN(labels, params=params)
    groups = [{"params": crf.parameters()}, {"params": network.parameters(), "lr": LATER_LR}]

    def loss_of(index, depth, target):
        return nn.functional.cross_entropy(crf(network(depth), centimetres(depth)), target)

    fit(groups, frames, options.crf_epochs, 1e-2, loss_of, "CRF-RNN")
    return network, crf.eval()


def centimetres(depth: Tensor) -> Tensor:
    """Return the guide of the appearance kernel, [B, 1, H, W]: the depth in cm."""
    return depth[:, :1] * (FAR * 100)


@torch.no_grad()
def predictions(frames, label_of) -> Tensor:
    """Return the predicted labels [N, H, W] of all frames."""
    return torch.cat([label_of(depth) for _, depth, _ in frames.batches(BATCH, shuffled=False)])


def run(train, held_out, labels, options):
    """Run all methods with one seed; return predictions and the GibbsCRF trained end to end."""
    torch.manual_seed(options.seed)
    network = UNet(labels, options.width)
    cnn = train_network(network, train, options.epochs, NETWORK_LR, "CNN")
    cnn.eval()  # from here on, batch normalisation uses its running mean and variance
    alone = train_network(
        copy.deepcopy(cnn), train, options.crf_epochs, LATER_LR, "CNN, trained as long as others"
    )
    found = {"CNN alone": predictions(held_out, lambda depth: alone(depth).argmax(1))}
    network, crfrnn = train_crfrnn(cnn, train, labels, options)
    found["CRF-RNN, end to end"] = predictions(
        held_out, lambda depth: crfrnn(network(depth), centimetres(depth)).argmax(1)
    )
    for separate in (True, False):
        network, crf = train_gibbs(cnn, train, labels, options, separate)
        name = "GibbsCRF, " + ("separate" if separate else "end to end")
        found[name] = predictions(held_out, lambda depth: crf.decode(network(depth)))
    with torch.no_grad():
        logits = network(held_out.depth[:1])[0].numpy()
    tables, offsets = crf.tables.detach().numpy(), crf.offsets.numpy()
    print("  on a validation frame,", diagnose(logits, tables, offsets, sweeps=50, burn_in=50))
    return found, crf


def interval(values):
    """Return the mean and half the width of its 95 % interval, or None for a single seed."""
    if len(values) < 2:
        return values[0], None
    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), T_95.get(len(values), 2.6) * spread


def written(values, digits):
    """Return mean and interval as text."""
    mean, half = interval(values)
    return f"{mean:{digits}}" + ("" if half is None else f" ± {half:.1f}")


def draw_parts(path, held_out, found, labels):
    """Plot depth, true labels and the predictions of each method for a few frames."""
    columns = {"depth": held_out.depth[:, 0], "truth": held_out.labels, **found}
    rows = min(4, len(held_out))
    figure = Figure(figsize=(2.2 * len(columns), 1.8 * rows))
    axes = figure.subplots(rows, len(columns), squeeze=False)
    colours = colormaps["tab20"].resampled(labels)
    for row, number in enumerate(np.linspace(0, len(held_out) - 1, rows).astype(int)):
        for axis, (name, images) in zip(axes[row], columns.items(), strict=True):
            if name == "depth":
                axis.imshow(images[number], cmap="gray_r")
            else:
                seen = np.ma.masked_equal(images[number], 0)  # leaves the background white
                options = {"vmin": -0.5, "vmax": labels - 0.5, "interpolation": "nearest"}
                axis.imshow(seen, cmap=colours, **options)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(name, fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def draw_tables(path, crf, names):
    """Plot each offset's table: rows are a pixel's label, columns the label at the offset."""
    tables, offsets = crf.tables.detach().numpy(), crf.offsets.tolist()
    columns = 4
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    most = float(np.abs(tables).max()) or 1.0
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, table, (down, right) in zip(axes.flat, tables, offsets):
        axis.set_axis_on()
        image = axis.imshow(table, cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title(f"{down} down, {right} right", fontsize=8)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=4)
        axis.set_yticks(range(len(names)), names, fontsize=4)
    figure.colorbar(image, ax=axes, shrink=0.4, label="score: red attracts, blue repels")
    figure.savefig(path, dpi=120)


def main():
    """Read the arguments, run every seed and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the frames")
    parser.add_argument("--out", type=Path, default=Path("body_parts"), help="results folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the CNN alone")
    parser.add_argument("--crf-epochs", type=int, default=8, help="epochs of the second stage")
    parser.add_argument("--width", type=int, default=16, help="channels of the CNN's first level")
    parser.add_argument("--radius", type=int, default=16, help="longest offset of the GibbsCRF")
    parser.add_argument("--table-lr", type=float, default=0.003, help="learning rate of the tables")
    # A frame's chain advances once per epoch, and successive sweeps are correlated.
    parser.add_argument("--sweeps", type=int, default=10, help="sweeps per training step")
    parser.add_argument("--shrink", type=int, default=1, help="use every Nth row and column")
    parser.add_argument("--most", type=int, default=0, help="maximum frames per split (0: all)")
    parser.add_argument("--splits", nargs=2, default=["train", "val"], metavar=("TRAIN", "TEST"))
    parser.add_argument("--depth-folder", default="depth")
    parser.add_argument("--label-folder", default="label")
    options = parser.parse_args()
    names = class_names(options.data)
    folders = (options.depth_folder, options.label_folder, options.most, options.shrink)
    train, held_out = (Frames(options.data / split, *folders) for split in options.splits)
    if int(max(train.labels.max(), held_out.labels.max())) >= len(names):
        raise SystemExit(f"a frame has a label above {len(names) - 1}, the last in classes.txt")

    options.out.mkdir(parents=True, exist_ok=True)
    settings = {k: str(v) for k, v in vars(options).items() if k not in ("data", "out", "seeds")}
    seeds = sorted(set(options.seeds))
    paths = {seed: options.out / f"seed{seed}.json" for seed in seeds}
    for path in paths.values():
        if path.exists() and json.loads(path.read_text())["settings"] != settings:
            raise SystemExit(f"{path} has other settings; remove it or choose another --out")
    for options.seed, path in paths.items():
        if path.exists():  # from an earlier run, or one in parallel
            continue
        print(f"seed {options.seed}: {len(train)} training, {len(held_out)} validation frames")
        start = time.monotonic()
        found, crf = run(train, held_out, len(names), options)
        hours = (time.monotonic() - start) / 3600
        draw_parts(options.out / f"parts-seed{options.seed}.png", held_out, found, len(names))
        draw_tables(options.out / f"tables-seed{options.seed}.png", crf, names)
        each = {k: scores(v, held_out.labels, len(names)) for k, v in found.items()}
        with replaced(path) as part:
            part.write_text(json.dumps({
                "settings": settings, "hours": hours, "threads": torch.get_num_threads(),
                "scores": each,
            }))  # fmt: skip
    report(options.out, seeds)


def report(folder, seeds):
    """Print the table of all seeds and write it as results.md.

    Numbers in brackets are gains over the first method, computed per seed, as all methods of a seed
    start from the same network.
    """
    runs = [json.loads((folder / f"seed{seed}.json").read_text()) for seed in seeds]
    methods = runs[0]["scores"]
    measures = list(next(iter(methods.values())))
    lines = ["| percent | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for method in methods:
        cells = []
        for measure in measures:
            values = [run["scores"][method][measure] for run in runs]
            first = [run["scores"][next(iter(methods))][measure] for run in runs]
            cell = written(values, ".1f")
            if values != first:
                cell += f" ({written([a - b for a, b in zip(values, first, strict=True)], '+.1f')})"
            cells.append(cell)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    hours = sum(run["hours"] for run in runs)
    threads = ", ".join(sorted({str(run["threads"]) for run in runs}))
    lines += ["", f"Seeds {', '.join(map(str, seeds))}; {hours:.1f} hours, CPU threads: {threads}; "
              "intervals: 95 %, Student's, over seeds."]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    with replaced(folder / "results.md") as part:
        part.write_text(text)


if __name__ == "__main__":
    main()
