"""Lattices and mean fields of whole batches by a device module, for the torch operators.

Native code takes addresses, so every tensor passes through `Call`, which checks its dtype, device
and layout and keeps it alive. All memory, scratch included, comes from torch's allocator.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import engines, checks
from ..engines import device as structs
from ..params import QUALITIES
from .ops.kernels import Grid, Kernel, Lattice, is_given


class Call:
    """The addresses of the tensors of one native call, all on one device."""

    def __init__(self, native: Any, like: Tensor) -> None:
        self.native = native
        self.device = like.device
        self.dtype = like.dtype
        self.wide = like.dtype == torch.float64
        self._kept: list[Tensor] = []

    @property
    def stream(self) -> structs.Stream:
        """The current stream of the device; zeros for the serial launcher."""
        if self.device.type == "cpu":
            return structs.Stream(device=0, handle=0)
        stream = torch.cuda.current_stream(self.device)
        return structs.Stream(device=stream.device_index, handle=stream.cuda_stream)

    def address(self, tensor: Tensor | None, dtype: torch.dtype | None = None) -> int:
        """Return the address of a tensor to read, copied if not contiguous; 0 for None."""
        if tensor is None:
            return 0
        contiguous = tensor.detach().contiguous()
        return self.room(contiguous, dtype)

    def room(self, tensor: Tensor, dtype: torch.dtype | None = None) -> int:
        """Return the address of a contiguous tensor that may be written to."""
        wanted = self.dtype if dtype is None else dtype
        if tensor.dtype != wanted or tensor.device != self.device or not tensor.is_contiguous():
            raise TypeError(
                f"a tensor is {tensor.dtype} on {tensor.device} where contiguous {wanted} on "
                f"{self.device} is needed"
            )
        self._kept.append(tensor)
        return tensor.data_ptr()

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        """Allocate scratch memory that lives as long as this object."""
        tensor = torch.empty(size, dtype=dtype, device=self.device)
        self._kept.append(tensor)
        return tensor

    def workspace(self, size: int) -> int:
        """Allocate `size` bytes of scratch memory and return the address."""
        return self.empty(size, torch.uint8).data_ptr()

    def lattice(self, lattice: Lattice) -> structs.DeviceLattice:
        """Return a lattice as the native module takes it."""
        images, points, corners = lattice.vertex.shape
        return structs.DeviceLattice(
            images=images,
            points=points,
            dims=corners - 1,
            vertex=self.address(lattice.vertex, torch.int32),
            weight=self.address(lattice.weight),
            links=self.address(lattice.links, torch.int32),
            links_size=lattice.links.numel(),
        )


def _features(features: Tensor) -> structs.DeviceFeatures:
    """Return features [B, N, D] of any strides as the native module takes them."""
    image, point, feature = features.stride()
    images, points, dims = features.shape
    return structs.DeviceFeatures(
        data=features.data_ptr(),
        image_stride=image,
        point_stride=point,
        feature_stride=feature,
        images=images,
        points=points,
        dims=dims,
    )


def _on_its_device(function: Any) -> Any:
    """Decorate a function to run with the device of its first tensor as current device."""

    @wraps(function)
    def wrapped(native: Any, first: Any, *args: Any) -> Any:
        tensor = first if isinstance(first, Tensor) else first.weight
        with torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext():
            return function(native, first, *args)

    return wrapped


# --- lattices ------------------------------------------------------------------------------------


@_on_its_device
def lattice_build(native: Any, features: Tensor, quality: str, name: str) -> Lattice:
    """Build the lattices of features [B, N, D]; `links` is one array [size] for all of them.

    It waits for the device: for the range of the features and for the number of vertices.
    """
    if features.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a lattice cannot be built while a CUDA graph is captured, for that waits for the "
            "device; build it before, and capture the mean field (densecrf_rnn.nn.ops.mean_field)"
        )
    images, points, dims = features.shape
    corners = dims + 1
    entries = images * points * corners
    if entries >= 2**31:
        raise ValueError(
            f"features has {images} images of {points} points; a batch takes fewer than "
            f"{2**31 // corners} points on a device, so split it"
        )
    call = Call(native, features)
    layout = _key_layout(native, features)
    if layout is None:
        checks.refuse_features(*(image.cpu().numpy() for image in features.detach()), name=name)
    vertex = features.new_empty(images, points, corners, dtype=torch.int32)
    weight = features.new_empty(images, points, corners)
    keys = call.empty(layout.words * entries, torch.int64)
    if entries > 0:
        view = _features(features)
        native.locate(call.wide, view, layout, call.room(weight), keys.data_ptr(), call.stream)
    corner_keys = _sorted(call, layout, entries, keys)
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
        every = _sorted(call, layout, around, keys)
        vertices, all_keys = every.distinct, _distinct(call, layout, every)
    size = native.links_size(vertices, entries, corners, QUALITIES.index(quality))
    links = features.new_zeros(size, dtype=torch.int32)
    if entries > 0:
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
        native.link(
            layout,
            corner_keys,
            0 if all_keys is touched else touched.data_ptr(),
            vertices,
            all_keys.data_ptr(),
            call.room(vertex, torch.int32),
            call.room(links, torch.int32),
            room,
            call.stream,
        )
    return Lattice(vertex, weight, links)


def _key_layout(native: Any, features: Tensor) -> Any:
    """Return the layout of the vertex keys; None if features are not finite or too large."""
    images, points, dims = features.shape
    least = greatest = [0.0] * dims
    if images * points > 0:
        features = features.detach()
        ends = torch.stack([features.amin((0, 1)), features.amax((0, 1))]).double()
        least, greatest = ends.tolist()
    return native.key_layout(features.dtype == torch.float64, least, greatest, max(images, 1))


def _sorted(call: Call, layout: Any, count: int, keys: Tensor) -> structs.SortedKeys:
    """Sort keys [words, count] and number the distinct ones."""
    order, number = call.empty(count, torch.int32), call.empty(count, torch.int32)
    addresses = {"keys": keys.data_ptr(), "order": order.data_ptr(), "number": number.data_ptr()}
    scratch = call.workspace(call.native.scratch_size(count))
    distinct = call.native.number_keys(
        layout, count, **addresses, scratch=scratch, stream=call.stream
    )
    return structs.SortedKeys(entries=count, distinct=distinct, **addresses)


def _distinct(call: Call, layout: Any, keys: structs.SortedKeys) -> Tensor:
    """Return the distinct keys, [words, distinct]."""
    out = call.empty(layout.words * keys.distinct, torch.int64)
    call.native.distinct_keys(layout, keys, out.data_ptr(), call.stream)
    return out


@_on_its_device
def feature_gradient(native: Any, features: Tensor, d_weight: Tensor) -> Tensor:
    """Return the gradient for features [B, N, D], given that for the weights."""
    out = features.new_empty(features.shape)
    if out.numel() == 0:
        return out
    call = Call(native, features)
    arrays = (call.address(d_weight), call.room(out))
    native.feature_gradient(call.wide, _features(features), *arrays, call.stream)
    return out


@_on_its_device
def lattice_filter(native: Any, values: Tensor, lattice: Lattice, transpose: bool) -> Tensor:
    """Return K values, or with `transpose` K' values, [B, N, C]."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    call = Call(native, values)
    images, _, channels = values.shape
    of = (call.wide, call.lattice(lattice), images, channels)
    workspace = call.workspace(native.filter_workspace(*of, 1))
    arrays = (call.address(values), transpose, call.room(out))
    native.filter(*of, *arrays, workspace, call.stream)
    return out


