"""A miniature of every experiment of examples/fcn8s: the commands, their tables and figures."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("scipy")

from densecrf_rnn.metrics import mean_iu  # noqa: E402
from fcn8s import evaluation, experiments, study, training  # noqa: E402
from fcn8s.__main__ import main  # noqa: E402
from fcn8s.config import RECIPES, Config, parse_setting  # noqa: E402
from fcn8s_files import make_camvid, make_voc  # noqa: E402

SETTINGS = ["dataset=camvid", "steps=2", "batch=1", "window=[16,24]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_camvid(tmp_path_factory.mktemp("camvid") / "data")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


def command(name, data, out, *more):
    init = [] if "--init" in more else ["--init", "none"]
    main([name, "--data", str(data), "--out", str(out), "--seeds", "0", "1", *init, "--set",
          *SETTINGS, *more])


def table(path):
    """Rows of the table in a Markdown file, as lists of cells."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def config_of(folder):
    return Config(**json.loads((folder / training.ABOUT).read_text())["config"])


def numbers(text):
    return [float(x) for x in re.findall(r"[-+]?\d+\.\d+", text)]


# --- one command each; they share the runs in one folder ------------------------------------------


@pytest.mark.parametrize("name, rows", [
    ("table1", 3), ("table3", 3), ("ablations", 10), ("iterations", len(experiments.ITERATIONS)),
    ("trimap", len(experiments.WIDTHS)),
])
def test_a_command_writes_a_table_and_a_figure(data, out, name, rows, capsys):
    command(name, data, out)
    header, rule, *body = table(out / f"{name}.md")
    assert len(body) == rows
    text = (out / f"{name}.md").read_text()
    given = f"--data {data} --out {out} --seeds 0 1 --init none --set "
    assert f"`python -m fcn8s {name} {given}" in text
    assert "seeds 0, 1" in text and "hours of training" in text and "3 pictures" in text
    assert (out / f"{name}.png").stat().st_size > 5000
    for row in body:
        for cell in row:
            assert "nan" not in cell
    assert "runs left" in capsys.readouterr().out


def test_figure_3_shows_pictures_truth_and_three_predictions_of_the_first_seed(data, tmp_path):
    command("figure3", data, tmp_path)
    assert (tmp_path / "figure3.png").stat().st_size > 5000
    text = (tmp_path / "figure3.md").read_text()
    assert "figure3.png" in text and "; seeds 0;" in text
    assert not list(tmp_path.glob("*-seed1"))


def test_a_table_that_was_made_is_made_again_from_what_is_stored(data, out, capsys):
    command("table1", data, out)
    before = table(out / "table1.md")
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.np?")}
    times |= {p: p.stat().st_mtime_ns for p in out.rglob("last.pt")}
    capsys.readouterr()
    command("table1", data, out)
    assert table(out / "table1.md") == before
    assert "0 runs left, 0 steps" in capsys.readouterr().out
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())


def test_a_trial_on_some_pictures_leaves_what_is_stored_of_all(data, out, capsys):
    command("table1", data, out)
    before = table(out / "table1.md")
    command("table1", data, out, "--limit", "1")
    assert "(the first), 1 pictures" in (out / "table1.md").read_text()
    assert table(out / "table1.md") != before
    command("table1", data, out)
    assert table(out / "table1.md") == before


