"""One bandwidth per axis or channel, in every engine and on every path.

Two oracles: the dense reference, which divides each feature by its own bandwidth; and equivalence,
since powers of two move between a bandwidth and what it divides (spacing, image) without rounding.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_problem

from densecrf_rnn import CRFParams, kernels, mean_field, refine, refine_tiled, tiles
from densecrf_rnn.energy import free_energy
from densecrf_rnn.reference import dense

SIZES = st.sampled_from([(7, 9), (1, 12), (6, 5, 4)])
POWERS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])


@st.composite
def equivalent(draw):
    """A problem of several bandwidths and one of single ones with equal features."""
    size = draw(SIZES)
    channels = draw(st.integers(1, 3))
    logits, image = random_problem(3, size, channels, np.float32, draw(st.integers(0, 99)))
    along = tuple(draw(POWERS) for _ in size)
    each = tuple(draw(POWERS) for _ in range(channels))
    one = CRFParams(
        4.0, 10.0, 1.5, 1.3, 0.7,
        spatial=draw(st.sampled_from(["grid", "lattice"])),
        feature_order=draw(st.sampled_from(["xy", "yx"])),
        self_term=draw(st.booleans()),
    )
    several = replace(
        one,
        theta_alpha=tuple(4.0 * a for a in along),
        theta_beta=tuple(10.0 * c for c in each),
        theta_gamma=tuple(1.5 * a for a in along),
    )
    spacing = tuple(1 / a for a in along)
    scaled = (image / np.array(each, np.float32)).astype(np.float32)
    mask = np.random.default_rng(0).random(size) < 0.8 if draw(st.booleans()) else None
    return logits, (image, several, None), (scaled, one, spacing), mask


@given(equivalent())
def test_several_bandwidths_equal_one_in_other_units_bit_for_bit(problem):
    logits, (image, several, _), (scaled, one, spacing), mask = problem
    options = {"mask": mask, "iterations": 3}
    for function in (mean_field, refine):
        found = function(logits, image, several, **options)
        np.testing.assert_array_equal(
            found, function(logits, scaled, one, spacing=spacing, **options)
        )
    whole = refine_tiled(logits, image, several, tile=5, halo="exact", **options)
    np.testing.assert_allclose(whole, found, rtol=0, atol=1e-5)
    refined = mean_field(logits, image, several, **options)
    assert free_energy(refined, logits, image, several, mask=mask) == free_energy(
        refined, logits, scaled, one, mask=mask, spacing=spacing
    )
    size = logits.shape[1:]
    assert tiles.reach(several, size) == tiles.reach(one, size, spacing)


@given(equivalent(), st.sampled_from(["fused", "textbook", "exact"]), st.booleans())
def test_torch_equals_the_arrays(problem, path, learned):
    torch = pytest.importorskip("torch")
    from densecrf_rnn.nn import CRFRNN

    logits, (image, several, _), (scaled, one, spacing), mask = problem
    how = {"fused": {}, "textbook": {"update": "softmax"}, "exact": {"method": "exact"}}[path]
    if learned:
        several, one = (replace(p, spatial="lattice") for p in (several, one))

    def run(params, image, spacing):
        crf = CRFRNN(3, params=params, iterations=3, trainable_bandwidths=learned, **how)
        out = crf(
            torch.from_numpy(logits)[None],
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))[None],
            mask=None if mask is None else torch.from_numpy(mask)[None],
            spacing=spacing, return_all=path == "textbook",
        )  # fmt: skip
        return (out[-1] if path == "textbook" else out)[0].detach().numpy()

    found = run(several, image, None)
    np.testing.assert_array_equal(found, run(one, scaled, spacing))
    if path != "exact":
        want = mean_field(logits, image, several, mask=mask, iterations=3)
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size, spacing", [((7, 9), (1.0, 1.5)), ((4, 5, 3), (3.0, 1.0, 0.7))])
def test_the_exact_method_and_both_lattices_follow_the_definition(size, spacing):
    torch = pytest.importorskip("torch")
    from densecrf_rnn.nn import functional

    logits, image = random_problem(3, size, 2)
    image[..., 1] /= 500
    params = CRFParams((5.0, 2.0, 9.0)[: len(size)], (40.0, 0.05), (2.0, 1.0, 3.0)[: len(size)])
    rows = [
        dense.feature_rows(image, params.theta_alpha, params.theta_beta, spacing),
        dense.feature_rows(image, params.theta_gamma, None, spacing),
    ]
    matrices = [dense.normalized_kernel(features) for features in rows]
    weights = (params.w_bilateral, params.w_spatial)
    flat = logits.reshape(3, -1).T
    want = dense.mean_field(flat, matrices, weights, 1 - np.eye(3), 4).T.reshape(logits.shape)
    found = functional.mean_field(
        torch.from_numpy(logits)[None], torch.from_numpy(np.moveaxis(image, -1, 0).copy())[None],
        params, spacing=spacing, method="exact", iterations=4,
    )[0].numpy()  # fmt: skip
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-10)
    # The lattices approximate it; exchanged bandwidths are much further away.
    options = {"spacing": spacing, "iterations": 1}
    first = dense.mean_field(flat, matrices, weights, 1 - np.eye(3), 1).T.reshape(logits.shape)
    near = np.abs(mean_field(logits, image, params, **options) - first).max()
    reverse = replace(
        params, theta_alpha=params.theta_alpha[::-1], theta_gamma=params.theta_gamma[::-1]
    )
    assert near < 0.6 * np.abs(mean_field(logits, image, reverse, **options) - first).max()


@pytest.mark.parametrize("path", ["fused", "textbook", "exact"])
def test_the_gradient_of_one_factor_per_kernel_equals_finite_differences(path):
    torch = pytest.importorskip("torch")
    from densecrf_rnn.nn import CRFRNN

    how = {"method": "exact"} if path == "exact" else {}
    # No simple fractions: the lattice filter has kinks where points lie on faces of simplices.
    params = CRFParams((4.13, 2.57), (61.0, 19.0), (1.47, 2.53), 1.3, 0.7)
    crf = CRFRNN(3, params=params, iterations=3, trainable_bandwidths=True, **how).double()
    assert {name: list(t.shape) for name, t in crf.state_dict().items()} == {
        "kernel_weights": [2, 3], "compatibility": [3, 3], "log_bandwidths": [2, 2],
        "_extra_state": [1024],
    }
    logits, image = (torch.from_numpy(a) for a in random_problem(3, (6, 7), 2))
    image = image.movedim(-1, 0)[None]

    def loss():
        out = crf(logits[None], image, return_all=path == "textbook")
        return (out[-1] if path == "textbook" else out).sin().sum()

    (gradient,) = torch.autograd.grad(loss(), [crf.log_bandwidths])
    assert (gradient[:, 0] != 0).all() and gradient[0, 1] != 0 and gradient[1, 1] == 0
    step = 1e-6
    for where in ((0, 0), (0, 1), (1, 0)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                crf.log_bandwidths[where] += sign * step
                ends.append(loss())
                crf.log_bandwidths[where] -= sign * step
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient[where]), rel=1e-5)


def test_a_layer_compiles_with_several_bandwidths():
    torch = pytest.importorskip("torch")
    import nn_problems as make

    from densecrf_rnn.nn import CRFRNN

    params = CRFParams((4.0, 2.5), (60.0, 20.0, 40.0), (1.5, 2.5), 1.3, 0.7)
    for learned in (False, True):
        crf = CRFRNN(3, params=params, iterations=2, trainable_bandwidths=learned).double()
        logits, image = make.problem(0, 5, 6)
        make.assert_compiles_into_one_graph(crf, logits, image)
    assert torch.equal(crf.bandwidths.detach()[0], torch.tensor([4.0, 60.0]).double())


def test_kernels_of_ones_own_take_several_bandwidths():
    torch = pytest.importorskip("torch")
    from densecrf_rnn.nn import functional

    logits, image = (torch.from_numpy(a) for a in random_problem(3, (6, 7), 2))
    given = {"logits": logits[None], "image": image.movedim(-1, 0)[None]}
    own = [kernels.Bilateral((4, 2), (60, 20)), kernels.Spatial([1.5, 2.5])]
    want = functional.mean_field(**given, params=CRFParams((4, 2), (60, 20), (1.5, 2.5)))
    assert torch.equal(functional.mean_field(**given, kernels=own), want)
    with pytest.raises(ValueError, match=r"kernels\[1\].theta_guide has 3 numbers but depth has 1"):
        functional.mean_field(
            **given, guides={"depth": image[None, None, ..., 0]},
            kernels=[own[1], kernels.Custom((1, 2, 3), "depth")],
        )  # fmt: skip


WRONG = [
    ({"theta_beta": (3, 4)}, "theta_beta has 2 numbers but image has 3 channels; give one number"),
    ({"theta_beta": (3,)}, "theta_beta has 1 number but image has 3 channels"),
    ({"theta_alpha": (3, 4, 5)}, r"theta_alpha has 3 numbers but there are 2 spatial axes \(row"),
    ({"theta_gamma": (3,)}, "theta_gamma has 1 number but there are 2 spatial axes"),
]


@pytest.mark.parametrize("wrong, message", WRONG)
def test_a_wrong_count_is_refused_everywhere(wrong, message):
    logits, image = random_problem(3, (6, 7), 3)
    params = CRFParams(**wrong)
    calls = [
        lambda: mean_field(logits, image, params),
        lambda: refine(logits, image, params, iterations=0),
        lambda: refine_tiled(logits, image, params),
        lambda: free_energy(logits, logits, image, params),
    ]
    if "theta_beta" not in wrong:
        calls.append(lambda: tiles.reach(params, (6, 7)))
    try:
        import torch

        from densecrf_rnn.nn import CRFRNN

        tensors = [torch.from_numpy(a)[None] for a in (logits, np.moveaxis(image, -1, 0).copy())]
        for learned in (False, True):
            crf = CRFRNN(3, params=params, trainable_bandwidths=learned).double()
            calls.append(lambda crf=crf: crf(*tensors))
    except ImportError:
        pass
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


NUMBERS = st.floats(1e-3, 1e3)


@given(st.builds(CRFParams, *[NUMBERS | st.lists(NUMBERS, min_size=1, max_size=4)] * 3))
def test_parameters_with_several_bandwidths_round_trip(params):
    assert CRFParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    assert eval(str(params)) == params and {params: 1}[eval(str(params))] == 1


# --- tuning --------------------------------------------------------------------------------------


def test_a_search_varies_one_factor_and_keeps_the_ratio():
    pytest.importorskip("optuna")
    from densecrf_rnn import tuning
    from densecrf_rnn.samples import Sample

    logits, image = random_problem(2, (8, 9), 2, np.float32)
    one = Sample("one", image, logits, logits.argmax(0))
    base = CRFParams((8, 4), (0.5, 50), 2)
    task = tuning.Task(base=base, ranges={"theta_beta": (0.1, 10)}, iterations=1)
    tried = []
    tuning.tune([one], task, trials=4, on_trial=lambda outcome: tried.append(outcome.params))
    assert tried[0] == base
    for params in tried:
        first, second = params.theta_beta
        assert second == pytest.approx(100 * first, rel=0.01) and 0.1 <= first <= 10
        assert params.theta_alpha == (8, 4) and params.theta_gamma == 2
    assert tuning.Task(base=base).ranges["theta_beta"] == pytest.approx((0.1, 5.0))
    assert tuning.Task(base=base).ranges["theta_gamma"] == tuning.RANGES["theta_gamma"]
    assert tuning.Task().ranges == tuning.RANGES


def test_gradients_learn_one_factor_and_keep_the_ratio():
    pytest.importorskip("torch")
    from densecrf_rnn.nn.tuning import learn
    from densecrf_rnn.samples import Sample

    logits, image = random_problem(2, (8, 9), 2, np.float32)
    one = Sample("one", image, logits, logits.argmax(0)[::-1])
    learned = learn([one], CRFParams((8, 4), (15, 60), 2), passes=2).params
    assert learned.theta_beta[1] == pytest.approx(4 * learned.theta_beta[0], rel=1e-3)
    assert learned.theta_alpha[0] == pytest.approx(2 * learned.theta_alpha[1], rel=1e-3)
    assert learned.theta_beta[0] != 15 and isinstance(learned.theta_gamma, float)


# --- files and the command line ------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, capsys):
    """Run `densecrf-rnn refine` on one stem; return the exit status, the marginals and stderr."""
    pytest.importorskip("tqdm")
    from densecrf_rnn.cli import main

    def run(logits, image, *options):
        for name, array in (("logits", logits), ("images", image)):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / "a.npy", array)
        folders = [str(tmp_path / name) for name in ("logits", "images")]
        status = main(
            ["refine", *folders, "--out", str(tmp_path / "out"), "--dtype", "float32",
             "--write", "marginals", *options]
        )  # fmt: skip
        written = sorted((tmp_path / "out").glob("a.np?"))
        found = np.load(written[0]) if written else None
        found = found["marginals"] if found is not None and written[0].suffix == ".npz" else found
        return status, found, capsys.readouterr()

    return run


def test_the_command_takes_several_bandwidths_and_records_them(command):
    logits, image = random_problem(3, (12, 9), 2, np.float32)
    options = ["--theta-alpha", "8,4", "--theta-beta", "30,60", "--theta-gamma", "3,2"]
    status, found, _ = command(logits, image, *options)
    params = CRFParams((8, 4), (30, 60), (3, 2), 3.0)
    assert status == 0
    np.testing.assert_array_equal(found, refine(logits, image, params, iterations=10))
    assert "1 were done before" in command(logits, image, *options)[2].out
    status, _, printed = command(logits, image, *options[:4], "--theta-gamma", "2,3")
    assert "--theta-gamma was [3.0, 2.0], is [2.0, 3.0]" in printed.out


def test_the_command_takes_several_bandwidths_with_tiles(command):
    logits, image = random_problem(3, (12, 9), 2, np.float32)
    status, found, _ = command(
        logits, image, "--theta-alpha", "1,2", "--theta-beta", "30,60", "--tile", "8", "--halo",
        "exact", "--iterations", "2",
    )  # fmt: skip
    params = CRFParams((1, 2), (30, 60), w_bilateral=3.0)
    assert status == 0
    np.testing.assert_allclose(found, refine(logits, image, params, iterations=2), atol=1e-6)


@pytest.mark.parametrize("wrong, message", [
    (["--theta-beta", "3,4,5"], "--theta-beta has 3 numbers but image has 2 channels"),
    (["--theta-gamma", "3"], None),
    (["--theta-gamma", "3,4,5"], "--theta-gamma has 3 numbers but there are 2 spatial axes"),
    (["--theta-gamma", "3,x"], "'3,x' is not a number or numbers separated by commas"),
])
def test_the_command_refuses_a_wrong_count(command, wrong, message):
    logits, image = random_problem(3, (12, 9), 2, np.float32)
    for tile in ([], ["--tile", "8"]):
        try:
            status, _, printed = command(logits, image, *wrong, *tile)
        except SystemExit as exit_:
            assert "x" in wrong[1] and exit_.code == 2
            continue
        assert (status == 0) == (message is None)
        assert (message or "") in printed.err


def test_onnx_carries_several_bandwidths():
    from densecrf_rnn import onnx_runtime

    logits, image = random_problem(3, (6, 7), 2)
    params = CRFParams((4, 2), (60, 20), (1.5, 2.5))
    stored = onnx_runtime.settings(params, 5, None)
    weights = np.array([params.w_bilateral, params.w_spatial])
    found = onnx_runtime.run_node(
        stored, logits[None], np.moveaxis(image, -1, 0)[None], weights, 1 - np.eye(3)
    )
    np.testing.assert_array_equal(found[0], mean_field(logits, image, params))
