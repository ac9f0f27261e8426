"""The free energy on tensors: the definition, gradients, masks, and a report per iteration."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import CRFRNN, kernels  # noqa: E402
from densecrf_rnn.energy import free_energy as numpy_free_energy  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402

WEAK = make.small_params(w_bilateral=0.4, w_spatial=0.3, self_term=False)
PATHS = {"lattice": {}, "exact": {"method": "exact"}}


def matrices(image, params):
    """N K of both kernels of one image from the definition."""
    options = (params.normalization, params.self_term)
    return [dense.normalized_kernel(rows, *options) for rows in make.feature_rows(image, params)]


def plain_energy(refined, logits, operators, weights, mu):
    """F of one image from rows [N, L]."""
    q = dense.softmax(refined)
    cost = sum(
        (k @ q) @ (mu @ dense.weight_matrix(w, len(mu))).T
        for k, w in zip(operators, weights, strict=True)
    )
    return (q * (np.log(q) - logits + cost / 2)).sum()


@pytest.mark.parametrize("normalization", make.NORMALIZATIONS)
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("form", make.FORMS)
def test_exact_free_energy_is_the_definition(normalization, self_term, form):
    params = make.small_params(normalization=normalization, self_term=self_term)
    logits, image = make.problem(0, 5, 7, batch=2)
    weights, mu = make.weights(form, 3), make.asymmetric(3)
    given = {"kernel_weights": weights, "compatibility": mu, "method": "exact"}
    steps = functional.mean_field(logits, image, params, return_all=True, iterations=3, **given)
    found = functional.free_energy(steps, logits, image, params, **given)
    assert found.shape == (3, 2) and found.dtype == torch.float64
    for step, energies in zip(steps, found, strict=True):
        for b in range(2):
            want = plain_energy(
                make.rows(step[b]), make.rows(logits[b]), matrices(image[b], params),
                weights.numpy(), mu.numpy(),
            )  # fmt: skip
            assert float(energies[b]) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("size", [(2, 3), (2, 2, 2)])
def test_exact_free_energy_is_the_divergence_less_the_log_partition_sum(size):
    """By summing over all labellings of a few pixels, each alone from the definition of E."""
    params = make.small_params(self_term=False, normalization="symmetric")
    logits, image = make.problem(1, *size, labels=2)
    operators = sum(
        w * k for w, k in zip((1.3, 0.7), matrices(image[0], params), strict=True)
    )
    u = make.rows(logits[0])
    pixels = np.arange(len(u))
    labellings = np.array(list(itertools.product(range(2), repeat=len(u))))
    energy = np.array([
        -u[pixels, x].sum()
        + sum(operators[i, j] * (x[i] != x[j]) for i, j in itertools.combinations(pixels, 2))
        for x in labellings
    ])
    log_z = np.logaddexp.reduce(-energy)
    for step in functional.mean_field(logits, image, params, method="exact", return_all=True):
        q = dense.softmax(make.rows(step[0]))[pixels, labellings].prod(1)
        divergence = (q * (np.log(q) + energy + log_z)).sum()
        found = functional.free_energy(step, logits, image, params, method="exact")
        assert float(found[0]) + log_z == pytest.approx(divergence, abs=1e-10)


@pytest.mark.parametrize("spatial, quality", make.FILTERS)
@pytest.mark.parametrize("size, labels", [((5, 7), 3), ((5, 7), 1), ((2, 3, 4), 2)])
def test_tensors_have_the_free_energy_of_arrays(backend, spatial, quality, size, labels):
    params = make.small_params(spatial=spatial, quality=quality)
    logits, image = make.problem(2, *size, batch=2, labels=labels)
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(2)) > 0.3
    for seen in (None, mask):
        given = {"params": params, "mask": seen, "backend": backend}
        refined = functional.mean_field(logits, image, **given)
        found = functional.free_energy(refined, logits, image, **given)
        for b in range(2):
            want = numpy_free_energy(
                refined[b].numpy(), logits[b].numpy(), make.numpy_image(image[b]), params,
                mask=None if seen is None else seen[b].numpy(),
            )  # fmt: skip
            assert float(found[b]) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("update", ["softmax", "relu"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck_of_the_free_energy(path, update, masked):
    logits, image = make.problem(3, 4, 5, batch=2)
    refined = make.problem(4, 4, 5, batch=2)[0] + 3
    mask = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(3)) > 0.3
    free = [refined, logits, image, make.weights("full", 3), make.asymmetric(3)]
    free.append(torch.tensor([[4.3, 64.0], [1.6, 1.0]], dtype=torch.float64))
    free = [tensor.requires_grad_() for tensor in free]

    def energy(refined, logits, image, weights, mu, bandwidths):
        return functional.free_energy(
            refined, logits, image, make.small_params(), kernel_weights=weights,
            compatibility=mu, bandwidths=bandwidths, mask=mask if masked else None,
            update=update, **PATHS[path],
        )  # fmt: skip

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(energy, free, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("path", PATHS)
def test_the_gradient_vanishes_where_the_mean_field_has_converged(path):
    """A stationary point of F under sum_l Q = 1, which the softmax takes care of."""
    params = make.small_params(
        w_bilateral=0.4, w_spatial=0.3, normalization="symmetric", quality="symmetric"
    )
    logits, image = make.problem(5, 5, 6)
    fixed = functional.mean_field(logits, image, params, iterations=200, **PATHS[path])
    for refined, still in ((fixed, True), (logits.clone(), False)):
        refined.requires_grad_()
        functional.free_energy(refined, logits, image, params, **PATHS[path]).sum().backward()
        assert bool(refined.grad.abs().max() < 1e-12) == still


@pytest.mark.parametrize("path", PATHS)
def test_the_head_reports_the_energy_of_each_iteration_and_it_falls(path):
    crf = CRFRNN(3, params=WEAK, iterations=6, **PATHS[path])
    logits, image = make.problem(6, 9, 11, batch=2, dtype=torch.float32)
    steps = crf(logits, image, return_all=True)
    found = crf.free_energy([logits, *steps], logits, image)
    assert found.shape == (7, 2) and found.dtype == torch.float32
    assert bool((found.diff(dim=0) < 1e-4).all()) and bool((found[1] < found[0]).all())
    for step, energies in zip(steps, found[1:], strict=True):
        assert torch.equal(crf.free_energy(step, logits, image), energies)
    found.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in crf.parameters())


def test_the_head_hands_over_its_options():
    given = (kernels.Bilateral(4.0, 60.0), kernels.Custom(0.7, "depth"), kernels.Spatial(1.5))
    crf = CRFRNN(3, kernels=given, update="relu", trainable_bandwidths=True).double()
    logits, image = make.problem(7, 5, 6, batch=2)
    depth = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(7)).double()
    mask = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(8)) > 0.3
    named = {"guides": {"depth": depth}, "mask": mask, "spacing": (1.0, 2.0)}
    refined = crf(logits, image, **named)
    want = functional.free_energy(
        refined, logits, image, kernels=given, bandwidths=crf.bandwidths, update="relu",
        kernel_weights=crf.kernel_weights, compatibility=crf.compatibility, **named,
    )  # fmt: skip
    assert torch.equal(crf.free_energy(refined, logits, image, **named), want)


def test_iterations_that_are_not_tied_have_no_one_energy():
    crf = CRFRNN(3, tied=False)
    logits, image = make.problem(8, 4, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match="every iteration has an energy of its own"):
        crf.free_energy(logits, logits, image)


@pytest.mark.parametrize("path", PATHS)
def test_a_label_that_is_ruled_out_costs_nothing_and_its_gradient_is_finite(path):
    logits, image = make.problem(9, 4, 5)
    logits[:, 2] = -torch.inf
    refined = functional.mean_field(logits, image, WEAK, **PATHS[path]).requires_grad_()
    found = functional.free_energy(refined, logits, image, WEAK, **PATHS[path])
    want = functional.free_energy(refined[:, :2], logits[:, :2], image, WEAK, **PATHS[path])
    torch.testing.assert_close(found, want)
    (gradient,) = torch.autograd.grad(found.sum(), refined)
    assert bool(gradient.isfinite().all())
    used = functional.free_energy(torch.zeros_like(logits), logits, image, WEAK, **PATHS[path])
    assert float(used) == np.inf


def test_no_steps_and_no_images_have_no_energies():
    logits, image = make.problem(10, 4, 5, batch=2)
    assert functional.free_energy([], logits, image).shape == (0, 2)
    assert functional.free_energy(logits[:0], logits[:0], image[:0]).shape == (0,)


def test_under_autocast_the_energy_is_that_of_float32():
    logits, image = make.problem(11, 4, 5, dtype=torch.float32)
    half = logits.bfloat16()
    want = functional.free_energy(half.float(), half.float(), image)
    with torch.autocast("cpu", torch.bfloat16):
        found = functional.free_energy(half, half, image)
    assert found.dtype == torch.float32 and torch.equal(found, want)


def test_func_grad_equals_backward():
    logits, image = make.problem(12, 4, 5)
    refined = functional.mean_field(logits, image, WEAK)

    def energy(*steps):
        return functional.free_energy(steps, logits, image, WEAK).sum()

    found = torch.func.grad(energy, argnums=1)(logits, refined)
    refined.requires_grad_()
    (want,) = torch.autograd.grad(energy(logits, refined), refined)
    torch.testing.assert_close(found, want)


def test_tensors_that_do_not_go_together_are_refused():
    logits, image = make.problem(13, 4, 5)
    with pytest.raises(ValueError, match=r"refined has shape \(1, 3, 4, 4\) but logits"):
        functional.free_energy(logits[..., :4], logits, image)
    with pytest.raises(TypeError, match="refined has dtype float32 but logits float64"):
        functional.free_energy([logits, logits.float()], logits, image)
    with pytest.raises(ValueError, match="refined contains NaN"):
        functional.free_energy(logits * torch.nan, logits, image)
    with pytest.raises(TypeError, match="refined"):
        functional.free_energy(logits.numpy(), logits, image)
    with pytest.raises(ValueError, match="kernel_weights has shape"):
        functional.free_energy(logits, logits, image, kernel_weights=torch.ones(5, 2, 3).double())
