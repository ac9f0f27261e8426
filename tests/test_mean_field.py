"""mean_field and refine on NumPy arrays: what holds exactly, and how near the truth they are."""

import importlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    MEAN_FIELD_TOLERANCE,
    assert_near,
    exact_mean_field,
    noisy_logits,
    picture,
    random_problem,
    softmax,
)

from densecrf_rnn import CRFParams, checks, engines, mean_field, refine, samples
from densecrf_rnn.engines import why_unavailable
from densecrf_rnn.params import FEATURE_ORDERS, NORMALIZATIONS, SPATIAL_FILTERS

inference_module = importlib.import_module("densecrf_rnn.inference.mean_field")

SIZES = ((1, 1), (1, 13), (13, 1), (7, 11), (2, 3, 5), (1, 1, 1))
SOFT = CRFParams(theta_alpha=8, theta_beta=20, theta_gamma=2, w_bilateral=2, w_spatial=1)
# (spatial, quality): every kind of kernel that an engine runs.
KINDS = (
    ("grid", "standard"), ("lattice", "standard"), ("lattice", "symmetric"), ("grid", "filled")
)  # fmt: skip
PROBLEMS = given(
    labels=st.sampled_from((1, 2, 3, 21)),
    size=st.sampled_from(SIZES),
    channels=st.sampled_from((1, 3, 5)),
    seed=st.integers(0, 2**32 - 1),
)


# --- identities ----------------------------------------------------------------------------------


@PROBLEMS
def test_mean_field_zero_iterations_is_identity(backend, dtype, labels, size, channels, seed):
    logits, image = random_problem(labels, size, channels, dtype, seed)
    refined = mean_field(logits, image, SOFT, iterations=0, backend=backend)
    np.testing.assert_array_equal(refined, logits)
    assert not np.shares_memory(refined, logits)


def test_refine_zero_iterations_is_softmax(backend, dtype):
    logits, image = random_problem(dtype=dtype)
    q = refine(logits, image, SOFT, iterations=0, backend=backend)
    np.testing.assert_allclose(q, softmax(logits), rtol=1e-5, atol=1e-7)


