"""Read and write arrays in .npy, .npz, .pt, .safetensors, .h5 and .zarr files; never pickles.

A reader takes a path and a key: the name of the array to read if the file holds several, or None.
`formats.read` calls the reader and handles the exceptions of the libraries.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._atomic import replaced
from .._typing import Array
from .paths import PICKLED, extension, reading, required


def checked(path: Path, array: Array) -> Array:
    """Return an array in native byte order; raise ValueError if it holds Python objects."""
    if array.dtype.hasobject:
        raise ValueError(f"{path}: {PICKLED}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def names_of_maps(path: Path | str, maps: Array) -> Array | None:
    """Return the label of each of the `maps` [L, ...], which were read from the file `path`.

    `write_marginals` stores these labels if `classes` is given. Return None if the file is not an
    .npz with exactly the arrays "marginals" and "classes".

    Raises
    ------
    ValueError
        "classes" does not name a label for each map.
    """
    path = Path(path)
    if extension(path) != ".npz":
        return None
    with reading(path, "an .npz file"), np.load(path, allow_pickle=False) as archive:
        if set(archive.files) != {"marginals", "classes"}:
            return None
        classes = np.asarray(archive["classes"])
    integers = classes.dtype.kind in "iu" and classes.min(initial=0) >= 0
    if not integers or classes.shape != (len(maps),) or len(np.unique(classes)) < len(maps):
        raise ValueError(
            f"{path}: its array 'classes' must hold the labels of the {len(maps)} maps, each once"
        )
    return classes.astype(np.int64)


# --- readers -------------------------------------------------------------------------------------


def read_npy(path: Path, key: str | None) -> Array:
    """Read the array of a .npy file."""
    _check_no_key(path, key)
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive; rename it to .npz")
    return array


def read_npz(path: Path, key: str | None) -> Array:
    """Read one array of an .npz file."""
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError(f"{path}: holds a plain array; rename it to .npy")
    with archive:
        return np.asarray(archive[_choose(path, archive.files, key)])


def read_torch(path: Path, key: str | None) -> Array:
    """Read one tensor of a file written by torch.save, without running code that it contains."""
    arrays = required("densecrf_rnn.nn.saved", "torch", path).load_arrays(path)
    if list(arrays) == [""]:
        _check_no_key(path, key)
        return arrays[""]
    return arrays[_choose(path, list(arrays), key)]


def read_safetensors(path: Path, key: str | None) -> Array:
    """Read one array of a .safetensors file."""
    with required("safetensors", "files", path).safe_open(path, framework="numpy") as file:
        return np.asarray(file.get_tensor(_choose(path, list(file.keys()), key)))


def read_hdf5(path: Path, key: str | None) -> Array:
    """Read one dataset of an HDF5 file; one inside a group is named "group/dataset"."""
    h5py = required("h5py", "files", path)
    names: list[str] = []
    with h5py.File(path, "r") as file:
        if key is None or key not in file or isinstance(file[key], h5py.Group):
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        else:
            names = [key]
        return np.asarray(file[_choose(path, names, key)][()])


def read_zarr(path: Path, key: str | None) -> Array:
    """Read a zarr array, or one array of a zarr group."""
    zarr = required("zarr", "files", path)
    node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        _check_no_key(path, key)
    else:
        members = dict(_zarr_arrays(node))
        node = members[_choose(path, list(members), key)]
    return np.asarray(node[...])


def _zarr_arrays(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, array in group.arrays():
        yield above + name, array
    for name, below in group.groups():
        yield from _zarr_arrays(below, f"{above}{name}/")


def _choose(path: Path, names: Sequence[str], key: str | None) -> str:
    """Return `key` or, if it is None, the only name.

    Raise ValueError if `key` is not among the names, or is None and there is not exactly one.
    """
    if key is None and len(names) == 1:
        return names[0]
    if key is not None and key in names:
        return key
    if not names:
        raise ValueError(f"{path}: holds no array")
    shown = ", ".join(map(repr, sorted(names)[:8])) + (", ..." if len(names) > 8 else "")
    if key is None:
        raise ValueError(f"{path}: holds {len(names)} arrays, {shown}; choose one by `key`")
    raise ValueError(f"{path}: holds no array {key!r}, but {shown}")


def _check_no_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise ValueError(f"{path}: holds one array without a name; leave out the key {key!r}")


# --- writers -------------------------------------------------------------------------------------


def write_npy(path: Path, **arrays: Array) -> None:
    """Write the one array to a .npy file; its name is not stored."""
    if len(arrays) != 1:
        raise ValueError(f"{path}: .npy holds one array, not {' and '.join(arrays)}; write .npz")
    array = np.ascontiguousarray(*arrays.values())
    with replaced(path) as partial, open(partial, "wb") as file:
        # np.save does not report why a write failed
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def write_npz(path: Path, **arrays: Array) -> None:
    """Write arrays by name to an .npz file, uncompressed."""
    with replaced(path) as partial:
        np.savez(partial, allow_pickle=False, **arrays)
