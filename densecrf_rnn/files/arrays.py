"""Read arrays in .pt and .safetensors files, and write .npy and .npz; never pickles.

A reader takes a path and a key: the name of the array to read if the file holds several, or None.
`formats.read` calls the reader and handles the exceptions of the libraries.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._atomic import replaced
from .._typing import Array
from . import sizes
from .paths import required

_CONTENT = {"S": "text", "U": "text", "O": "text or references", "V": "records", "M": "dates",
            "m": "durations"}  # fmt: skip


def checked(path: Path, array: Array) -> Array:
    """Return an array in native byte order; raise ValueError if it does not hold numbers."""
    check_numbers(path, array.dtype)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_numbers(path: Path, dtype: Any, name: str | None = None) -> None:
    """Raise ValueError if an array, of a `name` in the file, does not hold numbers."""
    if dtype.kind not in "biufc":
        array = "its array" if name is None else f"its array {name!r}"
        found = _CONTENT.get(dtype.kind, dtype)
        raise ValueError(f"{path}: {array} holds {found}, not numbers; save plain numbers")


# --- readers -------------------------------------------------------------------------------------


def read_torch(path: Path, key: str | None) -> Array:
    """Read one tensor of a file written by torch.save, without running code that it contains."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        with sizes.expecting(None):  # it may hold several tensors
            sizes.check(path, (unpacked,), np.uint8)
    arrays = required("densecrf_rnn.nn.saved", "torch", path).load_arrays(path)
    if list(arrays) == [""]:
        check_no_key(path, key)
        found = arrays[""]
    else:
        found = arrays[choose(path, list(arrays), key)]
    sizes.check(path, found.shape, found.dtype)  # a tensor may repeat what it stores
    return found


def read_safetensors(path: Path, key: str | None) -> Array:
    """Read one array of a .safetensors file."""
    with required("safetensors", "files", path).safe_open(path, framework="numpy") as file:
        name = choose(path, list(file.keys()), key)
        about = file.get_slice(name)
        bits = int("".join(filter(str.isdigit, about.get_dtype().split("_")[0])) or 8)
        sizes.check(path, about.get_shape(), f"V{max(1, bits // 8)}")
        return np.asarray(file.get_tensor(name))


def shape_safetensors(path: Path, key: str | None) -> tuple[int, ...]:
    """Return the shape of one array of a .safetensors file."""
    with required("safetensors", "files", path).safe_open(path, framework="numpy") as file:
        return tuple(file.get_slice(choose(path, list(file.keys()), key)).get_shape())


def choose(path: Path, names: Sequence[str], key: str | None) -> str:
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


def check_no_key(path: Path, key: str | None) -> None:
    """Raise ValueError if a file of one array is read with a key."""
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
    # np.savez before NumPy 2.2 stores a keyword allow_pickle as an array, and leaves the archive
    # open when a disk is full.
    with replaced(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asanyarray(array), allow_pickle=False)