@PROBLEMS
def test_refine_is_the_softmax_of_mean_field(backend, dtype, labels, size, channels, seed):
    logits, image = random_problem(labels, size, channels, dtype, seed)
    q = refine(logits, image, SOFT, iterations=3, backend=backend)
    refined = mean_field(logits, image, SOFT, iterations=3, backend=backend)
    assert q.dtype == np.float32 and q.shape == logits.shape
    assert refined.dtype == dtype and refined.shape == logits.shape
    if labels == 1:
        np.testing.assert_allclose(q, softmax(np.concatenate([0 * refined, refined]))[1:], 1e-5)
    else:
        np.testing.assert_allclose(q, softmax(refined), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(q.sum(0), 1, rtol=1e-6)


@PROBLEMS
def test_mean_field_does_not_depend_on_the_order_of_labels(backend, labels, size, channels, seed):
    logits, image = random_problem(labels, size, channels, seed=seed)
    order = np.random.default_rng(seed).permutation(labels)
    refined = mean_field(logits, image, SOFT, backend=backend)
    permuted = mean_field(np.ascontiguousarray(logits[order]), image, SOFT, backend=backend)
    assert_near(permuted, refined[order], 1e-12)


@PROBLEMS
def test_a_constant_per_pixel_changes_no_marginal(backend, labels, size, channels, seed):
    logits, image = random_problem(max(2, labels), size, channels, seed=seed)
    constant = np.random.default_rng(seed).normal(scale=10, size=size)
    plain = mean_field(logits, image, SOFT, backend=backend)
    shifted = mean_field(logits + constant, image, SOFT, backend=backend)
    assert_near(shifted - constant, plain, 1e-12)


@PROBLEMS
def test_one_logit_stands_for_two_labels(backend, dtype, labels, size, channels, seed):
    x, image = random_problem(1, size, channels, dtype, seed)
    stacked = np.concatenate([np.zeros_like(x), x])
    one = mean_field(x, image, SOFT, backend=backend)
    two = mean_field(stacked, image, SOFT, backend=backend)
    assert_near(one, two[1:] - two[:1], MEAN_FIELD_TOLERANCE[dtype])
    foreground = refine(x, image, SOFT, backend=backend)
    assert_near(foreground, refine(stacked, image, SOFT, backend=backend)[1:], 1e-6)


@PROBLEMS
def test_kernel_weights_agree_in_all_their_forms(backend, dtype, labels, size, channels, seed):
    logits, image = random_problem(labels, size, channels, dtype, seed)
    stacked = max(2, labels)
    weights = np.array([2.0, 1.0])
    diagonal = np.repeat(weights[:, None], stacked, axis=1)
    full = weights[:, None, None] * np.eye(stacked)
    per_label = replace(SOFT, w_bilateral=tuple(diagonal[0]), w_spatial=list(diagonal[1]))
    want = mean_field(logits, image, SOFT, backend=backend)
    np.testing.assert_array_equal(mean_field(logits, image, per_label, backend=backend), want)
    for form in (weights, diagonal, full):
        # The weights in `params` must not matter once kernel_weights are given.
        params = replace(SOFT, w_bilateral=-9, w_spatial=-9)
        got = mean_field(logits, image, params, kernel_weights=form, backend=backend)
        np.testing.assert_array_equal(got, want)


def test_zero_weights_leave_the_logits(backend, dtype):
    logits, image = random_problem(dtype=dtype)
    off = replace(SOFT, w_bilateral=0, w_spatial=0)
    np.testing.assert_array_equal(mean_field(logits, image, off, backend=backend), logits)


def test_potts_is_the_default_compatibility(backend):
    logits, image = random_problem(labels=4)
    potts = mean_field(logits, image, SOFT, compatibility=1 - np.eye(4), backend=backend)
    np.testing.assert_array_equal(potts, mean_field(logits, image, SOFT, backend=backend))


# --- engines and threads -------------------------------------------------------------------------


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("size", [(11, 13), (4, 5, 6)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("order", FEATURE_ORDERS)
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("spatial", "quality"), KINDS)
def test_mean_field_is_the_same_on_both_backends(
    dtype, spatial, quality, normalization, self_term, order, size
):
    logits, image = random_problem(4, size, 3, dtype, seed=1)
    rng = np.random.default_rng(2)
    # Row sums of the raw kernel reach about 30, so weights are smaller there.
    scale = 0.05 if normalization == "none" else 1
    full = scale * (np.array([2.0, 1.0])[:, None, None] * np.eye(4) + rng.normal(0, 0.2, (2, 4, 4)))
    mu = 1 - np.eye(4) + rng.normal(0, 0.2, (4, 4))
    params = replace(
        SOFT, normalization=normalization, self_term=self_term, feature_order=order,
        spatial=spatial, quality=quality,
    )  # fmt: skip
    native, reference = (
        mean_field(logits, image, params, kernel_weights=full, compatibility=mu, backend=name)
        for name in ("cpu", "numba")
    )
    assert_near(native, reference, MEAN_FIELD_TOLERANCE[dtype])


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize(("spatial", "quality"), KINDS)
@PROBLEMS
def test_mean_field_is_the_same_on_both_backends_at_odd_sizes(
    dtype, spatial, quality, labels, size, channels, seed
):
    logits, image = random_problem(labels, size, channels, dtype, seed)
    params = replace(SOFT, spatial=spatial, quality=quality)
    mask = np.random.default_rng(seed).random(size) < 0.7
    for function, tolerance in ((mean_field, MEAN_FIELD_TOLERANCE[dtype]), (refine, 1e-4)):
        native, reference = (
            function(logits, image, params, mask=mask, backend=name) for name in ("cpu", "numba")
        )
        assert_near(native, reference, tolerance)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("spatial", "quality"), KINDS)
def test_mean_field_gives_equal_bits_for_any_number_of_threads(
    backend, dtype, spatial, quality, normalization
):
    if backend == "numba" and (spatial, quality) != KINDS[0]:
        pytest.skip("numba is serial")
    logits, image = random_problem(3, (90, 103), 3, dtype)
    params = replace(
        SOFT, normalization=normalization, self_term=normalization == "after", spatial=spatial,
        quality=quality,
    )  # fmt: skip
    serial = mean_field(logits, image, params, backend=backend, threads=1)
    for threads in (2, 3, 7):
        got = mean_field(logits, image, params, backend=backend, threads=threads)
        np.testing.assert_array_equal(got, serial)


# --- against the exact CRF -----------------------------------------------------------------------

# Disagreement with the exact mean field on picture(40, 50) and noisy_logits, 5 labels, 5
# iterations, where the CRF changes 36 % of the labels: (fraction of labels, rms of marginals).
# The bounds are twice the errors measured in float64, written beside them: the largest over either
# setting of self_term and of spatial.
EXACT_TOLERANCE = {
    "after": (0.001, 0.010),  # 0.0005, 0.0049
    "before": (0.003, 0.008),  # 0.0015, 0.0039
    "symmetric": (0.002, 0.009),  # 0.0010, 0.0043
    "none": (0.010, 0.038),  # 0.0050, 0.0188: K 1 of the lattice is about 0.6 of the exact one
    "defaults": (0.005, 0.028),  # 0.0025, 0.0138: theta 160 / 3, the narrow bilateral kernel
    "matrices": (0.003, 0.0045),  # 0.0015, 0.0021
    "volume": (0.001, 0.0015),  # 0, 0.0006
}
BROAD = CRFParams(theta_alpha=80, theta_beta=13, theta_gamma=3, w_bilateral=4, w_spatial=2)


EXACT = {}  # the oracle is slow, and the same for every backend


def assert_near_exact(case, logits, image, params, backend, **options):
    q = softmax(mean_field(logits, image, params, backend=backend, **options))
    key = case, params.self_term  # the exact CRF knows no lattice
    if key not in EXACT:
        EXACT[key] = softmax(exact_mean_field(logits, image, params, **options))
    exact = EXACT[key]
    labels = (q.argmax(0) != exact.argmax(0)).mean()
    rms = np.sqrt(((q - exact) ** 2).mean())
    print(f"{case}, {params.spatial}: labels {labels:.4f}, rms {rms:.4f}")
    allowed_labels, allowed_rms = EXACT_TOLERANCE[case]
    assert labels <= allowed_labels and rms <= allowed_rms


@pytest.fixture(params=SPATIAL_FILTERS)
def spatial(request):
    return request.param


@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_mean_field_is_near_the_exact_one(backend, spatial, normalization, self_term):
    image = picture(40, 50)
    params = replace(
        BROAD, normalization=normalization, self_term=self_term, spatial=spatial
    )
    if normalization == "none":  # K 1 is in the hundreds
        params = replace(params, w_bilateral=0.02, w_spatial=0.1)
    assert_near_exact(normalization, noisy_logits(5, image), image, params, backend)


def test_mean_field_with_default_parameters_is_near_the_exact_one(backend, spatial):
    image = picture(40, 50)
    params = CRFParams(spatial=spatial)
    assert_near_exact("defaults", noisy_logits(5, image), image, params, backend)


def test_mean_field_reads_matrices_by_the_pixels_own_label(backend):
    """Rows of mu and W are the pixel's own label; transposed they change most marginals."""
    image = picture(40, 50)
    logits = noisy_logits(3, image)
    rng = np.random.default_rng(5)
    mu = np.array([[0.0, 1.5, 0.2], [0.4, 0.0, 1.3], [1.2, 0.5, 0.1]])
    weights = np.array([4.0, 2.0])[:, None, None] * np.eye(3) + 0.5 * rng.normal(size=(2, 3, 3))
    options = {"kernel_weights": weights, "compatibility": mu}
    assert_near_exact("matrices", logits, image, BROAD, backend, **options)
    right = softmax(mean_field(logits, image, BROAD, backend=backend, **options))
    for name, value in (("kernel_weights", weights), ("compatibility", mu)):
        turned = options | {name: np.ascontiguousarray(value.swapaxes(-1, -2))}
        wrong = softmax(mean_field(logits, image, BROAD, backend=backend, **turned))
        assert np.abs(wrong - right).mean() > 0.01


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrices_of_numpy_are_arrays_as_others():
    image = picture(8, 9)
    logits, mu = noisy_logits(3, image), np.array([[0, 1.5, 0.2], [0.4, 0, 1.3], [1.2, 0.5, 0.1]])
    for weights in (None, np.arange(1.0, 7).reshape(2, 3)):
        wanted = mean_field(logits, image, BROAD, kernel_weights=weights, compatibility=mu)
        weights = None if weights is None else np.matrix(weights)
        given = {"kernel_weights": weights, "compatibility": np.matrix(mu)}
        assert np.array_equal(mean_field(logits, image, BROAD, **given), wanted)


def test_mean_field_of_a_volume_is_near_the_exact_one(backend, spatial):
    volume = np.stack([picture(12, 14, 1, seed=slice_) for slice_ in range(10)])
    params = replace(BROAD, theta_alpha=10, theta_gamma=2, spatial=spatial)
    assert_near_exact("volume", noisy_logits(3, volume), volume, params, backend)


# --- infinite logits, masks, spacing -------------------------------------------------------------


@PROBLEMS
def test_a_label_ruled_out_never_wins(backend, dtype, labels, size, channels, seed):
    logits, image = random_problem(max(2, labels), size, channels, dtype, seed)
    out = np.random.default_rng(seed).random(logits.shape) < 0.4
    out[np.random.default_rng(seed).integers(len(logits))] = False  # one label stays possible
    logits[out] = -np.inf
    refined = mean_field(logits, image, SOFT, backend=backend)
    np.testing.assert_array_equal(refined == -np.inf, out)
    assert not np.isnan(refined).any()
    q = refine(logits, image, SOFT, backend=backend)
    assert (q[out] == 0).all()
    np.testing.assert_allclose(q.sum(0), 1, rtol=1e-6)


def test_a_foreground_logit_of_minus_infinity_is_background(backend, dtype):
    logits, image = random_problem(1, (5, 6), dtype=dtype)
    logits[0, 2, 3] = -np.inf
    q = refine(logits, image, SOFT, backend=backend)
    assert q[0, 2, 3] == 0 and np.isfinite(q).all()


def test_mask_of_the_top_left_equals_the_crop(backend, dtype):
    logits, image = random_problem(3, (13, 17), dtype=dtype)
    mask = np.zeros((13, 17), bool)
    mask[:7, :11] = True
    crop = logits[:, :7, :11].copy(), image[:7, :11].copy()
    for spatial, tolerance in (("lattice", 0), ("grid", 0.01)):  # the grid lies elsewhere
        params = replace(SOFT, spatial=spatial)
        masked = mean_field(logits, image, params, mask=mask, backend=backend)
        assert_near(masked[:, :7, :11], mean_field(*crop, params, backend=backend), tolerance)
        np.testing.assert_array_equal(masked[:, ~mask], logits[:, ~mask])


@given(size=st.sampled_from(SIZES), seed=st.integers(0, 2**32 - 1))
def test_masked_pixels_neither_send_nor_receive(backend, size, seed):
    logits, image = random_problem(3, size, seed=seed)
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < rng.random()
    other_logits = np.where(mask, logits, rng.normal(size=logits.shape))
    other_image = np.where(mask[..., None], image, 255 * rng.random(image.shape))
    refined = mean_field(logits, image, SOFT, mask=mask, backend=backend)
    other = mean_field(other_logits, other_image, SOFT, mask=mask, backend=backend)
    np.testing.assert_array_equal(refined[:, mask], other[:, mask])
    np.testing.assert_array_equal(refined[:, ~mask], logits[:, ~mask])


def test_a_full_mask_is_no_mask(backend):
    logits, image = random_problem()
    everywhere = np.ones(logits.shape[1:], bool)
    full = mean_field(logits, image, SOFT, mask=everywhere, backend=backend)
    np.testing.assert_array_equal(full, mean_field(logits, image, SOFT, backend=backend))


def test_refine_gives_masked_pixels_the_softmax_of_their_logits(backend):
    logits, image = random_problem()
    nowhere = np.zeros(logits.shape[1:], bool)
    q = refine(logits, image, SOFT, mask=nowhere, backend=backend)
    np.testing.assert_allclose(q, softmax(logits), rtol=1e-6)


@pytest.mark.parametrize("size", [(7, 11), (3, 4, 5)])
def test_spacing_of_two_equals_bandwidths_halved(backend, dtype, size):
    logits, image = random_problem(3, size, dtype=dtype)
    halved = replace(SOFT, theta_alpha=SOFT.theta_alpha / 2, theta_gamma=SOFT.theta_gamma / 2)
    spaced = mean_field(logits, image, SOFT, spacing=(2,) * len(size), backend=backend)
    np.testing.assert_array_equal(spaced, mean_field(logits, image, halved, backend=backend))


def test_spacing_is_in_the_order_of_the_axes(backend):
    """Rows a thousand apart: every row is then a CRF of its own."""
    logits, image = random_problem(3, (4, 11))
    apart = mean_field(logits, image, SOFT, spacing=(1000, 1), backend=backend)
    lone = mean_field(logits[:, :1].copy(), image[:1].copy(), SOFT, backend=backend)
    assert_near(apart[:, :1], lone, 1e-12)


def test_feature_order_matters_to_lattices_only(backend):
    """[H, W] in "yx" is [W, H] in "xy"."""
    logits, image = random_problem(3, (7, 11))
    flipped = replace(SOFT, feature_order="yx")
    turned = logits.swapaxes(1, 2).copy(), image.swapaxes(0, 1).copy()
    got = mean_field(*turned, flipped, backend=backend)
    assert_near(got.swapaxes(1, 2), mean_field(logits, image, SOFT, backend=backend), 1e-12)


# --- images and arrays as they come --------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_image_may_have_any_dtype_and_number_of_channels(backend, dtype, channels):
    logits, image = random_problem(3, (7, 11), channels, dtype)
    image = image.round()
    want = mean_field(logits, image, SOFT, backend=backend)
    kinds = (np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64)
    for kind in kinds:
        got = mean_field(logits, image.astype(kind), SOFT, backend=backend)
        np.testing.assert_array_equal(got, want, err_msg=kind.__name__)


@pytest.mark.parametrize(
    ("theta_alpha", "theta_beta", "theta_gamma"),
    [(1e6, 1e6, 1e6), (1e-2, 1e-1, 1e-2), (1e6, 1e-1, 1e-2), (160, 1e6, 3)],
)
def test_extreme_bandwidths_give_finite_results(
    backend, dtype, theta_alpha, theta_beta, theta_gamma
):
    logits, image = random_problem(3, (7, 11), dtype=dtype)
    for normalization, self_term in itertools.product(NORMALIZATIONS, (True, False)):
        params = CRFParams(
            theta_alpha, theta_beta, theta_gamma, normalization=normalization, self_term=self_term
        )
        assert np.isfinite(mean_field(logits, image, params, backend=backend)).all()


def test_pixels_without_neighbours_hear_nothing_without_self_term(backend, dtype):
    """Bandwidths so narrow that every pixel is alone; its normaliser is then zero."""
    logits, image = random_problem(3, (5, 6), dtype=dtype)
    alone = CRFParams(1e-2, 3, 1e-2, self_term=False)
    assert_near(mean_field(logits, image, alone, backend=backend), logits, 1e-5)


def test_one_pixel_with_self_term_hears_itself(backend):
    """Row-normalised, K Q = Q: U - 8 (1 - I) Q0 after one iteration with weights 5 and 3."""
    logits, image = random_problem(3, (1, 1))
    q = softmax(logits)
    want = logits - 8 * (1 - q)
    got = mean_field(logits, image, iterations=1, backend=backend)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_logits_of_large_magnitude_do_not_overflow(backend, dtype):
    logits, image = random_problem(3, (7, 11), dtype=dtype)
    refined = mean_field(logits * dtype(1e4), image, SOFT, backend=backend)
    assert np.isfinite(refined).all()


def layouts(array):
    """The same numbers in other memory layouts."""
    read_only = array.copy()
    read_only.flags.writeable = False
    doubled = np.repeat(array, 2, axis=1)
    return [read_only, np.asfortranarray(array), doubled[:, ::2], array[:, ::-1].copy()[:, ::-1]]


def test_mean_field_takes_any_memory_layout_and_changes_no_input(backend, dtype):
    logits, image = random_problem(3, (7, 11), dtype=dtype)
    mask = np.random.default_rng(0).random((7, 11)) < 0.7
    weights = np.random.default_rng(1).uniform(1, 2, (2, 3))
    mu = 1 - np.eye(3)
    plain = (logits, image, mask, weights, mu)

    def call(logits, image, mask, weights, mu):
        return mean_field(
            logits, image, SOFT, kernel_weights=weights, compatibility=mu, mask=mask,
            backend=backend,
        )  # fmt: skip

    want = call(*plain)
    for laid in zip(*map(layouts, plain), strict=True):
        np.testing.assert_array_equal(call(*laid), want)
        refine(laid[0], laid[1], SOFT, mask=laid[2], compatibility=laid[4], backend=backend)
        for array, original in zip(laid, plain, strict=True):
            np.testing.assert_array_equal(array, original)


def test_results_are_new_contiguous_arrays(backend, dtype):
    logits, image = random_problem(dtype=dtype)
    for function in (mean_field, refine):
        result = function(logits, image, SOFT, backend=backend)
        assert result.flags.c_contiguous and result.flags.writeable
        assert not np.shares_memory(result, logits)


# --- found in review -----------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [(30, 5), (160, 3)])
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_engines_agree_on_a_photograph_in_float32(normalization, self_term, theta):
    """Where a colour is rare, K 1 without the self term is a small difference of larger numbers."""
    for backend in ("cpu", "numba"):
        if why_unavailable(backend) is not None:
            pytest.skip(f"{backend}: {why_unavailable(backend)}")
    pytest.importorskip("skimage")
    sample = samples.load("2007_000129")
    image, logits = sample.image[:150, :200], sample.logits[:, :150, :200]
    params = CRFParams(*theta, 3, 5, 3, normalization=normalization, self_term=self_term)
    native, reference = (mean_field(logits, image, params, backend=b) for b in ("cpu", "numba"))
    exact = mean_field(logits.astype(np.float64), image, params, backend="cpu")
    # "none" sums over thousands of pixels, so its logits reach thousands.
    scale = max(1.0, float(np.abs(exact).max()) / 20)
    assert np.abs(native - reference).max() < 1e-3 * scale
    assert np.abs(native - exact).max() < 1e-2 * scale


@pytest.mark.parametrize("kind", [np.int8, np.float16, np.int64])
def test_weights_of_any_number_type_are_multiplied_in_full(kind):
    logits, image = random_problem(3)
    weights = np.stack([np.diag([100, 50, 20])] * 2).astype(kind)
    mu = (3 * (1 - np.eye(3))).astype(kind)
    found = mean_field(logits, image, SOFT, kernel_weights=weights, compatibility=mu)
    wanted = mean_field(
        logits, image, SOFT, kernel_weights=weights.astype(float), compatibility=mu.astype(float)
    )
    np.testing.assert_array_equal(found, wanted)


def test_masked_pixels_may_hold_anything(backend, dtype):
    logits, image = random_problem(3, (7, 11), 3, dtype)
    image = image.astype(dtype)
    mask = np.ones((7, 11), bool)
    mask[2:4, 3:9] = False
    wanted = mean_field(logits, image, SOFT, mask=mask, backend=backend)
    logits[:, ~mask], image[~mask] = np.nan, np.inf
    found = mean_field(logits, image, SOFT, mask=mask, backend=backend)
    np.testing.assert_array_equal(found[:, mask], wanted[:, mask])
    assert np.isnan(found[:, ~mask]).all()
    q = refine(logits, image, SOFT, mask=mask, backend=backend)
    np.testing.assert_allclose(q[:, mask].sum(0), 1, rtol=1e-5)


def test_probabilities_in_place_of_logits_are_noticed():
    logits, image = random_problem(3)
    with pytest.warns(UserWarning, match="as probabilities do; if they are, pass"):
        refine(softmax(logits), image, SOFT)


# --- the way through -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", [refine, mean_field])
@pytest.mark.parametrize("masked", [False, True])
def test_a_call_checks_builds_and_runs_once(monkeypatch, backend, call, masked):
    engine = engines.engine(backend)
    counts = Counter()

    def counted(where, name):
        original = getattr(where, name)

        def count(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(where, name, count)

    for name in ("logits", "image", "mask", "coupling", "spacing", "threads", "probabilities"):
        counted(checks, name)
    counted(engines.registry, "resolve")
    counted(engine, "build")
    counted(inference_module, "build_kernels")
    counted(inference_module, "run")
    if backend == "cpu":
        counted(engine, "mean_field")
    logits, image = random_problem()
    mask = np.arange(63).reshape(7, 9) > 4 if masked else None
    call(logits, image, SOFT, mask=mask, backend=backend)
    assert counts.pop("mask", 0) == masked
    assert set(counts.values()) == {1}, counts
