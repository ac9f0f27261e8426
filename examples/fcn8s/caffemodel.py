"""Read the weights of a .caffemodel file without Caffe.

The file is a protocol-buffers message. Its wire format is a list of fields, each a number, a wire
type and a value; a value of bytes may be a nested message. The field numbers below are those of
caffe.proto for current layers and for those until 2014 ("V1"). Only weights are read.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types
LAYER, V1_LAYER = 100, 2  # fields of NetParameter
FIELDS = {LAYER: {"name": 1, "blobs": 7}, V1_LAYER: {"name": 4, "blobs": 6}}
DATA, SHAPE, DOUBLE_DATA, OLD_SHAPE = 5, 7, 8, (1, 2, 3, 4)  # fields of BlobProto
DIM = 1  # field of BlobShape


def read(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Return the blobs of all layers that have any, by the layer's name.

    Raises
    ------
    ValueError
        The file is not a .caffemodel, or it ends early.
    """
    layers: dict[str, list[np.ndarray]] = {}
    try:
        net = memoryview(Path(path).read_bytes())
        for number, kind, message in _fields(net):
            if number in FIELDS and kind == BYTES:
                numbers = FIELDS[number]
                parts = [(n, v) for n, k, v in _fields(message) if k == BYTES]
                name = next((bytes(v).decode() for n, v in parts if n == numbers["name"]), "")
                blobs = [_blob(v) for n, v in parts if n == numbers["blobs"]]
                if blobs:
                    layers[name] = blobs
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as a .caffemodel ({error}); download it once more"
        ) from error
    if not layers:
        raise ValueError(f"{path} holds no layer with weights; give a trained .caffemodel")
    return layers


def _blob(message: memoryview) -> np.ndarray:
    """Return a blob as a float32 array of its shape in the file."""
    shape: list[int] = []
    old = dict.fromkeys(OLD_SHAPE, 0)
    data: list[np.ndarray] = []
    for number, kind, value in _fields(message):
        if number in (DATA, DOUBLE_DATA):  # packed, or one field per number
            wide = number == DOUBLE_DATA
            data.append(np.frombuffer(value, "<f8" if wide else "<f4").astype(np.float32))
        elif number == SHAPE:
            for n, k, v in _fields(value):
                if n == DIM:
                    shape += [v] if k == VARINT else list(_varints(v))
        elif number in old and kind == VARINT:
            old[number] = value
    if not shape and any(old.values()):
        shape = list(old.values())
    array = np.concatenate(data) if data else np.zeros(0, np.float32)
    if array.size != math.prod(shape):
        raise ValueError(f"a blob of shape {shape} has {array.size} numbers")
    return array.reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and value of each field; raise ValueError for groups."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(message, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, position = _varint(message, position)
        elif kind in (DOUBLE, FLOAT):
            size = 8 if kind == DOUBLE else 4
        else:
            raise ValueError(f"a field is of kind {kind}")
        if position + size > len(message):
            raise ValueError("it ends early")
        yield number, kind, message[position : position + size]
        position += size


def _varints(message: memoryview) -> Iterator[int]:
    """Yield the numbers of a packed list."""
    position = 0
    while position < len(message):
        value, position = _varint(message, position)
        yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number stored in seven bits per byte, lowest first, and the next position."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
