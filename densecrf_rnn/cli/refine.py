"""`densecrf-rnn refine`: refine a folder of saved logits into label maps or marginals.

`_refining` does the work on one file, `_tiling` in tiles; `_inputs` finds and reads the files;
`_options` says which options a result depends on, and `files.record` keeps them.
"""

import argparse
import contextlib
import datetime
import errno
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import __version__, engines, files
from ..files.record import FolderInUseError, Record
from . import UserError, _types, make_folder, progress, require, user_errors
from ._crf_options import PRUNE_LABELS, add_crf_options, add_engine_options
from ._inputs import Inputs, add_input_options
from ._messages import Messages, add_message_options, by_kind, named, reason_of, to_stderr
from ._options import difference
from ._parallel import finished, keep_memory
from ._refining import Refining
from ._regions import add_region_options
from ._tiling import add_tile_options, refining
from .info import installed

RECORD = "refine"  # refine.json in the output folder
# Files in memory besides those being refined: one that is being read and one being written.
_AHEAD = 2
# Bytes; larger freed arrays, such as those of volumes, are returned to the operating system.
_LARGEST_KEPT = 2**27
# Errors that every other file would raise too: disk full, quota exceeded, read-only.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# Errors that concern one output only: its name, its size, or what is already there.
_OF_FILE = {
    errno.ENAMETOOLONG, errno.EFBIG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT,
    errno.EACCES, errno.EPERM,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_input_options(parser)
    add_crf_options(parser)
    add = parser.add_argument_group("output").add_argument
    add("-o", "--out", **_types.FOLDER, required=True, help="output folder, created if needed")
    add("--write", choices=("labels", "marginals", "both", "saliency"), default="labels",
        help="label maps (.png; GeoTIFF if the image is one; for volumes .nii.gz if the image is "
        "NIfTI, else .npy), marginals (.npz), both, or the probability of one foreground as grey "
        "values (.png; default: %(default)s)")
    add("--palette", type=_types.place, metavar="NAME",
        help="colours of label maps in .png: none (8-bit grey, which OpenCV reads as labels), voc, "
        "or a file as for --colours (default: those of the input label map or of --colours; none "
        "with --label-values; else voc)")
    add("--dtype", choices=("float16", "float32"),
        help="dtype of the marginals (default: float16, with --tile float32)")
    add("--remove-small", **_types.COUNT,
        help="after refining, merge connected regions of fewer than N pixels into their neighbours")
    add_region_options(parser.add_argument_group("regions that overlap"))
    add_tile_options(parser)
    group = parser.add_argument_group("execution")
    group.add_argument(
        "--workers", **_types.COUNT,
        help=f"images refined at once; {_AHEAD} more are in memory (default: one per processor)",
    )  # fmt: skip
    add_engine_options(
        group, "threads for each image (default: the processors, divided among the workers)"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="list the files that would be refined; write nothing"
    )
    add_message_options(parser)


def run(args: argparse.Namespace) -> int:
    """Refine the files that are not done yet; return 1 if a file failed."""
    require("refine", "tqdm")
    inputs = Inputs(args)
    how = {"backend": engines.resolve(args.backend), **_shares(args, len(inputs.found))}
    if args.prune is None:
        args.prune = PRUNE_LABELS if args.write == "labels" and how["backend"] == "cpu" else 0.0
    if not 0 <= args.prune < 0.5:  # each file is checked with its number of labels
        raise UserError(
            f"--prune is {args.prune:g}; it must be at least 0 and below 1/L for L labels, so "
            "below 0.5; 0 is exact, and 1e-3 leaves out much and changes little"
        )
    engines.check_pruning(args.backend, args.prune)
    work = refining(args, inputs, how["workers"], how["threads"])
    if args.dry_run:
        return _show(inputs, work, how)

    record = _open_record(args.out, work.options())
    work.make_folders()
    for count, options in record.outdated(match.stem for match in inputs.found):
        files_are = "1 file is" if count == 1 else f"{count} files are"
        if not args.quiet:
            print(f"{files_are} done again: {difference(options, record.options)}", flush=True)
    counts: Counter[str] = Counter()
    failed: dict[str, str] = {}
    start, begin = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()

    def close(stopped: str | None) -> float:
        seconds = time.perf_counter() - begin
        record.close(
            densecrf_rnn=__version__, command=shlex.join(sys.argv),
            started=start.isoformat(timespec="seconds"), seconds=round(seconds, 3),
            stopped=stopped, counts=dict(counts), failed=failed, missing=inputs.missing, **how,
            versions=_versions(), platform=platform.platform(),
        )  # fmt: skip
        return seconds

    keep_memory(_LARGEST_KEPT)
    try:
        _refine_all(args, inputs, work, record, how["workers"] + _AHEAD, counts, failed)
    except BaseException as error:
        with contextlib.suppress(OSError):  # e.g. disk full; the journal remains
            close(str(error) or type(error).__name__)
        raise
    if not args.quiet:
        for sentence in work.vanished.sentences(inputs.regions):
            to_stderr(f"densecrf-rnn refine: warning: {sentence}")
    return _report(args, close(None), counts, failed, inputs.missing)


def _refine_all(
    args: argparse.Namespace, inputs: Inputs, refining: Refining, record: Record, threads: int,
    counts: Counter[str], failed: dict[str, str],
) -> None:  # fmt: skip
    """Refine every file and count the outcomes; a file that fails does not stop the others."""

    def work(match: files.Match) -> str:
        messages.about(match.stem)
        return refining(match, record)

    with progress(args.quiet, total=len(inputs.found), unit="file", dynamic_ncols=True) as bar:
        # `tune` found theta_beta by its score, so a rule of thumb has nothing to add
        known = "give --theta-beta " if refining.settings.tuned else None
        messages = Messages(args, lambda line: bar.write(line, file=sys.stderr), without=known)
        with (
            messages.printed(),
            contextlib.closing(finished(work, inputs.found, threads)) as outcomes,
        ):
            _count_outcomes(args.out, outcomes, bar, counts, failed)


def _count_outcomes(
    out: Path, outcomes: Iterable[tuple[files.Match, str | Exception]], bar: Any,
    counts: Counter[str], failed: dict[str, str],
) -> None:  # fmt: skip
    for match, outcome in outcomes:
        bar.update()
        if not isinstance(outcome, Exception):
            counts[outcome] += 1
            continue
        if isinstance(outcome, ImportError):  # every other file would fail too
            raise UserError(str(outcome)) from outcome
        reason = failed[match.stem] = reason_of(match, outcome)
        counts["failed"] += 1
        if _is_of_disk(outcome, out):
            raise UserError(
                f"{reason}; finished files are kept, and the same command resumes after them"
            ) from outcome


def _is_of_disk(error: Exception, out: Path) -> bool:
    """Return whether every other file would raise an error too, because of the disk of `out`."""
    if not isinstance(error, OSError):
        return False
    of_output = error.filename is not None and Path(error.filename).is_relative_to(out)
    return error.errno in _NO_ROOM or (of_output and error.errno not in _OF_FILE)


def _shares(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Return the number of workers and the number of threads of each worker.

    With many images, one thread per image is the most efficient.
    """
    processors = engines.default_threads()
    workers = args.workers or min(max(1, processors // (args.threads or 1)), count)
    if args.tile is not None and args.workers is None:
        workers = 1  # all threads work on one tile, so only one tile is in memory
    return {"workers": workers, "threads": args.threads or max(1, processors // workers)}


def _open_record(out: Path, options: dict[str, Any]) -> Record:
    make_folder(out, "--out")
    try:
        with user_errors(FolderInUseError, ValueError):
            return Record(out, RECORD, options)
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}") from error


def _show(inputs: Inputs, refining: Refining, how: dict[str, Any]) -> int:
    """Print what a run would do."""
    there = 0
    for match in inputs.found:
        outputs = refining.outputs(match)
        present = all(path.is_file() for path in outputs)
        there += present
        line = f"{' + '.join(map(str, match.paths))} -> {', '.join(map(str, outputs))}"
        print(line + (" (exists)" if present else ""))
    for sentence in inputs.missing:
        print(f"left out: {sentence}")
    settings = refining.settings
    print(
        f"{len(inputs.found)} to refine, of which {there} have outputs (kept if made from the same "
        f"files with the same options), {len(inputs.missing)} left out; {settings.params}, "
        f"{settings.iterations} iterations, {how['workers']} at once, {how['threads']} threads "
        f"each, backend {how['backend']}. Nothing was written."
    )
    return 1 if inputs.missing else 0


def _report(
    args: argparse.Namespace, seconds: float, counts: Counter[str], failed: dict[str, str],
    missing: list[str],
) -> int:  # fmt: skip
    """Print what was done, and each kind of failure once; return the exit status."""
    refined = counts["refined"]
    rate = f" ({refined / seconds:.1f} a second)" if refined else ""
    if not args.quiet:
        print(
            f"{refined} refined in {seconds:.1f} s{rate}, {counts['as before']} were done before, "
            f"{len(failed) + len(missing)} failed. Record: {args.out / f'{RECORD}.json'}"
        )
        sys.stdout.flush()
    for reason in by_kind([*named(missing), *sorted(failed.items())], every=args.verbose):
        to_stderr(f"densecrf-rnn refine: {reason}")
    return 1 if failed or missing else 0


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that file formats may need."""
    found = {name: installed(name) for name in ("numpy", *files.PACKAGES)}
    return {"python": platform.python_version(), **{n: v for n, v in found.items() if v}}
