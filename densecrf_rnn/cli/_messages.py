"""What the commands say about many files: each kind of warning and failure once, with a count.

Messages of one kind differ only by numbers, quoted names and paths. The first is printed with its
file at once; how many other files had the same is said at the end.
"""

import argparse
import contextlib
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import FileNote, Match
from ._remedies import in_options

READ = logging.getLogger("densecrf_rnn.read")  # what was read of each file, at level DEBUG

_VARIABLE = re.compile(r"'[^']*'|\S*/\S*|\S+\.[a-z]\w*|\d\S*")
_CLAUSE = re.compile(r"[,;(] ?| \(")  # the first clause tells messages apart
_NAMES = 3  # files named of those that had a message


def add_message_options(parser: argparse.ArgumentParser) -> None:
    """Declare --quiet and --verbose."""
    group = parser.add_argument_group("messages").add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")
    group.add_argument(
        "-v", "--verbose", action="store_true",
        help="print what was read of each file, and every warning and failure",
    )  # fmt: skip


def to_stderr(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)


class Messages:
    """Prints warnings that occur while files are read and refined, as the options ask.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options of `add_message_options`.
    show : function of str
        Prints a line.
    without : str
        Warnings that contain this text are not printed; by default all are.
    """

    def __init__(
        self, args: argparse.Namespace, show: Callable[[str], object] = to_stderr,
        without: str | None = None,
    ) -> None:  # fmt: skip
        self._without = without
        self.quiet, self.verbose = args.quiet, args.verbose
        self._name, self.show = f"densecrf-rnn {args.command}", show
        self._stems: dict[str, dict[str, str]] = {}  # kind -> stem -> message
        self._current = threading.local()

    def about(self, stem: str) -> None:
        """Name the file that later messages of this thread are about."""
        self._current.stem = stem

    @contextlib.contextmanager
    def printed(self) -> Iterator[None]:
        """Print the warnings of the with block, each kind once, and at the end their numbers.

        With --verbose also print what is logged by `READ`.
        """
        with warnings.catch_warnings(), self._logged():
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", ResourceWarning)  # of files that could not be read
            warnings.showwarning = self._warning
            try:
                yield
            finally:
                self._counts()

    def _warning(self, message: Any, *_: Any, **__: Any) -> None:
        if self.quiet:
            return
        text, stem = in_options(str(message)), getattr(self._current, "stem", "")
        if self._without is not None and self._without in text:
            return
        word = "note" if isinstance(message, FileNote) else "warning"
        known = self._stems.setdefault(kind(text), {})
        if stem not in known and (self.verbose or not known):
            about = f"{stem}: " if stem else ""
            self.show(f"{self._name}: {word}: {about}{text}")
        known.setdefault(stem, f"{word}: {text}")

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        if not self.verbose:
            yield
            return
        seen: set[str] = set()  # tune reads a file many times

        def emit(record: logging.LogRecord) -> bool:
            line = f"{getattr(self._current, 'stem', '')}: {record.getMessage()}"
            if line not in seen:
                seen.add(line)
                self.show(line)
            return False

        level = READ.level
        READ.setLevel(logging.DEBUG)
        READ.addFilter(emit)
        try:
            yield
        finally:
            READ.removeFilter(emit)
            READ.setLevel(level)

    def _counts(self) -> None:
        several = len(self._stems) > 1
        for stems in self._stems.values():
            if len(stems) > 1 and not self.verbose:
                first, *others = stems
                word, _, text = stems[first].partition(": ")
                which = f" ({_CLAUSE.split(text)[0]})" if several else ""
                self.show(f"{self._name}: the same {word}{which}: {_counted(sorted(others))}")
        self._stems.clear()


def kind(message: str) -> str:
    """Return a message without its numbers, quoted names and paths.

    Examples
    --------
    >>> kind("a/b.npy: has 3 bands") == kind("a/c.npy: has 12 bands")
    True
    """
    return _VARIABLE.sub("", message)


def more(names: Sequence[str]) -> str:
    """Return how many files had a message, too, with the names of a few.

    Examples
    --------
    >>> more(["b", "c", "d", "e"])
    'and 4 more files: b, c, d, ...'
    """
    return f"and {_counted(names)}"


def _counted(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
    return f"{len(names)} more file{'s' * (len(names) != 1)}: {shown}"


def by_kind(reasons: Sequence[tuple[str, str]], every: bool = False) -> list[str]:
    """Return one line for each kind of the failures, given as (name of the file, reason).

    With `every`, return all reasons.
    """
    if every:
        return [reason for _, reason in reasons]
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, reason in reasons:
        kinds.setdefault(kind(reason), []).append((name, reason))
    return [
        same[0][1] + (f" ({more([name for name, _ in same[1:]])})" if len(same) > 1 else "")
        for same in kinds.values()
    ]


def named(missing: Sequence[str]) -> list[tuple[str, str]]:
    """Return the sentences of `files.Pairs.missing` with the name of the file of each."""
    return [(Path(sentence.split(": ")[0]).name, sentence) for sentence in missing]


def reason_of(match: Match, error: Exception) -> str:
    """Describe an error in one line that names a file."""
    text = in_options(str(error))
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError):  # NumPy's text gives a size; that of `files` names a file
        reading = any(str(path) in text for path in match.paths)
        text = f"{text if reading else 'not enough memory'}; fewer --workers need less"
    elif not isinstance(error, (OSError, TypeError, ValueError)):
        text = f"{type(error).__name__}: {text}"
    named = getattr(error, "filename", None) or any(str(path) in text for path in match.paths)
    about = {"image": 1, "mask": -1}.get(text.split(" ")[0], 0)  # `refine` names its argument first
    return " ".join((text if named else f"{match.paths[about]}: {text}").split())
