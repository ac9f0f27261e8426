"""Arrays of numbers in .npy, .npz, .pt, .safetensors, .h5 and .zarr files; no pickles.

Knows nothing of what the numbers mean.
"""

import contextlib
import importlib
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .pairs import extension


def read_array(path: Path | str, key: str | None = None) -> Array:
    """The array that a file holds, or the one of its arrays that is called `key`.

    Raises
    ------
    FileNotFoundError, PermissionError
    ImportError
        The package that reads such files is not installed.
    ValueError
        The file is damaged, holds pickled objects, or several arrays and no `key` says which; or
        there is none of that name.
    """
    path = Path(path)
    kind = extension(path)
    reader = _READERS.get(kind)
    if reader is None:
        raise ValueError(f"{path}: {kind or 'no extension'} is none of {' '.join(_READERS)}")
    if not path.exists():  # not every library says so
        raise FileNotFoundError(2, "no such file", str(path))
    array = reader(path, key)
    if array.dtype.hasobject:
        raise ValueError(f"{path}: {_PICKLED}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def names_of_maps(path: Path | str, maps: Array) -> Array | None:
    """The labels of maps [L, ...] that `write_marginals` wrote with `classes`; None of any others.

    Such a file is an .npz of "marginals" and "classes".

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
    whole = classes.dtype.kind in "iu" and classes.min(initial=0) >= 0
    if not whole or classes.shape != (len(maps),) or len(np.unique(classes)) < len(maps):
        raise ValueError(
            f"{path}: its array 'classes' must hold the labels of the {len(maps)} maps, each once"
        )
    return classes.astype(np.int64)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises at a damaged file into a ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError, ImportError):
        raise
    except Exception as error:  # libraries raise what they like at bytes that make no sense
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = textwrap.shorten(first, 160, placeholder=" ...")
        raise ValueError(f"{path}: damaged, or not {what} ({reason})") from error


def required(module: str, package: str, extra: str, path: Path) -> Any:
    """The module that reads or writes `path`, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(_needs(path, package, extra)) from error


def _needs(path: Path, package: str, extra: str) -> str:
    return (
        f"{path}: {extension(path)} files need {package}, which is not installed; "
        f"pip install 'densecrf-rnn[{extra}]'"
    )


_PICKLED = (
    "holds pickled Python objects, which may run any code when they are read; save plain numbers, "
    "such as np.save(path, np.asarray(x, np.float32))"
)


def _npy(path: Path, key: str | None) -> Array:
    _no_key(path, key)
    with _no_pickles(path), reading(path, "a .npy file"):
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive; call it .npz")
        return array


def _npz(path: Path, key: str | None) -> Array:
    with _no_pickles(path), reading(path, "an .npz file"):
        archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError(f"{path}: a plain array; call it .npy")
    with archive:
        chosen = _choose(path, archive.files, key)
        with _no_pickles(path), reading(path, "an .npz file"):
            return np.asarray(archive[chosen])


@contextlib.contextmanager
def _no_pickles(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path}: {_PICKLED}") from error
        raise


def _torch(path: Path, key: str | None) -> Array:
    try:
        from ..nn.saved import load_arrays
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(_needs(path, "torch", "torch")) from error
    with reading(path, "tensors saved by torch.save"):
        arrays = load_arrays(path)
    return _of(path, arrays, key)


def _safetensors(path: Path, key: str | None) -> Array:
    safetensors = required("safetensors", "safetensors", "files", path)
    with reading(path, "a .safetensors file"):
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    chosen = _choose(path, names, key)
    with reading(path, "a .safetensors file that NumPy can hold"):
        with safetensors.safe_open(path, framework="numpy") as file:
            return np.asarray(file.get_tensor(chosen))


def _hdf5(path: Path, key: str | None) -> Array:
    h5py = required("h5py", "h5py", "files", path)
    names: list[str] = []
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        if key is None or key not in file or isinstance(file[key], h5py.Group):
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        else:
            names = [key]
    chosen = _choose(path, names, key)
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        return np.asarray(file[chosen][()])


def _zarr(path: Path, key: str | None) -> Array:
    zarr = required("zarr", "zarr", "files", path)
    with reading(path, "a zarr array or group"):
        node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        _no_key(path, key)
    else:
        with reading(path, "a zarr group"):
            members = dict(_zarr_arrays(node))
        node = members[_choose(path, list(members), key)]
    with reading(path, "a zarr array"):
        return np.asarray(node[...])


def _zarr_arrays(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, array in group.arrays():
        yield above + name, array
    for name, below in group.groups():
        yield from _zarr_arrays(below, f"{above}{name}/")


_READERS = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".zarr": _zarr,
}


def _of(path: Path, arrays: Mapping[str, Array], key: str | None) -> Array:
    if list(arrays) == [""]:
        _no_key(path, key)
        return arrays[""]
    return arrays[_choose(path, list(arrays), key)]


def _choose(path: Path, names: list[str], key: str | None) -> str:
    """`key`, or the only name there is."""
    if key is None and len(names) == 1:
        return names[0]
    if key is not None and key in names:
        return key
    if not names:
        raise ValueError(f"{path}: holds no array")
    shown = ", ".join(map(repr, sorted(names)[:8])) + (", ..." if len(names) > 8 else "")
    if key is None:
        raise ValueError(f"{path}: holds {len(names)} arrays, {shown}; say which by its key")
    raise ValueError(f"{path}: holds no array {key!r}, but {shown}")


def _no_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise ValueError(f"{path}: holds one array without a name; leave out the key {key!r}")
