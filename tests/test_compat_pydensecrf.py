"""pydensecrf's interface: its scripts, by changed import alone, and what the real package answers.

What it answers is stored (tests/data/pydensecrf/README.md says how), and asked for where it is
installed.
"""

import importlib
import inspect
import itertools
import re
from pathlib import Path

import numpy as np
import pydensecrf_scripts as scripts
import pytest
from hypothesis import given
from hypothesis import strategies as st

import densecrf_rnn.compat.pydensecrf as dcrf
from densecrf_rnn import PermutohedralLattice, engines, refine
from densecrf_rnn.compat.pydensecrf import utils
from densecrf_rnn.energy import free_energy
from densecrf_rnn.params import CRFParams

# Marginals differ from pydensecrf's by float32's rounding. Measured: 2.3e-5 on its pictures, 9e-7
# on the small problems.
PICTURE_TOLERANCE, SMALL_TOLERANCE = 5e-5, 5e-6
# Its sums over all pixels run in float32. Measured: 2e-5.
KL_TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def stored():
    with np.load(scripts.RESULTS) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def real():
    """The package itself: (pydensecrf.densecrf, pydensecrf.utils)."""
    pytest.importorskip("pydensecrf")
    return tuple(importlib.import_module(f"pydensecrf.{name}") for name in ("densecrf", "utils"))


def crf_of(size, labels=2, seed=0):
    """A CRF with random energies and one kernel."""
    rng = np.random.default_rng(seed)
    d = dcrf.DenseCRF(size, labels)
    d.setUnaryEnergy(rng.normal(size=(labels, size)).astype(np.float32))
    d.addPairwiseEnergy(rng.normal(size=(3, size)).astype(np.float32), 2.0)
    return d


# --- the published examples ----------------------------------------------------------------------


@pytest.mark.parametrize("use_2d", [False, True], ids=["generic", "2d"])
@pytest.mark.parametrize("image, annotation", scripts.PICTURES, ids=lambda name: name)
def test_the_published_example_gives_the_labels_of_pydensecrf(stored, image, annotation, use_2d):
    pytest.importorskip("skimage")
    given = scripts.picture(image), scripts.picture(annotation)
    found = scripts.inference_example(dcrf, utils, *given, use_2d)
    name = f"{annotation} {'2d' if use_2d else 'generic'}"
    labels = found["marginals"].argmax(0)
    assert (labels != stored[name]).sum() == 0
    assert (found["by steps"].argmax(0) != stored[name]).sum() == 0
    np.testing.assert_allclose(found["kl"], stored[f"{name} kl"], rtol=KL_TOLERANCE)


@pytest.mark.parametrize("stem", ["1", "3"])
def test_the_published_example_gives_the_published_picture(stem):
    """As the script stands; with use_2d, pydensecrf itself is some dozen pixels away from it."""
    pytest.importorskip("skimage")
    given = scripts.picture(f"im{stem}"), scripts.picture(f"anno{stem}")
    found = scripts.inference_example(dcrf, utils, *given, use_2d=False)
    want = scripts.coded(scripts.picture(f"out{stem}"))
    assert (found["codes"] != want).sum() == 0


def test_the_published_notebook_gives_the_labels_of_pydensecrf(stored):
    for name, q in scripts.box_example(dcrf, utils).items():
        assert (q.argmax(0) != stored[f"box {name}"]).sum() == 0


def test_volumes_have_the_marginals_of_pydensecrf(stored):
    """Though at round multiples of sdims points lie on faces, where the last bit decides."""
    q = scripts.volume_example(dcrf, utils)
    np.testing.assert_allclose(q[0], stored["volume"], atol=SMALL_TOLERANCE)


@pytest.mark.parametrize(
    "case",
    list(itertools.product(scripts.SIZES, scripts.COMPATS, scripts.NORMALIZATIONS)),
    ids=lambda case: " ".join(map(str, case)),
)
def test_every_option_gives_the_marginals_of_pydensecrf(stored, case):
    found, _ = scripts.small_problem(dcrf, utils, *case)
    want = stored["small " + " ".join(map(str, case))]
    np.testing.assert_allclose(found, want, atol=SMALL_TOLERANCE)


