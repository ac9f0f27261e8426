"""Atomic writing: files get a temporary name and are renamed when they are complete."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".part-"  # a prefix, because writers choose the format by the extension
_COUNT = itertools.count()


@contextlib.contextmanager
def replaced(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds.

    Parameters
    ----------
    path : path
        File or folder to write; an existing one is replaced in one step.

    Yields
    ------
    Path
        Temporary file or folder to write, with the extension of `path`. It is removed if the block
        fails.

    Raises
    ------
    OSError
        Renaming failed; `path` is then unchanged.

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
        if error.errno is not None and not own:  # without errno, str(error) shows no path
            error.filename = str(path)  # name the caller's path, not the temporary one
        raise
    finally:
        _remove(partial)


def _replace(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, replacing an existing file or folder there."""
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
        return
    # No operating system replaces a folder that is not empty.
    old = partial.with_name(f"{partial.name}.old")
    os.replace(path, old)
    try:
        os.replace(partial, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def remove_leftovers(folder: Path | str) -> int:
    """Remove temporary files of `replaced` that a killed process left in `folder`.

    No other process may be writing there.

    Returns
    -------
    int
        Number of files and folders removed.
    """
    found = list(Path(folder).glob(f"{_PREFIX}*"))
    for partial in found:
        _remove(partial)
    return len(found)


def _remove(path: Path) -> None:
    """Remove a file or a whole folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
