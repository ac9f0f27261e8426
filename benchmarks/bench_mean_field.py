"""Mean field forward on a real photograph, lattice build included, against pydensecrf.

    pip install -e '.[bench]'      # pydensecrf, if it builds; CFLAGS='-O3 -march=native' is fair
    pytest benchmarks/
"""

import importlib.util

import numpy as np
import pytest
from measure import interleaved, report

from densecrf_rnn import CRFParams, PermutohedralLattice, available_backends, kernels, refine

SIZE, LABELS, ITERATIONS, RUNS = (500, 500), 21, 5, 9
CASES = {
    "wide 80/13": CRFParams(80, 13, 3, 10, 3, normalization="symmetric"),
    "tight 160/3": CRFParams(160, 3, 3, 5, 3, normalization="symmetric"),
}


@pytest.fixture(scope="module")
def problem():
    """From parameters to a photograph, logits, and the vertices of the bilateral lattice."""
    if "cpu" not in available_backends():
        pytest.skip("the native module is not compiled")
    data = pytest.importorskip("skimage.data")
    image = np.ascontiguousarray(data.astronaut()[:500, :500])
    logits = np.random.default_rng(0).normal(size=(LABELS, *SIZE)).astype(np.float32)
    positions = kernels.positions(SIZE, "xy", (1.0, 1.0), np.float32)

    def with_params(params):
        features = kernels.from_params(params)[0].features(positions, image)
        return image, logits, PermutohedralLattice(features).num_vertices

    return with_params


def pydensecrf_refine(image, logits, params):
    import pydensecrf.densecrf as densecrf

    crf = densecrf.DenseCRF2D(*SIZE, LABELS)
    crf.setUnaryEnergy(-logits.reshape(LABELS, -1))
    theta = params.theta_gamma
    crf.addPairwiseGaussian(sxy=theta, compat=params.w_spatial)
    alpha, beta = params.theta_alpha, params.theta_beta
    crf.addPairwiseBilateral(sxy=alpha, srgb=beta, rgbim=image, compat=params.w_bilateral)
    return np.array(crf.inference(ITERATIONS)).reshape(LABELS, *SIZE)


@pytest.mark.parametrize("case", CASES)
def test_mean_field_forward(case, problem):
    params = CASES[case]
    image, logits, vertices = problem(params)

    def ours(threads):
        return lambda: refine(logits, image, params, iterations=ITERATIONS, threads=threads)

    cases = {"ours, 1 thread": ours(1), "ours, 2 threads": ours(2)}
    if importlib.util.find_spec("pydensecrf") is not None:
        cases = {"pydensecrf, 1 thread": lambda: pydensecrf_refine(image, logits, params), **cases}
        same = pydensecrf_refine(image, logits, params).argmax(0) == ours(1)().argmax(0)
        assert same.mean() > 0.9999  # the same definition, so the same labels
    report(f"{case}, L={LABELS}, T={ITERATIONS}", vertices, interleaved(RUNS, **cases))