def test_numbers_of_table_1_are_those_of_its_models(data, out):
    """Worked out once more, from the checkpoints and the pictures."""
    command("table1", data, out)
    scores = []
    for name in ("plain", "disconnected", "end-to-end"):
        scores.append(values := [])
        for seed in (0, 1):
            row = "plain" if name == "disconnected" else name
            checkpoint = out / f"{row}-seed{seed}" / training.LAST
            changes = {}
            if name == "disconnected":
                chosen = json.loads((checkpoint.parent / "crf.json").read_text())["chosen"]
                changes = {**chosen, "crf": True}
            model, _ = training.load_trained(checkpoint, 11, **changes)
            hit, union, present = np.zeros(11), np.zeros(11), np.zeros(11, bool)
            for i in range(3):
                image = np.asarray(Image.open(data / f"test/{i}.png"))
                truth = np.asarray(Image.open(data / f"testannot/{i}.png"))
                batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
                with torch.no_grad():
                    found = model(batch)[0].argmax(0).numpy()
                for label in range(11):
                    a, b = truth == label, found == label
                    hit[label] += (a & b).sum()
                    union[label] += (a | b).sum()
                    present[label] |= a.any()
            values.append(100 * np.mean(hit[present] / union[present]))
    rows = table(out / "table1.md")[2:]
    np.testing.assert_allclose([numbers(row[1])[0] for row in rows], np.mean(scores, 1), atol=0.006)
    for column, before in ((2, (0, 0)), (3, (0, 1))):
        for row, other in zip((1, 2), before, strict=True):
            first, second = np.subtract(scores[row], scores[other])
            wanted = (first + second) / 2, 12.7062 * abs(first - second) / 2
            np.testing.assert_allclose(numbers(rows[row][column]), wanted, atol=0.006)
    holds = sum(a < b < c for a, b, c in zip(*scores, strict=True))
    assert f"> plain with {holds} of 2 seeds" in (out / "table1.md").read_text()
    stored = json.loads((out / "table1.json").read_text())
    assert stored["seeds"] == [0, 1] and list(stored["mean IU"]) == list(experiments.NAMES)
    np.testing.assert_allclose(list(stored["mean IU"].values()), scores)


def test_without_the_search_the_crf_is_the_published_one(data, tmp_path):
    one = study.Study(RECIPES["small"], data, tmp_path, search=False)
    assert one.crf_settings(tmp_path / "none.pt") == {
        "theta_alpha": 160.0, "theta_beta": 3.0, "w_bilateral": 5.0, "w_spatial": 3.0}


def test_a_study_loads_no_dataset_before_it_is_needed(tmp_path):
    assert not study.Study(RECIPES["small"], tmp_path / "no data", tmp_path)._parts


def test_an_untrained_crf_has_all_settings_of_the_rows_heads(data, tmp_path):
    used = set()

    class Noted:  # a configuration that notes what is read
        def __getattr__(self, name):
            used.add(name)
            return getattr(Config(), name)

    training.make_crf(Noted(), 3)
    # The last two start with the same matrices, whatever their form.
    assert used == {*study.HEAD, *evaluation.START, "kernel_weights", "compatibility"}
    one = study.Study(RECIPES["small"], data, tmp_path, search=False, init="none",
                      row_settings={"spatial": "lattice", "initial_compatibility": "zero"})
    changes = one.untrained(tmp_path / "none.pt")
    assert (changes["spatial"], changes["initial_compatibility"]) == ("lattice", "zero")


def test_rows_start_from_the_same_network_with_the_same_settings_and_steps(data, out):
    command("ablations", data, out)
    trained = {row for _, *pair, _ in experiments.ABLATIONS for row, _ in pair} - {"initial"}
    configs = {name: config_of(out / f"{name}-seed1") for name in trained}
    reference = configs["end-to-end"]
    for name, config in configs.items():
        changed = {k for k, v in vars(config).items() if v != getattr(reference, k)}
        assert changed == set(study.ROWS[name]) - {"crf"}, name
    base = torch.load(out / "base-1-seed1" / training.LAST, weights_only=True)["model"]
    frozen = torch.load(out / "frozen-seed1" / training.LAST, weights_only=True)["model"]
    for name, value in base.items():
        assert torch.equal(frozen[name], value)


