"""Gibbs sampling of grid CRFs: the definition, the engines' bits, and truth by enumeration."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gibbs_problems import OFFSETS, SMALL, Enumerated, model, run
from hypothesis import given
from hypothesis import strategies as st

from densecrf_rnn.gibbs import convergence
from densecrf_rnn import gibbs
from densecrf_rnn.engines import why_unavailable
from densecrf_rnn.gibbs.neighbourhood import colouring, dense_neighbourhood, sparse_neighbourhood
from densecrf_rnn.reference import gibbs as reference

# --- random numbers ------------------------------------------------------------------------------

# The known answers that the authors of [Salmon11] publish with Random123 (philox4x32, 10 rounds).
PHILOX = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX)
def test_philox_gives_the_published_numbers(counter, key, words):
    assert reference.philox(counter, key) == words


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX)
def test_philox_in_numba_gives_the_published_numbers(counter, key, words):
    numba = pytest.importorskip("densecrf_rnn.reference.gibbs_numba")
    state = np.array(counter, np.uint32)
    numba.philox(state, np.array(key, np.uint32))
    assert tuple(state.tolist()) == words


# --- neighbourhoods and colourings ---------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_dense_neighbourhood_holds_every_vector_once(radius):
    offsets = dense_neighbourhood(radius)
    both = {tuple(v) for v in np.concatenate([offsets, -offsets]).tolist()}
    reach = range(-radius, radius + 1)
    assert both == {(y, x) for y in reach for x in reach} - {(0, 0)}
    assert len(offsets) == 2 * radius * (radius + 1) == len(both) / 2


@pytest.mark.parametrize(("radius", "longest"), [(1, 1), (3, 2), (4, 4), (10, 8)])
def test_sparse_neighbourhood_doubles_its_distances(radius, longest):
    offsets = sparse_neighbourhood(radius)
    distances = np.abs(offsets).max(1)
    assert sorted(set(distances.tolist())) == [2**i for i in range(longest.bit_length())]
    assert (np.bincount(distances)[distances] == 4).all()


vectors = st.tuples(st.integers(-6, 6), st.integers(-6, 6)).filter(any)


@given(st.lists(vectors, min_size=1, max_size=8))
def test_no_two_neighbours_share_a_colour(offsets):
    height, width = 15, 14
    colours = colouring(offsets).of((height, width))
    for down, right in offsets:
        for row in range(height):
            for column in range(width):
                y, x = row + down, column + right
                if 0 <= y < height and 0 <= x < width:
                    assert colours[row, column] != colours[y, x]


@pytest.mark.parametrize(
    ("offsets", "colours"),
    [
        ([(0, 1)], 2),
        ([(1, 0), (0, 1)], 2),
        (dense_neighbourhood(1), 4),
        (dense_neighbourhood(3), 16),
        ([(1, x) for x in range(-5, 6)], 2),
    ],
)
def test_colouring_needs_no_more_colours_than_the_densest_clique(offsets, colours):
    assert colouring(offsets).m == colours


# --- the model -----------------------------------------------------------------------------------

CASES = st.tuples(
    st.integers(1, 4), st.integers(3, 5), st.integers(3, 6), st.booleans(), st.integers(0, 99)
)


def small_case(case):
    labels, height, width, masked, seed = case
    logits, tables = model(labels, height, width, seed=seed)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, labels, (height, width))
    mask = rng.random((height, width)) < 0.7 if masked else None
    return logits, tables, y, mask


def masked(y, mask, label=-1):
    """Return the labels, negative outside the mask, as the reference takes them."""
    return y if mask is None else np.where(mask, y, label)


@given(CASES)
def test_the_score_is_its_definition(case):
    logits, tables, y, mask = small_case(case)
    wild = masked(y, mask, -7)  # outside the mask anything may stand
    found = gibbs.score(logits, wild, tables, OFFSETS, mask=mask)
    assert found == pytest.approx(reference.score(logits, wild, tables, OFFSETS), abs=1e-4)


def test_energy_is_an_alias_of_score():
    assert gibbs.energy is gibbs.score


@given(CASES)
def test_the_score_is_linear_in_the_statistics(case):
    logits, tables, y, mask = small_case(case)
    counts = gibbs.statistics(y, len(logits), OFFSETS, mask=mask)
    wanted = reference.statistics(masked(y, mask), len(logits), OFFSETS)
    np.testing.assert_array_equal(counts, wanted)
    pairwise = float((counts * tables.astype(np.float64)).sum())
    nothing = np.zeros_like(logits)
    assert gibbs.score(nothing, y, tables, OFFSETS, mask=mask) == pytest.approx(pairwise)


@given(CASES)
def test_conditional_is_the_ratio_of_scores(case):
    logits, tables, y, mask = small_case(case)
    p = gibbs.conditional(logits, y, tables, OFFSETS, mask=mask)
    pixel = (1, 2)
    if mask is not None and not mask[pixel]:
        return
    energies = []
    for label in range(len(logits)):
        y[pixel] = label
        energies.append(reference.score(logits, masked(y, mask), tables, OFFSETS))
    exact = np.exp(np.array(energies) - max(energies))
    np.testing.assert_allclose(p[:, 1, 2], exact / exact.sum(), atol=1e-5)
    by_definition = reference.conditional(logits, masked(y, mask), tables, OFFSETS, pixel)
    np.testing.assert_allclose(by_definition, exact / exact.sum(), atol=1e-5)


@given(
    st.lists(st.floats(-120, 120, width=32), min_size=1, max_size=300),
    st.sampled_from([1.0, 0.3, 7.0]),
)
def test_whole_weights_are_the_conditional_to_a_millionth(scores, beta):
    scores = np.array(scores, np.float32)
    w = reference.weights(scores, beta)
    assert (w >= 0).all() and 0 < w.sum() < 2**32
    exact = np.exp((scores.astype(np.float64) - scores.max()) * beta)
    resolution = 1 / reference.weight_scale(len(scores))
    np.testing.assert_allclose(w * resolution, exact, atol=resolution, rtol=5e-6)


def test_a_draw_takes_each_label_as_often_as_it_weighs():
    w = np.array([3, 0, 5, 0])
    words = [int(i * 2**32 / 8) for i in range(8)]  # eight even steps through the words
    assert [reference.draw(w, word) for word in words] == [0, 0, 0, 2, 2, 2, 2, 2]
    assert reference.draw(w, 2**32 - 1) == 2


# --- engines, to the bit -------------------------------------------------------------------------

# Labels 4 and 5, 8 and 9, 32 and 33 are those where vectors are filled; 255 to 256 where weights
# shrink.
BATCHES = [
    (1, 1, 2, [(0, 1)]),
    (2, 3, 3, OFFSETS),
    (4, 7, 5, dense_neighbourhood(2)),
    (5, 5, 7, sparse_neighbourhood(4)),
    (9, 4, 11, [(3, -2), (0, 10)]),
    (20, 6, 9, [(5, 8), (-4, 1), (1, 0)]),
    (33, 13, 3, dense_neighbourhood(1)),
    (255, 2, 3, [(1, 1)]),
    (256, 2, 3, [(1, 1)]),
]


def batch(labels, height, width, offsets, images=2):
    rng = np.random.default_rng(labels)
    offsets = np.array(offsets, np.int32)
    logits = 3 * rng.normal(size=(images, labels, height, width)).astype(np.float32)
    tables = rng.normal(size=(len(offsets), labels, labels)).astype(np.float32)
    y = rng.integers(-1, labels, (images, height, width))  # -1: masked
    return logits, y, tables, offsets


OPTIONS = {
    "seed": 2**40 + 3,
    "chains": np.array([2**33 + 1, 4], np.uint64),
    "first_sweep": np.array([7, 2**31], np.uint64),
    "inverse_temperature": np.array([1, 0.4, np.inf], np.float32),
}


@pytest.mark.parametrize("case", BATCHES, ids=lambda c: f"{c[0]} labels, {c[1]} x {c[2]}")
def test_every_engine_draws_the_labels_of_the_serial_reference(backend, case):
    logits, y, tables, offsets = batch(*case)
    labels, sums, changes = run(backend, logits, y, tables, offsets, **OPTIONS)
    height, width = y.shape[1:]
    colours = colouring(offsets).of((height, width))
    order = np.argsort(colours.ravel(), kind="stable")  # colour by colour, one pixel at a time
    for image in range(len(y)):
        now, total = y[image], np.zeros(logits.shape[1:])
        for s, beta in enumerate(OPTIONS["inverse_temperature"]):
            before = now
            now, drawn_from = reference.sweep(
                logits[image], now, tables, offsets, order, inverse_temperature=beta,
                seed=OPTIONS["seed"], chain=int(OPTIONS["chains"][image]),
                number=int(OPTIONS["first_sweep"][image]) + s,
            )  # fmt: skip
            total += drawn_from
            assert changes[image, s] == (now != before).sum()
        np.testing.assert_array_equal(labels[image], now)
        np.testing.assert_array_equal(sums[image], np.moveaxis(total, 0, -1))


@pytest.mark.parametrize("within_a_colour", ["forward", "backward", "shuffled"])
def test_the_order_within_a_colour_does_not_matter(within_a_colour):
    """So pixels of one colour may be drawn side by side."""
    logits, y, tables, offsets = batch(4, 9, 8, dense_neighbourhood(1), images=1)
    labels, _, _ = run("cpu" if why_unavailable("cpu") is None else "numba",
                       logits, np.maximum(y, 0), tables, offsets)  # fmt: skip
    colours = colouring(offsets).of(y.shape[1:]).ravel()
    ties = {
        "forward": np.arange(colours.size),
        "backward": -np.arange(colours.size),
        "shuffled": np.random.default_rng(0).permutation(colours.size),
    }[within_a_colour]
    serial, _ = reference.sweep(
        logits[0], np.maximum(y[0], 0), tables, offsets, np.lexsort((ties, colours)), seed=5
    )
    np.testing.assert_array_equal(labels[0], serial)


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(threads, images):
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    # Wide enough that a colour is cut into several units of work.
    logits, y, tables, offsets = batch(5, 61, 257, dense_neighbourhood(2), images)
    one = run("cpu", logits, y, tables, offsets, 1, sweeps=2)
    many = run("cpu", logits, y, tables, offsets, threads, sweeps=2)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sweeps_of_several_python_threads_at_once_are_those_of_one_after_another():
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    logits, y, tables, offsets = batch(3, 61, 257, dense_neighbourhood(1), images=4)

    def labels(image):
        return run("cpu", logits[[image]], y[[image]], tables, offsets, 2, sweeps=20)[0]

    wanted = [labels(image) for image in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(labels, range(4)), wanted, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_two_engines_agree_on_an_image(both_backends):
    logits, y, tables, offsets = batch(20, 60, 83, sparse_neighbourhood(8), images=1)
    for a, b in zip(
        run("cpu", logits, y, tables, offsets, 2), run("numba", logits, y, tables, offsets),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_statistics_agree_between_engines(backend):
    for case in BATCHES[:6]:
        _, y, _, offsets = batch(*case)
        found = gibbs.statistics(y[0], case[0], offsets, mask=y[0] >= 0, backend=backend)
        expected = reference.statistics(y[0], case[0], offsets)
        np.testing.assert_array_equal(found, expected)


# --- the front -----------------------------------------------------------------------------------


def test_sweeps_go_on_where_a_chain_stood(backend):
    logits, tables = model(3, 6, 7)
    first = gibbs.start(logits, seed=3, backend=backend)

    def swept(labels, sweeps, first_sweep):
        options = {"sweeps": sweeps, "first_sweep": first_sweep, "seed": 3, "backend": backend}
        return gibbs.sweep(logits, labels, tables, OFFSETS, **options)

    at_once, changes = swept(first, 5, 1)
    labels, early = swept(first, 2, 1)
    labels, late = swept(labels, 3, 3)
    np.testing.assert_array_equal(labels, at_once)
    np.testing.assert_array_equal(np.concatenate([early, late]), changes)


def test_arguments_are_left_as_they_are(backend):
    logits, tables = model(3, 6, 7)
    labels = np.zeros((6, 7), np.uint8)
    given = [logits.copy(), labels.copy(), tables.copy()]
    for array in (logits, labels, tables):
        array.flags.writeable = False
    found, _ = gibbs.sweep(logits, labels, tables, OFFSETS, backend=backend)
    assert found.dtype == labels.dtype and (found != labels).any()
    for array, before in zip((logits, labels, tables), given, strict=True):
        np.testing.assert_array_equal(array, before)


def test_strided_arrays_give_the_same_labels(backend):
    logits, tables = model(3, 6, 7)
    labels = gibbs.start(logits, backend=backend)
    wanted, _ = gibbs.sweep(logits, labels, tables, OFFSETS, backend=backend)
    strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(logits, 0, -1)), -1, 0)
    found, _ = gibbs.sweep(
        strided, np.asfortranarray(labels), np.asfortranarray(tables), OFFSETS.tolist(),
        backend=backend,
    )  # fmt: skip
    np.testing.assert_array_equal(found, wanted)


def test_masked_pixels_keep_their_labels_and_bear_on_nothing(backend):
    logits, tables = model(3, 6, 7)
    mask = np.ones((6, 7), bool)
    mask[:, 3] = False
    offsets = OFFSETS[:2]  # no edge reaches across the masked column
    labels = np.where(mask, 1, 99)
    options = {"sweeps": 3, "backend": backend}
    found, _ = gibbs.sweep(logits, labels, tables[:2], offsets, mask=mask, **options)
    assert (found[:, 3] == 99).all()
    elsewhere = logits.copy()
    elsewhere[:, :, 4:] = 0  # what lies beyond cannot matter
    other, _ = gibbs.sweep(elsewhere, labels, tables[:2], offsets, mask=mask, **options)
    np.testing.assert_array_equal(other[:, :3], found[:, :3])
    q = gibbs.marginals(logits, tables, OFFSETS, sweeps=3, burn_in=0, mask=mask, backend=backend)
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-6)


def test_one_pixel_and_one_label_can_be_sampled(backend):
    logits = np.zeros((1, 1, 2), np.float32)
    found, changes = gibbs.sweep(
        logits, np.zeros((1, 2), int), np.zeros((1, 1, 1), np.float32), [(0, 1)], backend=backend
    )
    assert found.tolist() == [[0, 0]] and changes.tolist() == [0]
    assert gibbs.start(np.zeros((3, 1, 1), np.float32), backend=backend).shape == (1, 1)


def test_extreme_scores_are_drawn_without_overflow(backend):
    logits, tables = model(3, 4, 4, spread=1e28)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = gibbs.sweep(
            logits, np.zeros((4, 4), int), tables, OFFSETS, backend=backend, sweeps=3
        )
    likeliest = gibbs.icm(logits, found, tables, OFFSETS, backend=backend)
    assert gibbs.score(logits, likeliest, tables, OFFSETS) >= gibbs.score(
        logits, found, tables, OFFSETS
    )


def test_icm_ends_where_no_pixel_can_raise_the_score(backend):
    logits, tables = model(4, 8, 9)
    labels = gibbs.icm(logits, logits.argmax(0), tables, OFFSETS, backend=backend)
    p = gibbs.conditional(logits, labels, tables, OFFSETS)
    np.testing.assert_array_equal(p.argmax(0), labels)


@pytest.mark.parametrize("size", SMALL)
def test_annealing_finds_the_best_labelling_of_all(backend, size):
    truth = Enumerated(*SMALL[size])
    logits, tables = model(*SMALL[size])
    best = truth.labellings[truth.probabilities(logits, tables).argmax()]
    found = gibbs.annealed(logits, tables, OFFSETS, sweeps=200, backend=backend)
    np.testing.assert_array_equal(found, best)


# --- truth by enumeration ------------------------------------------------------------------------

def five_sigma(draws):
    """Five standard errors of the mean of independent chains, estimated from their spread."""
    return 5 * draws.std(0, ddof=1) / np.sqrt(len(draws))


@pytest.mark.parametrize("size", SMALL)
def test_long_run_marginals_are_the_true_ones_within_five_standard_errors(backend, size):
    """16 chains of 10,000 sweeps; an interval is 0.004 wide on average, 0.01 at most."""
    truth = Enumerated(*SMALL[size])
    logits, tables = model(*SMALL[size])
    exact, _ = truth.expectations(logits, tables)
    chains = np.stack([
        gibbs.marginals(
            logits, tables, OFFSETS, sweeps=10_000, burn_in=50, chain=chain, backend=backend
        )
        for chain in range(16)
    ]).astype(np.float64)  # fmt: skip
    interval = five_sigma(chains)
    assert interval.max() < 0.01 and interval.mean() < 0.004  # so the test can fail
    assert (np.abs(chains.mean(0) - exact) <= interval + 1e-6).all()


def test_a_sweep_with_tables_of_zero_is_an_exact_sample_whatever_it_starts_from(backend):
    """Each pixel is drawn alone: the start is forgotten, and counts are those of the softmax."""
    p = np.float32([0.5, 0.3, 0.15, 0.05])
    logits = np.broadcast_to(np.log(p)[:, None, None], (4, 150, 200)).copy()
    tables = np.zeros((len(OFFSETS), 4, 4), np.float32)
    found = [
        gibbs.sweep(
            logits, np.full((150, 200), label, np.uint8), tables, OFFSETS, backend=backend
        )[0]
        for label in (0, 3)
    ]
    np.testing.assert_array_equal(*found)
    share = np.bincount(found[0].ravel(), minlength=4) / found[0].size
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / found[0].size)).all()
    beside = (found[0][:, 1:] == found[0][:, :-1]).mean()  # neighbours know nothing of each other
    assert abs(beside - (p**2).sum()) < 5 * 0.5 / found[0].size ** 0.5


def test_marginals_of_several_chains_are_their_mean(backend):
    logits, tables = model(*SMALL["2 x 5, L = 2"])
    options = {"sweeps": 7, "burn_in": 2, "seed": 5, "backend": backend}
    each = [gibbs.marginals(logits, tables, OFFSETS, chain=4 + k, **options) for k in range(3)]
    q = gibbs.marginals(logits, tables, OFFSETS, chain=4, chains=3, **options)
    np.testing.assert_allclose(q, np.mean(each, 0), atol=1e-7)


def test_several_chains_see_both_of_two_modes_where_one_sees_its_own(backend):
    """Labels 0 and 1 are alike, and neighbours agree: each marginal is 1/2."""
    tables = 3 * np.stack([np.eye(2, dtype=np.float32)] * len(OFFSETS))
    logits = np.zeros((2, 6, 7), np.float32)
    one = gibbs.marginals(logits, tables, OFFSETS, sweeps=320, burn_in=320, backend=backend)
    many = gibbs.marginals(
        logits, tables, OFFSETS, sweeps=5, burn_in=5, chains=64, backend=backend
    )
    assert np.abs(one - 0.5).mean() > 0.4
    assert np.abs(many - 0.5).mean() < 0.15


def test_labellings_come_as_often_as_they_are_likely():
    """Not marginals alone: the joint distribution, by the distance of its histogram."""
    truth = Enumerated(*SMALL["2 x 5, L = 2"])
    logits, tables = model(*SMALL["2 x 5, L = 2"])
    p = truth.probabilities(logits, tables)
    labels, histogram = gibbs.start(logits), np.zeros(len(p))
    draws = 8000
    for s in range(draws):
        labels, _ = gibbs.sweep(logits, labels, tables, OFFSETS, first_sweep=1 + s)
        histogram[truth.number(labels)] += 1
    distance = 0.5 * np.abs(histogram / draws - p).sum()
    ideal = 0.5 * np.sqrt(2 * p * (1 - p) / (np.pi * draws)).sum()  # of independent draws
    assert distance < 2.5 * ideal


@pytest.mark.parametrize("size", SMALL)
def test_expected_gradient_is_the_gradient_of_the_log_likelihood(size):
    """By enumeration, against finite differences: E[statistics] is the derivative of log Z."""
    truth = Enumerated(*SMALL[size])
    logits, tables = (a.astype(np.float64) for a in model(*SMALL[size]))
    y = truth.labellings[len(truth.labellings) // 3]
    marginals, pairs = truth.expectations(logits, tables)
    to_logits = truth.one_hot[truth.number(y)] - marginals
    to_tables = truth.pairs[truth.number(y)] - pairs
    for array, gradient in ((logits, to_logits), (tables, to_tables)):
        for at in [(0, 0, 0), (1, 1, 1), (0, 1, 0)]:
            ends = []
            for step in (1e-5, -1e-5):
                array[at] += step
                ends.append(truth.log_likelihood(y, logits, tables))
                array[at] -= step
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient[at], abs=1e-6)


@pytest.mark.parametrize("size", SMALL)
def test_sampled_statistics_are_the_true_ones_within_five_standard_errors(size):
    """So the stochastic gradient, data minus sample, has the exact gradient as its mean."""
    truth = Enumerated(*SMALL[size])
    logits, tables = model(*SMALL[size])
    _, exact = truth.expectations(logits, tables)
    chains = np.zeros((16, *exact.shape))
    for chain in range(16):
        labels = gibbs.start(logits, chain=chain)
        for s in range(220):
            labels, _ = gibbs.sweep(logits, labels, tables, OFFSETS, chain=chain, first_sweep=1 + s)
            if s >= 20:
                chains[chain] += gibbs.statistics(labels, len(logits), OFFSETS) / 200
    interval = five_sigma(chains)
    assert interval.max() < 0.2
    assert (np.abs(chains.mean(0) - exact) <= interval + 0.01).all()


# --- convergence ---------------------------------------------------------------------------------


def test_r_hat_is_near_one_for_chains_that_mix_and_far_for_those_that_do_not():
    logits, tables = model(3, 8, 8, spread=0.3)
    found = convergence.diagnose(logits, tables, OFFSETS, sweeps=200, burn_in=10)
    assert found.r_hat < 1.05 and 0.4 < found.acceptance < 0.8
    frozen = np.stack([30 * np.eye(3, dtype=np.float32)] * len(OFFSETS))
    stuck = convergence.diagnose(np.zeros_like(logits), frozen, OFFSETS, sweeps=50, burn_in=50)
    assert stuck.acceptance < 0.01
    assert "R-hat" in str(stuck)


def test_split_r_hat_sees_a_chain_that_drifts():
    noise = np.random.default_rng(0).normal(size=(4, 400))
    assert convergence.split_r_hat(noise) < 1.01
    assert convergence.split_r_hat(noise + np.linspace(0, 3, 400)) > 1.2  # all alike, yet split
    assert convergence.split_r_hat(np.ones((2, 4))) == 1.0
    assert convergence.split_r_hat(np.repeat([[1.0], [2.0]], 4, axis=1)) == np.inf


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (np.zeros(9), "draws has shape"),
        (np.zeros((2, 3)), "4 sweeps"),
        (np.full((2, 9), np.nan), "NaN"),
    ],
)
def test_bad_draws_are_refused(draws, message):
    with pytest.raises(ValueError, match=message):
        convergence.split_r_hat(draws)


# --- bad input -----------------------------------------------------------------------------------

LOGITS, TABLES = np.zeros((3, 4, 5), np.float32), np.zeros((1, 3, 3), np.float32)
LABELS = np.zeros((4, 5), np.uint8)


def with_entry(array, value):
    array = array.copy()
    array.flat[1] = value
    return array


def call(**given):
    """`sweep` with one argument that is bad."""
    good = {"logits": LOGITS, "labels": LABELS, "tables": TABLES, "offsets": [(0, 1)]}
    return gibbs.sweep(**{**good, **given})


def several(count):
    return np.zeros((count, 3, 3), np.float32)


BAD = {
    "zero offset": (
        {"offsets": [(0, 1), (0, 0)], "tables": several(2)}, ValueError,
        r"offsets\[1\] is \(0, 0\), which joins a pixel to itself; leave it out",
    ),
    "offset outside": (
        {"offsets": [(-4, 0)]}, ValueError,
        r"offsets\[0\] is \(-4, 0\) but the image is 4 x 5 \(H, W\), so that it joins no two",
    ),
    "opposite": (
        {"offsets": [(0, 1), (1, 0), (0, -1)], "tables": several(3)}, ValueError,
        r"offsets\[2\] is \(0, -1\), the opposite of offsets\[0\]; both .* same edges, .* keep one",
    ),
    "repeated": (
        {"offsets": [(1, 1), (1, 1)], "tables": several(2)}, ValueError,
        r"offsets\[1\] is \(1, 1\), the same as offsets\[0\]; give each offset once",
    ),
    "far": ({"offsets": [(0, 99999)]}, ValueError, "below 2.15 pixels"),
    "ragged offsets": ({"offsets": [(0, 1), (1,)]}, ValueError, "offsets holds rows of several"),
    "ragged temperature": ({"temperature": [1, [2]]}, ValueError, "temperature holds rows of sev"),
    "label list": ({"labels": LABELS.tolist()}, TypeError, "labels is list; it must be a NumPy"),
    "no labels": ({"labels": None}, TypeError, "labels is None; it must be a NumPy array"),
    "no offsets": ({"offsets": []}, ValueError, r"offsets has shape \(0,\); it must be \[C, 2\]"),
    "offsets in 3-D": ({"offsets": [(0, 0, 1)]}, ValueError, r"offsets has shape \(1, 3\)"),
    "half an offset": ({"offsets": [(0, 0.5)]}, TypeError, "float64; it must hold integers"),
    "table shape": (
        {"tables": several(2)}, ValueError,
        r"tables has shape \(2, 3, 3\); it must be \[1, 3, 3\]: one table per offset, which scores",
    ),
    "one flat table": ({"tables": TABLES[0]}, ValueError, r"tables has shape \(3, 3\)"),
    "wide tables": ({"tables": TABLES.astype(float)}, TypeError, "tables has dtype float64"),
    "table list": ({"tables": [[[0.0]]]}, TypeError, "tables is list"),
    "NaN in a table": ({"tables": with_entry(TABLES, np.nan)}, ValueError, "tables contains NaN"),
    "infinite table": ({"tables": with_entry(TABLES, np.inf)}, ValueError, "infinity"),
    "NaN": ({"logits": with_entry(LOGITS, np.nan)}, ValueError, r"logits contains NaN \(1 e"),
    "-infinity": ({"logits": with_entry(LOGITS, -np.inf)}, ValueError, "logits contains infinity"),
    "huge": ({"logits": with_entry(LOGITS, 1e35)}, ValueError, "logits reach 1e.35 .* rescale"),
    "double": ({"logits": LOGITS.astype(float)}, TypeError, "logits has dtype float64; .*astype"),
    "big-endian": ({"logits": LOGITS.astype(">f4")}, TypeError, "logits has dtype >f4"),
    "volume": ({"logits": LOGITS[None]}, ValueError, r"logits has shape .* images, \[L, H, W\]"),
    "no pixels": ({"logits": LOGITS[:, :0]}, ValueError, "without labels or without pixels"),
    "other size": ({"labels": LABELS.T}, ValueError, "labels is 5 x 4 but logits is 4 x 5"),
    "label too high": (
        {"labels": with_entry(LABELS, 3)}, ValueError,
        "labels holds the label 3 but there are 3: 0 to 2; to exclude pixels, use mask",
    ),
    "label below 0": ({"labels": LABELS.astype(int) - 1}, ValueError, "labels holds the label -1"),
    "float labels": ({"labels": LABELS * 1.0}, TypeError, "labels has dtype float64; .* integers"),
    "boolean labels": ({"labels": LABELS > 0}, TypeError, "labels has dtype bool"),
    "mask size": ({"mask": np.ones((4, 4), bool)}, ValueError, "mask is 4 x 4 but logits is 4 x 5"),
    "mask dtype": ({"mask": LABELS}, TypeError, "mask has dtype uint8"),
    "no sweep": ({"sweeps": -1}, ValueError, "sweeps is -1; it must be at least 0"),
    "seed": ({"seed": 2**64}, ValueError, "seed is .*; it must be below 2.64"),
    "chain": ({"chain": -1}, ValueError, "chain is -1"),
    "temperature": ({"temperature": -1}, ValueError, "temperature holds a negative number"),
    "temperatures": ({"temperature": [1, 1]}, ValueError, r"temperature has shape \(2,\)"),
    "warm": ({"temperature": "warm"}, TypeError, "temperature is 'warm'"),
    "threads": ({"threads": 0}, ValueError, "threads is 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case):
    given, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [gibbs.score, gibbs.conditional])
def test_score_and_conditional_refuse_what_sweeps_refuse(function):
    with pytest.raises(ValueError, match="the label 3"):
        function(LOGITS, with_entry(LABELS, 3), TABLES, [(0, 1)])
    with pytest.raises(ValueError, match="joins a pixel to itself"):
        function(LOGITS, LABELS, TABLES, [(0, 0)])


def test_icm_of_no_sweeps_refuses_what_sweeps_refuse():
    with pytest.raises(ValueError, match="the label 3"):
        gibbs.icm(LOGITS, with_entry(LABELS, 3), TABLES, [(0, 1)], sweeps=0)


def test_statistics_refuse_labels_that_are_none():
    with pytest.raises(ValueError, match="the label 3"):
        gibbs.statistics(with_entry(LABELS, 3), 3, [(0, 1)])
    with pytest.raises(ValueError, match="labels has 1 axes"):
        gibbs.statistics(LABELS[0], 3, [(0, 1)])


@pytest.mark.parametrize("radius", [6, 12, 30])
def test_a_dense_neighbourhood_of_any_size_has_as_many_colours_as_its_quarter(radius):
    assert colouring(dense_neighbourhood(radius)).m == (radius + 1) ** 2


@pytest.mark.parametrize("radius", [0, 1.5, -2])
@pytest.mark.parametrize("helper", [dense_neighbourhood, sparse_neighbourhood])
def test_a_radius_is_a_whole_number_above_zero(helper, radius):
    with pytest.raises((TypeError, ValueError), match="radius"):
        helper(radius)


def test_annealing_refuses_to_warm_up():
    with pytest.raises(ValueError, match="hottest is 0.1 and coldest 1"):
        gibbs.annealed(LOGITS, TABLES, [(0, 1)], sweeps=3, hottest=0.1, coldest=1)


# --- the dtype of labels -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, labels", [(np.uint8, 300), (np.int8, 200)])
def test_a_dtype_that_cannot_hold_all_labels_is_rejected(dtype, labels):
    """The result has the dtype of the labels given, and would wrap."""
    logits = np.zeros((labels, 3, 4), np.float32)
    logits[-1] = 5
    tables, start = np.zeros((1, labels, labels), np.float32), np.zeros((3, 4), dtype)
    for function in (gibbs.icm, gibbs.sweep):
        with pytest.raises(TypeError, match=rf"cannot hold label {labels - 1}; pass .*int32"):
            function(logits, start, tables, [(0, 1)])
    assert (gibbs.icm(logits, start.astype(np.int32), tables, [(0, 1)]) == labels - 1).all()
