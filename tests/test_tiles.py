"""Images in tiles: with a halo that reaches far enough the very marginals of the whole image, with
a narrower one a seam that is measured and bounded, and memory that does not grow with the image."""

import contextlib
import math
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import Made, noisy_logits, picture, random_problem
from processes import environment

from densecrf_rnn import BackendUnavailableError, CRFParams, refine, refine_tiled, tiles
from densecrf_rnn.inference import grid
from densecrf_rnn.kernels import Window
from densecrf_rnn.inference.mean_field import infer

SMALL = CRFParams(theta_alpha=2, theta_beta=20, theta_gamma=1.9, w_bilateral=2, w_spatial=1)
VARIANTS = (
    {},
    {"normalization": "before"},
    {"normalization": "symmetric"},
    {"normalization": "none"},
    {"self_term": False},
    {"feature_order": "yx"},
    {"spatial": "lattice"},
    {"quality": "symmetric"},
    {"quality": "filled"},
    {"theta_gamma": 4.0, "w_bilateral": 0.0},
)


def biggest(difference):
    return float(np.abs(difference).max())


# --- a halo that reaches far enough --------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_exact_halo_leaves_no_seam(backend, variant):
    """Tiles that lie in all corners, at all edges and inside; float64 shows that it is rounding."""
    image = picture(61, 53)
    logits = noisy_logits(3, image)
    params = replace(SMALL, **variant)
    whole = refine(logits, image, params, iterations=2, backend=backend)
    q = refine_tiled(
        logits, image, params, tile=(13, 17), halo="exact", iterations=2, backend=backend
    )
    assert q.dtype == np.float32
    assert biggest(q - whole) < 2e-7


