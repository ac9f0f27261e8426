"""The study of body parts runs in miniature, and its page says what its results say."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import environment

FOLDER = Path(__file__).parents[1] / "examples" / "body_parts"
README = FOLDER / "README.md"
if not README.is_file():
    pytest.skip("the examples are not installed with the package", allow_module_level=True)
for package in ("torch", "skimage", "matplotlib", "scipy", "numba"):
    pytest.importorskip(package)

import torch  # noqa: E402
from skimage.io import imsave  # noqa: E402

from densecrf_rnn import GibbsCRF, gibbs  # noqa: E402
from densecrf_rnn.gibbs import sparse_neighbourhood  # noqa: E402

MODULES = ("frames", "networks", "learning", "depth_steps", "arms", "report", "study")
SMALL = ["--data", "frames", "--out", "results", "--work", "work", "--width", "4",
         "--first-epochs", "1", "--epochs", "2", "--search-epochs", "1"]  # fmt: skip


def script(name, folder, *arguments, **variables):
    env = {**environment(), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, str(FOLDER / name), *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=300
    )


def make_frames(folder, *arguments):
    return script("make_frames.py", folder, "--train", "4", "--choose", "2", "--report", "3",
                  "--size", "20", "24", *arguments)  # fmt: skip


@pytest.fixture(scope="module")
def example():
    """The example's modules by name."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


# --- the commands --------------------------------------------------------------------------------


def test_every_command_runs_and_goes_on_where_it_stopped(tmp_path, example):
    arms = example["arms"]
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
    early = script("study.py", tmp_path, "run", *SMALL, "--arms", "cnn", "--seeds", "0")
    assert early.returncode == 1 and "run study.py search" in early.stderr

    estimated = script("study.py", tmp_path, "search", *SMALL, "--estimate")
    assert estimated.returncode == 0, estimated.stderr
    assert "receptive field 9 x 9 pixels of 20 x 24" in estimated.stdout
    assert "hours in all" in estimated.stdout and not list(tmp_path.glob("results/*.json"))
    searched = script("study.py", tmp_path, "search", *SMALL)
    assert searched.returncode == 0, searched.stderr
    ours = json.loads((tmp_path / "results" / "search-gibbs.json").read_text())
    for other in ("crfrnn", "unguided", "ascent"):
        theirs = json.loads((tmp_path / "results" / f"search-{other}.json").read_text())
        assert len(theirs["trials"]) >= len(ours["trials"])
    best = max(ours["trials"], key=lambda trial: trial["scores"][arms.MEASURE])
    assert ours["best"] == best["values"]

    command = ["run", *SMALL, "--seeds", "0", "1", "--arms"]
    ran = script("study.py", tmp_path, *command, *arms.GROUPS)
    assert ran.returncode == 0, ran.stderr
    files = {path.stem for path in (tmp_path / "results").glob("*-seed*.json")}
    assert files == {f"{name}-seed{seed}" for name in arms.ARMS for seed in (0, 1)}
    assert ran.stdout.index("depth steps, seed 0") < ran.stdout.index("CNN alone, seed 1")
    one = json.loads((tmp_path / "results" / "gibbs-seed0.json").read_text())
    assert len(one["log"]) == 2 and {"gap", "max table", "acceptance"} < set(one["log"][0])
    assert set(one["other decisions"]) == {"its network alone", "one chain", "annealed", "icm"}
    after, cnn = (json.loads((tmp_path / "results" / f"{name}-seed0.json").read_text())
                  for name in ("separate-cnn", "cnn"))
    assert after["other decisions"]["its network alone"] == cnn["scores"]  # its network is frozen
    assert after["other decisions"]["its network alone"] != json.loads(
        (tmp_path / "results" / "separate-seed0.json").read_text()
    )["other decisions"]["its network alone"]

    (tmp_path / "results" / "cnn-seed1.json").unlink()
    again = script("study.py", tmp_path, *command, *arms.GROUPS)
    assert "CNN alone: 1 runs" in again.stdout and "CNN alone: 1 runs of" in again.stdout
    assert "GibbsCRF, end to end: 2 runs are in results" in again.stdout
    assert "GibbsCRF, end to end: 0 runs" not in again.stdout
    once_more = script("study.py", tmp_path, "search", *SMALL, "--estimate")
    assert "search of gibbs: done, in results" in once_more.stdout
    assert "0.00 hours in all" in once_more.stdout
    path = tmp_path / "results" / "search-cnn.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"best": {"network_lr": 0.7}}))
    searched = script("study.py", tmp_path, *command, "cnn")
    assert searched.returncode == 1 and "was run with {'network_lr': 0" in searched.stderr
    path.write_text(kept)
    other = script("study.py", tmp_path, *command, "cnn", "--epochs", "3")
    assert other.returncode == 1 and "other settings" in other.stderr

    printed = script("study.py", tmp_path, "table", "--out", "results", PYTHONIOENCODING="cp1252")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.count("±") > 100 and "Not run" not in printed.stdout
    drawn = script("study.py", tmp_path, "figure", *SMALL, "--images", "images")
    assert drawn.returncode == 0, drawn.stderr
    for picture in ("body_parts", "body_tables"):
        assert (tmp_path / "images" / f"{picture}.png").stat().st_size > 1000


