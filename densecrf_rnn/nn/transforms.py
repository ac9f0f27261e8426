"""Support for torch.func, whose transforms cannot trace into custom operators.

Under grad, vjp, jacrev, functional_call and vmap, the whole call becomes one autograd.Function. It
saves only its inputs, so its backward pass runs the forward pass again. Its vmap is a loop.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree


def active() -> bool:
    """Return whether a transform of torch.func is active, outside torch.compile."""
    return torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Raise if a tensor has a forward-mode tangent, which custom operators would drop silently."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:  # no dual_level is open
        return
    for tensor in tensors:
        if tensor is None:
            continue
        if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            _no_forward_mode()


def _no_forward_mode() -> NoReturn:
    """Raise NotImplementedError for forward-mode differentiation."""
    raise NotImplementedError(
        "mean_field has no forward-mode derivative (jvp, jacfwd, hessian); use reverse mode: grad, "
        "vjp or jacrev of torch.func, torch.autograd.functional.hessian for second derivatives"
    )


def opaque(function: Callable[..., Tensor], *args: Any, **options: Any) -> Any:
    """Call function(*args, **options) with its tensors hidden from the active transforms."""
    leaves, spec = pytree.tree_flatten((args, options))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def call(*tensors: Tensor) -> Tensor:
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        args, options = pytree.tree_unflatten(given, spec)
        return function(*args, **options)

    tensors = [leaves[place] for place in places]
    return _Opaque.apply(call, *tensors)  # type: ignore[no-untyped-call]


class _Opaque(torch.autograd.Function):
    """Calls call(*tensors) with the tensors unwrapped, once per active level of transforms."""

    @staticmethod
    def forward(call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return call(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        arrays = (ctx.call, wanted, gradient, *ctx.saved_tensors)
        found = iter(_Gradient.apply(*arrays))  # type: ignore[no-untyped-call]
        return None, *(next(found) if one else None for one in wanted)

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[int | None], call: Callable[..., Tensor], *tensors: Tensor
    ) -> tuple[Tensor, int]:
        rows = _rows(info, in_dims[1:], tensors)
        each = [_Opaque.apply(call, *row) for row in rows]  # type: ignore[no-untyped-call]
        return torch.stack(each), 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _no_forward_mode()


class _Gradient(torch.autograd.Function):
    """The gradient of `_Opaque` with respect to the tensors whose entry in `wanted` is True."""

    @staticmethod
    def forward(
        call: Callable[..., Tensor], wanted: Sequence[bool], gradient: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            inputs = [
                t.detach().requires_grad_() if one else t.detach()
                for t, one in zip(tensors, wanted, strict=True)
            ]
            output = call(*inputs)
        leaves = [t for t in inputs if t.requires_grad]
        return torch.autograd.grad(output, leaves, gradient, materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise NotImplementedError(
            "mean_field has no second derivative under torch.func; use "
            "torch.autograd.functional.hessian, or torch.autograd.grad twice"
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Sequence[int | None],
        call: Callable[..., Tensor],
        wanted: Sequence[bool],
        *tensors: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        rows = _rows(info, in_dims[2:], tensors)
        each = [
            _Gradient.apply(call, wanted, *row)  # type: ignore[no-untyped-call]
            for row in rows
        ]
        found = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return found, (0,) * len(found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _no_forward_mode()


def _rows(
    info: Any, dims: Sequence[int | None], tensors: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Return the arguments of each call that vmap stands for: one list of tensors per sample."""
    return [
        [
            tensor if dim is None else tensor.select(dim, i)
            for tensor, dim in zip(tensors, dims, strict=True)
        ]
        for i in range(info.batch_size)
    ]
