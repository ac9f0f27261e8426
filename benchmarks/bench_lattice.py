"""Measure the lattice alone: building it, and filtering 21 channels."""

import numpy as np
import peers
import pytest
from measure import Case, compare
from problems import TIGHT, WIDE, Problem

from densecrf_rnn import PermutohedralLattice

CHANNELS = 21
PROBLEMS = {"wide": Problem(params=WIDE), "tight": Problem(params=TIGHT)}


def from_features(problem, threads):
    features = problem.features()
    return lambda: PermutohedralLattice(features, threads=threads).num_vertices


def from_image(problem, threads):
    """Prepare what pydensecrf's call does: features, lattice, and the filter that normalises."""

    def run():
        lattice = PermutohedralLattice(problem.features(), threads=threads)
        lattice.filter(np.ones((problem.image[..., 0].size, 1), np.float32))
        return lattice.num_vertices

    return run


@pytest.mark.parametrize("name", PROBLEMS)
def test_build(name):
    outcomes = compare(
        f"build 500x500 {name}",
        PROBLEMS[name],
        [
            *peers.cases(peers.build),
            *[Case("ours, from features", from_features, n) for n in (1, 2)],
            *[Case("ours, from image, and normaliser", from_image, n) for n in (1, 2)],
        ],
        peer=peers.NAME,
    )
    assert len({o.value for (who, _), o in outcomes.items() if who != peers.NAME}) == 1


def native(problem, threads):
    return _filter(PermutohedralLattice(problem.features(), threads=threads))


def numba(problem, threads):
    return _filter(PermutohedralLattice(problem.features(), backend="numba"))


def _filter(lattice):
    shape = (len(lattice.self_response()), CHANNELS)
    values = np.random.default_rng(0).random(shape, np.float32)
    return lambda: lattice.filter(values)


@pytest.mark.parametrize("name", PROBLEMS)
def test_filter(name):
    pytest.importorskip("numba")
    outcomes = compare(
        f"filter 500x500 {name}, {CHANNELS} channels",
        PROBLEMS[name],
        [Case("numba", numba), Case("ours", native), Case("ours", native, 2)],
        peer="numba",
        runs=5,
    )
    reference = outcomes["numba", 1].value
    np.testing.assert_allclose(outcomes["ours", 1].value, reference, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outcomes["ours", 2].value, outcomes["ours", 1].value)
