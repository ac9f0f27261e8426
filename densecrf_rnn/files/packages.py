"""The packages that read and write files: import them, and turn their errors into ours."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import checks
from .paths import extension


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of a library at a damaged file into a ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError, ImportError):
        raise
    except Exception as error:  # libraries raise all kinds of exceptions at malformed files
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
