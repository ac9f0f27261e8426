"""A call of the layer checks once, builds once, runs once; the engine is found once."""

import pickle

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

import densecrf_rnn  # noqa: E402
from densecrf_rnn import checks, CRFRNN, engines  # noqa: E402
from densecrf_rnn.engines import registry  # noqa: E402
from densecrf_rnn.nn import arguments, functional  # noqa: E402
from densecrf_rnn.nn.ops import dispatch  # noqa: E402

# Each check of an argument, and the value checks of a call that succeeds.
JUDGED = ("probabilities", "image_units")  # in the first call alone
CHECKS = ("params", "logits", "kernels", "image", "same_device", "mask", "spacing",
          "compatibility", "kernel_weights", "coupling", *JUDGED)


@pytest.fixture
def calls(monkeypatch):
    """How often each was called: CHECKS, `check_method`, `resolve` and `torch.autocast`."""
    found = {}

    def count(owner, name):
        function = getattr(owner, name)

        def counted(*args, **options):
            found[name] = found.get(name, 0) + 1
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    for name in CHECKS:
        count(checks, name)
    count(arguments, "check_method")
    count(registry, "resolve")
    count(torch, "autocast")
    return found


def forget_engines():
    dispatch.forget()


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_forward_pass_checks_each_argument_once(calls, gradients, masked):
    logits, image = make.problem(0, 6, 7, batch=2, dtype=torch.float32)
    crf = CRFRNN(3)
    mask = image[:, 0] > 20 if masked else None
    calls.clear()
    forget_engines()
    with torch.set_grad_enabled(gradients):
        crf(logits.requires_grad_(gradients), image, mask=mask)
    wanted = dict.fromkeys(CHECKS, 1) | {"resolve": 1, "check_method": 1}
    if masked:
        wanted["same_device"] = 2  # the image's and the mask's
    else:
        del wanted["mask"]
    assert calls == wanted
    calls.clear()
    crf(logits, image, mask=mask)
    assert calls == {name: n for name, n in wanted.items() if name not in ("resolve", *JUDGED)}


def test_a_forward_pass_leaves_autocast_once(calls):
    logits, image = make.problem(0, 6, 7, dtype=torch.float32)
    crf = CRFRNN(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        calls.clear()
        crf(logits.bfloat16(), image)
    assert calls["autocast"] == 1 and calls["logits"] == 1


@pytest.mark.parametrize("gradients", [True, False])
def test_a_forward_pass_builds_and_runs_once(monkeypatch, gradients):
    found = []

    class Watched:
        def __getattr__(self, name):
            found.append(name)
            return getattr(engine, name)

    engine = engines.engine("auto")
    if not hasattr(engine, "mean_field"):
        pytest.skip("no engine here runs whole mean fields")
    monkeypatch.setattr(dispatch, "engine", lambda name: watched)
    watched = Watched()
    logits, image = make.problem(0, 6, 7, batch=2, dtype=torch.float32)
    CRFRNN(3)(logits.requires_grad_(gradients), image)
    runs = [name for name in found if name in ("build", "filter")]
    assert runs == ["build", "filter", "filter"]  # the normaliser of each image
    assert found.count("mean_field") == 3  # twice asked for, to see that it is there


@pytest.mark.parametrize("option", ["update", "storage", "method"])
def test_an_option_of_another_name_is_refused(option):
    logits, image = make.problem(0, 3, 4)
    with pytest.raises(ValueError, match=f"{option} is 'another'; choose from"):
        functional.mean_field(logits, image, **{option: "another"})
    with pytest.raises(ValueError, match=f"{option} is 'another'; choose from"):
        CRFRNN(3, **{option: "another"})


def test_class_paths_of_pickled_models_stay():
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2)
    names = {f"{type(m).__module__}.{type(m).__name__}" for m in (model, model.crf)}
    assert names == {"densecrf_rnn.nn.segmenter.Segmenter", "densecrf_rnn.nn.crfrnn.CRFRNN"}
    assert set(model.state_dict()) == {
        "backbone.weight", "backbone.bias", "crf.kernel_weights", "crf.compatibility",
        "_extra_state", "crf._extra_state",
    }
    assert isinstance(pickle.loads(pickle.dumps(model)).crf, densecrf_rnn.CRFRNN)
