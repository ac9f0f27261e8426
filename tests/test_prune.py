"""prune: labels that provably do not matter are left out, and no others.

The bound is tested on the reference, whose marginals can be seen, and on every engine that prunes,
from outside: the refined logits of t iterations must be the exact update of those of t - 1, but for
marginals that lack at most `prune` of each label.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import noisy_logits, picture, softmax

from densecrf_rnn import CRFParams, engines, mean_field, refine, refine_tiled
from densecrf_rnn.inference.mean_field import check
from densecrf_rnn.inference.running import Filter
from densecrf_rnn.params import NORMALIZATIONS
from densecrf_rnn.reference import pruning

SOFT = CRFParams(theta_alpha=8, theta_beta=20, theta_gamma=2, w_bilateral=2, w_spatial=1)


@pytest.fixture
def pruner(backend):
    """Name of an engine that leaves labels out."""
    if not engines.engine(backend).prunes:
        pytest.skip(f"backend {backend!r} does not leave labels out")
    return backend


def confident(labels, size, seed, *, peak=8.0, patch=6, dtype=np.float64):
    """Logits in patches, each sure of a label of its own, and an image whose edges differ."""
    rng = np.random.default_rng(seed)
    patches = [-(-n // patch) for n in size]
    truth = rng.integers(0, labels, patches)
    for axis, n in enumerate(size):
        truth = np.repeat(truth, patch, axis=axis).take(np.arange(n), axis=axis)
    hot = peak * (truth == np.arange(labels).reshape(-1, *[1] * len(size)))
    logits = (hot + rng.normal(size=hot.shape)).astype(dtype)
    image = 40.0 * (truth % 5)[..., None] + rng.normal(0, 4, (*size, 3))
    return logits, image.clip(0, 255).astype(dtype)


# --- the bound, on the reference -----------------------------------------------------------------


def random_kernel(rng, points, labels, own):
    """A kernel of any non-negative weights between points and some vertices."""
    vertices = int(rng.integers(1, 2 * points + 2))
    matrix = rng.random((vertices, points)) * (rng.random((vertices, points)) < 0.5)
    corners = rng.integers(0, vertices, (points, 3))
    weights = rng.random((points, 3)) * rng.choice([0, 1], (points, 3))
    dense = np.zeros((points, vertices))
    np.add.at(dense, (np.arange(points)[:, None], corners), weights)
    # Rows that sum to about 1, as after normalisation, and a diagonal that K has
    scale = 1 / max(1e-9, (dense @ matrix).sum(1).max())
    diagonal = scale * np.diag(dense @ matrix) if own else None
    return pruning.Kernel(corners, scale * weights, lambda v: matrix @ v, diagonal)


PROBLEMS = {
    "seed": st.integers(0, 2**32 - 1),
    "labels": st.sampled_from((2, 3, 7, 21)),
    "strength": st.sampled_from((0.0, 0.5, 3.0, 30.0)),
    "peak": st.sampled_from((0.0, 4.0, 12.0, 40.0)),
    "form": st.sampled_from(("potts", "negative", "asymmetric", "per label")),
    "delta": st.sampled_from((1e-1, 1e-2, 1e-4)),
}


def coupling_of(form, labels, strength, rng):
    """mu W [L, L] of one of the forms in `PROBLEMS`."""
    potts = 1 - np.eye(labels)
    return strength * {
        "potts": potts,
        "negative": -potts,
        "asymmetric": rng.normal(size=(labels, labels)),
        "per label": potts * rng.normal(size=labels),
    }[form]


@given(own=st.booleans(), excluded=st.booleans(), **PROBLEMS)
@settings(max_examples=300)
def test_the_reference_leaves_out_nothing_above_delta(
    own, excluded, seed, labels, strength, peak, form, delta
):
    rng = np.random.default_rng(seed)
    delta = min(delta, 0.5 / labels)
    points = 12
    logits = rng.normal(size=(points, labels))
    logits[:, 0] += peak
    logits[: points // 2, labels - 1] += 1.2 * peak
    if excluded:
        logits[:, 1:][rng.random((points, labels - 1)) < 0.3] = -np.inf
    kernels = [random_kernel(rng, points, labels, own) for _ in range(2)]
    coupling = np.stack([coupling_of(form, labels, strength, rng) for _ in kernels])
    tiles = np.split(rng.permutation(points), [1, 5])
    found = pruning.states(logits, kernels, coupling, tiles, delta, 4)
    for state, after in zip(found, [*found[1:], None], strict=True):
        lost = pruning.softmax(state.refined) - state.marginals
        assert lost.max() <= delta
        np.testing.assert_allclose(state.marginals.sum(1), 1, rtol=1e-12)
        if after is not None:
            want = logits - sum(
                k.slice(k.spread(state.marginals), state.marginals) @ c.T
                for k, c in zip(kernels, coupling, strict=True)
            )
            np.testing.assert_allclose(after.refined, want, rtol=1e-9, atol=1e-9)


@given(**PROBLEMS)
def test_bounds_of_messages_hold_at_every_pixel(seed, labels, strength, peak, form, delta):
    rng = np.random.default_rng(seed)
    delta, points = min(delta, 0.5 / labels), 10
    q = pruning.softmax(peak * rng.normal(size=(points, labels)))
    # A sender may lack up to delta of every label
    q = np.where(q <= delta, 0, q - delta * rng.random(q.shape))
    tile = rng.permutation(points)[:4]
    for own in (False, True):
        kernel = random_kernel(rng, points, labels, own)
        spread = kernel.spread(q)
        received = kernel.slice(kernel.spread(np.ones((points, 1))), np.zeros((points, 1)))[:, 0]
        low, high = pruning.message_bounds(kernel, spread, received, tile, delta)
        message = kernel.slice(spread, q)[tile]
        assert np.all(message <= high + 1e-12) and np.all(message >= low - 1e-12)


# --- the guarantee, on every engine --------------------------------------------------------------


def assert_lacks_at_most(delta, logits, image, params, iterations, backend, **options):
    """Each of the iterations is the exact update of marginals that lack at most delta."""
    weights, mu = options.get("kernel_weights"), options.get("compatibility")
    mask = options.get("mask")
    problem = check(logits, image, params, weights, mu, mask, None, backend, 1)
    filters = [Filter(kernel, problem.engine, 1) for kernel in problem.build()]
    inside = np.ones(logits.shape[1:], bool) if mask is None else mask
    u = logits[:, inside].T
    labels = len(logits)
    gain = labels * delta / (1 - labels * delta)  # of labels that are kept, at most
    coupling = problem.coupling
    received = [np.abs(f(np.ones_like(u[:, :1]))) for f in filters]
    above = sum(
        r * (np.maximum(c, 0).sum(1) * delta - np.minimum(c, 0).sum(1) * gain)
        for r, c in zip(received, coupling, strict=True)
    )
    below = sum(
        r * (np.minimum(c, 0).sum(1) * delta - np.maximum(c, 0).sum(1) * gain)
        for r, c in zip(received, coupling, strict=True)
    )
    before = u
    for t in range(1, iterations + 1):
        after = mean_field(
            logits, image, params, iterations=t, prune=delta, backend=backend, **options
        )[:, inside].T
        q = softmax(before.T).T.astype(u.dtype)
        exact = u - sum(f(q) @ c.T for f, c in zip(filters, coupling, strict=True))
        slack = 1e-9 if u.dtype == np.float64 else 2e-5 * (1 + np.abs(exact))
        assert np.all(after - exact <= above + slack)
        assert np.all(after - exact >= below - slack)
        before = after
    marginals = refine(
        logits, image, params, iterations=iterations, prune=delta, backend=backend,
        compatibility=mu,
    ) if weights is None and mask is None else None  # fmt: skip
    if marginals is not None:
        assert (softmax(before.T).T - marginals[:, inside].T).max() <= delta + 1e-5


@given(
    size=st.sampled_from(((18, 21), (3, 11, 9))),
    self_term=st.booleans(),
    normalization=st.sampled_from(NORMALIZATIONS),
    spatial=st.sampled_from(("grid", "lattice")),
    quality=st.sampled_from(("standard", "symmetric", "filled")),
    masked=st.booleans(),
    **PROBLEMS,
)
@settings(max_examples=40)
def test_no_pixel_loses_more_than_prune_per_label_and_iteration(
    pruner, dtype, size, self_term, normalization, spatial, quality, masked, seed, labels,
    strength, peak, form, delta,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    delta = min(delta, 0.5 / labels)
    logits, image = confident(labels, size, seed, peak=peak, dtype=dtype)
    params = replace(
        SOFT, self_term=self_term, normalization=normalization, spatial=spatial, quality=quality,
        w_bilateral=1, w_spatial=0.5,
    )  # fmt: skip
    if normalization == "none":  # messages then grow with the number of neighbours
        params = replace(params, w_bilateral=0.02, w_spatial=0.02)
    options = {"compatibility": coupling_of(form, labels, strength, rng)}
    if masked:
        options["mask"] = rng.random(size) < 0.7
    assert_lacks_at_most(delta, logits, image, params, 3, pruner, **options)


@given(
    labels=st.sampled_from((3, 4, 5)), size=st.sampled_from(((8, 64), (8, 70), (16, 130))),
    block=st.sampled_from((8, 16, 32)), delta=st.sampled_from((0.05, 1e-2, 1e-3)),
    normalization=st.sampled_from(("after", "symmetric")), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60)
def test_tiles_of_one_label_keep_it_only_while_no_other_can_exceed_prune(
    labels, size, block, delta, normalization, seed
):
    """Blocks are sure of a label, by as much as messages may turn; the mass of points varies."""
    if engines.why_unavailable("cpu") is not None:
        pytest.skip(engines.why_unavailable("cpu"))
    rng = np.random.default_rng(seed)
    height, width = size
    truth = rng.integers(0, labels, (-(-height // block), -(-width // block)))
    truth = np.kron(truth, np.ones((block, block), int))[:height, :width]
    sure = rng.uniform(2, 12) * (truth == np.arange(labels)[:, None, None])
    logits = sure + rng.uniform(0, 1) * rng.normal(size=(labels, *size))
    flat = np.arange(width) % block < rng.integers(1, block) if seed % 2 else rng.random(size) < 0.5
    noise = rng.integers(0, 255, (*size, 3))
    image = np.where(np.broadcast_to(flat, size)[..., None], 100, noise).astype(np.float32)
    params = CRFParams(
        theta_alpha=rng.uniform(3, 40), theta_beta=rng.uniform(3, 40), theta_gamma=2,
        w_bilateral=rng.uniform(0, 12), w_spatial=rng.uniform(0, 2), normalization=normalization,
    )  # fmt: skip
    assert_lacks_at_most(delta, logits.astype(np.float32), image, params, 3, "cpu")


def test_each_label_by_itself_loses_no_more_than_prune(pruner):
    # With mu = -I and a kernel that is all but the identity a logit shows its own marginal.
    logits, image = confident(5, (25, 34), seed=3, peak=6)
    narrow = replace(SOFT, w_bilateral=0, w_spatial=1, theta_gamma=0.3)
    for delta in (0.1, 1e-2, 1e-3):
        options = {"compatibility": -np.eye(5)}
        assert_lacks_at_most(delta, logits, image, narrow, 3, pruner, **options)


def test_weights_for_each_label_and_matrices_keep_the_bound(pruner):
    logits, image = confident(6, (17, 23), seed=1)
    rng = np.random.default_rng(0)
    for weights in (rng.normal(size=(2, 6)), rng.normal(size=(2, 6, 6))):
        options = {"kernel_weights": 4 * weights}
        assert_lacks_at_most(1e-3, logits, image, SOFT, 3, pruner, **options)


def test_three_hundred_labels_keep_the_bound(pruner):
    logits, image = confident(300, (12, 15), seed=5, peak=14)
    q, info = refine(logits, image, SOFT, iterations=2, prune=1e-3, backend=pruner,
                     return_info=True)  # fmt: skip
    assert info.labels == 300 and len(info.kept) == 2
    assert_lacks_at_most(1e-3, logits, image, SOFT, 2, pruner)
    np.testing.assert_allclose(q.sum(0), 1, rtol=1e-5)


def test_a_label_that_rises_from_nothing_comes_back(pruner):
    # In the middle label 1 has a marginal of e^-9 at first, and its neighbours raise it to 1.
    size = (24, 24)
    logits = np.zeros((4, *size))
    logits[0, 8:16, 8:16] = 9
    logits[1] = np.where(logits[0] == 9, 0, 20)
    image = np.full((*size, 3), 100.0)
    params = replace(SOFT, w_bilateral=0, w_spatial=18, theta_gamma=6)
    want = mean_field(logits, image, params, backend=pruner)
    assert want.argmax(0)[12, 12] == 1
    for delta in (1e-2, 1e-3):
        got = mean_field(logits, image, params, prune=delta, backend=pruner)
        np.testing.assert_array_equal(got.argmax(0), want.argmax(0))


# --- results -------------------------------------------------------------------------------------


def test_prune_0_is_bit_identical_to_leaving_it_out(backend, dtype):
    image = picture(20, 23)
    logits = noisy_logits(5, image, dtype)
    one = mean_field(logits, image, SOFT, backend=backend)
    np.testing.assert_array_equal(mean_field(logits, image, SOFT, prune=0, backend=backend), one)


def test_pruned_marginals_are_near_the_exact_ones_and_leave_labels_out(pruner):
    logits, image = confident(12, (48, 64), seed=2, peak=9, patch=16)
    exact = refine(logits, image, SOFT, backend=pruner)
    found = []
    for delta in (1e-2, 1e-3, 1e-4):
        q, info = refine(logits, image, SOFT, prune=delta, backend=pruner, return_info=True)
        assert np.abs(q - exact).max() <= 10 * delta
        assert not info.exact and info.prune == delta
        found.append(info.pruned)
    assert found == sorted(found, reverse=True) and found[0] > 0.2


@pytest.mark.usefixtures("both_backends")
def test_engines_that_prune_agree_with_the_reference(pruner):
    for labels, seed in ((2, 0), (4, 1), (11, 2), (40, 3)):
        logits, image = confident(labels, (33, 41), seed)
        got = refine(logits, image, SOFT, prune=1e-3, backend=pruner)
        want = refine(logits, image, SOFT, prune=1e-3, backend="numba")
        assert np.abs(got - want).max() <= 1e-2


def test_pruned_results_do_not_depend_on_threads(pruner):
    logits, image = confident(9, (64, 70), seed=4, dtype=np.float32)
    one, two = (
        refine(logits, image, SOFT, prune=1e-3, backend=pruner, threads=n) for n in (1, 3)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("labels_last", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (48, 64), (3, 4, 130)])
def test_halves_are_pruned_as_their_float32_copy_is(pruner, size, labels_last):
    logits, image = confident(12, size, seed=9, peak=9, patch=16)
    stored = logits.astype(np.float16)
    stored[1:, ..., 0] = -np.inf  # and subnormal halves
    stored[2, ..., -1] = 3e-7
    plain = stored.astype(np.float32)
    if labels_last:
        stored = np.moveaxis(np.ascontiguousarray(np.moveaxis(stored, 0, -1)), -1, 0)
    for options in ({}, {"labels": True}):
        both = {"prune": 1e-3, "backend": pruner, "return_info": True, **options}
        got, info = refine(stored, image, SOFT, **both)
        want, of_plain = refine(plain, image, SOFT, **both)
        np.testing.assert_array_equal(got, want)
        assert info.kept == of_plain.kept and not info.exact


def test_a_prune_that_leaves_nothing_out_changes_rounding_alone(pruner, dtype):
    logits, image = confident(4, (15, 19), seed=8, peak=1, dtype=dtype)
    got = mean_field(logits, image, SOFT, prune=1e-30, backend=pruner)
    want = mean_field(logits, image, SOFT, backend=pruner)
    tolerance = {np.float32: 1e-4, np.float64: 1e-10}[dtype]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_tiles_are_pruned_as_the_whole_is(pruner):
    logits, image = confident(5, (30, 34), seed=7, patch=10)
    params = replace(SOFT, theta_alpha=2, theta_gamma=1)
    options = {"iterations": 2, "prune": 1e-3, "backend": pruner}
    whole = refine(logits, image, params, **options)
    tiled = refine_tiled(logits, image, params, tile=16, halo="exact", **options)
    assert np.abs(tiled - whole).max() <= 1e-2


def test_maps_that_overlap_are_pruned_as_the_binary_crfs_that_they_are(pruner):
    logits, image = confident(3, (20, 22), seed=6)
    together, info = refine(
        logits, image, SOFT, multilabel=True, prune=1e-3, backend=pruner, return_info=True
    )
    for one, x in zip(together, logits, strict=True):
        alone = refine(x[None], image, SOFT, prune=1e-3, backend=pruner)[0]
        np.testing.assert_allclose(one, alone, atol=1e-6)
    # For two labels, the native engine's exact passes are faster than pruned ones.
    assert info.labels == 2 and info.exact == (pruner == "cpu")


# --- what is refused, and what is told -----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1 / 3, ValueError, r"prune is 0.333333; with 3 labels it must lie in 0 <= prune < 1/3"),
        (-1e-3, ValueError, "prune is -0.001; with 3 labels"),
        (float("nan"), ValueError, "prune is nan; it must be finite"),
        ("much", TypeError, "prune is 'much'; it must be a number"),
        (True, TypeError, "prune is True; it must be a number"),
    ],
)
def test_values_of_prune_that_guarantee_nothing_are_refused(backend, value, error, message):
    logits, image = confident(3, (4, 5), seed=0)
    for call in (refine, mean_field):
        with pytest.raises(error, match=message):
            call(logits, image, prune=value, backend=backend)


def test_an_engine_that_does_not_prune_says_which_one_does(monkeypatch):
    if engines.why_unavailable("numba") is not None:
        pytest.skip(engines.why_unavailable("numba"))
    logits, image = confident(3, (4, 5), seed=0)
    monkeypatch.setattr(type(engines.engine("numba")), "prunes", False)
    with pytest.raises(
        engines.BackendUnavailableError,
        match=r"prune is 0.001 but backend 'numba' does not leave labels out; set prune=0",
    ):
        refine(logits, image, prune=1e-3, backend="numba")


def test_info_counts_pixels_labels_and_vertices_and_times_each_step(backend):
    logits, image = confident(3, (14, 16), seed=0)
    mask = np.ones((14, 16), bool)
    mask[:3] = False
    q, info = refine(logits, image, SOFT, mask=mask, iterations=4, backend=backend,
                     return_info=True)  # fmt: skip
    np.testing.assert_array_equal(q, refine(logits, image, SOFT, mask=mask, iterations=4,
                                            backend=backend))  # fmt: skip
    assert (info.backend, info.pixels, info.labels) == (backend, 11 * 16, 3)
    assert info.exact and info.kept == (3.0,) * 4 and info.pruned == 0
    problem = check(logits, image, SOFT, None, None, mask, None, backend, 1)
    lattice, grid = problem.build()
    cells = np.prod([axis.cells for axis in grid.axes])
    assert info.vertices == (problem.engine.num_vertices(lattice.plan), cells)
    assert all(info.seconds[step] > 0 for step in ("check", "build", "run", "shape"))


def test_info_of_no_iterations_is_that_nothing_ran(backend):
    logits, image = confident(3, (4, 5), seed=0)
    _, info = mean_field(logits, image, iterations=0, backend=backend, return_info=True)
    assert info.exact and info.kept == () and info.vertices == () and info.seconds["run"] == 0
