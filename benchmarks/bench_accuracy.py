"""How far our filters are from the exact Gaussian, on crops of photographs: docs/accuracy.md."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from measure import ROWS, Row

from densecrf_rnn import CRFParams, kernels, mean_field
from densecrf_rnn.reference import dense

SIZE, LABELS = (64, 64), 8
CROPS = {"astronaut": (100, 180), "coffee": (160, 260), "chelsea": (90, 180)}
POSITIONS = kernels.positions(SIZE, "xy", (1.0, 1.0), np.float64)
FILTERS = [
    *[(f"bilateral {a}/{b}", CRFParams(a, b, 3, 1, 0)) for a, b in ((160, 3), (80, 13), (20, 13))],
    *[(f"spatial {g}", CRFParams(80, 13, g, 0, 1)) for g in (1, 3, 10)],
]
# How a kernel can be filtered: the bilateral's lattice has qualities, the spatial one a grid too.
MODES = {
    "standard": {"spatial": "lattice", "quality": "standard"},
    "symmetric": {"spatial": "lattice", "quality": "symmetric"},
    "filled": {"spatial": "lattice", "quality": "filled"},
    "grid": {"spatial": "grid", "quality": "standard"},
}


@functools.cache
def crops():
    data = pytest.importorskip("skimage.data")
    return [
        getattr(data, picture)()[row : row + SIZE[0], column : column + SIZE[1]]
        for picture, (row, column) in CROPS.items()
    ]


def logits():
    """Coarse random scores, enlarged: a hard field of labels, all edges."""
    coarse = np.random.default_rng(0).normal(0, 2, (LABELS, 9, 9))
    return coarse.repeat(8, 1).repeat(8, 2)[:, : SIZE[0], : SIZE[1]].copy()


def filtered(image, params, mode):
    """K q of the one kernel whose weight is not 0, [N, L]: a step of the mean field less logits."""
    changed = replace(params, normalization="none", **MODES[mode])
    u = logits()
    step = mean_field(u, image, changed, compatibility=-np.eye(LABELS), iterations=1)
    return (step - u).reshape(LABELS, -1).T


@pytest.mark.parametrize("name, params", FILTERS, ids=[name for name, _ in FILTERS])
def test_filter_error(name, params):
    which = 0 if params.w_bilateral else 1
    images = crops()[:1] if which else crops()  # the spatial kernel does not see them
    q = dense.softmax(logits().reshape(LABELS, -1).T)
    exact = [
        dense.gaussian_kernel(kernels.from_params(params)[which].features(POSITIONS, image))
        for image in images
    ]
    for mode in list(MODES)[: 3 + which]:
        errors, mass = [], []
        for image, matrix in zip(images, exact, strict=True):
            ours, n_exact = filtered(image, params, mode), matrix.sum(1, keepdims=True)
            n = ours.sum(1, keepdims=True)  # K 1, for marginals sum to 1
            truth = matrix @ q / n_exact
            errors.append(np.linalg.norm(ours / n - truth) / np.linalg.norm(truth))
            mass.append((n / n_exact).mean())
        note = (
            f"relative rms error, normalised {np.mean(errors):.4f} (worst {np.max(errors):.4f}), "
            f"raw mass {np.mean(mass):.2f} of exact"
        )
        ROWS.append(Row(f"filter error, {name}", mode, note=note))
        assert np.max(errors) < 0.2


@pytest.mark.parametrize("normalization", ["after", "symmetric"])
@pytest.mark.parametrize("theta", [(160, 3), (80, 13)])
def test_label_error(theta, normalization):
    params = CRFParams(*theta, 3, 5, 3, normalization=normalization)
    u = logits()
    flat = u.reshape(LABELS, -1).T
    bilateral, spatial = kernels.from_params(params)
    near = dense.normalized_kernel(spatial.features(POSITIONS, crops()[0]), normalization)
    exact = []
    for image in crops():
        alike = dense.normalized_kernel(bilateral.features(POSITIONS, image), normalization)
        exact.append(dense.mean_field(flat, [alike, near], [5, 3], 1 - np.eye(LABELS), 5))
    for mode, options in MODES.items():
        differ, distance = [], []
        for image, truth in zip(crops(), exact, strict=True):
            ours = mean_field(u, image, replace(params, **options))
            ours = ours.reshape(LABELS, -1).T
            differ.append((ours.argmax(1) != truth.argmax(1)).mean())
            distance.append(np.abs(dense.softmax(ours) - dense.softmax(truth)).mean())
        note = f"labels that differ from exact {np.mean(differ):.2%}, mean |dQ| "
        case = f"mean field error, {theta[0]}/{theta[1]} {normalization}"
        ROWS.append(Row(case, mode, note=note + f"{np.mean(distance):.5f}"))
        assert np.mean(differ) < 0.05
