"""HDF5 files and zarr folders: what they hold themselves, and nothing that they point to.

A dataset of an HDF5 file may be stored in other files, by external links, virtual datasets or raw
files, and a file in a zarr folder may be a link to a place outside it. The checksum in a record
covers none of these, so they are rejected. Chunks that are not stored are read as the fill value,
which is legal and common; `missing_hdf5` and `missing_zarr` count them.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from . import sizes
from .arrays import check_no_key, check_numbers, choose
from .paths import PICKLED, check_folder, entries, required

_HOPS = 40  # most soft links from one name to its dataset
_APART = "; read it where that file is, and save the numbers themselves in one file"


class Missing(NamedTuple):
    """Chunks that are not stored, of all chunks, and the value that is read in their place."""

    lacking: int
    of: int
    value: Any


# --- HDF5 ----------------------------------------------------------------------------------------


def read_hdf5(path: Path, key: str | None) -> Array:
    """Read one dataset of an HDF5 file; one inside a group is named "group/dataset"."""
    with _opened(path, key) as dataset:
        sizes.check(path, dataset.shape, dataset.dtype)
        if dataset.chunks:
            sizes.check(path, dataset.chunks, dataset.dtype, what="one of its chunks")
            stored: list[int] = []
            if hasattr(dataset.id, "chunk_iter"):  # HDF5 1.14, or 1.12.3
                dataset.id.chunk_iter(lambda chunk: stored.append(chunk.size))
            sizes.check_blocks(math.prod(dataset.chunks) * dataset.dtype.itemsize, stored)
        return np.asarray(dataset[()])


def shape_hdf5(path: Path, key: str | None) -> tuple[int, ...]:
    """Return the shape of one dataset of an HDF5 file."""
    with _opened(path, key) as dataset:
        return tuple(dataset.shape)


def missing_hdf5(path: Path, key: str | None) -> Missing:
    """Count the chunks of one dataset of an HDF5 file that are not stored."""
    with _opened(path, key) as dataset:
        if dataset.chunks:
            of = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks))
            return Missing(of - dataset.id.get_num_chunks(), of, dataset.fillvalue)
        lost = dataset.size > 0 and dataset.id.get_storage_size() == 0
        return Missing(int(lost), 1, dataset.fillvalue)


@contextlib.contextmanager
def _opened(path: Path, key: str | None) -> Iterator[Any]:
    """Open the dataset that `key` names, or the only one."""
    h5py = required("h5py", "files", path)
    with h5py.File(path, "r") as file:
        names: list[str] = []
        group: Any = file if key is None else None
        if key is not None:
            _check_links(path, file, key, h5py)
            found = file.get(key)
            names = [key] if isinstance(found, h5py.Dataset) else []
        if not names:
            group = file
            group.visititems(  # follows no links but hard ones
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            if not names and key is None:
                for name in file:
                    _check_links(path, file, name, h5py)
        dataset = file[choose(path, names, key)]
        _check_stored_here(path, dataset)
        if dataset.shape is None:
            raise ValueError(f"{path}: its dataset {dataset.name!r} is empty")
        check_numbers(path, dataset.dtype, dataset.name.strip("/"))
        yield dataset


def _check_links(path: Path, file: Any, key: str, h5py: Any) -> None:
    """Raise ValueError if one of the links on the way to `key` leads out of the file."""
    parts, group, hops = [part for part in key.split("/") if part not in ("", ".")][::-1], file, 0
    while parts:
        name = parts.pop()
        if not isinstance(group, h5py.Group) or name not in _links(group):
            return
        try:
            link = group.get(name, getlink=True)
        except TypeError:  # of a kind that a program defined itself
            link = None
        if isinstance(link, h5py.SoftLink) and hops < _HOPS:
            hops += 1
            parts += [part for part in link.path.split("/") if part not in ("", ".")][::-1]
            group = file if link.path.startswith("/") else group
        elif isinstance(link, h5py.HardLink):
            group = group[name]
        elif isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"{path}: its dataset {key!r} is a link to {link.path!r} in {link.filename}{_APART}"
            )
        else:
            raise ValueError(f"{path}: its dataset {key!r} is a link that leads nowhere")


def _links(group: Any) -> set[str]:
    return set(group)  # `name in group` would follow a link


def _check_stored_here(path: Path, dataset: Any) -> None:
    """Raise ValueError if another file stores a dataset, or a part of it."""
    about = dataset.id.get_create_plist()
    if dataset.is_virtual:
        sources = sorted({source.file_name for source in dataset.virtual_sources()})
        others = [name for name in sources if name != "."] or ["other datasets"]
        raise ValueError(
            f"{path}: its dataset {dataset.name.strip('/')!r} is virtual: its numbers are in "
            f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}{_APART}"
        )
    if about.get_external_count():
        name = os.fsdecode(about.get_external(0)[0])
        raise ValueError(
            f"{path}: its dataset {dataset.name.strip('/')!r} has its numbers in {name}{_APART}"
        )


# --- zarr ----------------------------------------------------------------------------------------


def read_zarr(path: Path, key: str | None) -> Array:
    """Read a zarr array, or one array of a zarr group."""
    array = open_zarr(path, key)
    sizes.check(path, array.shape, array.dtype, stored_zarr(path, array))
    return np.asarray(array[...])


def shape_zarr(path: Path, key: str | None) -> tuple[int, ...]:
    """Return the shape of a zarr array."""
    return tuple(open_zarr(path, key).shape)


def stored_zarr(path: Path, array: Any) -> int:
    """Return the bytes that the chunks of an open zarr array take on disk."""
    return sum(_chunks(path / array.path))


def missing_zarr(path: Path, key: str | None) -> Missing:
    """Count the chunks of a zarr array that are not stored."""
    return missing_of(open_zarr(path, key))


def missing_of(array: Any) -> Missing:
    """Count the chunks of an open zarr array that are not stored."""
    return Missing(array.nchunks - array.nchunks_initialized, array.nchunks, array.fill_value)


def open_zarr(path: Path, key: str | None) -> Any:
    """Open a zarr array, or one array of a zarr group."""
    zarr = required("zarr", "files", path)
    check_folder(path)
    node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        check_no_key(path, key)
        return checked_zarr(path, node)
    members = dict(_zarr_arrays(node))
    return checked_zarr(path, members[choose(path, list(members), key)])


def zarr_group(path: Path) -> Any:
    """Open a zarr group."""
    zarr = required("zarr", "files", path)
    check_folder(path)
    return zarr.open_group(str(path), mode="r")


def checked_zarr(path: Path, array: Any) -> Any:
    """Return an open zarr array; raise ValueError if it must not be read, not even in parts."""
    check_numbers(path, array.dtype)
    about = getattr(array, "metadata", array)  # zarr 2 has no metadata
    codecs = (*(getattr(about, "filters", None) or ()), getattr(about, "compressor", None))
    if any("pickle" in str(getattr(codec, "codec_id", "")) for codec in codecs):
        raise ValueError(f"{path}: {PICKLED}")
    block = getattr(array, "shards", None) or array.chunks
    stored = _chunks(path / array.path)
    sizes.check(path, block, array.dtype, sum(stored), what="one of its chunks")
    sizes.check_blocks(math.prod(block) * array.dtype.itemsize, stored)
    return array


def _chunks(folder: Path) -> list[int]:
    """Return the sizes of the files of a zarr array, without metadata."""
    return [
        entry.stat().st_size
        for entry in entries(folder)
        if entry.is_file() and not entry.name.startswith(".z") and entry.name != "zarr.json"
    ]


def _zarr_arrays(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, array in group.arrays():
        yield above + name, array
    for name, below in group.groups():
        yield from _zarr_arrays(below, f"{above}{name}/")
