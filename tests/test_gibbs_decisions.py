"""Two remarks of [Kirillov15] on marginals, checked by enumeration of every labelling."""

import itertools

import numpy as np
import pytest
from gibbs_problems import SMALL, Enumerated, model

from densecrf_rnn import gibbs

LENGTH, LABELS = 6, 3
CHAIN = Enumerated(LABELS, 1, LENGTH, [(0, 1)])


@pytest.fixture
def chain():
    """A stationary Markov chain: its marginal probabilities [L] and pair probabilities [L, L]."""
    transitions = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.7, 0.2]])
    single = np.linalg.matrix_power(transitions, 200)[0]
    return single, single[:, None] * transitions


def grid(unary):
    """Logits [L, 1, LENGTH] from one row for each pixel."""
    return np.ascontiguousarray(np.transpose(unary)[:, None], np.float32)


def test_a_chain_with_log_pair_marginals_has_negated_log_marginals_as_unaries(chain):
    single, pairs = chain
    tables = np.log(pairs)[None].astype(np.float32)
    inside = np.zeros((LENGTH, LABELS))
    inside[1:-1] = -np.log(single)  # 0 at the two ends
    p = CHAIN.probabilities(grid(inside), tables)
    for y in ((0, 1, 2, 1, 1, 0), (2, 2, 2, 2, 2, 2)):
        product = single[y[0]]
        for a, b in itertools.pairwise(y):
            product *= pairs[a, b] / single[a]
        assert p[CHAIN.number(np.array(y))] == pytest.approx(product, rel=1e-5)
        score = gibbs.score(grid(inside), np.array([y], np.uint8), tables, [(0, 1)])
        assert np.exp(score) == pytest.approx(product, rel=1e-5)  # the sum over labellings is 1
    marginals, counts = CHAIN.expectations(grid(inside), tables)
    np.testing.assert_allclose(marginals[:, 0], single[:, None].repeat(LENGTH, 1), rtol=1e-5)
    np.testing.assert_allclose(counts[0] / (LENGTH - 1), pairs, rtol=1e-5)


def test_log_marginals_as_potentials_do_not_give_these_marginals(chain):
    single, pairs = chain
    tables = np.log(pairs)[None].astype(np.float32)
    marginals, _ = CHAIN.expectations(grid(np.log(single)[None].repeat(LENGTH, 0)), tables)
    assert np.abs(marginals[:, 0] - single[:, None]).max() > 0.1


def test_sampling_finds_the_marginals_of_that_chain(chain):
    single, pairs = chain
    inside = np.zeros((LENGTH, LABELS))
    inside[1:-1] = -np.log(single)
    tables = np.log(pairs)[None].astype(np.float32)
    q = gibbs.marginals(grid(inside), tables, [(0, 1)], sweeps=20_000, burn_in=100)
    np.testing.assert_allclose(q[:, 0], single[:, None].repeat(LENGTH, 1), atol=0.02)


@pytest.mark.parametrize("size", SMALL)
def test_the_argmax_of_marginals_has_fewer_expected_errors_than_the_most_probable_labelling(size):
    labels, height, width = SMALL[size]
    every = Enumerated(labels, height, width)
    differ = 0
    for seed in range(12):
        logits, tables = model(labels, height, width, seed=seed)
        marginals, _ = every.expectations(logits, tables)
        best = every.labellings[every.probabilities(logits, tables).argmax()]
        sampled = gibbs.marginals(logits, tables, every.offsets, sweeps=4000, burn_in=50)
        if (marginals.argmax(0) == best).all():
            continue
        differ += 1
        errors = [
            (1 - np.take_along_axis(marginals, y[None].astype(int), 0)).sum()
            for y in (marginals.argmax(0), sampled.argmax(0), best)
        ]
        assert errors[0] <= errors[1] < errors[2]
    assert differ >= 2
