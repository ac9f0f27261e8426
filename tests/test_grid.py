"""The spatial kernel on a grid: what holds exactly, how near the Gaussian it is, and that engines
run the very matrices it is defined by."""

import tracemalloc
from functools import reduce

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import GRID_TOLERANCE, MEAN_FIELD_TOLERANCE, assert_near, random_problem

from densecrf_rnn import CRFParams, mean_field
from densecrf_rnn.inference import grid
from densecrf_rnn.params import NORMALIZATIONS
from densecrf_rnn.reference import dense

# From far below a pixel to far beyond the image: theta_gamma and spacing reach 1e-6..1e9 each.
SIGMAS = (1e-15, 0.3, 1.0, 1.87, 1.88, 3.0, 7.3, 50.0, 1e4, 1e15)
AXES = given(
    pixels=st.sampled_from((1, 2, 3, 7, 8, 13, 61, 200)),
    sigma=st.sampled_from(SIGMAS) | st.floats(0.2, 30),
)


def gaussian(pixels, sigma):
    i = np.arange(pixels)
    return np.exp(-0.5 * ((i[:, None] - i) / sigma) ** 2)


# --- one axis ------------------------------------------------------------------------------------


@AXES
def test_axis_is_as_its_class_says(pixels, sigma):
    axis = grid.axis(pixels, sigma)
    assert axis.cell.shape == (pixels,) and axis.cell.dtype == np.int32
    assert axis.cell[0] == 0 and set(np.diff(axis.cell)) <= {0, 1}
    assert axis.taps.shape == (pixels, 3) and axis.taps.dtype == np.float64
    assert (axis.taps >= 0).all()
    np.testing.assert_allclose(axis.taps.sum(1), 1, rtol=1e-14)
    assert axis.cells == axis.cell[-1] + 3
    np.testing.assert_array_equal(axis.band, axis.band[::-1])
    assert axis.band[len(axis.band) // 2] == axis.band.max() and (axis.band > 0).all()


@AXES
def test_axis_stays_small_whatever_the_deviation(pixels, sigma):
    axis = grid.axis(pixels, sigma)
    assert axis.cells <= pixels + 2
    assert len(axis.band) <= min(2 * pixels - 1, 13)


@AXES
@example(pixels=200, sigma=3.0)
def test_matrix_is_symmetric_and_the_same_from_either_end(pixels, sigma):
    matrix = grid.matrix(grid.axis(pixels, sigma))
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-9)


@AXES
def test_matrix_is_near_the_gaussian_entry_by_entry(pixels, sigma):
    """So that weights found with normalization="none" carry over, and so does self_term=False."""
    error = np.abs(grid.matrix(grid.axis(pixels, sigma)) - gaussian(pixels, sigma))
    assert error.max() < 0.024  # 0.0159


@AXES
def test_matrix_has_the_row_sums_of_the_gaussian(pixels, sigma):
    sums = grid.matrix(grid.axis(pixels, sigma)).sum(1)
    np.testing.assert_allclose(sums, gaussian(pixels, sigma).sum(1), rtol=0.011)  # 0.0072


@pytest.mark.parametrize("sigma", [1e-6, 0.4, 1.0, 1.5])
def test_narrow_kernels_are_exact_but_for_their_tails(sigma):
    matrix, exact = grid.matrix(grid.axis(40, sigma)), gaussian(40, sigma)
    inside = exact > 1e-3
    np.testing.assert_allclose(matrix[inside], exact[inside], rtol=1e-14)
    assert (matrix[~inside] <= exact[~inside]).all()


