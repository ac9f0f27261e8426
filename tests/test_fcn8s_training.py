"""Training in examples/fcn8s: the recipes, and runs that go on to the same bits."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from fcn8s import datasets, stream, training  # noqa: E402
from fcn8s.config import RECIPES, Config, parse_setting  # noqa: E402
from fcn8s.stream import Stream, batches, collate  # noqa: E402

ROOT = Path(__file__).parents[1]
TINY = Config(dataset="camvid", lr=1e-3, reduction="mean", momentum=0.9, batch=2, steps=6,
              flip=True, theta_alpha=8.0, lr_kernel_weights=1.0, lr_compatibility=1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """CamVid's layout: coloured rectangles, whose colour tells the class."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2), ("test", 2)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for i in range(count):
            labels = np.zeros((33, 40), np.uint8)
            row, column = rng.integers(0, 20, 2)
            labels[row : row + 12, column : column + 15] = rng.integers(1, 11)
            labels[:2] = 11
            image = np.stack([labels * 20, 255 - labels * 20, labels * 5], -1)
            Image.fromarray(image.astype(np.uint8)).save(root / split / f"{i}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{i}.png")
        (root / f"{split}.txt").write_text("".join(f"{i}.png\n" for i in range(count)))
    return root


@pytest.fixture
def pictures(data):
    return datasets.load("camvid", data)["train"]


def load(folder):
    return torch.load(Path(folder) / training.LAST, weights_only=True)


