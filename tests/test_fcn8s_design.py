"""Sections 6 and 7.1 of the paper in examples/fcn8s: gradients, convergence, loss and IU."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("scipy")

from densecrf_rnn.metrics import confusion_matrix, mean_iu  # noqa: E402
from fcn8s import datasets, design, experiments, study, tables, training  # noqa: E402
from fcn8s.__main__ import main  # noqa: E402
from fcn8s.config import RECIPES, Config  # noqa: E402
from fcn8s.stream import Stream, collate  # noqa: E402
from fcn8s_files import make_camvid  # noqa: E402

SETTINGS = {"dataset": "camvid", "steps": 4, "batch": 1, "window": [16, 24], "flip": False}
TINY = Config(dataset="camvid", crf=True, reduction="mean", theta_alpha=8.0, batch=2, steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_camvid(tmp_path_factory.mktemp("camvid") / "data")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(design, "GRADIENT_BATCHES", 2)
    monkeypatch.setattr(design, "CHECKPOINTS", 2)


def command(name, data, out, *more, seeds=("0", "1")):
    main([name, "--data", str(data), "--out", str(out), "--seeds", *seeds, "--init", "none",
          *more, "--set", *(f"{k}={json.dumps(v)}" for k, v in SETTINGS.items())])


def table(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_robust_loss_is_that_of_the_marginals(reduction):
    """-log((q + 0.05) / 1.05), and nothing where nothing is scored."""
    logits = torch.randn(2, 3, 4, 5, generator=torch.manual_seed(0))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.manual_seed(1))
    labels[0, 0] = 255
    q = logits.softmax(1).gather(1, labels.where(labels != 255, 0)[:, None])[:, 0]
    each = -((q[labels != 255] + 0.05) / 1.05).log()
    wanted = each.mean() if reduction == "mean" else each.sum() / 2
    config = TINY.with_(loss="robust", reduction=reduction)
    torch.testing.assert_close(training.loss_of(logits, labels, config), wanted)


def test_a_compatibility_starts_from_potts_zero_or_random():
    potts, zero, random = (
        training.make_crf(TINY.with_(initial_compatibility=name, seed=3), 200)
        .compatibility.detach() for name in ("potts", "zero", "random"))
    assert torch.equal(potts, 1 - torch.eye(200)) and not zero.any()
    assert random.std() == pytest.approx(200**-0.5, rel=0.02)
    assert random.mean().abs() < 0.002
    again, other = (training.make_crf(TINY.with_(initial_compatibility="random", seed=s), 200)
                    for s in (3, 4))
    assert torch.equal(again.compatibility, random)
    assert not torch.equal(other.compatibility, random)
    untied = training.make_crf(TINY.with_(initial_compatibility="random", tied=False), 5)
    assert untied.compatibility.shape == (5, 5, 5)
    assert torch.equal(untied.compatibility[0], untied.compatibility[4])


@pytest.mark.parametrize("changes, message", [
    ({"initial_compatibility": "zero", "compatibility": "potts"}, "'zero', but compatibility is"),
    ({"initial_compatibility": "ones"}, "initial_compatibility is 'ones'; it must be one of potts"),
    ({"spatial": "plane"}, "spatial is 'plane'; it must be one of grid, lattice"),
    ({"reduction": "max"}, "reduction is 'max'; it must be one of sum, mean"),
])
def test_settings_that_contradict_each_other_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        Config().with_(**changes)


def test_the_heads_rate_multiplies_the_rates_of_its_parameters():
    rates = []
    for factor in (1.0, 10.0):
        config = TINY.with_(lr=1e-4, lr_kernel_weights=3.0, lr_compatibility=2.0, lr_head=factor)
        groups = training.make_optimizer(training.build(config, 4), config).param_groups
        rates.append([group["lr"] for group in groups])
    np.testing.assert_allclose(rates[0], [1e-4, 2e-4, 3e-4, 2e-4])
    np.testing.assert_allclose(rates[1], [1e-4, 2e-4, 3e-3, 2e-3])


def test_runs_made_before_a_setting_existed_continue(data, tmp_path):
    pictures = datasets.load("camvid", data)["train"]
    config = TINY.with_(crf=False)
    checkpoint = training.train(config, pictures, tmp_path, stop_at=1)
    state = torch.load(checkpoint, weights_only=True)
    del state["config"]["lr_head"]
    torch.save(state, checkpoint)
    training.train(config, pictures, tmp_path)
    assert training.read_checkpoint(checkpoint)["step"] == 2


# --- gradients ------------------------------------------------------------------------------------


def test_gradient_norms_are_those_of_the_loss(data):
    """Worked out once more, for T = 3 and the network alone, by backward()."""
    config = TINY
    pictures = datasets.load("camvid", data)["train"]
    model = training.build(config, 11).eval()
    found = design.gradient_norms(model, config, pictures)
    assert np.shape(found["logits"]) == np.shape(found["weights"]) == (2, 11)
    assert model.crf is not None and model.crf.eval_iterations == config.eval_iterations
    stream = Stream(pictures, config)
    batch = collate([stream[2], stream[3]])  # the second of two batches
    for count in (0, 3):
        model.zero_grad()
        logits = model.fcn(batch["image"])
        logits.retain_grad()
        if count:
            model.crf.eval_iterations = count
            result = model.crf(logits, batch["image"])
        else:
            result = logits
        torch.nn.functional.cross_entropy(result, batch["labels"], ignore_index=255).backward()
        weights = [p.grad.flatten() for p in model.fcn.parameters() if p.grad is not None]
        assert found["logits"][1][count] == pytest.approx(float(logits.grad.norm()), rel=1e-3)
        assert found["weights"][1][count] == pytest.approx(float(torch.cat(weights).norm()),
                                                           rel=1e-3)
    assert len({f"{x:.4g}" for x in found["logits"][1]}) > 3


def test_gradients_are_relative_to_five_iterations(data, out, capsys):
    command("gradients", data, out)
    rows = table(out / "gradients.md")
    assert [row[0] for row in rows] == [str(t) for t in range(11)]
    assert rows[5][1:] == ["1.00 ± 0.00"] * 4
    stored = json.loads((out / "gradients.json").read_text())
    assert stored["T"] == list(range(11)) and stored["command"].startswith("python -m fcn8s gra")
    for column, state, of in ((1, "start", "logits"), (4, "trained", "weights")):
        ratios = [np.mean([batch[10] / batch[5] for batch in stored["seeds"][s][state][of]])
                  for s in "01"]
        assert rows[10][column].startswith(f"{np.mean(ratios):.2f} ± ")
    assert (out / "gradients.png").stat().st_size > 5000
    assert "95 %, Student's, over 2 seeds." in (out / "gradients.md").read_text()
    made = (out / "gradients-seed1.json").stat().st_mtime_ns
    command("gradients", data, out)
    assert (out / "gradients-seed1.json").stat().st_mtime_ns == made


# --- convergence ----------------------------------------------------------------------------------


def test_convergence_compares_losses_on_the_same_images(data, out):
    command("convergence", data, out)
    stored = json.loads((out / "convergence.json").read_text())
    rows = table(out / "convergence.md")
    assert [row[0] for row in rows] == list(design.STARTS.values())
    losses = {name: np.array(stored["losses"][name]) for name in design.STARTS}
    assert all(array.shape == (2, 4) for array in losses.values())  # seeds, steps
    assert rows[0][1].startswith(f"{losses['end-to-end'][:, 0].mean():.4f} ± ")
    difference = losses["zero-compatibility"] - losses["end-to-end"]
    assert rows[1][1].startswith(f"{difference[:, 0].mean():+.4f} ± ")
    for name, about in (("zero-compatibility", {"initial_compatibility": "zero"}),
                        ("random-compatibility", {"initial_compatibility": "random"})):
        configs = [json.loads((out / f"{each}-seed0" / training.ABOUT).read_text())["config"]
                   for each in (name, "end-to-end")]
        differing = {k for k in configs[0] if configs[0][k] != configs[1][k]}
        assert differing <= about.keys() and {**configs[0], **about} == configs[0]
    assert (out / "convergence.png").stat().st_size > 5000


def test_running_means_are_of_the_last_values():
    assert design.running_mean([4.0, 2.0, 0.0, 1.0], 2).tolist() == [4.0, 3.0, 1.0, 0.5]


# --- loss and IU ----------------------------------------------------------------------------------


def test_loss_and_iu_are_those_of_the_checkpoints(data, out, tmp_path):
    command("loss-iu", data, tmp_path)
    stored = json.loads((tmp_path / "loss-iu.json").read_text())
    assert [p["step"] for p in stored["network"][0]] == [2, 4]
    assert [p["step"] for p in stored["end-to-end"][1]] == [2, 4]
    model, _ = training.load_trained(tmp_path / "end-to-end-seed1" / training.LAST, 11)
    pictures = datasets.load("camvid", data)["report"]
    losses, confusion = [], np.zeros((11, 11), np.int64)
    for i in range(len(pictures)):
        truth = pictures.labels(i)
        with torch.no_grad():
            logits = model(torch.tensor(pictures.image(i)).permute(2, 0, 1)[None].float())
        log_q = logits.log_softmax(1)[0].flatten(1)
        losses += [-float(log_q[label, k]) for k, label in enumerate(truth.ravel())
                   if label != 255]
        confusion += confusion_matrix(truth, logits[0].argmax(0).numpy(), 11)
    last = stored["end-to-end"][1][-1]
    assert last["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert last["mean IU"] == pytest.approx(100 * mean_iu(confusion))
    assert [row[0] for row in table(tmp_path / "loss-iu.md")] == [
        "network without CRF", "network and CRF, end to end"]


def test_loss_and_iu_share_runs_with_tables_and_repeat_finished_ones(data, out, tmp_path, capsys):
    command("loss-iu", data, tmp_path, seeds="0")
    first = json.loads((tmp_path / "loss-iu.json").read_text())
    capsys.readouterr()
    command("gradients", data, tmp_path, seeds="0")
    text = (tmp_path / "gradients.md").read_text()
    assert "intervals: 95 %, Student's, over batches, not over seeds." in text
    assert "0 runs left, 0 steps" in capsys.readouterr().out  # nothing is trained again
    command("gradients", data, out, seeds="0")
    command("loss-iu", data, out, seeds="0")  # its runs are finished: repeated elsewhere
    again = json.loads((out / "loss-iu.json").read_text())
    assert {k: again[k] for k in ("network", "end-to-end")} == {
        k: first[k] for k in ("network", "end-to-end")}
    assert (out / "end-to-end-seed0-checkpoints" / training.LAST).exists()


def test_loss_and_iu_continue_after_an_interruption(data, tmp_path, monkeypatch):
    command("loss-iu", data, tmp_path / "whole", seeds="0")
    loss_and_confusion, calls = design.evaluation.loss_and_confusion, []

    def fail(*args):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss_and_confusion(*args)

    monkeypatch.setattr(design.evaluation, "loss_and_confusion", fail)
    with pytest.raises(SystemExit, match="130"):
        command("loss-iu", data, tmp_path / "parts", seeds="0")
    command("loss-iu", data, tmp_path / "parts", seeds="0")
    assert len(calls) == 5  # of four checkpoints, one twice
    whole, parts = (json.loads((tmp_path / name / "loss-iu.json").read_text())
                    for name in ("whole", "parts"))
    assert whole["network"] == parts["network"] and whole["end-to-end"] == parts["end-to-end"]


# --- untied iterations ----------------------------------------------------------------------------


def test_parting_measures_how_far_copies_differ(data, tmp_path, monkeypatch):
    one = study.Study(RECIPES["small"], data, tmp_path, settings=SETTINGS, search=False)
    config = one.row_config("untied", 0)
    model = training.build(config, 11)
    start = training.make_crf(config, 11)
    monkeypatch.setattr(study.Study, "base", lambda self, seed: None)
    monkeypatch.setattr(study.Study, "row", lambda self, name, seed: None)
    monkeypatch.setattr(experiments, "load_trained", lambda *args: (model, config))
    with torch.no_grad():
        for name in ("kernel_weights", "compatibility"):
            getattr(model.crf, name).copy_(getattr(start, name) + 2)
    assert experiments.parting(one, "untied", 0) == 0
    with torch.no_grad():  # copies 1, 1.5, 2, 2.5 and 3 from the start: 0.5 ** 0.5 about 2
        for name in ("kernel_weights", "compatibility"):
            parameter = getattr(model.crf, name)
            steps = torch.linspace(-1, 1, 5).view(5, *[1] * (parameter.dim() - 1))
            parameter.add_(steps)
    assert experiments.parting(one, "untied", 0) == pytest.approx(0.5**0.5 / 2, rel=1e-5)


# --- what was measured ----------------------------------------------------------------------------


ROOT = Path(__file__).parents[1]


def cells_of(page):
    """Rows of all tables of a page, as tuples of cells."""
    return {tuple(cell.strip() for cell in line.strip("|").split("|"))
            for line in page.splitlines() if line.startswith("|")}


@pytest.mark.parametrize("name", ["gradients", "gradients_full", "convergence", "loss_iu"])
def test_the_page_has_the_tables_of_the_stored_results(name):
    stored = json.loads((ROOT / f"benchmarks/results/fcn8s_{name}.json").read_text())
    if name.startswith("gradients"):
        rows, _ = design.gradient_rows(list(stored["seeds"].values()))
        if name == "gradients_full":
            rows = [row for row in rows if row[0] in ("1", "5", "10")]
    elif name == "loss_iu":
        pytest.importorskip("scipy")
        rows, _ = design.loss_iu_rows(stored)
    else:
        header, rows = design.convergence_rows(stored["losses"], stored["mean IU"])
        rows = [header, *rows]
    page = (ROOT / "docs/reproduction.md").read_text()
    assert not set(map(tuple, rows)) - cells_of(page)
    command_line = " ".join(page.replace("\\\n", " ").split())
    assert stored["command"] in command_line


def test_the_page_has_the_ablations_of_the_stored_results():
    page = (ROOT / "docs/reproduction.md").read_text()
    command_lines = " ".join(page.replace("\\\n", " ").split())
    rows = {cells[0]: cells[2:] for cells in cells_of(page) if len(cells) == 8}
    found = 0
    for path in sorted(ROOT.glob("benchmarks/results/fcn8s_ablations*.json")):
        stored = json.loads(path.read_text())
        assert stored["command"] in command_lines
        for text, *pair, _ in experiments.ABLATIONS:
            keys = [f"{row}, T = {count or 'its own'}" for row, count in pair]
            if all(key in stored["mean IU"] for key in keys):
                after, before = (stored["mean IU"][key] for key in keys)
                for seed, *both in zip(stored["seeds"], after, before, strict=True):
                    assert rows[text][1 + seed] == f"{both[0] - both[1]:+.2f}"
                found += 1
    assert found == 6


def test_the_intervals_of_the_pages_ablations_are_those_of_its_seeds():
    page = (ROOT / "docs/reproduction.md").read_text()
    rows = {cells[0]: cells[2:] for cells in cells_of(page) if len(cells) == 8}
    for text, *_ in experiments.ABLATIONS:
        shown, *seeds = rows[text]
        numbers = [float(part) for part in shown.split(" ± ")]
        wanted = study.student([float(one) for one in seeds if one])
        assert numbers == pytest.approx(wanted, abs=0.02), text  # seeds are rounded
    frozen, whole = (rows[text][1:] for text in (
        "the CRF alone from the initial one, FCN frozen", "end to end from the initial CRF"))
    more = [float(b) - float(a) for a, b in zip(frozen, whole, strict=True)]
    assert tables.interval(*study.student(more)) in page


def test_the_page_has_the_long_ablations_of_the_stored_results():
    page = (ROOT / "docs/reproduction.md").read_text()
    commands = " ".join(page.replace("\\\n", " ").split())
    scores, repeated, parting = {}, {}, {}
    for path in sorted(ROOT.glob("benchmarks/results/fcn8s_long_ablations*.json")):
        stored = json.loads(path.read_text())
        assert f"{stored['command']} " in f"{commands} "
        repeated.update(stored.get("repeated", {}))
        parting.update(stored["parting"])
        for name, each in stored["mean IU"].items():
            # What both commands need is the same with both.
            assert scores.setdefault(name, each) == each, name
    for name, seeds in repeated.items():
        assert seeds and all(scores[name][int(seed)] == value for seed, value in seeds.items())
    scores = {name: np.array(each) for name, each in scores.items()}
    short = {cells[0]: cells[1:] for cells in cells_of(page) if len(cells) == 8}
    long = {cells[0]: cells[1:] for cells in cells_of(page) if len(cells) == 9}
    wanted = {text: [f"{row}, T = {count or 'its own'}" for row, count in pair]
              for text, *pair, _ in experiments.ABLATIONS}
    wanted["end to end over the CRF alone"] = ["end-to-end, T = 10", "frozen, T = 10"]
    found = {text for text, names in wanted.items() if set(names) <= set(scores)}
    assert len(found) == 11 and found == set(long) & set(wanted)
    for text in found:
        _, _, shown, *seeds = long[text]
        after, before = (scores[name] for name in wanted[text])
        assert seeds == [f"{one:+.2f}" for one in after - before]
        assert shown == tables.interval(*study.student(after - before), sign=True)
        if text in short:  # the columns of the table of 500 steps
            assert long[text][:2] == short[text][:2]
    apart, fast = (
        "{:.0f} ± {:.0f} %".format(*study.student(100 * np.array(parting[row])))
        for row in ("untied", "untied-fast")
    )
    text = " ".join(page.split())
    assert (f"by {apart} of what the mean has moved, and at ten times the head's rate by {fast}."
            in text)
    losses = [mean - half for mean, half in (
        study.student(np.subtract(*(scores[name] for name in wanted[row])))
        for row in ("iterations with parameters of their own",
                    "the same, the head at ten times its rate"))]
    assert "exclude any loss above 0.25" in text and -0.25 <= min(losses) < -0.24
    more = scores["end-to-end, T = 10"] - scores["frozen, T = 10"]
    assert f"{tables.interval(*study.student(more))} more than with a frozen FCN" in page
    for row, said in (("initial", "with the initial CRF"), ("frozen", "with the CRF"),
                      ("end-to-end", "end to end")):
        mean = scores[f"{row}, T = 10"].mean()
        assert f"{mean:.1f} {said}" in " ".join(page.split())


def test_the_page_says_of_initial_compatibilities_what_was_stored():
    page = " ".join((ROOT / "docs/reproduction.md").read_text().split())
    stored = json.loads((ROOT / "benchmarks/results/fcn8s_convergence.json").read_text())
    scores = {name: np.array(each) for name, each in stored["mean IU"].items()}
    losses = {name: np.array(each) for name, each in stored["losses"].items()}
    potts = "end-to-end"
    for name, said in (("random-compatibility", "than from a random compatibility"),
                       ("zero-compatibility", "than from 0")):
        gains = scores[potts] - scores[name]
        assert (gains > 0).all()  # "with each of the four seeds"
        assert tables.interval(*study.student(gains)) in page and said in page
        parts = (losses[potts] - losses[name]).reshape(4, 5, -1).mean(2)
        assert (parts.mean(0) > 0).all()  # "higher throughout"
    shrinks = parts[:, 0] - parts[:, -1]  # of compatibility 0
    assert tables.interval(*study.student(shrinks), digits=3) in page