def test_few_pixels_are_exact_whatever_the_deviation():
    """As along the short axis of a volume of a few slices."""
    for pixels in range(1, 7):
        for sigma in (2.0, 50.0, 1e9):
            matrix = grid.matrix(grid.axis(pixels, sigma))
            np.testing.assert_allclose(matrix, gaussian(pixels, sigma), rtol=1e-14)


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "sigmas", "raw", "normalised"), GRID_TOLERANCE)
def test_grid_is_near_the_exact_gaussian(size, sigmas, raw, normalised):
    """In two and three dimensions, with pixels as long as they are wide or not; relative rms."""
    axes = [grid.axis(n, sigma) for n, sigma in zip(size, sigmas, strict=True)]
    kernel = grid.normalized(axes, "none", True, np.float64)
    rng = np.random.default_rng(0)
    patches = rng.random([-(-n // 4) for n in size])
    for axis in range(len(size)):
        patches = patches.repeat(4, axis)
    patches = patches[tuple(map(slice, size))].ravel()
    values = np.column_stack([patches, rng.random(len(patches)), np.ones(len(patches))])
    got = grid.filtered(kernel, values)
    exact = reduce(np.kron, map(gaussian, size, sigmas)) @ values
    found = [
        max(np.linalg.norm(a - b, axis=0) / np.linalg.norm(b, axis=0))
        for a, b in ((got, exact), (got / got[:, -1:], exact / exact[:, -1:]))
    ]
    print(f"raw {found[0]:.5f}, normalised {found[1]:.5f}")
    assert found[0] < raw and found[1] < normalised


def definition(axes, normalization, self_term, pixel):
    """N K as a matrix, from the matrices of the axes. [N, N]"""
    matrix = reduce(np.kron, map(grid.matrix, axes))
    if pixel is not None:
        matrix = matrix[np.ix_(pixel, pixel)]
    return dense.normalized(matrix, normalization, self_term)


def applied(kernel, values):
    """N K values, from the parts that engines are given."""
    before, after, diagonal = (
        default if scale is None else scale[:, None]
        for scale, default in ((kernel.before, 1), (kernel.after, 1), (kernel.diagonal, 0))
    )
    scaled = before * values
    return after * (grid.filtered(kernel, scaled) - diagonal * scaled)


OPERATORS = given(
    size=st.sampled_from(((1, 1), (1, 23), (9, 14), (20, 1), (3, 9, 10), (1, 1, 1))),
    sigma=st.sampled_from((0.05, 0.8, 1.9, 3.0, 20.0)),
    seed=st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@OPERATORS
def test_normalized_is_its_definition(normalization, self_term, masked, size, sigma, seed):
    rng = np.random.default_rng(seed)
    axes = [grid.axis(n, sigma * rng.uniform(0.5, 2)) for n in size]
    pixel = None
    if masked:
        pixel = np.flatnonzero(rng.random(np.prod(size)) < 0.5).astype(np.int32)
    kernel = grid.normalized(axes, normalization, self_term, np.float64, pixel)
    matrix = definition(axes, normalization, self_term, pixel)
    values = rng.normal(size=(len(matrix), 3))
    want = matrix @ values
    np.testing.assert_allclose(
        applied(kernel, values), want, rtol=0, atol=1e-12 * max(1, np.abs(want).max(initial=0))
    )


@pytest.mark.parametrize("masked", [False, True])
@OPERATORS
def test_rows_normalised_after_the_filter_keep_constants(masked, size, sigma, seed):
    axes = [grid.axis(n, sigma) for n in size]
    pixel = None
    if masked:
        chosen = np.random.default_rng(seed).random(np.prod(size)) < 0.5
        pixel = np.flatnonzero(chosen).astype(np.int32)
    kernel = grid.normalized(axes, "after", True, np.float64, pixel)
    ones = np.ones((np.prod(size) if pixel is None else len(pixel), 1))
    np.testing.assert_allclose(applied(kernel, ones), ones, rtol=1e-11)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@OPERATORS
def test_transposed_is_the_adjoint(normalization, size, sigma, seed):
    rng = np.random.default_rng(seed)
    axes = [grid.axis(n, sigma) for n in size]
    kernel = grid.normalized(axes, normalization, False, np.float64)
    x, y = rng.normal(size=(2, np.prod(size), 1))
    there, back = (y * applied(kernel, x)).sum(), (x * applied(kernel.transposed(), y)).sum()
    assert abs(there - back) < 1e-11 * max(1, np.abs(x).sum() * np.abs(y).sum())


@pytest.mark.parametrize("self_term", [True, False])
def test_a_long_axis_takes_memory_that_is_linear_in_it(both_backends, self_term):
    """A [60000, 60000] matrix would have 29 GB."""
    rng = np.random.default_rng(0)
    logits, image = rng.normal(size=(2, 1, 60000)), 255 * rng.random((1, 60000, 1))
    mask = rng.random((1, 60000)) < 0.7
    params = CRFParams(self_term=self_term)
    tracemalloc.start()
    try:
        kernel = grid.normalized(
            [grid.axis(n, 3.0) for n in mask.shape], "after", self_term, np.float64,
            np.flatnonzero(mask).astype(np.int32),
        )  # fmt: skip
        grid.filtered(kernel, logits[:, mask].T)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    native, numba = (
        mean_field(logits, image, params, iterations=2, mask=mask, backend=name)
        for name in ("cpu", "numba")
    )
    assert_near(native, numba, MEAN_FIELD_TOLERANCE[np.float64])


def test_normaliser_costs_nothing_per_pixel_without_mask():
    axes = [grid.axis(n, 3.0) for n in (40, 50)]
    for normalization in NORMALIZATIONS:
        kernel = grid.normalized(axes, normalization, True, np.float32)
        assert (kernel.before, kernel.after, kernel.diagonal) == (None, None, None)
    scaled = grid.normalized(axes, "after", False, np.float32)
    assert scaled.after.dtype == scaled.diagonal.dtype == np.float32


# --- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("labels", [2, 3, 21])
@pytest.mark.parametrize(
    ("size", "theta_gamma", "spacing"),
    [((1, 1), 3, (1, 1)), ((13, 37), 3, (1, 1)), ((23, 17), 1, (1, 1)), ((21, 30), 4, (2, 0.5)),
     ((4, 9, 13), 2, (3, 1, 1))],
    ids=["pixel", "broad", "narrow", "spacing", "volume"],
)  # fmt: skip
def test_mean_field_runs_the_matrices_of_the_grid(
    backend, dtype, size, theta_gamma, spacing, labels, normalization, self_term, masked
):
    """The smoothness kernel alone, against the same mean field over dense matrices."""
    logits, image = random_problem(labels, size, 1, dtype, seed=labels)
    mask, pixel = None, None
    if masked:
        mask = np.random.default_rng(1).random(size) < 0.6
        mask.flat[0] = True
        pixel = np.flatnonzero(mask)
    weight = 0.1 if normalization == "none" else 2.0
    params = CRFParams(
        3, 3, theta_gamma, 0, weight, normalization=normalization, self_term=self_term
    )
    got = mean_field(
        logits, image, params, iterations=3, mask=mask, spacing=spacing, backend=backend
    )
    axes = [grid.axis(n, theta_gamma / s) for n, s in zip(size, spacing, strict=True)]
    matrix = definition(axes, normalization, self_term, pixel)
    rows = logits.reshape(labels, -1).T.astype(np.float64)
    want = rows.copy()
    points = slice(None) if pixel is None else pixel
    want[points] = dense.mean_field(rows[points], [matrix], [weight], 1 - np.eye(labels), 3)
    assert_near(got, want.T.reshape(logits.shape), MEAN_FIELD_TOLERANCE[dtype])


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_flipped_images_give_flipped_results(backend, sigma):
    """A lattice prefers some directions; the grid does not."""
    logits, image = random_problem(3, (14, 19))
    params = CRFParams(3, 3, sigma, 0, 3)
    want = mean_field(logits, image, params, backend=backend)
    for flip in (np.s_[:, ::-1], np.s_[:, :, ::-1]):
        flipped = mean_field(logits[flip].copy(), image, params, backend=backend)
        assert_near(flipped[flip], want, 1e-9)
    turned = mean_field(logits.swapaxes(1, 2).copy(), image.swapaxes(0, 1), params, backend=backend)
    assert_near(turned.swapaxes(1, 2), want, 1e-12)
