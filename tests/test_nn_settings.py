"""Settings in the state_dict: they travel with the weights, and differences are noticed."""

import copy
import inspect
import io
import json
import pickle
import warnings
from collections import UserList
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from processes import results_of_two  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN, kernels, refine  # noqa: E402
from densecrf_rnn.nn import Segmenter, read_settings  # noqa: E402
from densecrf_rnn.nn.settings import BLOCK, KEY, encode  # noqa: E402

# Arguments of the constructor that depend on the machine, or only on how a result is computed.
OF_THE_MACHINE = {"memory_budget", "storage", "backend"}


ALL = {
    "multilabel": True,
    "params": make.small_params(theta_beta=(50.0, 60.0, 70.0), quality="filled"),
    "iterations": 3, "eval_iterations": 4, "kernel_weights": "scalar", "compatibility": "potts",
    "trainable_bandwidths": True, "tied": False, "update": "relu", "normalization": "symmetric",
    "self_term": False, "kernels": [kernels.Kernel(3.0, (0.5, 0.7, 0.1)), kernels.Spatial(2.0)],
    "method": "exact", "prune": 0.01,
}
NEEDED = {"tied": {"iterations": 2, "eval_iterations": 2}}


def built(**options):
    return CRFRNN(options.pop("num_classes", 3), **{"params": make.small_params(), **options})


