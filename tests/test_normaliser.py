"""The shared normaliser: checked against the reference's own, and seen to fail when it is broken.

A rung is a comparison of one implementation with the mean field of `reference/dense.py`.
"""

import enum
from dataclasses import replace

import numpy as np
import pytest
from oracles import assert_near, operator_matrices

from densecrf_rnn import (
    CRFParams,
    PermutohedralLattice,
    energy,
    engines,
    kernels,
    mean_field,
    params,
    refine,
    refine_tiled,
    tiles,
)
from densecrf_rnn.compat.pydensecrf import densecrf
from densecrf_rnn.inference import grid
from densecrf_rnn.kernels import Normalizer
from densecrf_rnn.reference import dense

ITERATIONS = 2


def problem():
    """Logits [3, 5, 6] and an image with two pixels whose colours have nearly no neighbours.

    Without the self term the mass of one is positive and below the threshold on the lattice, that
    of the other in the exact Gaussian.
    """
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 40, (5, 6, 2))
    image[2, 3], image[4, 0] = 74.15, -80
    return rng.normal(size=(3, 5, 6)), image


def options(normalization, theta_gamma, **more):
    return CRFParams(
        theta_alpha=4, theta_beta=30, theta_gamma=theta_gamma, w_bilateral=1.3, w_spatial=0.7,
        normalization=normalization, self_term=False, **more,
    )  # fmt: skip


def of_matrices(matrices, crf):
    """The reference's mean field of the problem with these kernels."""
    logits, _ = problem()
    rows, mu = logits.reshape(3, -1).T, 1 - np.eye(3)
    weights = (crf.w_bilateral, crf.w_spatial)
    return dense.mean_field(rows, matrices, weights, mu, ITERATIONS).T.reshape(logits.shape)


def features(crf):
    """The feature rows of both kernels."""
    _, image = problem()
    positions = kernels.positions(image.shape[:-1], "xy", (1.0, 1.0), np.float64)
    return [kernel.features(positions, image) for kernel in kernels.from_params(crf)]


def arrays(spatial, backend):
    def rung(normalization, theta_gamma):
        crf = options(normalization, theta_gamma, spatial=spatial)
        got = mean_field(*problem(), crf, iterations=ITERATIONS, backend=backend)
        want = of_matrices(operator_matrices(problem()[1], crf, backend), crf)
        assert_near(got, want, 1e-11)

    return rung


def tensors(spatial, method, backend="auto"):
    def rung(normalization, theta_gamma):
        torch = pytest.importorskip("torch")
        from densecrf_rnn.nn.functional import mean_field

        crf = options(normalization, theta_gamma, spatial=spatial)
        logits, image = (torch.as_tensor(array)[None] for array in problem())
        got = mean_field(
            logits, image.movedim(-1, 1), crf, iterations=ITERATIONS, method=method,
            backend=backend,
        )  # fmt: skip
        if method == "exact":
            matrices = [dense.normalized_kernel(f, normalization, False) for f in features(crf)]
        else:
            matrices = operator_matrices(problem()[1], crf)
        assert_near(got[0].numpy(), of_matrices(matrices, crf), 1e-11)

    return rung


def pydensecrf(normalization, theta_gamma):
    """This interface has a self term, so the threshold does not matter to it."""
    crf = densecrf.DenseCRF(30, 3)
    crf.setUnaryEnergy(-problem()[0].reshape(3, -1).astype(np.float32))
    rows = features(options(normalization, theta_gamma))[0].astype(np.float32)
    how = {name: member for member, name in densecrf._NORMALIZATIONS.items()}[normalization]
    crf.addPairwiseEnergy(np.ascontiguousarray(rows.T), compat=1.3, normalization=how)
    got = crf.inference(ITERATIONS)
    padded = np.concatenate([rows, np.zeros((2, rows.shape[1]), np.float32)])  # groups of 4 points
    kernel = PermutohedralLattice(padded).filter(np.eye(32, dtype=np.float32))[:30, :30]
    matrix = dense.normalized(kernel.astype(np.float64), normalization)
    logits = problem()[0].reshape(3, -1).T
    want = dense.softmax(dense.mean_field(logits, [matrix], [1.3], 1 - np.eye(3), ITERATIONS))
    assert_near(got, want.T, 1e-5)


LADDER = {
    "cpu": arrays("lattice", "cpu"),
    "numba": arrays("lattice", "numba"),
    "grid": arrays("grid", "auto"),
    "torch": tensors("lattice", "lattice"),
    "torch, grid": tensors("grid", "lattice"),
    "serial": tensors("lattice", "lattice", "serial"),
    "exact": tensors("lattice", "exact"),
}


@pytest.fixture(params=LADDER)
def rung(request):
    reason = engines.why_unavailable(request.param)
    if request.param in ("cpu", "numba", "serial") and reason is not None:
        pytest.skip(reason)
    return LADDER[request.param]


@pytest.mark.parametrize("normalization", params.NORMALIZATIONS)
def test_every_rung_holds(rung, normalization):
    rung(normalization, 1.5)


