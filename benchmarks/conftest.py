"""Prints one table of all benchmarks that ran, and keeps it: pytest benchmarks/ --results FILE."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

# Read when the libraries are loaded. Idle OpenMP threads must not spin in the way of others, and
# NumPy's matrix products take one thread where a row says one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest  # noqa: E402
from measure import HEADER, ROWS, cells  # noqa: E402

from densecrf_rnn import engines, available_backends  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --results and --images."""
    parser.addoption("--results", type=Path, help="write the rows to this file, as JSON")
    parser.addoption("--images", type=int, default=200, help="files in bench_refine's folder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the native module there is nothing worth measuring."""
    if "cpu" not in available_backends():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the native module is not compiled"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Runs last."""
    if not ROWS:
        return
    terminalreporter.section("benchmarks")
    lines = [HEADER, *map(cells, ROWS)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join(padded).rstrip())
    if path := config.getoption("--results"):
        result = {"machine": _machine(), "rows": [dataclasses.asdict(row) for row in ROWS]}
        path.write_text(json.dumps(result, indent=1) + "\n")


def _machine() -> dict[str, str]:
    """What the figures depend on."""
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
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": f"{processor}, {engines.default_threads()} for this process",
        "compiler": str(engines.native_compiler()),
        "python": platform.python_version(),
        "commit": commit or "-",
        **versions,
    }
