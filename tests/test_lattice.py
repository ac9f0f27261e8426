"""PermutohedralLattice: the native engine against the Numba one, and both against the truth."""

import copy
import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import (
    ENGINE_TOLERANCE,
    FEATURE_KINDS,
    FILTER_TOLERANCE,
    elevation_scale,
    features,
    picture,
)

from densecrf_rnn import BackendUnavailableError, PermutohedralLattice, _limits, engines, kernels
from densecrf_rnn.params import QUALITIES
from densecrf_rnn.reference import dense
from densecrf_rnn.reference import lattice as reference_lattice

DIMS = (*range(1, 9), 16)
SIZES = (1, 2, 7, 97, 1009)
SEVERAL_CHUNKS = 9001  # the native engine cuts points by 4,096 and vertices by 1,024


def pair(rows, quality="standard"):
    """The same lattice by the native engine and by Numba."""
    return [PermutohedralLattice(rows, quality=quality, backend=b) for b in ("cpu", "numba")]


def assert_same_plan(a, b):
    """The same simplices, and one row for what is one vertex, whatever the rows' order."""
    assert a.num_vertices == b.num_vertices
    np.testing.assert_array_equal(a._plan.weight, b._plan.weight)
    pairs = np.stack([a._plan.vertex.ravel(), b._plan.vertex.ravel()])
    apart = [len(np.unique(rows)) for rows in pairs]
    assert apart == [np.unique(pairs, axis=1).shape[1]] * 2


def assert_same_filter(native, reference, values):
    """Both ways; an error counts relative to the sum of magnitudes, which cannot cancel."""
    tolerance = ENGINE_TOLERANCE[values.dtype.type]
    for transpose in (False, True):
        got = native.filter(values, transpose=transpose)
        want = reference.filter(values, transpose=transpose)
        scale = reference.filter(np.abs(values), transpose=transpose)
        assert got.dtype == values.dtype and got.shape == values.shape
        assert (np.abs(got - want) <= tolerance * scale).all()


# --- native against Numba ------------------------------------------------------------------------


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("dims", DIMS)
@given(
    quality=st.sampled_from(QUALITIES),
    kind=st.sampled_from(FEATURE_KINDS),
    points=st.sampled_from(SIZES),
    channels=st.sampled_from((0, 1, 2, 3, 21)),
    seed=st.integers(0, 2**32 - 1),
)
@example(quality="standard", kind="ties", points=1009, channels=3, seed=0)
@example(quality="filled", kind="ties", points=97, channels=3, seed=0)
def test_native_lattice_equals_numba(dtype, dims, quality, kind, points, channels, seed):
    if quality == "filled" and dims == 16:
        points = min(points, 97)  # 34 neighbours of each vertex
    native, reference = pair(features(kind, points, dims, dtype, seed), quality)
    assert_same_plan(native, reference)
    values = np.random.default_rng(seed).normal(size=(points, channels)).astype(dtype)
    assert_same_filter(native, reference, values)
    response = reference.self_response()
    np.testing.assert_allclose(native.self_response(), response, ENGINE_TOLERANCE[dtype])


def key_words(rows):
    """64-bit words in the key of a vertex: a field for the remainder and one for each quotient.

    Restated from the comment on KeyLayout in cpp/core/key.hpp: a field is as wide as its range
    needs, with room for one step past either end of a simplex, and never crosses a word.
    """
    dims = rows.shape[1]
    scaled = rows * elevation_scale(dims)
    elevated = [scaled[:, j:].sum(1) - j * scaled[:, j - 1] for j in range(dims)]
    quotients = np.column_stack(elevated) / (dims + 1)
    words, used = 1, dims.bit_length()
    for extent in np.ptp(quotients, axis=0):
        bits = int(extent + 3).bit_length()
        words, used = (words + 1, bits) if used + bits > 64 else (words, used + bits)
    return words


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize(("dims", "reach", "words"), [(3, 5e7, 2), (5, 2e6, 3), (16, 7e6, 8)])
def test_lattice_keys_wider_than_64_bits_keep_vertices_apart(dims, reach, words):
    """Clusters so far apart that the quotients of a vertex do not fit one word, or two."""
    rng = np.random.default_rng(dims)
    centres = rng.uniform(-reach, reach, (20, dims))
    rows = (centres[:, None] + rng.normal(size=(20, 50, dims))).reshape(-1, dims)
    assert key_words(rows) == words
    native, reference = pair(rows)
    assert_same_plan(native, reference)
    assert_same_filter(native, reference, rng.normal(size=(1000, 3)))


