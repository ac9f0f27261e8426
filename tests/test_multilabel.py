"""Regions that overlap: L binary CRFs that share their kernels are L calls, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from oracles import operator_matrices

from densecrf_rnn import CRFParams, mean_field, refine, refine_dask, refine_tiled
from densecrf_rnn.inference import build
from densecrf_rnn.reference import dense

PARAMS = CRFParams(theta_alpha=3, theta_beta=40, theta_gamma=1.5, w_bilateral=1.7, w_spatial=0.6)


def problem(seed=0, maps=3, size=(5, 7), dtype=np.float64):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(maps, *size))).astype(dtype)
    return logits, rng.integers(0, 255, (*size, 3), np.uint8)


def of_map(params, index):
    """The parameters of one map."""
    def one(weight):
        return weight[index] if isinstance(weight, tuple) else weight

    return replace(params, w_bilateral=one(params.w_bilateral), w_spatial=one(params.w_spatial))


def one_by_one(function, logits, image, params, **options):
    found = [
        function(logits[i : i + 1], image, of_map(params, i), **options)
        for i in range(len(logits))
    ]
    return np.concatenate(found)


@st.composite
def problems(draw):
    size = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    maps = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**16))
    logits, image = problem(seed, maps, size, draw(st.sampled_from([np.float32, np.float64])))
    rng = np.random.default_rng(seed)
    logits[rng.random(logits.shape) < 0.1] = -np.inf  # the region is impossible there
    per_map = st.lists(st.sampled_from([0.5, 2.0]), min_size=maps, max_size=maps).map(tuple)
    weights = {
        name: draw(st.one_of(st.just(1.3), per_map)) for name in ("w_bilateral", "w_spatial")
    }
    params = replace(
        PARAMS, **weights, normalization=draw(st.sampled_from(["none", "symmetric"])),
        self_term=draw(st.booleans()), spatial=draw(st.sampled_from(["grid", "lattice"])),
    )
    options = {"iterations": draw(st.integers(0, 3)), "threads": draw(st.sampled_from([1, 2, 3]))}
    if draw(st.booleans()):
        options["mask"] = rng.random(size) < 0.7
    if draw(st.booleans()):
        options["spacing"] = tuple(rng.uniform(0.5, 2, len(size)))
    return logits, image, params, options


@pytest.mark.parametrize("function", [refine, mean_field])
@given(data=problems())
def test_maps_refined_at_once_equal_single_calls_to_the_bit(backend, function, data):
    logits, image, params, options = data
    before = logits.copy()
    found = function(logits, image, params, multilabel=True, backend=backend, **options)
    wanted = one_by_one(function, logits, image, params, backend=backend, **options)
    assert found.shape == logits.shape and found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(logits, before)


def test_maps_refined_at_once_are_binary_crfs_by_the_definition(backend):
    logits, image = problem(size=(6, 6))
    params = replace(PARAMS, w_bilateral=(1.3, 0.1, 2.6), w_spatial=0.4)
    found = mean_field(logits, image, params, multilabel=True, iterations=3, backend=backend)
    matrices = operator_matrices(image, params, backend)
    for one, refined, weight in zip(logits, found, params.w_bilateral, strict=True):
        pair = np.stack([np.zeros(one.size), one.ravel()], axis=1)
        wanted = dense.mean_field(pair, matrices, [weight, 0.4], 1 - np.eye(2), 3)
        assert np.abs(refined.ravel() - (wanted[:, 1] - wanted[:, 0])).max() < 1e-12


def test_kernels_are_built_once_for_all_maps(monkeypatch):
    built = []
    plans = build._plans
    monkeypatch.setattr(build, "_plans", lambda *args: built.append(1) or plans(*args))
    logits, image = problem(maps=6)
    for params in (PARAMS, replace(PARAMS, w_bilateral=(1.0, 2.0, 3.0, 1.0, 1.0, 5.0))):
        built.clear()
        refine(logits, image, params, multilabel=True)
        assert len(built) == 1


def test_weights_of_kernels_are_one_per_kernel_or_one_per_kernel_and_map(backend):
    logits, image = problem()
    weights = np.array([[1.0, 2.0, 0.5], [0.2, 0.0, 3.0]])
    found = mean_field(
        logits, image, PARAMS, multilabel=True, kernel_weights=weights, backend=backend
    )
    same = replace(PARAMS, w_bilateral=tuple(weights[0]), w_spatial=tuple(weights[1]))
    np.testing.assert_array_equal(
        found, mean_field(logits, image, same, multilabel=True, backend=backend)
    )
    found = mean_field(
        logits, image, PARAMS, multilabel=True, kernel_weights=weights[:, 0], backend=backend
    )
    same = replace(PARAMS, w_bilateral=1.0, w_spatial=0.2)
    np.testing.assert_array_equal(
        found, mean_field(logits, image, same, multilabel=True, backend=backend)
    )
    with pytest.raises(ValueError, match=r"\[2\] or 2 x 3: one weight per kernel, or .* and map"):
        mean_field(logits, image, multilabel=True, kernel_weights=np.ones((2, 3, 3)))


def test_what_binary_crfs_cannot_have_is_refused():
    logits, image = problem()
    with pytest.raises(ValueError, match="compatibility is given but multilabel is True"):
        refine(logits, image, PARAMS, multilabel=True, compatibility=np.eye(3))
    with pytest.raises(ValueError, match="has 2 weights but there are 3 maps; .* for each map"):
        refine(logits, image, replace(PARAMS, w_bilateral=(1.0, 2.0)), multilabel=True)
    with pytest.raises(TypeError, match="multilabel is 'yes'; it must be True or False"):
        refine(logits, image, PARAMS, multilabel="yes")


@pytest.mark.parametrize("bad, message", [(np.nan, "NaN"), (np.inf, r"\+infinity")])
def test_bad_values_of_a_map_are_refused(backend, bad, message):
    logits, image = problem()
    logits[1, 2, 3] = bad
    with pytest.raises(ValueError, match=f"logits contains {message}"):
        refine(logits, image, PARAMS, multilabel=True, backend=backend)


def test_tiles_of_maps_are_those_of_the_whole_image():
    logits, image = problem(size=(12, 14))
    params = replace(PARAMS, theta_alpha=1.2, theta_gamma=0.8, w_bilateral=(1.0, 2.0, 0.5))
    options = {"multilabel": True, "iterations": 2}
    whole = refine(logits, image, params, **options)
    tiled = refine_tiled(logits, image, params, tile=5, halo="exact", **options)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    with pytest.raises(ValueError, match="labels is True but multilabel is True"):
        refine_tiled(logits, image, params, labels=True, **options)


def test_dask_chunks_of_maps_are_those_of_the_whole_image():
    da = pytest.importorskip("dask.array")
    logits, image = problem(size=(12, 14))
    params = replace(PARAMS, theta_alpha=1.2, theta_gamma=0.8, w_bilateral=(1.0, 2.0, 0.5))
    options = {"multilabel": True, "iterations": 2}
    arrays = da.from_array(logits, chunks=(3, 6, 7)), da.from_array(image, chunks=(6, 7, 3))
    q = refine_dask(*arrays, params, halo="exact", **options).compute(scheduler="sync")
    np.testing.assert_allclose(q, refine(logits, image, params, **options), atol=1e-6)
    with pytest.raises(ValueError, match="labels is True but multilabel is True"):
        refine_dask(*arrays, params, labels=True, **options)
