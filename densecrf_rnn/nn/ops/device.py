"""Filters and mean fields of whole batches, computed by the native module of a device.

Native code takes addresses, so every tensor passes through `Call`, which checks its dtype, device
and layout and keeps it alive. All memory, scratch included, comes from torch's allocator.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import checks, engines
from ..._limits import BLUR_SIDE
from ..._typing import Array
from ...engines import device as structs
from .answers import asked, were_asked
from .dispatch import capturing, empty_like
from .kernels import Grid, Kernel, Kernels, Lattice, Parts, is_given
from .shared import shared


class Call:
    """Returns addresses of tensors on one device for one native call; keeps the tensors alive."""

    def __init__(self, native: Any, like: Tensor) -> None:
        self.native = native
        self.device = like.device
        self.dtype = like.dtype
        self.wide = like.dtype == torch.float64
        self._kept: list[Tensor] = []

    @property
    def stream(self) -> structs.Stream:
        """The current stream of the device; on a CPU, which has no streams, zeros."""
        if self.device.type == "cpu":
            return structs.Stream(device=0, handle=0)
        stream = torch.cuda.current_stream(self.device)
        return structs.Stream(device=stream.device_index, handle=stream.cuda_stream)

    def address(self, tensor: Tensor | None, dtype: torch.dtype | None = None) -> int:
        """Return the address of an input tensor, copied if it is not contiguous; 0 for None."""
        if tensor is None:
            return 0
        contiguous = tensor.detach().contiguous()
        return self.room(contiguous, dtype)

    def room(self, tensor: Tensor, dtype: torch.dtype | None = None) -> int:
        """Return the address of a contiguous output tensor; raise for other tensors."""
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
        """Return a lattice as the struct that the native module reads."""
        images, points, corners = lattice.vertex.shape
        if lattice.facts.numel() == 0:
            raise ValueError("the lattice was built for NumPy arrays; build it with this backend")
        vertices, symmetric = lattice.facts.tolist()
        return structs.DeviceLattice(
            images=images,
            points=points,
            dims=corners - 1,
            vertices=vertices,
            symmetric=symmetric,
            vertex=self.address(lattice.vertex, torch.int32),
            weight=self.address(lattice.weight),
            links=self.address(lattice.links, torch.int32),
        )


def features_struct(features: Tensor, inside: int = 0) -> structs.DeviceFeatures:
    """Return features [B, N, D] of any strides as the struct that the native module reads."""
    images, points, dims = features.shape
    by_image, by_point, by_feature = features.stride()
    return structs.DeviceFeatures(
        features.data_ptr(), by_image, by_point, by_feature, images, points, dims, inside
    )


def on_its_device(function: Any) -> Any:
    """Decorate a function to run with the device of its first tensor as current device."""

    @wraps(function)
    def wrapped(native: Any, first: Any, *args: Any) -> Any:
        tensor = first if isinstance(first, Tensor) else first.weight
        with torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext():
            return function(native, first, *args)

    return wrapped


# --- lattices ------------------------------------------------------------------------------------


@on_its_device
def feature_gradient(native: Any, features: Tensor, d_weight: Tensor) -> Tensor:
    """Return the gradient with respect to features [B, N, D].

    `d_weight` [B, N, D+1] is the gradient with respect to the barycentric weights.
    """
    out = features.new_empty(features.shape)
    if out.numel() == 0:
        return out
    call = Call(native, features)
    arrays = (call.address(d_weight), call.room(out))
    native.feature_gradient(call.wide, features_struct(features), *arrays, call.stream)
    return out


@on_its_device
def lattice_filter(native: Any, values: Tensor, lattice: Lattice, transpose: bool) -> Tensor:
    """Return K values or, with `transpose`, K' values, [B, N, C]."""
    out = empty_like(values)
    if out.numel() == 0:
        return out
    call = Call(native, values)
    images, _, channels = values.shape
    of = (call.wide, call.lattice(lattice), images, channels)
    workspace = call.workspace(native.filter_workspace(*of, 1))
    arrays = (call.address(values), transpose, call.room(out))
    native.filter(*of, *arrays, workspace, call.stream)
    return out


@on_its_device
def filter_weight_gradient(
    native: Any, values: Tensor, cotangent: Tensor, lattice: Lattice, transpose: bool
) -> Tensor:
    """Return the gradient with respect to the barycentric weights, [B, N, D+1].

    It is that of <cotangent, K values> or, with `transpose`, of <cotangent, K' values>.
    """
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


