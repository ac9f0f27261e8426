"""Tests of the exact method: that it is the definition, with exact gradients, in O(N) memory."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
import oracles  # noqa: E402
from processes import environment  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN, engines  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.ops import exact_filter as exact  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402

OPERATORS = list(product(make.NORMALIZATIONS, (True, False)))
# Rounding of sums of some hundred terms, and of exponents up to the point where K vanishes.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 7 x 7, so that small problems have many, some of them narrower."""
    monkeypatch.setattr(exact, "tile_side", lambda like: 7)


def points(kind, count, dims, batch=1, channels=3, dtype=torch.float64):
    """Features [batch, count, dims] of one of oracles.FEATURE_KINDS, and random values."""
    rows = [oracles.features(kind, count, dims, np.float64, seed) for seed in range(batch)]
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(batch, count, channels, generator=generator, dtype=torch.float64)
    return torch.from_numpy(np.stack(rows)).to(dtype), values.to(dtype)


def kernel_matrix(features, self_term=True):
    """K of one point set [N, D] from the definition."""
    kernel = dense.gaussian_kernel(features.detach().double().numpy())
    if not self_term:
        np.fill_diagonal(kernel, 0)
    return torch.from_numpy(kernel)


def refined(logits, image, params=make.small_params(), **options):
    return functional.mean_field(logits, image, params, method="exact", **options)


def oracle(logits, image, params, **options):
    """oracles.exact_mean_field of each image, as a tensor."""
    pairs = zip(logits.double(), image.double(), strict=True)
    found = [oracles.exact_mean_field(u.numpy(), make.numpy_image(i), params, **options)
             for u, i in pairs]
    return torch.from_numpy(np.stack(found))