@pytest.mark.parametrize("normalization", ["before", "symmetric"])
def test_a_normaliser_of_what_is_sent_asks_for_one_reach_more(normalization):
    image = picture(61, 53)
    logits = noisy_logits(3, image)
    params = replace(SMALL, normalization=normalization)
    reach = tiles.reach(params, image.shape[:2])
    whole = refine(logits, image, params, iterations=1)
    options = {"tile": 13, "iterations": 1}
    assert biggest(refine_tiled(logits, image, params, halo="exact", **options) - whole) < 2e-7
    assert biggest(refine_tiled(logits, image, params, halo=reach, **options) - whole) > 1e-5


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40))
    | st.sampled_from([(7, 9, 8), (1, 5, 30)]),
    tile=st.integers(1, 20),
    labels=st.sampled_from((1, 2, 5)),
    channels=st.sampled_from((1, 3, 4)),
    iterations=st.integers(0, 3),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_tiles_of_any_size_are_the_whole_image(
    size, tile, labels, channels, iterations, masked, seed
):
    tile = max(tile, max(size) // 6)  # not thousands of them
    logits, image = random_problem(labels, size, channels, seed=seed)
    mask = np.random.default_rng(seed).random(size) < 0.8 if masked else None
    options = {"iterations": iterations, "mask": mask, "spacing": (1.5, 1, 1)[-len(size) :]}
    whole = refine(logits, image, SMALL, **options)
    q = refine_tiled(logits, image, SMALL, tile=tile, halo="exact", **options)
    np.testing.assert_allclose(q, whole, rtol=0, atol=2e-7)


def test_tiles_are_the_whole_image_in_float32_far_from_its_corner():
    """As from the last rows of a large raster: features are large there, and yet the same bits."""
    image = picture(40, 6000)
    logits = noisy_logits(2, image, np.float32)
    whole = refine(logits, image, SMALL, iterations=2)
    q = refine_tiled(logits, image, SMALL, tile=512, halo="exact", iterations=2)
    assert biggest(q - whole) < 2e-6


def test_a_tile_alone_would_not_fit_its_neighbours():
    """Why positions must count from the image's corner: lattice and grid lie elsewhere else."""
    image = picture(60, 61)
    logits = noisy_logits(3, image)
    params = replace(SMALL, theta_alpha=3.1, theta_gamma=4)
    whole = refine(logits, image, params, iterations=1)[:, 20:41, 19:40]
    # One column less, far from the pixels compared.
    cut_logits, cut_image = logits[:, :, 1:].copy(), image[:, 1:]
    alone = refine(cut_logits, cut_image, params, iterations=1)
    assert biggest(alone[:, 20:41, 18:39] - whole) > 1e-3
    options = {"mask": None, "spacing": None, "backend": "auto", "threads": None, "iterations": 1}
    tile = infer(
        cut_logits, cut_image, params, kernel_weights=None, compatibility=None, marginals=True,
        window=Window((0, 1), (60, 61)), **options,
    )  # fmt: skip
    assert biggest(tile[:, 20:41, 18:39] - whole) < 2e-7


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(79, 71), (33, 31, 30)], ids=str)
def test_no_message_carries_further_than_reach(variant, size):
    """One iteration with everything beyond `reach` changed, at one pixel in the middle."""
    thetas = {"theta_alpha": 1.3, "theta_gamma": 2.0 if "theta_gamma" in variant else 1.4}
    params = replace(SMALL, **{**variant, **thetas})
    middle = tuple(n // 2 for n in size)
    at = (slice(None), *middle)
    reach = tiles.reach(params, size)
    messages = 1 + (params.normalization in ("before", "symmetric"))
    assert all(messages * r < n // 2 for r, n in zip(reach, size, strict=True)), "nothing is beyond"
    logits, image = random_problem(2, size, channels=1)
    want = refine(logits, image, params, iterations=1)[at]
    for axis in range(len(size)):
        for side in (slice(0, middle[axis] - messages * reach[axis]),
                     slice(middle[axis] + messages * reach[axis] + 1, None)):  # fmt: skip
            beyond = tuple(side if a == axis else slice(None) for a in range(len(size)))
            others, other_image = random_problem(2, size, channels=1, seed=1)
            logits2, image2 = logits.copy(), image.copy()
            logits2[(slice(None), *beyond)] = others[(slice(None), *beyond)]
            image2[beyond] = other_image[beyond]
            got = refine(logits2, image2, params, iterations=1)[at]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)


def test_reach_is_what_the_lattice_and_the_grid_have():
    plain = CRFParams(theta_alpha=100, theta_gamma=3)
    size = (9999, 9999)
    assert tiles.reach(plain, size) == (400, 347)  # 4 and sqrt(12) deviations
    assert tiles.reach(replace(plain, feature_order="yx"), size) == (347, 400)
    assert tiles.reach(replace(plain, quality="filled"), size) == (500, 434)
    assert tiles.reach(plain, size, spacing=(2, 1)) == (200, 347)
    assert tiles.reach(plain, (999, 999, 999)) == (425, 400, 347)
    assert tiles.reach(replace(plain, w_bilateral=0), size) == (14, 14)  # 6 cells of 2.4 pixels
    assert tiles.reach(replace(plain, w_bilateral=0, w_spatial=(0.0, 0.0)), size) == (0, 0)
    assert tiles.reach(plain, (50, 20)) == (50, 20)


@given(
    pixels=st.integers(1, 200), sigma=st.sampled_from([1e-6, 0.4, 1.8, 1.9, 3, 7.3, 60, 1e9]),
    data=st.data(),
)  # fmt: skip
def test_a_part_of_a_grid_has_its_part_of_the_matrix(pixels, sigma, data):
    start = data.draw(st.integers(0, pixels - 1))
    stop = data.draw(st.integers(start + 1, pixels))
    axis = grid.axis(pixels, sigma)
    matrix = grid.matrix(axis)
    part = grid.part(axis, start, stop)
    np.testing.assert_allclose(
        grid.matrix(part), matrix[start:stop, start:stop], rtol=1e-12, atol=1e-15
    )
    assert part.cell[0] == 0 and part.cells == part.cell[-1] + 3
    assert len(part.band) <= 2 * part.cells - 1
    i = np.arange(pixels)
    far = np.abs(i[:, None] - i) > grid.reach(axis)
    assert not matrix[far].any()


# --- a narrower halo -----------------------------------------------------------------------------


def test_seams_shrink_with_the_halo():
    """A tenth of the error at every half reach or so: the table of docs/refinement.md, in small."""
    image = picture(120, 130)
    logits = noisy_logits(4, image)
    params = CRFParams(theta_alpha=8, theta_beta=13, theta_gamma=2, w_bilateral=3, w_spatial=2)
    whole = refine(logits, image, params, iterations=5)
    reach = tiles.reach(params, image.shape[:2])
    errors, changed = [], []
    for part in (0, 0.25, 0.5, 1, 2, 5):
        halo = tuple(math.ceil(part * r) for r in reach)
        q = refine_tiled(logits, image, params, tile=30, halo=halo, iterations=5)
        errors.append(biggest(q - whole))
        changed.append((q.argmax(0) != whole.argmax(0)).mean())
    print("largest error:", errors, "labels changed:", changed)
    assert errors == sorted(errors, reverse=True) and changed == sorted(changed, reverse=True)
    assert errors[0] > 0.2 and changed[0] > 1e-3  # without a halo seams are seen
    bounds = (1, 0.5, 0.2, 0.01, 1e-4, 2e-7)
    assert all(error < bound for error, bound in zip(errors, bounds, strict=True))


@pytest.mark.parametrize("reaches", [1, 2])
def test_a_halo_of_k_reaches_makes_the_first_k_iterations_exact(reaches):
    """So the seam is at most what the other iterations change, in the tile and in the image."""
    image = picture(70, 75)
    logits = noisy_logits(3, image)
    params = replace(SMALL, w_bilateral=6, w_spatial=3)
    halo = tuple(reaches * r for r in tiles.reach(params, image.shape[:2]))

    def both(iterations):
        options = {"iterations": iterations}
        tiled = refine_tiled(logits, image, params, tile=20, halo=halo, **options)
        return tiled, refine(logits, image, params, **options)

    tiled_k, whole_k = both(reaches)
    assert biggest(tiled_k - whole_k) < 2e-7
    tiled, whole = both(reaches + 4)
    bound = np.abs(tiled - tiled_k) + np.abs(whole - whole_k)
    assert (np.abs(tiled - whole) <= bound + 4e-7).all()
    assert biggest(tiled - whole) > 4e-7, "nothing was bounded"


# --- what is read and written --------------------------------------------------------------------


class Recorder:
    """An array that slices and does nothing else, and notes the largest part that was read."""

    def __init__(self, array):
        self._array, self.largest = array, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, where):
        assert all(isinstance(axis, slice) and axis.step in (None, 1) for axis in where)
        part = self._array[where]
        self.largest = max(self.largest, part.size)
        return part


