"""The programs that benchmarks compare with leave nothing behind for those that run after them."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not here", allow_module_level=True)
pytest.importorskip("skimage")

CODE = """
import os
import peers
from problems import Problem
run = peers.face(1)(Problem(size=(24, 24)), 1)
for threads in (None, "3"):
    os.environ.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = threads
    before = dict(os.environ)
    run()
    assert dict(os.environ) == before, threads
"""


def test_the_number_of_threads_in_the_environment_is_restored():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=BENCHMARKS, env=environment(),
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
