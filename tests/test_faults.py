"""Disks that fail: every writer under every fault leaves its outputs complete or absent.

`faults/shim.c` makes calls of the C library fail, `faults/writers.py` runs the commands under it.
DENSECRF_FAULTS=all injects a fault at each call instead of the first ones and a few of the others,
and sweeps small file systems in steps of 2 kB; docs/reliability.md has the results.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from faults import shim, sweep
from processes import environment

HERE = Path(__file__).parent / "faults"
ALL = os.environ.get("DENSECRF_FAULTS") == "all"
# Families of commands and the packages they need; those with True are left out by default, because
# another one takes the same path.
FAMILIES = {
    "labels .png": ("PIL",), "labels .nii.gz": ("nibabel",), "labels .npy": (),
    "labels .tif": ("rasterio", "tifffile"), "labels and marginals .npz": ("PIL",),
    "saliency .png": ("PIL",), "region masks .png": ("PIL",),
    "labels .tif, tiled": ("rasterio", "tifffile", True), "labels .npy, tiled": (),
    "labels .zarr, tiled": ("zarr", True), "marginals .tif, tiled": ("rasterio", "tifffile"),
    "marginals .npy, tiled": (), "marginals .zarr, tiled": ("zarr",),
    "evaluate --json --plots": ("PIL", "matplotlib"),
    "tune --out --study": ("PIL", "optuna"),
}  # fmt: skip
FAULTS = {
    "write, ENOSPC", "write, EIO", "short write", "flush", "close", "rename", "lost rename", "read",
    "read of an input",
}  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The shim, compiled."""
    if reason := shim.why_unavailable():
        pytest.skip(reason)
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def folder(tmp_path):
    """A folder on a disk that is fast to synchronise, where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as found:
        yield Path(found)


def need(family):
    """Skip the test if a package is missing."""
    for package in FAMILIES[family]:
        if package is not True:
            pytest.importorskip(package)


def under_shim(library, monkeypatch, script, *arguments):
    """Run a script of faults/ under the shim; return the lines of JSON that it printed."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = shim.run(library, HERE / script, *arguments, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("family", [name for name in FAMILIES if ALL or True not in FAMILIES[name]])
def test_outputs_are_whole_or_absent_whatever_fails_and_the_next_run_completes(
    library, folder, monkeypatch, family
):
    need(family)
    found = under_shim(library, monkeypatch, "writers.py", family, folder)
    counts = {fault: number for fault, number, _ in found}
    assert set(counts) <= FAULTS and counts["write, ENOSPC"] > 0 and counts["lost rename"] > 0


@pytest.mark.parametrize("family", list(FAMILIES) if ALL else ["labels .png", "labels .npy, tiled"])
def test_a_run_that_is_killed_at_any_call_that_changes_the_disk_is_resumed(
    library, folder, monkeypatch, family
):
    need(family)
    ((_, count),) = under_shim(library, monkeypatch, "kills.py", family, folder)
    assert count > 10


SWEPT = [name for name in FAMILIES if "--" not in name]


@pytest.mark.parametrize(
    "family", SWEPT if ALL else ["labels and marginals .npz", "marginals .npy, tiled",
                                 "labels .tif, tiled"],
)  # fmt: skip
def test_a_disk_that_is_too_small_by_any_number_of_bytes_is_survived(folder, family):
    """A memory map would end the process; GDAL loses errors of closing."""
    if reason := sweep.why_unavailable():
        pytest.skip(reason)
    need(family)
    done = subprocess.run(
        [sys.executable, HERE / "sweep.py", family, folder, str(2048 if ALL else 20480)],
        env={**environment(), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    if "CalledProcessError" in done.stderr and "'mount'" in done.stderr:
        pytest.skip("a small file system needs the right to mount")
    assert done.returncode == 0, done.stderr[-3000:]
    _, runs, _ = json.loads(done.stdout)
    assert runs > 1