def test_results_and_networks_of_other_frames_are_rejected(tmp_path, example):
    arms = example["arms"]
    settings = arms.Settings(width=4, first_epochs=1)
    for seed in "01":
        made = make_frames(tmp_path, "--out", f"frames{seed}", "--seed", seed)
        assert made.returncode == 0, made.stderr
    first, other = (
        arms.Study(tmp_path / f"frames{seed}", tmp_path / "out", tmp_path / "work", settings)
        for seed in "01"
    )
    first.first(0)
    first.write("cnn-seed0", {"values": {}})
    with pytest.raises(SystemExit, match="cnn-seed0.json has other .*, or is of other frames"):
        other.read("cnn-seed0")
    with pytest.raises(SystemExit, match="first-seed0.pt has other .*, or is of other frames"):
        other.first(0)
    again = arms.Study(tmp_path / "frames0", tmp_path / "out", tmp_path / "work", settings)
    assert again.read("cnn-seed0")["values"] == {}


def test_a_widened_search_goes_on(tmp_path, example, monkeypatch):
    arms = example["arms"]
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
    settings = arms.Settings(width=4, first_epochs=1, search_epochs=1)
    study = arms.Study(tmp_path / "frames", tmp_path / "out", tmp_path / "work", settings)
    for rates in ((1e-3,), (1e-3, 3e-3)):
        monkeypatch.setitem(arms.SEARCHES, "cnn", [[{"network_lr": rate} for rate in rates]])
        arms.run_search(study, "cnn")
        assert len(study.read("search-cnn")["trials"]) == len(rates)
    before = (tmp_path / "out" / "search-cnn.json").stat().st_mtime_ns
    arms.run_search(study, "cnn")
    assert (tmp_path / "out" / "search-cnn.json").stat().st_mtime_ns == before


def test_own_results_are_not_those_of_the_readme(tmp_path):
    """A default --out with our results would print them in place of the user's."""
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
    begun = script("study.py", tmp_path, "run", "--data", "frames", "--arms", "cnn")
    assert begun.returncode == 1 and "body_parts_results holds no finished search" in begun.stderr
    printed = script("study.py", tmp_path, "table")
    assert printed.returncode == 0 and "78.0 ± 0.6" in printed.stdout


@pytest.mark.parametrize("lines, said", [
    ("1 head\n0 background\n", "has the line `1 head` for label 0"),
    ("0 background\n2 head\n", "has the line `2 head` for label 1"),
    ("0 background\nhead\n", "has the line `head` for label 1"),
    ("0 background\n1\n", "has the line `1` for label 1"),
])  # fmt: skip
def test_classes_are_numbered_in_order(tmp_path, example, lines, said):
    (tmp_path / "classes.txt").write_text(lines)
    with pytest.raises(SystemExit, match=re.escape(said)):
        example["frames"].class_names(tmp_path)


