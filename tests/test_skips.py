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