# --- the filter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, groups", [(0, 0), (0, 1), (1, 1), (3, 1), (3, 3)])
def test_exact_operators_pass_opcheck(batch, groups):
    features, _ = points("normal", 9, 4, batch=3)
    features = features[:groups].requires_grad_()
    values = torch.randn(batch, 9, 2, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(exact.exact_filter.of_torch, (values, features, False))
    given = (values.detach(), torch.randn_like(values), features.detach())
    torch.library.opcheck(exact.exact_feature_gradient.of_torch, given)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("kind", oracles.FEATURE_KINDS)
@pytest.mark.parametrize("count, dims", [(1, 1), (50, 1), (50, 5), (20, 16)])
def test_filter_equals_the_definition(small_tiles, kind, count, dims, self_term, dtype):
    features, values = points(kind, count, dims, batch=2, dtype=dtype)
    found = exact.exact_filter(values, features, self_term)
    assert found.dtype == dtype
    for b in range(2):
        wanted = kernel_matrix(features[b], self_term) @ values[b].double()
        oracles.assert_near(found[b].double().numpy(), wanted.numpy(), TOLERANCE[dtype])


@pytest.mark.parametrize("batch, groups", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("kind", oracles.FEATURE_KINDS)
def test_filter_passes_gradcheck(small_tiles, kind, self_term, batch, groups):
    features, _ = points(kind, 10, 3, batch=groups)
    values = points(kind, 10, 3, batch=batch, channels=2)[1]
    given = (values.requires_grad_(), features.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, f: exact.exact_filter(v, f, self_term), given)


def test_filter_is_its_own_second_derivative_for_values():
    features, values = points("normal", 10, 3)
    values.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: exact.exact_filter(v, features, True), values)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("side", [1, 7, 64, 65, 66, 1000])
def test_the_size_of_tiles_does_not_matter(monkeypatch, side, dtype):
    features, values = points("normal", 65, 5, dtype=dtype)
    cotangent = values.roll(1, 1)

    def results():
        return (exact.exact_filter(values, features, False),
                exact.exact_feature_gradient(values, cotangent, features))

    wanted = results()
    monkeypatch.setattr(exact, "tile_side", lambda like: side)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(results(), wanted, rtol=tolerance, atol=tolerance)


def test_tiles_are_large_and_of_the_same_bytes_for_both_dtypes():
    sides = {dtype: exact.tile_side(torch.empty(0, dtype=dtype)) for dtype in TOLERANCE}
    assert sides[torch.float32] == 1024 and 700 < sides[torch.float64] < 1024


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_features_far_from_the_origin_are_filtered_as_well_as_others(dtype):
    # A quarter keeps its digits at 4096 in float32, so both sets have the same differences.
    features, values = points("grid", 40, 3, dtype=dtype)
    features = features / 4
    cotangent = values.roll(1, 1)
    for function in (lambda f: exact.exact_filter(values, f, True),
                     lambda f: exact.exact_feature_gradient(values, cotangent, f)):
        assert torch.equal(function(features + 4096), function(features))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_kernel_of_a_pixel_and_its_repetition_is_one(dtype):
    features = torch.full((1, 5, 3), 1234.567, dtype=dtype)
    found = exact.exact_filter(torch.eye(5, dtype=dtype)[None], features, True)
    assert (found == 1).all()
    without = exact.exact_filter(torch.eye(5, dtype=dtype)[None], features, False)
    assert torch.equal(without[0], 1 - torch.eye(5, dtype=dtype))


def test_filter_refuses_values_that_do_not_go_with_the_features():
    features, values = points("normal", 6, 2, batch=2)
    with pytest.raises(TypeError, match="values has dtype torch.float32 but features"):
        exact.exact_filter(values.float(), features, True)
    for wrong in (values[:, :5], values[0], values[:1]):
        with pytest.raises(ValueError, match=r"values has shape .*give \[B, 6, C\]"):
            exact.exact_filter(wrong, features, True)


# --- the mean field ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("normalization, self_term", OPERATORS)
@pytest.mark.parametrize("size", [(9, 11), (3, 4, 5)])
def test_exact_mean_field_equals_the_definition(
    small_tiles, normalization, self_term, size, dtype, tolerance
):
    params = make.small_params(normalization=normalization, self_term=self_term)
    logits, image = make.problem(0, *size, batch=2, labels=4, dtype=dtype)
    mu, weights = make.asymmetric(4, dtype=dtype), make.weights("full", 4, dtype=dtype)
    found = refined(logits, image, params, compatibility=mu, kernel_weights=weights)
    wanted = oracle(logits, image, params, compatibility=mu.double().numpy(),
                    kernel_weights=weights.double().numpy())
    assert found.dtype == dtype
    oracles.assert_near(found.double().numpy(), wanted.numpy(), tolerance)


@pytest.mark.parametrize("changes", [
    {"spatial": "lattice"}, {"quality": "symmetric"}, {"feature_order": "yx"},
])
def test_exact_mean_field_takes_no_notice_of_how_the_lattice_would_filter(changes):
    logits, image = make.problem(1, 5, 7)
    found = refined(logits, image, make.small_params(**changes))
    torch.testing.assert_close(found, refined(logits, image), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bandwidths", [
    {"theta_alpha": 1e9, "theta_beta": 1e9, "theta_gamma": 1e9},  # every pixel hears all alike
    {"theta_alpha": 1e-6, "theta_beta": 1e-6, "theta_gamma": 1e-6},  # and itself alone
    {"theta_alpha": 160.0, "theta_beta": 0.01, "theta_gamma": 0.3},
])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("self_term", [True, False])
def test_exact_mean_field_takes_any_bandwidth(bandwidths, self_term, dtype, tolerance):
    params = make.small_params(self_term=self_term, **bandwidths)
    logits, image = make.problem(2, 6, 7, dtype=dtype)
    image = image.round()
    image[..., 3:] = image[..., :1]  # repeated colours
    given = [logits.requires_grad_(), image.requires_grad_()]
    found = refined(*given, params)
    wanted = oracle(logits.detach(), image.detach(), params)
    oracles.assert_near(found.detach().double().numpy(), wanted.numpy(), tolerance)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sin().sum(), given))


@pytest.mark.parametrize("normalization, self_term", OPERATORS)
def test_exact_mean_field_of_one_pixel_equals_the_definition(normalization, self_term):
    params = make.small_params(normalization=normalization, self_term=self_term)
    logits, image = make.problem(3, 1, 1)
    given = [logits.requires_grad_(), image.requires_grad_()]
    found = refined(*given, params)
    wanted = oracle(logits.detach(), image.detach(), params)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(found.square().sum(), given)
    assert all(g.isfinite().all() for g in gradients) and (gradients[1] == 0).all()


def test_exact_mean_field_of_one_logit_is_that_of_the_labels_0_and_x():
    logits, image = make.problem(4, 5, 6, batch=2, labels=1)
    pair = refined(torch.cat([torch.zeros_like(logits), logits], 1), image)
    found = refined(logits, image)
    torch.testing.assert_close(found, pair[:, 1:] - pair[:, :1], rtol=1e-12, atol=1e-12)


