"""Compare a CNN, CRF-RNN and GibbsCRF on body parts in depth frames, with all choices made apart.

The experiment of "A Generic CNN-CRF Model for Semantic Segmentation" (2015), section 4:

    python examples/body_parts/make_frames.py --out frames
    python examples/body_parts/study.py search --data frames
    python examples/body_parts/study.py run --data frames --seeds 0 1 2 3 4
    python examples/body_parts/study.py table --out body_parts_results

`search` chooses rates, bandwidths and weights on the split "choose". `run` trains every arm with
every seed and scores it on the split "report": seed 0 of all arms first, then seed 1. Both print
the estimated hours first (`--estimate` prints no more than that), write one small file for each
trial or run that has ended, and go on after the last of them when started again. `table` prints the
table from these files, or without --out the one of the README; `figure` draws frames and learned
tables.

frames.py describes the layout of the folder of frames.
"""

import argparse
import contextlib
import io
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not occupy processors

import report  # noqa: E402
import torch  # noqa: E402
from arms import (  # noqa: E402
    ARMS, GROUPS, INFERENCE_TRIALS, SEARCHES, SEARCH_SEED, Arm, Settings, Study, describe,
    mean_seconds, run_arm, run_search, train,
)  # fmt: skip
from frames import Frames  # noqa: E402
from networks import NETWORKS  # noqa: E402

HERE = Path(__file__).parent
ALL_SEARCHES = ["cnn", "disconnected", "crfrnn", "gibbs", "disconnected-unguided", "unguided",
                "separate-cnn", "ascent"]  # fmt: skip
REHEARSED = 8  # frames of the rehearsal that times an arm
# Values of a rehearsal, where no search has ended yet.
TYPICAL = {
    "cnn": {"network_lr": 1e-3}, "crfrnn": {"lr": 1e-2, "network_lr": 1e-3},
    "gibbs": {"table_lr": 0.01, "network_lr": 1e-3},
    "disconnected": {"theta_alpha": 8, "theta_beta": 10, "theta_gamma": 3},
}  # fmt: skip


class Rehearsal(Study):
    """A study of a few frames, which keeps and reads no files."""

    def __init__(self, study: Study) -> None:
        self.settings, self.labels, self.names = study.settings, study.labels, study.names
        self.train = shortened(study.train)

    def kept(self, name, network, train, **further):
        return network.eval()

    def best(self, search):
        return TYPICAL["disconnected" if search.startswith("disconnected") else search]


def shortened(frames: Frames) -> Frames:
    """Return the first frames of a split."""
    found = Frames.__new__(Frames)
    found.depth, found.labels = frames.depth[:REHEARSED], frames.labels[:REHEARSED]
    return found


def seconds_of(study: Study, arm: Arm, epochs: int, scored: int) -> float:
    """Return the estimated duration of training an arm and decoding `scored` frames.

    Measured on a few frames, with one epoch and with two.
    """
    rehearsal = Rehearsal(study)
    values = TYPICAL["gibbs" if arm.kind == "depth" else arm.kind]
    if arm.kind == "cnn":
        rehearsal.kept = lambda name, network, train, **further: (train(), network.eval())[1]
        rehearsal.first = lambda seed: study.network().eval()
    times = []
    for count in (1, 2):
        begin = time.process_time()
        with contextlib.redirect_stdout(None):
            trained = train(rehearsal, arm, 0, values, count)
        times.append(time.process_time() - begin)
    begin = time.process_time()
    with torch.no_grad():
        trained.decoders[""](rehearsal.train.depth)
    decoding = (time.process_time() - begin) / REHEARSED
    epoch = max(times[1] - times[0], 0.0)
    training = (epochs * epoch + max(times[0] - epoch, 0.0)) / REHEARSED
    return training * len(study.train) + decoding * scored


