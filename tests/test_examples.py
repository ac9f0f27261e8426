"""The examples run as scripts, from any folder, and say something."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
NEEDS = {
    "train_head": ["torch"],
    "train_with_lightning": ["torch", "lightning"],
    "refine_saved_logits": ["skimage"],
    "high_dimensional_filter": ["skimage"],
    "make_sample_logits": ["torch", "skimage"],  # only its help: the network is not in the package
}
ARGUMENTS = {"make_sample_logits": ["--help"]}


def test_every_example_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_example_runs(name, tmp_path):
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    # The folder that this process imports the package from, be it a checkout or site-packages.
    package = Path(importlib.util.find_spec("densecrf_rnn").origin).parents[1]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    # Passive: idle OpenMP threads must not spin while other tests run beside this one.
    env = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *ARGUMENTS.get(name, [])],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    for picture in tmp_path.glob("*.png"):
        assert picture.stat().st_size > 1000
