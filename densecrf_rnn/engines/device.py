"""Structs that the device modules `_cuda` and `_serial` read by field name.

Arrays are given by their address in device memory, 0 for an optional array that is absent; their
layouts are in cpp/cuda/views.hpp and cpp/cuda/engine.hpp. Points are numbered consecutively over
all images of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Stream(NamedTuple):
    """The CUDA stream on which work is queued; zeros for the serial launcher."""

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
    inside: int  # [images, points] bool, which points are not masked out; 0: all


class SortedKeys(NamedTuple):
    """Vertex keys, the order that sorts them, and consecutive numbers of the distinct keys."""

    entries: int  # number of keys
    distinct: int  # number of distinct keys
    keys: int  # [words, entries] uint64
    order: int  # [entries] int32: index of the key at each sorted position
    number: int  # [entries] int32: number of the distinct key at each sorted position, from 1


class LinkRoom(NamedTuple):
    """Scratch memory of `link`."""

    vertex_of: int  # [distinct] int32; 0 if all vertices are corners of points
    begins: int  # [vertices] int32, initially 0
    chunk_count: int  # [vertices] int32, initially 0
    chunks_before: int  # [vertices] int32
    scratch: int


class DeviceLattice(NamedTuple):
    """The lattices of a batch, one per image, or a single lattice used by all images."""

    images: int
    points: int
    dims: int
    vertices: int  # of all lattices together
    symmetric: bool  # whether the blurs in both axis orders are averaged
    vertex: int  # [images * points, dims + 1] int32
    weight: int  # [images * points, dims + 1]
    links: int  # [links_size] int32, as written by `link`


class DeviceGridAxis(NamedTuple):
    """One axis of a grid kernel; see `GridAxis`."""

    size: int  # number of pixels
    cells: int  # number of cells
    radius: int  # of the blur, in cells
    cell: int  # [size] int32, the first of the three cells that a pixel touches
    first: int  # [cells + 1] int32: for each cell, the number of pixels with a lower first cell
    splat: int  # [size, 3]
    slice: int  # [size, 3]
    band: int  # [2 radius + 1]


class DeviceKernel(NamedTuple):
    """One kernel: message = after * (K - diag(diagonal)) (before * q)."""

    lattice: DeviceLattice | None  # None: the kernel is a grid
    axes: Sequence[DeviceGridAxis]
    grid_scales_per_image: bool  # whether before, after, diagonal of a grid differ between images
    before: int
    after: int
    diagonal: int


class DeviceModel(NamedTuple):
    """The mean field of a batch."""

    images: int
    points: int
    labels: int
    width: int  # length of padded rows; see `row_width`
    iterations: int
    coupling: int  # [kernels, L, L]
    coupling_columns: int  # the same transposed
    kernels: Sequence[DeviceKernel]


class DeviceGradient(NamedTuple):
    """Output arrays for the gradients with respect to one kernel; zeros if not required."""

    weight: int = 0  # [images * points, dims + 1]
    before: int = 0  # [images * points], as for the next two
    after: int = 0
    diagonal: int = 0
