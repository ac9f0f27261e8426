"""How a benchmark measures, and the rows of the table that is printed at the end."""

import statistics
import time
from collections.abc import Callable

ROWS: list[str] = []


def interleaved(runs: int, **cases: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each case, measured in turn (A B A B ...) after one warm-up of each.

    Turns share whatever else the machine does, so ratios hold where absolute times drift.
    """
    for case in cases.values():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(case: str, vertices: int, seconds: dict[str, list[float]]) -> None:
    """Add one line per measured name: median, quartiles, and its ratio to the first name."""
    base = next(iter(seconds))
    for name, times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4)
        ratios = [other / own for other, own in zip(seconds[base], times, strict=True)]
        ratio = "" if name == base else f"{statistics.median(ratios):6.2f}x"
        ROWS.append(
            f"{case:34} {name:22} {1e3 * median:8.1f} ms  [{1e3 * low:.1f}, {1e3 * high:.1f}]"
            f"  M={vertices:<8d} {ratio}"
        )
