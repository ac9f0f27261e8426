"""Fixtures that every test shares: engines, dtypes, and the data that is not in the repository."""

import collections
import importlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import engines
from densecrf_rnn.engines import registry

try:
    hypothesis = importlib.import_module("hypothesis")
except ImportError:  # benchmarks/gpu_day.py runs tests that do without it
    pass
else:
    # Derandomised, so a failure in CI is a failure everywhere; without a deadline, because the
    # first call of a Numba function compiles it.
    hypothesis.settings.register_profile(
        "densecrf_rnn",
        deadline=None,
        derandomize=True,
        max_examples=30,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )
    hypothesis.settings.load_profile("densecrf_rnn")


def reason_of_skip(message):
    """Return what pytest says of a skip without the parts that differ from test to test."""
    message = re.sub(r"^Skipped: ", "", message)
    message = re.sub(r"(?s)^could not import '([^']+)': .*", r"\1 is not installed", message)
    # "no serial launcher: the native module ...", "cpu: the native module ..."
    return re.sub(r"^[\w ]+: (?=the native module |numba is )", "", message)


def pytest_terminal_summary(terminalreporter):
    """Print how many tests were skipped for each reason."""
    reports = terminalreporter.stats.get("skipped", [])
    counts = collections.Counter(reason_of_skip(report.longrepr[2]) for report in reports)
    if counts:
        terminalreporter.write_sep("=", "skipped")
        for reason, count in counts.most_common():
            terminalreporter.write_line(f"{count}: {reason}")


# Takes almost all memory of the GPU, in which tests at the same time would fail.
FILLS_THE_GPU = "test_cuda_memory.py"


def pytest_collection_modifyitems(items):
    """Run the test that fills a GPU after all others, and not beside them."""
    items.sort(key=lambda item: item.path.name == FILLS_THE_GPU)
    if "PYTEST_XDIST_WORKER" in os.environ:
        alone = pytest.mark.skip(reason=f"fills the GPU; run tests/{FILLS_THE_GPU} with -n 0")
        for item in items:
            if item.path.name == FILLS_THE_GPU:
                item.add_marker(alone)


def pytest_generate_tests(metafunc):
    """Run tests with `backend` on each engine; tests of tensors on engines for tensors as well."""
    if "backend" in metafunc.fixturenames:
        tensors = metafunc.module.__name__.startswith("test_nn_")
        samples = metafunc.module.__name__ == "test_nn_gibbs"
        names = [*registry.ARRAY_ENGINES] + ["serial"] * tensors
        names += ["torch"] * (tensors and not samples)
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request):
    """Name of an engine; the test is skipped with the engine's reason where it cannot run."""
    reason = engines.why_unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


@pytest.fixture
def both_backends():
    """Skip a test that compares the native engine with the Numba reference where one is absent."""
    for name in registry.ARRAY_ENGINES:
        reason = engines.why_unavailable(name)
        if reason is not None:
            pytest.skip(reason)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(scope="session")
def shared_data():
    """The folder of large data sets next to the repository."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets are not here (no folder ../shared/data next to the repository)")
    return folder.resolve()