# --- beside the package itself -------------------------------------------------------------------


def test_pictures_have_the_marginals_of_the_package(real):
    given = scripts.picture("im1"), scripts.picture("anno1")
    found, want = (
        scripts.inference_example(*modules, *given, use_2d=True)
        for modules in ((dcrf, utils), real)
    )
    for name in ("marginals", "by steps"):
        np.testing.assert_allclose(found[name], want[name], atol=PICTURE_TOLERANCE)


@given(
    size=st.integers(1, 70),
    labels=st.integers(1, 5),
    dims=st.integers(1, 6),
    form=st.sampled_from(scripts.COMPATS),
    normalization=st.sampled_from(scripts.NORMALIZATIONS),
)
def test_any_problem_has_the_marginals_of_the_package(
    real, size, labels, dims, form, normalization
):
    case = (size, form, normalization, labels, max(dims, 2))
    (found, kl), (want, want_kl) = (
        scripts.small_problem(*modules, *case) for modules in ((dcrf, utils), real)
    )
    np.testing.assert_allclose(found, want, atol=SMALL_TOLERANCE)
    assert kl == pytest.approx(want_kl, rel=KL_TOLERANCE, abs=1e-4)


def test_every_public_name_of_the_package_is_here(real):
    module, helpers = real
    for name in vars(module):
        if not name.startswith("_") and name not in ("Number", "eigen"):
            assert hasattr(dcrf, name) and hasattr(dcrf.densecrf, name), name
    for kind in ("DenseCRF", "DenseCRF2D"):
        methods = {name for name in dir(getattr(module, kind)) if not name.startswith("_")}
        assert methods <= set(dir(getattr(dcrf, kind)))
    for name in ("KernelType", "NormalizationType"):
        ours, theirs = getattr(dcrf, name), getattr(module, name)
        assert {m.name: int(m) for m in ours} == {m.name: int(m) for m in theirs}
    for name, function in inspect.getmembers(helpers, inspect.isfunction):
        if function.__module__ != helpers.__name__ or name.startswith("_"):
            continue
        ours, theirs = (
            [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (getattr(utils, name), function)
        )
        assert ours == theirs, name


LABEL_MAPS = st.integers(2, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=12))
)


@given(labels=LABEL_MAPS, gt_prob=st.floats(0.01, 0.99), zero_unsure=st.booleans())
def test_energies_of_labels_have_the_bits_of_the_package(real, labels, gt_prob, zero_unsure):
    count, values = labels
    values = np.array(values).reshape(1, -1)
    if not zero_unsure:
        values = np.minimum(values, count - 1)
    found, want = (
        u.unary_from_labels(values, count, gt_prob, zero_unsure) for u in (utils, real[1])
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, want)


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from((np.float32, np.float64)),
    scale=st.none() | st.floats(0.01, 1),
    clip=st.none() | st.sampled_from((1e-5, 0.1)),
)
def test_energies_of_probabilities_have_the_bits_of_the_package(real, seed, dtype, scale, clip):
    sm = np.random.default_rng(seed).dirichlet(np.ones(3), (4, 5)).transpose(2, 0, 1)
    sm = sm.astype(dtype)
    found, want = (u.unary_from_softmax(sm, scale, clip) for u in (utils, real[1]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, want)


IMAGES = [
    ((6, 7, 3), 2, (3, 5), (13, 7.5, 2)),
    ((6, 7, 3), 2, (3, 5), 13),
    ((3, 6, 7), 0, (3, 5), 13),
    ((6, 7), -1, (3, 5), 13),
    ((2, 6, 7), -1, (1, 3, 5), (13,)),
    ((4, 6, 7, 2), 3, (1, 3, 5), (0.01, 2)),
    ((4, 2, 6, 7), -3, (1, 3, 5), 0.1),
]


@pytest.mark.parametrize("shape, chdim, sdims, schan", IMAGES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_features_have_the_bits_of_the_package(real, shape, chdim, sdims, schan, dtype):
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(dtype)
    found, want = (
        u.create_pairwise_bilateral(sdims, schan, image, chdim) for u in (utils, real[1])
    )
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, want)
    size = [n for axis, n in enumerate(shape) if chdim == -1 or axis != chdim % len(shape)]
    found, want = (u.create_pairwise_gaussian(sdims, size) for u in (utils, real[1]))
    np.testing.assert_array_equal(found, want)


def test_what_is_not_given_a_deviation_is_not_divided_as_in_the_package(real):
    """Scripts do that: schan=(0.01,) for an RGB image."""
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 3))
    with pytest.warns(UserWarning, match="schan has 1 numbers for 3") as caught:
        found = utils.create_pairwise_bilateral((3, 3), (0.01,), image, chdim=2)
    assert caught[0].filename == __file__
    want = real[1].create_pairwise_bilateral((3, 3), (0.01,), image, chdim=2)
    np.testing.assert_array_equal(found, want)
    with pytest.warns(UserWarning, match="sdims has 1 numbers for 2"):
        found = utils.create_pairwise_bilateral((3,), 13, image, chdim=2)
    np.testing.assert_array_equal(
        found, real[1].create_pairwise_bilateral((3,), 13, image, chdim=2)
    )


