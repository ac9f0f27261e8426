"""The samples of PGM and PPM images as they are stored; Pillow stretches them to 8 or 16 bits."""

import re
from pathlib import Path

import numpy as np

from .._typing import Array

_COMMENT = rb"#[^\r\n]*[\r\n]"
_GAP = rb"(?:\s|" + _COMMENT + rb")+"
_NUMBER = _GAP + rb"(\d+)"
_HEADER = re.compile(rb"P([2356])" + 3 * _NUMBER + rb"\s")  # width, height, largest value
_TEXT, _COLOURS = (b"2", b"3"), (b"3", b"6")  # the others are binary, and grey


def read_samples(path: Path) -> Array | None:
    """Read the pixels [H, W] or [H, W, 3] of a PGM or PPM, uint8 or uint16; None for other files.

    Raises
    ------
    ValueError
        The header, or a value that exceeds the largest one it names, is wrong.
    """
    content = path.read_bytes()
    if content[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return None
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(
            f"{path}: its header does not begin with three plain numbers (width, height, largest "
            "value); save the image as PNG"
        )
    kind, (width, height, most) = header[1], map(int, header.groups()[1:])
    shape = (height, width, 3) if kind in _COLOURS else (height, width)
    dtype = np.dtype(np.uint8 if most < 256 else np.uint16)
    count = int(np.prod(shape))
    if kind in _TEXT:
        words = re.sub(_COMMENT, b" ", content[header.end() :]).split()
        samples = np.array(words[:count]).astype(np.int64)
    else:
        samples = np.frombuffer(content, dtype.newbyteorder(">"), count, header.end())
    if (found := int(samples.max(initial=0))) > most:
        raise ValueError(
            f"{path}: holds {found}, but its header says that {most} is the largest value; correct "
            "the header, or save the image as PNG"
        )
    return samples.astype(dtype).reshape(shape)