def test_the_file_of_ablations_has_the_scores_of_each_seed_behind_the_table(data, out):
    command("ablations", data, out)
    found = json.loads((out / "ablations.json").read_text())
    lines = {line[0]: line[1:] for line in table(out / "ablations.md")[2:]}
    for text, *rows, _ in experiments.ABLATIONS:
        after, before = (
            found["mean IU"][f"{row}, T = {count or 'its own'}"] for row, count in rows)
        assert len(after) == len(before) == len(found["seeds"])
        differences = np.subtract(after, before)
        shown = [f"{np.mean(before):.1f}", f"{np.mean(after):.1f}", f"{differences.mean():+.2f}"]
        assert [cell.split(" ±")[0] for cell in lines[text][:3]] == shown
    assert set(found["parting"]) == {"untied", "untied-fast"}


def test_ablations_of_some_rows_train_and_report_no_others(data, out):
    command("ablations", data, out)
    wanted = next(row for row in table(out / "ablations.md") if "robust loss" in row[0])
    command("ablations", data, out, "--rows", "robust")
    assert table(out / "ablations-robust.md")[2:] == [wanted]
    assert wanted in table(out / "ablations.md")  # the whole table is still there
    assert set(json.loads((out / "ablations-robust.json").read_text())["mean IU"]) == {
        "robust, T = 10", "end-to-end, T = 10"}


@pytest.mark.parametrize("name, points", [("iterations", "T"), ("trimap", "pixels")])
def test_curves_are_written_with_the_scores_of_each_seed(data, out, name, points):
    command(name, data, out)
    stored = json.loads((out / f"{name}.json").read_text())
    rows = table(out / f"{name}.md")[2:]
    assert [int(row[0]) for row in rows] == stored[points]
    for column, scores in enumerate(stored["mean IU"].values(), 1):
        shown = [numbers(row[column])[0] for row in rows]
        np.testing.assert_allclose(shown, np.mean(scores, 1), atol=0.006)


def test_the_first_versions_recipe_is_not_put_beside_numbers_of_another_dataset(tmp_path):
    make_voc(tmp_path / "data", year=2011)
    main(["table1", "--recipe", "paper-v1", "--data", str(tmp_path / "data"), "--out",
          str(tmp_path / "out"), "--seeds", "0", "--no-search", "--init", "none", "--set",
          "steps=1", "width=16"])
    for row in table(tmp_path / "out" / "table1.md")[2:]:
        assert row[4:] == ["", ""]


def test_iterations_0_are_the_network_alone(data, out):
    command("iterations", data, out)
    array = np.load(out / "end-to-end-seed0" / "confusions-curve.npz")["confusions"]
    model, _ = training.load_trained(out / "end-to-end-seed0" / training.LAST, 11)
    model.crf = None
    pictures = study.Study(RECIPES["small"], data, out).report
    alone = evaluation.confusions(model, pictures, (None,))
    np.testing.assert_array_equal(array[:, 0, 0], alone[:, 0, 0])
    scores = [mean_iu(array[:, i, 0].sum(0)) for i in range(len(experiments.ITERATIONS))]
    assert len(set(scores)) > 1


def test_bands_grow_to_the_whole_picture(data, out):
    command("trimap", data, out)
    array = np.load(out / "plain-seed0" / "confusions-bands-plain.npz")["confusions"]
    counts = array.sum((0, 1, 3, 4))
    assert (np.diff(counts[1:].astype(int)) >= 0).all() and counts[-1] <= counts[0]
    assert counts[1] > 0


# --- one folder, other questions ------------------------------------------------------------------