def test_counts_may_be_whole_floats_as_in_the_package(real):
    unary = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    found = []
    for package in (dcrf, real[0]):
        for kind in (float, np.float32, int):
            d = package.DenseCRF2D(kind(4), kind(3), kind(2))
            d.setUnaryEnergy(unary)
            d.addPairwiseGaussian(sxy=3, compat=3)
            found.append(np.array(d.inference(kind(2))))
            assert package.DenseCRF(kind(12), kind(2)) is not None
    for q in found[1:]:
        np.testing.assert_allclose(q, found[0], atol=SMALL_TOLERANCE)


# --- the same without it -------------------------------------------------------------------------


def test_all_ways_to_import_it_give_the_same_names():
    from densecrf_rnn.compat import pydensecrf
    from densecrf_rnn.compat.pydensecrf import densecrf

    assert pydensecrf.DenseCRF is densecrf.DenseCRF is dcrf.DenseCRF
    assert pydensecrf.utils is utils
    for name in dcrf.__all__:
        assert hasattr(dcrf, name)


def test_probabilities_of_labels_are_those_that_were_asked_for():
    """The example of pydensecrf's own tests."""
    labels = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    u, p, n = 1 / 3, 0.8, 0.1
    want = [[u, p, n, n, n, n, p, u], [u, n, p, n, n, p, n, u], [u, n, n, p, p, n, n, u]]
    np.testing.assert_allclose(np.exp(-utils.unary_from_labels(labels, 3, p)), want, rtol=1e-6)
    with pytest.warns(DeprecationWarning, match="use unary_from_labels") as caught:
        old = utils.compute_unary(labels, 3, GT_PROB=p)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(old, utils.unary_from_labels(labels, 3, p))


def test_the_old_name_of_unary_from_softmax_clips_nothing():
    sm = np.array([[0.0, 0.25], [1.0, 0.75]])
    with pytest.warns(DeprecationWarning, match="use unary_from_softmax"):
        found = utils.softmax_to_unary(sm)
    np.testing.assert_allclose(np.exp(-found), sm, rtol=1e-6)
    with pytest.warns(DeprecationWarning):
        found = utils.softmax_to_unary(sm, GT_PROB=0.5)
    np.testing.assert_allclose(np.exp(-found), 0.5 * sm + 0.25, rtol=1e-6)


