"""The native CPU module (cpp/bindings/cpu.cpp); array layouts are in cpp/cpu/lattice.hpp."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

compiler: str

def isa() -> str: ...
def build(plans: list[tuple[Any, ...]], quality: int, threads: int) -> bool: ...
def filter(
    vertex: Array,
    weight: Array,
    links: Array,
    values: Array,
    out: Array,
    transpose: bool,
    threads: int,
) -> None: ...
def filter_weight_gradient(
    vertex: Array,
    weight: Array,
    links: Array,
    values: Array,
    cotangent: Array,
    out: Array,
    transpose: bool,
    threads: int,
) -> None: ...
def feature_gradient(features: Array, d_weight: Array, out: Array, threads: int) -> None: ...
def self_response(
    vertex: Array, weight: Array, links: Array, out: Array, threads: int
) -> None: ...
def self_response_gradient(
    vertex: Array, weight: Array, links: Array, cotangent: Array, out: Array, threads: int
) -> None: ...
def mean_field(
    problems: list[tuple[Any, ...]],
    coupling: Array,
    iterations: int,
    marginals: bool,
    memory_budget: int,
    threads: int,
) -> bool: ...
def mean_field_backward(
    problems: list[tuple[Any, ...]],
    coupling: Array,
    iterations: int,
    memory_budget: int,
    threads: int,
) -> None: ...
def gibbs_sweep(
    logits: Array,
    labels: Array,
    tables: Array,
    offsets: Array,
    colouring: tuple[int, int, int],
    seed: int,
    chains: Array,
    first_sweep: Array,
    inverse_temperature: Array,
    marginals: Array | None,
    changes: Array,
    threads: int,
) -> None: ...
def gibbs_statistics(labels: Array, offsets: Array, counts: Array, threads: int) -> None: ...