def test_exact_mean_field_heeds_spacing():
    # Pixels twice as far apart in a row are those of every other column.
    logits, image = make.problem(5, 4, 12)
    params = make.small_params(normalization="none", w_spatial=0.0)
    spread = refined(logits[..., ::2], image[..., ::2], params, spacing=(1.0, 2.0))
    wanted = dense.gaussian_kernel(make.feature_rows(image[0], params)[0].reshape(4, 12, 5)[:, ::2]
                                   .reshape(-1, 5))
    rows = make.rows(logits[0, ..., ::2])
    direct = dense.mean_field(rows, [wanted], [params.w_bilateral], 1 - np.eye(3), 5)
    np.testing.assert_allclose(make.rows(spread[0]), direct, rtol=1e-12, atol=1e-12)


def test_exact_mean_field_takes_tensors_of_any_memory_layout():
    logits, image = make.problem(6, 5, 7, batch=2)
    wanted = refined(logits, image)
    for change in (lambda x: x.mT.contiguous().mT, lambda x: x.repeat_interleave(2, -1)[..., ::2],
                   lambda x: x.to(memory_format=torch.channels_last)):
        assert not change(image).is_contiguous()
        assert torch.equal(refined(change(logits), change(image)), wanted)


def test_exact_mean_field_of_no_iterations_is_a_copy_of_the_logits():
    logits, image = make.problem(7, 5, 7)
    found = refined(logits, image, iterations=0)
    assert torch.equal(found, logits) and found.data_ptr() != logits.data_ptr()


def test_exact_mean_field_keeps_ruled_out_labels_ruled_out():
    logits, image = make.problem(8, 6, 7)
    logits[0, 1, 2:4] = -torch.inf
    found = refined(logits, image)
    assert torch.equal(found == -torch.inf, logits == -torch.inf) and not found.isnan().any()


def test_exact_results_do_not_change_from_run_to_run(small_tiles):
    logits, image = make.problem(9, 8, 11, batch=2, dtype=torch.float32)
    image.requires_grad_()

    def results():
        out = refined(logits, image)
        return out, *torch.autograd.grad(out.sin().sum(), image)

    first = results()
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(results(), first, strict=True))


@pytest.mark.parametrize("theta, bound", [((30, 20, 3), 0.03), ((80, 13, 3), 0.03)])
def test_the_lattice_is_near_the_exact_mean_field(theta, bound):
    image = oracles.picture(40, 50)
    logits = torch.from_numpy(oracles.noisy_logits(4, image))[None]
    image = torch.from_numpy(image).movedim(-1, 0)[None]
    params = CRFParams(*theta)
    found = functional.mean_field(logits, image, params).softmax(1)
    assert (found - refined(logits, image, params).softmax(1)).abs().mean() < bound


# --- its gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization, self_term", OPERATORS)
@pytest.mark.parametrize("form", make.FORMS)
def test_exact_mean_field_passes_gradcheck(small_tiles, form, normalization, self_term):
    params = make.small_params(normalization=normalization, self_term=self_term)
    logits, image = make.problem(10, 3, 4, batch=2, channels=2)
    given = (logits, image, make.weights(form, 3), make.asymmetric(3))

    def function(logits, image, weights, mu):
        return refined(logits, image, params, kernel_weights=weights, compatibility=mu,
                       iterations=3)

    # Fast mode projects on random directions, cotangents among them.
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in given], fast_mode=True)


def test_exact_gradient_for_each_entry_of_the_image_equals_finite_differences():
    logits, image = make.problem(11, 2, 3, labels=2)
    image[..., 0, 1] = image[..., 0, 0]  # a repeated colour: the exact kernel is smooth there
    cotangent = make.problem(12, 2, 3, labels=2)[0]
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda i: (refined(logits, i) * cotangent).sum(), image)


def test_exact_gradients_of_an_empty_batch_are_zero():
    logits, image = make.problem(0, 5, 6, batch=0)
    given = [t.requires_grad_() for t in (logits, image, make.weights("diagonal", 3))]
    out = refined(*given[:2], kernel_weights=given[2])
    found = torch.autograd.grad(out.sum(), given)
    assert out.shape == (0, 3, 5, 6) and found[1].shape == image.shape
    assert (found[2] == 0).all()


def test_exact_mean_field_passes_gradgradcheck_for_logits_and_weights():
    logits, image = make.problem(13, 1, 3)
    given = [t.requires_grad_() for t in (logits, make.weights("diagonal", 3), make.asymmetric(3))]

    def function(logits, weights, mu):
        return refined(logits, image, kernel_weights=weights, compatibility=mu, iterations=2)

    assert torch.autograd.gradgradcheck(function, given)


