"""``python -m tests.fuzz``: run random calls; exit status 1 if any of them fails."""

import argparse
import sys

from . import driver


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, help="number of calls of the package")
    parser.add_argument("--seconds", type=float, help="time limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="NAME", help="run one property, or those of a module")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="run one problem again")
    parser.add_argument("--no-torch", action="store_true", help="leave the torch layer out")
    parser.add_argument("--part", metavar="I/N", default="0/1", help="run every Nth problem")
    parser.add_argument("--threads", type=int, default=2, help="largest number of threads")
    parser.add_argument("--large", type=float, default=0.01, help="share of large images")
    args = parser.parse_args()
    api = driver.Api(not args.no_torch, args.threads, args.large)
    if args.replay is not None:
        seed, index = map(int, args.replay.split(":"))
        failure = driver.run_one(seed, index, api, args.only)
        print(failure or "no failure")
        return int(failure is not None)
    if args.calls is None and args.seconds is None:
        args.calls = 10_000
    part, parts = map(int, args.part.split("/"))
    outcome = driver.run(
        args.seed, args.calls, args.seconds, api, args.only, part, parts,
        lambda failure: print(failure, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(
        f"{outcome.calls:,} calls in {outcome.problems:,} problems of seed {args.seed} "
        f"({args.part}), {outcome.seconds:.0f} s: {len(outcome.failures)} failures; "
        f"resident MB {[m // 1024 for m in outcome.memory]}, "
        f"descriptors {outcome.descriptors}"
    )
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
