"""The values or colours by which files store labels, and what they stand for.

A label map usually holds the labels 0..L-1 themselves. Others hold values such as 0 and 255, or a
colour per label; a `LabelValues` says which label each of them is.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import samples
from .._typing import Array

_NAMED = 3  # unknown values or colours that a message names
_LOSSY = "; lossy compression such as JPEG's and interpolation make such {}, so save masks as PNG"
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, eq=False)
class LabelValues:
    """What the values, or the colours, of label maps stand for.

    Parameters
    ----------
    values : sequence of int, optional
        Label k is stored as values[k]. A file whose values are all in 0..L-1 may also hold the
        labels themselves, unless that contradicts `values`.
    colours : ndarray [L, 3] of uint8, optional
        Label k is stored in the RGB colour colours[k]. A map of one channel holds the labels
        themselves, or the grey values of grey colours.
    names : sequence of str, optional
        Names of the labels.
    void : int, optional
        Value that stands for no label: with `values` a value in the file, else a label.

    Raises
    ------
    ValueError
        Neither or both of `values` and `colours` are given; there are fewer than two, or one occurs
        twice; or `void` is one of `values`.

    Examples
    --------
    >>> stored = LabelValues(values=(0, 255))
    >>> stored.labels(Path("a.png"), np.array([[0, 255]])).tolist()
    [[0, 1]]
    >>> stored.stored(np.array([[0, 1]])).tolist()
    [[0, 255]]
    >>> stored.values_of_one_channel.tolist(), stored.void_label, stored.palette()
    ([0, 255], None, None)
    >>> coloured = LabelValues(colours=np.array([[0, 0, 0], [255, 0, 0]]))
    >>> red = np.array([[[255, 0, 0]]], np.uint8)
    >>> coloured.labels_of_colours(Path("a.png"), red).tolist()
    [[1]]
    """

    values: tuple[int, ...] | None = None
    colours: Array | None = None
    names: tuple[str, ...] | None = None
    void: int | None = None

    def __post_init__(self) -> None:
        if (self.values is None) == (self.colours is None):
            raise ValueError("give either values or colours")
        codes = self._codes
        if len(codes) < 2 or len(np.unique(codes)) < len(codes):
            what = "values" if self.colours is None else "colours"
            raise ValueError(f"the {what} of labels must be at least two, each once")
        if codes.min() < 0:
            raise ValueError(f"the values of labels must be at least 0, not {codes.min()}")
        if self.values is not None and self.void in self.values:
            raise ValueError(f"{self.void} is both void and the value of a label")

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def void_label(self) -> int | None:
        """What `labels` returns for void pixels; None if there are none."""
        if self.values is None or self.void is None or not 0 <= self.void < len(self):
            return self.void
        return -1

    @property
    def values_of_one_channel(self) -> Array:
        """The value of each label in files of one channel; -1 for colours that are not grey."""
        if self.colours is None:
            return self._codes
        return np.where((self.colours == self.colours[:, :1]).all(1), self.colours[:, 0], -1)

    def labels(self, path: Path, stored: Array) -> Array:
        """Return the labels [*S] of a map of one channel [*S].

        Raises
        ------
        ValueError
            A value stands for no label; the message names it and `path`.
        """
        void = np.zeros(stored.shape, bool) if self.void is None else stored == self.void
        codes = self.values_of_one_channel
        own = np.flatnonzero(codes < len(self))
        labels_too = self.values is None or np.array_equal(codes[own], own)
        themselves = void | ((stored >= 0) & (stored < len(self)))
        if self.colours is not None and themselves.all():
            return stored
        labels, foreign = positions(stored, codes)
        foreign = (foreign | (stored < 0)) & ~void
        if foreign.any():
            if labels_too and themselves.all():
                labels = stored.astype(np.int64)
            else:
                raise ValueError(f"{path}: {self._unknown(stored[foreign], bool(void.any()))}")
        if self.void_label is not None:
            labels[void] = self.void_label
        return labels

    def labels_of_colours(self, path: Path, pixels: Array) -> Array:
        """Return the labels [H, W] of a map of colours, uint8 [H, W, 3].

        Raises
        ------
        ValueError
            A pixel has the colour of no label; the message names it, how many there are and `path`.
        """
        found = _codes(pixels)
        labels, foreign = positions(found, self._codes)
        if foreign.any():
            codes, counts = np.unique(found[foreign], return_counts=True)
            most = np.argsort(-counts, kind="stable")[:_NAMED]
            named = ", ".join(f"#{codes[i]:06x} ({_count(counts[i], 'pixel')})" for i in most)
            raise ValueError(
                f"{path}: holds {_count(len(codes), 'colour')} of no label, such as "
                f"{named}{', ...' if len(codes) > _NAMED else ''}"
                + (_LOSSY.format("colours") if len(codes) > _NAMED else "; list every colour")
            )
        return labels

    def stored(self, labels: Array) -> Array:
        """Return the values [*S] that a file stores for labels [*S]; with colours, the labels.

        Void pixels, `void_label`, get the value of void again.

        Raises
        ------
        ValueError
            A number is no label.
        """
        if self.values is None:
            return labels
        void = np.zeros(labels.shape, bool) if self.void is None else labels == self.void_label
        foreign = ~void & ((labels < 0) | (labels >= len(self)))
        if foreign.any():
            raise ValueError(
                f"labels hold {labels[foreign][0]}, but there are values for the labels "
                f"0..{len(self) - 1}"
            )
        codes = self._codes
        found = codes.astype(np.min_scalar_type(codes.max()))[labels.clip(0, len(self) - 1)]
        if self.void is None or not void.any():
            return found
        return np.where(void, np.min_scalar_type(self.void).type(self.void), found)

    def palette(self) -> Array | None:
        """Return the colours of the labels as a palette, uint8 [256, 3]; None without colours."""
        if self.colours is None:
            return None
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colours[:256]
        return palette

    @property
    def _codes(self) -> Array:
        if self.colours is not None:
            return _codes(self.colours)
        return np.asarray(self.values, np.int64)

    def _unknown(self, foreign: Array, has_void: bool) -> str:
        """Say which values stand for no label."""
        values, counts = np.unique(foreign, return_counts=True)
        named = zip(values[:_NAMED], counts[:_NAMED])
        shown = ", ".join(f"{value} ({_count(n, 'pixel')})" for value, n in named)
        more = ", ..." if len(values) > _NAMED else ""
        listed = "the grey colours of labels" if self.values is None else _shortened(self.values)
        text = f"holds the {'value' if len(values) == 1 else 'values'} {shown}{more}, not among "
        if len(values) > _NAMED:
            soft = "; if these are probabilities, pass kind='probabilities'"
            return text + listed + _LOSSY.format("values") + soft
        return f"{text}{listed} (the values of the labels); list it in the place of its label" + (
            "" if has_void else f", or pass void={values[0]} if it stands for none"
        )


def positions(stored: Array, listed: Array) -> tuple[Array, Array]:
    """Return the index in `listed` of each value, and a mask of the values that are not listed."""
    order = np.argsort(listed)
    index = order[np.searchsorted(listed, stored, sorter=order).clip(max=len(listed) - 1)]
    return index, listed[index] != stored


def grey(path: Path, pixels: Array) -> Array:
    """Return the single channel [..., H, W] of pixels [..., H, W, C] whose colours are all grey.

    C may include alpha (2 or 4 channels) if no pixel is transparent.

    Raises
    ------
    ValueError
        Pixels have colours, or are transparent.
    """
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    if pixels.shape[-1] > 4 or pixels.dtype.kind != "u":
        raise ValueError(f"{path}: has {pixels.shape[-1]} channels; a label map has one")
    check_opaque(path, pixels)
    if pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        raise ValueError(
            f"{path}: holds colours; a label map has one channel, or name the colour of each "
            "label: values=LabelValues(colours=...)"
        )
    return np.ascontiguousarray(pixels[..., 0])


def check_opaque(path: Path, pixels: Array) -> None:
    """Raise ValueError if pixels [..., C] with alpha (C is 2 or 4) are transparent anywhere."""
    if pixels.shape[-1] in (2, 4) and (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
        raise ValueError(f"{path}: has transparent pixels; save a label map without alpha")


def read_label_colours(source: Path | str) -> LabelValues:
    """Read the colours of labels, and their names if all have one.

    Parameters
    ----------
    source : path, or "voc"
        Text file with a line per label, from label 0: three numbers 0..255 or #rrggbb, then
        optionally a name. A CSV file has a header with the columns r, g, b and, optionally, name.
        Lines that begin with "# " are comments. "voc" means the 256 colours of Pascal VOC.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        A line is no colour, or a colour occurs twice.

    Examples
    --------
    >>> read_label_colours("voc").colours[1].tolist()
    [128, 0, 0]
    """
    if source == "voc":
        return LabelValues(colours=samples.palette())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8") from error
    lines = [line.strip() for line in text.rstrip().splitlines() if not line.startswith("# ")]
    columns = [word.strip().lower() for word in lines[0].split(",")] if lines else []
    if {"r", "g", "b"} <= set(columns):
        rows = [_csv_row(line, columns) for line in lines[1:]]
    else:
        rows = [_row(line) for line in lines]
    for number, row in enumerate(rows):
        if row is None:
            line = lines[number + len(lines) - len(rows)]
            raise ValueError(
                f"{path}: {line!r} (label {number}) is no colour; write R G B, each 0..255, or "
                "#rrggbb, with a name after it if you like"
            )
    colours = np.array([row[0] for row in rows if row], np.uint8).reshape(-1, 3)
    names = tuple(row[1] for row in rows if row)
    try:
        return LabelValues(colours=colours, names=names if all(names) else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _row(line: str) -> tuple[list[int], str] | None:
    words = line.replace(",", " ").split()
    if words and _HEX.fullmatch(words[0]):
        return [int(words[0][i : i + 2], 16) for i in (1, 3, 5)], " ".join(words[1:])
    colour = _colour(words[:3])
    return None if colour is None else (colour, " ".join(words[3:]))


def _csv_row(line: str, columns: list[str]) -> tuple[list[int], str] | None:
    cells = dict(zip(columns, (word.strip() for word in line.split(","))))
    colour = _colour([cells.get(channel, "") for channel in "rgb"])
    return None if colour is None else (colour, cells.get("name", ""))


def _colour(words: list[str]) -> list[int] | None:
    if len(words) == 3 and all(word.isdecimal() and int(word) < 256 for word in words):
        return [int(word) for word in words]
    return None


def _codes(colours: Array) -> Array:
    """Return one number for each colour: 0xrrggbb."""
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shortened(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
