"""Build the lattices of a batch: number the vertices by sorting their keys, and link neighbours.

A key holds the remainder of a vertex, the first d of its quotients and the number of its image, in
this order of significance. It is one int64 where the spans of the data allow it, else several
words; no field wraps.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import checks
from ...params import QUALITIES
from ..ops.answers import read
from ..ops.kernels import Lattice
from .locate import Simplices, indexable, locate

# Steps away from the data's vertices that keys must represent: a neighbour's neighbour ("filled").
_STEPS = 2
_KEY_BITS = 62  # of a word, so that sums stay below the sign
_OUTSIDE = 2**63 - 1  # every word of the keys of points outside the mask: they are sorted last


class Layout(NamedTuple):
    """How keys are packed: the word and the unit of each field, and where fields begin."""

    words: int
    word: Sequence[int]  # of each quotient and, last, of the image's number
    unit: Sequence[Tensor | int]  # [] int64 each: what one step in the field adds to its word
    base: Tensor  # [d] int64, the quotient that is encoded as 0


def build(
    features: Tensor,
    quality: str,
    name: str,
    guide: Tensor | None = None,
    inside: Tensor | None = None,
) -> Lattice:
    """Build the lattices of features [B, N, D]; `Lattices` says how the result is laid out.

    Errors call the features `name`; of features that cannot be used the `guide` of this name is
    checked first. Points where `inside` [B, N, 1] is 0 are on no vertex.

    The call waits for the device once, to read the number of vertices; once more for quality
    "filled", and several times for features that need keys of several words.
    """
    checks.option("quality", quality, QUALITIES)
    features = features.detach()
    images, points, dims = features.shape
    entries = images * points * (dims + 1)
    if entries >= 2**31:
        raise ValueError(
            f"features has {images} images of {points} points; a batch takes fewer than "
            f"{2**31 // (dims + 1)} points, so split it"
        )
    symmetric, masked = quality != "standard", inside is not None
    if entries == 0:
        return _without_vertices(features, symmetric, masked)
    outside = None
    if inside is not None:
        outside = (inside == 0).expand(images, points, dims + 1).reshape(-1)
    fine = indexable(features)
    # Values that are refused below must not become indices before.
    found = locate(torch.where(fine, features, 0.0))
    spans, base = _spans(found)
    fits = (spans.float().log2().sum() + math.log2((dims + 1) * images)) < _KEY_BITS - 1
    layout = _one_word(spans, base, dims)
    keys = _keys(found, layout, images, outside)
    order, number = _numbered(keys)
    asked = [_count(number, outside), _dropped(outside, fine), fine.long(), fits.long()]
    found_ = read(torch.cat([torch.stack(asked), spans]))
    vertices, dropped, fine_, fits_, *spans_ = map(int, found_)
    if not fine_:
        if guide is not None:
            checks.image_values(guide, name)
        arrays = [image.cpu().numpy() for image in features]
        checks.refuse_features(*arrays, name=name, float64=checks.DOUBLE)
    if not fits_:
        layout = _several_words(spans_, base, images)
        keys = _keys(found, layout, images, outside)
        order, number = _numbered(keys)
        vertices = int(read(_count(number, outside)[None])[0])
    if dropped == entries:
        return _without_vertices(features, symmetric, masked)
    order, number = order[: entries - dropped], number[: entries - dropped]
    distinct = keys[:, order[_begins(number, vertices)]]
    if quality == "filled":
        distinct, moved = _with_neighbours(distinct, layout)
        number, vertices = moved[number], distinct.shape[1]
        if vertices * (dims + 1) >= 2**31:
            raise ValueError(
                f"quality is 'filled' but the features have {vertices} vertices with their "
                "neighbours, too many to count; use quality='symmetric'"
            )
    # Points outside the mask read the row of missing vertices, which is 0.
    vertex = number.new_full((entries,), vertices, dtype=torch.int32)
    vertex[order] = number.int()
    links = _links(distinct, layout)
    links[-1, :-1, 0] = _begins(number, vertices)
    links[-1, -1, 0] = len(order)
    facts = order.int()
    return Lattice(
        vertex.view(images, points, dims + 1),
        found.weight.T.reshape(images, points, dims + 1).contiguous(),
        links,
        facts[None] if symmetric else facts,
    )


def _without_vertices(features: Tensor, symmetric: bool, masked: bool) -> Lattice:
    """Return lattices whose points are on no vertex: there are none, or none inside the mask.

    With a mask there is one entry, of a point outside, because torch assumes that sizes that depend
    on the data are positive.
    """
    images, points, dims = features.shape
    links = torch.zeros(dims + 2, 1, 3, dtype=torch.int32, device=features.device)
    facts = torch.zeros(int(masked), dtype=torch.int32, device=features.device)
    weight = features.new_zeros(images, points, dims + 1)
    vertex = torch.zeros_like(weight, dtype=torch.int32)
    return Lattice(vertex, weight, links, facts[None] if symmetric else facts)


def built_like(features: Tensor, quality: str, inside: Tensor | None) -> Lattice:
    """Return what `build` returns, of unknown values and number of vertices, to trace a graph."""
    images, points, dims = features.shape
    context = torch.library.get_ctx()
    rows = context.new_dynamic_size(min=1)
    entries: Any = images * points * (dims + 1)
    if inside is not None:
        entries = context.new_dynamic_size(min=1)
    facts = features.new_empty(entries, dtype=torch.int32)
    return Lattice(
        features.new_empty(images, points, dims + 1, dtype=torch.int32),
        features.new_empty(images, points, dims + 1),
        features.new_empty(dims + 2, rows, 3, dtype=torch.int32),
        facts[None] if quality != "standard" else facts,
    )


def _spans(found: Simplices) -> tuple[Tensor, Tensor]:
    """Return how many values each quotient field needs, and the lowest of them. [d] int64 each"""
    quotient = found.quotient[:-1]  # the quotients sum to a known number, so the last is redundant
    # The vertices of a simplex have quotients down to the point's minus 1.
    base = quotient.amin(1) - 1 - _STEPS
    return quotient.amax(1) + _STEPS - base + 1, base


def _one_word(spans: Tensor, base: Tensor, dims: int) -> Layout:
    """Return the layout of keys of one word; they wrap unless `spans` fit."""
    units = torch.cat([spans.new_full((1,), dims + 1), spans]).cumprod(0)
    return Layout(1, [0] * (dims + 1), units.unbind(), base)


def _several_words(spans: Sequence[int], base: Tensor, images: int) -> Layout:
    """Return the layout of keys that fill one word after the other."""
    word: list[int] = []
    unit: list[int] = []
    size = len(spans) + 1
    for span in (*spans, images):
        if size * span >= 2 ** (_KEY_BITS - 1):
            size, at = 1, (word[-1] if word else 0) + 1
        else:
            at = word[-1] if word else 0
        word.append(at)
        unit.append(size)
        size *= span
    return Layout(word[-1] + 1, word, unit, base)


def _keys(found: Simplices, layout: Layout, images: int, outside: Tensor | None) -> Tensor:
    """Return the keys of all corners, [words, P (d+1)], corner by corner of each point.

    Corners that are `outside` [P (d+1)] all get the greatest key.
    """
    corners, points = found.quotient.shape
    image = torch.arange(images, device=found.quotient.device)
    words = []
    for w in range(layout.words):
        key = torch.zeros_like(found.quotient[0])
        units = torch.zeros(corners, dtype=torch.int64, device=key.device)
        for j in range(corners - 1):
            if layout.word[j] == w:
                key = key + (found.quotient[j] - layout.base[j]) * layout.unit[j]
                units[j] = layout.unit[j]
        if layout.word[-1] == w:
            key = key + image.repeat_interleave(points // images) * layout.unit[-1]
        # What leads from vertex k to vertex k + 1: the remainder rises, the axis of rank d-k falls.
        units = units[:, None].expand_as(found.rank)
        step = torch.zeros_like(found.rank).scatter_(0, found.rank, units)
        planes = [key]
        for k in range(corners - 1):
            key = key + int(w == 0) - step[corners - 1 - k]
            planes.append(key)
        words.append(torch.stack(planes, dim=1).view(-1))
    keys = torch.stack(words)
    return keys if outside is None else keys.masked_fill_(outside, _OUTSIDE)


def _count(number: Tensor, outside: Tensor | None) -> Tensor:
    """Return how many keys there are, [], not counting that of the corners `outside`."""
    return number[-1] + (1 if outside is None else ~outside.any())


def _dropped(outside: Tensor | None, like: Tensor) -> Tensor:
    """Return how many corners are `outside`, [] int64, on the device of `like`."""
    return like.new_zeros((), dtype=torch.int64) if outside is None else outside.sum()


def _numbered(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return a stable order that sorts keys [words, E], and the number of each sorted key. [E]"""
    ordered, order = torch.sort(keys[0], stable=True)
    for word in keys[1:]:
        order = order[torch.sort(word[order], stable=True).indices]
    if len(keys) > 1:
        every = keys[:, order]
        new = (every[:, 1:] != every[:, :-1]).any(0)
    else:
        new = ordered[1:] != ordered[:-1]
    return order, torch.cat([new.new_zeros(1), new]).cumsum(0)


