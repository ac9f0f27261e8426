"""Pair files from several places by their stem (name without suffix and extension)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .paths import stem
from .sources import Listed, by_stem, is_file

_MODALITY = r"_\d{4}"  # suffix of the files of one image, as nnU-Net numbers them


class Match(NamedTuple):
    """Files of one stem, one from each source.

    Attributes
    ----------
    stem : str
        The name that the files share, without extension and suffixes.
    paths : tuple of Path
        In the order of the sources.

    Examples
    --------
    >>> Match("a", (Path("logits/a.npy"), Path("images/a.png"))).stem
    'a'
    """

    stem: str
    paths: tuple[Path, ...]


class Pairs(NamedTuple):
    """Matching files, and a sentence for each file of the first source without a partner.

    Attributes
    ----------
    found : list of Match
        In alphabetical order.
    missing : list of str
        A sentence for each file of the first source without a partner.

    Examples
    --------
    >>> found, missing = Pairs([Match("a", (Path("a.npy"), Path("a.png")))], [])
    >>> [match.stem for match in found], missing
    (['a'], [])
    """

    found: list[Match]
    missing: list[str]


def pair(
    *sources: Path | str | Sequence[Path | str],
    suffixes: Sequence[str] = (),
    suffix_options: Sequence[str] = (),
    recursive: bool = False,
) -> Pairs:
    """Pair files of equal stem from two or more places, in alphabetical order.

    Parameters
    ----------
    *sources : path, or sequence of paths
        Each a folder, whose files with a known extension are used (not those in its subfolders;
        a folder NAME.zarr is a file), a pattern such as ``"logits/*.npz"``, one file, or the files
        of one folder. In a pattern such as ``"root/*/logits.npz"``, where only folders vary, the
        folder is the stem. If all are single files they are paired whatever their names. Otherwise
        each file of the first source is paired with those of the same stem in the others; the
        remaining files of the others are ignored.
    suffixes : sequence of str, one per source, optional
        Text between stem and extension in the names, such as ``("", "_0000")``. Files of a folder
        whose name lacks its suffix are ignored. For images of several files give their folder
        several times: ``pair("logits", "images", "images", suffixes=("", "_0000", "_0001"))``; see
        `read_modalities`.
    suffix_options : sequence of str, one per source, optional
        Names of the command-line options that set `suffixes`, for messages.
    recursive : bool
        Use the files in all subfolders too. The folder is then a part of the stem, such as
        ``"film1/frame07"``, so only files of the same subfolder match.

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
    places = [source if isinstance(source, (str, Path)) else Listed(source) for source in sources]
    if all(is_file(Path(place)) for place in places):
        paths = tuple(map(Path, places))
        _check_repeated(paths, suffixes)
        return Pairs([Match(stem(paths[0], suffixes[0]), paths)], [])
    first, *others = [
        by_stem(place, suffix, recursive) for place, suffix in zip(places, suffixes, strict=True)
    ]
    pairs = Pairs([], [])
    for name, path in sorted(first.items()):
        partners = [files.get(name) for files in others]
        lacking = [
            f"no file {name}{suffix}.* in {place}"
            for place, suffix, partner in zip(places[1:], suffixes[1:], partners)
            if partner is None
        ]
        if lacking:
            pairs.missing.append(f"{path}: {' and '.join(lacking)}")
        else:
            pairs.found.append(Match(name, (path, *(p for p in partners if p is not None))))
    if not pairs.found:
        options = suffix_options or [f"suffixes[{i}] =" for i in range(len(sources))]
        number = next(i for i, files in enumerate(others) if min(first) not in files)
        hint = _suffix_hint(min(first), sorted(others[number]), options[0], options[number + 1])
        raise ValueError(
            f"no file of {places[0]} has the stem of one in "
            f"{' and '.join(dict.fromkeys(map(str, places[1:])))}: {hint}"
        )
    return pairs


def _check_repeated(paths: Sequence[Path], suffixes: Sequence[str]) -> None:
    """Raise ValueError if one file stands for several that differ in their suffix."""
    for path in paths:
        named = [suffix for other, suffix in zip(paths, suffixes) if other == path]
        if len(set(named)) > 1:
            raise ValueError(
                f"{path} is one file, but the suffixes {', '.join(named)} name {len(named)}; give "
                "the folder that holds them"
            )


def _suffix_hint(stem: str, others: Sequence[str], own_option: str, their_option: str) -> str:
    """Suggest a suffix if `stem` and one of the `others` differ by an ending such as _0000."""
    for other in others:
        short, long = sorted((stem, other), key=len)
        suffix = long.removeprefix(short)
        if suffix and not suffix[0].isalnum() and long.startswith(short):
            option = own_option if long == stem else their_option
            if option == "--image-suffix" and re.fullmatch(_MODALITY, suffix):
                own = (name.removeprefix(stem) for name in others if name.startswith(stem))
                suffix = ",".join(s for s in own if re.fullmatch(_MODALITY, s))
            sign = "=" if suffix.startswith("-") else " "  # argparse takes a separate -x as option
            sign = "" if option.endswith(",") else sign
            return f"{stem!r} has no partner, but {other!r} exists; try {option}{sign}{suffix}"
    return f"the stems are such as {stem!r} and {others[0]!r}; matching files need equal stems"