def test_frames_of_other_kinds_are_rejected(tmp_path, example):
    frames = example["frames"]
    depth, labels = np.full((4, 5), 1200, np.uint16), np.zeros((4, 5), np.uint8)
    for name, array in (("depth", depth), ("label", labels)):
        (tmp_path / name).mkdir()
        imsave(tmp_path / name / "0.png", array, check_contrast=False)
    assert float(frames.Frames(tmp_path).depth[0, 0, 0, 0]) * frames.FAR == pytest.approx(1.2)
    whole = (tmp_path / "depth" / "0.png").read_bytes()
    (tmp_path / "depth" / "0.png").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(SystemExit, match="0.png cannot be read"):
        frames.Frames(tmp_path)
    imsave(tmp_path / "depth" / "0.png", labels, check_contrast=False)
    with pytest.raises(SystemExit, match="holds uint8; depth must be in millimetres"):
        frames.Frames(tmp_path)


@pytest.mark.parametrize("name", ["cnn", "crfrnn", "gibbs", "ascent"])
def test_a_search_goes_on_after_a_trial_that_diverged(tmp_path, example, monkeypatch, name):
    arms, learning = example["arms"], example["learning"]
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
    settings = arms.Settings(width=4, first_epochs=1, search_epochs=2)
    study = arms.Study(tmp_path / "frames", tmp_path / "out", tmp_path / "work", settings)
    crf = "lr" if name == "crfrnn" else "table_lr"
    rates = [(0.01, 1e30), (float("inf"), 1e-3), (0.01, 1e-3)]
    trials = [{"network_lr": b} if name == "cnn" else {crf: a, "network_lr": b} for a, b in rates]
    monkeypatch.setitem(arms.SEARCHES, name, [trials if name != "cnn" else trials[::2]])
    if name == "crfrnn":
        monkeypatch.setattr(arms.Study, "best", lambda self, search: {"theta_alpha": 8.0})
    arms.run_search(study, name)
    found = json.loads((tmp_path / "out" / f"search-{name}.json").read_text())
    *thrown, last = found["trials"]
    assert not any(trial["scores"] for trial in thrown) and last["values"] == found["best"]
    line = " ".join(example["report"].search_lines(tmp_path / "out"))
    assert f"({len(thrown)} diverged)" in line
    with pytest.raises(learning.Diverged, match="lower the rates"):
        arms.train(study, arms.ARMS[name], arms.SEARCH_SEED, thrown[0]["values"], 2)
    with pytest.raises(SystemExit, match="all trials of this search diverged"):
        arms.best_of(thrown)


def test_example_says_what_is_missing(tmp_path):
    missing = script("study.py", tmp_path, "search", *SMALL)
    assert "classes.txt does not exist" in missing.stderr
    assert make_frames(tmp_path, "--out", "frames").returncode == 0
    (tmp_path / "frames" / "choose" / "label" / "0001.png").unlink()
    done = script("study.py", tmp_path, "search", *SMALL)
    assert done.returncode == 1 and "has no labels" in done.stderr
    assert "Traceback" not in done.stderr


def test_frames_are_drawn_with_their_labels(tmp_path):
    from skimage.io import imread

    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert make_frames(tmp_path, "--out", out, "--seed", seed).returncode == 0
    assert "already exists" in make_frames(tmp_path, "--out", "a").stderr

    def read_all(out, kind):
        return np.stack([imread(path) for path in sorted((tmp_path / out).glob(f"*/{kind}/*.png"))])

    depth, labels = read_all("a", "depth"), read_all("a", "label")
    assert len(depth) == 9
    np.testing.assert_array_equal(depth, read_all("b", "depth"))
    assert (depth != read_all("c", "depth")).any()
    assert depth.dtype == np.uint16 and labels.dtype == np.uint8
    assert 10 < len(np.unique(labels)) <= 20 and labels.max() < 20
    read = depth > 0
    assert depth[read & (labels > 0)].mean() < depth[read & (labels == 0)].mean()  # in front