@pytest.mark.parametrize("use_numba", [False, True])
@pytest.mark.parametrize("size", [42, 44])
def test_steps_are_the_iterations_of_inference(monkeypatch, use_numba, size):
    if use_numba:  # an engine that only filters
        if engines.why_unavailable("numba") is not None:
            pytest.skip("numba is not installed")
        engine = engines.engine("numba")
        monkeypatch.setattr(engines, "engine", lambda name: engine)
        monkeypatch.setattr(engines, "fused", lambda engine: None)
    d = crf_of(size, labels=3)
    Q, tmp1, tmp2 = d.startInference()
    seen = np.asarray(Q)
    for steps in range(4):
        np.testing.assert_allclose(seen, d.inference(steps), atol=SMALL_TOLERANCE)
        np.testing.assert_allclose(seen.sum(0), 1, atol=1e-5)
        assert d.stepInference(Q, tmp1, tmp2) is None


def test_more_kernels_than_the_engine_takes_at_once_are_filtered_one_by_one():
    rng = np.random.default_rng(0)
    u, features = (rng.normal(size=(2, 30)).astype(np.float32) for _ in range(2))
    d, single = dcrf.DenseCRF(30, 2), dcrf.DenseCRF(30, 2)
    d.setUnaryEnergy(u)
    single.setUnaryEnergy(u)
    single.addPairwiseEnergy(features, 9 * 0.5)
    for _ in range(9):
        d.addPairwiseEnergy(features, 0.5)
    np.testing.assert_allclose(d.inference(5), single.inference(5), atol=SMALL_TOLERANCE)


def test_without_energies_marginals_are_uniform_but_start_at_nought():
    d = dcrf.DenseCRF(5, 2)
    d.addPairwiseEnergy(np.zeros((1, 5), np.float32), 3)
    np.testing.assert_allclose(d.inference(3), 0.5)
    Q, tmp1, tmp2 = d.startInference()
    assert not Q.any()
    d.stepInference(Q, tmp1, tmp2)
    np.testing.assert_allclose(Q, 0.5)


def test_without_kernels_marginals_are_those_of_the_energies():
    u = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    d = dcrf.DenseCRF(7, 3)
    d.setUnaryEnergy(u)
    want = np.exp(-u) / np.exp(-u).sum(0)
    for iterations in (0, 4):
        found = d.inference(iterations)
        np.testing.assert_allclose(found, want, rtol=1e-5)
        assert found.dtype == np.float32 and found.flags.c_contiguous
    assert d.klDivergence(want) == pytest.approx((want * (np.log(want) + u)).sum(), rel=1e-5)


def test_a_label_of_infinite_energy_is_ruled_out():
    d = crf_of(20, labels=3)
    u = np.zeros((3, 20), np.float32)
    u[1] = np.inf
    d.setUnaryEnergy(u)
    Q, tmp1, tmp2 = d.startInference()
    d.stepInference(Q, tmp1, tmp2)
    for q in (Q, d.inference(3)):
        assert not q[1].any()
        np.testing.assert_allclose(q.sum(0), 1, rtol=1e-5)
    assert np.isfinite(d.klDivergence(Q))


def test_one_label_is_certain():
    d = crf_of(6, labels=1)
    np.testing.assert_allclose(d.inference(3), 1)


def test_energies_are_set_in_each_way_and_the_last_one_counts():
    rng = np.random.default_rng(0)
    weights, f = (rng.normal(size=s).astype(np.float32) for s in ((2, 4), (4, 9)))
    d = dcrf.DenseCRF(9, 2)
    found = []
    for setting in (
        lambda: d.setUnary(dcrf.LogisticUnary(weights, f)),
        lambda: d.setUnaryEnergy(weights, f),
        lambda: d.setUnary(dcrf.ConstUnary(weights @ f)),
        lambda: d.setUnaryEnergy(weights @ f),
    ):
        d.setUnaryEnergy(np.zeros((2, 9), np.float32))
        setting()
        found.append(d.inference(1))
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-5)


