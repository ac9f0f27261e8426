"""What a run did, file by file, kept so that a killed run goes on where it was.

While a run works, a line per finished file is appended to NAME.jsonl; at its end all is gathered in
NAME.json. A file counts as done if its outputs are there, of the size that they had, and its inputs
and options are the same.
"""

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._atomic import remove_leftovers, replaced

_BLOCK = 1 << 20


class FolderInUseError(Exception):
    """Another run is writing into the folder."""


def checksum(path: Path | str) -> str:
    """SHA-256 of a file's bytes in hexadecimal, as `sha256sum` prints it.

    Of a folder (.zarr): of the names and checksums of all files in it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     checksum(file.name)[:16]
    'e3b0c44298fc1c14'
    """
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for member in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{member.relative_to(path)} {checksum(member)}\n".encode())
        return digest.hexdigest()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Record:
    """The record of a folder of outputs, open for one run.

    Parameters
    ----------
    folder : path
        Where outputs and record are; it exists.
    name : str
        Of the record: NAME.json, and NAME.jsonl while a run works.
    options : mapping
        All that bears on the outputs beside the input files, as JSON can hold it.

    Raises
    ------
    FolderInUseError
        Another run has the folder.
    OSError
        The folder cannot be written to.
    ValueError
        NAME.json is there but is no such record.
    """

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        self._folder = folder
        self.path, self._journal_path = folder / f"{name}.json", folder / f"{name}.jsonl"
        self._options = json.loads(json.dumps(options))  # as they come back from a file
        self._digest = _digest(self._options)
        self._lock = threading.Lock()
        self._held = os.open(folder, os.O_RDONLY)
        try:
            _hold(self._held, folder)
            remove_leftovers(folder)
            self._all_options, self._files = self._earlier()
            self._journal = open(self._journal_path, "ab", buffering=0)
            if self._journal.tell():  # a line that a killed run left half written ends here
                self._journal.write(b"\n")
            self._append({"options": {self._digest: self._options}})
        except BaseException:
            os.close(self._held)
            raise

    def is_done(self, stem: str, inputs: Mapping[str, str]) -> bool:
        """Whether the outputs are there, made with these options of inputs with these checksums."""
        entry = self._files.get(stem)
        return (
            entry is not None
            and entry["options"] == self._digest
            and {name: file["sha256"] for name, file in entry["inputs"].items()} == dict(inputs)
            and all(self._size(name) == size for name, size in entry["outputs"].items())
        )

    def add(
        self,
        stem: str,
        inputs: Mapping[str, tuple[Path, str]],
        outputs: Sequence[str],
        **more: Any,
    ) -> None:
        """Note a finished file; from any thread.

        Parameters
        ----------
        stem : str
        inputs : mapping of str to (path, checksum)
        outputs : names of files in the folder
        **more : what else is worth knowing
        """
        entry = {
            "inputs": {n: {"path": str(p), "sha256": c} for n, (p, c) in inputs.items()},
            "outputs": {name: self._size(name) for name in outputs},
            "options": self._digest,
            **more,
        }
        with self._lock:
            self._files[stem] = entry
            self._append({"files": {stem: entry}})

    def close(self, **run: Any) -> None:
        """Gather everything in NAME.json, with what there is to say of the run."""
        used = {entry["options"] for entry in self._files.values()} | {self._digest}
        self._all_options[self._digest] = self._options
        whole = {
            **run,
            "options": {d: options for d, options in self._all_options.items() if d in used},
            "files": dict(sorted(self._files.items())),
        }
        try:
            with replaced(self.path) as partial:
                partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            self._journal_path.unlink()
        finally:
            self._journal.close()
            os.close(self._held)

    def _append(self, part: Mapping[str, Any]) -> None:
        """A line, handed to the kernel at once: that outlives the process."""
        line = (json.dumps(part) + "\n").encode()
        if self._journal.write(line) != len(line):
            raise OSError(errno.ENOSPC, "no room for a line", str(self._journal_path))

    def _size(self, output: str) -> int | None:
        """In bytes; 0 of a folder, such as a .zarr; None of what is not there."""
        path = self._folder / output
        return path.stat().st_size if path.is_file() else 0 if path.is_dir() else None

    def _earlier(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options by digest and files by stem that earlier runs noted."""
        options: dict[str, Any] = {}
        files: dict[str, Any] = {}
        for part in [*self._gathered(), *self._noted()]:
            options.update(part.get("options", {}))
            files.update(part.get("files", {}))
        return options, files

    def _gathered(self) -> list[Any]:
        if not self.path.is_file():
            return []
        try:
            whole = json.loads(self.path.read_text(encoding="utf-8"))
            return [{name: dict(whole[name]) for name in ("options", "files")}]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}: no record of an earlier run; move it away, or choose another folder"
            ) from error

    def _noted(self) -> list[Any]:
        if not self._journal_path.is_file():
            return []
        parts = []
        for line in self._journal_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                parts.append(json.loads(line))
            except ValueError:  # cut short when its process was killed
                continue
        return parts


def _hold(folder: int, name: Path) -> None:
    """Keep other runs out until the process ends or closes the folder."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderInUseError(f"another run is writing into {name}; wait for it") from error
    except OSError:  # a file system without locks: then it is up to the user
        pass


def _digest(options: Any) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
