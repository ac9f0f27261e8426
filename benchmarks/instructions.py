"""Count the instructions of single calls with callgrind.

A count varies by less than 0.1 % from run to run, whatever else the machine does, so it shows a
change of 1 % where a time cannot. Each case runs twice in a fresh process, with 1 call and with 3
calls; half the difference is the cost of one warm call, without imports and first-call set-up.

    python benchmarks/instructions.py --out after.json --against before.json
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout, also where another one is installed

FEW, MANY = 1, 3  # calls in the two runs of a case
ITERATIONS = 5
FIXED = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # valgrind cannot run AVX-512; without this the choice would depend on its version.
    "DENSECRF_RNN_ISA": "avx2",
    "PYTHONDONTWRITEBYTECODE": "1",
}
Call = Callable[[], object]


def inputs() -> dict[str, np.ndarray]:
    """Return the 128 x 128 image and logits of all cases, and the features of its lattice."""
    from problems import WIDE, Problem

    wide, two = Problem(size=(128, 128), params=WIDE), Problem(size=(128, 128), labels=2)
    return {
        "image": wide.image,
        "logits": wide.logits,
        "two": two.logits,
        "features": wide.features(),
        "channels": np.random.default_rng(0).random((128 * 128, 21), np.float32),
    }


def refined(settings: str, logits: str = "logits", side: int = 128) -> Callable[[dict], Call]:
    """Return a case that refines a side x side corner of the inputs on one thread."""

    def prepare(given: dict[str, np.ndarray]) -> Call:
        import problems

        from densecrf_rnn import refine

        params = getattr(problems, settings)
        image = np.ascontiguousarray(given["image"][:side, :side])
        u = np.ascontiguousarray(given[logits][:, :side, :side])
        return lambda: refine(
            u, image, params, iterations=ITERATIONS, threads=1, backend="cpu"
        )

    return prepare


def filtered(given: dict[str, np.ndarray]) -> Call:
    """Return a call that filters 21 channels on a lattice that is built outside of it."""
    from densecrf_rnn import PermutohedralLattice

    lattice = PermutohedralLattice(given["features"], threads=1, backend="cpu")
    return lambda: lattice.filter(given["channels"])


def layer(side: int, training: bool) -> Callable[[dict], Call]:
    """Return a case that calls CRFRNN, with the backward pass if training."""

    def prepare(given: dict[str, np.ndarray]) -> Call:
        import problems
        import torch

        from densecrf_rnn import CRFRNN

        torch.set_num_threads(1)
        torch.set_grad_enabled(training)
        crf = CRFRNN(21, params=problems.WIDE, iterations=ITERATIONS).train(training)
        logits = torch.from_numpy(np.ascontiguousarray(given["logits"][:, :side, :side]))[None]
        image = torch.from_numpy(np.ascontiguousarray(given["image"][:side, :side]))
        image = image.movedim(-1, 0)[None].float().contiguous()
        logits.requires_grad_(training)
        cotangent = torch.ones_like(logits)

        def step() -> None:
            crf(logits, image).backward(cotangent)

        return step if training else lambda: crf(logits, image)

    return prepare


CASES: dict[str, Callable[[dict[str, np.ndarray]], Call]] = {
    "refine 128x128 wide L=21 T=5": refined("WIDE"),
    "refine 128x128 tight L=21 T=5": refined("TIGHT"),
    "refine 128x128 wide L=2 T=5": refined("WIDE", "two"),
    "refine one pixel L=21 T=5": refined("WIDE", side=1),
    "filter 128x128 wide, 21 channels": filtered,
    "CRFRNN forward and backward 128x128 wide L=21 T=5": layer(128, training=True),
    "CRFRNN forward and backward, one pixel": layer(1, training=True),
    "CRFRNN forward without gradients, one pixel": layer(1, training=False),
}


def child(case: str, calls: int, file: str) -> None:
    """Run one case; this is what callgrind counts."""
    with np.load(file) as archive:
        call = CASES[case](dict(archive))
    gc.collect()
    gc.disable()
    for _ in range(calls):
        call()


def total(case: str, calls: int, file: Path) -> int:
    """Return the instructions of a process that runs `case` a number of times."""
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        sys.executable, __file__, "--child", case, str(calls), str(file),
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, **FIXED}, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{case}: callgrind failed\n{done.stderr[-2000:]}")
    return int(found[1])


def main() -> None:
    """Count all cases, or those asked for; print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the counts to this file, as JSON")
    parser.add_argument("--against", type=Path, help="earlier counts: print the ratio to them")
    parser.add_argument("--only", default="", help="count the cases whose name contains this")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        case, calls, file = args.child
        return child(case, int(calls), file)
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed, and only its callgrind counts instructions")
    before = json.loads(args.against.read_text())["instructions"] if args.against else {}
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **inputs())
        for case in CASES:
            if args.only not in case:
                continue
            few, many = (total(case, calls, file) for calls in (FEW, MANY))
            counts[case] = (many - few) // (MANY - FEW)
            ratio = f"  {counts[case] / before[case]:.4f}" if case in before else ""
            print(f"{case:52} {counts[case]:>15,}{ratio}", flush=True)
    if args.out:
        from measure import commit

        facts = {"python": platform.python_version(), "numpy": np.__version__, **FIXED}
        result = {"commit": commit(), "settings": facts, "instructions": counts}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