@on_its_device
def self_response(native: Any, lattice: Lattice, cotangent: Tensor | None) -> Tensor:
    """Return the diagonal of the kernel K of each lattice, [B, N].

    With a cotangent [B, N], return instead the gradient of <cotangent, diagonal> with respect to
    the barycentric weights, [B, N, D+1].
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
    call: Call, logits: Tensor, coupling: Tensor, kernels: Kernels, iterations: int
) -> structs.DeviceModel:
    """Return a mean field as the struct that the native module reads."""

    def addresses(scales: Sequence[Tensor], images: int) -> list[int]:
        return [call.address(s.expand(images, -1, -1)) if is_given(s) else 0 for s in scales]

    found: list[structs.DeviceKernel] = []
    for kernel in kernels.lattices:
        scales = addresses(kernel.scales, len(kernel.lattice.vertex))
        found.append(structs.DeviceKernel(call.lattice(kernel.lattice), (), False, *scales))
    if kernels.grid.size is not None:
        grid = kernels.grid.hashable()
        axes_on_device, common = _grid_on_device(grid, logits.dtype, logits.device)
        axes = [
            structs.DeviceGridAxis(*sizes, *(call.address(t, t.dtype) for t in tables))
            for sizes, tables in axes_on_device
        ]
        per_image = len(kernels.grid_scales) > 0
        scales = addresses(kernels.grid_scales, len(logits)) or list(map(call.address, common))
        found.append(structs.DeviceKernel(None, axes, per_image, *scales))
    images, labels, points = logits.shape
    return structs.DeviceModel(
        images=images,
        points=points,
        labels=labels,
        width=engines.row_width(labels),
        iterations=iterations,
        coupling=call.address(coupling),
        coupling_columns=call.address(coupling.mT),
        kernels=found,
    )


@shared(maxsize=16)
def _grid_on_device(grid: Grid, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    """Return a grid kernel's axes on a device, and the scales that images share; cached.

    Each axis is a pair: the integers and the tensors of a `DeviceGridAxis`, in field order.
    """
    kernel = grid.kernel(np.float64 if dtype == torch.float64 else np.float32)

    def on_device(array: Array) -> Tensor:
        to = torch.int32 if array.dtype.kind == "i" else dtype
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, to)

    axes = []
    for axis, splat, slice_ in zip(kernel.axes, kernel.splat, kernel.slice, strict=True):
        first = np.searchsorted(axis.cell, np.arange(axis.cells + 1))
        sizes = (len(axis.cell), axis.cells, len(axis.band) // 2)
        axes.append((sizes, [*map(on_device, (axis.cell, first, splat, slice_, axis.band))]))
    scales = (kernel.before, kernel.after, kernel.diagonal)
    return axes, [None if scale is None else on_device(scale) for scale in scales]


def saved_shape(logits: Tensor, iterations: int, keep: bool, memory_budget: int) -> tuple[int, ...]:
    """Return the shape of the saved marginals [iterations, B, N, row width].

    The first axis is 0 without `keep`, or if the marginals exceed the budget.
    """
    images, labels, points = logits.shape
    shape = (iterations, images, points, engines.row_width(labels))
    size = math.prod(shape) * logits.element_size()
    return shape if keep and size <= memory_budget else (0, *shape[1:])


@on_its_device
def mean_field(
    native: Any,
    logits: Tensor,
    coupling: Tensor,
    kernels: Kernels,
    iterations: int,
    storage: str,
    saved: Tensor,
) -> Tensor:
    """Return refined logits [B, L, N]; write the marginals to `saved`, unless it is empty."""
    refined = empty_like(logits)
    if logits.numel() == 0:
        return refined
    refuse_values(logits, coupling)
    call = Call(native, logits)
    if storage == "float16":
        coupling, kernels = _in_range(logits, coupling, kernels)
    model = _model(call, logits, coupling, kernels, iterations)
    saves = saved.numel() > 0
    workspace = call.workspace(native.mean_field_workspace(call.wide, storage, model, saves))
    arrays = (call.address(logits), call.room(refined), call.room(saved) if saves else 0)
    native.mean_field(call.wide, storage, model, *arrays, workspace, call.stream)
    return refined


def _in_range(logits: Tensor, coupling: Tensor, kernels: Kernels) -> tuple[Tensor, Kernels]:
    """Rescale a mean field so that no stored value reaches 65504, the maximum of float16.

    The input of each kernel is scaled down and its output up by powers of two, so that neither all
    points on one vertex nor large couplings overflow. Values that underflow are below the rounding
    error of the largest value that a vertex can have.
    """
    points = logits.shape[2]
    # After the blur a vertex holds at most 1 + 2 BLUR_SIDE^2 times the sum of all inputs, a grid
    # cell at most the sum; the maximum of float16 is just below 2^16.
    crowd = max(0, math.ceil(math.log2((1 + 2 * BLUR_SIDE**2) * points)) - 15)
    _, great = torch.frexp(coupling.abs().sum(2).amax(1))  # for each kernel
    coupling = torch.ldexp(coupling, -great[:, None, None])

    def moved(scales: Sequence[Tensor], m: int) -> tuple[Tensor, Tensor, Tensor]:
        before, after, diagonal = scales
        one = logits.new_ones(1, points, 1)
        before, after = (s if is_given(s) else one for s in (before, after))
        images = max(len(before), len(after))
        before, after = (s.expand(images, -1, -1) for s in (before, after))
        _, own = torch.frexp(before.amax(1, keepdim=True))  # by image, whatever the others hold
        shrink = own + crowd
        return torch.ldexp(before, -shrink), torch.ldexp(after, shrink + great[m]), diagonal

    lattices = [Kernel(k.lattice, *moved(k.scales, m)) for m, k in enumerate(kernels.lattices)]
    grid_scales = kernels.grid_scales
    if kernels.grid.size is not None:
        _, common = _grid_on_device(kernels.grid.hashable(), logits.dtype, logits.device)
        none = logits.new_empty(0)
        own = grid_scales or [none if s is None else s.reshape(1, points, 1) for s in common]
        grid_scales = moved(own, len(lattices))
    return coupling, Kernels(lattices, kernels.grid, grid_scales)


def good_logits(logits: Tensor) -> Tensor:
    """Return whether logits [B, L, N] can be used, as a tensor that nobody has waited for."""
    return logits.amax(1).isfinite().all()


def refuse_values(logits: Tensor, coupling: Tensor) -> None:
    """Raise if logits or couplings are not finite, unless the caller has asked or a graph is made.

    Reading the answer waits for the device, so there is one answer for both.
    """
    if were_asked() or capturing(logits):
        return
    points, largest = logits.shape[2], torch.finfo(logits.dtype).max
    if not bool(good_logits(logits) & checks.coupling_fits(coupling, points, largest)):
        checks.logits_values(logits, batched=True)
        checks.coupling(coupling, points, largest)


@on_its_device
def mean_field_backward(
    native: Any,
    d_refined: Tensor,
    logits: Tensor,
    saved: Tensor,
    coupling: Tensor,
    kernels: Kernels,
    iterations: int,
    storage: str,
    d_parts: Sequence[Parts],
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to logits and coupling (mu W).

    Those with respect to the lattice kernels' tensors are written to `d_parts`.
    """
    d_logits = empty_like(logits)
    d_coupling = torch.zeros_like(coupling, memory_format=torch.contiguous_format)
    if logits.numel() == 0:
        return d_logits, d_coupling
    if saved.numel() == 0 and iterations > 0:  # the marginals exceeded the budget: recompute them
        saved = logits.new_empty(saved_shape(logits, iterations, True, 2**63))
        with asked():  # by the forward pass
            mean_field(native, logits, coupling, kernels, iterations, storage, saved)
    call = Call(native, logits)
    model = _model(call, logits, coupling, kernels, iterations)
    d_kernels = [
        structs.DeviceGradient(*(call.room(part) if is_given(part) else 0 for part in parts))
        for parts in d_parts
    ]
    d_kernels += [structs.DeviceGradient()] * (len(model.kernels) - len(d_kernels))
    workspace = call.workspace(native.backward_workspace(call.wide, model, d_kernels))
    given = (call.address(saved), call.address(d_refined))
    out = (call.room(d_logits), call.room(d_coupling))
    native.mean_field_backward(call.wide, model, *given, *out, d_kernels, workspace, call.stream)
    return d_logits, d_coupling
