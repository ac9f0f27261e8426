"""The native CUDA module (cpp/bindings/cuda.cpp), and of the same shape `_serial`.

Arrays are addresses in device memory; their layouts are in cpp/cuda/engine.hpp. Structs are read by
field name. `wide` is true for float64; `storage` is the type that values at vertices and cells are
stored in: "full", "float16" or "bfloat16".
"""

from collections.abc import Sequence

from .engines.device import (
    DeviceFeatures,
    DeviceGradient,
    DeviceLattice,
    DeviceModel,
    LinkRoom,
    SortedKeys,
    Stream,
)
from .engines.gibbs import DeviceGibbsBatch

compiler: str
architectures: str
limits: dict[str, float]

class KeyLayout:
    @property
    def words(self) -> int: ...
    def covers(self, other: KeyLayout) -> bool: ...

class Device:
    name: str
    capability: int
    memory: int

def devices() -> list[Device]: ...
def driver() -> str: ...
def key_layout(
    wide: bool, minimum: list[float], maximum: list[float], images: int
) -> KeyLayout | None: ...
def locate(
    wide: bool, features: DeviceFeatures, layout: KeyLayout, weight: int, keys: int, stream: Stream
) -> None: ...
def scratch_size(count: int) -> int: ...
def number_keys(
    layout: KeyLayout, count: int, keys: int, order: int, number: int, scratch: int, stream: Stream
) -> None: ...
def distinct_keys(layout: KeyLayout, sorted: SortedKeys, out: int, stream: Stream) -> None: ...
def surround(layout: KeyLayout, count: int, keys: int, out: int, stream: Stream) -> None: ...
def links_size(vertices: int, entries: int, corners: int) -> int: ...
def link(
    layout: KeyLayout,
    sorted: SortedKeys,
    touched_keys: int,
    vertices: int,
    keys: int,
    inside: int,
    vertex: int,
    links: int,
    room: LinkRoom,
    stream: Stream,
) -> None: ...
def feature_gradient(
    wide: bool, features: DeviceFeatures, d_weight: int, out: int, stream: Stream
) -> None: ...
def filter_workspace(
    wide: bool, lattice: DeviceLattice, images: int, channels: int, filters: int
) -> int: ...
def filter(
    wide: bool,
    lattice: DeviceLattice,
    images: int,
    channels: int,
    values: int,
    transpose: bool,
    out: int,
    workspace: int,
    stream: Stream,
) -> None: ...
def filter_weight_gradient(
    wide: bool,
    lattice: DeviceLattice,
    images: int,
    channels: int,
    values: int,
    cotangent: int,
    transpose: bool,
    out: int,
    workspace: int,
    stream: Stream,
) -> None: ...
def self_response(
    wide: bool, lattice: DeviceLattice, cotangent: int, out: int, stream: Stream
) -> None: ...
def mean_field_workspace(wide: bool, storage: str, model: DeviceModel, saves: bool) -> int: ...
def mean_field(
    wide: bool,
    storage: str,
    model: DeviceModel,
    logits: int,
    refined: int,
    saved: int,
    workspace: int,
    stream: Stream,
) -> None: ...
def backward_workspace(wide: bool, model: DeviceModel, d_kernels: Sequence[DeviceGradient]) -> int: ...
def mean_field_backward(
    wide: bool,
    model: DeviceModel,
    saved: int,
    d_refined: int,
    d_logits: int,
    d_coupling: int,
    d_kernels: Sequence[DeviceGradient],
    workspace: int,
    stream: Stream,
) -> None: ...
def gibbs_workspace(batch: DeviceGibbsBatch) -> int: ...
def gibbs_sweep(batch: DeviceGibbsBatch, workspace: int, stream: Stream) -> None: ...