def _begins(number: Tensor, vertices: int) -> Tensor:
    """Return where each vertex begins in sorted numbers, [M]."""
    return torch.searchsorted(number, torch.arange(vertices, device=number.device))


def _with_neighbours(distinct: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Add all neighbours of vertices [words, M]; return all, and the places of the first M."""
    corners = len(layout.unit)
    around = [_step(distinct, layout, axis, way) for axis in range(corners) for way in (-1, 1)]
    every = torch.cat([distinct, *around], dim=1)
    order, number = _numbered(every)
    vertices = int(read(number[-1:])[0]) + 1
    place = torch.empty_like(number)
    place[order] = number
    return every[:, order[_begins(number, vertices)]], place[: distinct.shape[1]]


def _step(keys: Tensor, layout: Layout, axis: int, way: int) -> Tensor:
    """Return the keys of the neighbours along an axis: coordinates +1, and -d on the axis.

    With `way` -1 the step is taken back.
    """
    corners = len(layout.unit)
    out = keys.clone()
    remainder = keys[0] % corners
    wraps = (remainder == (corners - 1 if way > 0 else 0)).long()
    out[0] += way - way * corners * wraps
    for j in range(corners - 1):  # the quotients rise where the remainder wraps
        out[layout.word[j]] += way * layout.unit[j] * (wraps - int(j == axis))
    return out


def _links(distinct: Tensor, layout: Layout) -> Tensor:
    """Return each vertex and its two neighbours along each axis, [d+2, M+1, 3] int32.

    Row M stands for vertices that are missing, whose neighbours it is as well. The last plane has
    room for the begins of `Lattices`.
    """
    corners, vertices = len(layout.unit), distinct.shape[1]
    index = _Index(distinct)
    links = torch.full(
        (corners + 1, vertices + 1, 3), vertices, dtype=torch.int32, device=distinct.device
    )
    links[:-1, :-1, 0] = torch.arange(vertices, dtype=torch.int32, device=distinct.device)
    for axis in range(corners):
        for side, way in ((1, -1), (2, 1)):
            links[axis, :-1, side] = index.find(_step(distinct, layout, axis, way)).int()
    return links


class _Index:
    """Finds keys among sorted distinct keys [words, M].

    Several words are first folded to one: words are replaced by their place among their distinct
    values, and two such places are one number.
    """

    def __init__(self, keys: Tensor) -> None:
        self._size = keys.shape[1]
        self._levels: list[tuple[Tensor, Tensor]] = []
        key = keys[-1]
        for word in reversed(keys[:-1].unbind()):
            level = (torch.unique(key), torch.unique(word))
            self._levels.append(level)
            key = self._folded(key, word, level)
        self._keys = key

    @staticmethod
    def _folded(key: Tensor, word: Tensor, level: tuple[Tensor, Tensor]) -> Tensor:
        """Return one number for both words, or -1 where one of them is unknown."""
        high, low = (_place(of, values) for of, values in zip((key, word), level, strict=True))
        return torch.where((high < 0) | (low < 0), -1, high * len(level[1]) + low)

    def find(self, keys: Tensor) -> Tensor:
        """Return the place of keys [words, K], or M for those that are not there. [K]"""
        key = keys[-1]
        for word, level in zip(reversed(keys[:-1].unbind()), self._levels, strict=True):
            key = self._folded(key, word, level)
        place = _place(key, self._keys)
        return torch.where(place < 0, self._size, place)


def _place(keys: Tensor, among: Tensor) -> Tensor:
    """Return the place of each key in sorted distinct ones, -1 for those that are not there."""
    place = torch.searchsorted(among, keys).clamp_(max=len(among) - 1)
    return torch.where(among[place] == keys, place, -1)
