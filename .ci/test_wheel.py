"""Run tests of an installed wheel outside of the source tree: python .ci/test_wheel.py

cibuildwheel and .ci/wheel call it. The tests are copied into an empty folder, so that they import
the wheel. They need the extras `numba` and `test`; those of the layer are skipped without torch,
which .ci/wheel installs. Other tests need files of the source tree, or take longer.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    # the machine
    "test_platform.py", "test_native_contract.py", "test_isa.py", "test_interrupt.py",
    # the engine
    "test_lattice.py", "test_grid.py", "test_dense.py", "test_mean_field.py", "test_binary.py",
    "test_prune.py", "test_normaliser.py",
    # what stands around it
    "test_samples.py", "test_files.py", "test_bad_input.py", "test_array_likes.py",
    # the layer
    "test_nn_crfrnn.py",
]  # fmt: skip
SMOKE = """
import sys
import densecrf_rnn
assert "cpu" in densecrf_rnn.available_backends(), densecrf_rnn.available_backends()
assert not densecrf_rnn.__file__.startswith(sys.argv[1]), densecrf_rnn.__file__
from densecrf_rnn import engines
print("engine cpu, instruction set", engines.native_isa(), "from", densecrf_rnn.__file__)
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tests", "examples", "docs"):
            skipped = shutil.ignore_patterns("runs", "__pycache__", "corpus")
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=skipped)
        shutil.copy(ROOT / "setup.cfg", folder)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [sys.executable, "-c", SMOKE, str(ROOT)]
        if subprocess.run(command, cwd=folder, env=environment).returncode:
            return 1
        tests = [f"tests/{name}" for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--durations=5", *tests]
        return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
