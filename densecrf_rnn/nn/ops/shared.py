"""Tensors that calls share: made once, usable on every stream, and kept for captured graphs."""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

# Tensors that captured graphs read. A graph stores addresses, and nothing tells when it is freed,
# so these tensors are kept as long as the process runs.
_of_graphs: dict[int, "_Made"] = {}


def shared(maxsize: int) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that caches the result of a function, a tensor or sequences of tensors.

    A result on a GPU may be used on any stream. `__wrapped__` is the function without the cache.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        made = lru_cache(maxsize)(lambda *args: _Made(function(*args)))

        @wraps(function)
        def wrapped(*args: Any) -> Any:
            return made(*args).on_current_stream()

        return wrapped

    return decorate


class _Made:
    """A cached result, the stream on which it was computed, and the streams that use it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._tensors = list(_tensors(value))
        stream = current_stream(self._tensors[0])
        self._event = None if stream is None else stream.record_event()
        self._streams = {stream}

    def on_current_stream(self) -> Any:
        """Return the value; the current stream waits until it is computed."""
        stream = current_stream(self._tensors[0])
        if stream is None:
            return self.value
        if is_capturing():  # which begins after the device was waited for
            _of_graphs[id(self)] = self
        elif stream not in self._streams:
            stream.wait_event(self._event)
            for tensor in self._tensors:
                tensor.record_stream(stream)  # memory is reused only after this stream's work
            self._streams.add(stream)
        return self.value


def _tensors(value: Any) -> Sequence[Tensor]:
    """Return the tensors in nested sequences."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for one in value for tensor in _tensors(one)]
    return []


def current_stream(like: Tensor) -> Any:
    """Return the current stream of a tensor's GPU; None on other devices."""
    return torch.cuda.current_stream(like.device) if like.is_cuda else None


def is_capturing() -> bool:
    """Return whether a CUDA graph is being captured on the current stream."""
    return torch.cuda.is_current_stream_capturing()
