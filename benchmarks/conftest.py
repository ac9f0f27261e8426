"""Print one table of all benchmarks that ran; --results FILE writes its rows as JSON."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
from pathlib import Path

# The libraries read these when they are loaded. Idle OpenMP threads must not occupy processors that
# another case is measured on, and NumPy's matrix products use one thread where a row says one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest  # noqa: E402
from measure import HEADER, ROWS, cells, commit  # noqa: E402

from densecrf_rnn import engines, available_backends  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --results and --images, and what bench_before.py compares with."""
    parser.addoption("--results", type=Path, help="write the rows to this file, as JSON")
    parser.addoption("--images", type=int, default=200, help="files in bench_refine's folder")
    parser.addoption("--before", type=Path, help="a built checkout of an earlier commit")
    parser.addoption("--pictures", type=Path, help="a folder of data as of study_refinement.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all benchmarks where the native module is not compiled."""
    if "cpu" not in available_backends():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the native module is not compiled"))


def pytest_configure(config: pytest.Config) -> None:
    """Check that --results can be written before anything is measured."""
    if path := config.getoption("--results"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = _part(path)
            part.touch()
            part.unlink()
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
        except OSError as error:
            raise pytest.UsageError(
                f"--results {path} cannot be written ({error.strerror}); name another file"
            ) from None


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Write the rows after each benchmark, so that they are kept if a later one is stopped."""
    _write(item.config)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    if not ROWS:
        return
    terminalreporter.write_sep("=", "benchmarks")
    lines = [HEADER, *map(cells, ROWS)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join(padded).rstrip())
    _write(config)


def _write(config: pytest.Config) -> None:
    """Write the rows so far to the file of --results."""
    if (path := config.getoption("--results")) and ROWS:
        result = {"machine": _machine(), "rows": [dataclasses.asdict(row) for row in ROWS]}
        part = _part(path)
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(path)


def _part(path: Path) -> Path:
    """Return the file that is written first and then renamed to `path`."""
    return path.with_name(path.name + ".part")


@functools.cache
def _machine() -> dict[str, str]:
    """Return the versions and hardware that the figures depend on."""
    versions = {}
    for name in ("densecrf-rnn", "numpy", "torch", "numba", "pydensecrf2"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "-"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        processor = platform.processor()
    return {
        "processor": f"{processor}, {engines.default_threads()} for this process",
        "compiler": str(engines.native_compiler()),
        "python": platform.python_version(),
        "commit": commit(),
        **versions,
        **_gpu(),
    }


def _gpu() -> dict[str, str]:
    """Return the first GPU, its driver and the compiler of the CUDA module, if it can run."""
    if engines.why_unavailable("cuda") is not None:
        return {}
    facts = engines.cuda_facts() or {}
    card = facts["devices"][0]
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
        driver = text.splitlines()[0].split(":")[1].strip()
    except (OSError, IndexError):
        driver = "-"
    return {
        "gpu": f"{card['name']}, {card['memory'] / 2**30:.0f} GiB",
        "gpu driver": f"{driver}; CUDA {facts['driver']}",
        "cuda compiler": f"{facts['compiler']} for {facts['architectures']}",
    }
