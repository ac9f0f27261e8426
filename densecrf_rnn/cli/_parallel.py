"""Work on many files at once, in threads: the engine and the readers release the GIL."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
    try:
        for item in items:
            running[pool.submit(work, item)] = item
            if len(running) == threads:
                yield from _done(running)
        while running:
            yield from _done(running)
    finally:
        try:
            pool.shutdown()
        except KeyboardInterrupt:  # Python itself would wait for the threads once more
            os._exit(130)


def _done(running: dict[Future[Result], Item]) -> Iterator[tuple[Item, Result | Exception]]:
    """Wait for some, and take them out."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        item, error = running.pop(future), future.exception()
        if error is None:
            yield item, future.result()
        elif isinstance(error, Exception):
            yield item, error
        else:
            raise error
