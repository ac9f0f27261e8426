"""Tests of the gradient for the image: exact for the lattice, normaliser included.

A lattice is piecewise linear in the features, so finite differences must not cross from one simplex
to the next; with random images and steps of 1e-6 they do not.
"""

from itertools import product

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import CRFRNN, engines  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.params import FEATURE_ORDERS, SPATIAL_FILTERS  # noqa: E402

OPERATORS = list(product(make.NORMALIZATIONS, (True, False)))


def image_gradient(logits, image, params, cotangent=None, **options):
    """For the image, with one fixed cotangent."""
    image = image.detach().requires_grad_()
    out = functional.mean_field(logits, image, params, **options)
    if cotangent is None:
        cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape).sin()
    return torch.autograd.grad(out, image, cotangent)[0]


# --- against finite differences ------------------------------------------------------------------


@pytest.mark.parametrize("normalization, self_term", OPERATORS)
@pytest.mark.parametrize("spatial, quality", make.FILTERS)
def test_gradient_for_the_image_equals_finite_differences(
    backend, spatial, quality, normalization, self_term
):
    params = make.small_params(
        normalization=normalization, self_term=self_term, spatial=spatial, quality=quality
    )
    logits, image = make.problem(0, 3, 4, batch=2, channels=2)

    def refined(logits, image):
        return functional.mean_field(logits, image, params, iterations=2, backend=backend)

    given = (logits.requires_grad_(), image.requires_grad_())
    assert torch.autograd.gradcheck(refined, given, fast_mode=True)


@pytest.mark.parametrize("order", FEATURE_ORDERS)
@pytest.mark.parametrize("labels", [1, 4])
@pytest.mark.parametrize("size, channels", [((2, 3, 2), 1), ((1, 5), 3), ((7, 1), 4)])
def test_gradient_for_any_image_equals_finite_differences(backend, size, channels, labels, order):
    params = make.small_params(feature_order=order)
    logits, image = make.problem(1, *size, labels=labels, channels=channels)
    spacing = (2.0, 0.5, 1.5)[: len(size)]

    def refined(image):
        return functional.mean_field(logits, image, params, spacing=spacing, backend=backend)

    assert torch.autograd.gradcheck(refined, (image.requires_grad_(),), fast_mode=True)


# --- against itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.float64, 1e-9)])
@pytest.mark.parametrize("self_term", [True, False])
def test_gradient_for_the_image_is_the_same_on_every_backend(
    both_backends, dtype, tolerance, self_term
):
    logits, image = make.problem(2, 11, 13, batch=2, dtype=dtype)
    params = make.small_params(self_term=self_term)
    found, wanted = (
        image_gradient(logits, image, params, backend=name) for name in ("cpu", "numba")
    )
    assert (found != 0).double().mean() > 0.9  # a pixel may be alone in its colour
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max())


@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
def test_gradient_for_a_batch_of_images_equals_one_by_one(backend, spatial):
    logits, image = make.problem(3, 6, 7, batch=3)
    params = make.small_params(spatial=spatial)
    cotangent = make.problem(4, 6, 7, batch=3)[0]
    found = image_gradient(logits, image, params, cotangent, backend=backend)
    for b in range(3):
        one = (logits[b : b + 1], image[b : b + 1], params, cotangent[b : b + 1])
        wanted = image_gradient(*one, backend=backend)
        torch.testing.assert_close(found[b : b + 1], wanted, rtol=1e-12, atol=1e-15)


def test_gradient_for_no_images_is_empty(backend):
    logits, image = make.problem(0, 5, 6, batch=0)
    found = image_gradient(logits, image, make.small_params(), backend=backend)
    assert found.shape == (0, 3, 5, 6)


@pytest.mark.parametrize("budget", [1, 2**13, 2**16])
def test_gradients_do_not_depend_on_the_memory_budget(budget):
    if engines.why_unavailable("cpu") is not None:
        pytest.skip(engines.why_unavailable("cpu"))
    logits, image = make.problem(5, 21, 23, batch=2)
    params = make.small_params(theta_alpha=30, theta_beta=200, theta_gamma=4)

    def gradients(**options):
        leaves = [logits.clone().requires_grad_(), image.clone().requires_grad_()]
        out = functional.mean_field(*leaves, params, backend="cpu", **options)
        return torch.autograd.grad(out.sin().sum(), leaves)

    for found, wanted in zip(gradients(memory_budget=budget), gradients()):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_gradient_for_the_image_leaves_the_others_as_they_are(backend):
    logits, image = make.problem(6, 6, 7)
    given = [logits.requires_grad_(), make.weights("full", 3).requires_grad_()]

    def gradients(image):
        out = functional.mean_field(
            logits, image, make.small_params(), kernel_weights=given[1], backend=backend
        )
        return torch.autograd.grad(out.sin().sum(), given)

    wanted = gradients(image)
    found = gradients(image.clone().requires_grad_())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


