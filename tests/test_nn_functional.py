"""Tests of mean field on tensors: that it is NumPy's, and that its gradients are exact."""

from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from densecrf_rnn import CRFParams, kernels, mean_field as numpy_mean_field  # noqa: E402
from densecrf_rnn.nn import build, functional  # noqa: E402
from densecrf_rnn.params import FEATURE_ORDERS, SPATIAL_FILTERS  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402

OPERATORS = list(product(make.NORMALIZATIONS, (True, False)))


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization, self_term", OPERATORS)
@pytest.mark.parametrize("order", FEATURE_ORDERS)
@pytest.mark.parametrize("size", [(5, 7), (3, 4, 5)])
@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
def test_mean_field_equals_numpy(normalization, self_term, order, size, labels, spatial):
    params = make.small_params(
        normalization=normalization, self_term=self_term, feature_order=order, spatial=spatial
    )
    logits, image = make.problem(labels, *size, batch=2, labels=labels)
    spacing = (1.5, 0.75, 2.0)[: len(size)]
    compatibility = make.asymmetric(max(2, labels))
    for form in (None, *make.FORMS):
        weights = None if form is None else make.weights(form, max(2, labels))
        found = functional.mean_field(
            logits, image, params, kernel_weights=weights, compatibility=compatibility,
            iterations=3, spacing=spacing,
        )
        for b in range(2):
            wanted = numpy_mean_field(
                logits[b].numpy(), make.numpy_image(image[b]), params,
                kernel_weights=None if weights is None else weights.numpy(),
                compatibility=compatibility.numpy(), iterations=3, spacing=spacing,
            )
            np.testing.assert_allclose(found[b].numpy(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_mean_field_equals_numpy_on_every_backend(backend, dtype, tolerance):
    params = make.small_params(w_bilateral=(0.1, 0.7, 1.3))
    logits, image = make.problem(0, 11, 13, dtype=dtype)
    found = functional.mean_field(logits, image, params, backend=backend)
    wanted = numpy_mean_field(
        logits[0].numpy(), make.numpy_image(image[0]), params,
        backend="auto" if backend in ("serial", "torch") else backend,
    )
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float64])
def test_mean_field_takes_images_of_any_number_type(dtype):
    logits, image = make.problem(0, 6, 5)
    image = image.round().to(dtype)
    found = functional.mean_field(logits, image, make.small_params())
    assert torch.equal(found, functional.mean_field(logits, image.double(), make.small_params()))