def pages(report):
    """Sentences and tables of each page of results, by its folder."""
    found = {}
    for folder in sorted(path for path in (FOLDER / "results").iterdir() if path.is_dir()):
        page = README if folder.name == "local" else folder / "README.md"
        before, rest = page.read_text(encoding="utf-8").split(report.START)
        found[folder] = before, rest.split(report.END)[0]
    return found


def test_pages_have_the_tables_of_the_committed_results(example):
    found = pages(example["report"])
    assert {folder.name for folder in found} == {"local", "large"}
    for folder, (_, tables) in found.items():
        assert tables == example["report"].text_of(folder), folder


def test_figures_in_the_sentences_of_the_pages_are_those_of_the_results(example):
    found = pages(example["report"])
    before, _ = found[FOLDER / "results" / "local"]
    sentences = before.split("## What it means")[1].split("\n## ")[0]
    for page in ("gibbs.md", "reproduction.md"):
        text = (FOLDER.parents[1] / "docs" / page).read_text(encoding="utf-8")
        parts = re.split(r"\n\n|\n- |\n(?=\|)", text)  # paragraphs, and rows of lists and tables
        sentences += " ".join(part for part in parts if re.search("body.parts", part))
    known = set(re.findall(r"\d+\.\d+", " ".join(tables for _, tables in found.values())))
    runs = [json.loads(path.read_text()) for path in FOLDER.glob("results/local/gibbs-seed*.json")]
    gaps = np.mean([[epoch["gap"] for epoch in run["log"]] for run in runs], 0)
    known.add(f"{100 * gaps.min():.2f}")  # the gap of the training chains where it is smallest
    assert set(re.findall(r"(?<![\d.])\d+\.\d+", sentences)) - known == set()


# --- its parts -----------------------------------------------------------------------------------


def test_scores_count_kind_and_side_apart(example):
    names = ["background", "head", "hand_L", "hand_R", "foot_L", "foot_R"]
    labels = torch.tensor([[[0, 1, 2, 2], [2, 3, 4, 5]]])
    found = torch.tensor([[[1, 1, 2, 3], [0, 3, 5, 4]]])
    got = example["frames"].scores(found, labels, names)
    assert got["pixels of parts"] == pytest.approx(100 * 3 / 7)  # background does not count
    assert got["mean of parts"] == pytest.approx(100 * (1 + 1 / 3 + 1 + 0 + 0) / 5)
    assert got["kind"] == pytest.approx(100 * 6 / 7)
    assert got["side"] == pytest.approx(100 * 2 / 5)  # of 2, 3, 3, 5 and 4


def test_receptive_field_is_that_of_the_convolutions(example):
    networks = example["networks"]
    assert networks.receptive_field(networks.Local(3, 4)) == 9
    assert networks.receptive_field(networks.UNet(3, 4)) > 80
    one = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 5, padding=2, stride=1))
    assert networks.receptive_field(one) == 5


@pytest.mark.parametrize("form", ["symmetric", "potts", "free"])
@pytest.mark.parametrize("optimiser", ["Adam", "SGD"])
def test_tables_keep_their_form_while_they_learn(example, form, optimiser):
    torch.manual_seed(0)
    crf = GibbsCRF(4, [(0, 1), (1, 0)])
    example["learning"].restrict(crf, form)
    step = getattr(torch.optim, optimiser)([crf.tables], lr=0.1)
    for _ in range(5):
        step.zero_grad()
        (crf.tables * torch.randn(2, 4, 4)).sum().backward()
        step.step()
    tables = crf.tables.detach()
    assert tables.abs().max() > 0.01
    equal = (tables * torch.eye(4)).mean((1, 2), keepdim=True) * 4 * torch.eye(4)
    is_symmetric, is_potts = torch.equal(tables, tables.mT), torch.allclose(tables, equal)
    assert (is_symmetric, is_potts) == (form != "free", form == "potts")


def test_an_unknown_form_of_tables_is_refused(example):
    with pytest.raises(ValueError, match="form is 'potts '; it must be free, symmetric or potts"):
        example["learning"].restrict(GibbsCRF(2), "potts ")


