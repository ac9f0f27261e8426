"""The end of a run of pytest: skipped tests are counted by reason."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(30))
@pytest.mark.parametrize("prefix", ["no serial launcher: ", "serial: ", ""])
def test_serial(number, prefix):
    pytest.skip(f"{prefix}the native module densecrf_rnn._serial was not compiled; reinstall")

def test_absent():
    pytest.importorskip("no_such_module")

def test_works():
    pass
"""


def test_skips_are_counted_by_reason(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("===") and "skipped =" in line)
    assert lines[at + 1 : at + 3] == [
        "90: the native module densecrf_rnn._serial was not compiled; reinstall",
        "1: no_such_module is not installed",
    ]
    assert "1 passed, 91 skipped" in lines[-1]


def test_the_test_that_fills_a_gpu_runs_after_all_others_and_alone(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    for name in ("test_a", "test_cuda_memory", "test_d"):
        (tmp_path / f"{name}.py").write_text(f"def {name}():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", os.devnull]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTEST_XDIST_WORKER", None)
    for worker in ({}, {"PYTEST_XDIST_WORKER": "gw0"}):
        done = subprocess.run(
            [*command, "-p", "no:xdist", "."], cwd=tmp_path, capture_output=True, text=True,
            timeout=120, env={**environment, **worker},
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if ".py::" in line]
        assert "test_cuda_memory" in lines[-1], done.stdout
        assert ("SKIPPED" if worker else "PASSED") in lines[-1]
