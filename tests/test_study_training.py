"""The study of docs/training.md runs in miniature, and the page says what it measured."""

import importlib
import inspect
import json
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pages
import pytest

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "training.md", ROOT / "benchmarks/results/study_training.json"
if not PAGE.is_file():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
torch = pytest.importorskip("torch")

from densecrf_rnn import CRFRNN, CRFParams, metrics, nn, tuning  # noqa: E402

TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study():
    """The script as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("study_training")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def frames(study, monkeypatch):
    """Tiny frames of 11 labels in place of CamVid's."""
    rng = np.random.default_rng(0)
    made = [
        SimpleNamespace(
            image=rng.integers(0, 256, (9, 13, 3), dtype=np.uint8),
            logits=rng.normal(size=(11, 9, 13)).astype(np.float32),
            truth=rng.integers(0, 12, (9, 13), dtype=np.uint8),  # 11 is ignored
        )
        for _ in range(5)
    ]
    monkeypatch.setattr(study, "camvid", lambda data: made)
    return made


def rows(lines):
    """The rows of Markdown tables, without heads and rules."""
    found = (line for line in "\n".join(lines).splitlines() if line.startswith("| "))
    return [line for line in found if re.search(r"\| \d", line) and "theta_alpha" not in line]


def test_every_row_is_measured_once_and_a_second_run_measures_none(
    study, frames, tmp_path, capsys, monkeypatch
):
    out, sizes = tmp_path / "found.json", study.Sizes(1, 1, 8, 2, 2, 1, 1)
    threads = torch.get_num_threads()
    arguments = ["--data", str(tmp_path), "--out", str(out)]
    study.main(arguments, sizes)
    done, printed = json.loads(out.read_text()), capsys.readouterr().out
    trials = {study.key(t) for trials in study.SECTIONS.values() for t in trials}
    assert trials < set(done)
    assert {f"CamVid: {name}" for name in study.FRAMES} < set(done)
    alone = np.array(done["CamVid: network alone"][0]["confusion"])
    assert alone.sum() == sum((f.truth[::2, ::2] != 11).sum() for f in (frames[2], frames[3]))

    def measured(*_):
        raise AssertionError("a row was measured again")

    for kind in (study.Shapes, study.Frames):
        monkeypatch.setattr(kind, "run", measured)
    study.main(arguments, sizes)
    again = capsys.readouterr().out
    assert rows(again.splitlines()) == rows(printed.splitlines())
    assert len(rows(again.splitlines())) == 3 + len(study.FRAMES) + sum(
        map(len, study.SECTIONS.values())
    )
    with pytest.raises(SystemExit, match="take another"):
        study.main(arguments, study.Sizes(2, 1, 8, 2, 2, 1, 1))
    torch.set_num_threads(threads)


def test_names_of_rows_state_the_rates_that_are_used(study):
    trials = [t for t in study.SECTIONS["Rates"] if "head" in t.name]
    assert len(trials) > 5
    for trial in trials:
        backbone = torch.nn.Conv2d(3, study.shapes.LABELS, 1)
        model = CRFRNN.wrap(backbone, study.shapes.LABELS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = study.groups(model, trial)
        stated = [float(x) for x in re.findall(r"(?:network|head) ([\d.e-]+)", trial.name)]
        assert [found[0]["lr"], found[1]["lr"]] == pytest.approx(stated)


@pytest.mark.parametrize("sees", ["image", "normalised", "scale=1", "softmax"])
def test_the_head_sees_what_a_row_says(study, sees, monkeypatch):
    seen = []
    forward = CRFRNN.forward
    monkeypatch.setattr(CRFRNN, "forward", lambda self, logits, image, **options: (
        seen.append((logits.detach(), image)), forward(self, logits, image, **options))[1])
    shapes = study.Shapes(study.Sizes(1, 1, 8, 2, 2, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shapes.run(study.Trial("", "test only", sees=sees), 0)
    (logits, image), raw = seen[-1], shapes.held_out[0]
    expected = {"normalised": 255 * study.shapes.normalised(raw), "scale=1": raw / 255}
    torch.testing.assert_close(image, expected.get(sees, raw), rtol=1e-4, atol=1e-3)
    assert bool((logits.sum(1) - 1).abs().max() < 1e-5) == (sees == "softmax")


def test_shapes_are_reproducible_and_small_discs_are_rare(study):
    images, truths = study.shapes.make(5, 3)
    again = study.shapes.make(5, 3)
    assert torch.equal(images, again[0]) and torch.equal(truths, again[1])
    shares = torch.bincount(truths.flatten(), minlength=study.shapes.LABELS) / truths.numel()
    assert 0 < shares[3] < 0.03 < shares[1:3].min() and shares.sum() == pytest.approx(1)
    kept = images.clone()
    erased = study.shapes.erase(images, torch.Generator().manual_seed(0))
    assert torch.equal(images, kept)
    assert 0 < (erased != images).any(1).double().mean() <= 2 * 14**2 / study.shapes.SIZE**2


def test_weights_of_labels_have_a_mean_of_one_over_the_pixels(study):
    _, truths = study.shapes.make(5, 3)
    weights = study.weights(truths)
    assert weights[truths].mean() == pytest.approx(1)
    assert weights[3] == weights.max()


# --- the page ------------------------------------------------------------------------------------


def test_tables_and_figures_of_the_page_are_those_that_were_measured(study):
    lines = list(study.tables(json.loads(RESULTS.read_text())))
    measured, shown = rows(lines), rows(TEXT.splitlines())
    scored = [row for row in shown if re.search(r"\d\.\d", row)]
    assert len(scored) > 30 and [row for row in scored if row not in measured] == []
    lines = pages.prose(PAGE).splitlines()
    prose = "\n".join(line for line in lines if not line.startswith("|"))
    numbers = {cell.strip() for row in measured for cell in re.split(r"[|,]", row)}
    assert set(re.findall(r"(?<![\d.`])\d\d\.\d\b", prose)) <= numbers


def test_options_and_names_on_the_page_exist():
    takers = [CRFRNN, CRFRNN.wrap, CRFRNN.forward, CRFRNN.parameter_groups, CRFParams, nn.Segmenter,
              nn.Segmenter.forward, nn.Segmenter.load_state_dict, tuning.tune, tuning.Task,
              torch.nn.functional.cross_entropy]  # fmt: skip
    options = {name for taker in takers for name in inspect.signature(taker).parameters}
    options |= {"kernel_weights", "compatibility", "bandwidths", "settings"}  # **multipliers, state
    spans = " ".join(pages.spans(PAGE))
    named = set(re.findall(r"\b(\w+)=", spans))
    assert named and named - options == set()
    dotted = set(re.findall(r"\b(nn|metrics|tuning)\.(\w+)", spans))
    modules = {"nn": nn, "metrics": metrics, "tuning": tuning}
    assert dotted and [f for f in dotted if not hasattr(modules[f[0]], f[1])] == []
    command = set(re.findall(r"--[\w-]+", spans)) - {"--data", "--out"}
    assert command == set()
