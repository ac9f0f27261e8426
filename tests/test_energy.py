"""The free energy on arrays: against the sum over all labellings, and its limits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import operator_matrices

from densecrf_rnn import CRFParams, mean_field
from densecrf_rnn.energy import free_energy
from densecrf_rnn.params import NORMALIZATIONS, SPATIAL_FILTERS
from densecrf_rnn.reference import dense

# Bandwidths of a few pixels, weights with which iterations in parallel still descend.
WEAK = CRFParams(
    theta_alpha=4, theta_beta=60, theta_gamma=1.5, w_bilateral=0.4, w_spatial=0.3,
    self_term=False,
)  # fmt: skip


def problem(seed, *size, labels=3, channels=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(labels, *size)), rng.uniform(0, 255, (*size, channels))


def pair_costs(matrices, weights, mu):
    """What label l of pixel i costs beside label k of pixel j: [N, L, N, L], i != j or not."""
    labels = len(mu)
    return sum(
        np.einsum("ij,lk->iljk", matrix, mu @ dense.weight_matrix(weight, labels))
        for matrix, weight in zip(matrices, weights, strict=True)
    )


def energies(logits, costs):
    """E(x) of every labelling x, from the definition; and the labellings [*, N]."""
    u = logits.reshape(len(logits), -1).T
    pixels = np.arange(len(u))
    labellings = np.array(list(itertools.product(range(len(logits)), repeat=len(u))))
    found = [
        -u[pixels, x].sum() + costs[pixels, x][:, pixels, x].sum() / 2 for x in labellings
    ]
    return np.array(found), labellings


def kl_divergence(refined, energy, labellings):
    """KL(Q || P) and ln Z, by summing over all labellings."""
    q = dense.softmax(refined.reshape(len(refined), -1).T)
    of_labelling = q[np.arange(len(q)), labellings].prod(1)
    log_z = np.logaddexp.reduce(-energy)
    return (of_labelling * (np.log(of_labelling) + energy + log_z)).sum(), log_z


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
@pytest.mark.parametrize("size, labels", [((2, 3), 3), ((1, 7), 2), ((2, 2, 2), 2), ((1, 1), 4)])
def test_free_energy_is_the_divergence_less_the_log_partition_sum(
    backend, normalization, spatial, size, labels
):
    params = replace(WEAK, normalization=normalization, spatial=spatial)
    logits, image = problem(0, *size, labels=labels)
    costs = pair_costs(operator_matrices(image, params), (0.4, 0.3), 1 - np.eye(labels))
    energy, labellings = energies(logits, costs)
    for iterations in (0, 1, 5):
        refined = mean_field(logits, image, params, iterations=iterations, backend=backend)
        divergence, log_z = kl_divergence(refined, energy, labellings)
        found = free_energy(refined, logits, image, params, backend=backend)
        assert divergence >= -1e-12
        assert found + log_z == pytest.approx(divergence, abs=1e-10)


@pytest.mark.parametrize("form", ["scalar", "diagonal", "full"])
def test_free_energy_takes_weights_of_every_form_and_any_compatibility(form):
    """Of an asymmetric cost the mean over both directions counts, as in E(x)."""
    rng = np.random.default_rng(1)
    shape = {"scalar": (2,), "diagonal": (2, 3), "full": (2, 3, 3)}[form]
    weights, mu = rng.normal(size=shape), rng.normal(size=(3, 3))
    logits, image = problem(1, 2, 3)
    costs = pair_costs(operator_matrices(image, WEAK), weights, mu)
    symmetric = (costs + costs.transpose(2, 3, 0, 1)) / 2
    refined = rng.normal(size=logits.shape)
    found = free_energy(
        refined, logits, image, WEAK, kernel_weights=weights, compatibility=mu
    )
    for case in (costs, symmetric):
        divergence, log_z = kl_divergence(refined, *energies(logits, case))
        assert found + log_z == pytest.approx(divergence, abs=1e-10)


@given(seed=st.integers(0, 2**32 - 1), labels=st.sampled_from((2, 3, 5)))
def test_iterations_of_a_weak_crf_descend(seed, labels):
    params = replace(WEAK, normalization="symmetric", quality="symmetric")
    logits, image = problem(seed, 5, 7, labels=labels)
    steps = [mean_field(logits, image, params, iterations=t) for t in range(6)]
    found = [free_energy(step, logits, image, params) for step in steps]
    assert (np.diff(found) <= 1e-9).all()
    assert found[1] < found[0]


@given(seed=st.integers(0, 2**32 - 1))
def test_a_fixed_point_of_the_mean_field_is_a_stationary_point(seed):
    """To first order nothing is gained by moving Q, where the operator is symmetric."""
    params = replace(WEAK, normalization="symmetric", quality="symmetric")
    logits, image = problem(seed, 3, 4)
    fixed = mean_field(logits, image, params, iterations=200)
    step = 1e-5 * np.random.default_rng(seed).normal(size=logits.shape)
    ends = [free_energy(fixed + s * step, logits, image, params) for s in (1, -1)]
    assert ends[0] - ends[1] == pytest.approx(0, abs=1e-9)
    assert min(ends) > free_energy(fixed, logits, image, params)


def test_self_term_adds_the_cost_of_a_pixel_beside_itself():
    logits, image = problem(2, 4, 5)
    params = replace(WEAK, self_term=True)
    refined = mean_field(logits, image, params, iterations=2)
    q = dense.softmax(refined.reshape(3, -1).T)
    costs = pair_costs(operator_matrices(image, params), (0.4, 0.3), 1 - np.eye(3))
    want = (q * (np.log(q) - logits.reshape(3, -1).T)).sum()
    want += np.einsum("il,iljk,jk->", q, costs, q) / 2
    assert free_energy(refined, logits, image, params) == pytest.approx(want, rel=1e-12)


def test_one_logit_is_the_labels_zero_and_it(backend):
    logits, image = problem(3, 5, 6, labels=1)
    refined = mean_field(logits, image, WEAK, iterations=2, backend=backend)
    two = [np.concatenate([np.zeros_like(x), x]) for x in (refined, logits)]
    want = free_energy(*two, image, WEAK, backend=backend)
    assert free_energy(refined, logits, image, WEAK, backend=backend) == pytest.approx(want)


def test_a_constant_per_pixel_of_what_is_refined_does_not_count(backend):
    logits, image = problem(4, 5, 6)
    shift = np.random.default_rng(4).normal(size=(5, 6))
    refined = mean_field(logits, image, WEAK, iterations=2, backend=backend)
    one, other = (
        free_energy(r, logits, image, WEAK, backend=backend)
        for r in (refined, refined + shift)
    )
    assert one == pytest.approx(other, rel=1e-12)


def test_free_energy_leaves_out_what_the_mask_leaves_out(backend):
    """A band at the rim of the picture: the rest is a picture of its own."""
    logits, image = problem(5, 6, 7)
    mask = np.zeros((6, 7), bool)
    mask[:, :5] = True
    inside = (logits[..., :5].copy(), image[:, :5].copy())
    logits[:, ~mask], image[~mask] = np.nan, np.nan
    params = replace(WEAK, spatial="lattice")
    refined = mean_field(logits, image, params, mask=mask, backend=backend)
    found = free_energy(refined, logits, image, params, mask=mask, backend=backend)
    want = free_energy(refined[..., :5].copy(), *inside, params, backend=backend)
    assert found == pytest.approx(want, rel=1e-12)
    nowhere = np.zeros_like(mask)
    assert free_energy(refined, logits, image, params, mask=nowhere, backend=backend) == 0


def test_a_label_that_is_ruled_out_costs_nothing_unless_it_is_used(backend):
    logits, image = problem(6, 4, 5)
    params = replace(WEAK, w_bilateral=(0.4, 0.4, 0.4))
    logits[2] = -np.inf
    refined = mean_field(logits, image, params, iterations=2, backend=backend)
    two = free_energy(
        refined[:2].copy(), logits[:2].copy(), image, WEAK, backend=backend
    )
    found = free_energy(refined, logits, image, params, backend=backend)
    assert found == pytest.approx(two, rel=1e-12)
    assert free_energy(np.zeros_like(logits), logits, image, WEAK, backend=backend) == np.inf


def test_float32_is_near_float64(backend):
    logits, image = problem(7, 40, 50, labels=5)
    refined = mean_field(logits, image, WEAK, backend=backend)
    want = free_energy(refined, logits, image, WEAK, backend=backend)
    halved = [x.astype(np.float32) for x in (refined, logits, image)]
    assert free_energy(*halved, WEAK, backend=backend) == pytest.approx(want, rel=1e-6)


def test_free_energy_refuses_what_does_not_go_together():
    logits, image = problem(8, 4, 5)
    with pytest.raises(ValueError, match=r"refined has shape \(3, 4, 4\) but logits \(3, 4, 5\)"):
        free_energy(logits[..., :4], logits, image)
    with pytest.raises(TypeError, match="refined has dtype float32 but logits float64"):
        free_energy(logits.astype(np.float32), logits, image)
    with pytest.raises(TypeError, match="refined"):
        free_energy(logits.tolist(), logits, image)
    bad = logits.copy()
    bad[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="refined contains NaN"):
        free_energy(bad, logits, image)
    bad[0, 1, 2] = np.inf
    with pytest.raises(ValueError, match="refined contains .infinity"):
        free_energy(bad, logits, image)
    with pytest.raises(ValueError, match="logits contains .infinity"):
        free_energy(logits, bad, image)
    image[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image contains NaN"):
        free_energy(logits, logits, image)


def test_free_energy_leaves_its_arguments_alone(backend):
    logits, image = problem(9, 4, 5)
    refined = mean_field(logits, image, WEAK, backend=backend)
    given = [x.copy() for x in (refined, logits, image)]
    for array in (refined, logits, image):
        array.flags.writeable = False
    free_energy(refined, logits, image, WEAK, backend=backend)
    for array, before in zip((refined, logits, image), given, strict=True):
        np.testing.assert_array_equal(array, before)


def test_the_free_energy_of_float16_logits_is_that_of_their_float32():
    logits, image = problem(0, 5, 6)
    half = logits.astype(np.float16)
    steps = [mean_field(half, image, WEAK, iterations=t) for t in (0, 3)]
    for step in (*steps, half):
        wide = step.astype(np.float32), half.astype(np.float32)
        assert free_energy(step, half, image, WEAK) == free_energy(*wide, image, WEAK)
