"""Files that are written in parts are read back and compared before they get their name.

A library may lose an error of the disk, as GDAL's GeoTIFF driver does when it closes a file.
"""

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .._atomic import sync
from .._typing import Array

Where = tuple[slice, ...]
Write = Callable[[Where, Array], None]

_PROBE = 1 << 16  # bytes that are written to find out why a file could not be written


class Checked:
    """A function that writes a part of a file and keeps its checksum.

    Parameters
    ----------
    path : path
    size : int
        Bytes of all parts.
    write : function of (tuple of slices, array)
        Writes a part.
    """

    def __init__(self, path: Path, size: int, write: Write) -> None:
        self._path, self._size, self._write = path, size, write
        self._sums: list[tuple[Where, int]] = []

    def __call__(self, where: Where, values: Array) -> None:
        """Write a part."""
        values = np.ascontiguousarray(values)
        with disk_errors(self._path, self._size):
            self._write(where, values)
        self._sums.append((where, zlib.crc32(values.data)))

    def compare(self, read: Callable[[Where], Array]) -> None:
        """Read every part of the closed file by `read`; raise OSError if one differs."""
        sync(self._path)
        for where, written in self._sums:
            try:
                found = zlib.crc32(np.ascontiguousarray(read(where)).data)
            except Exception as error:  # libraries raise all kinds of exceptions at damaged files
                raise failure(self._path, self._size, _text(error)) from error
            if found != written:
                raise failure(self._path, self._size)


@contextlib.contextmanager
def disk_errors(path: Path, size: int) -> Iterator[None]:
    """Give the errors of a library that writes a file of `size` bytes the number of their cause."""
    try:
        yield
    except (TypeError, ValueError, ImportError, MemoryError):
        raise
    except Exception as error:  # GDAL's errors are of many kinds, and have no number
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise failure(path, size, _text(error)) from error


def failure(path: Path, size: int, reason: str = "") -> OSError:
    """Return the error of a file of `size` bytes that was not written as it should be."""
    number = _number(path, size, reason)
    if number is not None:
        return OSError(number, os.strerror(number), str(path))
    words = "what the disk returns differs from what was written; the disk may be damaged"
    return OSError(errno.EIO, words, str(path))


def _number(path: Path, size: int, reason: str) -> int | None:
    """Return the number of the disk's error, by its text or by writing another file."""
    for number in errno.errorcode:
        if os.strerror(number) in reason:
            return number
    probe = path.with_name(f"{path.name}.probe")
    try:
        if shutil.disk_usage(path.parent).free < size:
            return errno.ENOSPC
        probe.write_bytes(bytes(_PROBE))
    except OSError as error:
        return error.errno
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


def _text(error: BaseException | None) -> str:
    """Return the messages of an exception and of those that caused it."""
    return "" if error is None else f"{error} {_text(error.__cause__ or error.__context__)}"
