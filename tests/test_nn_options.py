"""The options of the layer: equal to the definition, every gradient checked, masks, what learns."""

import math
import re
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, kernels, mean_field as numpy_mean_field  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.bilateral import BANDWIDTH_RANGE  # noqa: E402
from densecrf_rnn.nn.losses import robust_log_likelihood  # noqa: E402
from densecrf_rnn.params import SPATIAL_FILTERS  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402

SIZES = {"2-D": (4, 5), "3-D": (2, 3, 3)}
# Where the engine runs whole mean fields, and where torch runs filter by filter; and no lattice.
PATHS = {
    "fused": {"backend": "cpu"}, "textbook": {"backend": "numba"}, "exact": {"method": "exact"},
    "torch": {"backend": "torch"},
}
OPTIONS = {
    "tied": {},
    "untied": {"tied": False},
    "relu": {"update": "relu"},
    "untied relu": {"tied": False, "update": "relu"},
    "masked": {"mask": True},
    "three kernels": {"kernels": "three"},
}
THREE = (
    kernels.Bilateral(4.0, 60.0),
    kernels.Custom(0.7, "depth"),
    kernels.Spatial(1.5),
)
STEPS = 3


def arguments(option, form="diagonal", labels=3, size=(4, 5), batch=2, seed=0, **changes):
    """Arguments of functional.mean_field: tensors that a gradient is wanted for, and the rest."""
    logits, image = make.problem(seed, *size, batch=batch, labels=labels)
    if "relu" in option:
        logits = logits + 3  # mostly above 0, where it is smooth
    given = dict(OPTIONS[option])
    count = 3 if given.get("kernels") else 2
    weights = torch.cat([make.weights(form, labels), make.weights(form, labels, seed=1)])[:count]
    mu = make.asymmetric(labels)
    if not given.get("tied", True):
        weights = torch.stack([weights * (1 + 0.1 * t) for t in range(STEPS)])
        mu = torch.stack([mu + 0.05 * t for t in range(STEPS)])
    tensors = {"logits": logits, "image": image, "kernel_weights": weights, "compatibility": mu}
    generator = torch.Generator().manual_seed(seed + 5)
    if given.get("kernels"):
        given["kernels"] = THREE
        depth = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)
        tensors["depth"] = depth
    if given.get("mask"):
        given["mask"] = torch.rand(batch, *size, generator=generator) > 0.3
    rest = {"params": make.small_params(**changes), "iterations": STEPS, **given}
    return tensors, rest


def run(tensors, rest, path, **more):
    guides = {"depth": tensors["depth"]} if "depth" in tensors else None
    named = {k: v for k, v in tensors.items() if k != "depth"}
    return functional.mean_field(**named, guides=guides, **rest, **PATHS[path], **more)


def bandwidths(option):
    """Deviations of the kernels, a little off their own."""
    given = THREE if OPTIONS[option].get("kernels") else kernels.from_params(make.small_params())
    thetas = [[k.theta_position or 1.0, k.theta_guide or 1.0] for k in given]
    return torch.tensor(thetas, dtype=torch.float64) * 1.07