@pytest.mark.usefixtures("both_backends")
def test_lattice_with_several_chunks_equals_numba(dtype):
    rows = features("normal", SEVERAL_CHUNKS, 5, dtype)
    native, reference = pair(rows)
    assert_same_plan(native, reference)
    values = np.random.default_rng(1).normal(size=(len(rows), 4)).astype(dtype)
    assert_same_filter(native, reference, values)


@pytest.mark.parametrize("dims", [2, 5])
def test_filter_gives_equal_bits_for_any_number_of_threads(backend, dtype, dims):
    rows = features("normal", SEVERAL_CHUNKS, dims, dtype) * (20 if dims == 2 else 1)
    values = np.random.default_rng(2).normal(size=(len(rows), 3)).astype(dtype)
    serial = PermutohedralLattice(rows, backend=backend, threads=1)
    assert serial.num_vertices > 2048
    for threads in (2, 3, 7):
        lattice = PermutohedralLattice(rows, backend=backend, threads=threads)
        assert_same_plan(lattice, serial)
        for transpose in (False, True):
            np.testing.assert_array_equal(
                lattice.filter(values, transpose=transpose),
                serial.filter(values, transpose=transpose),
            )
        np.testing.assert_array_equal(lattice.self_response(), serial.self_response())


# --- properties ----------------------------------------------------------------------------------

CLOUDS = given(
    quality=st.sampled_from(QUALITIES),
    kind=st.sampled_from(FEATURE_KINDS),
    points=st.sampled_from((1, 2, 7, 97)),
    dims=st.sampled_from(DIMS),
    seed=st.integers(0, 2**32 - 1),
)


def cloud(kind, points, dims, quality, seed, backend="numba"):
    rows = features(kind, points, dims, np.float64, seed)
    return PermutohedralLattice(rows, quality=quality, backend=backend)


@CLOUDS
def test_filter_transpose_is_the_adjoint(backend, quality, kind, points, dims, seed):
    rng = np.random.default_rng(seed)
    lattice = cloud(kind, points, dims, quality, seed, backend)
    x, y = rng.normal(size=(2, points, 3))
    left, right = (lattice.filter(x) * y).sum(), (x * lattice.filter(y, transpose=True)).sum()
    scale = (lattice.filter(np.abs(x)) * np.abs(y)).sum()
    assert abs(left - right) <= 1e-12 * scale


@CLOUDS
def test_lattice_weights_are_barycentric(backend, dtype, quality, kind, points, dims, seed):
    rows = features(kind, points, dims, dtype, seed)
    weight = PermutohedralLattice(rows, quality=quality, backend=backend)._plan.weight
    # Rounding shows in proportion to the coordinates, which reach some hundred times the features.
    rounding = np.finfo(dtype).eps * (1 + np.abs(rows).max()) * 20 * dims
    assert weight.min() >= -rounding
    np.testing.assert_allclose(weight.sum(1), 1, rtol=0, atol=rounding)


@CLOUDS
def test_filter_keeps_constants_once_rows_are_normalised(
    backend, quality, kind, points, dims, seed
):
    lattice = cloud(kind, points, dims, quality, seed, backend)
    constants = np.array([[1.0, -2.5, 1e3]])
    smoothed = lattice.filter(np.repeat(constants, points, axis=0))
    np.testing.assert_allclose(smoothed / smoothed[:, :1], constants.repeat(points, 0), 1e-12)


@CLOUDS
def test_self_response_is_the_diagonal_of_the_filter(backend, quality, kind, points, dims, seed):
    lattice = cloud(kind, points, dims, quality, seed, backend)
    matrix = lattice.filter(np.eye(points))
    np.testing.assert_allclose(lattice.self_response(), np.diag(matrix), 1e-12)


@given(
    points=st.sampled_from(SIZES), dims=st.sampled_from(DIMS), seed=st.integers(0, 2**32 - 1)
)
def test_lattice_of_points_far_apart_leaves_them_alone(backend, points, dims, seed):
    """A million deviations apart, so each point hears itself only."""
    rows = features("normal", points, dims, np.float64, seed)
    rows[:, 0] += 1e6 * np.arange(points) / 10
    lattice = PermutohedralLattice(rows, backend=backend)
    values = np.random.default_rng(seed).normal(size=(points, 2))
    alone = lattice.self_response()[:, None] * values
    np.testing.assert_allclose(lattice.filter(values), alone, 1e-12)