def test_rates_fall_and_averaged_parameters_are_the_mean_over_the_last_third(example):
    learning = example["learning"]
    one = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(one.weight)
    data = example["frames"].Frames.__new__(example["frames"].Frames)
    data.depth, data.labels = torch.zeros(8, 2, 1, 1), torch.zeros(8, 1, 1)

    def loss_of(index, depth, target):  # each step of SGD adds its rate
        return -one.weight.sum()

    groups = [{"params": one.parameters(), "lr": 1.0}]
    log = learning.fit(groups, data, 3, loss_of, name="", optimiser="SGD", averaged=[one])
    assert len(log) == 3
    after = np.cumsum((1 + np.cos(np.pi * np.arange(6) / 6)) / 2)  # each of 6 steps
    assert one.weight.item() == pytest.approx(after[-2:].mean())


def test_depth_steps_are_where_depth_jumps(example):
    depth_steps, far = example["depth_steps"], example["frames"].FAR
    metres = np.array([[2.0, 2.05, 2.3, 0.0, 0.0]])
    depth = np.stack([metres / far, metres > 0])
    found = depth_steps.steps_of(depth, np.array([[0, 1], [0, 3]]))
    assert found.tolist() == [[[0, 1, 1, 1, 0]], [[1, 1, 0, 0, 0]]]


def test_equal_tables_for_both_kinds_of_edges_are_a_gibbs_crf(example):
    torch.manual_seed(0)
    offsets = sparse_neighbourhood(2)
    ours = GibbsCRF(3, offsets, sweeps=3000, burn_in=50)
    theirs = example["depth_steps"].DepthStepCRF(3, offsets, sweeps=3000, burn_in=50)
    logits, depth = torch.randn(1, 3, 5, 6), torch.rand(1, 2, 5, 6)
    target = torch.randint(0, 3, (1, 5, 6))
    with torch.no_grad():
        ours.tables.normal_(std=0.4)
        theirs.tables[:] = ours.tables[:, None]
    steps = example["depth_steps"].steps_of(depth[0].numpy(), offsets)
    assert 0 < steps.mean() < 1
    labels, _ = theirs.draw(logits[0], steps, None, 50)
    sums = np.zeros((5, 6, 3))
    theirs.draw(logits[0], steps, labels, 3000, sums)
    q = torch.from_numpy(sums / 3000).movedim(-1, 0)
    torch.testing.assert_close(q.float(), ours.marginals(logits)[0], atol=0.05, rtol=0)
    pairs = theirs.pairs(target[0].numpy(), steps).sum(1)
    truth = gibbs.statistics(target[0].numpy().astype(np.uint8), 3, offsets)
    np.testing.assert_array_equal(pairs, truth)


def test_tables_for_depth_steps_learn_edges_of_depth(example):
    torch.manual_seed(0)
    crf = example["depth_steps"].DepthStepCRF(2, np.array([[0, 1]]), sweeps=100, burn_in=20)
    target = torch.zeros(1, 4, 8, dtype=torch.int64)
    target[..., 3:] = 1
    depth = torch.ones(1, 2, 4, 8) * 0.4
    depth[:, 0, :, 3:] = 0.6
    logits = torch.zeros(1, 2, 4, 8)
    logits[:, 0, :, 0] = 3  # only the first column knows its label
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        crf.loss(logits, depth, target, torch.tensor([0]), 5).backward()
        optimizer.step()
    assert (crf.decode(logits, depth) == target).float().mean() > 0.95
    assert crf.tables[0, 1, 0, 1] > crf.tables[0, 1, 0, 0]  # labels change at steps
    assert crf.tables[0, 0, 0, 0] > crf.tables[0, 0, 0, 1]  # and nowhere else


@pytest.mark.parametrize(("differences", "found"), [
    ([1.0, 1.1, 0.9], "beats"), ([-1.0, -1.1, -0.9], "loses"), ([1.0, -1.0], "open"),
    ([1.0], "one seed"),
])  # fmt: skip
def test_an_arm_beats_another_if_the_paired_interval_is_above_zero(example, differences, found):
    assert example["report"].verdict(differences) == found
