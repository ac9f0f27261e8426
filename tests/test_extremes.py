"""Numbers and sizes at the edge: of a dtype, of an int, of memory; labels that are no labels."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from densecrf_rnn import CRFParams, PermutohedralLattice, energy, files, mean_field, metrics, refine
from densecrf_rnn import unaries
from densecrf_rnn.cli import _messages
from densecrf_rnn.compat import pydensecrf
from densecrf_rnn.files import Match, paths

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (6, 7, 3)).astype(np.uint8)
LOGITS = RNG.normal(size=(3, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("threads", ["2147483648", "99999999999", "9" * 5000, "-1", "many", "2,2"])
def test_any_number_of_threads_in_the_environment_is_usable(threads):
    code = (
        "import numpy as np, densecrf_rnn as d\n"
        "x, image = np.zeros((2, 4, 5), np.float32), np.zeros((4, 5, 3), np.uint8)\n"
        "d.refine(x, image); d.PermutohedralLattice(np.zeros((4, 2)))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# --- the order of sums ---------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [2, 9, 17])
@pytest.mark.parametrize("multilabel", [False, True])
def test_no_iteration_gives_the_same_bits_for_any_strides(labels, multilabel):
    logits = RNG.normal(size=(labels, 6, 7)).astype(np.float32)
    mask = RNG.random((6, 7)) < 0.5
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(logits, 0, -1)), -1, 0)
    layouts = [np.asfortranarray(logits), np.repeat(logits, 2, -1)[..., ::2], last]
    for options in ({"iterations": 0}, {"iterations": 0, "mask": mask}, {"mask": mask}):
        expected = refine(logits, IMAGE, multilabel=multilabel, **options)
        for layout in layouts:
            found = refine(layout, IMAGE, multilabel=multilabel, **options)
            assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fields_of_record_arrays_give_the_same_bits(labels, dtype, backend):
    """Their strides are not whole elements."""
    records = np.zeros((labels, 6, 7), np.dtype([("flag", "u1"), ("logit", dtype)]))
    records["logit"] = RNG.normal(size=records.shape)
    copied = records["logit"].copy()
    for options in ({}, {"mask": RNG.random((6, 7)) < 0.5}, {"multilabel": True}):
        options |= {"backend": backend}
        found = refine(records["logit"], IMAGE, **options)
        np.testing.assert_array_equal(found, refine(copied, IMAGE, **options))
    if dtype != np.float16:
        points = records.reshape(-1, labels)["logit"]
        lattice = PermutohedralLattice(points, backend=backend)
        same = PermutohedralLattice(points.copy(), backend=backend)
        np.testing.assert_array_equal(lattice.filter(points), same.filter(points.copy()))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_dtypes_with_metadata_give_the_same_bits(dtype, backend):
    logits = RNG.integers(0, 9, size=(3, 6, 7)).astype(dtype)
    options = {"quantization": (0.1, 3)} if dtype == np.uint8 else {}
    marked = logits.view(np.dtype(dtype, metadata={"unit": "nat"}))
    found = refine(marked, IMAGE, backend=backend, **options)
    np.testing.assert_array_equal(found, refine(logits, IMAGE, backend=backend, **options))


def test_images_whose_pixels_int32_cannot_number_are_refused_with_a_mask(monkeypatch):
    """A smaller limit stands for 2**31 pixels."""
    monkeypatch.setattr("densecrf_rnn._limits.INDEX_BITS", 5)
    mask = np.zeros((6, 7), bool)
    mask[2, 3] = True
    with pytest.raises(ValueError, match="has 42 pixels; with a mask fewer than 32 are taken, so"):
        refine(LOGITS, IMAGE, mask=mask)


# --- near the largest number ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [1, 3])
def test_logits_near_the_largest_number_are_refined_without_a_warning(dtype, labels, backend):
    largest = np.finfo(dtype).max
    draw = np.random.default_rng(1)
    logits = draw.choice([largest, -largest, largest / 2, 1], size=(labels, 6, 7)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"iterations": 0}, {"multilabel": True}):
            q = refine(logits, IMAGE, backend=backend, **options)
            assert np.isfinite(q).all()
            assert not np.isnan(mean_field(logits, IMAGE, backend=backend, **options)).any()
        assert not np.isnan(energy.free_energy(logits, logits, IMAGE, backend=backend))
        assert np.isfinite(refine(unaries.scale_temperature(logits, 0.5), IMAGE)).all()


def refused(call, *args, **options):
    """Return the sentence with which a call fails, without any warning before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((TypeError, ValueError)) as caught:
            call(*args, **options)
    return str(caught.value)


def test_images_and_weights_near_the_largest_number_are_refused_without_a_warning():
    signs = np.sign(RNG.normal(size=(6, 7, 3)))
    for size in (3e38, 1e300):
        sentence = refused(refine, LOGITS, signs * size)
        assert sentence.endswith("intensities must lie within 1e30, so rescale it")
    mu = np.full((3, 3), 1e300)
    for weights in (np.full(2, 1e300), np.full((2, 3, 3), 1e300)):
        sentence = refused(mean_field, LOGITS, IMAGE, kernel_weights=weights, compatibility=mu)
        assert sentence.startswith("a kernel weight times the compatibility is")