@_on_its_device
def filter_weight_gradient(
    native: Any, values: Tensor, cotangent: Tensor, lattice: Lattice, transpose: bool
) -> Tensor:
    """Return the gradient of <cotangent, K values> (or K') for the weights, [B, N, D+1]."""
    images, points, channels = values.shape
    out = values.new_zeros(images, points, lattice.weight.shape[2])
    if values.numel() == 0:
        return out
    call = Call(native, values)
    of = (call.wide, call.lattice(lattice), images, channels)
    workspace = call.workspace(native.filter_workspace(*of, 2))
    arrays = (call.address(values), call.address(cotangent), transpose, call.room(out))
    native.filter_weight_gradient(*of, *arrays, workspace, call.stream)
    return out


@_on_its_device
def self_response(native: Any, lattice: Lattice, cotangent: Tensor | None) -> Tensor:
    """Return the diagonal of each K, [B, N].

    With a cotangent [B, N]: the gradient of <cotangent, diagonal> for the weights, [B, N, D+1].
    """
    shape = lattice.weight.shape
    out = lattice.weight.new_empty(shape if cotangent is not None else shape[:2])
    if out.numel() == 0:
        return out
    call = Call(native, lattice.weight)
    arrays = (call.lattice(lattice), call.address(cotangent), call.room(out))
    native.self_response(call.wide, *arrays, call.stream)
    return out


