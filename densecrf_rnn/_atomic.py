"""Atomic writing: files get a temporary name and are renamed when they are complete."""

import contextlib
import errno
import glob
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import _platform

_PREFIX = ".part-"  # a prefix, because writers choose the format by the extension
_END = 32  # characters of a name that its temporary name ends in: names may be of full length
_OLD = ".old"  # ends the temporary name of a folder that is being replaced
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
        Renaming failed; `path` is then unchanged. An OSError of the block that names no other file
        is raised with the name of `path`.

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
    partial = path.with_name(f"{_PREFIX}{os.getpid()}-{next(_COUNT)}-{path.name[-_END:]}")
    try:
        yield partial
        _replace(partial, path)
    except OSError as error:
        about = error.filename
        own = about is None or str(about).startswith(str(partial))  # also files in a folder
        if error.errno is not None and own:  # without errno, str(error) shows no path
            error.filename = str(path)  # name the caller's path, not the temporary one
        raise
    finally:
        with contextlib.suppress(OSError):  # `remove_leftovers` removes it later
            _remove(partial)


def _replace(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, replacing an existing file or folder there."""
    if not (partial.is_dir() and path.is_dir()):
        _rename(partial, path)
        return
    # No operating system replaces a folder that is not empty.
    old = partial.with_name(f"{partial.name}{_OLD}")
    _rename(path, old)
    try:
        _rename(partial, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def _rename(old: Path, new: Path) -> None:
    """Rename a file or folder, and make sure that it happened.

    Network and overlay file systems have reported success without it.
    """
    os.replace(old, new)
    if os.path.lexists(old) or not os.path.lexists(new):
        raise OSError(errno.EIO, "the file system did not rename the finished file", str(new))


def sync(path: Path) -> None:
    """Let the disk store a file, or all files of a folder; raise OSError if it cannot."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            _platform.sync(file)


def remove_leftovers(folder: Path | str) -> int:
    """Remove temporary files of `replaced` that a killed process left in `folder`.

    No other process may be writing there.

    Returns
    -------
    int
        Number of files and folders removed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     remove_leftovers(folder)
    0
    """
    found = list(Path(folder).glob(f"{_PREFIX}*"))
    for partial in found:
        if partial.name.endswith(_OLD):
            _finish(partial)
    left = [partial for partial in found if partial.exists()]
    for partial in left:
        _remove(partial)
    return len(left)


def remove_leftovers_of(path: Path | str) -> None:
    """Remove temporary files of `replaced` for one path, by processes that have ended.

    For a path in a folder that others may write into; it reads the whole folder.
    """
    path = Path(path)
    end = glob.escape(path.name[-_END:])
    found = [*path.parent.glob(f"{_PREFIX}*-{end}{_OLD}"), *path.parent.glob(f"{_PREFIX}*-{end}")]
    for partial in found:
        process = partial.name.removeprefix(_PREFIX).split("-")[0]
        if process.isdecimal() and not _platform.runs(int(process)):
            if partial.name.endswith(_OLD):
                _finish(partial, path)
            _remove(partial)


def _finish(old: Path, path: Path | None = None) -> None:
    """Put a new folder in its place, if a process was killed after it had set the `old` aside.

    Without `path`, the name of the place is the end of that of `old`. If the whole name was longer,
    the folder gets what remains of it, unless there is one whose name ends so.
    """
    partial = old.with_name(old.name.removesuffix(_OLD))
    end = partial.name.split("-", 3)[-1]
    place = partial.with_name(end) if path is None else path
    like = old.parent.glob(f"*{glob.escape(end)}") if path is None and len(end) == _END else ()
    taken = place.exists() or any(not p.name.startswith(_PREFIX) for p in like)
    if not taken:
        _rename(partial if partial.exists() else old, place)


def _remove(path: Path) -> None:
    """Remove a file or a whole folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
