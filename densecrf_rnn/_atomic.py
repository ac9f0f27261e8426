"""Whole files or none: written under another name, renamed when complete."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".part-"  # in front, because writers look at how a name ends
_COUNT = itertools.count()


@contextlib.contextmanager
def replaced(path: Path | str) -> Iterator[Path]:
    """A temporary name in the folder of `path`, which becomes `path` if the block succeeds.

    Parameters
    ----------
    path : path
        What is to be written; a file that is there is replaced in one step.

    Yields
    ------
    Path
        Where to write, a file or a folder. It ends as `path` does. Removed if the block fails.

    Raises
    ------
    OSError
        Renaming fails; `path` is then as it was.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replaced(Path(folder) / "a.txt") as partial:
    ...         _ = partial.write_text("all of it")
    ...     (Path(folder) / "a.txt").read_text()
    'all of it'
    """
    path = Path(path)
    partial = path.with_name(f"{_PREFIX}{os.getpid()}-{next(_COUNT)}-{path.name}")
    try:
        yield partial
        _replace(partial, path)
    except OSError as error:
        own = error.filename is not None and str(error.filename) != str(partial)
        if error.errno is not None and not own:  # without a number the message is all there is
            error.filename = str(path)  # the name that the caller knows
        raise
    finally:
        _remove(partial)


def _replace(partial: Path, path: Path) -> None:
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
        return
    old = partial.with_name(f"{partial.name}.old")  # no system replaces a folder that holds files
    os.replace(path, old)
    try:
        os.replace(partial, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def remove_leftovers(folder: Path | str) -> int:
    """Remove what a killed process left of `replaced` in `folder`; how many there were.

    Nobody else may be writing there.
    """
    found = list(Path(folder).glob(f"{_PREFIX}*"))
    for partial in found:
        _remove(partial)
    return len(found)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