# --- mean fields ---------------------------------------------------------------------------------


def _model(
    call: Call,
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Kernel],
    grid: Grid,
    grid_scales: Sequence[Tensor],
    iterations: int,
) -> structs.DeviceModel:
    """Return a mean field as the native module takes it."""

    names = ("before", "after", "diagonal")

    def addresses(scales: Sequence[Tensor], images: int) -> dict[str, int]:
        given = [call.address(s.expand(images, -1, -1)) if is_given(s) else 0 for s in scales]
        return dict(zip(names, given, strict=False))  # a grid may have no scales of its own

    found: list[structs.DeviceKernel] = []
    for kernel in kernels:
        scales = (kernel.before, kernel.after, kernel.diagonal)
        own = addresses(scales, len(kernel.lattice.vertex))
        found.append(
            structs.DeviceKernel(
                lattice=call.lattice(kernel.lattice), axes=(), grid_scales_per_image=False, **own
            )
        )
    if grid.size is not None:
        tables, common = _grid_tables(_grid_key(grid), logits.dtype, logits.device)
        axes = [
            structs.DeviceGridAxis(
                **sizes, **{name: call.address(t, t.dtype) for name, t in tensors.items()}
            )
            for sizes, tensors in tables
        ]
        own = addresses(grid_scales, len(logits)) or {
            name: call.address(scale) for name, scale in zip(names, common, strict=True)
        }
        per_image = len(grid_scales) > 0
        found.append(
            structs.DeviceKernel(lattice=None, axes=axes, grid_scales_per_image=per_image, **own)
        )
    images, labels, points = logits.shape
    return structs.DeviceModel(
        images=images,
        points=points,
        labels=labels,
        width=engines.row_width(labels),
        iterations=iterations,
        coupling=call.address(coupling),
        kernels=found,
    )


def _grid_key(grid: Grid) -> Grid:
    """Return a hashable copy of a grid: torch passes lists."""
    assert grid.size is not None and grid.deviation is not None
    return Grid(tuple(grid.size), tuple(grid.deviation), grid.normalization, grid.self_term)


@lru_cache(maxsize=16)
def _grid_tables(grid: Grid, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    """Return the tables of a grid kernel on a device, cached, and its scales for all images."""
    kernel = grid.kernel(np.float64 if dtype == torch.float64 else np.float32)

    def on_device(array: Any, to: torch.dtype = dtype) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, to)

    axes = []
    for axis, splat, slice_ in zip(kernel.axes, kernel.splat, kernel.slice, strict=True):
        first = np.searchsorted(axis.cell, np.arange(axis.cells + 1))
        sizes = {"size": len(axis.cell), "cells": axis.cells, "radius": len(axis.band) // 2}
        tensors = {
            "cell": on_device(axis.cell, torch.int32),
            "first": on_device(first, torch.int32),
            "splat": on_device(splat),
            "slice": on_device(slice_),
            "band": on_device(axis.band),
        }
        axes.append((sizes, tensors))
    scales = (kernel.before, kernel.after, kernel.diagonal)
    return axes, [None if scale is None else on_device(scale) for scale in scales]


def saved_shape(logits: Tensor, iterations: int, keep: bool, memory_budget: int) -> tuple[int, ...]:
    """Return the shape of the saved marginals: all iterations, or none if beyond the budget."""
    images, labels, points = logits.shape
    shape = (iterations, images, points, engines.row_width(labels))
    size = iterations * images * points * shape[3] * logits.element_size()
    return shape if keep and size <= memory_budget else (0, *shape[1:])


@_on_its_device
def mean_field(
    native: Any,
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Kernel],
    grid: Grid,
    grid_scales: Sequence[Tensor],
    iterations: int,
    storage: str,
    saved: Tensor,
) -> Tensor:
    """Return refined logits [B, L, N]; write the marginals to `saved`, unless it is empty."""
    refined = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if logits.numel() == 0:
        return refined
    _refuse_non_finite(logits)
    call = Call(native, logits)
    if storage == "float16":
        coupling, kernels, grid_scales = _in_range(logits, coupling, kernels, grid, grid_scales)
    model = _model(call, logits, coupling, kernels, grid, grid_scales, iterations)
    saves = saved.numel() > 0
    workspace = call.workspace(native.mean_field_workspace(call.wide, storage, model, saves))
    arrays = (call.address(logits), call.room(refined), call.room(saved) if saves else 0)
    native.mean_field(call.wide, storage, model, *arrays, workspace, call.stream)
    return refined


