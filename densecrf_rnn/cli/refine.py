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
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__, engines, files
from ..files.record import FolderInUseError, Record
from . import UserError, _types, make_folder, progress, require, user_errors
from ._crf_options import add_crf_options, add_engine_options
from ._inputs import Inputs, add_input_options
from ._options import difference
from ._parallel import finished, keep_memory
from ._refining import Refining
from ._remedies import in_options
from ._tiling import add_tile_options, refining
from .info import installed

RECORD = "refine"  # refine.json in the output folder
# Files in memory besides those being refined: one that is being read and one being written.
_AHEAD = 2
# Bytes; larger freed arrays, such as those of volumes, are returned to the operating system.
_LARGEST_KEPT = 2**27
# Errors that every other file would raise too: disk full, quota exceeded, read-only.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_input_options(parser)
    add_crf_options(parser)
    add = parser.add_argument_group("output").add_argument
    add("-o", "--out", **_types.FOLDER, required=True, help="output folder, created if needed")
    add("--write", choices=("labels", "marginals", "both"), default="labels",
        help="label maps (.png; for volumes .nii.gz if the image is NIfTI, else .npy), marginals "
        "(.npz), or both (default: %(default)s)")
    add("--dtype", choices=("float16", "float32"),
        help="dtype of the marginals (default: float16, with --tile float32)")
    add("--remove-small", **_types.COUNT,
        help="after refining, merge connected regions of fewer than N pixels into their neighbours")
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


def run(args: argparse.Namespace) -> int:
    """Refine the files that are not done yet; return 1 if a file failed."""
    require("refine", "tqdm")
    inputs = Inputs(args)
    how = {"backend": engines.resolve(args.backend), **_shares(args, len(inputs.found))}
    work = refining(args, inputs, how["workers"], how["threads"])
    if args.dry_run:
        return _show(inputs, work, how)

    record = _open_record(args.out, work.options())
    for count, options in record.outdated(match.stem for match in inputs.found):
        files_are = "1 file is" if count == 1 else f"{count} files are"
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
        _refine_all(inputs, work, record, how["workers"] + _AHEAD, counts, failed)
    except BaseException as error:
        with contextlib.suppress(OSError):  # e.g. disk full; the journal remains
            close(str(error) or type(error).__name__)
        raise
    return _report(args.out, close(None), counts, failed, inputs.missing)


def _refine_all(
    inputs: Inputs, refining: Refining, record: Record, threads: int, counts: Counter[str],
    failed: dict[str, str],
) -> None:  # fmt: skip
    """Refine every file and count the outcomes; a file that fails does not stop the others."""
    current = threading.local()

    def work(match: files.Match) -> str:
        current.stem = match.stem
        return refining(match, record)

    with (
        progress(total=len(inputs.found), unit="file", dynamic_ncols=True) as bar,
        _each_warning_once(lambda line: bar.write(line, file=sys.stderr), current),
        contextlib.closing(finished(work, inputs.found, threads)) as outcomes,
    ):
        for match, outcome in outcomes:
            bar.update()
            if not isinstance(outcome, Exception):
                counts[outcome] += 1
                continue
            if isinstance(outcome, ImportError):  # every other file would fail too
                raise UserError(str(outcome)) from outcome
            reason = failed[match.stem] = _reason(match, outcome)
            counts["failed"] += 1
            if isinstance(outcome, OSError) and outcome.errno in _NO_ROOM:
                raise UserError(
                    f"{reason}; finished files are kept, and the same command resumes after them"
                ) from outcome


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


@contextlib.contextmanager
def _each_warning_once(show: Any, current: threading.local) -> Iterator[None]:
    """Print each distinct warning once, with its file, and at the end how many files had it."""
    stems: dict[str, set[str]] = {}

    def note(message: Any, *_: Any, **__: Any) -> None:
        text, stem = in_options(str(message)), getattr(current, "stem", "")
        if text not in stems:
            show(f"densecrf-rnn refine: warning: {stem}: {text}")
        stems.setdefault(text, set()).add(stem)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # rasterio warns of plain TIFFs, which have no georeference to keep
        warnings.filterwarnings("ignore", "Dataset has no geotransform")
        warnings.showwarning = note
        yield
    for text, files_with_it in stems.items():
        if len(files_with_it) > 1:
            show(f"densecrf-rnn refine: {len(files_with_it)} files had this warning: {text}")


def _reason(match: files.Match, error: Exception) -> str:
    """Describe an error in one line that names a file."""
    text = in_options(str(error))
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = "not enough memory; fewer --workers need less"
    elif not isinstance(error, (OSError, TypeError, ValueError)):
        text = f"{type(error).__name__}: {text}"
    named = getattr(error, "filename", None) or any(str(path) in text for path in match.paths)
    about = {"image": 1, "mask": 2}.get(text.split(" ")[0], 0)  # `refine` names its argument first
    return " ".join((text if named else f"{match.paths[about]}: {text}").split())


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
    out: Path, seconds: float, counts: Counter[str], failed: dict[str, str], missing: list[str]
) -> int:
    refined = counts["refined"]
    rate = f" ({refined / seconds:.1f} a second)" if refined else ""
    print(
        f"{refined} refined in {seconds:.1f} s{rate}, {counts['as before']} were done before, "
        f"{len(failed) + len(missing)} failed. Record: {out / f'{RECORD}.json'}"
    )
    sys.stdout.flush()
    for reason in [*missing, *(failed[stem] for stem in sorted(failed))]:
        print(f"densecrf-rnn refine: {reason}", file=sys.stderr)
    return 1 if failed or missing else 0


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that file formats may need."""
    found = {name: installed(name) for name in ("numpy", *files.PACKAGES)}
    return {"python": platform.python_version(), **{n: v for n, v in found.items() if v}}
