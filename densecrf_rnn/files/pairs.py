"""Pair files from several places by their stem (name without suffix and extension)."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .formats import FORMATS
from .paths import extension, stem


class Match(NamedTuple):
    """Files of one stem, one from each source."""

    stem: str
    paths: tuple[Path, ...]


class Pairs(NamedTuple):
    """Matching files, and a sentence for each file of the first source without a partner."""

    found: list[Match]
    missing: list[str]


def pair(
    *sources: Path | str, suffixes: Sequence[str] = (), suffix_options: Sequence[str] = ()
) -> Pairs:
    """Pair files of equal stem from two or more places, in alphabetical order.

    Parameters
    ----------
    *sources : path
        Each a folder, whose files with a known extension are used (not those in its subfolders;
        a folder NAME.zarr is a file), a pattern such as ``"logits/*.npz"``, or one file. If all
        are single files they are paired whatever their names. Otherwise each file of the first
        source is paired with those of the same stem in the others; the remaining files of the
        others are ignored.
    suffixes : sequence of str, one per source, optional
        Text between stem and extension in the names, such as ``("", "_0000")``. Files of a folder
        whose name lacks its suffix are ignored.
    suffix_options : sequence of str, one per source, optional
        Names of the command-line options that set `suffixes`, for messages.

    Returns
    -------
    Pairs
        `found`, and in `missing` a sentence for each file of the first source without a partner.

    Raises
    ------
    FileNotFoundError
        A source does not exist.
    ValueError
        A source has no file of a known extension, or two of one stem; or no two files match.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     for file in ("a.npy", "b.npy", "a.jpg"):
    ...         (Path(name) / file).touch()
    ...     found, missing = pair(f"{name}/*.npy", f"{name}/*.jpg")
    >>> [(match.stem, [path.name for path in match.paths]) for match in found], len(missing)
    ([('a', ['a.npy', 'a.jpg'])], 1)
    """
    suffixes = suffixes or [""] * len(sources)
    if len(suffixes) != len(sources):
        raise ValueError(f"suffixes holds {len(suffixes)} for {len(sources)} sources; one for each")
    if all(_is_file(Path(source)) for source in sources):
        paths = tuple(map(Path, sources))
        return Pairs([Match(stem(paths[0], suffixes[0]), paths)], [])
    first, *others = [
        _by_stem(source, suffix) for source, suffix in zip(sources, suffixes, strict=True)
    ]
    pairs = Pairs([], [])
    for name, path in sorted(first.items()):
        partners = [files.get(name) for files in others]
        lacking = [str(s) for s, partner in zip(sources[1:], partners) if partner is None]
        if lacking:
            pairs.missing.append(f"{path}: no file {name}.* in {' and '.join(lacking)}")
        else:
            pairs.found.append(Match(name, (path, *(p for p in partners if p is not None))))
    if not pairs.found:
        options = suffix_options or [f"suffixes[{i}] =" for i in range(len(sources))]
        number = next(i for i, files in enumerate(others) if min(first) not in files)
        hint = _suffix_hint(min(first), sorted(others[number]), options[0], options[number + 1])
        raise ValueError(
            f"no file of {sources[0]} has the stem of one in "
            f"{' and '.join(map(str, sources[1:]))}: {hint}"
        )
    return pairs


def _suffix_hint(stem: str, others: Sequence[str], own_option: str, their_option: str) -> str:
    """Suggest a suffix if `stem` and one of the `others` differ by an ending such as _0000."""
    for other in others:
        short, long = sorted((stem, other), key=len)
        suffix = long.removeprefix(short)
        if suffix and not suffix[0].isalnum() and long.startswith(short):
            option = own_option if long == stem else their_option
            sign = "=" if suffix.startswith("-") else " "  # argparse takes a separate -x as option
            return f"{stem!r} has no partner, but {other!r} exists; try {option}{sign}{suffix}"
    return f"the stems are such as {stem!r} and {others[0]!r}; matching files need equal stems"


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and extension(path) == ".zarr")


def _by_stem(source: Path | str, suffix: str) -> dict[str, Path]:
    """Return the files of a source by their stem."""
    folder = Path(source)
    if _is_file(folder):
        candidates = [folder]
    elif folder.is_dir():
        candidates = list(folder.iterdir())
    elif glob.has_magic(str(source)):
        candidates = [Path(name) for name in glob.glob(str(source))]
    else:
        raise FileNotFoundError(2, "no such file or folder", str(source))
    found: dict[str, Path] = {}
    for path in sorted(candidates):
        if path.name.startswith(".") or extension(path) not in FORMATS or not _is_file(path):
            continue
        if not path.name[: len(path.name) - len(extension(path))].endswith(suffix):
            continue
        name = stem(path, suffix)
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} have the same stem; instead of the folder give a "
                f"pattern such as '{path.parent / '*'}{extension(path)}'"
            )
        found[name] = path
    if not found:
        ending = f" that end in {suffix!r}" if suffix else ""
        raise ValueError(f"{source} has no files{ending} of a known kind: {' '.join(FORMATS)}")
    return found
