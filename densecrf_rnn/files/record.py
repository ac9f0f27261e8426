"""Record each finished file of a run, so that an interrupted run can be resumed.

During a run, one line per finished file is appended to NAME.jsonl; at the end everything is
gathered in NAME.json. A file counts as done if its outputs exist with their recorded sizes and its
inputs and all options are unchanged.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import _platform
from .._atomic import remove_leftovers, replaced
from .hashing import checksum, naming
from .json_text import parsed

_PARTS = ("options", "files")  # of a record


class FolderInUseError(Exception):
    """Raised if another run is writing into the folder."""


class Record:
    """The record of a folder of outputs, open for one run.

    Parameters
    ----------
    folder : path
        Existing folder of the outputs and the record.
    name : str
        Name of the record: NAME.json, and NAME.jsonl during a run.
    options : mapping of str to value
        All options that affect the outputs. A value is stored as JSON; a path as the checksum of
        its file or folder.

    Raises
    ------
    FolderInUseError
        Another run is writing into the folder.
    OSError
        The folder cannot be written to.
    ValueError
        NAME.json exists but is not such a record.
    """

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        self._folder = folder
        self.path, self._journal_path = folder / f"{name}.json", folder / f"{name}.jsonl"
        # converted as by a JSON file, to compare with the options of an earlier run
        self.options: dict[str, Any] = json.loads(json.dumps(options, default=_plain))
        self._digest = _digest(self.options)
        self._lock = threading.Lock()
        self._held = _hold(folder)
        try:
            remove_leftovers(folder)
            self._all_options, self._files = self._earlier()
            self._journal = open(self._journal_path, "ab", buffering=0)
            if self._journal.tell():  # end a line that a killed run wrote in part
                self._write(b"\n")
            self._append({"options": {self._digest: self.options}})
        except BaseException:
            os.close(self._held)
            raise

    def may_be_done(self, stem: str) -> bool:
        """Return whether an output of `stem` was made with this run's options, of any inputs."""
        entry = self._files.get(stem)
        return entry is not None and entry["options"] == self._digest

    def is_done(self, stem: str, inputs: Mapping[str, str]) -> bool:
        """Return whether `stem` is done: its outputs exist, made with this run's options.

        They must have been made from inputs of these checksums: `inputs`, name -> checksum.
        """
        entry = self._files.get(stem)
        return (
            entry is not None
            and entry["options"] == self._digest
            and {name: file["sha256"] for name, file in entry["inputs"].items()} == dict(inputs)
            and all(self._size(name) == size for name, size in entry["outputs"].items())
        )

    def outdated(self, stems: Iterable[str]) -> list[tuple[int, dict[str, Any]]]:
        """Return (number of `stems`, options) for all recorded options that differ from this run's.
        """
        used = Counter(self._files[stem]["options"] for stem in stems if stem in self._files)
        return [(n, self._all_options.get(d, {})) for d, n in used.items() if d != self._digest]

    def add(
        self, stem: str, inputs: Mapping[str, tuple[Path, str]], outputs: Sequence[str], **more: Any
    ) -> None:
        """Record a finished file. Thread-safe.

        Parameters
        ----------
        stem : str
        inputs : mapping of str to (path, checksum)
        outputs : sequence of str
            Names of files in the folder.
        **more
            Further entries to store.
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

    def forget(self, stem: str) -> None:
        """Record that `stem` is not done, before its outputs are replaced. Thread-safe.

        Otherwise a run that ends between an output and its entry would leave the entry of another
        run, with other options, for a file of the same size.
        """
        with self._lock:
            if self._files.pop(stem, None) is not None:
                self._append({"files": {stem: None}})

    def close(self, **run: Any) -> None:
        """Write NAME.json with all files, and the facts `run` about this run; end the journal."""
        used = {entry["options"] for entry in self._files.values()} | {self._digest}
        self._all_options[self._digest] = self.options
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
            with contextlib.suppress(OSError):  # each line was written when it was appended
                self._journal.close()
            with contextlib.suppress(OSError):
                os.close(self._held)

    def _append(self, part: Mapping[str, Any]) -> None:
        """Append a line, unbuffered, so that it survives a killed process."""
        self._write((json.dumps(part) + "\n").encode())

    def _write(self, data: bytes) -> None:
        with naming(self._journal_path):
            while data:  # a disk that is almost full takes a part
                data = data[self._journal.write(data) :]

    def _size(self, output: str) -> int | None:
        """Return the size of an output in bytes, of a folder (.zarr) that of all its files.

        None if it is missing.
        """
        path = self._folder / output
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size if path.is_file() else None

    def _earlier(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options by digest and the files by stem that earlier runs recorded."""
        parts: list[Any] = []
        if self.path.is_file():
            try:
                parts.append(_checked(parsed(self.path.read_text(encoding="utf-8")), _PARTS))
            except ValueError as error:
                raise ValueError(
                    f"{self.path} is not the record of an earlier run; move it away, or choose "
                    "another folder"
                ) from error
        if self._journal_path.is_file():
            journal = self._journal_path.read_text(encoding="utf-8", errors="replace")
            for line in journal.splitlines():
                # A killed process may have written a part of the line.
                with contextlib.suppress(ValueError):
                    parts.append(_checked(parsed(line)))
        options, files = (
            {key: value for part in parts for key, value in part.get(name, {}).items()}
            for name in _PARTS
        )
        return options, {stem: entry for stem, entry in files.items() if entry is not None}


def _checked(part: Any, required: Sequence[str] = ()) -> dict[str, Any]:
    """Return a part of a record if it has the form that `Record` writes, else raise ValueError."""
    if not (
        isinstance(part, dict)
        and all(name in part for name in required)
        and all(isinstance(part.get(name, {}), dict) for name in _PARTS)
        and all(isinstance(options, dict) for options in part.get("options", {}).values())
        and all(_is_entry(entry, required) for entry in part.get("files", {}).values())
    ):
        raise ValueError("not a part of a record")
    return part


def _is_entry(entry: Any, required: Sequence[str]) -> bool:
    """Return whether a value is an entry that `Record.add`, or in a journal `forget`, writes."""
    if entry is None:
        return not required
    if not (isinstance(entry, dict) and isinstance(entry.get("options"), str)):
        return False
    inputs, outputs = entry.get("inputs"), entry.get("outputs")
    return (
        isinstance(inputs, dict)
        and all(isinstance(file, dict) and "sha256" in file for file in inputs.values())
        and isinstance(outputs, dict)
        and all(size is None or isinstance(size, int) for size in outputs.values())
    )


def _hold(folder: Path) -> int:
    """Lock the folder until the process ends or closes the descriptor that is returned."""
    try:
        return _platform.lock_folder(folder)
    except BlockingIOError as error:
        raise FolderInUseError(f"another run is writing into {folder}; wait for it") from error


def _plain(path: Path) -> str:
    return checksum(path) if path.exists() else str(path)


def _digest(options: Any) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