def test_anything_that_slices_is_read_a_tile_at_a_time():
    logits, image = random_problem(3, (64, 70))
    mask = image[..., 0] > 100
    want = refine_tiled(logits, image, SMALL, tile=40, halo=4, mask=mask)
    readers = [Recorder(array) for array in (logits, image, mask)]
    q = refine_tiled(readers[0], readers[1], SMALL, tile=40, halo=4, mask=readers[2])
    np.testing.assert_array_equal(q, want)
    assert [reader.largest for reader in readers] == [3 * 44 * 44, 3 * 44 * 44, 44 * 44]


def test_memmaps_in_and_out(tmp_path):
    logits, image = random_problem(2, (33, 41), dtype=np.float32)
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "image.npy", image)
    shape = logits.shape
    out = np.lib.format.open_memmap(tmp_path / "q.npy", "w+", np.float16, shape)
    returned = refine_tiled(
        np.load(tmp_path / "logits.npy", mmap_mode="r"),
        np.load(tmp_path / "image.npy", mmap_mode="r"),
        SMALL, tile=16, halo="exact", iterations=2, out=out,
    )  # fmt: skip
    assert returned is out
    out.flush()
    want = refine(logits, image, SMALL, iterations=2)
    np.testing.assert_allclose(np.load(tmp_path / "q.npy"), want, atol=6e-4)


def test_zarr_and_h5py_in_and_out(tmp_path):
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    logits, image = random_problem(3, (33, 41), dtype=np.float32)
    scores = zarr.open_array(
        str(tmp_path / "a.zarr"), mode="w", shape=logits.shape, chunks=(3, 16, 16), dtype="f4"
    )
    scores[...] = logits
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = image
        out = file.create_dataset("labels", image.shape[:2], np.uint8)
        refine_tiled(
            scores, file["image"], SMALL, tile=16, halo="exact", iterations=2, out=out, labels=True
        )
        want = refine(logits, image, SMALL, iterations=2).argmax(0)
        assert (out[...] != want).mean() < 1e-3


