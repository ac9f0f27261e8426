"""The places that a command reads files from, as the command line gives them.

A shell expands an unquoted pattern, so that files arrive one by one; they are gathered again.
"""

import argparse
import glob
import itertools
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from .. import files
from ..files.sources import Listed, by_stem, is_file
from . import UserError


def add_recursive(parser: argparse._ActionsContainer) -> None:
    """Declare --recursive."""
    parser.add_argument(
        "--recursive", action="store_true",
        help="use the files in all subfolders too; files of the same subfolder are matched",
    )  # fmt: skip


def gather(args: argparse.Namespace, *names: str) -> None:
    """Replace the values of the positional arguments `names`, lists of words, by one source each.

    Raises
    ------
    UserError
        It is not clear which files belong to which argument, or a file does not exist.
    """
    given = [getattr(args, name) for name in names]
    words = [word for value in given for word in ([value] if isinstance(value, str) else value)]
    for name, source in zip(names, _split(words, names), strict=True):
        setattr(args, name, source)


def gather_predictions(args: argparse.Namespace) -> None:
    """Replace the lists of words of `evaluate` by sources: one for each prediction, and the truth.

    Files of one folder are one prediction if they have the stems of the truth's files; otherwise
    each is a prediction by itself.
    """
    words = [*args.predictions, *args.truth]
    args.predictions, args.truth = words[:-1], words[-1]
    for key in _KEYS:
        *predictions, truth = groups = _groups(words, key)
        gathered = any(isinstance(group, Listed) for group in groups)
        if gathered and predictions and not is_file(Path(truth)):
            stems = [by_stem(group, "", args.recursive).keys() for group in groups]
            if all(stems[-1] & own for own in stems):
                args.predictions, args.truth = predictions, truth
                return


def suffixes_of(args: argparse.Namespace) -> list[str]:
    """Return the suffixes of the predictions and the truth of `evaluate`.

    Raises
    ------
    UserError
        --predictions-suffix has more suffixes than there are predictions.
    """
    own = args.predictions_suffix.split(",")
    if len(own) > len(args.predictions):
        raise UserError(
            f"--predictions-suffix names {len(own)} suffixes for {len(args.predictions)} "
            "PREDICTIONS; give one each"
        )
    return [*own, *[""] * (len(args.predictions) - len(own)), args.truth_suffix]


def suffix_options(args: argparse.Namespace) -> list[str]:
    """Return how the suffix of each prediction and of the truth is given."""
    own = [f"--predictions-suffix={',' * i}" for i in range(len(args.predictions))]
    return ["--predictions-suffix", *own[1:], "--truth-suffix"]


def words_of(source: str) -> list[str]:
    """Return how a source is written on a command line: itself, or a pattern or the files."""
    if not isinstance(source, Listed):
        return [source]
    pattern = str(Path(source, f"*{files.extension(source.files[0])}"))
    all_of_them = set(map(Path, glob.glob(pattern))) == set(source.files)
    return [pattern] if all_of_them else list(map(str, source.files))


def _split(words: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    if len(words) == len(names):
        return words
    for word in words:
        if not Path(word).exists() and not glob.has_magic(word):
            raise FileNotFoundError(2, "no such file or folder", word)
    for key in _KEYS:
        groups = _groups(words, key)
        if len(groups) == len(names):
            return groups
    raise UserError(
        f"it is not clear which of the {len(words)} paths are {' and '.join(map(str.upper, names))}"
        ": the files of each must be in a row and in a folder of their own, or of an extension of "
        "their own; quote patterns, such as 'logits/*.npy', so that the shell does not expand them"
    )


def _folder(word: str) -> Hashable:
    """Return the folder of a file; anything else is a place by itself."""
    return Path(word).parent if is_file(Path(word)) else object()


_KEYS: tuple[Callable[[str], Hashable], ...] = (
    _folder,
    lambda word: (_folder(word), files.extension(word)),
)


def _groups(words: Sequence[str], key: Callable[[str], Hashable]) -> list[str]:
    """Join files that follow one another and have the same `key`."""
    runs = [list(run) for _, run in itertools.groupby(words, key)]
    return [run[0] if len(run) == 1 else Listed(run) for run in runs]
