"""The compiled CUDA programs, inspected without a GPU: registers and local memory."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).parents[1] / "densecrf_rnn").glob("_cuda.*.so"))


def cuobjdump():
    """Return the path of a program that comes with CUDA and with triton; None without both."""
    found = shutil.which("cuobjdump")
    spec = None if found else importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return found
    folder = Path(spec.submodule_search_locations[0]) / "backends" / "nvidia" / "bin"
    return shutil.which("cuobjdump", path=str(folder))


@pytest.fixture(scope="module")
def resources():
    """Registers and bytes of stack of each program, by its mangled name."""
    if not MODULES or cuobjdump() is None:
        pytest.skip("no compiled CUDA programs, or no cuobjdump to inspect them")
    command = [cuobjdump(), "-res-usage", str(MODULES[0])]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", text)
    return {name: (int(registers), int(stack)) for name, registers, stack in rows}


def test_programs_over_rows_keep_rows_in_registers(resources):
    over_rows = [n for n in resources if re.search(r"\d+(Filter|Forward|Backward|SpreadStep)", n)]
    assert len(over_rows) >= 40
    for name in over_rows:
        registers, stack = resources[name]
        # Less than a block of a row of one lane: nvcc keeps a counter or two there (64 registers).
        assert stack <= 16, f"{name} spills or has an array in local memory"
        assert registers <= 128, f"{name}: fewer than two blocks of 256 threads per processor"
