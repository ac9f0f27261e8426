"""The native CUDA module (cpp/bindings/cuda.cpp), and of the same shape `_serial`.

Arrays are addresses in device memory; their layouts are in cpp/cuda/engine.hpp. `wide` is true for
float64; `storage` says what values at vertices and cells are kept in: "full", "float16" or
"bfloat16". A stream is (device, handle).
"""

Stream = tuple[int, int]
Features = tuple[int, tuple[int, ...], tuple[int, ...]]  # address, strides, shape: [B, N, d]
Sorted = tuple[int, int, int, int, int]  # count, distinct, keys, order, number
Lattice = tuple[int, int, int, int, int, int, int]  # images, N, d, vertex, weight, links, length
Model = tuple[object, ...]  # see model() in cpp/bindings/cuda.cpp
GibbsBatch = tuple[object, ...]  # see gibbs_batch() in cpp/bindings/cuda.cpp
Wanted = list[tuple[int, int, int, int]]  # weight, before, after, diagonal of each kernel; or 0

compiler: str
architectures: str

class KeyLayout:
    @property
    def words(self) -> int: ...

def devices() -> list[tuple[str, int, int]]: ...
def driver() -> str: ...
def key_layout(
    wide: bool, least: list[float], greatest: list[float], images: int
) -> KeyLayout | None: ...
def locate(
    wide: bool, features: Features, layout: KeyLayout, weight: int, keys: int, stream: Stream
) -> None: ...
def scratch_size(count: int) -> int: ...
def number_keys(
    layout: KeyLayout, count: int, keys: int, order: int, number: int, scratch: int, stream: Stream
) -> int: ...
def distinct_keys(layout: KeyLayout, sorted: Sorted, out: int, stream: Stream) -> None: ...
def surround(layout: KeyLayout, count: int, keys: int, out: int, stream: Stream) -> None: ...
def links_size(vertices: int, entries: int, corners: int, quality: int) -> int: ...
def link(
    layout: KeyLayout,
    sorted: Sorted,
    touched_keys: int,
    vertices: int,
    keys: int,
    vertex: int,
    links: int,
    room: tuple[int, int, int, int, int],
    stream: Stream,
) -> None: ...
def feature_gradient(
    wide: bool, features: Features, d_weight: int, out: int, stream: Stream
) -> None: ...
def filter_workspace(
    wide: bool, lattice: Lattice, images: int, channels: int, filters: int
) -> int: ...
def filter(
    wide: bool,
    lattice: Lattice,
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
    lattice: Lattice,
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
    wide: bool, lattice: Lattice, cotangent: int, out: int, stream: Stream
) -> None: ...
def mean_field_workspace(wide: bool, storage: str, model: Model, saves: bool) -> int: ...
def mean_field(
    wide: bool,
    storage: str,
    model: Model,
    logits: int,
    refined: int,
    saved: int,
    workspace: int,
    stream: Stream,
) -> None: ...
def backward_workspace(wide: bool, model: Model, wanted: Wanted) -> int: ...
def mean_field_backward(
    wide: bool,
    model: Model,
    saved: int,
    d_refined: int,
    d_logits: int,
    d_coupling: int,
    wanted: Wanted,
    workspace: int,
    stream: Stream,
) -> None: ...
def gibbs_workspace(batch: GibbsBatch) -> int: ...
def gibbs_sweep(batch: GibbsBatch, workspace: int, stream: Stream) -> None: ...