def assert_same(a, b):
    """Bit by bit, whatever they are made of."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def losses(folder):
    with open(Path(folder) / "curve.csv", newline="") as file:
        return [(row["step"], row["loss"], row["lr"]) for row in csv.DictReader(file)]


# --- resumption ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {"crf": True},
    {"crf": True, "cache": True, "window": (16, 24), "optimizer": "adamw", "schedule": "poly"},
    {"backbone": "vgg16", "width": 64, "scales": (0.5, 2.0), "crop": (32, 32), "steps": 4},
], ids=["sgd", "small", "vgg"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(pictures, tmp_path, changes):
    config = TINY.with_(**changes)
    training.train(config, pictures, tmp_path / "whole")
    training.train(config, pictures, tmp_path / "parts", stop_at=2)
    assert load(tmp_path / "parts")["step"] == 2
    training.train(config, pictures, tmp_path / "parts")
    assert_same(load(tmp_path / "whole"), load(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len({loss for _, loss, _ in losses(tmp_path / "whole")}) > 1


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(pictures, tmp_path, monkeypatch):
    """Steps after the checkpoint are made again, and their rows of the curve."""
    training.train(TINY, pictures, tmp_path / "whole")
    step_loss = training.step_loss
    calls = []

    def fail(*args):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step_loss(*args)

    monkeypatch.setattr(training, "step_loss", fail)
    with pytest.raises(KeyboardInterrupt):
        training.train(TINY, pictures, tmp_path / "parts", save_every=4)
    assert load(tmp_path / "parts")["step"] == 4 and len(losses(tmp_path / "parts")) == 5
    monkeypatch.undo()
    training.train(TINY, pictures, tmp_path / "parts")
    assert_same(load(tmp_path / "whole"), load(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_finished_run_is_not_run_again_and_another_one_is_refused(pictures, tmp_path):
    training.train(TINY, pictures, tmp_path)
    before = (tmp_path / training.LAST).stat().st_mtime_ns
    training.train(TINY, pictures, tmp_path)
    assert (tmp_path / training.LAST).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="of a run with another lr, seed; give another folder"):
        training.train(TINY.with_(lr=1.0, seed=3), pictures, tmp_path)


def test_a_row_of_the_curve_that_was_half_written_is_made_again(pictures, tmp_path):
    training.train(TINY, pictures, tmp_path / "whole")
    training.train(TINY, pictures, tmp_path / "parts", stop_at=4)
    curve = tmp_path / "parts" / training.CURVE
    text = curve.read_text()
    curve.write_text(text[: text.rindex(",")])
    training.train(TINY, pictures, tmp_path / "parts")
    whole, parts = (losses(tmp_path / name) for name in ("whole", "parts"))
    assert parts == whole[:3] + whole[4:]  # the row was written, the step is in the checkpoint


def test_samples_depend_on_their_number_and_the_seed_alone(pictures):
    config = TINY.with_(scales=(0.5, 2.0), crop=(20, 30))
    stream = Stream(pictures, config)
    forwards = [stream[i] for i in range(12)]
    backwards = [Stream(pictures, config)[i] for i in reversed(range(12))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert_same(a, b)
    other = Stream(pictures, config.with_(seed=1))
    assert any(not torch.equal(other[i]["image"], forwards[i]["image"]) for i in range(5))


def test_an_epoch_shows_every_picture_once(pictures):
    stream = Stream(pictures, TINY.with_(flip=False))
    for epoch in range(3):
        numbers = range(epoch * len(pictures), (epoch + 1) * len(pictures))
        seen = {stream[i]["image"].numpy().tobytes() for i in numbers}
        assert len(seen) == len(pictures)


def test_workers_and_processes_get_the_same_batches(pictures):
    stream = Stream(pictures, TINY.with_(batch=4))
    whole = list(batches(stream, 0, 3))
    assert_same(list(batches(stream, 0, 3, workers=1)), whole)
    halves = zip(*(batches(stream, 0, 3, rank, 2) for rank in (0, 1)), strict=True)
    for (a, b), both in zip(halves, whole, strict=True):
        assert torch.equal(torch.cat([a["image"], b["image"]]), both["image"])
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared by 3 processes.*batch=6"):
        batches(stream, 0, 1, 0, 3)


def test_pictures_of_different_sizes_are_padded_where_nothing_is_scored():
    samples = [{"image": torch.ones(3, *s), "labels": torch.zeros(s).long()}
               for s in ((4, 7), (6, 5))]
    batch = collate(samples)
    assert batch["image"].shape == (2, 3, 6, 7)
    assert (batch["labels"][0, 4:] == 255).all() and (batch["labels"][1, :, 5:] == 255).all()
    assert (batch["labels"] == 0).sum() == 4 * 7 + 6 * 5


# --- the recipes ---------------------------------------------------------------------------------


def test_the_papers_recipe_is_the_papers():
    recipe = RECIPES["paper"]
    row = Config().with_(**recipe.common, **recipe.rows, crf=True)
    assert (row.lr, row.momentum, row.batch) == (1e-13, 0.99, 1)
    assert (row.iterations, row.eval_iterations) == (5, 10)
    assert (row.loss, row.reduction, row.schedule) == ("softmax", "sum", "fixed")
    assert row.backbone == "vgg16"
    assert (row.theta_alpha, row.theta_beta, row.theta_gamma) == (160, 3, 3)
    stages = [(s["stride"], s["lr"]) for s in recipe.stages]
    assert stages == [(32, 1e-10), (16, 1e-12), (8, 1e-14)]
    model = training.build(row.with_(width=32), 21)
    optimizer = training.make_optimizer(model, row)
    rates = {g.get("name", i): (g["lr"], g["weight_decay"])
             for i, g in enumerate(optimizer.param_groups)}
    assert rates == {0: (1e-13, 5e-4), 1: (2e-13, 0.0), "kernel_weights": (1e-9, 5e-4),
                     "compatibility": (1e-10, 5e-4)}
    learned = {id(p) for g in optimizer.param_groups for p in g["params"]}
    named = dict(model.named_parameters())
    assert id(named["fcn.upscore8.weight"]) not in learned
    assert len(learned) == len(named) - 3


def test_a_step_of_the_papers_solver_is_caffes(pictures, tmp_path):
    """v = momentum v + rate (gradient + decay w); w = w - v, of a loss summed over pixels."""
    config = Config(backbone="vgg16", width=64, lr=1e-6, steps=2, batch=1)
    model = training.build(config, 11).eval()
    optimizer = training.make_optimizer(model, config)
    weight, bias = model.fcn.score_fr.weight, model.fcn.score_fr.bias
    velocity = {weight: 0.0, bias: 0.0}
    stream = Stream(pictures, config)
    for step in range(2):
        batch = collate([stream[step]])
        optimizer.zero_grad()
        loss = training.step_loss(model, batch, config, "cpu")
        logits = model(batch["image"])
        log_q = logits.log_softmax(1)
        scored = batch["labels"] != 255
        picked = log_q.gather(1, batch["labels"].where(scored, 0)[:, None])[:, 0]
        torch.testing.assert_close(loss, -picked[scored].sum(), rtol=1e-4, atol=1e-3)
        loss.backward()
        wanted = {}
        for p, rate, decay in ((weight, 1e-6, 5e-4), (bias, 2e-6, 0.0)):
            step_size = rate * (p.grad + decay * p.detach())
            velocity[p] = 0.99 * velocity[p] + step_size
            wanted[p] = p.detach() - velocity[p]
        optimizer.step()
        for p, value in wanted.items():
            torch.testing.assert_close(p.detach(), value)


def test_the_mean_loss_ignores_what_is_not_scored():
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0] = 255
    config = TINY.with_(reduction="mean")
    wanted = torch.nn.functional.cross_entropy(logits[1:], labels[1:])
    torch.testing.assert_close(training.loss_of(logits, labels, config), wanted)
    nothing = training.loss_of(logits, torch.full_like(labels, 255), config)
    assert nothing == 0


def test_polynomial_decay_ends_at_nothing():
    config = TINY.with_(schedule="poly", steps=100, lr=2.0)
    optimizer = training.make_optimizer(training.build(config, 3), config)
    rates = []
    for step in (0, 50, 99):
        training.set_rates(optimizer, config, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates[0] == [2.0, 4.0]
    np.testing.assert_allclose(rates[1], [2 * 0.5**0.9, 4 * 0.5**0.9])
    assert rates[2][0] < 0.05


def test_a_frozen_network_stays_and_the_head_learns(pictures, tmp_path):
    config = TINY.with_(crf=True, freeze_fcn=True, steps=2, optimizer="adamw")
    before = training.build(config, 11).state_dict()
    training.train(config, pictures, tmp_path)
    after = load(tmp_path)["model"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"crf.kernel_weights", "crf.compatibility"}


def test_stored_features_are_shared_by_runs_with_the_same_frozen_layers(pictures, tmp_path):
    config = TINY.with_(cache=True, crf=True, steps=1)
    for number, changes in enumerate(({}, {"freeze_fcn": True}, {"lr": 0.1}, {"seed": 1})):
        training.train(config.with_(**changes), pictures, tmp_path / str(number),
                       cache_folder=tmp_path)
    assert len(list(tmp_path.glob("features-*"))) == 2  # the last starts from other weights


def test_storing_features_continues_where_it_was_stopped(pictures, tmp_path, monkeypatch):
    fcn = training.build(TINY, 11).fcn
    whole = stream.Features(fcn, pictures, tmp_path / "whole", "cpu", True)
    monkeypatch.setattr(stream, "FEATURES_PART", 2)
    made, lower = [], stream.lower_features

    def count(fcn, image):
        made.append(image)
        if len(made) == 5:
            raise KeyboardInterrupt
        return lower(fcn, image)

    monkeypatch.setattr(stream, "lower_features", count)
    with pytest.raises(KeyboardInterrupt):  # in the second part
        stream.Features(fcn, pictures, tmp_path / "parts", "cpu", True)
    parts = stream.Features(fcn, pictures, tmp_path / "parts", "cpu", True)
    assert len(made) == 5 + 2 * len(pictures) - 4
    for i in range(len(pictures)):
        for mirrored in (False, True):
            for a, b in zip(parts[i, mirrored], whole[i, mirrored], strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("changes", [
    {"kernel_weights": "scalar", "compatibility": "potts"}, {"tied": False}, {"update": "relu"},
    {"autocast": True}, {"window": (16, 24)}, {"iterations": 10},
], ids=str)
def test_every_kind_of_head_trains(pictures, tmp_path, changes):
    config = TINY.with_(crf=True, steps=2, **changes)
    training.train(config, pictures, tmp_path)
    before = training.build(config, 11).state_dict()
    after = load(tmp_path)["model"]
    learned = {"crf.kernel_weights", "fcn.score_pool3.weight", "fcn.blocks.13.expand.weight"}
    for name in learned:
        assert not torch.equal(before[name], after[name]), name
    assert torch.equal(before["fcn.blocks.12.expand.weight"], after["fcn.blocks.12.expand.weight"])


def test_a_loss_that_is_not_finite_stops_the_run(pictures, tmp_path):
    with pytest.raises(FloatingPointError, match="lower lr"):
        training.train(TINY.with_(lr=1e30, steps=20), pictures, tmp_path)


def test_curves_go_to_tensorboard_too(pictures, tmp_path):
    pytest.importorskip("tensorboard")
    training.train(TINY.with_(steps=1), pictures, tmp_path, tensorboard=True)
    assert list(tmp_path.glob("events.out.tfevents*"))


@pytest.mark.parametrize("changes, message", [
    ({"lr_rate": 1}, "there is no setting 'lr_rate'; there are dataset"),
    ({"loss": "max"}, "loss is 'max'; it must be one of softmax, robust"),
    ({"batch": 0}, "batch is 0"),
    ({"freeze_fcn": True}, "leaves nothing to train"),
    ({"cache": True, "scales": (0.5, 2)}, "cache stores features of whole pictures"),
    ({"steps": "abc"}, "steps is 'abc'; it must be an integer"),
    ({"batch": 2.5}, "batch is 2.5; it must be an integer"),
    ({"lr": "abc"}, "lr is 'abc'; it must be a finite number"),
    ({"lr": float("nan")}, "lr is nan; it must be a finite number"),
    ({"crf": 1}, "crf is 1; it must be true or false"),
    ({"window": 5}, "window is 5; it must be two positive integers, .A, B., or null"),
    ({"scales": None}, "scales is None; it must be two numbers, .A, B.$"),
    ({"crop": [1, 2, 3]}, "crop is .1, 2, 3.; it must be two positive"),
    ({"dataset": 3}, "dataset is 3; it must be a name"),
])
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config().with_(**changes)


@pytest.mark.parametrize("text, value", [
    ("lr=1e-3", 1e-3), ("window=[1,2]", [1, 2]), ("crf=true", True), ("update=relu", "relu"),
    ("crop=null", None),
])
def test_settings_are_read_from_the_command_line(text, value):
    assert parse_setting(text) == (text.split("=")[0], value)


# --- several processes ---------------------------------------------------------------------------


SHARED = dict(dataset="camvid", crf=True, lr=1e-5, batch=2, steps=3, momentum=0.9, theta_alpha=8.0,
              lr_kernel_weights=10.0, lr_compatibility=10.0)


def test_two_processes_of_torchrun_learn_what_one_does(data, pictures, tmp_path, monkeypatch):
    """The same batch, shared; dropout aside, which each process draws for itself."""
    script = tmp_path / "run.py"
    script.write_text(
        "from fcn8s import datasets, networks, training\n"
        "from fcn8s.config import Config\n"
        "networks.nn.Dropout.forward = lambda self, x: x\n"
        f"pictures = datasets.load('camvid', {str(data)!r})['train']\n"
        "for loss in ('mean', 'sum'):\n"
        f"    config = Config(reduction=loss, **{SHARED})\n"
        f"    training.train(config, pictures, {str(tmp_path)!r} + '/two-' + loss)\n"
    )
    path = os.pathsep.join([str(ROOT / "examples"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script)], env=env, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    for loss in ("mean", "sum"):
        config = Config(reduction=loss, **SHARED)
        start = training.build(config, 11).state_dict()
        training.train(config, pictures, tmp_path / f"one-{loss}")
        one, two = (load(tmp_path / f"{n}-{loss}")["model"] for n in ("one", "two"))
        for name in one:
            moved = (one[name] - start[name]).float().norm()
            assert (two[name] - one[name]).float().norm() <= 2e-3 * moved + 1e-6, name
        assert (one["crf.kernel_weights"] - start["crf.kernel_weights"]).abs().max() > 1e-5
