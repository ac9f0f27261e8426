"""Helpers for paths: extension, stem, the package that reads a file, errors that name the file."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import checks

PICKLED = (
    "holds pickled Python objects, which can run arbitrary code when they are read; save plain "
    "numbers, for example by np.save(path, np.asarray(x, np.float32))"
)


def extension(path: Path | str) -> str:
    """Return the extension in lower case: ".png", ".nii.gz"; "" if there is none.

    Examples
    --------
    >>> extension("brain.NII.gz"), extension("2007.000033.png"), extension("README")
    ('.nii.gz', '.png', '')
    """
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem(path: Path | str, suffix: str = "") -> str:
    """Return the name without its extension, and without `suffix` before the extension.

    Examples
    --------
    >>> stem("scans/brain_0000.nii.gz", suffix="_0000")
    'brain'
    """
    path = Path(path)
    return path.name[: len(path.name) - len(extension(path))].removesuffix(suffix)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn exceptions that a library raises at a damaged file into a ValueError that names it.

    `what` says what the file should be, for the message.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError, ImportError):
        raise
    except Exception as error:  # libraries raise all kinds of exceptions at malformed files
        if str(error).startswith(f"{path}: "):  # raised by this package
            raise
        if "allow_pickle" in str(error):
            raise ValueError(f"{path}: {PICKLED}") from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = textwrap.shorten(first, 160, placeholder=" ...")
        raise ValueError(f"{path}: damaged, or not {what} ({reason})") from error


def required(module: str, extra: str, path: Path) -> Any:
    """Import the module that reads or writes `path`, which the `extra` of this package installs.

    Raises
    ------
    ImportError
        The module is not installed; the message says how to install it.
    """
    return checks.package(module, f"{path}: {extension(path)}", f"'densecrf-rnn[{extra}]'")
