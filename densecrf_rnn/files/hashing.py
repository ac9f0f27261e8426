"""SHA-256 of files: by themselves, or of what is read anyway, so that no file is read twice."""

import contextlib
import contextvars
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .paths import check_folder

_BLOCK = 1 << 20  # bytes that are hashed while they are in a processor's cache
# Checksums of the files that were read, by path, while `noted` is active
_NOTES: contextvars.ContextVar[dict[Path, str] | None] = contextvars.ContextVar(
    "notes", default=None
)


def checksum(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal, as `sha256sum` prints it.

    For a folder (.zarr), hash the names and checksums of all files in it; links that lead out of
    the folder are a ValueError.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     checksum(file.name)[:16]
    'e3b0c44298fc1c14'
    """
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        check_folder(path)
        for member in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{member.relative_to(path)} {checksum(member)}\n".encode())
        return digest.hexdigest()
    with naming(path), open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file that was read or written in errors that name none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def noted() -> Iterator[dict[Path, str]]:
    """Hash files while `source` reads them: a dictionary from path to checksum, in this thread."""
    notes: dict[Path, str] = {}
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


@contextlib.contextmanager
def source(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read it from front to end; while `noted` is active, it is hashed."""
    notes = _NOTES.get()
    with open(path, "rb") as file:
        if notes is None:
            yield file
            return
        hashed = _Hashed(file)
        yield hashed  # type: ignore[misc]
        while hashed.read(_BLOCK):  # what follows the data
            pass
        notes[path] = hashed.digest.hexdigest()


class _Hashed:
    """As much of a file as readers of .npy use; hashes what is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file: Any = file
        self.digest = hashlib.sha256()
        self.tell, self.fileno = file.tell, file.fileno

    def read(self, count: int) -> bytes:
        block: bytes = self._file.read(count)
        self.digest.update(block)
        return block

    def readinto(self, room: memoryview) -> int:
        """Read at most a block."""
        part = room[:_BLOCK]
        count: int = self._file.readinto(part)
        self.digest.update(part[:count])
        return count
