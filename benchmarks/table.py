"""Write the tables of docs/performance.md as markdown from one run of the benchmarks.

    pytest benchmarks/ --results results.json
    python benchmarks/table.py results.json --into docs/performance.md    # or without, to print
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from measure import HEADER, Row, cells


BEGIN, END = "<!-- tables: benchmarks/table.py -->", "<!-- end of tables -->"


class Target(NamedTuple):
    """A figure to reach: `must` is required, `aim` desired."""

    what: str
    case: str
    whos: tuple[str, ...]
    threads: int
    must: float
    aim: float
    # "speed": the peer's time over ours; "backward": backward over forward time; "memory": MB
    kind: str = "speed"


OURS = ("ours, lattice", "ours, grid")
TARGETS = [
    Target("forward wide", "forward 500x500 wide L=21 T=5", OURS, 1, 6, 9),
    Target("forward tight", "forward 500x500 tight L=21 T=5", OURS, 1, 3.5, 6),
    Target("forward wide", "forward 500x500 wide L=21 T=5", OURS, 2, 11, 16),
    Target("forward tight", "forward 500x500 tight L=21 T=5", OURS, 2, 6, 10),
    *[
        Target(f"build {name}", f"build 500x500 {name}", (who,), 1, 6, 9)
        for name in ("wide", "tight")
        for who in ("ours, from features", "ours, from image, and normaliser")
    ],
    Target("L=2 wide", "forward 500x500 wide L=2 T=5", OURS, 1, 6, 14),
    Target("L=2 tight", "forward 500x500 tight L=2 T=5", OURS, 1, 6, 14),
    Target("1024x2048 wide", "forward 1024x2048 wide L=19 T=5", OURS, 2, 9, 14),
    Target("1024x2048 tight", "forward 1024x2048 tight L=19 T=5", OURS, 2, 6, 10),
    *[
        Target(f"backward / forward {name}", f"training 500x500 {name} L=21 T=5, stored",
               ("backward",), threads, 1.4, 1.2, "backward")
        for name in ("wide", "tight")
        for threads in (1, 2)
    ],
    *[
        Target(f"folder, {stored}", f"folder of 500x500 wide L=21 T=5, {stored}",
               tuple(f"densecrf-rnn refine, {spatial}" for spatial in ("lattice", "grid")), 2, 6, 6)
        for stored in ("full", "coarse")
    ],
    *[
        Target(f"peak memory {name}", f"forward 500x500 {name} L=21 T=5", OURS, threads,
               80, 50, "memory")
        for name in ("wide", "tight")
        for threads in (1, 2)
    ],
    *[
        Target(f"Gibbs sweeps, {name}", f"50 Gibbs sweeps {size}, {name}", ("ours",), threads,
               must, aim)
        for size, name in (("120x160", "20 labels, 12 classes"),
                           ("120x160", "20 labels, 16 long classes"),
                           ("240x320", "8 labels, 12 classes"),
                           ("240x320", "2 labels, 4 classes"))
        for threads, must, aim in ((1, 5, 6), (2, 9, 12))
    ],
]  # fmt: skip


def measured(target: Target, row: Row) -> float | None:
    if target.kind == "memory":
        return row.memory
    if row.ratio is None:
        return None
    return row.ratio if target.kind == "speed" else 1 / row.ratio


def verdict(target: Target, value: float) -> str:
    """Say which of the two figures was reached."""
    sign = 1 if target.kind == "speed" else -1
    if sign * value >= sign * target.aim:
        return "aim"
    return "must" if sign * value >= sign * target.must else "**missed**"


def targets(rows: list[Row]) -> list[list[str]]:
    """Return a line per target and contender that ran."""
    units = {"speed": "{:.3g}x", "backward": "{:.3g}", "memory": "{:.3g} MB"}
    lines = [["target", "who", "threads", "M", "must", "aim", "measured", "reached"]]
    found = {(row.case, row.who, row.threads): row for row in rows}
    for target in TARGETS:
        for who in target.whos:
            row = found.get((target.case, who, target.threads))
            value = row and measured(target, row)
            if row is None or value is None:
                continue
            figures = [units[target.kind].format(x) for x in (target.must, target.aim, value)]
            reached = verdict(target, value)
            vertices = f"{row.vertices:,}" if row.vertices else "-"  # a grid CRF has no lattice
            lines.append([target.what, who, str(target.threads), vertices, *figures, reached])
    return lines


def markdown(lines: list[list[str]]) -> str:
    """Return a markdown table whose header is the first line."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    escaped.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def tables(results: dict) -> str:
    """Return all tables of a run."""
    rows = [Row(**row) for row in results["rows"]]
    timed = [row for row in rows if row.milliseconds]
    facts = [[row.case, row.who, row.note] for row in rows if not row.milliseconds]
    runs = sorted({len(row.milliseconds or ()) for row in timed})
    machine = "; ".join(f"{name} {value}" for name, value in results["machine"].items())
    parts = [
        f"{machine}. Medians and quartiles of {runs[0]} to {runs[-1]} runs.",
        "### Targets",
        markdown(targets(rows)),
        "### Time and memory",
        markdown([HEADER, *map(cells, timed)]),
        "### Agreement and accuracy",
        markdown([["case", "who", "result"], *facts]),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="file written by pytest benchmarks/ --results")
    parser.add_argument("--into", type=Path, help="document in which to replace the tables")
    args = parser.parse_args()
    text = tables(json.loads(args.results.read_text()))
    if args.into is None:
        print(text)
        return
    before, rest = args.into.read_text().split(BEGIN)
    after = rest.split(END)[1]
    args.into.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
