"""Measure `refine`, including the lattices, against pydensecrf and the textbook."""

from dataclasses import replace
from functools import partial

import numpy as np
import peers
import pytest
import textbook
from measure import ROWS, Case, Row, compare
from problems import TIGHT, VOLUME, WIDE, Problem

from densecrf_rnn import refine
from densecrf_rnn.params import QUALITIES, SPATIAL_FILTERS
from densecrf_rnn.postprocess import most_probable
from densecrf_rnn.reference import dense

PARAMS = {"wide": WIDE, "tight": TIGHT}


def ours(problem, threads, iterations, **changes):
    params = replace(problem.params, **changes)
    logits, image = problem.logits, problem.image
    return lambda: refine(logits, image, params, iterations=iterations, threads=threads)


def forward(name, problem, iterations=5, with_textbook=False, **options):
    """Add the rows of one problem: both spatial filters on one and two threads, and the peers.

    "lattice" is how pydensecrf and the textbook define the CRF, so labels agree; "grid" is our
    default and closer to the exact Gaussian (docs/accuracy.md), so some labels differ.
    """
    compared = peers.cases(peers.forward(iterations))
    if with_textbook:
        compared.append(Case("textbook", partial(textbook.forward, iterations=iterations)))
    for spatial in SPATIAL_FILTERS:
        work = partial(ours, iterations=iterations, spatial=spatial)
        compared += [Case(f"ours, {spatial}", work, threads) for threads in (1, 2)]
    size = "x".join(map(str, problem.size))
    case = f"forward {size} {name} L={problem.labels} T={iterations}"
    outcomes = compare(case, problem, compared, peer=peers.NAME, **options)

    for spatial in SPATIAL_FILTERS:
        one, two = (outcomes[f"ours, {spatial}", threads] for threads in (1, 2))
        np.testing.assert_array_equal(one.value, two.value)
        two.row.note = "bit-identical to 1 thread"
    same, grid = outcomes["ours, lattice", 1], outcomes["ours, grid", 1]
    grid.row.note = f"labels of lattice {_agreement(grid.value, same.value):.3%}"
    if (peers.NAME, 1) in outcomes:
        agreement = _agreement(same.value, outcomes[peers.NAME, 1].value)
        same.row.note = f"labels of pydensecrf {agreement:.4%}"
        assert agreement > 0.9999
    if with_textbook:
        add_difference(case, same.value, outcomes["textbook", 1].value)


def _agreement(a, b):
    return (a.argmax(0) == b.argmax(0)).mean()


def add_difference(case, q, truth):
    """Add a row with the difference between the fused engine and the textbook."""
    difference = np.abs(q - truth)
    agreement = _agreement(q, truth)
    mean, most = difference.mean(), difference.max()
    note = f"labels {agreement:.4%}, mean |dQ| {mean:.1e}, max {most:.1e}"
    ROWS.append(Row(case, "ours, lattice - textbook", note=note))
    assert agreement == 1 and mean < 1e-6


@pytest.mark.parametrize("labels, iterations", [(21, 5), (21, 10), (2, 5)])
@pytest.mark.parametrize("name", PARAMS)
def test_photograph(name, labels, iterations):
    problem = Problem(labels=labels, params=PARAMS[name])
    forward(name, problem, iterations, with_textbook=iterations == 5, runs=35 // iterations)


@pytest.mark.parametrize("labels", [21, 2])
@pytest.mark.parametrize("name", PARAMS)
def test_interface_of_pydensecrf(name, labels):
    """Measure a script of pydensecrf with its import replaced, against pydensecrf itself."""
    compared = peers.cases(peers.forward(5))
    compared.append(Case("compat.pydensecrf", peers.face(5)))
    problem = Problem(labels=labels, params=PARAMS[name])
    case = f"script of pydensecrf 500x500 {name} L={labels} T=5"
    outcomes = compare(case, problem, compared, peer=peers.NAME)
    if (peers.NAME, 1) in outcomes:
        found, wanted = (outcomes[who, 1] for who in ("compat.pydensecrf", peers.NAME))
        agreement = _agreement(found.value, wanted.value)
        found.row.note = f"labels of pydensecrf {agreement:.4%}"
        assert agreement > 0.9999


def labels_alone(problem, threads):
    options = {"iterations": 5, "threads": threads, "labels": True}
    logits, image = problem.logits, problem.image
    return lambda: refine(logits, image, problem.params, **options)


def labels_of_marginals(problem, threads):
    q = ours(problem, threads, 5)
    return lambda: most_probable(q())


@pytest.mark.parametrize("labels", [21, 2])
@pytest.mark.parametrize("name", PARAMS)
def test_labels_alone(name, labels):
    """Measure label maps: written by the engine, and as the argmax of marginals."""
    problem = Problem(labels=labels, params=PARAMS[name])
    cases = [Case("argmax of marginals", labels_of_marginals), Case("labels=True", labels_alone)]
    outcomes = compare(
        f"labels 500x500 {name} L={labels} T=5", problem, cases, peer="argmax of marginals"
    )
    found, wanted = (outcomes[who, 1].value for who in ("labels=True", "argmax of marginals"))
    assert (found == wanted).mean() > 0.99999


@pytest.mark.parametrize("name", PARAMS)
def test_quality(name):
    """Measure the cost of the lattice qualities; docs/accuracy.md shows their gain."""
    cases = [
        Case(quality, partial(ours, iterations=5, quality=quality))
        for quality in QUALITIES
    ]
    compare(f"quality 500x500 {name} L=21 T=5", Problem(params=PARAMS[name]), cases, "standard", 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMS)
def test_street_size(name):
    problem = Problem("coffee", (1024, 2048), 19, PARAMS[name])
    forward(name, problem, runs=3, warm_up=False)


@pytest.mark.slow
def test_volume():
    forward("volume", Problem("volume", (64, 128, 128), 4, VOLUME), with_textbook=True, runs=3)


def exact(problem, threads, iterations):
    """Prepare the exact mean field over all pairs of pixels."""
    params, logits = problem.params, problem.logits
    labels, weights = len(logits), [params.w_bilateral, params.w_spatial]

    def run():
        matrices = [dense.normalized_kernel(problem.features(k), "symmetric") for k in (0, 1)]
        u = logits.reshape(labels, -1).T.astype(float)
        refined = dense.mean_field(u, matrices, weights, 1 - np.eye(labels), iterations)
        return dense.softmax(refined).T.reshape(logits.shape)

    return run


def test_crop_on_which_the_dense_oracle_fits():
    problem = Problem(size=(64, 64))
    cases = [Case("dense oracle", partial(exact, iterations=5))]
    for spatial in SPATIAL_FILTERS:
        cases.append(Case(f"ours, {spatial}", partial(ours, iterations=5, spatial=spatial)))
    case = "forward 64x64 wide L=21 T=5"
    outcomes = compare(case, problem, cases, peer="dense oracle", runs=3, warm_up=False)
    truth = outcomes["dense oracle", 1].value
    for (who, _), outcome in outcomes.items():
        if who != "dense oracle":
            difference = np.abs(outcome.value - truth).mean()
            agreement = _agreement(outcome.value, truth)
            outcome.row.note = f"labels of oracle {agreement:.2%}, mean |dQ| {difference:.1e}"
            assert agreement > 0.95