def test_a_folder_is_refused_to_a_study_that_starts_elsewhere(data, out, tmp_path, capsys):
    """Other weights, other pictures, other settings: none of them gets the stored numbers."""
    command("table1", data, out)
    before = (out / "table1.md").read_text()
    weights = tmp_path / "weights.pt"
    torch.save(training.build(Config(dataset="camvid", seed=9), 11).state_dict(), weights)
    torch.save({"model": torch.load(weights, weights_only=True)}, weights)
    with pytest.raises(SystemExit, match="another starting point; give another folder, or remove"):
        command("table1", data, out, "--init", str(weights))
    other = tmp_path / "data"
    shutil.copytree(data, other)
    image = np.asarray(Image.open(other / "train/0.png"))
    Image.fromarray(255 - image // 2).save(other / "train/0.png")
    with pytest.raises(SystemExit, match="another set of pictures; give another folder"):
        command("table1", other, out)
    with pytest.raises(SystemExit, match="another lr; give another folder, or remove .*base-1"):
        command("table1", data, out, "--set", "lr=0.5")
    assert (out / "table1.md").read_text() == before


def test_scores_follow_a_run_that_was_made_again(data, tmp_path):
    """Whether its whole folder was removed, as told, or its checkpoint alone."""
    settings = ["table1", "--data", str(data), "--out", str(tmp_path), "--seeds", "0", "--init",
                "none", "--set", *SETTINGS, "--no-search"]
    main(settings)
    first = table(tmp_path / "table1.md")
    shutil.rmtree(tmp_path / "base-1-seed0")
    with pytest.raises(SystemExit, match="plain-seed0/last.pt is of .* another starting point"):
        main([*settings, "--set-base", "lr=0.5"])
    for row in ("plain", "end-to-end"):
        (tmp_path / f"{row}-seed0" / training.LAST).unlink()
    main([*settings, "--set-base", "lr=0.5"])
    again = table(tmp_path / "table1.md")
    fresh = tmp_path / "fresh"
    main([*settings[:4], str(fresh), *settings[5:], "--set-base", "lr=0.5"])
    assert again == table(fresh / "table1.md") != first


def test_other_pictures_to_report_on_are_scored_anew(data, out, tmp_path):
    command("table1", data, out)
    first = table(out / "table1.md")
    other = tmp_path / "data"
    shutil.copytree(data, other)
    labels = np.asarray(Image.open(other / "testannot/0.png"))
    Image.fromarray(np.roll(labels, 5)).save(other / "testannot/0.png", compress_level=0)
    command("table1", other, out)
    assert table(out / "table1.md") != first
    command("table1", data, out)
    assert table(out / "table1.md") == first


def test_without_the_search_its_numbers_are_not_taken(data, out):
    command("table1", data, out)
    searched = table(out / "table1.md")[3]
    one = study.Study(RECIPES["small"], data, out, seeds=(0,), search=False,
                      settings=dict(map(parse_setting, SETTINGS)))
    before = (out / "plain-seed0" / "crf.json").read_text()
    arrays = experiments.scored(one, "disconnected", 0)
    changes = {**dict(theta_alpha=160.0, theta_beta=3.0, w_bilateral=5.0, w_spatial=3.0),
               "crf": True}
    model, _ = training.load_trained(out / "plain-seed0" / training.LAST, 11, **changes)
    np.testing.assert_array_equal(
        arrays, evaluation.confusions(model, one.report, (None,))[:, 0, 0])
    assert (out / "plain-seed0" / "crf.json").read_text() == before
    command("table1", data, out)
    assert table(out / "table1.md")[3] == searched


def test_the_search_and_the_table_have_the_same_classes(data, tmp_path, monkeypatch):
    asked = []

    def choose(fcn, config, pictures, device, classes):
        asked.append((classes, config.theta_gamma))
        return dict(evaluation.START), {}

    monkeypatch.setattr(evaluation, "choose_crf", choose)
    main(["table1", "--data", str(data), "--out", str(tmp_path), "--seeds", "0", "--init", "none",
          "--set", *SETTINGS, "--set-row", "theta_gamma=2", "--score-classes", "0", "2"])
    assert asked == [((0, 2), 2)] * 2  # of the network that rows start from, and of the first row
    assert "Mean IU is that of Sky, Pole." in (tmp_path / "table1.md").read_text()


@pytest.mark.parametrize("name, more, message", [
    ("table1", ["--seeds", "0", "0"], r"the seeds are \(0, 0\); give each once"),
    ("table1", ["--set", "seed=5"], "seed is not to be set for a table.*give --seeds"),
    ("table1", ["--set-row", "seed=5"], "seed is not to be set"),
    ("table1", ["--set-base", "crf=true"], "crf is not to be set for a table"),
    ("table1", ["--score-classes", "0", "99"], r"classes to score are \(0, 99\); .* has 0 to 10"),
    ("table1", ["--limit", "0"], "the limit is 0; score at least one"),
    ("ablations", ["--set-row", "compatibility=\"potts\""],
     "rows 'end-to-end' and 'potts' of this table are the same with compatibility"),
    ("iterations", ["--set", "iterations=10"], "are the same with iterations as given"),
    ("table1", ["--device", "cuda"], "--device is cuda, but torch finds no GPU"),
])
def test_what_would_spoil_a_table_is_refused_before_it_begins(data, tmp_path, name, more, message):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match=message):
        main([name, "--data", str(data), "--out", str(tmp_path / "out"), "--init", "none", "--set",
              *SETTINGS, *more])
    assert not list(tmp_path.rglob("*.pt"))