# --- kinds of images -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradient_for_the_image_has_the_dtype_of_the_image(dtype):
    logits, image = make.problem(7, 6, 7)
    image = image.to(dtype)
    found = image_gradient(logits, image, make.small_params())
    wanted = image_gradient(logits, image.double(), make.small_params())
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(dtype))


def test_gradient_for_an_image_of_any_memory_layout():
    logits, image = make.problem(8, 6, 7, batch=2)
    wanted = image_gradient(logits, image, make.small_params())
    for strided in (image.mT.contiguous().mT, image.to(memory_format=torch.channels_last),
                    image.repeat_interleave(2, -1)[..., ::2]):
        assert not strided.is_contiguous()
        assert torch.equal(image_gradient(logits, strided, make.small_params()), wanted)


@pytest.mark.parametrize("normalization, self_term", OPERATORS)
def test_gradient_for_an_image_of_one_pixel_is_finite(backend, normalization, self_term):
    # Without its self term the pixel hears nothing and its normaliser is 0.
    params = make.small_params(normalization=normalization, self_term=self_term)
    logits, image = make.problem(9, 1, 1)
    found = image_gradient(logits, image, params, backend=backend)
    assert found.isfinite().all()
    if not self_term:
        assert found.abs().max() < 1e-15


def test_gradient_for_a_constant_image_is_finite(backend):
    # Every feature lies on a face of its simplex in the colours; one side is picked.
    logits, image = make.problem(10, 6, 7)
    found = image_gradient(logits, torch.zeros_like(image), make.small_params(), backend=backend)
    assert found.isfinite().all()


def test_gradient_for_the_image_of_no_iterations_is_zero(backend):
    logits, image = make.problem(11, 5, 6)
    logits.requires_grad_()
    image.requires_grad_()
    out = functional.mean_field(logits, image, iterations=0, backend=backend)
    d_logits, d_image = torch.autograd.grad(out.sum(), (logits, image), allow_unused=True)
    assert (d_logits == 1).all()
    assert d_image is None or (d_image == 0).all()


# --- second derivatives --------------------------------------------------------------------------


def test_gradient_for_the_image_cannot_be_differentiated_again(backend):
    logits, image = make.problem(12, 3, 4)
    logits.requires_grad_()
    image.requires_grad_()
    out = functional.mean_field(logits, image, make.small_params(), backend=backend)
    (first,) = torch.autograd.grad(out.sin().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"cannot be differentiated again.*image\.detach"):
        first.square().sum().backward()


def test_second_derivatives_for_logits_do_not_mind_an_image_that_requires_grad(backend):
    logits, image = make.problem(13, 3, 4)
    logits.requires_grad_()

    def second(image):
        out = functional.mean_field(logits, image, make.small_params(), backend=backend)
        (first,) = torch.autograd.grad(out.sin().sum(), logits, create_graph=True)
        return torch.autograd.grad(first.sin().sum(), logits)[0]

    wanted = second(image)
    torch.testing.assert_close(second(image.requires_grad_()), wanted, rtol=1e-12, atol=1e-12)


# --- modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("self_term, normalization", [(True, "after"), (False, "symmetric")])
def test_gradient_for_the_image_compiles_into_one_graph(self_term, normalization):
    logits, image = make.problem(14, 6, 7, batch=2, dtype=torch.float32)
    params = make.small_params(self_term=self_term, normalization=normalization)
    crf = CRFRNN(3, params=params)
    make.assert_compiles_into_one_graph(crf, logits, image)


def test_wrap_passes_the_gradient_to_the_image_through_the_head_as_well():
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, 4, 3, padding=1)
    model = CRFRNN.wrap(backbone, 4, params=make.small_params(), mean=0.4, std=0.3).double()
    image = torch.rand(1, 3, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(model, (image,))
    through_both = torch.autograd.grad(model(image).sin().sum(), image)[0]
    guide = model._guide(image).detach()
    through_backbone = torch.autograd.grad(
        model.crf(model.backbone(image), guide).sin().sum(), image
    )[0]
    assert (through_both - through_backbone).abs().max() > 1e-3


def test_a_guide_made_from_the_logits_is_differentiated_through_both(backend):
    logits, _ = make.problem(15, 3, 4)
    params = make.small_params(normalization="symmetric")

    def refined(logits):
        return functional.mean_field(logits, 60 * logits, params, iterations=2, backend=backend)

    logits.requires_grad_()
    assert torch.autograd.gradcheck(refined, (logits,))
    wanted = torch.autograd.grad(refined(logits).sin().sum(), logits)[0]
    found = torch.autograd.grad(refined(logits).sin().sum(), logits, create_graph=True)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
