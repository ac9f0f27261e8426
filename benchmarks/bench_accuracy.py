"""How far the lattice is from the exact Gaussian, on crops of photographs: docs/accuracy.md."""

import numpy as np
import pytest
from measure import ROWS

from densecrf_rnn import CRFParams, PermutohedralLattice, kernels, mean_field
from densecrf_rnn.reference import dense

SIZE, LABELS = (64, 64), 8
KERNELS = {
    "bilateral 160/3": kernels.Bilateral(160, 3),
    "bilateral 80/13": kernels.Bilateral(80, 13),
    "bilateral 20/13": kernels.Bilateral(20, 13),
    "spatial 3": kernels.Spatial(3),
}
POSITIONS = kernels.positions(SIZE, "xy", (1.0, 1.0), np.float64)


def crops():
    data = pytest.importorskip("skimage.data")
    for picture, (row, column) in (("astronaut", (100, 180)), ("coffee", (160, 260)),
                                   ("chelsea", (90, 180))):  # fmt: skip
        yield getattr(data, picture)()[row : row + SIZE[0], column : column + SIZE[1]]


def logits():
    """Coarse random scores, enlarged: label fields as smooth as a network's."""
    coarse = np.random.default_rng(0).normal(0, 2, (LABELS, 9, 9))
    return coarse.repeat(8, 1).repeat(8, 2)[:, : SIZE[0], : SIZE[1]].copy()


@pytest.mark.parametrize("name", KERNELS)
def test_filter_error(name):
    q = dense.softmax(logits().reshape(LABELS, -1).T)
    errors, mass = [], []
    for image in crops():
        features = KERNELS[name].features(POSITIONS, image)
        lattice = PermutohedralLattice(features)
        exact = dense.gaussian_kernel(features)
        n, n_exact = lattice.filter(np.ones((len(q), 1))), exact.sum(1, keepdims=True)
        error = lattice.filter(q) / n - exact @ q / n_exact
        errors.append(np.linalg.norm(error) / np.linalg.norm(exact @ q / n_exact))
        mass.append((n / n_exact).mean())
    ROWS.append(
        f"{name:16} relative rms error of the normalised filter {np.mean(errors):.4f} "
        f"(worst {np.max(errors):.4f}), mass of the raw filter {np.mean(mass):.2f} of exact"
    )
    assert np.max(errors) < 0.2


@pytest.mark.parametrize("normalization", ["after", "symmetric"])
@pytest.mark.parametrize("theta", [(160, 3), (80, 13)])
def test_label_error(theta, normalization):
    differ, distance = [], []
    for image in crops():
        params = CRFParams(*theta, 3, 5, 3, normalization=normalization)
        matrices = [
            dense.normalized_kernel(k.features(POSITIONS, image), normalization)
            for k in kernels.from_params(params)
        ]
        u = logits()
        exact = dense.mean_field(u.reshape(LABELS, -1).T, matrices, [5, 3], 1 - np.eye(LABELS), 5)
        ours = mean_field(u, image, params).reshape(LABELS, -1).T
        differ.append((ours.argmax(1) != exact.argmax(1)).mean())
        distance.append(np.abs(dense.softmax(ours) - dense.softmax(exact)).mean())
    ROWS.append(
        f"mean field {theta[0]}/{theta[1]}, T=5, {normalization:10} labels that differ from exact "
        f"{100 * np.mean(differ):.2f} %, mean |dQ| {np.mean(distance):.5f}"
    )
    assert np.mean(differ) < 0.05