@pytest.mark.parametrize(("theta", "theta_guide", "dims", "rms", "largest"), FILTER_TOLERANCE)
def test_filter_is_near_the_exact_gaussian(backend, theta, theta_guide, dims, rms, largest):
    image = picture(40, 50)
    positions = kernels.positions(image.shape[:2], "xy", (1.0, 1.0), np.float64)
    rows = kernels.Kernel(theta, theta_guide).features(positions, image)
    assert rows.shape[1] == dims
    noise = np.random.default_rng(0).random((len(rows), 2))
    ramp = np.broadcast_to(positions[0] / 50, image.shape[:2]).ravel()
    values = np.column_stack([noise, ramp])
    ones = np.ones((len(rows), 1))
    lattice = PermutohedralLattice(rows, backend=backend)
    exact = dense.gaussian_filter(rows, values) / dense.gaussian_filter(rows, ones)
    error = lattice.filter(values) / lattice.filter(ones) - exact
    found = np.sqrt((error**2).mean(0)).max(), np.abs(error).max()
    print(f"rms {found[0]:.4f}, largest {found[1]:.4f}")
    assert found[0] < rms and found[1] < largest


# --- qualities -----------------------------------------------------------------------------------


@CLOUDS
def test_symmetric_and_filled_filters_are_exactly_symmetric(
    backend, quality, kind, points, dims, seed
):
    if quality == "standard":
        quality = "symmetric"
    lattice = cloud(kind, points, dims, quality, seed, backend)
    matrix = lattice.filter(np.eye(points))
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-13, atol=1e-16)
    values = np.random.default_rng(seed).normal(size=(points, 3))
    np.testing.assert_array_equal(lattice.filter(values), lattice.filter(values, transpose=True))


@CLOUDS
def test_symmetric_is_the_mean_of_standard_and_its_transpose(
    backend, quality, kind, points, dims, seed
):
    lattices = [cloud(kind, points, dims, q, seed, backend) for q in ("standard", "symmetric")]
    values = np.random.default_rng(seed).random((points, 3))
    standard, symmetric = lattices
    assert symmetric.num_vertices == standard.num_vertices
    mean = (standard.filter(values) + standard.filter(values, transpose=True)) / 2
    np.testing.assert_allclose(symmetric.filter(values), mean, rtol=1e-12)


def vertex_keys(rows):
    """Coordinates of the vertices of the simplices around `rows`, as a set; slow and plain.

    From the definition: a vertex of remainder k has coordinates that are all k modulo d + 1 and
    sum to 0. The simplex around a point has, of each remainder, the one that is nearest.
    """
    dims = rows.shape[1]
    found = set()
    for row in rows * elevation_scale(dims):
        point = np.array([row[j:].sum() - (j * row[j - 1] if j else 0) for j in range(dims + 1)])
        for k in range(dims + 1):
            lowest = np.floor((point - k) / (dims + 1)) * (dims + 1) + k
            up = round(-lowest.sum() / (dims + 1))  # as many coordinates go one step up
            order = np.argsort(lowest - point, kind="stable")
            lowest[order[:up]] += dims + 1
            found.add(tuple(lowest.astype(int)))
    return found


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_filled_adds_every_neighbour_of_the_vertices_that_points_touch(backend, dims):
    rows = features("normal", 23, dims, np.float64)
    touched = vertex_keys(rows)
    ring = {
        tuple(np.array(v) + sense * (1 - (dims + 1) * np.eye(dims + 1, dtype=int)[axis]))
        for v in touched
        for axis in range(dims + 1)
        for sense in (-1, 1)
    }
    standard, filled = (
        PermutohedralLattice(rows, quality=q, backend=backend) for q in ("standard", "filled")
    )
    assert standard.num_vertices == len(touched)
    assert filled.num_vertices == len(touched | ring)


