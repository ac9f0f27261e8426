"""Work on many files at once, in threads: the engine and the readers release the GIL."""

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def finished(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Each item with what `work` returned for it, or raised, in the order in which they finish.

    As many items are begun as there are threads, so memory does not grow with their number. If the
    caller stops, or Ctrl-C comes, what was begun is finished and nothing else is begun. A second
    Ctrl-C ends the process at once.

    Examples
    --------
    >>> sorted(finished(lambda x: 1 / x, [1, 2], threads=2))
    [(1, 1.0), (2, 0.5)]
    """
    pool = ThreadPoolExecutor(threads)
    running: dict[Future[Result], Item] = {}
    # Ctrl-C leaves this queue as it was; what Python builds of conditions it can leave unlocked.
    done: SimpleQueue[Future[Result]] = SimpleQueue()

    def next_one() -> tuple[Item, Result | Exception]:
        """Wait for one, and take it out."""
        future = done.get()
        item, error = running.pop(future), future.exception()
        if error is None:
            return item, future.result()
        if isinstance(error, Exception):
            return item, error
        raise error

    try:
        for item in items:
            future = pool.submit(work, item)
            running[future] = item
            future.add_done_callback(done.put)
            if len(running) == threads:
                yield next_one()
        while running:
            yield next_one()
    finally:
        try:
            pool.shutdown()
        except KeyboardInterrupt:  # Python itself would wait for the threads once more
            os._exit(130)
