"""The native CPU module (cpp/bindings/cpu.cpp); array layouts are in cpp/cpu/lattice.hpp."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

compiler: str

def build(
    features: Array,
    vertex: Array,
    weight: Array,
    neighbour: Array,
    offset: Array,
    entry: Array,
    threads: int,
) -> int: ...
def filter(
    vertex: Array,
    weight: Array,
    neighbour: Array,
    offset: Array,
    entry: Array,
    vertices: int,
    values: Array,
    out: Array,
    transpose: bool,
    threads: int,
) -> None: ...
def self_response(
    vertex: Array,
    weight: Array,
    neighbour: Array,
    offset: Array,
    entry: Array,
    vertices: int,
    out: Array,
    threads: int,
) -> None: ...
def mean_field(
    kernels: list[tuple[Any, ...]],
    logits: Array,
    refined: Array,
    saved_q: Array,
    iterations: int,
    threads: int,
) -> None: ...
def mean_field_backward(
    kernels: list[tuple[Any, ...]],
    saved_q: Array,
    d_refined: Array,
    d_logits: Array,
    d_coupling: Array,
    threads: int,
) -> None: ...