def test_settings_may_be_given_in_several_places(data, tmp_path):
    main(["train", "--data", str(data), "--out", str(tmp_path), "--set", *SETTINGS,
          "--set", "lr=0.25", "--set", "crf=true"])
    config = config_of(tmp_path)
    assert (config.lr, config.crf, config.steps) == (0.25, True, 2)


@pytest.mark.parametrize("make, message", [
    (lambda p: p.write_bytes(b"PK junk"), "cannot be read as weights"),
    (lambda p: p.write_bytes(b""), "cannot be read as weights"),
    (lambda p: torch.save(torch.nn.Linear(2, 2), p), "cannot be read as weights .*state_dict"),
    (lambda p: torch.save([1, 2], p), "holds no state_dict"),
    (lambda p: torch.save({}, p), "holds no state_dict"),
    (lambda p: torch.save({"a": 1, 2: "b"}, p), "is known here .it holds a, 2|no che"),
    (lambda p: p.mkdir(), "fcn8s: .*"),
], ids=["junk", "empty", "model", "list", "nothing", "other", "folder"])
def test_files_that_are_no_weights_are_refused_in_a_sentence(data, tmp_path, make, message):
    path = tmp_path / "weights.pth"
    make(path)
    for arguments in (["train", "--data", str(data), "--out", str(tmp_path / "out"), "--init",
                       str(path), "--set", *SETTINGS],
                      ["evaluate", str(path), "--data", str(data)]):
        with pytest.raises(SystemExit, match=message):
            main(arguments)
    assert not (tmp_path / "out").exists()


