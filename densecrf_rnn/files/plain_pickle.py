"""Read pickles that hold plain values and NumPy arrays; nothing that they name is called."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array

_CODES = r"[biufcSU]\d{1,9}"  # dtypes of numbers and text; not of objects, not structures


class Stored:
    """An array of a pickle; `values` is None until its state is read."""

    values: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, data = state
        order: Any = "F" if columns_first else "C"
        self.values = np.ndarray(shape, _checked(dtype), _bytes(data), order=order)


class _Dtype:
    """A dtype of a pickle."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not re.fullmatch(_CODES, str(code)):
            raise pickle.UnpicklingError(f"an array of dtype {code}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _checked(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of a `_Dtype`; raise UnpicklingError for anything else."""
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a dtype")
    return dtype.dtype


def _bytes(data: Any) -> bytes:
    """Return a copy that the rest of the pickle cannot change, as it could a bytearray."""
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array whose values are not bytes")
    return bytes(data)


def _scalar(dtype: Any, data: bytes) -> Any:
    return np.frombuffer(_bytes(data), _checked(dtype), 1)[0]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Stored:
    """As NumPy's function of protocol 5."""
    stored = Stored()
    stored.__setstate__((1, shape, dtype, order == "F", data))
    return stored


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes in protocols 0 to 2, which store them as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _sealed(function: Callable[..., Any]) -> Any:
    """Wrap a function in an object whose attributes a pickle cannot set."""
    members = {"__slots__": (), "__call__": staticmethod(function)}
    return type(function.__name__, (), members)()


_RECONSTRUCT = _sealed(lambda kind, shape, code: Stored())
# What may be named, by module and name. Protocols 0 to 2 use the modules of Python 2, and NumPy 2
# has renamed its own.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _sealed(_encoded),
    ("numpy", "ndarray"): _sealed(Stored),
    ("numpy", "dtype"): _sealed(_Dtype),
}
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _RECONSTRUCT
    _ALLOWED[f"{_package}.multiarray", "scalar"] = _sealed(_scalar)
    _ALLOWED[f"{_package}.numeric", "_frombuffer"] = _sealed(_from_buffer)
for _package in ("builtins", "__builtin__"):
    _ALLOWED[_package, "bytes"] = _sealed(lambda: b"")
    for _type in (bool, int, float, complex, str, list, tuple, dict, set, frozenset, slice):
        _ALLOWED[_package, _type.__name__] = _type


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("an object outside the file")


def read_plain(path: Path) -> Any:
    """Read a pickle of plain values; its NumPy arrays come as `Stored`.

    Raises
    ------
    OSError
    ValueError
        The file is damaged, or holds anything but numbers, text, containers, and NumPy arrays and
        scalars of numbers or text.
    """
    with open(path, "rb") as file:
        try:
            return _Plain(file).load()
        except Exception as error:  # a malformed pickle can raise all kinds of exceptions
            raise ValueError(
                f"{path}: holds {error}, or is damaged; of a pickle only plain numbers, text, "
                "lists, dictionaries and NumPy arrays are read, and nothing in it is run"
            ) from error