@pytest.mark.parametrize("labels", [1, 2, 256, 257])
def test_labels_are_the_likeliest_in_the_smallest_integer(labels):
    logits, image = random_problem(labels, (9, 11))
    q = refine_tiled(logits, image, SMALL, tile=4, iterations=1)
    found = refine_tiled(logits, image, SMALL, tile=4, iterations=1, labels=True)
    assert found.shape == (9, 11) and found.dtype == (np.uint16 if labels == 257 else np.uint8)
    np.testing.assert_array_equal(found, q[0] > 0.5 if labels == 1 else q.argmax(0))


def test_half_precision_logits_are_computed_with_in_single():
    logits, image = random_problem(3, (20, 21))
    half = logits.astype(np.float16)
    want = refine_tiled(half.astype(np.float32), image, SMALL, tile=8)
    np.testing.assert_array_equal(refine_tiled(half, image, SMALL, tile=8), want)


def test_masked_pixels_may_hold_anything_and_whole_tiles_may_be_masked():
    logits, image = random_problem(3, (30, 31))
    mask = np.zeros((30, 31), bool)
    mask[:14, 3:9] = True
    want = refine(logits, image, SMALL, mask=mask, iterations=2)
    logits[:, ~mask] = np.nan
    image[~mask] = np.inf
    q = refine_tiled(logits, image, SMALL, mask=mask, iterations=2, tile=10, halo="exact")
    assert biggest(q[:, mask] - want[:, mask]) < 2e-7