def test_values_whose_sum_exceeds_their_dtype_are_refused():
    lattice = PermutohedralLattice(np.zeros((42, 3), np.float32))
    for value in (3e38, -3e38):
        sentence = refused(lattice.filter, np.full((42, 2), value, np.float32))
        assert sentence.startswith("values reaches 3e+38, so a sum over 42 points could exceed")
    limit = float(sentence.rpartition(" ")[2])  # the way out
    values = np.full((42, 2), 0.999 * limit, np.float32)
    assert np.isfinite(lattice.filter(values)).all()


# --- probabilities of 1 --------------------------------------------------------------------------


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_certain_foreground_is_a_logit_that_refine_takes(multilabel):
    p = np.full((2 if multilabel else 1, 6, 7), 0.5, np.float32)
    p[0, 0, :3], p[0, 1, :3] = 1, 0
    logits = unaries.logits_from_probabilities(p, floor=0, multilabel=multilabel)
    params = CRFParams(w_bilateral=100, w_spatial=100)
    q = refine(logits, IMAGE, params, multilabel=multilabel)
    assert (q[0, 0, :3] == 1).all() and (q[0, 1, :3] == 0).all()


# --- sizes ---------------------------------------------------------------------------------------


def test_a_huge_image_is_told_of_tiles_before_memory_is_asked_for():
    logits = np.broadcast_to(np.float32(0), (2, 40_000, 40_000))
    image = np.broadcast_to(np.uint8(0), (40_000, 40_000, 3))
    sentence = refused(refine, logits, image)
    assert sentence == (
        "the image has 1600000000 pixels but a lattice of 5 features takes fewer than 357913941; "
        "cut it into tiles, as refine_tiled does"
    )
    assert _messages.in_options(sentence).endswith("; add --tile 2048")


def test_a_huge_image_is_told_of_tiles_by_the_layer():
    torch = pytest.importorskip("torch")
    from densecrf_rnn.nn import functional

    logits = torch.zeros(1).expand(1, 2, 40_000, 40_000)
    image = torch.zeros(1, dtype=torch.uint8).expand(1, 3, 40_000, 40_000)
    sentence = refused(functional.mean_field, logits, image, warn=False)
    assert sentence.startswith("the image has 1600000000 pixels")


# --- what holds no labels ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["truth", "prediction"])
@pytest.mark.parametrize("bad", [np.float32, np.float64, complex, object])
def test_scores_refuse_maps_that_hold_no_integers(which, bad):
    maps = {name: np.array([[0, 1], [1, 0]]) for name in ("truth", "prediction")}
    maps[which] = maps[which].astype(bad)
    for call in (
        lambda truth, prediction: metrics.confusion_matrix(truth, prediction, 2),
        lambda truth, prediction: metrics.trimap_confusions(truth, prediction, [1], 2),
    ):
        assert refused(call, **maps).startswith(f"{which} has dtype {np.dtype(bad)}; label maps")
    if which == "truth":
        assert refused(metrics.border_distance, maps["truth"], 2).startswith("truth has dtype")
        assert refused(metrics.trimap, maps["truth"], 2).startswith("truth has dtype")


def test_scores_take_masks_and_any_integers():
    for dtype in (bool, np.uint8, np.int64):
        truth = np.array([[0, 1], [1, 0]], dtype)
        assert metrics.confusion_matrix(truth, truth, 2).tolist() == [[2, 0], [0, 2]]


def test_energies_of_no_label_are_refused():
    none, some = np.zeros((0, 4), np.float32), np.zeros((4, 4), np.float32)
    assert refused(pydensecrf.ConstUnary, none).startswith("u has shape (0, 4), without labels")
    sentence = refused(pydensecrf.LogisticUnary, none, some)
    assert sentence.startswith("L has shape (0, 4), without labels")


# --- which file is to blame ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [np.nan, np.inf, 1e-9])
def test_a_volume_whose_voxels_have_no_size_is_named(tmp_path, size):
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "image.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None), path)
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(size).tobytes()  # the first voxel size of the header
    raw[252:256] = bytes(4)  # neither qform nor sform
    path.write_bytes(raw)
    sentence = refused(files.read_spacing, path)
    assert sentence.startswith(f"{path}: of the voxel size in the header, spacing[2] is")
    match = Match("stem", (tmp_path / "logits.nii", path))
    reason = _messages.reason_of(match, ValueError(sentence))
    assert reason.startswith(f"{path}: of") and reason.endswith("give --spacing DEPTH,ROW,COLUMN")


def test_the_file_that_did_not_fit_into_memory_is_named(tmp_path):
    match = Match("stem", (tmp_path / "logits.npy", tmp_path / "image.npy"))
    with pytest.raises(MemoryError) as caught, paths.reading(match.paths[1], "an image"):
        raise MemoryError("Unable to allocate 30. GiB")
    reason = _messages.reason_of(match, caught.value)
    assert reason == (
        f"{match.paths[1]}: not enough memory to read it; fewer --workers need less"
    )
    reason = _messages.reason_of(match, MemoryError("Unable to allocate 30. GiB"))
    assert reason == f"{match.paths[0]}: not enough memory; fewer --workers need less"
