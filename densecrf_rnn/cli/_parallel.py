"""Process many files at once in threads, and reuse freed memory for the next file.

Threads suffice because the engine and the readers release the GIL.
"""

import contextvars
import ctypes
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Option numbers of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def finished(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Yield each item with the result or the exception of `work`, in the order of completion.

    At most `threads` items are started at once, so memory does not grow with their number. If the
    caller stops, or after Ctrl-C, items that were started are finished and no others are started.
    A second Ctrl-C ends the process at once.

    Examples
    --------
    >>> sorted(finished(lambda x: 1 / x, [1, 2], threads=2))
    [(1, 1.0), (2, 0.5)]
    """
    pool = ThreadPoolExecutor(threads)
    running: dict[Future[Result], Item] = {}
    # A SimpleQueue survives Ctrl-C; queues built on conditions may be left with a broken lock.
    done: SimpleQueue[Future[Result]] = SimpleQueue()

    def next_one() -> tuple[Item, Result | Exception]:
        """Wait until an item is finished, and remove it from `running`."""
        future = done.get()
        item, error = running.pop(future), future.exception()
        if error is None:
            return item, future.result()
        if isinstance(error, Exception):
            return item, error
        raise error

    try:
        for item in items:
            # threads do not inherit the limits on what files may unpack to
            future = pool.submit(contextvars.copy_context().run, work, item)
            running[future] = item
            future.add_done_callback(done.put)
            if len(running) == threads:
                yield next_one()
        while running:
            yield next_one()
    finally:
        try:
            pool.shutdown()
        except KeyboardInterrupt:  # a normal exit would wait for the threads again
            os._exit(130)


def keep_memory(most: int) -> None:
    """Reuse freed blocks of up to `most` bytes for the next file; has an effect with glibc only.

    By default, threads return arrays as large as logits to the operating system, which clears the
    same pages again for the next file; that takes a tenth of the run time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, most)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