def test_mean_field_zero_iterations_returns_the_logits():
    logits, image = make.problem(0, 6, 5)
    assert torch.equal(functional.mean_field(logits, image, iterations=0), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labels", [1, 3, 21])
def test_mean_field_of_a_batch_equals_one_by_one_bit_for_bit(dtype, labels):
    logits, image = make.problem(0, 17, 19, batch=3, labels=labels, dtype=dtype)
    params = make.small_params(self_term=False)
    batch = functional.mean_field(logits, image, params)
    for b in range(3):
        one = functional.mean_field(logits[b : b + 1], image[b : b + 1], params)
        assert torch.equal(batch[b : b + 1], one)


def test_mean_field_constant_image_stays_constant():
    # All pixels share one feature in colour, and logits without a preference must stay so.
    image = torch.full((1, 3, 6, 7), 128.0, dtype=torch.float64)
    refined = functional.mean_field(torch.zeros(1, 4, 6, 7, dtype=torch.float64), image)
    assert (refined - refined[:, :1]).abs().max() < 1e-12


def test_mean_field_ruled_out_labels_stay_ruled_out():
    logits, image = make.problem(0, 6, 7)
    logits[0, 1, 2:4] = -torch.inf
    refined = functional.mean_field(logits, image, make.small_params())
    assert torch.equal(refined == -torch.inf, logits == -torch.inf)
    assert not refined.isnan().any()


class Divisors(TorchDispatchMode):
    """Collects what tensors are divided by."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.div:
            self.found.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", [0.7, 3.0, 13.0, 160.0, 1 / 3])
def test_features_are_numpys_to_the_last_bit(dtype, theta):
    _, image = make.problem(0, 11, 13, dtype=dtype)
    params, spacing = make.small_params(), (1.5, 0.75)
    kernel = kernels.Kernel(theta, 2 * theta)
    pixels = build.Pixels.of({"image": image}, None, params.feature_order, spacing, image)
    array = make.numpy_image(image[0])
    positions = kernels.positions((11, 13), "xy", spacing, array.dtype.type)
    with Divisors() as divisors:
        found = build.Gaussian(kernel, theta, 2 * theta).features(pixels)
    np.testing.assert_array_equal(found[0].numpy(), kernel.features(positions, array))
    # On CUDA a division by a Python number would be rounded differently.
    assert len(divisors.found) == 2
    for divisor in divisors.found:
        assert isinstance(divisor, torch.Tensor) and divisor.device == image.device


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", make.FORMS)
@pytest.mark.parametrize("labels", [1, 3])
def test_mean_field_passes_gradcheck(backend, form, labels):
    logits, image = make.problem(0, 2, 3, labels=labels)
    given = (logits, make.weights(form, max(2, labels)), make.asymmetric(max(2, labels)))

    def refined(logits, weights, compatibility):
        return functional.mean_field(
            logits, image, make.small_params(), kernel_weights=weights,
            compatibility=compatibility, iterations=3, backend=backend,
        )

    assert torch.autograd.gradcheck(refined, [t.requires_grad_() for t in given])


def test_mean_field_passes_gradgradcheck():
    logits, image = make.problem(0, 1, 3)
    given = (logits, make.weights("diagonal", 3), make.asymmetric(3))

    def refined(logits, weights, compatibility):
        return functional.mean_field(
            logits, image, make.small_params(), kernel_weights=weights,
            compatibility=compatibility, iterations=2,
        )

    assert torch.autograd.gradgradcheck(refined, [t.requires_grad_() for t in given])


def oracle_gradients(logits, matrices, weights, compatibility, iterations, cotangent):
    """dense.mean_field_gradients for one image [L, *S], as the tensors autograd would return."""
    found = dense.mean_field_gradients(
        make.rows(logits), matrices, list(weights.numpy()), compatibility.numpy(), iterations,
        make.rows(cotangent),
    )
    form = make.FORMS[weights.dim() - 1]
    return (
        torch.as_tensor(found.logits.T).reshape(logits.shape),
        torch.as_tensor(dense.reduce_weight_gradient(found.weights, form)),
        torch.as_tensor(found.mu),
    )


def autograd_of(function, given, cotangent):
    leaves = [t.clone().requires_grad_() for t in given]
    return torch.autograd.grad(function(*leaves), leaves, cotangent)


def assert_gradients_close(found, wanted, tolerance=1e-9):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", make.FORMS)
@pytest.mark.parametrize("normalization, self_term", OPERATORS)
def test_dense_gradients_equal_autograd_of_the_plain_formula(normalization, self_term, form):
    logits, image = make.problem(1, 5, 6, labels=4)
    cotangent = make.problem(2, 5, 6, labels=4)[0][0]
    matrices = [
        dense.normalized_kernel(features, normalization, self_term)
        for features in make.feature_rows(image[0], make.small_params())
    ]
    given = (logits[0], make.weights(form, 4), make.asymmetric(4))

    def refined(logits, weights, compatibility):
        rows = logits.flatten(1).T
        out = make.plain_mean_field(rows, matrices, weights, compatibility, 4)
        return out.T.reshape(logits.shape)

    wanted = autograd_of(refined, given, cotangent)
    assert_gradients_close(oracle_gradients(given[0], matrices, *given[1:], 4, cotangent), wanted)


def test_dense_gradients_equal_finite_differences():
    logits, image = make.problem(1, 3, 4)
    u, mu = make.rows(logits[0]), make.asymmetric(3).numpy()
    weights = make.weights("full", 3).numpy()
    cotangent = make.rows(make.problem(2, 3, 4)[0][0])
    features = make.feature_rows(image[0], make.small_params())
    matrices = [dense.normalized_kernel(f, "before", False) for f in features]
    found = dense.mean_field_gradients(u, matrices, list(weights), mu, 3, cotangent)
    pairs = ((u, found.logits), (weights, found.weights), (mu, found.mu))

    def loss():
        return (cotangent * dense.mean_field(u, matrices, list(weights), mu, 3)).sum()

    for array, gradient in pairs:
        for index in np.ndindex(array.shape):
            kept, ends = array[index], []
            for step in (1e-5, -1e-5):
                array[index] = kept + step
                ends.append(loss())
            array[index] = kept
            # Central differences are exact to step^2 and to rounding / step, here about 1e-10.
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("form", make.FORMS)
@pytest.mark.parametrize("spatial, quality", make.FILTERS)
@pytest.mark.parametrize("normalization, self_term", OPERATORS)
def test_mean_field_and_its_gradients_equal_the_dense_oracle_on_the_filters_own_matrices(
    backend, normalization, self_term, spatial, quality, form
):
    # A filter is linear, so filtering the identity writes it down as a matrix; with that matrix
    # the dense oracle has no approximation left and shares no code with the path under test.
    params = make.small_params(
        normalization=normalization, self_term=self_term, spatial=spatial, quality=quality
    )
    logits, image = make.problem(3, 5, 7, batch=2, labels=4)
    cotangent = make.problem(4, 5, 7, batch=2, labels=4)[0]
    given = (logits, make.weights(form, 4), make.asymmetric(4))

    def refined(logits, weights, compatibility):
        return functional.mean_field(
            logits, image, params, kernel_weights=weights, compatibility=compatibility,
            iterations=4, backend=backend,
        )

    found = autograd_of(refined, given, cotangent)
    out = refined(*given)
    wanted = []
    for b in range(2):
        matrices = make.kernel_matrices(image[b], params, backend)
        u, mu, rows = make.rows(logits[b]), given[2].numpy(), make.rows(out[b])
        exact = dense.mean_field(u, matrices, list(given[1].numpy()), mu, 4)
        np.testing.assert_allclose(rows, exact, rtol=1e-9, atol=1e-9)
        wanted.append(oracle_gradients(logits[b], matrices, *given[1:], 4, cotangent[b]))
    d_logits, d_weights, d_mu = map(torch.stack, zip(*wanted, strict=True))
    assert_gradients_close(found, (d_logits, d_weights.sum(0), d_mu.sum(0)))


def test_gradients_of_one_logit_equal_the_dense_oracle_of_two_labels():
    params = make.small_params()
    logits, image = make.problem(5, 5, 6, labels=1)
    cotangent = make.problem(6, 5, 6, labels=1)[0]
    given = (logits, make.weights("diagonal", 2), make.asymmetric(2))

    def refined(logits, weights, compatibility):
        return functional.mean_field(
            logits, image, params, kernel_weights=weights, compatibility=compatibility
        )

    matrices = make.kernel_matrices(image[0], params, "auto")
    pair = torch.cat([torch.zeros_like(logits), logits], 1)[0]
    d_pair = torch.cat([-cotangent, cotangent], 1)[0]  # the layer returns a difference
    wanted = oracle_gradients(pair, matrices, *given[1:], 5, d_pair)
    wanted = (wanted[0][None, 1:], *wanted[1:])
    assert_gradients_close(autograd_of(refined, given, cotangent), wanted)


def test_gradients_of_ruled_out_labels_are_finite():
    logits, image = make.problem(7, 5, 6, batch=2)
    logits[0, 1, :3] = -torch.inf
    logits[1, :2, 2] = -torch.inf  # one label left
    given = (logits, make.weights("full", 3), make.asymmetric(3))

    def marginals(logits, weights, compatibility):
        refined = functional.mean_field(
            logits, image, make.small_params(), kernel_weights=weights,
            compatibility=compatibility,
        )
        return refined.softmax(1)

    found = autograd_of(marginals, given, make.problem(8, 5, 6, batch=2)[0])
    assert all(gradient.isfinite().all() for gradient in found)
    assert (found[0][logits == -torch.inf] == 0).all()
    assert (found[0] != 0).any()


@pytest.mark.parametrize("value", [-torch.inf, -1e4, 1e4])
def test_gradients_of_one_certain_logit_are_finite(value):
    logits, image = make.problem(7, 4, 5, labels=1)
    logits[0, 0, 1] = value
    logits.requires_grad_()
    functional.mean_field(logits, image, make.small_params()).sigmoid().sum().backward()
    assert logits.grad.isfinite().all()


def test_gradients_of_an_empty_batch_are_zero():
    logits, image = make.problem(0, 5, 6, batch=0)
    given = (logits, make.weights("diagonal", 3), make.asymmetric(3))

    def refined(logits, weights, compatibility):
        return functional.mean_field(
            logits, image, kernel_weights=weights, compatibility=compatibility
        )

    found = autograd_of(refined, given, torch.empty(0, 3, 5, 6, dtype=torch.float64))
    assert found[0].shape == (0, 3, 5, 6)
    assert (found[1] == 0).all() and (found[2] == 0).all()


@pytest.mark.parametrize("self_term", [True, False])
def test_gradients_on_a_constant_image_equal_the_dense_oracle(backend, self_term):
    # Wide bandwidths put many pixels into one simplex, the bilateral kernel's all into few.
    params = CRFParams(self_term=self_term)
    logits, _ = make.problem(9, 6, 7)
    image = torch.full((1, 1, 6, 7), 17.0, dtype=torch.float64)
    cotangent = make.problem(10, 6, 7)[0]
    given = (logits, make.weights("scalar", 3), make.asymmetric(3))

    def refined(logits, weights, compatibility):
        return functional.mean_field(
            logits, image, params, kernel_weights=weights, compatibility=compatibility,
            backend=backend,
        )

    matrices = make.kernel_matrices(image[0], params, backend)
    wanted = oracle_gradients(logits[0], matrices, *given[1:], 5, cotangent[0])
    found = autograd_of(refined, given, cotangent)
    assert_gradients_close((found[0][0], *found[1:]), wanted)


@pytest.mark.parametrize("self_term", [True, False])
def test_gradients_of_a_single_pixel_are_finite(self_term):
    # Without its self term the pixel hears nothing, and its normaliser is 0.
    logits, image = make.problem(11, 1, 1)
    logits.requires_grad_()
    params = make.small_params(self_term=self_term)
    refined = functional.mean_field(logits, image, params)
    refined.square().sum().backward()
    assert logits.grad.isfinite().all()
    if not self_term:
        torch.testing.assert_close(refined, logits)
