"""Weights of published CRF-RNN packages in a CRFRNN: the same function as those packages compute.

The state is made here, in each package's layout, and what the package computes with it is restated
here from its formula: Q = softmax(U'), M = W_s K_s Q + W_b K_b Q with row-normalised lattices,
then U' = U - C M (Caffe, Keras) or U' = U + C M (crfasrnn_pytorch).
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import CRFRNN, CRFParams, kernels  # noqa: E402
from densecrf_rnn.compat import (  # noqa: E402
    load_crfasrnn_caffe,
    load_crfasrnn_keras,
    load_crfasrnn_pytorch,
)

L = 3
PARAMS = CRFParams(spatial="lattice")  # the published bandwidths
NAMES = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")


def matrices(seed=0):
    """Spatial weights, bilateral weights and a compatibility [L, L]; none of them symmetric."""
    rng = np.random.default_rng(seed)
    eye = np.eye(L)
    return [3 * eye, 5 * eye, eye] + rng.normal(0, 0.4, (3, L, L))


def softmax(x):
    x = np.exp(x - x.max(0))
    return x / x.sum(0)


def restated(logits, image, spatial_weights, bilateral_weights, change, iterations):
    """The package's formula on [L, N]; `change` maps M to what is added to U."""
    bilateral, spatial = make.kernel_matrices(image[0], PARAMS, "auto")
    u = logits[0].flatten(1).numpy()
    current = u
    for _ in range(iterations):
        q = softmax(current)
        messages = spatial_weights @ (q @ spatial.T) + bilateral_weights @ (q @ bilateral.T)
        current = u + change(messages)
    return current.reshape(logits.shape)


def layer(**options):
    return CRFRNN(L, **{"params": PARAMS, "kernel_weights": "full", **options}).double().eval()


def check(crf, spatial, bilateral, change):
    logits, image = make.problem(0, 7, 8, labels=L)
    image = image / 20  # so that colours differ by some theta_beta
    with torch.no_grad():
        found = crf(logits, image)
    wanted = restated(logits, image, spatial, bilateral, change, crf.eval_iterations)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)  # the state is float32
    assert np.abs(found.numpy() - logits.numpy()).max() > 0.5  # so that a sign would show


def test_weights_of_crfasrnn_pytorch_give_its_function():
    spatial, bilateral, compatibility = (m.astype(np.float32) for m in matrices())
    state = {"conv1_1.weight": torch.zeros(2, 3, 3, 3)}
    state |= {f"crfrnn.{name}": torch.nn.Parameter(torch.from_numpy(m))
              for name, m in zip(NAMES, (spatial, bilateral, compatibility), strict=True)}
    crf = layer()
    report = load_crfasrnn_pytorch(crf, state)
    check(crf, spatial, bilateral, lambda messages: compatibility @ messages)  # it adds
    assert set(report.converted) == {"kernel_weights[0]", "kernel_weights[1]", "compatibility"}
    assert report.ignored == {"conv1_1.weight": "not a parameter of the CRF"}
    assert report.differences == ()
    assert "negated" in str(report)


@pytest.mark.parametrize("layout", ["h5 names", "layer names", "list"])
def test_weights_of_the_keras_release_give_its_function(layout):
    spatial, bilateral, compatibility = (m.astype(np.float32) for m in matrices(1))
    compatibility = -compatibility  # starts at -I
    given = [spatial, bilateral, compatibility]
    if layout != "list":
        name = {"h5 names": "crfrnn/{}:0", "layer names": "{}"}[layout]
        given = {name.format(n): m for n, m in reversed(list(zip(NAMES, given, strict=True)))}
    crf = layer()
    report = load_crfasrnn_keras(crf, given)
    check(crf, spatial, bilateral, lambda messages: -compatibility @ messages)  # it subtracts
    assert "negated" not in str(report)


