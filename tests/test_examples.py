"""The examples run as scripts, from any folder, and say something."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

FOLDER = Path(__file__).parents[1] / "examples"
NEEDS = {
    "train_head": ["torch"],
    "train_with_lightning": ["torch", "lightning"],
    "refine_saved_logits": ["skimage"],
    "high_dimensional_filter": ["skimage"],
    "joint_bilateral_upsampling": ["torch"],
    "label_point_cloud": [],
    "learned_denoising": ["torch"],
    "smooth_video": [],
    "train_with_scribbles": ["torch"],
    "make_sample_logits": ["torch", "skimage"],  # only its help: the network is not in the package
}
# A whole run of train_with_scribbles takes two minutes; its figures are in docs/integration.md.
ARGUMENTS = {"make_sample_logits": ["--help"], "train_with_scribbles": ["--steps", "3"]}


def test_every_example_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(NEEDS)


def run(name, folder):
    """Run an example in `folder` and return what it prints."""
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *ARGUMENTS.get(name, [])],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NEEDS)
def test_example_runs(name, tmp_path):
    assert run(name, tmp_path)
    for picture in tmp_path.glob("*.png"):
        assert picture.stat().st_size > 1000


@pytest.mark.parametrize("name, unit, factor", [
    ("smooth_video", r"flicker ([\d.]+) %", 10),  # alone, by frame, as a volume
    ("joint_bilateral_upsampling", r"error ([\d.]+) m", 5),
])  # fmt: skip
def test_figures_that_examples_print_fall(name, unit, factor, tmp_path):
    figures = [float(found) for found in re.findall(unit, run(name, tmp_path))]
    pairs = list(zip(figures, figures[1:]))
    assert pairs and all(first >= factor * second for first, second in pairs)


def test_refined_points_and_filtered_images_are_better(tmp_path):
    scores, refined = map(float, re.findall(r"([\d.]+) %", run("label_point_cloud", tmp_path)))
    assert refined > 95 > scores
    noisy, filtered = map(float, re.findall(r"([\d.]+) dB", run("learned_denoising", tmp_path)))
    assert filtered > noisy + 8
