"""`densecrf-rnn refine`: a folder of saved logits and their images into label maps or marginals.

What becomes of one file is in `_refining`, in tiles in `_tiling`; how files are found and read in
`_inputs`, what is kept of a run in `files.record`.
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__, engines, files
from ..files.record import FolderInUseError, Record
from . import UserError, positive, progress, require
from ._crf_options import add_crf_options
from ._inputs import Inputs, add_input_options
from ._memory import keep_memory
from ._parallel import finished
from ._refining import Refining
from ._tiling import add_tile_options, refining

RECORD = "refine"  # refine.json in the output folder
# Files in hand beside those in the engine: one is read and one written meanwhile.
_AHEAD = 2
# Larger arrays, as of volumes, go back to the kernel.
_LARGEST_KEPT = 2**27
# What would stop every other file as well.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_PACKAGES = ("numpy", "pillow", "tifffile", "nibabel", "h5py", "zarr", "safetensors", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_input_options(parser)
    add_crf_options(parser)
    group = parser.add_argument_group("what is written")
    group.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FOLDER", help="made if it is not there"
    )
    group.add_argument(
        "--write", choices=("labels", "marginals", "both"), default="labels",
        help="label maps (.png; of volumes .nii.gz where the image is NIfTI, else .npy), "
        "marginals (.npz), or both (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16",
        help="of marginals (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--remove-small", type=positive, metavar="N",
        help="afterwards, give connected regions of fewer than N pixels to their neighbours",
    )  # fmt: skip
    add_tile_options(parser)
    group = parser.add_argument_group("how it runs")
    group.add_argument(
        "--workers", type=positive, metavar="N",
        help=f"images refined at once; {_AHEAD} more are in memory (default: one per processor)",
    )  # fmt: skip
    group.add_argument(
        "--threads", type=positive, metavar="N",
        help="threads for each image (default: the processors, shared between the workers)",
    )  # fmt: skip
    group.add_argument(
        "--backend", choices=("auto", "cpu", "numba"), default="auto",
        help="engine; `densecrf-rnn info` says which can run (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and write nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Refine what is not done yet; 1 where a file failed."""
    require("refine", "tqdm")
    inputs = Inputs(args)
    how = {"backend": engines.resolve(args.backend), **_shares(args, len(inputs.found))}
    work = refining(args, inputs, how["workers"], how["threads"])
    if args.dry_run:
        return _show(inputs, work, how)

    record = _open_record(args.out, work.options())
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
        with contextlib.suppress(OSError):  # what stopped the run may stop this; the lines remain
            close(str(error) or type(error).__name__)
        raise
    return _report(args.out, close(None), counts, failed, inputs.missing)


def _refine_all(
    inputs: Inputs,
    refining: Refining,
    record: Record,
    threads: int,
    counts: Counter[str],
    failed: dict[str, str],
) -> None:
    """Refine every file, counting; what is wrong with one of them stops no other."""
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
            if isinstance(outcome, ImportError):  # it would be the same for all
                raise UserError(str(outcome)) from outcome
            reason = failed[match.stem] = _reason(match, outcome)
            counts["failed"] += 1
            if isinstance(outcome, OSError) and outcome.errno in _NO_ROOM:
                raise UserError(
                    f"{reason}; what is finished stays, and the same command goes on from there"
                ) from outcome


def _shares(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Workers, and threads of each: one thread for each of many images wastes least."""
    processors = engines.default_threads()
    workers = args.workers or min(max(1, processors // (args.threads or 1)), count)
    if args.tile is not None and args.workers is None:
        workers = 1  # the threads share a tile, so that memory is that of one
    return {"workers": workers, "threads": args.threads or max(1, processors // workers)}


def _open_record(out: Path, options: dict[str, Any]) -> Record:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"--out {out} is a file; name a folder") from error
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    try:
        return Record(out, RECORD, options)
    except (FolderInUseError, ValueError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}") from error


@contextlib.contextmanager
def _each_warning_once(show: Any, current: threading.local) -> Iterator[None]:
    """Show the first of equal warnings with its file, and at the end how many files had it."""
    stems: dict[str, set[str]] = {}

    def note(message: Any, *_: Any, **__: Any) -> None:
        text, stem = str(message), getattr(current, "stem", "")
        if text not in stems:
            show(f"densecrf-rnn refine: warning: {stem}: {text}")
        stems.setdefault(text, set()).add(stem)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # rasterio's word for a plain TIFF, which has nothing to be kept
        warnings.filterwarnings("ignore", "Dataset has no geotransform")
        warnings.showwarning = note
        yield
    for text, files_with_it in stems.items():
        if len(files_with_it) > 1:
            show(
                f"densecrf-rnn refine: {len(files_with_it)} files in all had this warning: {text}"
            )


def _reason(match: files.Match, error: Exception) -> str:
    """One line that names a file."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = "not enough memory; fewer --workers need less"
    elif not isinstance(error, (OSError, TypeError, ValueError)):
        text = f"{type(error).__name__}: {text}"
    named = getattr(error, "filename", None) or any(str(path) in text for path in match.paths)
    about = {"image": 1, "mask": 2}.get(text.split(" ")[0], 0)  # how `refine` names its arguments
    return " ".join((text if named else f"{match.paths[about]}: {text}").split())


def _show(inputs: Inputs, refining: Refining, how: dict[str, Any]) -> int:
    """The dry run."""
    there = 0
    for match in inputs.found:
        outputs = refining.outputs(match)
        present = all(path.is_file() for path in outputs)
        there += present
        line = f"{' + '.join(map(str, match.paths))} -> {', '.join(map(str, outputs))}"
        print(line + (" (is there)" if present else ""))
    for sentence in inputs.missing:
        print(f"left out: {sentence}")
    settings = refining.settings
    print(
        f"{len(inputs.found)} to refine, {there} of them there already (kept if made the same way "
        f"from the same files), {len(inputs.missing)} left out; {settings.params}, "
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
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