@pytest.mark.parametrize("blob_shape", [(1, 1, L, L), (L, L)])
def test_weights_of_the_caffe_release_give_its_function(blob_shape):
    spatial, bilateral, compatibility = (m.astype(np.float32) for m in matrices(2))
    compatibility = -compatibility
    crf = layer()
    load_crfasrnn_caffe(crf, [m.reshape(blob_shape) for m in (spatial, bilateral, compatibility)])
    check(crf, spatial, bilateral, lambda messages: -compatibility @ messages)


def test_untrained_weights_of_all_packages_are_the_defaults_of_ours():
    eye, logits_and_image = np.eye(L), make.problem(3, 6, 7, labels=L, dtype=torch.float64)
    wanted = layer()(*logits_and_image).softmax(1)
    for load, given in (
        (load_crfasrnn_pytorch, dict(zip(NAMES, (3 * eye, 5 * eye, eye), strict=True))),
        (load_crfasrnn_keras, [3 * eye, 5 * eye, -eye]),
        (load_crfasrnn_caffe, [3 * eye, 5 * eye, -eye]),
    ):
        crf = layer()
        load(crf, given)
        torch.testing.assert_close(crf(*logits_and_image).softmax(1), wanted)


@pytest.mark.parametrize("form", ["diagonal", "scalar"])
def test_weights_of_a_simpler_form_go_into_a_layer_of_that_form(form):
    eye = np.eye(L)
    spatial, bilateral = 2 * eye, 4 * eye
    if form == "diagonal":
        spatial[0, 0] = 1
    crf = layer(kernel_weights=form)
    report = load_crfasrnn_keras(crf, [spatial, bilateral, -eye])
    check(crf, spatial, bilateral, lambda messages: messages)
    assert "its diagonal" in str(report)


def test_weights_keep_the_layers_dtype_and_still_train():
    crf = CRFRNN(L, params=PARAMS, kernel_weights="full")
    kept = crf.kernel_weights
    load_crfasrnn_caffe(crf, list(matrices()))
    assert crf.kernel_weights is kept and kept.dtype == torch.float32 and kept.requires_grad
    crf(*make.problem(0, 5, 6, labels=L, dtype=torch.float32)).square().sum().backward()
    assert (kept.grad != 0).any()


def test_report_names_settings_with_which_the_layer_differs_from_the_package():
    crf = CRFRNN(L, params=CRFParams(theta_beta=13), kernel_weights="full")
    report = load_crfasrnn_caffe(crf, list(matrices()))
    assert report.differences == (
        "params.theta_beta is 13.0, there 3.0", "params.spatial is 'grid', there 'lattice'"
    )
    assert "differs: params.theta_beta is 13.0, there 3.0" in str(report)


def test_report_names_kernels_update_and_method_with_which_the_layer_differs():
    own = [kernels.Bilateral(160, 13), kernels.Spatial(3)]
    options = {"kernel_weights": "full", "update": "relu", "method": "exact"}
    crf = CRFRNN(L, params=PARAMS, kernels=own, **options)
    assert load_crfasrnn_caffe(crf, list(matrices())).differences == (
        "kernels[0].theta_guide is 13.0, there 3.0", "update is 'relu', there 'softmax'",
        "method is 'exact', there 'lattice'",
    )


@pytest.mark.parametrize("own", [
    [kernels.Spatial(3), kernels.Bilateral(160, 3)],
    [kernels.Bilateral(160, 3), kernels.Bilateral(80, 13)],
    [kernels.Custom(1.0, "image"), kernels.Spatial(3)],
    [kernels.Kernel(160, 3, "depth"), kernels.Spatial(3)],
], ids=["in another order", "two of the image", "one of no position", "one of another guide"])
def test_other_kernels_than_the_weights_are_for_are_refused(own):
    crf = CRFRNN(L, kernel_weights="full", kernels=own)
    before = crf.kernel_weights.clone()
    with pytest.raises(ValueError, match="other kernels, or another order of them"):
        load_crfasrnn_caffe(crf, list(matrices()))
    assert torch.equal(crf.kernel_weights, before)


