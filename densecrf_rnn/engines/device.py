"""Structs that the device modules `_cuda` and `_serial` read by field name.

Arrays are addresses in device memory, 0 for an array that is not there; their layouts are in
cpp/cuda/views.hpp and cpp/cuda/engine.hpp. Points are numbered through the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Stream(NamedTuple):
    """Where work is queued; zeros for the serial launcher."""

    device: int
    handle: int


class DeviceFeatures(NamedTuple):
    """Features [images, points, dims]; strides are in elements."""

    data: int
    image_stride: int
    point_stride: int
    feature_stride: int
    images: int
    points: int
    dims: int


class SortedKeys(NamedTuple):
    """Vertex keys with their sorted order and the number of each distinct one."""

    entries: int
    distinct: int
    keys: int  # [words, entries] uint64
    order: int  # [entries] int32
    number: int  # [entries] int32


class LinkRoom(NamedTuple):
    """Scratch memory of `link`."""

    vertex_of: int  # [distinct] int32
    begins: int  # [vertices] int32, zeros
    chunk_count: int  # [vertices] int32, zeros
    chunks_before: int  # [vertices] int32
    scratch: int


class DeviceLattice(NamedTuple):
    """The lattices of a batch, or one lattice that serves all images."""

    images: int
    points: int
    dims: int
    vertex: int  # [images points, dims + 1] int32
    weight: int  # [images points, dims + 1]
    links: int  # int32, as `link` wrote them
    links_size: int


class DeviceGridAxis(NamedTuple):
    """One axis of a grid kernel; see `GridAxis`."""

    size: int  # pixels
    cells: int
    radius: int
    cell: int  # [size] int32, the first of the three cells that a pixel touches
    first: int  # [cells + 1] int32, the number of pixels whose first cell is a lower one
    splat: int  # [size, 3]
    slice: int  # [size, 3]
    band: int  # [2 radius + 1]


class DeviceKernel(NamedTuple):
    """One kernel: message = after * (K - diag(diagonal)) (before * q)."""

    lattice: DeviceLattice | None  # None: the kernel is a grid
    axes: Sequence[DeviceGridAxis]
    before: int
    after: int
    diagonal: int
    grid_scales_per_image: bool  # else those of a grid serve all images


class DeviceModel(NamedTuple):
    """The mean field of a batch."""

    images: int
    points: int
    labels: int
    width: int  # of padded rows; see `row_width`
    iterations: int
    coupling: int  # [kernels, L, L]
    kernels: Sequence[DeviceKernel]


class DeviceGradient(NamedTuple):
    """Where the gradient of one kernel goes; zeros: it is not wanted."""

    weight: int = 0  # [images points, dims + 1]
    before: int = 0  # [images points]
    after: int = 0
    diagonal: int = 0