@pytest.mark.parametrize("normalization", params.NORMALIZATIONS)
def test_the_pydensecrf_interface_holds(normalization):
    pydensecrf(normalization, 1.5)


def test_a_wrong_power_is_seen(rung, monkeypatch):
    monkeypatch.setitem(kernels._NORMALIZERS, "symmetric", Normalizer(True, True, 1.0))
    with pytest.raises(AssertionError):
        rung("symmetric", 1.51)  # a bandwidth of its own: kernels of grids are cached


def test_a_wrong_side_is_seen(rung, monkeypatch):
    monkeypatch.setitem(kernels._NORMALIZERS, "after", Normalizer(True, False))
    with pytest.raises(AssertionError):
        rung("after", 1.52)


def test_the_problem_has_masses_below_the_threshold():
    crf = options("none", 1.5)
    lattice = operator_matrices(problem()[1], crf)[0].sum(1)
    exact = dense.normalized_kernel(features(crf)[0], "none", self_term=False).sum(1)
    for mass in (lattice, exact):
        assert ((mass > 1e-5) & (mass < 0.9 * dense.EMPTY_MASS)).any()


@pytest.mark.parametrize("threshold", [0.0, 1e3])
def test_a_wrong_threshold_is_seen(rung, monkeypatch, threshold):
    monkeypatch.setattr(kernels, "EMPTY_MASS", threshold)
    with pytest.raises(AssertionError):
        rung("after", 1.53)


def test_breaks_are_seen_through_the_pydensecrf_interface(monkeypatch):
    monkeypatch.setitem(kernels._NORMALIZERS, "symmetric", Normalizer(True, True, 1.0))
    monkeypatch.setitem(kernels._NORMALIZERS, "before", Normalizer(False, True))
    for normalization in ("symmetric", "before"):
        with pytest.raises(AssertionError):
            pydensecrf(normalization, 1.5)


# --- a normalization that `params` alone accepts -------------------------------------------------


@pytest.fixture
def made_up(monkeypatch):
    """Parameters with the normalization "made-up", which no code implements."""
    monkeypatch.setattr(params, "NORMALIZATIONS", (*params.NORMALIZATIONS, "made-up"))
    return lambda **more: options("made-up", 1.5, **more)


UNKNOWN = "normalization is 'made-up'"


@pytest.mark.parametrize("spatial", params.SPATIAL_FILTERS)
@pytest.mark.parametrize("self_term", [False, True])
def test_a_made_up_normalization_fails_on_arrays(made_up, backend, spatial, self_term):
    crf = replace(made_up(spatial=spatial), self_term=self_term)
    for call in (refine, mean_field, refine_tiled):
        with pytest.raises(ValueError, match=UNKNOWN):
            call(*problem(), crf, backend=backend)
    with pytest.raises(ValueError, match=UNKNOWN):
        energy.free_energy(problem()[0], *problem(), crf, backend=backend)


@pytest.mark.parametrize("self_term", [False, True])
def test_a_made_up_normalization_fails_on_grids_and_in_halos(made_up, self_term):
    for pixel in (None, np.arange(3, dtype=np.int32)):
        with pytest.raises(ValueError, match=UNKNOWN):
            grid.normalized([grid.axis(6, 2.0)], "made-up", self_term, np.float64, pixel)
    with pytest.raises(ValueError, match=UNKNOWN):
        tiles.halo_of("exact", made_up(), (5, 6), 1, None)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "method, engine",
    [("lattice", "auto"), ("lattice", "numba"), ("lattice", "serial"), ("exact", "auto")],
)
def test_a_made_up_normalization_fails_on_tensors(made_up, method, engine, masked):
    torch = pytest.importorskip("torch")
    from densecrf_rnn import CRFRNN

    reason = None if engine == "auto" else engines.why_unavailable(engine)
    if reason is not None:
        pytest.skip(reason)
    logits, image = (torch.as_tensor(array)[None] for array in problem())
    mask = torch.arange(30).reshape(1, 5, 6) > 4 if masked else None
    for spatial in params.SPATIAL_FILTERS:
        for only in (None, [kernels.Spatial(1.5)]):
            crf = CRFRNN(
                3, params=made_up(spatial=spatial), kernels=only, method=method, backend=engine
            )
            with pytest.raises(ValueError, match=UNKNOWN):
                crf.double()(logits, image.movedim(-1, 1), mask=mask)


def test_a_made_up_normalization_fails_in_the_pydensecrf_interface(monkeypatch):
    members = {member.name: member.value for member in densecrf.NormalizationType}
    more = enum.IntEnum("NormalizationType", {**members, "NORMALIZE_SQRT": 4})
    monkeypatch.setattr(densecrf, "NormalizationType", more)
    crf = densecrf.DenseCRF(4, 2)
    with pytest.raises(ValueError, match="normalization is 'NORMALIZE_SQRT'"):
        crf.addPairwiseEnergy(np.zeros((2, 4), np.float32), 1.0, normalization=4)


def test_the_reference_rejects_an_unknown_normalization():
    with pytest.raises(ValueError, match=UNKNOWN):
        dense.normalized(np.eye(2), "made-up")
