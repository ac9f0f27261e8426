"""The packages that read and write files: import them, and turn their errors into ours."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import checks
from .paths import extension


PICKLED = (
    "holds pickled Python objects, which can run arbitrary code when they are read; save plain "
    "numbers, for example by np.save(path, np.asarray(x, np.float32))"
)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of a library at a damaged file into a ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError, ImportError):
        raise
    except Exception as error:  # libraries raise all kinds of exceptions at malformed files
        if str(error).startswith(f"{path}: "):  # an error of ours
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
        It is not installed; the message says how to install it.
    """
    return checks.package(module, f"{path}: {extension(path)}", f"'densecrf-rnn[{extra}]'")
