"""Test problems, their exact answers, and how far the lattice may differ from them.

Answers come from NumPy and the dense reference alone. `operator_matrices` is the exception: its
raw kernels are those of an engine, their normalisation is the reference's.
"""

from functools import reduce

import numpy as np

from densecrf_rnn import CRFParams, PermutohedralLattice, kernels
from densecrf_rnn.inference import grid
from densecrf_rnn.reference import dense

# Elementwise agreement of two engines that run the same lattice: they may only differ in the
# order of sums.
ENGINE_TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
MEAN_FIELD_TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12}

# How far the row-normalised lattice may be from the exact row-normalised Gaussian for values in
# 0..1: theta_position, theta_guide, features d, bound on the rms and on the largest error.
# Measured by test_filter_is_near_the_exact_gaussian itself (2,000 points: picture(40, 50), seed 0,
# float64), which prints what it finds; bounds are 1.5 times the errors written beside them.
FILTER_TOLERANCE = [
    (3.0, None, 2, 0.0045, 0.023),  # 0.0030, 0.015
    (80.0, 13.0, 5, 0.012, 0.072),  # 0.0079, 0.048
    (15.0, 13.0, 5, 0.011, 0.047),  # 0.0071, 0.031
    (160.0, 3.0, 5, 0.009, 0.12),  # 0.0058, 0.078
]

# How far the grid may be from the exact Gaussian: size, deviation in pixels along each axis, bounds
# on the relative rms error raw and row-normalised, for patches of 4 pixels and for noise, both in
# 0..1. Measured by test_grid_is_near_the_exact_gaussian, which prints what it finds; bounds are 1.5
# times the errors written beside them.
GRID_TOLERANCE = [
    ((41, 53), (3.0, 3.0), 0.0029, 0.0024),  # 0.0019, 0.0016
    ((41, 53), (1.5, 1.5), 0.0005, 0.0002),  # 0.00034, 0.00012
    ((41, 53), (2.0, 6.0), 0.0025, 0.0020),  # 0.0017, 0.0013
    ((53, 41), (40.0, 0.7), 0.0004, 0.00005),  # 0.00026, 0.00003
    ((11, 14, 13), (2.0, 2.0, 2.0), 0.0043, 0.0024),  # 0.0029, 0.0016
    ((5, 17, 20), (1.0, 3.0, 3.0), 0.0038, 0.0027),  # 0.0025, 0.0018
]

FEATURE_KINDS = ("normal", "repeated", "constant", "far", "ties", "grid")


def elevation_scale(dims):
    """The factors between features and lattice coordinates, [d] (docs/math.md)."""
    i = np.arange(1, dims + 1)
    return np.sqrt(2 / 3) * (dims + 1) / np.sqrt(i * (i + 1))


def features(kind, points, dims, dtype, seed=0):
    """Feature rows [N, D] of one of FEATURE_KINDS."""
    rng = np.random.default_rng(seed)
    rows = 2 * rng.normal(size=(points, dims))
    if kind == "repeated":
        rows = rows[rng.integers(0, 1 + points // 4, points)]
    elif kind == "constant":
        rows[:] = rows[0]
    elif kind == "far":  # clusters a thousand deviations apart
        rows += rng.choice([-1000.0, 0.0, 1000.0], (points, 1))
    elif kind == "ties":  # exactly halfway between lattice points, where rounding decides
        steps = rng.integers(-3, 4, (points, dims)) * (dims + 1) / 2
        rows = steps / elevation_scale(dims)
    elif kind == "grid":
        rows = rng.integers(-4, 5, (points, dims)).astype(float)
    return rows.astype(dtype)


def picture(height, width, channels=3, seed=0):
    """A disc on a shaded ground with a little noise, 0..255: [H, W, C] float64."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    disc = (y - 0.3) ** 2 + (x - 0.45) ** 2 < 0.04
    shade = 40 + 60 * x[..., None] * np.linspace(0.5, 1, channels)
    colour = np.linspace(200, 120, channels)
    image = np.where(disc[..., None], colour, shade) + rng.normal(0, 3, (height, width, channels))
    return image.clip(0, 255)


def noisy_logits(labels, image, dtype=np.float64, seed=0):
    """Logits [L, *S] that follow the brightness of the image, under as much noise as signal."""
    rng = np.random.default_rng(seed)
    grey = image.mean(-1)
    truth = np.digitize(grey, np.linspace(grey.min(), grey.max() + 1, labels + 1)) - 1
    signal = 1.5 * (truth == np.arange(labels).reshape(-1, *[1] * grey.ndim))
    return (signal + rng.normal(size=signal.shape)).astype(dtype)


def random_problem(labels=3, size=(7, 9), channels=3, dtype=np.float64, seed=0):
    """Logits [L, *S] and a smooth random image [*S, C] in 0..255, both of `dtype`."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(labels, *size))).astype(dtype)
    waves = sum(
        np.sin(rng.uniform(0.2, 0.6) * axis + rng.uniform(0, 6))[..., None]
        * rng.uniform(10, 40, channels)
        for axis in np.meshgrid(*map(np.arange, size), indexing="ij")
    )
    image = 128 + waves + rng.normal(0, 2, (*size, channels))
    return logits, image.clip(0, 255).astype(dtype)


def exact_mean_field(
    logits, image, params=CRFParams(), *, kernel_weights=None, compatibility=None, iterations=5
):
    """`mean_field` with exact Gaussian sums, in float64. Shapes as there."""
    labels = len(logits)
    size = logits.shape[1:]
    positions = kernels.positions(size, params.feature_order, (1.0,) * len(size), np.float64)
    matrices = [
        dense.normalized_kernel(
            kernel.features(positions, image), params.normalization, params.self_term
        )
        for kernel in kernels.from_params(params)
    ]
    weights = (params.w_bilateral, params.w_spatial) if kernel_weights is None else kernel_weights
    mu = 1 - np.eye(labels) if compatibility is None else compatibility
    rows = logits.reshape(labels, -1).T.astype(np.float64)
    refined = dense.mean_field(rows, matrices, weights, mu, iterations)
    return refined.T.reshape(logits.shape)


def operator_matrices(image, params, backend="auto"):
    """N K of the bilateral and the spatial kernel; K is found by filtering the identity. [N, N]"""
    size = image.shape[:-1]
    positions = kernels.positions(size, params.feature_order, (1.0,) * len(size), np.float64)
    found = []
    for kernel in kernels.from_params(params):
        features = kernel.features(positions, image)
        lattice = PermutohedralLattice(features, quality=params.quality, backend=backend)
        found.append(lattice.filter(np.eye(len(features))))
    if params.spatial == "grid":
        found[1] = reduce(np.kron, [grid.matrix(grid.axis(n, params.theta_gamma)) for n in size])
    return [dense.normalized(kernel, params.normalization, params.self_term) for kernel in found]


def softmax(logits):
    """Marginals over the first axis, in float64."""
    q = np.exp(logits.astype(np.float64) - logits.max(0, keepdims=True))
    return q / q.sum(0, keepdims=True)


class Made:
    """An array of some size, of numbers that are made when they are read."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, where):
        shape = [len(range(*s.indices(n))) for s, n in zip(where, self.shape, strict=True)]
        return (np.arange(np.prod(shape)) % 89).reshape(shape).astype(self.dtype)


def assert_near(got, want, tolerance):
    """No element differs by more than `tolerance` of the largest finite one (at least of 1)."""
    assert got.shape == want.shape
    finite = np.isfinite(want)
    scale = max(1.0, np.abs(want[finite]).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