def test_its_figure_counts_pairs_twice_and_ours_once():
    """Of a picture, where densecrf_rnn.energy has the operators too."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(3, 6, 8)).astype(np.float32)
    image = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    d = dcrf.DenseCRF2D(8, 6, 3)
    d.setUnaryEnergy(u.reshape(3, -1))
    d.addPairwiseBilateral(sxy=4, srgb=60, rgbim=image, compat=2)
    Q, tmp1, tmp2 = d.startInference()
    d.stepInference(Q, tmp1, tmp2)
    params = CRFParams(
        theta_alpha=4, theta_beta=60, w_bilateral=2, w_spatial=0, normalization="symmetric"
    )
    refined = np.log(Q).reshape(u.shape)
    wide = Q.astype(np.float64)
    # Ours counts the cost of different labels, pydensecrf the gain of equal ones.
    rows = np.stack(np.mgrid[:6, :8][::-1]).reshape(2, -1) / 4
    rows = np.concatenate([rows, image.reshape(-1, 3).T / 60]).T
    lattice = PermutohedralLattice(np.ascontiguousarray(rows, dtype=np.float64))
    scale = 1 / np.sqrt(lattice.filter(np.ones((48, 1))))
    message = scale * lattice.filter(scale * wide.T)
    same, total = (message * wide.T).sum(), message.sum()
    ours = free_energy(refined, -u, image, params)
    alone = d.klDivergence(Q) + 2 * same
    assert alone + (total - same) == pytest.approx(ours, rel=1e-5)


def test_the_code_of_the_document_runs():
    pytest.importorskip("skimage")
    document = Path(__file__).parents[1] / "docs" / "pydensecrf.md"
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, document.name, "exec"), names)
    assert len(blocks) == 2 and names["found"].shape == names["q"].shape[1:]


def test_refine_gives_the_same_labels_by_the_parameters_of_the_document():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(3, 20, 24)).astype(np.float32)
    image = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
    d = dcrf.DenseCRF2D(24, 20, 3)
    d.setUnaryEnergy(u.reshape(3, -1))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    params = CRFParams(
        theta_alpha=80, theta_beta=13, w_bilateral=10, theta_gamma=3, w_spatial=3,
        normalization="symmetric", spatial="lattice",
    )  # fmt: skip
    want = refine(-u, image, params, iterations=5).reshape(3, -1)
    np.testing.assert_allclose(d.inference(5), want, atol=PICTURE_TOLERANCE)


# --- arguments -----------------------------------------------------------------------------------


def test_arguments_are_never_changed_and_may_be_read_only_or_strided():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 16, 3)).astype(np.uint8)[:, ::2]
    u, features = (rng.normal(size=s).astype(np.float32) for s in ((48, 2), (48, 4)))
    matrix = rng.normal(size=(2, 2)).astype(np.float32)
    labels = rng.integers(0, 3, (6, 8))
    given = [image, u, features, matrix, labels]
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    d = dcrf.DenseCRF2D(8, 6, 2)
    d.setUnaryEnergy(u.T)
    d.addPairwiseEnergy(features.T, matrix)
    d.addPairwiseBilateral(3, 13, image, matrix)
    utils.unary_from_labels(labels, 2, 0.7)
    utils.create_pairwise_bilateral((3, 3), 13, image, chdim=2)
    first = d.inference(3)
    for array, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, old)
        array.flags.writeable = True
        array[...] = 0
    np.testing.assert_array_equal(d.inference(3), first)  # it keeps copies


def test_any_buffer_of_float32_is_taken():
    import array

    d = dcrf.DenseCRF(3, 2)
    d.addPairwiseEnergy(np.zeros((1, 3), np.float32), array.array("f", [1.0, 2.0]))
    d.setUnaryEnergy(memoryview(np.zeros((2, 3), np.float32)))
    assert d.inference(1).shape == (2, 3)


ZEROS = np.zeros((2, 12), np.float32)
PIXELS = np.zeros((3, 4, 3), np.uint8)
WRONG = {
    "u has dtype float64": (ValueError, lambda d: d.setUnaryEnergy(ZEROS.astype(float))),
    "u has dtype float16": (TypeError, lambda d: d.setUnaryEnergy(ZEROS.astype(np.float16))),
    "u is list; give a NumPy array": (TypeError, lambda d: d.setUnaryEnergy([[0.0]])),
    r"u has shape \(2, 11\); it must be 2 x 12": (
        ValueError, lambda d: d.setUnaryEnergy(ZEROS[:, 1:])),
    r"flatten the pixels: u.reshape\(2, -1\)": (
        ValueError, lambda d: d.setUnaryEnergy(ZEROS.reshape(2, 3, 4))),
    "u contains NaN .24 entries.": (
        ValueError, lambda d: d.setUnaryEnergy(ZEROS * np.float32(np.nan))),
    "u contains -infinity": (ValueError, lambda d: d.setUnaryEnergy(ZEROS - np.float32(np.inf))),
    "u is infinite for every label at 12 pixels": (
        ValueError, lambda d: d.setUnaryEnergy(ZEROS + np.float32(np.inf))),
    "f has shape": (ValueError, lambda d: d.setUnaryEnergy(ZEROS, ZEROS)),
    "u is ndarray; give a ConstUnary": (TypeError, lambda d: d.setUnary(ZEROS)),
    r"must be 2 x 12": (
        ValueError, lambda d: d.setUnary(dcrf.ConstUnary(np.zeros((2, 2), np.float32)))),
    r"features has shape \(12, 2\)": (ValueError, lambda d: d.addPairwiseEnergy(ZEROS.T, 1)),
    "features contains NaN": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS * np.float32(np.nan), 1)),
    "features contains infinity": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS + np.float32(np.inf), 1)),
    "features has 17 columns": (
        ValueError, lambda d: d.addPairwiseEnergy(np.zeros((17, 12), np.float32), 1)),
    "times what float32 can index": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS + np.float32(1e9), 1)),
    "compat has dtype float64": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS, np.array([1.0, 2.0]))),
    r"compat has shape \(3,\)": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS, np.zeros(3, np.float32))),
    "compat is list": (TypeError, lambda d: d.addPairwiseEnergy(ZEROS, [1, 2])),
    "compat is nan; it must be finite": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS, float("nan"))),
    "compat contains NaN": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS, np.full(2, np.nan, np.float32))),
    "compat is complex": (TypeError, lambda d: d.addPairwiseEnergy(ZEROS, 1j)),
    "kernel is 3; choose from CONST_KERNEL": (
        ValueError, lambda d: d.addPairwiseEnergy(ZEROS, 1, kernel=3)),
    "normalization is str": (
        TypeError, lambda d: d.addPairwiseEnergy(ZEROS, 1, normalization="after")),
    r"sxy\[0\] is 0": (ValueError, lambda d: d.addPairwiseGaussian(0, 1)),
    "sxy has 3 numbers; give 2": (ValueError, lambda d: d.addPairwiseGaussian((1, 2, 3), 1)),
    "sxy has 1 numbers; give 2": (ValueError, lambda d: d.addPairwiseGaussian((1,), 1)),
    "sxy is str": (TypeError, lambda d: d.addPairwiseGaussian("33", 1)),
    "srgb has 1 numbers; give 3": (
        ValueError, lambda d: d.addPairwiseBilateral(3, (13,), PIXELS, 1)),
    r"rgbim has shape \(4, 3, 3\); it must be \(3, 4, 3\)": (
        ValueError, lambda d: d.addPairwiseBilateral(3, 13, PIXELS.transpose(1, 0, 2), 1)),
    "three channels": (ValueError, lambda d: d.addPairwiseBilateral(3, 13, PIXELS[..., :1], 1)),
    "rgbim has dtype float64; it must be uint8": (
        ValueError, lambda d: d.addPairwiseBilateral(3, 13, PIXELS / 255, 1)),
    "rgbim is list": (TypeError, lambda d: d.addPairwiseBilateral(3, 13, [0], 1)),
    "niter is -1": (ValueError, lambda d: d.inference(-1)),
    "niter is 2.5; it must be an integer": (ValueError, lambda d: d.inference(2.5)),
    "niter is nan; it must be an integer": (ValueError, lambda d: d.inference(float("nan"))),
    "niter is '5'": (TypeError, lambda d: d.inference("5")),
    "Q has shape": (ValueError, lambda d: d.klDivergence(ZEROS.T)),
    "Q contains NaN": (ValueError, lambda d: d.klDivergence(ZEROS * np.float32(np.nan))),
    "Q is read-only": (
        ValueError, lambda d: d.stepInference(np.broadcast_to(ZEROS, ZEROS.shape), None, None)),
    "w is 0": (ValueError, lambda d: dcrf.DenseCRF2D(0, 3, 2)),
    "nlabels is 2.5": (ValueError, lambda d: dcrf.DenseCRF(3, 2.5)),
    "h is 0; it must be at least 1": (ValueError, lambda d: dcrf.DenseCRF2D(3, 0.0, 2)),
    "labels is float64": (TypeError, lambda d: utils.unary_from_labels(np.ones(3), 2, 0.7)),
    "labels reach from -1 to 2; with n_labels 2 they must lie in 0..2, where": (
        ValueError, lambda d: utils.unary_from_labels(np.array([-1, 2]), 2, 0.7)),
    r"lie in 0..1 .zero_unsure=False.": (
        ValueError, lambda d: utils.unary_from_labels(np.array([0, 2]), 2, 0.7, False)),
    "n_labels is 1; it must be at least 2": (
        ValueError, lambda d: utils.unary_from_labels(np.array([1]), 1, 0.7)),
    "gt_prob is 1; it must lie between": (
        ValueError, lambda d: utils.unary_from_labels(np.array([1]), 2, 1)),
    "sm contains NaN": (ValueError, lambda d: utils.unary_from_softmax(ZEROS * np.nan)),
    "sm holds -1, which is not a probability": (
        ValueError, lambda d: utils.unary_from_softmax(ZEROS - 1)),
    "sm is list": (TypeError, lambda d: utils.unary_from_softmax([0.5, 0.5])),
    "scale is 2": (ValueError, lambda d: utils.unary_from_softmax(ZEROS, scale=2)),
    r"sdims has 1 numbers; give 2$": (
        ValueError, lambda d: utils.create_pairwise_gaussian((3,), (4, 5))),
    r"sdims has 3 numbers; give 2$": (
        ValueError, lambda d: utils.create_pairwise_gaussian((3, 3, 3), (4, 5))),
    "schan has 4 numbers; give 3": (
        ValueError, lambda d: utils.create_pairwise_bilateral((3, 3), (1,) * 4, PIXELS, 2)),
    r"schan\[0\] is -1": (
        ValueError, lambda d: utils.create_pairwise_bilateral((3, 3), -1, PIXELS, 2)),
    "chdim is 3 but img has shape": (
        ValueError, lambda d: utils.create_pairwise_bilateral((3, 3), 1, PIXELS, 3)),
    "img contains NaN": (
        ValueError, lambda d: utils.create_pairwise_bilateral((3, 3), 1, PIXELS * np.nan, 2)),
    "img is list": (TypeError, lambda d: utils.create_pairwise_bilateral((3, 3), 1, [1], 2)),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_right_is_refused_in_a_sentence(message):
    error, call = WRONG[message]
    with pytest.raises(error, match=message) as caught:
        call(dcrf.DenseCRF2D(4, 3, 2))
    assert "\n" not in str(caught.value)


def test_a_refused_kernel_leaves_the_crf_as_it_was():
    d = crf_of(12)
    before = d.inference(2)
    for call in (
        lambda: d.addPairwiseEnergy(np.full((2, 12), 1e9, np.float32), 1),
        lambda: d.setUnaryEnergy(np.full((2, 12), np.nan, np.float32)),
    ):
        with pytest.raises(ValueError):
            call()
    np.testing.assert_array_equal(d.inference(2), before)
