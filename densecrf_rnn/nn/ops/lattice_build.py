"""The construction of lattices as an operator, differentiable with respect to the features."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import checks, engines
from .. import torch_engine
from . import device, device_build, dispatch
from .dispatch import empty_like, in_torch, native_for, no_second_derivative, operator
from .kernels import Lattice, rows


@operator("densecrf_rnn::lattice_build")
def lattice_build(
    features: Tensor,
    quality: str,
    backend: str,
    name: str = "features",
    guide: Tensor | None = None,
    inside: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Build the lattice of each point set in features [B, N, D], of any strides.

    Returns the fields of a `Lattice`. Error messages about NaN and infinity call the features
    `name`. If they were computed from a `guide` of this name, its values are checked first when
    the features cannot be used. Points where `inside` [B, N, 1] is 0 are masked out: their values
    are 0 before and after every filter, so that devices need not splat them.
    """
    checks.float_dtype("features", features, batched=True)
    if in_torch(backend, features):
        return torch_engine.build(features, quality, name, guide, inside)
    native = native_for(backend, features)
    if native is not None:
        return device_build.lattice_build(native, features, quality, name, guide, inside)
    images = features.numpy(force=True)
    batch, points, dims = images.shape
    if batch:
        checks.feature_rows(points, dims)
    shape, size = (batch, points, dims + 1), engines.Plan.links_size(points, dims, quality)
    vertex, weight = np.empty(shape, np.int32), np.empty(shape, images.dtype)
    links = engines.reserve((batch, size), np.int32)
    plans = [engines.Plan(*image) for image in zip(vertex, weight, links, strict=True)]
    engine = dispatch.engine(backend)
    if not engine.build(list(images), plans, quality, torch.get_num_threads()):
        if guide is not None:
            checks.image_values(guide, name)
        checks.refuse_features(*images, name=name, float64=checks.DOUBLE)
    facts = torch.empty(0, dtype=torch.int64)
    return Lattice._make([*map(torch.from_numpy, (vertex, weight, links)), facts])


@lattice_build.register_fake
def _(
    features: Tensor,
    quality: str,
    backend: str,
    name: str = "features",
    guide: Tensor | None = None,
    inside: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, points, dims = features.shape
    if in_torch(backend, features):
        return torch_engine.built_like(features, quality, inside)
    links: tuple[Any, ...] = (batch, engines.Plan.links_size(points, dims, quality))
    on_device = native_for(backend, features) is not None
    if on_device:
        links = (torch.library.get_ctx().new_dynamic_size(),)
    return Lattice(
        features.new_empty(batch, points, dims + 1, dtype=torch.int32),
        features.new_empty(batch, points, dims + 1),
        features.new_empty(links, dtype=torch.int32),
        torch.empty(2 if on_device else 0, dtype=torch.int64, device="cpu"),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, _, ctx.backend = inputs[:3]
    ctx.entries = len(inputs)
    ctx.save_for_backward(features)
    vertex, _, *others = output
    ctx.mark_non_differentiable(vertex, *others)
    ctx.set_materialize_grads(False)  # else autograd allocates zeros for the other outputs


def _backward(
    ctx: Any, _: None, d_weight: Tensor | None, *others: None
) -> tuple[Tensor | None, ...]:
    found = None
    if d_weight is not None:
        found = lattice_feature_gradient(*ctx.saved_tensors, d_weight, ctx.backend)
    return (found, *[None] * (ctx.entries - 1))


lattice_build.register_autograd(_backward, setup_context=_setup_context)


@operator("densecrf_rnn::lattice_feature_gradient")
def lattice_feature_gradient(features: Tensor, d_weight: Tensor, backend: str) -> Tensor:
    """Return the gradient with respect to features [B, N, D] of any strides.

    `d_weight` [B, N, D+1] is the gradient with respect to the barycentric weights.
    """
    if in_torch(backend, features):
        return torch_engine.feature_gradient(features, d_weight)
    native = native_for(backend, features)
    if native is not None:
        return device.feature_gradient(native, features, d_weight)
    out = features.new_empty(features.shape)
    arrays = (features.numpy(force=True), rows(d_weight), out.numpy())
    engine = dispatch.engine(backend)
    for image, cotangent, found in zip(*arrays, strict=True):
        engine.feature_gradient(image, cotangent, found, torch.get_num_threads())
    return out


lattice_feature_gradient.register_fake(empty_like)
lattice_feature_gradient.register_autograd(no_second_derivative)