def test_a_state_dict_is_no_checkpoint(data, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(SystemExit, match="is no checkpoint of these experiments; give a last.pt"):
        main(["evaluate", str(tmp_path / "weights.pt"), "--data", str(data)])


def test_a_download_without_a_network_says_what_to_do(tmp_path, monkeypatch, capsys):
    pooch = pytest.importorskip("pooch")

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", fail)
    message = "could not be downloaded .no network.; download it with a brow"
    with pytest.raises(SystemExit, match=message):
        main(["download", "voc", "--data", str(tmp_path)])


# --- the published recipe, thin, in stages --------------------------------------------------------


def test_the_papers_recipe_runs_in_stages_from_fcn_32s(data, tmp_path, capsys):
    main(["table1", "--recipe", "paper", "--data", str(data), "--out", str(tmp_path), "--init",
          "none", "--set", "dataset=camvid", "steps=1", "width=64", "--limit", "1"])
    strides = [config_of(tmp_path / f"base-{n}-seed0").stride for n in (1, 2, 3)]
    assert strides == [32, 16, 8]
    assert "bootstrap, over pictures" in (tmp_path / "table1.md").read_text()
    assert [row[4] for row in table(tmp_path / "table1.md")[2:]] == ["61.3", "63.7", "69.6"]
    thirds = [torch.load(tmp_path / f"base-{n}-seed0" / training.LAST, weights_only=True)["model"]
              for n in (1, 2)]
    assert not torch.equal(*(state["fcn.score_fr.weight"] for state in thirds))
    coarse = thirds[0]["fcn.score_fr.weight"]
    # One step of 1e-12 from where FCN-32s ended, not from 0.
    torch.testing.assert_close(thirds[1]["fcn.score_fr.weight"], coarse, rtol=1e-2, atol=1e-9)


def test_train_and_evaluate_by_their_commands(data, tmp_path, capsys):
    arguments = ["train", "--data", str(data), "--out", str(tmp_path), "--set", *SETTINGS,
                 "crf=true", "lr=0.01"]
    main([*arguments, "--stop-at", "1"])
    main(arguments)
    main(["evaluate", str(tmp_path / training.LAST), "--data", str(data), "--iterations", "0", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("after")[1] for line in lines[-2:]] == [" 0 iterations", " 5 iterations"]
    with pytest.raises(SystemExit, match=r"the classes to score are \(99,\); .* has 0 to 10"):
        main(["evaluate", str(tmp_path / training.LAST), "--data", str(data), "--score-classes",
              "99"])
    with pytest.raises(SystemExit, match="fcn8s: .* has none of camvid/trainannot"):
        main([*arguments[:2], str(tmp_path), *arguments[3:]])


# --- parts ----------------------------------------------------------------------------------------


def test_the_search_finds_the_settings_with_the_best_score(data, tmp_path):
    pictures = study.Study(RECIPES["small"], data, tmp_path).parts("camvid")["select"]

    class Noisy(torch.nn.Module):
        """Nearly the truth, which colours tell, with noise that a CRF takes away."""

        def forward(self, image):
            label = (image[:, :1] / 60).round().clamp(0, 10)
            logits = -(label - torch.arange(11.0)[:, None, None]).abs()
            return logits + 2 * torch.randn(logits.shape, generator=torch.manual_seed(0))

    chosen, scores = evaluation.choose_crf(Noisy(), Config(), pictures)
    assert len(scores) == 20 + 12 - 1  # the best of the bandwidths is tried once
    assert max(scores.values()) == scores[json.dumps(chosen)] > min(scores.values())


def test_intervals_are_students_over_seeds():
    """Against a table: t of 2 degrees of freedom at 95 % is 4.303."""
    arrays = [np.array([[[a, 100 - a], [0, 0]]]) for a in (50, 60, 70)]
    mean, half = study.summary(arrays, lambda c: float(c[0, 0]))
    assert mean == 60
    assert half == pytest.approx(4.3027 * 10 / 3**0.5, rel=1e-4)


def test_published_numbers_are_the_papers():
    """Sections 6 and 7, tables 1 and 3."""
    assert experiments.TABLE_1 == {
        "plain": (61.3, 68.3), "disconnected": (63.7, 69.5), "end-to-end": (69.6, 72.9)}
    assert [paper for *_, paper in experiments.ABLATIONS] == [
        1.8, 0.9, 0.2, -0.7, 3.4, 1.0, -2.0, None, -1.0, None]
    assert round(70.9 - 72.9, 1) == -2.0
    assert study.ROWS.keys() >= {row for _, *pair, _ in experiments.ABLATIONS for row, _ in pair
                                 if row != "initial"}


def test_the_readme_names_every_command():
    text = (Path(experiments.__file__).parent / "README.md").read_text()
    for name in (*experiments.EXPERIMENTS, "published", "predict", "train", "evaluate",
                 "download"):
        assert f"fcn8s {name}" in text, name
    for recipe in RECIPES:
        assert f"`{recipe}`" in text, recipe