def test_filled_is_nearer_to_the_exact_gaussian(backend):
    """Without normalisation: what is lost at the rim is mass."""
    rows = features("normal", 1009, 5, np.float64)
    values = np.random.default_rng(0).random((len(rows), 3))
    exact = dense.gaussian_filter(rows, values)
    error = {
        quality: np.linalg.norm(
            PermutohedralLattice(rows, quality=quality, backend=backend).filter(values) - exact
        )
        for quality in QUALITIES
    }
    print(error)
    assert error["filled"] < 0.9 * min(error["standard"], error["symmetric"])


# --- gradients -----------------------------------------------------------------------------------
# In float64, by differences over a step that leaves no simplex: inside one the lattice is a
# polynomial in the features, and piecewise smooth as a whole.

STEP = 1e-6
GRADIENTS = given(
    quality=st.sampled_from(QUALITIES),
    dims=st.sampled_from((1, 2, 3, 4, 5, 6, 8)),
    transpose=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


def gradient_problem(quality, dims, seed, points=13):
    """An engine's arrays for points that a few STEPs do not move out of their simplices."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4 * points, dims))
    inside = cloud_of(rows, "standard", "numba")._plan.weight.min(1) > 100 * STEP * (dims + 1)
    rows = rows[inside][:points]
    assert len(rows) == points
    return rows, *rng.normal(size=(2, points, 2)), rng.normal(size=points)


def cloud_of(rows, quality, backend):
    return PermutohedralLattice(rows, quality=quality, backend=backend)


def assert_is_gradient(found, function, at):
    """`found` is the gradient of `function` at `at`, by central differences, entry by entry."""
    want = np.empty_like(at)
    for entry in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[entry] = STEP
        want[entry] = (function(at + step) - function(at - step)) / (2 * STEP)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7 * max(1, np.abs(want).max()))


def with_weight(lattice, weight):
    """The plan of a lattice with other weights on its vertices."""
    return lattice._plan._replace(weight=weight)


@settings(max_examples=15)
@GRADIENTS
def test_filter_weight_gradient_is_that_of_differences(backend, quality, dims, transpose, seed):
    pytest.importorskip("numba")
    rows, values, cotangent, _ = gradient_problem(quality, dims, seed)
    lattice, engine = cloud_of(rows, quality, backend), engines.engine(backend)

    def loss(weight):
        out = np.empty_like(values)
        engine.filter(with_weight(lattice, weight), values, out, transpose, 1)
        return (out * cotangent).sum()

    found = np.empty_like(lattice._plan.weight)
    engine.filter_weight_gradient(lattice._plan, values, cotangent, transpose, found, 2)
    assert_is_gradient(found, loss, lattice._plan.weight)


@settings(max_examples=15)
@GRADIENTS
def test_filter_has_the_feature_gradient_of_differences(backend, quality, dims, transpose, seed):
    pytest.importorskip("numba")
    rows, values, cotangent, _ = gradient_problem(quality, dims, seed)
    lattice, engine = cloud_of(rows, quality, backend), engines.engine(backend)

    def loss(rows):
        return (cloud_of(rows, quality, backend).filter(values, transpose=transpose)
                * cotangent).sum()  # fmt: skip

    d_weight, found = np.empty_like(lattice._plan.weight), np.empty_like(rows)
    engine.filter_weight_gradient(lattice._plan, values, cotangent, transpose, d_weight, 2)
    engine.feature_gradient(rows, d_weight, found, 2)
    assert_is_gradient(found, loss, rows)


@settings(max_examples=15)
@GRADIENTS
def test_self_response_has_the_gradients_of_differences(backend, quality, dims, transpose, seed):
    pytest.importorskip("numba")
    rows, _, _, cotangent = gradient_problem(quality, dims, seed)
    lattice, engine = cloud_of(rows, quality, backend), engines.engine(backend)

    def loss_of_weight(weight):
        out = np.empty(len(rows))
        engine.self_response(with_weight(lattice, weight), out, 1)
        return (out * cotangent).sum()

    def loss(rows):
        return (cloud_of(rows, quality, backend).self_response() * cotangent).sum()

    d_weight, found = np.empty_like(lattice._plan.weight), np.empty_like(rows)
    engine.self_response_gradient(lattice._plan, cotangent, d_weight, 2)
    assert_is_gradient(d_weight, loss_of_weight, lattice._plan.weight)
    engine.feature_gradient(rows, d_weight, found, 2)
    assert_is_gradient(found, loss, rows)


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("dims", [2, 5, 8])
@pytest.mark.parametrize("channels", [1, 3, 21])
def test_native_gradients_equal_those_of_numba(dtype, dims, channels, quality):
    rows = features("normal", SEVERAL_CHUNKS, dims, dtype)
    rng = np.random.default_rng(0)
    values, cotangent = rng.normal(size=(2, len(rows), channels)).astype(dtype)
    found = []
    for lattice in pair(rows, quality):
        engine, plan = engines.engine(lattice.backend), lattice._plan
        of_filter, of_diagonal = np.empty_like(plan.weight), np.empty_like(plan.weight)
        of_rows = np.empty_like(rows)
        engine.filter_weight_gradient(plan, values, cotangent, False, of_filter, 2)
        engine.self_response_gradient(plan, cotangent[:, 0].copy(), of_diagonal, 2)
        engine.feature_gradient(rows, of_filter, of_rows, 2)
        found.append((of_filter, of_diagonal, of_rows))
    for native, reference in zip(*found, strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(native / scale, reference / scale, atol=ENGINE_TOLERANCE[dtype])


# --- small and large -----------------------------------------------------------------------------


def test_lattice_of_no_points_filters_nothing(backend, dtype):
    lattice = PermutohedralLattice(np.empty((0, 3), dtype), backend=backend)
    assert lattice.num_vertices == 0
    assert lattice.filter(np.empty((0, 2), dtype)).shape == (0, 2)
    assert lattice.self_response().shape == (0,)


def test_lattice_of_one_point_has_one_simplex(backend, dtype):
    lattice = PermutohedralLattice(np.full((1, 4), 0.3, dtype), backend=backend)
    assert lattice.num_vertices == 5
    assert "1 points, 4 features, 5 vertices" in repr(lattice)


# --- arrays as they come -------------------------------------------------------------------------


def layouts(array):
    """The same numbers in other memory layouts."""
    read_only = array.copy()
    read_only.flags.writeable = False
    padded = np.zeros((2 * len(array), array.shape[1] + 3), array.dtype)
    padded[::2, 1:-2] = array
    return {
        "read-only": read_only,
        "Fortran": np.asfortranarray(array),
        "strided": padded[::2, 1:-2],
        "reversed": array[::-1].copy()[::-1],
    }


def test_filter_takes_any_memory_layout_and_changes_no_input(backend, dtype):
    rows = features("normal", 97, 3, dtype)
    values = np.random.default_rng(3).normal(size=(97, 4)).astype(dtype)
    want = PermutohedralLattice(rows, backend=backend).filter(values)
    for (layout, laid_rows), laid_values in zip(
        layouts(rows).items(), layouts(values).values(), strict=True
    ):
        got = PermutohedralLattice(laid_rows, backend=backend).filter(laid_values)
        np.testing.assert_array_equal(got, want, err_msg=layout)
        np.testing.assert_array_equal(laid_rows, rows, err_msg=layout)
        np.testing.assert_array_equal(laid_values, values, err_msg=layout)


def test_lattice_keeps_no_hold_on_its_features(backend):
    rows = features("normal", 97, 3, np.float64)
    values = np.ones((97, 1))
    lattice = PermutohedralLattice(rows, backend=backend)
    want = lattice.filter(values)
    rows[:] = 0
    np.testing.assert_array_equal(lattice.filter(values), want)


# --- threads and processes -----------------------------------------------------------------------


def test_one_lattice_serves_many_python_threads(backend):
    rows = features("normal", SEVERAL_CHUNKS, 3, np.float32)
    lattice = PermutohedralLattice(rows, backend=backend, threads=3)
    rng = np.random.default_rng(4)
    inputs = [rng.normal(size=(len(rows), 2)).astype(np.float32) for _ in range(12)]
    want = [lattice.filter(values) for values in inputs]
    with ThreadPoolExecutor(4) as executor:
        for got, expected in zip(executor.map(lattice.filter, inputs), want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_lattices_can_be_built_from_many_python_threads(backend):
    clouds = [features("normal", SEVERAL_CHUNKS, 3, np.float64, seed) for seed in range(6)]

    def build(rows):
        return PermutohedralLattice(rows, backend=backend, threads=2)

    with ThreadPoolExecutor(4) as executor:
        for lattice, rows in zip(executor.map(build, clouds), clouds, strict=True):
            assert_same_plan(lattice, build(rows))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_filter_works_in_a_forked_child(backend):
    """As in a DataLoader: the parent has started worker threads, which a fork does not copy."""
    rows = features("normal", SEVERAL_CHUNKS, 3, np.float64)
    values = np.ones((len(rows), 1))
    lattice = PermutohedralLattice(rows, backend=backend, threads=3)
    want = lattice.filter(values)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work():
        fresh = PermutohedralLattice(rows, backend=backend, threads=3)
        sender.send((lattice.filter(values), fresh.filter(values)))

    child = context.Process(target=work, daemon=True)
    child.start()
    try:
        assert receiver.poll(60), "the child hangs"
        for got in receiver.recv():
            np.testing.assert_array_equal(got, want)
    finally:
        child.join(10)
        child.kill()


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("5,2", 5)])
def test_lattice_threads_default_to_omp_num_threads(monkeypatch, setting, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert engines.default_threads() == threads


@pytest.mark.parametrize("setting", ["", "many", "0", "-2"])
def test_lattice_threads_fall_back_to_the_processors(monkeypatch, setting):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert engines.default_threads() >= 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert engines.default_threads() >= 1


# --- refusals ------------------------------------------------------------------------------------

GOOD = np.zeros((4, 3))
NAN, INFINITY = (np.array([[0.0, bad]]) for bad in (np.nan, -np.inf))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (np.zeros(5), ValueError, r"features has shape \(5,\); it must be \[N, D\]"),
        (np.zeros((2, 3, 4)), ValueError, r"features has shape .*\[N, D\]"),
        (np.zeros((5, 0)), ValueError, "features has 0 columns; a lattice takes 1 to 16"),
        (np.zeros((5, 17)), ValueError, "features has 17 columns; a lattice takes 1 to 16"),
        (np.zeros((5, 2), int), TypeError, "features has dtype int64.*astype"),
        (np.zeros((5, 2), np.float16), TypeError, "features has dtype float16.*astype"),
        (np.zeros((5, 2), ">f4"), TypeError, "features has dtype >f4.*astype"),
        (np.zeros((5, 2), np.complex64), TypeError, "features has dtype complex64"),
        (NAN, ValueError, r"features contains NaN \(1 entry\)"),
        (INFINITY, ValueError, "features contains infinity"),
        ([[0.0, 1.0]], TypeError, "features is list; it must be a NumPy array"),
        (None, TypeError, "features is None; it must be a NumPy array"),
        (np.full((2, 2), 1e6, np.float32), ValueError, "features reach 1e[+]06 .*float64 features"),
        (np.full((2, 2), 1e12), ValueError, "features reach 1e[+]12 .*larger bandwidths"),
    ],
)
def test_lattice_refuses_features(rows, error, message):
    with pytest.raises(error, match=message):
        PermutohedralLattice(rows)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros(4), ValueError, r"values has shape \(4,\); it must be \[N, C\] with N = 4"),
        (np.zeros((3, 2)), ValueError, r"values has shape \(3, 2\).* N = 4"),
        (np.zeros((4, 2), np.float32), TypeError, "values has dtype float32.*astype.'float64'"),
        (np.zeros((4, 2), int), TypeError, "values has dtype int64.*astype.'float64'"),
        (np.full((4, 1), np.nan), ValueError, r"values contains NaN \(4 entries\)"),
        (np.full((4, 1), np.inf), ValueError, "values contains infinity"),
        ([[1.0]] * 4, TypeError, "values is list; it must be a NumPy array"),
    ],
)
def test_filter_refuses_values(backend, values, error, message):
    with pytest.raises(error, match=message):
        PermutohedralLattice(GOOD, backend=backend).filter(values)


@pytest.mark.parametrize("transpose", [1, None, "yes"])
def test_filter_refuses_a_transpose_that_is_not_bool(backend, transpose):
    with pytest.raises(TypeError, match="transpose is .*; it must be True or False"):
        PermutohedralLattice(GOOD, backend=backend).filter(GOOD, transpose=transpose)


@pytest.mark.parametrize(
    ("threads", "error", "message"),
    [
        (0, ValueError, "threads is 0; it must be at least 1"),
        (-1, ValueError, "threads is -1; it must be at least 1"),
        (1.5, TypeError, "threads is float; it must be an integer"),
        (True, TypeError, "threads is True; it must be an integer"),
    ],
)
def test_lattice_refuses_threads(threads, error, message):
    with pytest.raises(error, match=message):
        PermutohedralLattice(GOOD, threads=threads)


@pytest.mark.parametrize("quality", ["best", "", None, 1])
def test_lattice_refuses_an_unknown_quality(quality):
    with pytest.raises(
        ValueError, match="quality is .*; choose from 'standard', 'symmetric', 'filled'$"
    ):
        PermutohedralLattice(GOOD, quality=quality)


@pytest.mark.parametrize("name", ["gpu", "CPU", "", None, 3])
def test_lattice_refuses_an_unknown_backend(name):
    with pytest.raises(BackendUnavailableError, match="cannot run here: .*(choose|string)"):
        PermutohedralLattice(GOOD, backend=name)


def test_lattice_survives_pickling(backend):
    """Workers that are spawned receive what they use by pickle."""
    points = np.random.default_rng(0).normal(size=(40, 3))
    lattice = PermutohedralLattice(points, backend=backend)
    copied = pickle.loads(pickle.dumps(lattice))
    values = np.ones((40, 2))
    np.testing.assert_array_equal(copied.filter(values), lattice.filter(values))


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("points", [0, 2000])
def test_copies_hold_what_the_lattice_uses_and_filter_to_the_same_bits(backend, points, quality):
    rng = np.random.default_rng(0)
    lattice = PermutohedralLattice(rng.normal(size=(points, 5)), quality=quality, backend=backend)
    pickled = pickle.dumps(lattice)
    plan, corners = lattice._plan, 6
    links = 4 * (2 * corners + 2) * lattice.num_vertices  # at most, but for ghosts
    assert len(pickled) < plan.vertex.nbytes + plan.weight.nbytes + 1.1 * links + 4096
    values = rng.normal(size=(points, 3))
    for copied in (pickle.loads(pickled), copy.deepcopy(lattice)):
        assert copied._plan.links.shape == plan.links.shape
        for transpose in (False, True):
            np.testing.assert_array_equal(
                copied.filter(values, transpose=transpose),
                lattice.filter(values, transpose=transpose),
            )
        np.testing.assert_array_equal(copied.self_response(), lattice.self_response())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such arrays are the system's matter")
def test_reserved_memory_may_exceed_the_memory_there_is():
    for _ in range(200):  # 200 TiB do not fit in the address space at once
        array = engines.reserve((2**20, 2**17), np.float64)
        assert array.shape == (2**20, 2**17) and array.flags.writeable
        array[-1, -1] += 1
        assert array[-1, -1] == 1 and array[12345, 678] == 0


def test_reserved_memory_beyond_the_address_space_is_a_memory_error():
    with pytest.raises(MemoryError):
        engines.reserve((2**50,), np.float64)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (5,), (2, 3, 4), (2**26 + 1,)])
def test_reserved_memory_is_zeros(shape, dtype):
    array = engines.reserve(shape, dtype)
    assert array.shape == shape and array.dtype == dtype and not array.any()


# --- constants -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 16])
def test_the_elevation_follows_from_the_variance_of_blur_and_splat(dims):
    """Per feature: steps of the blur in lattice coordinates, and a uniform distribution twice."""
    rows = reference_lattice.elevation_scale(dims, np.float64)
    elevation = np.zeros((dims + 1, dims))  # lattice coordinates of a unit step of each feature
    for j in range(dims):
        elevation[: j + 1, j], elevation[j + 1, j] = rows[j], -(j + 1) * rows[j]
    steps = 1 - (dims + 1) * np.eye(dims + 1)  # one per axis; each has the blur weight BLUR_SIDE
    side = reference_lattice.BLUR_SIDE
    blur = steps.T @ steps * 2 * side / (1 + 2 * side)
    on_hyperplane = np.eye(dims + 1) - 1 / (dims + 1)
    splat = on_hyperplane * (dims + 1) ** 2 / 12
    unit = np.linalg.pinv(elevation)
    np.testing.assert_allclose(unit @ (blur + 2 * splat) @ unit.T, np.eye(dims), atol=1e-12)


def test_constants_of_the_reference_equal_those_of_the_engines():
    assert reference_lattice.BLUR_SIDE == _limits.BLUR_SIDE
    assert reference_lattice.FILTER_VARIANCE == _limits.FILTER_VARIANCE