def perturbed(crf):
    """The same module after its parameters have moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return crf


def model(**options):
    torch.manual_seed(0)
    head = {name: options.pop(name) for name in ("mean", "std", "scale") if name in options}
    options = {"params": make.small_params(), **options}
    return CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, **head, **options)


def through_torch_save(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_option_of_the_constructor_is_tried_here():
    names = set(inspect.signature(CRFRNN).parameters) - {"num_classes"}
    assert names == set(ALL) | OF_THE_MACHINE


@pytest.mark.parametrize("name", ALL)
def test_a_head_is_built_from_the_settings_of_its_state(name, silent):
    crf = perturbed(built(**{name: ALL[name]}, **NEEDED.get(name, {})))
    state = through_torch_save(crf.state_dict())
    other = CRFRNN(**read_settings(state))
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert repr(other) == repr(crf) and other.kernels == crf.kernels
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    for training in (True, False):
        assert torch.equal(other.train(training)(logits, image), crf.train(training)(logits, image))


@pytest.mark.parametrize("name", sorted(set(ALL) - {"multilabel", "tied"}))
def test_an_option_that_differs_is_named_with_both_values(name):
    if name in ("kernel_weights", "compatibility", "trainable_bandwidths"):  # other keys or shapes
        with pytest.raises(ValueError, match=f"was saved with {name}=.*, but this CRFRNN has"):
            built(**{name: ALL[name]}).load_state_dict(built().state_dict(), settings="match")
        return
    crf, other = built(), built(**{name: ALL[name]})
    with pytest.warns(UserWarning, match="the state_dict was saved with .*, but this") as seen:
        other.load_state_dict(crf.state_dict())
    assert len(seen) == 1
    was, this = str(seen[0].message).split(", but this CRFRNN has ")
    own, others = (json.loads(json.dumps(m.settings())) for m in (crf, other))
    for key in {*own["params"], *own} - {"params"}:
        a, b = ({**settings, **settings["params"]}[key] for settings in (own, others))
        assert (f" {key}=" in was) == (f" {key}=" in f" {this}") == (a != b)


def test_one_warning_names_all_that_differs_with_both_values():
    with pytest.warns(UserWarning) as seen:
        built(iterations=7, params=make.small_params(theta_beta=13)).load_state_dict(
            built(update="relu").state_dict()
        )
    assert [str(w.message) for w in seen] == [
        "the state_dict was saved with iterations=5, update='relu', theta_beta=60.0, but this "
        "CRFRNN has iterations=7, update='softmax', theta_beta=13.0; results will differ unless "
        "you build it with the former"
    ]


def test_equal_settings_and_options_of_the_machine_cause_no_warning(silent):
    built(memory_budget=5, backend="torch").load_state_dict(built().state_dict(), settings="match")


@pytest.mark.parametrize("name", ["mean", "std", "scale"])
def test_statistics_that_differ_are_noticed(name):
    with pytest.warns(UserWarning, match=f"saved with {name}=.*but this Segmenter has {name}=0.3"):
        model(**{name: 0.3}).load_state_dict(model().state_dict())


def test_settings_must_match_where_that_is_asked_for_or_nothing_is_loaded():
    crf, other = perturbed(model(iterations=2)), model(iterations=3)
    kept = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="iterations=2, but this CRFRNN has iterations=3"):
        other.load_state_dict(crf.state_dict(), settings="match")
    state = {name: t for name, t in crf.state_dict().items() if not name.endswith(KEY)}
    with pytest.raises(ValueError, match="'match' but the state_dict holds no settings of Segm"):
        other.load_state_dict(state, settings="match")
    assert all(torch.equal(t, kept[name]) for name, t in other.state_dict().items())
    with pytest.raises(ValueError, match="settings is 'other'; choose from 'warn', 'match'"):
        other.load_state_dict(crf.state_dict(), settings="other")


def test_a_state_without_settings_loads_strictly(silent):
    for module in (model(), torch.nn.Sequential(built())):
        state = {name: t for name, t in module.state_dict().items() if not name.endswith(KEY)}
        assert len(state) < len(module.state_dict())
        assert str(module.load_state_dict(state)) == "<All keys matched successfully>"
        with pytest.raises(RuntimeError, match="Missing key.*kernel_weights"):
            module.load_state_dict({n: t for n, t in state.items() if "kernel_weights" not in n})


def test_a_head_anywhere_in_a_model_notices_other_settings():
    with pytest.warns(UserWarning, match="saved with iterations=2, but this CRFRNN has"):
        torch.nn.Sequential(built()).load_state_dict(
            torch.nn.Sequential(built(iterations=2)).state_dict()
        )


@pytest.mark.parametrize("other", [
    {"params": make.small_params(theta_alpha=9.0, theta_gamma=0.7, theta_beta=31.0)},
    {"kernels": [kernels.Bilateral(9.0, 31.0), kernels.Spatial(0.7)]},
])
def test_learned_bandwidths_come_back_in_a_head_that_was_built_with_others(other, silent):
    crf = perturbed(built(trainable_bandwidths=True))
    other = built(trainable_bandwidths=True, **other)
    assert not torch.allclose(other.bandwidths, crf.bandwidths)
    other.load_state_dict(crf.state_dict())
    assert torch.equal(other.bandwidths, crf.bandwidths)
    assert repr(other) == repr(crf)
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    assert torch.equal(other(logits, image), crf(logits, image))


def test_fixed_bandwidths_stay_those_of_the_constructor():
    other = built(params=make.small_params(theta_beta=13))
    with pytest.warns(UserWarning, match="theta_beta=60.0, but this CRFRNN has theta_beta=13.0"):
        other.load_state_dict(built().state_dict())
    assert other.params.theta_beta == 13 and other.bandwidths[0, 1] == 13


def test_settings_fill_blocks_so_that_sharded_checkpoints_load_other_ones():
    many = built(kernels=[kernels.Kernel(1.0 / 3, 0.1, guide="a long name" * 9)] * 6)
    for crf, blocks in ((built(), 1), (built(**{"params": ALL["params"]}), 1), (many, 2)):
        state = crf.get_extra_state()
        assert state.dtype == torch.uint8 and state.shape == (blocks * BLOCK,)


def test_averages_of_equal_checkpoints_keep_their_settings_and_others_say_so(silent):
    states = [perturbed(built()).state_dict() for _ in range(2)]
    mean = {name: sum(s[name].float() for s in states) / 2 for name in states[0]}
    built().load_state_dict(mean, settings="match")
    states[1] = built(iterations=9).state_dict()
    mean = {name: sum(s[name].float() for s in states) / 2 for name in states[0]}
    mean[KEY] = mean[KEY].roll(1) + 1
    with pytest.warns(UserWarning, match="cannot be read, so they are not compared"):
        built().load_state_dict(mean)


def test_settings_of_a_later_version_are_not_compared():
    state = built().state_dict() | {KEY: encode({"version": 99})}
    with pytest.warns(UserWarning, match="cannot be read.*later versions"):
        built().load_state_dict(state)


def test_settings_that_are_not_there_are_named():
    state = model().state_dict()
    assert read_settings(state, "crf.")["num_classes"] == 2
    assert read_settings(state) == {"mean": 0.0, "std": 1.0, "scale": 255.0}
    with pytest.raises(ValueError, match=r"read as 'head\.\w+'; there are some for prefix='', 'c"):
        read_settings(state, "head.")
    with pytest.raises(ValueError, match="holds no settings that can be read as '_extra_state'$"):
        read_settings({})
    with pytest.raises(TypeError, match=r"state_dict is CRFRNN; .*\(model.state_dict\(\)\)"):
        read_settings(built())


# --- through other people's files and processes --------------------------------------------------


def test_settings_go_through_safetensors(tmp_path, silent):
    safetensors = pytest.importorskip("safetensors.torch")
    crf, file = perturbed(model(mean=0.4)), tmp_path / "model.safetensors"
    safetensors.save_model(crf, str(file))
    safetensors.load_model(other := model(mean=0.4), str(file))
    assert torch.equal(other.crf.kernel_weights, crf.crf.kernel_weights)
    with pytest.warns(UserWarning, match="but this Segmenter has mean=0.0"):
        safetensors.load_model(model(), str(file))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_settings_survive_copying(duplicate):
    crf = perturbed(built(trainable_bandwidths=True))
    assert duplicate(crf).settings() == crf.settings()


def test_settings_go_through_sharded_checkpoints(tmp_path):
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    crf, other = perturbed(model(iterations=2)), model(iterations=31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save({"model": crf.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
        state = {"model": other.state_dict()}
        checkpoint.load(state, checkpoint_id=tmp_path, no_dist=True)
    with pytest.warns(UserWarning, match="iterations=2, but this CRFRNN has iterations=31"):
        other.load_state_dict(state["model"])
    assert torch.equal(other.crf.kernel_weights, crf.crf.kernel_weights)


SHARDED = """
import warnings
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict, set_model_state_dict,
)
from torch.distributed.fsdp import fully_shard
from test_nn_settings import model, perturbed