@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 9)),
    tile=st.integers(1, 60),
    halo=st.integers(0, 70),
)
def test_tiles_cover_every_pixel_once_within_their_halo(size, tile, halo):
    tile = max(tile, max(size) // 5)
    covered = np.zeros(size, int)
    for part in tiles.tiling(size, tile, (halo,) * 3):
        covered[part.inner] += 1
        for inner, outer, kept, n in zip(part.inner, part.outer, part.kept, size, strict=True):
            assert outer.start == max(0, inner.start - halo)
            assert outer.stop == min(n, inner.stop + halo)
            assert outer.start + kept.start == inner.start
            assert kept.stop - kept.start == inner.stop - inner.start
    assert (covered == 1).all()


def test_arguments_are_never_changed():
    logits, image = random_problem(3, (20, 21))
    copies = logits.copy(), image.copy()
    refine_tiled(logits, image, SMALL, tile=7)
    np.testing.assert_array_equal(logits, copies[0])
    np.testing.assert_array_equal(image, copies[1])


# --- bad input -----------------------------------------------------------------------------------


class Unread(Recorder):
    """Refuses to be read: what can be said before must be."""

    def __getitem__(self, where):
        raise AssertionError("read before it was checked")


BAD_OPTIONS = (
    ({"tile": 0}, ValueError, "tile is 0; it must be at least 1"),
    ({"tile": 2.5}, TypeError, "tile is float"),
    ({"tile": (8, 8, 8)}, ValueError, "tile is (8, 8, 8); give one number, or 2"),
    ({"halo": -1}, ValueError, "halo is -1"),
    ({"halo": "wide"}, ValueError, "halo is 'wide'; choose from 'exact'"),
    ({"iterations": -1}, ValueError, "iterations"),
    ({"spacing": (1, 2, 3)}, ValueError, "spacing"),
    ({"compatibility": np.eye(2)}, ValueError, "compatibility has shape"),
    ({"params": None}, TypeError, "params is None"),
    ({"params": CRFParams(w_spatial=(1.0, 2.0))}, ValueError, "has 2 weights but"),
    ({"backend": "abacus"}, BackendUnavailableError, "abacus"),
    ({"threads": 0}, ValueError, "threads"),
    ({"mask": np.ones((4, 4), bool)}, ValueError, "mask is 4 x 4"),
    ({"mask": np.ones((30, 31), np.uint8)}, TypeError, "mask has dtype uint8"),
    ({"labels": 1}, TypeError, "labels is int"),
    ({"out": np.zeros((3, 30, 30), np.float32)}, ValueError, "out has shape (3, 30, 30)"),
    ({"out": np.zeros((3, 30, 31), np.uint8)}, TypeError, "out has dtype uint8"),
    ({"out": np.zeros((30, 31)), "labels": True}, TypeError, "integer that can hold 2"),
    ({"out": [1]}, TypeError, "out is list"),
)


@pytest.mark.parametrize(
    ("options", "kind", "message"), BAD_OPTIONS, ids=[bad[2] for bad in BAD_OPTIONS]
)
def test_bad_options_are_refused_before_anything_is_read(options, kind, message):
    logits, image = random_problem(3, (30, 31))
    with pytest.raises(kind) as caught:
        refine_tiled(Unread(logits), Unread(image), **{"params": SMALL, "tile": 8, **options})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("logits", "image", "kind", "message"),
    [
        ([[1.0]], np.zeros((3, 4, 3)), TypeError, "logits is list; it must be a NumPy array"),
        (np.zeros((3, 4)), np.zeros((3, 4, 3)), ValueError, "logits has shape (3, 4)"),
        (np.zeros((2, 3, 4), int), np.zeros((3, 4, 3)), TypeError, "logits has dtype int64"),
        (np.zeros((2, 3, 4)), np.zeros((4, 3, 3)), ValueError, "rows and columns exchanged"),
        (np.zeros((2, 3, 4)), np.zeros((3, 4, 15)), ValueError, "15 channels"),
        (np.zeros((2, 0, 4)), np.zeros((0, 4, 3)), ValueError, "without pixels"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(logits, image, kind, message):
    with pytest.raises(kind) as caught:
        refine_tiled(logits, image)
    assert message in str(caught.value)


def test_a_result_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    logits, image = random_problem(3, (30, 31))
    out = np.empty_like(logits)
    out.flags.writeable = False
    np.save(tmp_path / "q.npy", out)
    read_only = [out, np.load(tmp_path / "q.npy", mmap_mode="r")]
    with contextlib.suppress(ImportError):
        import zarr

        path = str(tmp_path / "q.zarr")
        zarr.open_array(path, mode="w", shape=logits.shape, dtype="f4")
        read_only.append(zarr.open_array(path, mode="r"))
    with contextlib.suppress(ImportError):
        import h5py

        with h5py.File(tmp_path / "q.h5", "w") as file:
            file["q"] = out
        read_only.append(h5py.File(tmp_path / "q.h5")["q"])
    for out in read_only:
        with pytest.raises(ValueError, match="out is read-only; give an array that is opened for"):
            refine_tiled(Unread(logits), Unread(image), SMALL, tile=8, out=out)


def test_a_result_written_over_its_input_is_refused():
    logits, image = random_problem(3, (30, 31))
    for out in (logits, logits[:]):
        with pytest.raises(ValueError, match="out holds the same data as logits"):
            refine_tiled(logits, image, SMALL, tile=8, out=out)


def twice_of_h5py(folder, logits):
    file = pytest.importorskip("h5py").File(folder / "a.h5", "w")
    file["logits"] = logits
    return file["logits"], file["logits"]


def twice_of_zarr(folder, logits):
    zarr = pytest.importorskip("zarr")
    options = {"shape": logits.shape, "dtype": logits.dtype}
    zarr.open_array(str(folder / "a.zarr"), mode="w", **options)[...] = logits
    one = zarr.open_array(str(folder / "a.zarr"), mode="r+")
    return one, zarr.open_array(f"{folder}/x/../a.zarr", mode="r+")


def twice_mapped(folder, logits):
    np.save(folder / "a.npy", logits)
    other = np.load(folder / "x/../a.npy", mmap_mode="r+")
    return np.asarray(np.load(folder / "a.npy", mmap_mode="r")), other[:]


@pytest.mark.parametrize("twice", [twice_of_h5py, twice_of_zarr, twice_mapped])
def test_a_result_written_over_its_input_in_a_file_is_refused(tmp_path, twice):
    logits, image = random_problem(3, (30, 31))
    (tmp_path / "x").mkdir()
    one, other = twice(tmp_path, logits)
    with pytest.raises(ValueError, match="out holds the same data as logits"):
        refine_tiled(one, image, SMALL, tile=8, out=other)


def test_results_next_to_their_input_in_a_file_are_written(tmp_path):
    logits, image = random_problem(3, (30, 31))
    both = np.memmap(tmp_path / "a.bin", logits.dtype, "w+", shape=(2, *logits.shape))
    both[0] = logits
    other = np.memmap(tmp_path / "a.bin", logits.dtype, "r+", shape=both.shape)
    want = refine_tiled(logits, image, SMALL, tile=8)
    for values, out in ((both[0], other[1]), (both[0], both[1])):
        out[:] = 0
        refine_tiled(values, image, SMALL, tile=8, out=out)
        np.testing.assert_array_equal(out, want)
    for values, out in ((both[0], other[0]), (both[0, :, ::-1], other[0]), (both[1], other[1])):
        with pytest.raises(ValueError, match="out holds the same data as logits"):
            refine_tiled(values, image, SMALL, tile=8, out=out)


@pytest.mark.parametrize("bad", ["logits", "image"])
def test_a_value_that_cannot_be_is_refused_with_its_place(bad):
    logits, image = random_problem(3, (30, 31))
    (logits[1] if bad == "logits" else image[..., 1])[25, 3] = np.nan
    with pytest.raises(ValueError) as caught:
        refine_tiled(logits, image, SMALL, tile=10, halo=2)
    assert f"{bad} contains NaN" in str(caught.value)
    assert "(in rows 18..29, columns 0..11)" in str(caught.value)


def test_an_image_too_far_across_for_float32_is_refused_before_anything_is_read():
    logits, image = np.zeros((2, 1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)
    shape = (3_000_000, 1)
    logits = np.broadcast_to(logits, (2, *shape))
    image = np.broadcast_to(image, (*shape, 3))
    with pytest.raises(ValueError, match="float64 logits"):
        refine_tiled(Unread(logits), Unread(image), CRFParams(theta_alpha=1))


def test_a_dark_tile_is_no_image_in_0_to_1():
    logits, image = random_problem(3, (30, 31))
    image[:10] = np.random.default_rng(0).random((10, 31, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine_tiled(logits, image, SMALL, tile=10)
    with pytest.warns(UserWarning, match="image spans"):
        refine_tiled(logits, image / 255, SMALL, tile=10)


def test_probabilities_outside_the_central_crop_are_noticed_once():
    image = random_problem(3, (50, 51))[1]
    masks = np.zeros((2, 50, 51), np.float32)
    masks[1, :5, :6] = 1
    masks[0] = 1 - masks[1]
    with pytest.warns(UserWarning, match="as probabilities do") as found:
        refine_tiled(masks, image, SMALL, tile=20)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine_tiled(masks + 0.5, image, SMALL, tile=20)
        refine_tiled(np.zeros_like(masks), image, SMALL, tile=20)


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_first_tile_of_an_image_larger_than_any_memory_comes_at_once(dtype):
    size = (100_000, 100_000)
    parts = tiles.refined_tiles(
        Made((30, *size), dtype), Made((*size, 3), np.uint8), SMALL, tile=300, halo=0, iterations=1,
    )  # fmt: skip
    where, q = next(parts)
    assert where == (slice(0, 300), slice(0, 300)) and q.shape == (30, 300, 300)


PEAK = """
    import sys
    sys.path.insert(0, sys.argv.pop(1))
    import numpy as np
    from densecrf_rnn import CRFParams, refine_tiled
    from oracles import Made

    class Lost(Made):
        pixels = 0
        def __setitem__(self, where, values):
            self.pixels += values.size

    rows, columns = map(int, sys.argv[1:])
    out = Lost((rows, columns), np.uint8)
    refine_tiled(
        Made((2, rows, columns), np.float16), Made((rows, columns, 4), np.uint8),
        CRFParams(theta_alpha=4, theta_beta=40, theta_gamma=2), iterations=1, out=out, labels=True,
        tile=256, halo=16, threads=1,
    )
    assert out.pixels == rows * columns
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) // 1000 for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_image():
    """Nine times the pixels, and nearly the same peak: with inputs in memory it would double."""

    def peak(rows, columns):
        here = str(Path(__file__).parent)
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PEAK), here, str(rows), str(columns)],
            env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return int(result.stdout)

    small = peak(1200, 1200)
    # The allocator keeps freed tiles, now more and now fewer of them, so up to three tries; memory
    # that grew with the image would be too much in each.
    for _ in range(3):
        large = peak(3600, 3600)
        print(f"peak: {small} MB of 1200 x 1200, {large} MB of 3600 x 3600")
        if large < 1.4 * small:
            break
    assert large < 1.4 * small
