"""Subclasses of Tensor: computed as plain tensors, returned as the kind that the logits were.

MONAI's MetaTensor, torchvision's tv_tensors and fastai's tensors implement ``__torch_function__``,
which would intercept every operation inside and need not know all of them.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import has_torch_function

P = ParamSpec("P")
R = TypeVar("R")

_DISABLED = (torch._C._disabled_torch_function_impl, torch._C._disabled_torch_dispatch_impl)

# Compiled graphs break where a subclass comes in and goes out: attributes cannot be traced.
_eager: Any = torch.compiler.disable(  # type: ignore[no-untyped-call]
    reason="a subclass of Tensor comes in; pass plain tensors to compile a full graph"
)


def plain_inside(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of `logits`, `values` or `probabilities` to be called with plain tensors.

    Tensors in its result that have the shape of the logits become of the logits' subclass and get
    a copy of its attributes (the affine, say), as MONAI copies them.
    """
    names = list(inspect.signature(function).parameters)
    name = next(one for one in ("logits", "values", "probabilities") if one in names)
    place = names.index(name)

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if not has_torch_function(tuple(_values(args, options))):
            return function(*args, **options)
        logits: Any = args[place] if place < len(args) else options.get(name)
        plain, named = _plain(args), _plain(options)
        return _like(logits, function(*plain, **named))

    return call


def _values(args: tuple[Any, ...], options: Mapping[str, Any]) -> Iterator[Any]:
    """List the arguments, and what is in those that are containers."""
    for value in (*args, *options.values()):
        if isinstance(value, (list, tuple)):
            yield from value
        elif isinstance(value, Mapping):
            yield from value.values()
        else:
            yield value


def _is_subclass(value: Any) -> bool:
    """Return whether `value` is of a class that intercepts operations, but not their kernels.

    Parameters do not, and classes with ``__torch_dispatch__`` (DTensor, fake tensors) have no
    values of their own as a plain tensor.
    """
    kind = type(value)
    return (
        isinstance(value, Tensor)
        and kind is not Tensor
        and kind.__torch_function__ is not _DISABLED[0]
        and kind.__torch_dispatch__ is _DISABLED[1]
    )


@_eager  # type: ignore[untyped-decorator]
def _plain(value: Any) -> Any:
    """Return a tensor, or the tensors in a container, as plain tensors with the same autograd."""
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return _cast(value, Tensor) if _is_subclass(value) else value


@_eager  # type: ignore[untyped-decorator]
def _like(logits: Any, found: Any) -> Any:
    """Return results of the shape of the logits as their subclass, with their attributes."""
    if isinstance(found, list):
        return [_like(logits, one) for one in found]
    if not _is_subclass(logits) or found.shape != logits.shape:
        return found
    found = _cast(found, type(logits))
    found.__dict__.update({name: _copied(value) for name, value in logits.__dict__.items()})
    return found


def _copied(value: Any) -> Any:
    """Copy one level of an attribute, so that changes of the result do not reach the logits."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in value.items()}
    return value.copy() if isinstance(value, (list, np.ndarray)) else value


def _cast(tensor: Tensor, kind: type[Tensor]) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(kind)