mesh = torch.distributed.init_device_mesh("cpu", (2,))
sharded = perturbed(model(iterations=2))
fully_shard(sharded.backbone, mesh=mesh)
sharded(torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(rank))).sum().backward()
options = StateDictOptions(full_state_dict=True)
state = get_model_state_dict(sharded, options=options)
other = model(iterations=2)
fully_shard(other.backbone, mesh=mesh)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    set_model_state_dict(other, state, options=options)
torch.save(get_model_state_dict(other, options=options), result)
"""


def test_settings_go_through_fully_sharded_models(tmp_path):
    wanted = perturbed(model(iterations=2)).state_dict()
    for found in results_of_two(SHARDED, tmp_path):
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_state_may_serve_functional_call():
    image = make.problem(0, 5, 6, dtype=torch.float32)[1] / 255
    crf, other = perturbed(model()), model()
    found = torch.func.functional_call(other, crf.state_dict(), (image,))
    assert torch.equal(found, crf(image))
    assert set(other.state_dict()) == set(crf.state_dict())


def test_parameters_and_kernels_are_loaded_with_weights_only():
    given = {"hyper_parameters": {"params": CRFParams(theta_beta=(1, 2)), "lr": 0.1,
                                  "kernels": [kernels.Bilateral(3.0, (4, 5))]}}
    assert through_torch_save(given) == given


# --- sequences -----------------------------------------------------------------------------------


class ListConfig(Sequence):
    """A sequence that is neither a list nor a tuple, as OmegaConf's."""

    def __init__(self, items):
        self.items = items

    def __getitem__(self, index):
        return self.items[index]

    def __len__(self):
        return len(self.items)


@pytest.mark.parametrize("kind", [ListConfig, UserList])
def test_any_sequence_is_accepted_where_a_list_is(kind):
    params = CRFParams(theta_beta=kind([1, 2, 3]), w_spatial=kind([3, 4]))
    assert params == CRFParams(theta_beta=(1, 2, 3), w_spatial=(3, 4))
    made = [kernels.Kernel(3.0, kind([4.0, 5.0, 6.0]))]
    logits, image = make.problem(0, 5, 6, labels=2, dtype=torch.float32)
    found = CRFRNN(2, kernels=kind(made))(logits, image, spacing=kind([2.0, 1.0]))
    assert torch.equal(found, CRFRNN(2, kernels=made)(logits, image, spacing=[2.0, 1.0]))
    wrapped = model(mean=kind([0.1, 0.2, 0.3]), std=kind([1, 1, 1]))
    assert torch.equal(wrapped.mean, torch.tensor([0.1, 0.2, 0.3]))
    q, picture = logits[0].numpy(), image[0].movedim(0, -1).numpy()
    assert (refine(q, picture, spacing=kind([2, 1])) == refine(q, picture, spacing=(2, 1))).all()


@pytest.mark.parametrize("text", ["12", b"12"])
def test_text_is_no_sequence_of_numbers(text):
    with pytest.raises(TypeError, match="theta_beta is .*; it must be a number"):
        CRFParams(theta_beta=text)
    with pytest.raises(ValueError, match="spacing is .*; it must hold 2 numbers"):
        built()(*make.problem(0, 5, 6, dtype=torch.float32), spacing=text)


def test_omegaconf_configures_a_head():
    omegaconf = pytest.importorskip("omegaconf")
    text = "{num_classes: 2, iterations: 3, params: {theta_beta: [1, 2, 3], theta_alpha: 7}}"
    config = omegaconf.OmegaConf.create(text)
    params = CRFParams.from_dict(config.params)
    assert params == CRFParams(theta_alpha=7, theta_beta=(1, 2, 3))
    crf = CRFRNN(config.num_classes, params=params, iterations=config.iterations)
    assert crf.iterations == 3 and isinstance(crf.params.theta_beta, tuple)


def test_a_segmenter_is_a_module_that_keeps_settings():
    assert isinstance(model(), Segmenter) and KEY in model().state_dict()


def test_a_model_without_memory_gets_its_normalisation_back():
    given, image = {"mean": (0.1, 0.2, 0.3), "std": 0.5}, torch.rand(1, 3, 5, 6)
    kept = model(**given)
    with torch.device("meta"):
        made = model(**given)
    assert made.mean.is_meta and made.std.is_meta
    made.to_empty(device="cpu")
    made.load_state_dict(kept.state_dict())
    assert torch.equal(made(image), kept(image))


def test_a_head_without_memory_gets_its_bandwidths_back():
    with torch.device("meta"):
        made = CRFRNN(3, params=CRFParams(theta_beta=13.3), trainable_bandwidths=True)
    assert made.bandwidths.is_meta
    made.to_empty(device="cpu")
    torch.nn.init.zeros_(made.log_bandwidths)
    kept = CRFRNN(3, params=CRFParams(theta_beta=13.3), trainable_bandwidths=True)
    assert torch.equal(made.bandwidths, kept.bandwidths)