def test_exact_gradient_for_the_image_cannot_be_differentiated_again():
    logits, image = make.problem(14, 3, 4)
    image.requires_grad_()
    (first,) = torch.autograd.grad(refined(logits, image).sin().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"cannot be differentiated again.*image\.detach"):
        first.square().sum().backward()


def test_exact_layer_compiles_into_one_graph():
    logits, image = make.problem(15, 6, 7, batch=2, dtype=torch.float32)
    crf = CRFRNN(3, params=make.small_params(self_term=False), method="exact")
    make.assert_compiles_into_one_graph(crf, logits, image)


# --- the layer, and what it refuses --------------------------------------------------------------


def test_exact_layer_equals_the_function_and_says_so():
    logits, image = make.problem(16, 5, 6, dtype=torch.float32)
    crf = CRFRNN(3, params=make.small_params(w_bilateral=5, w_spatial=3), method="exact").train()
    wanted = refined(logits, image, crf.params, kernel_weights=crf.kernel_weights)
    assert torch.equal(crf(logits, image), wanted)
    assert "method='exact'" in repr(crf) and "method='lattice'" in repr(CRFRNN(3))


def test_exact_layer_needs_no_engine(monkeypatch):
    monkeypatch.setattr(engines.registry, "why_unavailable", lambda name: "it was taken away")
    logits, image = make.problem(17, 5, 6, dtype=torch.float32)
    assert CRFRNN(3, method="exact")(logits, image).isfinite().all()


@pytest.mark.parametrize("method", ["attention", "Exact", None, 1])
def test_a_method_of_another_name_is_refused(method):
    logits, image = make.problem(18, 2, 3)
    for call in (lambda: functional.mean_field(logits, image, method=method),
                 lambda: CRFRNN(3, method=method)):
        with pytest.raises(ValueError, match="method is .*choose from 'lattice', 'exact'"):
            call()


@pytest.mark.parametrize("name", ["cpu", "numba", "nonsense"])
def test_the_exact_method_refuses_a_backend(name):
    logits, image = make.problem(18, 2, 3)
    for call in (lambda: refined(logits, image, backend=name),
                 lambda: CRFRNN(3, method="exact", backend=name)):
        with pytest.raises(ValueError, match=f"backend is '{name}' but method.*leave backend"):
            call()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["logits", "image"])
@pytest.mark.parametrize("value, message", [(float("nan"), "NaN"), (float("inf"), ".?infinity")])
def test_exact_layer_names_what_it_refuses(compiled, name, value, message):
    torch._dynamo.reset()
    layer = CRFRNN(3, method="exact")
    if compiled:
        layer = torch.compile(layer, fullgraph=True, backend="aot_eager")
    logits, image = make.problem(19, 4, 5, dtype=torch.float32)
    layer(logits, image)
    {"logits": logits, "image": image}[name][0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=f"{name} contains {message}"):
        layer(logits, image)


def test_exact_layer_refuses_a_pixel_without_a_label():
    logits, image = make.problem(19, 4, 5)
    logits[0, :, 1, 2] = -torch.inf
    with pytest.raises(ValueError, match="infinity for every label at 1 pixels"):
        refined(logits, image)


def test_exact_layer_warns_of_an_image_in_0_to_1():
    logits, image = make.problem(20, 4, 5)
    with pytest.warns(UserWarning, match="image spans") as caught:
        refined(logits, image / 255)
    assert caught[0].filename == __file__


# --- memory --------------------------------------------------------------------------------------

PEAK = """
import resource, sys, torch
from densecrf_rnn import CRFRNN
torch.set_num_threads(1)
crf = CRFRNN(2, iterations=1, method="exact").train()

def step(height, width):
    logits = torch.randn(1, 2, height, width, requires_grad=True)
    image = (255 * torch.rand(1, 1, height, width)).requires_grad_()
    crf(logits, image).square().sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux

before = step(40, 50)  # more than a tile: 2,000 pixels
print(step(100, 120) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.slow
def test_twelve_thousand_pixels_take_hardly_more_memory_than_two_thousand():
    result = subprocess.run(
        [sys.executable, "-c", PEAK], env=environment(),
        capture_output=True, text=True, timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 100_000  # kB; one matrix of N x N would be 576,000
