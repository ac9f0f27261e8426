"""Build the lattices of a batch on a device, with one wait for the device.

The keys of vertices are packed by a layout that needs the range of the features, which only the
device knows. So the range of the lattices built before, a little wider, is used at first. The range
of these features is read with the number of vertices, and the keys are packed and sorted again if
they did not fit. The order of the vertices does not depend on the layout.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import checks
from ...engines import device as structs
from ...params import QUALITIES
from .answers import read
from .device import Call, features_struct, on_its_device
from .dispatch import capturing
from .kernels import Lattice

Range = tuple[list[float], list[float]]  # minimum and maximum of each feature

# The range that keys can represent, by device, dtype and number of features.
_known: dict[Any, Range] = {}


@on_its_device
def lattice_build(
    native: Any,
    features: Tensor,
    quality: str,
    name: str,
    guide: Tensor | None,
    inside: Tensor | None,
) -> Lattice:
    """Build the lattices of features [B, N, D], with one array `links` [size] for all of them.

    The call waits for the device once; twice if the features go beyond those of earlier calls, and
    once more for quality "filled". Points where `inside` [B, N, 1] is 0 share one vertex, to which
    nothing is splatted.
    """
    refuse_capture(features)
    checks.option("quality", quality, QUALITIES)
    images, points, dims = features.shape
    corners = dims + 1
    entries = images * points * corners
    if entries >= 2**31:
        raise ValueError(
            f"features has {images} images of {points} points; a batch takes fewer than "
            f"{2**31 // corners} points on a device, so split it"
        )
    call = Call(native, features)
    vertex = features.new_empty(images, points, corners, dtype=torch.int32)
    if entries == 0:
        links = features.new_zeros(native.links_size(0, 0, corners), dtype=torch.int32)
        facts = torch.tensor([0, quality != "standard"])
        return Lattice(vertex, features.new_empty(vertex.shape), links, facts)
    kept = call.address(None if inside is None else inside != 0, torch.bool)
    located = _located(call, features, kept)
    if located is None:
        if guide is not None:
            checks.image_values(guide, name)
        arrays = [image.cpu().numpy() for image in features.detach()]
        checks.refuse_features(*arrays, name=name, float64=checks.DOUBLE)
        raise ValueError(f"{name} cannot be placed on a lattice; please report this")
    layout, weight, corner_keys = located
    touched = _distinct(call, layout, corner_keys)
    vertices, all_keys = corner_keys.distinct, touched
    if quality == "filled":
        around = vertices * (2 * corners + 1)
        if around >= 2**31:
            raise ValueError(
                f"quality is 'filled' but the features touch {vertices} vertices, whose neighbours "
                "cannot be counted; use quality='symmetric'"
            )
        keys = call.empty(layout.words * around, torch.int64)
        native.surround(layout, vertices, touched.data_ptr(), keys.data_ptr(), call.stream)
        order, number = _sorted(call, layout, around, keys)
        vertices = int(read(number[-1:])[0])
        every = structs.SortedKeys(around, vertices, *_addresses(keys, order, number))
        all_keys = _distinct(call, layout, every)
    links = features.new_zeros(native.links_size(vertices, entries, corners), dtype=torch.int32)
    begins, chunk_count, chunks_before = torch.zeros(
        3, vertices, dtype=torch.int32, device=features.device
    )
    room = structs.LinkRoom(
        vertex_of=call.empty(corner_keys.distinct, torch.int32).data_ptr(),
        begins=call.room(begins, torch.int32),
        chunk_count=call.room(chunk_count, torch.int32),
        chunks_before=call.room(chunks_before, torch.int32),
        scratch=call.workspace(native.scratch_size(vertices)),
    )
    all_touched = 0 if all_keys is touched else touched.data_ptr()
    out = (call.room(vertex, torch.int32), call.room(links, torch.int32))
    keys_of = (all_touched, vertices, all_keys.data_ptr(), kept)
    native.link(layout, corner_keys, *keys_of, *out, room, call.stream)
    return Lattice(vertex, weight, links, torch.tensor([vertices, quality != "standard"]))


def refuse_capture(like: Tensor) -> None:
    """Raise if a CUDA graph is being captured, in which no lattice can be built."""
    if capturing(like):
        raise RuntimeError(
            "a lattice cannot be built while a CUDA graph is captured, because building waits for "
            "the device; build it before, and capture only the operator "
            "densecrf_rnn.nn.ops.mean_field"
        )


class _Located(NamedTuple):
    layout: Any  # of the keys
    weight: Tensor  # [B, N, D+1], barycentric weights
    keys: structs.SortedKeys  # of all corners


def _located(call: Call, features: Tensor, kept: int) -> _Located | None:
    """Locate features [B, N, D] and sort the keys; None if they are not finite or too large.

    With `kept`, the address of a mask, there is room for one more image, of which the points
    outside of the mask are.
    """
    native, (images, points, dims) = call.native, features.shape
    entries = images * points * (dims + 1)
    detached = features.detach()
    ends = torch.cat([detached.amin((0, 1)), detached.amax((0, 1))]).double()
    weight = features.new_empty(images, points, dims + 1)
    view, room = features_struct(features, kept), call.room(weight)
    of = (str(features.device), features.dtype, dims)
    known = _known.get(of)
    if known is None:
        known = _split(read(ends))
        if _layout(call, known, images, kept) is None:
            return None
        known = _known[of] = _widened(call, known, None)
    while True:
        layout = _layout(call, known, images, kept)
        keys = call.empty(layout.words * entries, torch.int64)
        native.locate(call.wide, view, layout, room, keys.data_ptr(), call.stream)
        order, number = _sorted(call, layout, entries, keys)
        distinct, *found = read(torch.cat([number[-1:].double(), ends]))
        own = _split(found)
        needed = _layout(call, own, images, kept)
        if needed is None:
            return None
        if layout.covers(needed):
            addresses = _addresses(keys, order, number)
            return _Located(layout, weight, structs.SortedKeys(entries, int(distinct), *addresses))
        known = _known[of] = _widened(call, own, known)


def _split(ends: list[float]) -> Range:
    """Return the minima and the maxima that one list holds, in this order."""
    return ends[: len(ends) // 2], ends[len(ends) // 2 :]


def _layout(call: Call, of: Range, images: int, kept: int) -> Any:
    """Return the layout of keys for a range; None if it is not finite or too large."""
    return call.native.key_layout(call.wide, *of, max(images, 1) + bool(kept))


def _widened(call: Call, own: Range, before: Range | None) -> Range:
    """Return a range for this and later calls: a little wider, and with the one known before.

    Neither may make the keys longer by a word.
    """
    least, most = _layout(call, own, 1, 0).words, own
    margins = [(high - low) / 8 for low, high in zip(*own, strict=True)]
    wider = (
        [low - m for low, m in zip(own[0], margins, strict=True)],
        [high + m for high, m in zip(own[1], margins, strict=True)],
    )
    both = wider
    if before is not None:
        both = [*map(min, before[0], wider[0])], [*map(max, before[1], wider[1])]
    for one in (both, wider):
        layout = _layout(call, one, 1, 0)
        if layout is not None and layout.words <= least:
            return one
    return most


def _sorted(call: Call, layout: Any, count: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sort keys [words, count]; return the order, and each sorted key's number, from 1. [count]"""
    order, number = call.empty(count, torch.int32), call.empty(count, torch.int32)
    scratch = call.workspace(call.native.scratch_size(count))
    addresses = _addresses(keys, order, number)
    call.native.number_keys(layout, count, *addresses, scratch, call.stream)
    return order, number


def _addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def _distinct(call: Call, layout: Any, found: structs.SortedKeys) -> Tensor:
    """Return the distinct keys in sorted order, [words, distinct]."""
    out = call.empty(layout.words * found.distinct, torch.int64)
    call.native.distinct_keys(layout, found, out.data_ptr(), call.stream)
    return out