@pytest.mark.parametrize("iterations", [2, 3])
def test_untied_iterations_are_refused_whatever_their_number(iterations):
    crf = CRFRNN(L, iterations=iterations, tied=False, kernel_weights="scalar")
    with pytest.raises(ValueError, match="one bilateral and one spatial kernel, shared by all"):
        load_crfasrnn_caffe(crf, list(matrices()))


def test_report_names_learned_bandwidths_that_the_package_does_not_have():
    params = CRFParams(theta_alpha=160, theta_beta=3, theta_gamma=3, spatial="lattice")
    crf = CRFRNN(L, params=params, kernel_weights="full", trainable_bandwidths=True)
    assert load_crfasrnn_caffe(crf, list(matrices())).differences == ()
    with torch.no_grad():
        next(p for name, p in crf.named_parameters() if "bandwidth" in name).add_(0.5)
    differences = load_crfasrnn_caffe(crf, list(matrices())).differences
    (alpha, beta), (gamma, _) = crf.bandwidths.tolist()
    assert len(differences) == 3
    for said, value in zip(differences, (alpha, beta, gamma), strict=True):
        assert f" is {value:.6g}," in said


# --- refusals ------------------------------------------------------------------------------------


def state(**changes):
    given = dict(zip(NAMES, matrices(), strict=True))
    return {name: changes.get(name, m) for name, m in given.items()}


@pytest.mark.parametrize("given, error, message", [
    ([1], TypeError, "state_dict is list; it must be a mapping"),
    ({}, ValueError, "no entry is called spatial_ker_weights .there is nothing.; give"),
    ({"a.spatial_ker_weights": 0}, ValueError, "no entry is called bilateral_ker_weights"),
    (state() | {"a.compatibility_matrix": 0}, ValueError, "keep the entries of one CRF only"),
    (state(compatibility_matrix=np.eye(4)), ValueError,
     r"compatibility_matrix has shape \[4, 4\]; it must be \[3, 3\].*num_classes=4"),
    (state(bilateral_ker_weights=np.zeros((2, 1, 3, 3))), ValueError, r"has shape \[2, 1, 3, 3\]"),
    (state(spatial_ker_weights=np.full((3, 3), np.nan)), ValueError, "contains NaN"),
    (state(spatial_ker_weights="x"), TypeError, "it must hold numbers"),
])
def test_weights_that_cannot_be_are_refused_and_nothing_changes(given, error, message):
    crf = layer()
    before = {name: t.clone() for name, t in crf.state_dict().items()}
    with pytest.raises(error, match=message):
        load_crfasrnn_pytorch(crf, given)
    assert all(torch.equal(t, before[name]) for name, t in crf.state_dict().items())


@pytest.mark.parametrize("given, error, message", [
    ([0, 0], ValueError, "blobs holds 2 arrays; it must hold three: spatial_ker_weights"),
    (3, TypeError, "blobs is int; it must be a list of three arrays"),
    ({}, TypeError, "blobs is dict"),
])
def test_lists_of_another_kind_or_length_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        load_crfasrnn_caffe(layer(), given)


def test_weights_that_the_layer_cannot_hold_are_refused():
    diagonal = np.diag([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="off its diagonal.*kernel_weights='full'"):
        load_crfasrnn_keras(layer(kernel_weights="diagonal"), list(matrices()))
    with pytest.raises(ValueError, match="different weights for the labels"):
        load_crfasrnn_keras(layer(kernel_weights="scalar"), [diagonal, diagonal, diagonal])
    with pytest.raises(ValueError, match="fixed Potts compatibility.*compatibility='learned'"):
        load_crfasrnn_keras(layer(compatibility="potts"), list(matrices()))
    with pytest.raises(TypeError, match="crf is Conv2d; it must be a CRFRNN"):
        load_crfasrnn_keras(torch.nn.Conv2d(1, 1, 1), list(matrices()))
