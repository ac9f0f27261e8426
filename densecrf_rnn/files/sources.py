"""The files of one source, by their stem: a folder, its subfolders, a pattern, or files by name."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .formats import FORMATS
from .paths import extension, stem


class Listed(str):
    """Files of one folder, given one by one; as a text it is the folder."""

    files: tuple[Path, ...]

    def __new__(cls, files: Sequence[Path | str]) -> "Listed":
        paths = tuple(map(Path, files))
        if not paths:
            raise ValueError("a list of files is empty; give at least one file")
        listed = super().__new__(cls, paths[0].parent)
        listed.files = paths
        return listed


def is_file(path: Path) -> bool:
    """Return whether `path` is a file; a folder NAME.zarr is one too."""
    return path.is_file() or (path.is_dir() and extension(path) == ".zarr")


def by_stem(source: Path | str, suffix: str, recursive: bool) -> dict[str, Path]:
    """Return the files of a source by their stem, as `pair` describes both.

    Raises
    ------
    FileNotFoundError
        The source does not exist.
    ValueError
        It has no file of a known extension, or two of one stem.
    """
    found: dict[str, Path] = {}
    for folder, path in _candidates(source, recursive):
        if path.name.startswith(".") or extension(path) not in FORMATS or not is_file(path):
            continue
        if not path.name[: len(path.name) - len(extension(path))].endswith(suffix):
            continue
        name = stem(path, suffix)
        if folder:  # the name alone may be the suffix, as t1 in case7/t1.nii.gz
            same_names = _only_folders_vary(source) or not name
            name = folder if same_names else os.path.join(folder, name)
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} have the same stem; {_narrower(source, path, recursive)}"
            )
        found[name] = path
    if not found:
        ending = f" that end in {suffix!r}" if suffix else ""
        deeper = ""
        if not recursive and not isinstance(source, Listed) and _has_subfolders(Path(source)):
            deeper = "; for the files of its subfolders pass recursive=True"
        raise ValueError(
            f"{source} has no files{ending} of a known kind: {' '.join(FORMATS)}{deeper}"
        )
    return found


def _narrower(source: Path | str, path: Path, recursive: bool) -> str:
    """Say how to name one of two files of equal stem, of which `path` is one."""
    if isinstance(source, Listed):
        return "leave one of them out"
    if Path(source).is_dir():
        pattern = Path(source, "**", "*") if recursive else Path(source, "*")
        return f"instead of the folder give a pattern such as '{pattern}{extension(path)}'"
    return "if their folders tell them apart pass recursive=True, else a narrower pattern"


def _candidates(source: Path | str, recursive: bool) -> Iterator[tuple[str, Path]]:
    """Yield the paths of a source in order, each with the folder that is a part of its stem."""
    place = Path(source)
    if isinstance(source, Listed):
        yield from (("", path) for path in sorted(source.files))
    elif is_file(place):
        yield "", place
    elif place.is_dir():
        yield from _walked(place) if recursive else (("", path) for path in sorted(place.iterdir()))
    elif glob.has_magic(str(source)):
        base = _fixed_part(place)
        for path in sorted(map(Path, glob.glob(str(source), recursive=True))):
            relative = os.path.relpath(path.parent, base)
            in_stem = relative != "." and (recursive or _only_folders_vary(source))
            yield relative if in_stem else "", path
    else:
        raise FileNotFoundError(2, "no such file or folder", str(source))


def _walked(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the paths below a folder, each with its folder relative to `root`; follow links."""
    seen = {os.path.realpath(root)}
    for folder, names, files in os.walk(root, followlinks=True):
        stores = [name for name in names if extension(name) == ".zarr"]
        deeper = []
        for name in sorted(set(names).difference(stores)):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:  # a link may lead to a folder above
                seen.add(real)
                deeper.append(name)
        names[:] = deeper
        relative = os.path.relpath(folder, root)
        for name in sorted([*files, *stores]):
            yield "" if relative == "." else relative, Path(folder, name)


def _fixed_part(pattern: Path) -> Path:
    """Return the folder above the first part of a pattern that has a wildcard."""
    parts = [part for part in (pattern, *pattern.parents) if glob.has_magic(str(part))]
    return parts[-1].parent


def _only_folders_vary(source: Path | str) -> bool:
    """Return whether `source` is a pattern with a fixed file name, such as "root/*/logits.npz"."""
    path = Path(source)
    return (
        not isinstance(source, Listed) and glob.has_magic(str(source))
        and not path.exists() and not glob.has_magic(path.name)
    )


def _has_subfolders(folder: Path) -> bool:
    return folder.is_dir() and any(
        path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()
    )
