"""The body-parts example runs from end to end on frames of the layout that it documents."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "body_parts" / "run.py"


def write_frames(folder, frames=3):
    """A body of two parts before a wall, 32 x 40."""
    io = pytest.importorskip("skimage.io")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("depth", "label"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(frames):
            labels = np.zeros((32, 40), np.uint8)
            row, column = rng.integers(2, (10, 18))
            labels[row : row + 16, column : column + 8] = 1
            labels[row : row + 16, column + 8 : column + 16] = 2
            depth = np.where(labels > 0, 2000, 4000) + rng.integers(0, 50, labels.shape)
            for kind, picture in (("depth", depth.astype(np.uint16)), ("label", labels)):
                path = folder / split / kind / f"{i}.png"
                io.imsave(path, picture, check_contrast=False)
    (folder / "classes.txt").write_text("0 background\n1 left\n2 right\n")


def run(folder, *arguments):
    package = Path(importlib.util.find_spec("densecrf_rnn").origin).parents[1]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(SCRIPT), "--data", str(folder), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def needs_packages():
    if not SCRIPT.is_file():
        pytest.skip("the examples are not installed with the package")
    for module in ("torch", "skimage", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def test_example_learns_and_draws_what_it_learned(needs_packages, tmp_path):
    write_frames(tmp_path)
    small = ["--epochs", "1", "--crf-epochs", "1", "--width", "4", "--radius", "2", "--shrink", "2"]
    done = run(tmp_path, *small, "--seeds", "0", "1", "--out", "results")
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        results = json.loads((tmp_path / "results" / f"seed{seed}.json").read_text())["scores"]
        assert set(results) == {
            "CNN alone", "CRF-RNN, end to end", "GibbsCRF, separate", "GibbsCRF, end to end",
        }  # fmt: skip
        for measures in results.values():
            assert len(measures) == 3 and all(0 <= x <= 100 for x in measures.values())
        for picture in ("parts", "tables"):
            assert (tmp_path / "results" / f"{picture}-seed{seed}.png").stat().st_size > 1000
    assert "R-hat" in done.stdout
    table = (tmp_path / "results" / "results.md").read_text()
    assert table in done.stdout and table.count("±") == 12

    again = run(tmp_path, *small, "--seeds", "0", "1", "--out", "results")  # nothing is left to do
    assert again.stdout == table + "\n"
    other = run(tmp_path, *small, "--width", "5", "--out", "results")
    assert other.returncode == 1 and "another setting" in other.stderr


def test_example_says_what_is_missing(needs_packages, tmp_path):
    assert "classes.txt" in run(tmp_path).stderr
    write_frames(tmp_path)
    (tmp_path / "val" / "label" / "1.png").unlink()
    done = run(tmp_path)
    assert done.returncode == 1 and "has no labels" in done.stderr
    assert "Traceback" not in done.stderr
