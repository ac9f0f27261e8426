"""Declare torch operators that an eager call runs without the cost of torch's dispatcher.

On a small image, a call through the dispatcher takes as long as the computation. The dispatcher is
needed if a graph is traced, or if a dispatch mode or a tensor subclass intercepts calls. Other
eager calls need the function alone or, if a gradient is required, an autograd.Function around it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ... import engines

_TENSORS = frozenset((Tensor, nn.Parameter))
_PLAIN_TYPES = _TENSORS | {bool, int, float, str, type(None)}
Backward = Callable[..., Any]
Setup = Callable[[Any, tuple[Any, ...], Any], None]

# Which engine a backend name selects for tensors on a device, and the native module of the name and
# a device type. Cached, because several operators need them in every call and finding out whether
# an engine can run is slow. Errors are not cached.
_serving = lru_cache(maxsize=None)(engines.for_tensors)
native_module = lru_cache(maxsize=None)(engines.device_module)


def serving(backend: str, device: torch.device) -> str:
    """Return the name of the engine that computes on tensors on `device`; raise if none can."""
    return _serving(backend, str(device))


def in_torch(backend: str, like: Tensor) -> bool:
    """Return whether engine "torch" computes on tensors on the device of `like`."""
    return serving(backend, like.device) == "torch"


def forget() -> None:
    """Clear the caches, after an engine was accepted or rejected."""
    _serving.cache_clear()
    native_module.cache_clear()
    engine.cache_clear()


@lru_cache(maxsize=None)
def engine(backend: str) -> engines.Engine:
    """Return the engine for tensors on a CPU; a cache of `engines.engine`."""
    return engines.engine(backend)


def native_for(backend: str, like: Tensor) -> Any:
    """Return the native module for tensors on the device of `like`, None for NumPy engines."""
    return native_module(serving(backend, like.device), like.device.type)


class Operator:
    """A function that is also a torch operator; a call uses the cheapest correct `way`.

    Parameters
    ----------
    name : str
        Name of the operator, "namespace::name".
    function : callable
        Computes the result without autograd; annotated as `torch.library.custom_op` requires.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.of_torch = torch.library.custom_op(name, mutates_args=())(function)
        self.register_fake = self.of_torch.register_fake
        self.backward: Backward | None = None
        self.setup_context: Setup | None = None
        self.__doc__ = function.__doc__

    def register_autograd(self, backward: Backward, *, setup_context: Setup | None = None) -> None:
        """Register the backward pass, as torch's method of the same name does."""
        self.of_torch.register_autograd(backward, setup_context=setup_context)
        self.backward, self.setup_context = backward, setup_context

    def __call__(self, *args: Any) -> Any:
        found = way(*args)
        if found == PLAIN:
            return self.function(*args)
        if found == DIFFERENTIATED and self.backward is not None:
            lengths = tuple(len(arg) if _is_list_of_tensors(arg) else None for arg in args)
            flat = (*_flat(args, lengths), (self, lengths))
            return _Recorded.apply(*flat)  # type: ignore[no-untyped-call]
        return self.of_torch(*args)


# How an operator is called: its function, an autograd.Function around it, or torch's dispatcher.
PLAIN, DIFFERENTIATED, DISPATCHED = "plain", "differentiated", "dispatched"


def way(*args: Any) -> str:
    """Return the cheapest correct way to call an operator: PLAIN, DIFFERENTIATED or DISPATCHED.

    `args` are the operator's arguments: tensors, lists of tensors, or other values.
    """
    if is_traced():
        return DISPATCHED
    flat: list[Any] = []
    for arg in args:
        if isinstance(arg, (list, tuple)):
            flat.extend(arg)
        else:
            flat.append(arg)
    if not _PLAIN_TYPES.issuperset(map(type, flat)):
        if any(isinstance(one, Tensor) and type(one) not in _TENSORS for one in flat):
            return DISPATCHED
    if torch.is_grad_enabled():
        if any(type(one) in _TENSORS and one.requires_grad for one in flat):
            return DIFFERENTIATED
    return PLAIN


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Return a decorator that makes a function the operator `name`."""
    return lambda function: Operator(name, function)


def capturing(tensor: Tensor) -> bool:
    """Return whether a CUDA graph is being captured, in which values cannot be read."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def is_traced() -> bool:
    """Return whether this thread's calls are being traced, or a dispatch mode is active."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return True
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def is_compiled() -> bool:
    """Return whether torch.compile traces this call; torch.export keeps operators whole."""
    return torch.compiler.is_compiling() and not _is_exporting()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_exporting() -> bool:
    """Tell whether torch.export traces this call; before 2.13 a traced call gets True always."""
    return torch.compiler.is_exporting()


def is_captured(device: torch.device) -> bool:
    """Return whether new tensors belong to a graph: values are unknown, and nothing is cached."""
    return is_traced() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


class _Recorded(torch.autograd.Function):
    """A call of an operator that autograd records, without the dispatcher that `custom_op` uses.

    autograd.Function accepts tensors but no lists of tensors, so the arguments are flattened, and
    `lengths` has the length of each list, or None for any other argument.
    """

    @staticmethod
    def forward(ctx: Any, *flat: Any) -> Any:
        ctx.operator, ctx.lengths = flat[-1]
        args = tuple(_grouped(flat[:-1], ctx.lengths))
        output = ctx.operator.function(*args)
        if ctx.operator.setup_context is not None:
            ctx.operator.setup_context(ctx, args, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        flat = ctx.needs_input_grad
        ctx.needs_input_grad = _grouped(flat[:-1], ctx.lengths)
        try:
            found = ctx.operator.backward(ctx, *gradients)
        finally:
            ctx.needs_input_grad = flat
        found = found if isinstance(found, tuple) else (found,)
        found = tuple(None if isinstance(one, list) and not one else one for one in found)
        return (*_flat(found, ctx.lengths), None)


def _is_list_of_tensors(arg: Any) -> bool:
    """Return whether an argument is a list or tuple of tensors; an empty one counts."""
    return isinstance(arg, (list, tuple)) and all(isinstance(one, Tensor) for one in arg)


def _flat(args: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    """Replace each list, that is, each argument with a length in `lengths`, by its entries.

    The gradient of an empty list may be None.
    """
    flat: list[Any] = []
    for arg, length in zip(args, lengths, strict=True):
        flat.extend([arg] if length is None else arg or [])
    return flat


def _grouped(flat: Sequence[Any], lengths: Sequence[int | None]) -> list[Any]:
    """Group flat entries into arguments and lists of these lengths: the inverse of `_flat`."""
    entries = iter(flat)
    return [
        next(entries) if length is None else [next(entries) for _ in range(length)]
        for length in lengths
    ]


def no_second_derivative(ctx: Any, *gradients: Tensor) -> NoReturn:
    """Raise NotImplementedError; it is the backward pass of operators that compute gradients."""
    raise NotImplementedError(
        "the gradient with respect to an image, guides, features or bandwidths cannot be "
        "differentiated again; for a second derivative with respect to logits or kernel weights, "
        "pass image.detach() and detached guides, and train no bandwidths"
    )


def empty_like(tensor: Tensor, *args: Any) -> Tensor:
    """Return an uninitialised contiguous tensor like the first argument.

    Further arguments are ignored, so that this function can be an operator's fake implementation.
    """
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