# --- every gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path, form", [
    ("fused", "full"), ("fused", "diagonal"), ("fused", "scalar"),
    ("textbook", "full"), ("textbook", "diagonal"), ("exact", "full"), ("torch", "full"),
])
@pytest.mark.parametrize("option", OPTIONS)
def test_gradcheck_for_every_input_of_every_option(option, path, size, form):
    tensors, rest = arguments(option, form, size=SIZES[size])
    names = list(tensors)
    free = [tensors[name].clone().requires_grad_() for name in names]
    free.append(bandwidths(option).requires_grad_())

    def function(*given):
        named = dict(zip(names, given[:-1], strict=True))
        return run(named, rest, path, bandwidths=given[-1])

    # Random cotangents and directions; steps far below the size of a simplex.
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(function, free, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("normalization", make.NORMALIZATIONS)
@pytest.mark.parametrize("self_term", [True, False])
def test_gradients_of_bandwidths_equal_finite_differences_of_the_loss(
    path, normalization, self_term
):
    params = make.small_params(normalization=normalization, self_term=self_term)
    crf = CRFRNN(3, params=params, iterations=5, trainable_bandwidths=True, **PATHS[path]).double()
    logits, image = make.problem(4, 6, 7, batch=2)
    target = torch.randint(3, (2, 6, 7), generator=torch.Generator().manual_seed(2))

    def loss():
        return torch.nn.functional.cross_entropy(crf(logits, image), target)

    start, step = 0.02, 1e-6  # at 0 pixels would lie on the faces of simplices, where it jumps
    torch.nn.init.constant_(crf.log_bandwidths, start)
    loss().backward()
    found = crf.log_bandwidths.grad.clone()
    for kernel, which in ((0, 0), (0, 1), (1, 0)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                crf.log_bandwidths[kernel, which] = start + sign * step
                ends.append(loss().item())
                crf.log_bandwidths[kernel, which] = start
        wanted = (ends[0] - ends[1]) / (2 * step)
        assert found[kernel, which].item() == pytest.approx(wanted, rel=1e-5, abs=1e-8)
    assert found[1, 1] == 0  # the spatial kernel has no guide


# --- the definition ------------------------------------------------------------------------------


@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("normalization", make.NORMALIZATIONS)
@pytest.mark.parametrize("option", ["tied", "untied", "relu", "untied relu"])
def test_options_equal_the_dense_oracle(option, normalization, self_term):
    tensors, rest = arguments(option, "full", normalization=normalization, self_term=self_term)
    found = run(tensors, rest, "exact", return_all=True)
    params = rest["params"]
    tied = rest.get("tied", True)
    for b in range(2):
        matrices = [
            dense.normalized_kernel(features, normalization, self_term)
            for features in make.feature_rows(tensors["image"][b], params)
        ]
        weights, mus = tensors["kernel_weights"].numpy(), tensors["compatibility"].numpy()
        wanted = dense.mean_field_variant(
            make.rows(tensors["logits"][b]), matrices, [weights] * STEPS if tied else weights,
            [mus] * STEPS if tied else mus, rest.get("update", "softmax"),
        )
        for t in range(STEPS):
            rows = make.rows(found[t][b])
            np.testing.assert_allclose(rows, wanted[t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ["fused", "textbook"])
@pytest.mark.parametrize("option", ["untied", "relu"])
def test_lattices_are_within_their_tolerance_of_the_dense_oracle(option, path):
    logits, image = make.problem(5, 24, 25, batch=1)
    rest = {"iterations": STEPS, **OPTIONS[option]}
    params = CRFParams(15, 40, 2, w_bilateral=1.0, w_spatial=0.5)
    if "update" in rest:
        logits = logits + 3
    else:
        rest["kernel_weights"] = torch.tensor([[1.0, 0.5]] * STEPS, dtype=torch.float64)
    lattice = functional.mean_field(logits, image, params, **rest, **PATHS[path])
    exact = functional.mean_field(logits, image, params, **rest, method="exact")
    assert (lattice - exact).abs().max() < 0.1  # 0.04 and 0.05 measured
    assert (lattice - exact).square().mean().sqrt() < 0.02


def test_all_iterations_end_in_the_last_one():
    tensors, rest = arguments("tied")
    steps = run(tensors, rest, "fused", return_all=True)
    assert len(steps) == STEPS
    torch.testing.assert_close(steps[-1], run(tensors, rest, "fused"), rtol=1e-11, atol=1e-11)
    one = run(tensors, {**rest, "iterations": 1}, "fused")
    torch.testing.assert_close(steps[0], one, rtol=1e-11, atol=1e-11)


def test_untied_iterations_with_equal_parameters_are_tied_ones():
    tensors, rest = arguments("tied")
    wanted = run(tensors, rest, "fused")
    for name in ("kernel_weights", "compatibility"):
        tensors[name] = tensors[name].expand(STEPS, *tensors[name].shape)
    found = run(tensors, {**rest, "tied": False}, "fused")
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_bandwidths_of_their_own_change_nothing_but_the_spatial_filter():
    tensors, rest = arguments("tied")
    own = bandwidths("tied") / 1.07
    found = run(tensors, rest, "fused", bandwidths=own)
    rest["params"] = make.small_params(spatial="lattice")
    torch.testing.assert_close(found, run(tensors, rest, "fused"), rtol=1e-11, atol=1e-11)


def test_kernels_in_another_order_with_their_weights_give_the_same():
    tensors, rest = arguments("three kernels")
    wanted = run(tensors, rest, "fused")
    order = [2, 0, 1]
    rest["kernels"] = [THREE[i] for i in order]
    tensors["kernel_weights"] = tensors["kernel_weights"][order]
    torch.testing.assert_close(run(tensors, rest, "fused"), wanted, rtol=1e-11, atol=1e-11)


# --- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
@pytest.mark.parametrize("normalization", make.NORMALIZATIONS)
@pytest.mark.parametrize("self_term", [True, False])
def test_masked_pixels_take_no_part_as_in_numpy(backend, normalization, self_term, spatial):
    params = make.small_params(normalization=normalization, self_term=self_term, spatial=spatial)
    logits, image = make.problem(6, 7, 8, batch=3)
    mask = torch.rand(3, 7, 8, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[2] = True
    found = functional.mean_field(logits, image, params, mask=mask, backend=backend)
    for b in range(3):
        wanted = numpy_mean_field(
            logits[b].numpy(), make.numpy_image(image[b]), params, mask=mask[b].numpy()
        )
        np.testing.assert_allclose(found[b].numpy(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_mask_hides_may_be_anything_and_comes_back(path):
    logits, image = make.problem(7, 5, 6, batch=2)
    mask = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(4)) > 0.4
    wanted = functional.mean_field(logits, image, make.small_params(), mask=mask, **PATHS[path])
    hidden = ~mask[:, None]
    dirty = logits.masked_fill(hidden, math.nan), image.masked_fill(hidden, math.inf)
    found = functional.mean_field(*dirty, make.small_params(), mask=mask, **PATHS[path])
    assert torch.equal(found.masked_fill(hidden, 0), wanted.masked_fill(hidden, 0))
    assert found[hidden.expand_as(found)].isnan().all()


def test_an_image_that_is_hidden_whole_comes_back():
    logits, image = make.problem(8, 5, 6, batch=2)
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    assert torch.equal(functional.mean_field(logits, image, mask=mask), logits)


@pytest.mark.parametrize("mask, error, match", [
    (torch.ones(2, 4, 5), TypeError, "mask has dtype float32; it must be bool"),
    (torch.ones(2, 5, 4, dtype=torch.bool), ValueError, "mask is 2 x 5 x 4 but logits is 2 x 4"),
    (np.ones((2, 4, 5), bool), TypeError, "mask is ndarray; it must be a tensor"),
])
def test_masks_of_another_kind_are_refused(mask, error, match):
    logits, image = make.problem(0, 4, 5, batch=2)
    with pytest.raises(error, match=match):
        functional.mean_field(logits, image, mask=mask)


# --- what learns ---------------------------------------------------------------------------------


def test_bandwidths_cannot_leave_their_range():
    crf = CRFRNN(3, trainable_bandwidths=True)
    for extreme in (-1e9, 1e9):
        with torch.no_grad():
            crf.log_bandwidths.fill_(extreme)
        ratio = crf.bandwidths / crf.initial_bandwidths
        factor = BANDWIDTH_RANGE if extreme > 0 else 1 / BANDWIDTH_RANGE
        torch.testing.assert_close(ratio, torch.full((2, 2), factor))
        logits, image = make.problem(0, 6, 7, dtype=torch.float32)
        refined = crf(logits, image)
        refined.sum().backward()
        assert refined.isfinite().all() and crf.log_bandwidths.grad.isfinite().all()


def test_learned_bandwidths_recover_the_generating_ones():
    # A field that a CRF with other bandwidths refined; only those are free.
    true = CRFParams(6, 30, 2, w_bilateral=4, w_spatial=2)
    logits, image = make.problem(9, 32, 33, batch=4, dtype=torch.float32)
    image = torch.nn.functional.interpolate(image[..., ::4, ::4], size=(32, 33), mode="bilinear")
    with torch.no_grad():
        wanted = functional.mean_field(
            logits, image, CRFParams(6, 30, 2, w_bilateral=4, w_spatial=2, spatial="lattice")
        )
    start = CRFParams(10, 18, 3.2, w_bilateral=4, w_spatial=2)
    crf = CRFRNN(3, params=start, trainable_bandwidths=True, compatibility="potts")
    crf.freeze("kernel_weights")
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.03)
    for _ in range(120):
        loss = (crf(logits, image).softmax(1) - wanted.softmax(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = crf.bandwidths.detach()
    for value, truth in (
        (found[0, 0], true.theta_alpha), (found[0, 1], true.theta_beta),
        (found[1, 0], true.theta_gamma),
    ):
        assert value.item() == pytest.approx(truth, rel=0.1)


def test_a_learned_guide_beats_the_colour_guide():
    # Two textures of the same mean colour: what tells them apart a small network can learn.
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(4, 24, 24, dtype=torch.long)
    truth[0, :, 12:] = truth[1, 12:] = truth[2, 6:18, 6:18] = truth[3, :8] = 1
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    stripes = torch.where(truth == 1, (x % 2)[None], (y % 2)[None]).float()
    image = (stripes[:, None] * 255).expand(-1, 3, -1, -1).contiguous()
    signal = torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
    logits = signal + 1.5 * torch.randn(signal.shape, generator=generator)

    def accuracy(train_guide):
        torch.manual_seed(1)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 2, 3, padding=1),
        )
        chosen = kernels.Bilateral(8.0, 1.0, "learned") if train_guide else (
            kernels.Bilateral(8.0, 60.0))
        crf = CRFRNN(2, kernels=[chosen], iterations=3, eval_iterations=3)
        parameters = [*crf.parameters(), *(network.parameters() if train_guide else [])]
        optimizer = torch.optim.Adam(parameters, lr=0.02)
        for _ in range(60):
            guides = {"learned": network(image / 255)} if train_guide else None
            refined = crf(logits, image, guides=guides)
            loss = torch.nn.functional.cross_entropy(refined, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (refined.argmax(1) == truth).float().mean().item()

    assert accuracy(True) > accuracy(False) + 0.02


@pytest.mark.parametrize(
    "loss, lr", [({}, 1e-3), ({"loss": "mean"}, 1e-3), ({"loss": "sum"}, 1e-13)]
)
def test_parameter_groups_fit_the_loss_and_do_not_warn(loss, lr):
    crf = CRFRNN(3, trainable_bandwidths=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {g["name"]: g["lr"] / lr for g in crf.parameter_groups(lr, **loss)}
        given = crf.parameter_groups(lr, **loss, compatibility=3)
    mean = {"kernel_weights": 10, "compatibility": 10, "bandwidths": 10}
    summed = {"kernel_weights": 1e4, "compatibility": 1e3, "bandwidths": 1e3}
    wanted = summed if loss.get("loss") == "sum" else mean
    assert found == pytest.approx(wanted)
    given = {g["name"]: g["lr"] / lr for g in given}
    assert given == pytest.approx({**wanted, "compatibility": 3})


def test_a_rate_above_its_parameter_warns_with_figures_and_a_way_out():
    crf = CRFRNN(3, trainable_bandwidths=True)
    figures = "kernel_weights learns at 0.001 x 10000 = 10 but is at most 5, .* use loss='mean'"
    with pytest.warns(UserWarning, match=figures) as caught:
        crf.parameter_groups(1e-3, loss="sum")
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match="bandwidths learns at 1 x 3 = 3 but is at most 1"):
        crf.parameter_groups(1.0, kernel_weights=1, compatibility=1, bandwidths=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crf.parameter_groups(1e-3, loss="mean")
        crf.parameter_groups(1e-3, loss="sum", kernel_weights=10, compatibility=10, bandwidths=10)
        crf.freeze().parameter_groups(1e-3, loss="sum")
        CRFRNN(3, params=CRFParams(w_bilateral=0, w_spatial=0)).parameter_groups(1e-3)
    with pytest.raises(ValueError, match="loss is 'max'; choose from 'mean', 'sum'"):
        crf.parameter_groups(1e-3, loss="max")


@pytest.mark.parametrize("lr", [0.11, 0.2, 0.7, 3.0, 1000.0])
@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_the_multipliers_that_a_warning_of_rates_names_cause_none(lr, loss):
    crf = CRFRNN(3, trainable_bandwidths=True)
    with pytest.warns(UserWarning, match="compatibility learns at .* is at most 1") as caught:
        crf.parameter_groups(lr, loss=loss)
    text = str(caught[0].message)
    assert "loss='mean'" not in text
    found = re.search(r"give smaller multipliers \((.*?)\), or a smaller lr", text)[1]
    multipliers = eval(f"dict({found})")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crf.parameter_groups(lr, loss=loss, **multipliers)
    assert all(m > 0.45 * crf._learned()[name].detach().abs().max().item() / lr
               for name, m in multipliers.items() if name != "bandwidths")  # fmt: skip


def test_frozen_parts_do_not_learn_and_groups_leave_them_out():
    crf = CRFRNN(3, trainable_bandwidths=True)
    assert crf.freeze("compatibility", "bandwidths") is crf
    assert [g["name"] for g in crf.parameter_groups(0.1)] == ["kernel_weights"]
    torch.optim.SGD(crf.parameter_groups(1e-3), lr=1.0)
    assert not any(p.requires_grad for p in crf.freeze().parameters())
    assert all(p.requires_grad for p in crf.freeze(frozen=False).parameters())
    with pytest.raises(ValueError, match="a name to freeze is 'weights'; choose from"):
        crf.freeze("weights")
    with pytest.raises(ValueError, match="choose from 'kernel_weights'"):
        CRFRNN(3, compatibility="potts").freeze("compatibility")


@pytest.mark.parametrize("form", make.FORMS)
@pytest.mark.parametrize("compatibility", ["learned", "potts"])
def test_an_untied_head_has_parameters_for_each_iteration_and_starts_as_a_tied_one(
    form, compatibility
):
    options = {"kernel_weights": form, "compatibility": compatibility, "iterations": 4}
    tied = CRFRNN(3, eval_iterations=4, **options)
    untied = CRFRNN(3, tied=False, **options)
    assert untied.eval_iterations == 4
    assert untied.kernel_weights.shape == (4, *tied.kernel_weights.shape)
    assert untied.compatibility.shape == (4, 3, 3)
    logits, image = make.problem(0, 6, 7, dtype=torch.float32)
    for module in (tied, untied):
        module.train(False)
    torch.testing.assert_close(untied(logits, image), tied(logits, image))


# --- the robust loss -----------------------------------------------------------------------------


def test_the_robust_loss_is_bounded_and_tends_to_the_softmax_loss():
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (2, 5, 6), generator=generator)
    target[0, 0] = 255
    each = robust_log_likelihood(logits, target, epsilon=0.1, reduction="none")
    assert each.min() >= 0 and each.max() <= math.log(11) + 1e-12
    assert (each[0, 0] == 0).all()
    mean = robust_log_likelihood(logits, target, epsilon=0.1)
    torch.testing.assert_close(mean, each.sum() / (target != 255).sum())
    torch.testing.assert_close(
        robust_log_likelihood(logits, target, epsilon=0.1, reduction="sum"), each.sum()
    )
    soft = torch.nn.functional.cross_entropy(logits / 20, target, ignore_index=255)
    near = robust_log_likelihood(logits / 20, target, epsilon=1e-6)
    torch.testing.assert_close(near, soft, rtol=1e-4, atol=1e-4)


def test_the_robust_loss_passes_gradcheck_where_marginals_are_tiny():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (1, 2, 2), generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: robust_log_likelihood(x, target, epsilon=0.1), logits.requires_grad_()
    )


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, match", [
    ({"kernels": []}, "kernels holds 0; give 1 to 6"),
    ({"kernels": [kernels.Spatial(1.0)] * 7}, "kernels holds 7; give 1 to 6"),
    ({"kernels": [kernels.Custom(1.0, "depth")]}, "guide 'depth', which is not given; pass guides"),
    ({"update": "sigmoid"}, "update is 'sigmoid'; choose from"),
    ({"bandwidths": torch.ones(3, 2)}, r"bandwidths has shape .*must be \[2, 2\]"),
    ({"bandwidths": -torch.ones(2, 2)}, "bandwidths holds -1; they must be positive"),
    ({"tied": False, "kernel_weights": torch.ones(3, 2)}, "5 iterations that are not tied"),
])
def test_options_out_of_range_are_refused(given, match):
    logits, image = make.problem(0, 4, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match=match):
        functional.mean_field(logits, image, **given)


def test_kernels_without_deviations_and_untied_iterations_of_two_numbers_are_refused():
    with pytest.raises(ValueError, match="theta_position and theta_guide are both None"):
        kernels.Kernel()
    with pytest.raises(TypeError, match="kernels holds float; give kernels.Bilateral"):
        CRFRNN(3, kernels=[3.0])
    with pytest.raises(ValueError, match="give one positive number for both"):
        CRFRNN(3, tied=False, iterations=5, eval_iterations=10)
