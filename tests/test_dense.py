"""The dense reference itself: its gradients against differences, its kernels against names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecrf_rnn.params import NORMALIZATIONS
from densecrf_rnn.reference import dense

SHAPES = given(
    points=st.sampled_from((1, 2, 7, 31)),
    dims=st.sampled_from((1, 2, 5)),
    seed=st.integers(0, 2**32 - 1),
)


def cloud(points, dims, seed):
    return np.random.default_rng(seed).normal(size=(points, dims))


@SHAPES
def test_kernel_is_symmetric_with_a_unit_diagonal(points, dims, seed):
    kernel = dense.gaussian_kernel(cloud(points, dims, seed))
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_array_equal(np.diag(kernel), 1)
    assert (kernel > 0).all() and (kernel <= 1).all()


def test_kernel_is_the_gaussian_of_unit_deviation():
    kernel = dense.gaussian_kernel(np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert kernel[0, 1] == pytest.approx(np.exp(-12.5))


@SHAPES
def test_gaussian_filter_is_the_kernel_times_the_values(points, dims, seed):
    features = cloud(points, dims, seed)
    values = np.random.default_rng(seed).normal(size=(points, 3))
    want = dense.gaussian_kernel(features) @ values
    for block in (1, 5, 256):
        got = dense.gaussian_filter(features, values, block)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@SHAPES
def test_normalisation_sets_the_sums_that_its_name_promises(points, dims, seed):
    features = cloud(points, dims, seed)
    after, before, symmetric, none = (
        dense.normalized_kernel(features, name) for name in NORMALIZATIONS
    )
    np.testing.assert_allclose(after.sum(1), 1)
    np.testing.assert_allclose(before.sum(0), 1)
    np.testing.assert_allclose(symmetric, symmetric.T)
    np.testing.assert_allclose(symmetric**2, after * before)  # the geometric mean of the two
    np.testing.assert_array_equal(none, dense.gaussian_kernel(features))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@SHAPES
def test_kernel_without_self_term_has_a_zero_diagonal(normalization, points, dims, seed):
    features = cloud(points, dims, seed)
    kernel = dense.normalized_kernel(features, normalization, self_term=False)
    np.testing.assert_array_equal(np.diag(kernel), 0)
    sums = {"after": kernel.sum(1), "before": kernel.sum(0)}.get(normalization)
    if sums is not None:
        others = dense.gaussian_kernel(features).sum(1) - 1
        np.testing.assert_allclose(sums, others > dense.EMPTY_MASS)  # else it hears nothing


def test_normalisation_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="normalization is 'both'"):
        dense.normalized_kernel(np.zeros((2, 1)), "both")


def problem(points, labels, form, seed):
    rng = np.random.default_rng(seed)
    shape = {"scalar": (2,), "diagonal": (2, labels), "full": (2, labels, labels)}[form]
    kernels = [dense.normalized_kernel(rng.normal(size=(points, d))) for d in (2, 5)]
    mu = 1 - np.eye(labels) + 0.3 * rng.normal(size=(labels, labels))  # asymmetric
    return rng.normal(size=(points, labels)), kernels, rng.uniform(0.5, 2, shape), mu, rng


@pytest.mark.parametrize("form", ["scalar", "diagonal", "full"])
@pytest.mark.parametrize(("points", "labels"), [(1, 1), (1, 3), (7, 1), (7, 2), (5, 4)])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_gradients_match_differences(form, points, labels, iterations):
    """In a random direction of each argument, for a random cotangent, in float64."""
    logits, kernels, weights, mu, rng = problem(points, labels, form, seed=points * 10 + labels)
    cotangent = rng.normal(size=logits.shape)

    def loss(logits, weights, mu):
        return (cotangent * dense.mean_field(logits, kernels, weights, mu, iterations)).sum()

    gradients = dense.mean_field_gradients(logits, kernels, weights, mu, iterations, cotangent)
    analytic = (
        gradients.logits,
        dense.reduce_weight_gradient(gradients.weights, form),
        gradients.mu,
    )
    arguments = (logits, weights, mu)
    step = 1e-6
    for which, gradient in enumerate(analytic):
        assert gradient.shape == arguments[which].shape
        direction = rng.normal(size=gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[which] = arguments[which] + sign * step * direction
            ends.append(loss(*moved))
        difference = (ends[0] - ends[1]) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_mean_field_with_one_label_subtracts_its_penalty_only():
    logits = np.array([[0.5], [2.0]])
    kernel = dense.normalized_kernel(np.zeros((2, 1)))
    refined = dense.mean_field(logits, [kernel], [3.0], np.array([[0.25]]), iterations=2)
    np.testing.assert_allclose(refined, logits - 3 * 0.25)


def test_mean_field_of_one_pixel_without_self_term_keeps_its_logits():
    logits = np.array([[0.5, -1.0, 2.0]])
    kernel = dense.normalized_kernel(np.zeros((1, 2)), self_term=False)
    refined = dense.mean_field(logits, [kernel], [3.0], 1 - np.eye(3), iterations=4)
    np.testing.assert_array_equal(refined, logits)


def test_mean_field_zero_iterations_is_identity():
    logits, kernels, weights, mu, _ = problem(5, 3, "scalar", seed=0)
    np.testing.assert_array_equal(dense.mean_field(logits, kernels, weights, mu, 0), logits)


def test_mean_field_takes_weights_in_three_forms():
    logits, kernels, _, mu, _ = problem(9, 3, "scalar", seed=1)
    scalar = np.array([5.0, 3.0])
    diagonal = np.repeat(scalar[:, None], 3, axis=1)
    full = scalar[:, None, None] * np.eye(3)
    results = [dense.mean_field(logits, kernels, w, mu, 3) for w in (scalar, diagonal, full)]
    np.testing.assert_allclose(results[1], results[0])
    np.testing.assert_allclose(results[2], results[0])


def test_mean_field_reads_compatibility_by_the_pixels_own_label():
    """mu[l, l'] is what a pixel pays for label l beside l': row, not column."""
    logits = np.array([[0.0, 0.0], [50.0, -50.0]])  # the second pixel is surely label 0
    kernel = np.array([[0.0, 1.0], [0.0, 0.0]])  # and the first one listens to it
    mu = np.array([[0.0, 0.0], [7.0, 0.0]])  # label 1 beside label 0 costs 7
    refined = dense.mean_field(logits, [kernel], [1.0], mu, iterations=1)
    np.testing.assert_allclose(refined[0], [0.0, -7.0])
