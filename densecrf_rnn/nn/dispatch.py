"""Torch operators that may be called past torch's dispatcher, which costs as much as a small image.

The dispatcher records what is differentiated, traced or compiled. A plain eager call has none of
these, and then the operator's function is called as it stands.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_PLAIN = (Tensor, nn.Parameter)


class Operator:
    """A function that is a torch operator too: call it as either, as the case asks for."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.of_torch = torch.library.custom_op(name, mutates_args=())(function)
        self.register_fake = self.of_torch.register_fake
        self.register_autograd = self.of_torch.register_autograd
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any) -> Any:
        return self.of_torch(*args) if is_recorded(*args) else self.function(*args)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make a function an operator of this name."""
    return lambda function: Operator(name, function)


def is_recorded(*args: Any) -> bool:
    """Whether torch has to know of a call with these arguments (tensors, lists of them, others)."""
    if is_traced():
        return True
    gradients = torch.is_grad_enabled()
    for arg in args:
        for one in arg if isinstance(arg, (list, tuple)) else (arg,):
            if isinstance(one, Tensor) and (
                type(one) not in _PLAIN or (gradients and one.requires_grad)
            ):
                return True
    return False


def is_traced() -> bool:
    """Whether the calls of this thread become a graph, or pass through a mode of torch's."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return True
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