def _in_range(
    logits: Tensor,
    coupling: Tensor,
    kernels: Sequence[Kernel],
    grid: Grid,
    grid_scales: Sequence[Tensor],
) -> tuple[Tensor, Sequence[Kernel], Sequence[Tensor]]:
    """Rescale a mean field so that no stored value reaches 65504, the maximum of float16.

    The input of each kernel is scaled down and its output up by powers of two, so that neither all
    points on one vertex nor large couplings overflow. What underflows is below the last bits of
    the largest value that a vertex can hold.
    """
    points = logits.shape[2]
    # After the blur a vertex holds at most 3/2 of the sum of all inputs, a cell at most the sum;
    # float16 ends just below 2^16.
    crowd = max(0, math.ceil(math.log2(1.5 * points)) - 15)
    _, great = torch.frexp(coupling.abs().sum(2).amax(1))  # for each kernel
    coupling = torch.ldexp(coupling, -great[:, None, None])

    def moved(scales: Sequence[Tensor], m: int) -> tuple[Tensor, Tensor, Tensor]:
        before, after, diagonal = scales
        one = logits.new_ones(1, points, 1)
        before, after = (s if is_given(s) else one for s in (before, after))
        _, own = torch.frexp(before.amax())
        shrink = own + crowd
        return torch.ldexp(before, -shrink), torch.ldexp(after, shrink + great[m]), diagonal

    kernels = [Kernel(k.lattice, *moved(k[1:], m)) for m, k in enumerate(kernels)]
    if grid.size is not None:
        common = _grid_tables(_grid_key(grid), logits.dtype, logits.device)[1]
        none = logits.new_empty(0)
        own = grid_scales or [none if s is None else s.reshape(1, points, 1) for s in common]
        grid_scales = moved(own, len(kernels))
    return coupling, kernels, grid_scales


def _refuse_non_finite(logits: Tensor) -> None:
    """Raise if logits are not finite; not during graph capture, as it waits for the device."""
    if logits.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not bool(logits.amax(1).isfinite().all()):
        checks.logits_values(logits, batched=True)


@_on_its_device
def mean_field_backward(
    native: Any,
    d_refined: Tensor,
    logits: Tensor,
    saved: Tensor,
    coupling: Tensor,
    kernels: Sequence[Kernel],
    grid: Grid,
    grid_scales: Sequence[Tensor],
    wanted: Sequence[Sequence[Tensor | None]],
    iterations: int,
    storage: str,
) -> tuple[Tensor, Tensor]:
    """Return the gradients for logits and coupling; write those for the kernels to `wanted`."""
    d_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    d_coupling = torch.zeros_like(coupling, memory_format=torch.contiguous_format)
    if logits.numel() == 0:
        return d_logits, d_coupling
    if saved.numel() == 0 and iterations > 0:  # beyond the budget: recomputed
        saved = logits.new_empty(saved_shape(logits, iterations, True, 2**63))
        problem = (logits, coupling, kernels, grid, grid_scales, iterations)
        mean_field(native, *problem, storage, saved)
    call = Call(native, logits)
    model = _model(call, logits, coupling, kernels, grid, grid_scales, iterations)
    d_kernels = [
        structs.DeviceGradient(*(0 if t is None else call.room(t) for t in parts))
        for parts in wanted
    ]
    d_kernels += [structs.DeviceGradient()] * (len(model.kernels) - len(d_kernels))
    workspace = call.workspace(native.backward_workspace(call.wide, model, d_kernels))
    arrays = (saved, d_refined, d_logits, d_coupling)
    addresses = [call.address(saved), call.address(d_refined), *map(call.room, arrays[2:])]
    native.mean_field_backward(call.wide, model, *addresses, d_kernels, workspace, call.stream)
    return d_logits, d_coupling