def estimate(study: Study, options: argparse.Namespace) -> float:
    """Return the estimated seconds of what is left of a command; print them for each part."""
    frames = {name: len(split) for name, split in study.splits.items()}
    settings, total = study.settings, 0.0
    if options.command == "search":
        for name in options.searches:
            found = study.read(f"search-{name}") or {}
            dense = name.startswith("disconnected")
            count = INFERENCE_TRIALS if dense else sum(map(len, SEARCHES[name]))
            if "best" in found and len(found["trials"]) >= count:
                print(f"  search of {name}: done, in {study.out}")
                continue
            arm = ARMS["disconnected" if dense else name]
            one = seconds_of(study, arm, settings.search_epochs, frames["choose"])
            left = one * (count - len(found.get("trials", ())))
            print(f"  search of {name}: {left / 3600:.2f} hours")
            total += left
        return total
    scored = frames["report"]
    for name in options.arms:
        left = sum(study.run_of(name, seed) is None for seed in options.seeds)
        if left < len(options.seeds):
            print(f"  {ARMS[name].title}: {len(options.seeds) - left} runs are in {study.out}")
        if not left:
            continue
        one = mean_seconds(study, name) or seconds_of(
            study, ARMS[name], ARMS[name].epochs or settings.epochs, scored)  # fmt: skip
        print(f"  {ARMS[name].title}: {left} runs of {one / 60:.1f} minutes")
        total += left * one
    return total


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that train."""
    parser.add_argument("--data", type=Path, required=True, help="folder of make_frames.py")
    parser.add_argument(
        "--work", type=Path, default=Path("body_parts_work"),
        help="folder for trained networks and predicted labels, which may be large",
    )  # fmt: skip
    parser.add_argument("--estimate", action="store_true", help="print the hours and stop")
    defaults = Settings()
    parser.add_argument("--network", choices=list(NETWORKS), default=defaults.network)
    for name, meaning in (
        ("width", "channels of the network's first level"),
        ("first_epochs", "epochs of the network alone, from which all arms start"),
        ("epochs", "epochs of the second stage"),
        ("search_epochs", "epochs of the second stage in a search"),
        ("most", "maximum frames per split; 0: all"),
    ):
        parser.add_argument(
            "--" + name.replace("_", "-"), type=int, default=getattr(defaults, name), help=meaning
        )


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {
        "search": commands.add_parser("search", help="choose settings on the split 'choose'"),
        "run": commands.add_parser("run", help="train the arms and score them"),
        "table": commands.add_parser("table", help="print the table of the results"),
        "figure": commands.add_parser("figure", help="draw frames and tables of one seed"),
    }
    for name, sub in parsers.items():
        ours = HERE / "results" / "local"
        sub.add_argument(
            "--out", type=Path, default=ours if name == "table" else Path("body_parts_results"),
            help="folder of the results"
            + ("; by default that of the README's" if name == "table" else ""),
        )  # fmt: skip
        if name in ("search", "run", "figure"):
            add_study_arguments(sub)
    parsers["search"].add_argument(
        "--searches", nargs="+", choices=ALL_SEARCHES, default=ALL_SEARCHES)  # fmt: skip
    parsers["run"].add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parsers["run"].add_argument(
        "--arms", nargs="+", choices=[*GROUPS, *ARMS], default=list(GROUPS),
        help="arms, or groups of arms")  # fmt: skip
    parsers["figure"].add_argument("--seed", type=int, default=0)
    parsers["figure"].add_argument("--images", type=Path, default=Path("."), help="output folder")
    parsers["table"].add_argument("--readme", type=Path, help="replace the table in this file")
    options = parser.parse_args()

    if options.command == "table":
        return report.table(options.out, options.readme)
    settings = Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)})
    study = Study(options.data, options.out, options.work, settings)
    print(describe(study), flush=True)
    if options.command == "figure":
        return report.figures(study, options.seed, options.images)
    if options.command == "run":
        named = [n for a in options.arms for n in GROUPS.get(a, [a])]
        options.arms = list(dict.fromkeys(named))
    hours = estimate(study, options) / 3600
    print(f"{hours:.2f} hours in all, on {torch.get_num_threads()} threads", flush=True)
    if options.estimate:
        return None
    if options.command == "search":
        for name in options.searches:
            run_search(study, name)
        return None
    if SEARCH_SEED in options.seeds:
        raise SystemExit(f"seed {SEARCH_SEED} is the searches'; choose another")
    for seed in options.seeds:
        for name in options.arms:
            if study.run_of(name, seed) is None:
                print(f"{ARMS[name].title}, seed {seed}", flush=True)
                study.write(f"{name}-seed{seed}", run_arm(study, name, seed))
    return None


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # redirected, it may lack the signs of a table
        sys.stdout.reconfigure(encoding="utf-8")
    main()
