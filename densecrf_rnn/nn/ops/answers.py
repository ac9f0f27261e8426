"""Checks of values on a device whose answers are read where the host waits for the device anyway.

Every read of a value waits until the device has done all work before it. A call therefore asks
all its questions first, and the first lattice that it builds reads the answers together with its
number of vertices.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_thread = threading.local()


class Answers:
    """Questions to a device and, as soon as anything is read from it, their answers."""

    def __init__(self) -> None:
        self._good: list[Tensor] = []
        self._refuse: list[Callable[[], None]] = []
        self._answers: list[bool] | None = None

    def ask(self, good: Tensor, refuse: Callable[[], None]) -> None:
        """Ask whether `good`, a 0-dimensional bool, is True; `refuse` raises if it is not."""
        self._good.append(good)
        self._refuse.append(refuse)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this context, the first `read` on this thread reads the answers, too."""
        before = getattr(_thread, "waiting", None)
        _thread.waiting = self
        try:
            yield
        finally:
            _thread.waiting = before

    def raise_first(self) -> None:
        """Call `refuse`, which raises, of the first question whose answer is False."""
        if self._answers is None:  # nothing was read, because no lattice was built
            with self.waiting():
                read(self._good[0].new_empty(0, dtype=torch.int64))
        assert self._answers is not None
        for good, refuse in zip(self._answers, self._refuse, strict=True):
            if not good:
                refuse()


def read(numbers: Tensor) -> list[float]:
    """Return the numbers of a tensor [n] on a device, and read the answers that wait with them.

    The call waits for the device, once.
    """
    waiting: Answers | None = getattr(_thread, "waiting", None)
    if waiting is None or waiting._answers is not None:
        return numbers.tolist()
    good = torch.stack(waiting._good).to(numbers.dtype)
    found: list[float] = torch.cat([numbers, good]).tolist()
    waiting._answers = [bool(one) for one in found[len(numbers) :]]
    return found[: len(numbers)]


@contextmanager
def asked() -> Iterator[None]:
    """Within this context, operators on this thread do not check values; the caller has done so."""
    before = were_asked()
    _thread.asked = True
    try:
        yield
    finally:
        _thread.asked = before


def were_asked() -> bool:
    """Return whether an operator need not check its values, because its caller has asked."""
    return getattr(_thread, "asked", False)
