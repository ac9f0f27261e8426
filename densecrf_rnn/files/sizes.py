"""How much a file may unpack to. Headers say it before anything is unpacked: `check` asks them.

A file of any format may be unpacked unless its bytes are more than `_FACTOR` times those of float64
scores of the image's pixels and the file's labels, or it is blown up `_RATIO`-fold to more than
`_LARGE` bytes.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

_FREE = 2**26  # bytes that any file may unpack to
_LARGE = 2**30  # bytes to which no small file unpacks
_RATIO = 256  # unpacked to stored bytes; label maps reach it, scores and photographs do not
_BLANK = 2**14  # unpacked to stored bytes of a picture of one colour
_FACTOR = 4  # unpacked bytes to those of a float64 for each pixel of the image and label
_MAX_LABELS = 4096  # of scores; a longer axis is an axis of space
_SLACK = 2**16  # bytes that a compressed block may take in addition to twice its content

_ALLOWED: ContextVar[int] = ContextVar("allowed", default=0)
_PIXELS: ContextVar[int | None] = ContextVar("pixels", default=None)
_LABELS_LAST: ContextVar[bool] = ContextVar("labels_last", default=False)


@contextlib.contextmanager
def allowing(max_bytes: int | None) -> Iterator[None]:
    """Let files unpack to `max_bytes` in the with block, whatever they take on disk.

    By default, files that unpack to much more than they seem are rejected before anything is
    unpacked: those of more than 1 GiB that take less than a 256th of it on disk.

    Parameters
    ----------
    max_bytes : int or None
        Bytes; None leaves the limits as they are.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn import files
    >>> with tempfile.TemporaryDirectory() as folder, files.allowing(2**34):
    ...     np.savez_compressed(f"{folder}/a.npz", labels=np.zeros((40, 50), np.uint8))
    ...     files.read_labels(f"{folder}/a.npz").shape
    (40, 50)
    """
    token = _ALLOWED.set(_ALLOWED.get() if max_bytes is None else int(max_bytes))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


@contextlib.contextmanager
def expecting(pixels: int | None, labels_last: bool = False) -> Iterator[None]:
    """Compare the files that are read in the with block with an image of so many pixels."""
    tokens = _PIXELS.set(pixels), _LABELS_LAST.set(labels_last)
    try:
        yield
    finally:
        _PIXELS.reset(tokens[0])
        _LABELS_LAST.reset(tokens[1])


def check(
    path: Path, shape: Sequence[int], dtype: Any, stored: int | None = None, *,
    labels: int | None = None, what: str = "it", picture: bool = False,
) -> None:  # fmt: skip
    """Raise ValueError if an array of a file, or a block of it, is out of all proportion.

    Parameters
    ----------
    path : path
    shape, dtype
        As the file's header says.
    stored : int, optional
        Bytes that the file takes; by default its size.
    labels : int, optional
        Number of maps, if it is not the first axis.
    what : str
        What unpacks, for the message.
    picture : bool
        A picture, of which not even a blank one shrinks as far as the chunks of an array may.
    """
    unpacked = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
    if unpacked <= max(_FREE, _ALLOWED.get()):
        return
    found = f"{path}: {what} would unpack to {shown(unpacked)}"
    wanted = f"read it within `files.allowing({unpacked})`"
    pixels = _PIXELS.get()
    if pixels is not None:
        one = _FACTOR * 8 * pixels
        if unpacked > one * min(_labels(shape) if labels is None else labels, _MAX_LABELS):
            raise ValueError(
                f"{found}, by its shape {tuple(shape)}, but the image has {pixels} pixels; give "
                f"the file of this image or, if it is right, {wanted}"
            )
        if unpacked <= one:
            return
    stored = path.stat().st_size if stored is None else stored
    blank = picture and unpacked > _BLANK * stored
    if blank or (unpacked > _LARGE and unpacked > _RATIO * stored):
        raise ValueError(
            f"{found}, but takes {shown(stored)} on disk; if that is right, {wanted}"
        )


def _labels(shape: Sequence[int]) -> int:
    """Return the number of maps of an array [L, *S] or [1, L, *S]; 1 for a label map."""
    if len(shape) < 3:
        return 1
    if _LABELS_LAST.get():
        return shape[-1]
    return shape[1] if shape[0] == 1 and len(shape) > 3 else shape[0]


def check_blocks(unpacked: int, stored: Sequence[int]) -> None:
    """Raise ValueError if a compressed block takes much more than the numbers that it should hold.

    Decoders unpack such a block as far as it goes, which may be a thousand times its size.
    """
    if max(stored, default=0) > 2 * unpacked + _SLACK:
        raise ValueError(
            f"a block of {shown(unpacked)} takes {shown(max(stored))} on disk, compressed"
        )


def shown(count: int) -> str:
    """Return a number of bytes with a unit.

    Examples
    --------
    >>> shown(4_800_000_000), shown(70_000)
    ('4.8 GB', '70 kB')
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} bytes"
