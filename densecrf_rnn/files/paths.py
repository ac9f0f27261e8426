"""Helpers for paths: extension, stem, the package that reads a file, errors that name the file."""

import contextlib
import errno
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import checks

PICKLED = (
    "holds pickled Python objects, which can run arbitrary code when they are read; save plain "
    "numbers, for example by np.save(path, np.asarray(x, np.float32))"
)

_OF_DISK = (errno.EIO, errno.ESTALE)


def extension(path: Path | str) -> str:
    """Return the extension in lower case: ".png", ".nii.gz"; "" if there is none.

    Parameters
    ----------
    path : path
        A name is enough; the file need not exist.

    Examples
    --------
    >>> extension("brain.NII.gz"), extension("2007.000033.png"), extension("README")
    ('.nii.gz', '.png', '')
    """
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem(path: Path | str, suffix: str = "") -> str:
    """Return the name without its extension, and without `suffix` before the extension.

    Parameters
    ----------
    path : path
        A name is enough; the file need not exist.
    suffix : str

    Examples
    --------
    >>> stem("scans/brain_0000.nii.gz", suffix="_0000")
    'brain'
    """
    path = Path(path)
    return path.name[: len(path.name) - len(extension(path))].removesuffix(suffix)


def is_of_disk(error: Exception) -> bool:
    """Return whether an error is of the disk or the network, so that the file may be sound."""
    return isinstance(error, OSError) and error.errno in _OF_DISK


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn exceptions that a library raises at a damaged file into a ValueError that names it.

    `what` says what the file should be, for the message.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, ImportError):
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: not enough memory to read it") from error
    except Exception as error:  # libraries raise all kinds of exceptions at malformed files
        if str(error).startswith(f"{path}: "):  # raised by this package
            raise
        if isinstance(error, UnicodeEncodeError):  # a library in C takes the path as UTF-8
            raise ValueError(
                f"{path}: its reader needs a path in UTF-8, which this is not; rename it"
            ) from error
        if isinstance(error, OSError) and is_of_disk(error):
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = textwrap.shorten(first, 160, placeholder=" ...")
        raise ValueError(f"{path}: damaged, or not {what} ({reason})") from error


def check_folder(folder: Path) -> None:
    """Raise ValueError if a file in a folder (.zarr) is elsewhere, or is no file to be read.

    The folder itself may be a link.
    """
    inside = os.path.join(os.path.realpath(folder), "")
    for entry in entries(folder):
        name = os.path.relpath(entry.path, folder)
        if entry.is_symlink():
            if not os.path.join(os.path.realpath(entry.path), "").startswith(inside):
                raise ValueError(
                    f"{folder}: {name} in it is a link to {os.readlink(entry.path)}, outside the "
                    "folder; copy what it leads to into the folder"
                )
        elif not entry.is_dir() and not entry.is_file():
            raise ValueError(f"{folder}: {name} in it is neither a file nor a folder; remove it")


def entries(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    """Yield everything in a folder and in its subfolders; links are not followed."""
    with os.scandir(folder) as found:
        for entry in found:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from entries(entry.path)


def required(module: str, extra: str, path: Path) -> Any:
    """Import the module that reads or writes `path`, which the `extra` of this package installs.

    Raises
    ------
    ImportError
        The module is not installed; the message says how to install it.
    """
    return checks.package(module, f"{path}: {extension(path)}", f"'densecrf-rnn[{extra}]'")
