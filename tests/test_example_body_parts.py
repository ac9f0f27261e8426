"""The body-parts example runs from end to end on frames of the layout that it documents."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "body_parts"
SCRIPT = FOLDER / "run.py"


def script(name, folder, *arguments):
    package = Path(importlib.util.find_spec("densecrf_rnn").origin).parents[1]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(FOLDER / name), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def make_frames(folder, *arguments):
    return script("make_frames.py", folder, "--train", "3", "--val", "3", "--size", "32", "40",
                  *arguments)  # fmt: skip


def run(folder, *arguments):
    return script("run.py", folder, "--data", "frames", *arguments)


@pytest.fixture
def needs_packages():
    if not SCRIPT.is_file():
        pytest.skip("the examples are not installed with the package")
    for module in ("torch", "skimage", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def test_example_learns_and_draws_what_it_learned(needs_packages, tmp_path):
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
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
    assert table in done.stdout and table.count("±") >= 12

    again = run(tmp_path, *small, "--seeds", "0", "1", "--out", "results")  # nothing is left to do
    assert again.stdout == table + "\n"
    other = run(tmp_path, *small, "--width", "5", "--out", "results")
    assert other.returncode == 1 and "other settings" in other.stderr


def test_example_says_what_is_missing(needs_packages, tmp_path):
    assert "classes.txt" in run(tmp_path).stderr
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
    (tmp_path / "frames" / "val" / "label" / "0001.png").unlink()
    done = run(tmp_path)
    assert done.returncode == 1 and "has no labels" in done.stderr
    assert "Traceback" not in done.stderr


def test_frames_are_drawn_with_their_labels(needs_packages, tmp_path):
    from skimage.io import imread

    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert make_frames(tmp_path, "--out", out, "--seed", seed).returncode == 0
    assert "already exists" in make_frames(tmp_path, "--out", "a").stderr

    def read_all(out, kind):
        return np.stack([imread(path) for path in sorted((tmp_path / out).glob(f"*/{kind}/*.png"))])

    depth, labels = read_all("a", "depth"), read_all("a", "label")
    np.testing.assert_array_equal(depth, read_all("b", "depth"))
    assert (depth != read_all("c", "depth")).any()
    assert depth.dtype == np.uint16 and labels.dtype == np.uint8
    assert 10 < len(np.unique(labels)) <= 20 and labels.max() < 20
    read = depth > 0
    assert depth[read & (labels > 0)].mean() < depth[read & (labels == 0)].mean()  # in front
