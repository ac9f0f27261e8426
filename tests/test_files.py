"""Files in and out: read as they were written, damage is named, half files never stay."""

import errno
import hashlib
import importlib
import importlib.util
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst

from densecrf_rnn import CRFParams, files, refine, samples
from densecrf_rnn.files import formats, halves, npy
from densecrf_rnn.files import hashing
from densecrf_rnn.files.record import FolderInUseError, Record, checksum
from densecrf_rnn.params import NORMALIZATIONS, QUALITIES

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 6, 7)).astype(np.float32)


def write_npy(path, array):
    np.save(path, array)


def write_npz(path, array):
    np.savez(path, logits=array)


def write_compressed(path, array):
    with open(path, "wb") as file:  # by its name NumPy would add .npz
        np.savez_compressed(file, logits=array)


def write_pt(path, array):
    torch = pytest.importorskip("torch")
    torch.save({"logits": torch.from_numpy(array), "epoch": 3}, path)


def write_safetensors(path, array):
    pytest.importorskip("safetensors.numpy").save_file({"logits": array}, path)


def write_h5(path, array):
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["network/logits"] = array


def write_zarr(path, array):
    pytest.importorskip("zarr").save(str(path), array)


def write_tiff(path, array):
    pytest.importorskip("tifffile").imwrite(path, array, photometric="minisblack")


WRITERS = {
    ".npy": write_npy, ".npz": write_npz, ".NPZ": write_compressed, ".pt": write_pt,
    ".pth": write_pt, ".safetensors": write_safetensors, ".h5": write_h5, ".hdf5": write_h5,
    ".zarr": write_zarr, ".tif": write_tiff, ".tiff": write_tiff,
}  # fmt: skip


def test_every_format_of_arrays_or_logits_is_tested():
    assert {end for end in formats.extensions("scores") if "nii" not in end} <= set(WRITERS)


def test_the_packages_are_those_that_the_modules_need():
    """Their versions are kept in the record of a run."""
    sources = Path(formats.__file__).parent.glob("*.py")
    found = re.findall(r'\brequired\(\s*"([\w.]+)"', "".join(p.read_text() for p in sources))
    names = {name.partition(".")[0].replace("PIL", "pillow") for name in found}
    assert names - {"densecrf_rnn"} | {"torch"} == set(files.PACKAGES)


def test_every_extension_has_a_format_that_reads_images_and_labels():
    assert set(formats.extensions("image")) == set(formats.extensions("labels"))
    assert set(formats.extensions("open")) == set(formats.extensions("create"))
    for use in formats._USES:
        path = Path("a.unknown")
        with pytest.raises(ValueError, match=f"a.unknown: .unknown cannot be {formats._USES[use]}"):
            formats.function(path, use)


# --- logits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits_are_read_from_every_kind_of_file(tmp_path, kind, dtype):
    path = tmp_path / f"a{kind}"
    WRITERS[kind](path, LOGITS.astype(dtype))
    found = files.read_logits(path)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, LOGITS.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("kind", [".npz", ".pt", ".safetensors", ".h5", ".zarr"])
def test_one_of_several_arrays_is_taken_by_its_key(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    arrays = {"logits": LOGITS, "features": LOGITS + 1}
    if kind == ".npz":
        np.savez(path, **arrays)
    elif kind == ".pt":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    elif kind == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(arrays, path)
    elif kind == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.update(arrays)
    else:
        pytest.importorskip("zarr").save(str(path), **arrays)
    np.testing.assert_array_equal(files.read_logits(path, key="features"), LOGITS + 1)
    with pytest.raises(ValueError, match="2 arrays, 'features', 'logits'; choose one"):
        files.read_logits(path)
    with pytest.raises(ValueError, match="no array 'scores', but 'features', 'logits'"):
        files.read_logits(path, key="scores")


def test_half_precision_that_numpy_has_not_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.tensor(LOGITS).bfloat16(), tmp_path / "a.pt")
    expected = torch.tensor(LOGITS).bfloat16().float().numpy()
    np.testing.assert_array_equal(files.read_logits(tmp_path / "a.pt"), expected)


@pytest.mark.parametrize("logits", [LOGITS, np.stack([LOGITS, LOGITS + 1], axis=1)])
def test_a_batch_of_one_and_labels_last_are_turned_round(tmp_path, logits):
    np.save(tmp_path / "batch.npy", logits[None])
    np.save(tmp_path / "last.npy", np.moveaxis(logits, 0, -1))
    np.save(tmp_path / "both.npy", np.moveaxis(logits, 0, -1)[None])
    np.testing.assert_array_equal(files.read_logits(tmp_path / "batch.npy"), logits)
    for name in ("last", "both"):
        found = files.read_logits(tmp_path / f"{name}.npy", labels_last=True)
        np.testing.assert_array_equal(found, logits)


def test_arrays_of_the_other_byte_order_are_read(tmp_path):
    np.save(tmp_path / "a.npy", LOGITS.astype(">f4"))
    np.testing.assert_array_equal(files.read_logits(tmp_path / "a.npy"), LOGITS)


@pytest.mark.parametrize(
    "array, words",
    [
        (np.zeros((3, 4), np.float32), r"\(3, 4\); they must be \[L, H, W\]"),
        (np.zeros((3, 4, 5), np.int8), "int8; they must be floating point"),
        (np.zeros((3, 4, 5), bool), "bool; they must be floating point"),
    ],
)
def test_arrays_that_are_no_logits_are_refused_by_name(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises((TypeError, ValueError), match=f"a.npy: .*{words}"):
        files.read_logits(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_marginals_of_some_labels_are_not_taken_for_those_of_the_first(tmp_path, dtype):
    q = RNG.random((1, 3, 5))
    q = np.concatenate([q, 1 - q]).astype(dtype)
    for classes in ([0, 1], [3, 1]):
        files.write_marginals(tmp_path / "a.npz", q, classes=np.array(classes))
        if classes == [0, 1]:
            found = files.read_logits(tmp_path / "a.npz", key="marginals", kind="probabilities")
            np.testing.assert_allclose(np.exp(found), q, atol=1e-3)
            continue
        with pytest.raises(ValueError, match="a.npz: holds maps of the labels 3, 1 "):
            files.read_logits(tmp_path / "a.npz", key="marginals", kind="probabilities")


def test_an_array_of_classes_must_name_each_map_once(tmp_path):
    for classes in ([0, 1, 2], [1, 1], [-1, 1], [0.0, 1.0], 2):
        np.savez(tmp_path / "a.npz", marginals=np.ones((2, 3, 5)), classes=classes)
        with pytest.raises(ValueError, match="a.npz: its array 'classes' must hold the labels of"):
            files.read_logits(tmp_path / "a.npz", key="marginals")
    np.savez(tmp_path / "a.npz", logits=np.ones((2, 3, 5)), classes=[7])  # of another meaning
    assert files.read_logits(tmp_path / "a.npz", key="logits").shape == (2, 3, 5)


# torch warns of the protocol of raw.pt, which the test writes without torch.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_pickles_are_refused_and_nothing_in_them_runs(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    names = ["objects.npy", "objects.npz", "raw.npy"]
    if importlib.util.find_spec("torch") is not None:
        torch = importlib.import_module("torch")
        torch.save(Trap(tmp_path / "sprung"), tmp_path / "trap.pt")
        names += ["raw.pt", "trap.pt"]
    for name in names:
        with pytest.raises(ValueError, match=f"{name}: .*(may run any|can run arbitrary) code"):
            files.read_logits(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", [k for k in WRITERS if k != ".zarr"])
def test_a_file_cut_short_anywhere_is_named_or_whole(tmp_path, kind):
    """No other exception, and never other numbers than those that were written."""
    path = tmp_path / f"a{kind}"
    WRITERS[kind](path, LOGITS)
    whole = path.read_bytes()
    for length in {0, 1, 5, *np.linspace(6, len(whole) - 1, 23).astype(int).tolist()}:
        path.write_bytes(whole[:length])
        try:
            found = files.read_logits(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(found, LOGITS)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    for name in ("a.h5", "a.safetensors", "a.zarr", "a.nii"):
        (tmp_path / name).touch()
    for module in ("h5py", "safetensors", "zarr", "nibabel"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("a.h5", "a.safetensors", "a.zarr", "a.nii"):
        with pytest.raises(ImportError, match=rf"{name}: .*pip install 'densecrf-rnn\[files\]'"):
            files.read_logits(tmp_path / name)


@given(npst.arrays(np.uint16, (2, 7)))
def test_halves_are_widened_as_numpy_does(bits):
    array = bits.view(np.float16)
    np.testing.assert_array_equal(halves.widened(array), array.astype(np.float32))


def test_all_halves_are_widened_as_numpy_does():
    array = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    np.testing.assert_array_equal(halves.widened(array), array.astype(np.float32))
    assert np.signbit(halves.widened(np.array([[-0.0]], np.float16)))


@given(npst.arrays(np.float32, (2, 9), elements=st.floats(0, 1, width=32) | st.just(np.nan)))
def test_marginals_are_narrowed_as_numpy_does(q):
    np.testing.assert_array_equal(halves.narrowed(q), q.astype(np.float16))


@given(npst.arrays(np.float32, (2, 9), elements=st.floats(-30, 0, width=32)))
def test_small_marginals_are_narrowed_as_numpy_does(exponents):
    q = np.exp2(exponents)
    np.testing.assert_array_equal(halves.narrowed(q), q.astype(np.float16))


# --- images and label maps -----------------------------------------------------------------------


@pytest.fixture
def pictures():
    return pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("RGBA", 3), ("L", 1), ("P", 3), ("1", 1)])
def test_pictures_come_with_their_colours_and_without_alpha(tmp_path, pictures, mode, channels):
    picture = pictures.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.png")
    found = files.read_image(tmp_path / "a.png")
    assert found.shape == (5, 6, channels) and found.dtype == np.uint8
    expected = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    np.testing.assert_array_equal(found.squeeze(), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3), (4, 5, 6), (4, 5, 6, 3)])
def test_tiffs_keep_their_depth(tmp_path, dtype, shape):
    tifffile = pytest.importorskip("tifffile")
    pixels = (RNG.random(shape) * 60000 % np.iinfo(np.uint8 if dtype == np.uint8 else "u2").max)
    pixels = pixels.astype(dtype)
    colours = shape[-1] == 3
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb" if colours else "minisblack")
    found = files.read_image(tmp_path / "a.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels if colours else pixels[..., None])


def test_sixteen_bit_grey_is_kept_and_sixteen_bit_colour_is_not_cut_in_silence(tmp_path, pictures):
    grey = RNG.integers(0, 65536, (5, 6), dtype=np.uint16)
    pictures.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(files.read_image(tmp_path / "grey.png")[..., 0], grey)
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x10\2\0\0\0"
    (tmp_path / "deep.png").write_bytes(head)
    with pytest.raises(ValueError, match="deep.png: PNG with 16 bits per colour"):
        files.read_image(tmp_path / "deep.png")


def test_an_array_of_three_axes_is_a_volume_where_the_logits_are(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.int16))
    assert files.read_image(tmp_path / "a.npy").shape == (4, 5, 6)
    assert files.read_image(tmp_path / "a.npy", axes=3).shape == (4, 5, 6, 1)


@given(npst.arrays(np.int64, npst.array_shapes(min_dims=2, max_dims=2, max_side=9),
                   elements=st.one_of(st.integers(0, 255), st.integers(0, 65535))))  # fmt: skip
def test_labels_come_back_from_a_png(tmp_path, labels):
    pytest.importorskip("PIL")
    files.write_labels(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(files.read_labels(tmp_path / "a.png"), labels)


def test_labels_that_a_png_cannot_hold_are_refused_and_never_wrap(tmp_path):
    for wrong in (np.array([[65536]]), np.zeros((2, 2, 2), int)):
        with pytest.raises(ValueError, match=r"PNG holds labels 0\.\.65535 in two axes"):
            files.write_labels(tmp_path / "a.png", wrong)
    with pytest.raises(ValueError, match="at least 0"):
        files.write_labels(tmp_path / "a.png", np.array([[-1]]))
    assert not any(tmp_path.iterdir())


def test_a_palette_is_kept_and_is_that_of_voc_otherwise(tmp_path):
    pytest.importorskip("PIL")
    labels, colours = np.array([[0, 3]]), RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    files.write_labels(tmp_path / "own.png", labels, palette=colours)
    files.write_labels(tmp_path / "voc.png", labels)
    np.testing.assert_array_equal(files.read_palette(tmp_path / "own.png"), colours)
    np.testing.assert_array_equal(files.read_palette(tmp_path / "voc.png"), samples.palette())
    np.testing.assert_array_equal(files.read_labels(tmp_path / "own.png"), labels)
    np.testing.assert_array_equal(files.read_image(tmp_path / "own.png")[0, 1], colours[3])


def test_colours_are_no_label_map(tmp_path, pictures):
    pictures.new("RGB", (2, 2), "red").save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds colours; a label map has one channel"):
        files.read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_labels_of_few_bits_are_not_stretched(tmp_path, pictures, bits):
    """Programs that make PNGs smaller store few labels in few bits."""

    def chunk(name, data):
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    labels = RNG.integers(0, 2**bits, (5, 8), dtype=np.uint8)
    digits = np.unpackbits(labels[..., None], axis=-1)[..., 8 - bits :].reshape(5, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(digits, axis=-1))
    head = struct.pack(">IIBBBBB", 8, 5, bits, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    np.testing.assert_array_equal(files.read_labels(tmp_path / "a.png"), labels)


LARGEST = [1, 5, 20, 100, 255, 1000, 4095, 65535]  # values that headers of PGM and PPM may name


def write_netpbm(path, kind, samples, most):
    """Write samples [H, W] or [H, W, 3] as PGM or PPM of the kind "P2", "P3", "P5" or "P6"."""
    height, width = samples.shape[:2]
    head = b"%s # a comment\n#9 9\n%d %d\n# 7\n%d\n" % (kind.encode(), width, height, most)
    if kind in ("P2", "P3"):
        data = b"# 8 8\n" + b"\n".join(b"%d" % value for value in samples.ravel())
    else:
        data = samples.astype(np.uint8 if most < 256 else ">u2").tobytes()
    path.write_bytes(head + data)


@pytest.mark.parametrize("most", LARGEST)
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_every_value_of_a_pgm_and_ppm_is_read_as_it_is_stored(tmp_path, pictures, kind, most):
    values = np.resize(np.arange(most + 1), (2, (most + 2) // 2))
    colours = np.stack([values, most - values, values[:, ::-1]], -1)
    samples = values if kind in ("P2", "P5") else colours
    write_netpbm(tmp_path / "a.ppm", kind, samples, most)
    image = files.read_image(tmp_path / "a.ppm")
    np.testing.assert_array_equal(image, samples.reshape(*values.shape, -1))
    assert image.dtype == (np.uint8 if most < 256 else np.uint16)


@pytest.mark.parametrize("most", LARGEST)
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_labels_and_masks_in_a_pgm_and_ppm_are_not_stretched(tmp_path, pictures, kind, most):
    labels = np.resize(np.arange(most + 1), (2, (most + 2) // 2))
    stored = labels if kind in ("P2", "P5") else np.repeat(labels[..., None], 3, -1)
    write_netpbm(tmp_path / "a.ppm", kind, stored, most)
    np.testing.assert_array_equal(files.read_labels(tmp_path / "a.ppm"), labels)
    np.testing.assert_array_equal(files.read_mask(tmp_path / "a.ppm"), labels > 0)


@pytest.mark.parametrize("most", [1, 100, 255, 4095, 65535])
def test_the_largest_value_of_a_pgm_of_probabilities_stands_for_1(tmp_path, pictures, most):
    values = np.array([[0, most // 2, most]])
    write_netpbm(tmp_path / "a.pgm", "P5", values, most)
    maps = files.read_maps(tmp_path / "a.pgm")
    np.testing.assert_allclose(maps[0] / np.iinfo(maps.dtype).max, values / most, atol=2e-3)


def test_a_pgm_whose_header_is_wrong_is_refused(tmp_path, pictures):
    write_netpbm(tmp_path / "a.pgm", "P5", np.array([[3, 200]]), 100)
    for read in (files.read_image, files.read_labels):
        with pytest.raises(ValueError, match="holds 200, but its header says that 100 is the larg"):
            read(tmp_path / "a.pgm")
    (tmp_path / "b.pgm").write_bytes(b"P5 2 1 10#\n0 \0\1")  # Pillow takes this for 100
    with pytest.raises(ValueError, match="header does not begin with three plain numbers"):
        files.read_image(tmp_path / "b.pgm")


BLOCKS = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
WEBP = {
    "plain": {}, "extended": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
    "animated": {"save_all": True},
}  # fmt: skip


@pytest.mark.parametrize("values, kept", [((0, 255), True), ((0, 1), False), ((2, 3), False)])
@pytest.mark.parametrize("end", ["jpg", "webp"])
def test_two_labels_in_a_lossy_file_are_taken_if_they_are_black_and_white(
    tmp_path, end, values, kept
):
    """Of nearly equal labels such a file keeps little, and what it keeps may be any two values."""
    pil = pytest.importorskip("PIL.Image")
    labels = np.full((16, 16), values[0], np.uint8)
    labels[:, 8:] = values[1]
    options = {"quality": 100} if end == "jpg" else {"quality": 100, "method": 6}
    pil.fromarray(labels).save(tmp_path / f"a.{end}", **options)
    found = np.unique(np.asarray(pil.open(tmp_path / f"a.{end}")))
    if len(found) < 2:
        return  # nothing is left to tell it by
    if kept:
        assert files.read_labels(tmp_path / f"a.{end}").max() == 255
    else:
        with pytest.raises(ValueError, match="changes labels where they meet"):
            files.read_labels(tmp_path / f"a.{end}")


@pytest.mark.parametrize("container", WEBP)
@pytest.mark.parametrize("lossless", [False, True])
def test_labels_in_a_lossy_webp_are_refused(tmp_path, pictures, container, lossless):
    first, more = pictures.fromarray(BLOCKS), dict(WEBP[container], lossless=lossless)
    if container == "animated":
        more["append_images"] = [pictures.fromarray(255 - BLOCKS)]
    first.save(tmp_path / "a.webp", **more)
    assert (b"VP8X" in (tmp_path / "a.webp").read_bytes()) == (container != "plain")
    if lossless:
        np.testing.assert_array_equal(files.read_labels(tmp_path / "a.webp"), BLOCKS)
        return
    for read in (files.read_labels, files.read_mask):
        with pytest.raises(ValueError, match="values, but lossy WebP changes labels where they"):
            read(tmp_path / "a.webp")
    assert files.read_image(tmp_path / "a.webp").shape[:2] == BLOCKS.shape


def test_a_tiff_with_a_palette_is_an_image_of_colours_and_a_map_of_indices(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    indices = RNG.integers(0, 256, (5, 6), dtype=np.uint8)
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", indices, photometric="palette", colormap=colours.T.astype("u2") * 257
    )
    np.testing.assert_array_equal(files.read_image(tmp_path / "a.tif"), colours[indices])
    np.testing.assert_array_equal(files.read_labels(tmp_path / "a.tif"), indices)


def test_whole_numbers_in_floating_point_are_labels_and_fractions_are_not(tmp_path):
    np.save(tmp_path / "whole.npy", np.array([[0.0, 7.0]]))
    assert files.read_labels(tmp_path / "whole.npy").tolist() == [[0, 7]]
    for wrong, words in ((0.5, "fractions"), (1e30, "fractions"), (np.nan, "NaN or infinity")):
        np.save(tmp_path / "wrong.npy", np.array([[wrong]]))
        with pytest.raises(ValueError, match=words):
            files.read_labels(tmp_path / "wrong.npy")


# --- volumes -------------------------------------------------------------------------------------


@pytest.fixture
def nibabel():
    return pytest.importorskip("nibabel")


AFFINE = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_volumes_are_turned_round_and_carry_their_spacing(tmp_path, nibabel, end):
    stored = RNG.integers(-1000, 3000, (5, 6, 7)).astype(np.int16)  # x, y, z
    path = tmp_path / f"a{end}"
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE), path)
    image = files.read_image(path)
    np.testing.assert_array_equal(image, stored.transpose(2, 1, 0)[..., None])
    assert files.read_spacing(path) == (4.0, 2.0, 1.5)
    assert files.read_spacing("a.png") is None


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_big_endian_volumes_are_read_in_native_byte_order(tmp_path, nibabel, end, dtype):
    stored = RNG.integers(0, 3000, (5, 6, 7)).astype(f">{dtype}")
    path = tmp_path / f"a{end}"
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE, header), path)
    assert not nibabel.load(path).get_data_dtype().isnative
    image, maps, labels = (
        read(path) for read in (files.read_image, files.read_maps, files.read_labels)
    )
    assert all(found.dtype.isnative for found in (image, maps, labels))
    np.testing.assert_array_equal(image[..., 0], stored.T)
    np.testing.assert_array_equal(maps[0], stored.T)
    np.testing.assert_array_equal(labels, stored.T)
    np.testing.assert_array_equal(files.read_mask(path), stored.T != 0)
    logits = np.zeros((2, *image.shape[:3]), np.float32)
    assert refine(logits, image).shape == logits.shape  # which takes native byte order only


def test_logits_and_channels_of_volumes_are_the_fourth_axis(tmp_path, nibabel):
    stored = RNG.normal(size=(5, 6, 7, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(
        files.read_logits(tmp_path / "a.nii.gz"), stored.transpose(3, 2, 1, 0)
    )
    np.testing.assert_array_equal(
        files.read_image(tmp_path / "a.nii.gz"), stored.transpose(2, 1, 0, 3)
    )


def test_colours_in_nifti_are_refused(tmp_path, nibabel):
    colours = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match="a.nii: a NIfTI file of colours; save"):
        files.read_image(tmp_path / "a.nii")


def test_scaled_volumes_are_in_the_units_of_their_header(tmp_path, nibabel):
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), AFFINE)
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "a.nii")
    found = files.read_image(tmp_path / "a.nii")[..., 0]
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").get_fdata()).T
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize("most", [4, 255, 256, 70000])
def test_label_volumes_keep_affine_units_and_orientation(tmp_path, nibabel, most):
    like = nibabel.Nifti1Image(np.zeros((5, 6, 7), np.float32), AFFINE)
    like.header.set_slope_inter(3, 1)
    like.header.set_xyzt_units("mm")
    like.set_qform(AFFINE, code=1)
    nibabel.save(like, tmp_path / "image.nii.gz")
    labels = RNG.integers(0, most + 1, (7, 6, 5))
    labels[0, 0, 0] = most
    files.write_labels(tmp_path / "a.nii.gz", labels, like=tmp_path / "image.nii.gz")
    written = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE)
    assert written.header.get_xyzt_units()[0] == "mm" and written.get_data_dtype().kind in "iu"
    np.testing.assert_array_equal(files.read_labels(tmp_path / "a.nii.gz"), labels)


# --- what belongs together -----------------------------------------------------------------------


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_files_are_paired_by_stem_and_lonely_ones_are_named(tmp_path):
    a = touch(tmp_path / "a", "x.npy", "y.npz", "z.npy", "notes.txt", ".hidden.npy")
    b = touch(tmp_path / "b", "x.JPG", "y.nii.gz", "w.png")
    found, missing = files.pair(a, b)
    assert [(m.stem, *(p.name for p in m.paths)) for m in found] == [
        ("x", "x.npy", "x.JPG"), ("y", "y.npz", "y.nii.gz"),
    ]  # fmt: skip
    assert missing == [f"{a / 'z.npy'}: no file z.* in {b}"]


def test_suffixes_and_patterns_pick_files(tmp_path):
    folder = touch(
        tmp_path / "a", "p.image.png", "p.labels.png", "p.logits.npz", "q.logits.npz", "q.image.png"
    )
    found, missing = files.pair(folder, folder, suffixes=(".logits", ".image"))
    assert [m.stem for m in found] == ["p", "q"] and not missing
    assert found[0].paths[1].name == "p.image.png"
    by_pattern, _ = files.pair(f"{folder}/*.npz", f"{folder}/*.image.png",
                               suffixes=(".logits", ".image"))  # fmt: skip
    assert by_pattern == found


def test_single_files_belong_together_whatever_their_names(tmp_path):
    a = touch(tmp_path / "a", "scores.npy") / "scores.npy"
    b = touch(tmp_path / "b", "photo.jpg") / "photo.jpg"
    assert files.pair(a, b).found == [files.Match("scores", (a, b))]


def test_two_files_of_one_stem_are_refused(tmp_path):
    a, b = touch(tmp_path / "a", "x.npy", "x.npz"), touch(tmp_path / "b", "x.png")
    with pytest.raises(ValueError, match="x.npy and .*x.npz have the same stem; .* give a pattern"):
        files.pair(a, b)
    with pytest.raises(ValueError, match="have the same stem"):
        files.pair(b, a)
    assert len(files.pair(a / "*.npz", b).found) == 1


def test_places_without_files_or_without_pairs_are_refused(tmp_path):
    a, b = touch(tmp_path / "a", "x.npy"), touch(tmp_path / "b", "y.png")
    empty = touch(tmp_path / "c", "notes.txt")
    with pytest.raises(ValueError, match="no file of .* has the stem.*such as 'x' and 'y'"):
        files.pair(a, b)
    with pytest.raises(ValueError, match="such as 'x' and 'y'"):
        files.pair(a, a, b)
    with pytest.raises(ValueError, match="has no files of a known kind"):
        files.pair(a, empty)
    with pytest.raises(ValueError, match="has no files that end in '_0000'"):
        files.pair(a, b, suffixes=("", "_0000"))
    with pytest.raises(FileNotFoundError):
        files.pair(a, tmp_path / "nowhere")


# --- whole or not at all -------------------------------------------------------------------------


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError):
        with files.replaced(path) as partial:
            partial.write_text("half")
            raise RuntimeError
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_named_with_the_file_that_was_wanted(tmp_path):
    with pytest.raises(OSError) as caught:
        with files.replaced(tmp_path / "a.npz"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a.npz")
    assert not any(tmp_path.iterdir())


def test_an_error_with_a_message_of_its_own_keeps_it(tmp_path):
    """As PIL and h5py raise them: without a number, a file name would take the message's place."""
    with pytest.raises(OSError, match="encoder error -2"):
        with files.replaced(tmp_path / "a.png"):
            raise OSError("encoder error -2")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz"])
def test_every_writer_says_that_the_disk_is_full(tmp_path, monkeypatch, name):
    """/dev/full takes no byte; the partial file is made a link to it."""
    pytest.importorskip("PIL")
    monkeypatch.setattr("densecrf_rnn._atomic._remove", lambda path: None)
    partial = tmp_path / f".part-{os.getpid()}-"
    monkeypatch.setattr("densecrf_rnn._atomic._COUNT", iter([0]))
    Path(f"{partial}0-{name}").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        files.write_labels(tmp_path / name, np.zeros((9, 9), int))
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / name).exists()


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    touch(tmp_path, ".part-1-0-a.png", "a.png", ".hidden")
    (tmp_path / ".part-1-1-b.zarr").mkdir()
    touch(tmp_path / ".part-1-1-b.zarr", "chunk")
    assert files.remove_leftovers(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "a.png"]


def test_leftovers_of_processes_that_have_ended_are_removed_for_one_path(tmp_path):
    """As `evaluate --json` leaves them in a folder where others may be writing."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, theirs = f".part-{os.getpid()}-999999-a.json", f".part-{ended.pid}-0-a.json"
    touch(tmp_path, mine, theirs, f".part-{ended.pid}-0-b.json", ".part-x-a.json", "a.json")
    files.write_settings(tmp_path / "a.json", files.Settings())
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine, f".part-{ended.pid}-0-b.json", ".part-x-a.json", "a.json"}


def test_a_disk_that_does_not_return_a_tiff_does_not_make_it_a_picture(tmp_path, monkeypatch):
    """Its label map would be written as .png, in place of .tif."""

    def unreadable(path, stack):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a.tif").write_bytes(b"II*")
    assert not files.is_geotiff(tmp_path / "a.tif")
    monkeypatch.setattr(files.tiff, "_layout", unreadable)
    with pytest.raises(OSError, match=r"a\.tif") as caught:
        files.is_geotiff(tmp_path / "a.tif")
    assert caught.value.errno == errno.EIO


def test_a_disk_that_does_not_return_the_attributes_of_a_zarr_folder_does_not_make_it_an_array(
    tmp_path, monkeypatch
):
    """Its pixels would be read without their place."""
    from densecrf_rnn.files.ome_zarr import is_ome_zarr

    def unreadable(path, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
    assert not is_ome_zarr(tmp_path / "a.zarr")
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert is_ome_zarr(tmp_path / "a.zarr")


# --- settings ------------------------------------------------------------------------------------

weights = st.one_of(
    st.floats(-100, 100), st.lists(st.floats(-100, 100), min_size=1, max_size=4).map(tuple)
)
params = st.builds(
    CRFParams, theta_alpha=st.floats(1e-3, 1e3), theta_beta=st.floats(1e-3, 1e3),
    w_bilateral=weights, w_spatial=weights, self_term=st.booleans(),
    normalization=st.sampled_from(NORMALIZATIONS),
    quality=st.sampled_from(QUALITIES),
)  # fmt: skip


@given(params, st.integers(0, 100), st.booleans())
@settings(max_examples=20)
def test_settings_come_back_from_json_to_the_last_bit(tmp_path, params, iterations, with_matrix):
    mu = np.random.default_rng(iterations).normal(size=(3, 3)) if with_matrix else None
    files.write_settings(tmp_path / "a.json", files.Settings(params, iterations, mu))
    found = files.read_settings(tmp_path / "a.json")
    assert found.params == params and found.iterations == iterations
    np.testing.assert_array_equal(found.compatibility, mu)
    assert CRFParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not valid settings in JSON"),
        ("[]", "must be an object"),
        ('{"parms": {}}', "'parms'; they may hold 'params'"),
        ('{"params": {"theta": 1}}', "'theta': unknown parameter; choose from theta_alpha"),
        ('{"params": {"theta_beta": 0}}', "theta_beta is 0"),
        ('{"params": []}', "params must be a mapping"),
        ('{"iterations": -1}', "iterations is -1"),
        ('{"iterations": 2.5}', "integer"),
        ('{"compatibility": [[0, 1]]}', r"\(1, 2\)"),
        ('{"compatibility": [[0], [1, 2]]}', "lists of L numbers"),
        ('{"compatibility": [[NaN]]}', "NaN"),
    ],
)
def test_settings_that_are_none_are_refused_in_one_sentence(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        files.read_settings(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value) and "\n" not in str(caught.value)


# --- records -------------------------------------------------------------------------------------


def test_a_checksum_is_that_of_sha256sum_and_changes_with_any_file_of_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert checksum(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    folder = touch(tmp_path / "b.zarr", "0")
    before = checksum(folder)
    (folder / "0").write_text("chunk")
    assert checksum(folder) != before


def test_a_file_is_done_if_outputs_are_there_and_inputs_and_options_are_the_same(tmp_path):
    record = Record(tmp_path, "run", {"T": 5})
    inputs = {"logits": (Path("a.npy"), "12ab")}
    assert not record.is_done("a", {"logits": "12ab"})
    touch(tmp_path, "a.png")
    (tmp_path / "b.zarr").mkdir()
    record.add("a", inputs, ["a.png", "b.zarr"])
    assert record.is_done("a", {"logits": "12ab"})
    (tmp_path / "b.zarr").rmdir()
    assert not record.is_done("a", {"logits": "12ab"})
    (tmp_path / "b.zarr").mkdir()
    assert not record.is_done("a", {"logits": "34cd"})
    assert not record.is_done("a", {"logits": "12ab", "mask": "56ef"})
    record.close(command="x")
    assert not (tmp_path / "run.jsonl").exists()
    for options, done in (({"T": 5}, True), ({"T": 6}, False)):
        again = Record(tmp_path, "run", options)
        assert again.is_done("a", {"logits": "12ab"}) is done
        again.close()


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    record = Record(tmp_path, "run", {})
    for stem in "ab":
        record.add(stem, {"logits": (Path(stem), stem)}, [])
    lines = (tmp_path / "run.jsonl").read_bytes()
    os.close(record._held)  # as if killed
    (tmp_path / "run.jsonl").write_bytes(lines[:-20])
    again = Record(tmp_path, "run", {})
    assert again.is_done("a", {"logits": "a"}) and not again.is_done("b", {"logits": "b"})
    again.add("c", {"logits": (Path("c"), "c")}, [])
    os.close(again._held)
    third = Record(tmp_path, "run", {})
    assert third.is_done("a", {"logits": "a"}) and third.is_done("c", {"logits": "c"})
    third.close()
    assert sorted(json.loads((tmp_path / "run.json").read_text())["files"]) == ["a", "c"]


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    record = Record(tmp_path, "run", {})
    with pytest.raises(FolderInUseError, match="another run is writing"):
        Record(tmp_path, "run", {})
    record.close()
    Record(tmp_path, "run", {}).close()


ENTRY = {"options": "0", "inputs": {"logits": {"path": "a", "sha256": "a"}}, "outputs": {"a": 1}}
# JSON of a wrong form: every value of a record replaced by one of another kind.
NO_ENTRIES = [
    *({**ENTRY, name: value} for name in ENTRY for value in (3, None, [], "text", {"a": "b"})
      if not (name == "options" and value == "text") and ENTRY[name] != value),
    {}, [], 7, None, {"options": "0"},
]  # fmt: skip
NO_RECORDS = [
    "{", "[]", "{}", "7", "null", "[" * 100_000, "{\"a\":" * 100_000,
    '{"options": 1, "files": 2}', '{"options": [], "files": {}}',
    '{"options": {"0": 3}, "files": {}}',
    *(json.dumps({"options": {"0": {}}, "files": {"a": entry}}) for entry in NO_ENTRIES),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NO_RECORDS)))
def test_a_line_of_another_form_in_a_journal_is_skipped(tmp_path, number):
    record = Record(tmp_path, "run", {})
    record.add("b", {"logits": (Path("b"), "b")}, [])
    os.close(record._held)  # as if killed
    with open(tmp_path / "run.jsonl", "a") as journal:
        journal.write(NO_RECORDS[number] + "\n")
    again = Record(tmp_path, "run", {})
    assert again.is_done("b", {"logits": "b"}) and not again.is_done("a", {"logits": "a"})
    again.outdated(["a", "b"])
    again.close()
    Record(tmp_path, "run", {}).close()


@pytest.mark.parametrize("text", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_a_record_that_is_none_is_not_overwritten(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match="not the record of an earlier run"):
        Record(tmp_path, "run", {})
    assert (tmp_path / "run.json").read_text() == text


def test_reading_a_picture_imports_no_format_that_it_does_not_need(tmp_path):
    """Pillow imports forty formats if it is asked for one that it has not imported."""
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.jpg")
    code = """
import sys
from densecrf_rnn import files
files.read_image(sys.argv[1])
print("PIL.PdfParser" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.jpg")], capture_output=True, text=True
    )
    assert found.stdout == "False\n", found.stderr


def test_a_file_is_hashed_while_it_is_read_and_with_what_follows_the_array(tmp_path):
    path = tmp_path / "a.npy"
    array = np.arange(600_000, dtype=np.float32).reshape(2, 3, -1)
    np.save(path, array)
    with open(path, "ab") as file:
        file.write(b"and more" * 1000)
    with hashing.noted() as notes:
        np.testing.assert_array_equal(files.read_logits(path), array)
        assert notes == {path: checksum(path)}
    files.read_logits(path)
    assert len(notes) == 1


def test_a_file_that_cannot_be_read_has_no_checksum(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3, 4), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with hashing.noted() as notes, pytest.raises(ValueError, match="cut short"):
        files.read_logits(path)
    assert notes == {}


@pytest.mark.parametrize("kind", ["probability", "labels", "Logits", None])
def test_a_kind_that_is_not_known_is_not_read_as_logits(tmp_path, kind):
    np.save(tmp_path / "a.npy", LOGITS)
    with pytest.raises(ValueError, match=f"kind is {kind!r}; choose from 'logits', 'probab"):
        files.read_logits(tmp_path / "a.npy", kind=kind)


def test_only_probabilities_are_clipped(tmp_path):
    np.save(tmp_path / "a.npy", LOGITS)
    with pytest.raises(ValueError, match="clip is about probabilities, but kind is 'logits'; pass"):
        files.read_logits(tmp_path / "a.npy", clip=True)


def test_words_that_are_not_known_are_refused_for_every_kind_of_file(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, LOGITS)
    with pytest.raises(ValueError, match="use is 'label'; choose from 'scores', 'image', 'labels'"):
        files.read_valid(path, "label")
    with pytest.raises(ValueError, match="upsample is 'center'; choose from 'corners', 'centers'"):
        files.aligned(LOGITS, path, path, upsample="center")


MARGINALS = np.full((2, 4, 5), 0.5, np.float32)


@pytest.mark.parametrize(
    ("write", "name", "kind", "words"),
    [
        (lambda path: files.write_labels(path, np.eye(3, dtype=int), palette="voc"), "a.png",
         TypeError, "palette is 'voc'; .* or 'none'; leave it out for Pascal VOC's"),
        (lambda path: files.write_labels(path, np.eye(3, dtype=int), palette="nnone"), "a.npy",
         TypeError, "palette is 'nnone'"),
        (lambda path: files.write_labels(path, np.eye(3, dtype=int), palette=[[0, 0, 0]]), "a.png",
         TypeError, r"palette is list; give the colours .* uint8 array \[256, 3\]"),
        (lambda path: files.write_labels(path, np.eye(3, dtype=int), palette=np.ones((2, 3))),
         "a.png", ValueError, "palette has shape .2, 3. and dtype float64"),
        (lambda path: files.write_labels(path, np.array([[2]]), palette=np.eye(2, 3, dtype="u1")),
         "a.png", ValueError, "holds the label 2, but palette lists 2 colours; list one for each"),
        (lambda path: files.write_labels(path, [[0, 1]]), "a.png", TypeError, "labels is list"),
        (lambda path: files.write_labels(path, pytest.importorskip("torch").ones(2, 2).long()),
         "a.png", TypeError, r"labels is Tensor; .*x.detach\(\).cpu\(\).numpy\(\)"),
        (lambda path: files.write_marginals(path, MARGINALS, dtype=np.float16), "a.npz",
         ValueError, "dtype is .*float16.*; choose from 'float16', 'float32'"),
        (lambda path: files.write_marginals(path, MARGINALS, dtype="f2"), "a.npz",
         ValueError, "dtype is 'f2'; choose from 'float16', 'float32'"),
        (lambda path: files.write_marginals(path, MARGINALS[0]), "a.npz",
         ValueError, r"q has shape \(4, 5\) and dtype float32; marginals are \[L, H, W\]"),
        (lambda path: files.write_marginals(path, MARGINALS.tolist()), "a.npz",
         TypeError, "q is list"),
        (lambda path: files.write_marginals(path, 8 * LOGITS), "a.npz",
         ValueError, r"q holds -\d.*, but probabilities lie in 0..1; refine logits first"),
        (lambda path: files.write_marginals(path, MARGINALS, classes=np.arange(3)), "a.npz",
         ValueError, "classes must hold the labels of the 2 maps, integers of at least 0, each"),
        (lambda path: files.write_marginals(path, MARGINALS, classes=np.array([0.5, 1])), "a.npz",
         ValueError, "classes must hold the labels of the 2 maps"),
        (lambda path: files.write_marginals(path, MARGINALS, classes=[3, 3]), "a.npz",
         ValueError, "classes must hold the labels of the 2 maps"),
        (lambda path: files.write_saliency(path, np.array([[0.5, 1.5]])), "a.png",
         ValueError, r"p holds 0\.\.1.5, but .* with outliers pass p.clip\(0, 1\)"),
        (lambda path: files.write_saliency(path, np.array([[-0.5, 1]])), "a.png",
         ValueError, r"p holds -0.5\.\.1, but probabilities lie in 0\.\.1"),
        (lambda path: files.write_saliency(path, np.array([[0, 255]], np.uint8)), "a.png",
         ValueError, r"p holds 0\.\.255"),
        (lambda path: files.write_settings(path, CRFParams(3, 4)), "a.json",
         TypeError, r"settings is CRFParams; it must be Settings\(params, "),
        (lambda path: files.write_raster(path, [[0, 1]]), "a.tif", TypeError, "values is list"),
    ],
)  # fmt: skip
def test_what_a_writer_cannot_write_is_refused_and_leaves_the_file(
    tmp_path, write, name, kind, words
):
    path = tmp_path / name
    path.write_bytes(b"before")
    with pytest.raises(kind, match=words):
        write(path)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_probabilities_beyond_0_and_1_by_rounding_are_written_as_these(tmp_path, dtype):
    q = np.float32([-1e-7, 0, 0.5, 1, 1 + 1e-6, np.nan]).reshape(1, 2, 3)
    wanted = np.float32([0, 0, 0.5, 1, 1, np.nan]).reshape(1, 2, 3)
    files.write_marginals(tmp_path / "a.npz", q, dtype=dtype)
    np.testing.assert_array_equal(files.read_array(tmp_path / "a.npz"), wanted)
    pytest.importorskip("PIL")
    files.write_saliency(tmp_path / "a.png", q[0, :, :2])
    found = files.read_image(tmp_path / "a.png")[..., 0]
    np.testing.assert_array_equal(found, [[0, 0], [255, 255]])


def test_a_palette_needs_no_colours_beyond_the_largest_label(tmp_path):
    pytest.importorskip("PIL")
    colours = np.array([[9, 9, 9], [255, 0, 0]], np.uint8)
    files.write_labels(tmp_path / "a.png", np.array([[0, 1]]), palette=colours)
    assert files.read_labels(tmp_path / "a.png").tolist() == [[0, 1]]
    assert files.read_palette(tmp_path / "a.png")[:2].tolist() == colours.tolist()


def test_an_npz_holds_the_arrays_it_should_and_no_more(tmp_path):
    path = tmp_path / "a.npz"
    files.write_marginals(path, MARGINALS, classes=np.array([1, 3]))
    with np.load(path) as archive:
        assert archive.files == ["marginals", "classes"]
    with pytest.raises(ValueError, match="holds maps of the labels 1, 3"):
        files.read_logits(path, key="marginals", kind="probabilities")
    files.write_marginals(path, MARGINALS, regions=True)
    assert npy.is_of_regions(path)
    files.write_labels(path, np.array([[0, 300]]))
    assert files.read_labels(path).tolist() == [[0, 300]]


def test_nifti_labels_beyond_32_bits_are_an_error_and_keep_the_file(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    like, path = tmp_path / "image.nii", tmp_path / "labels.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 1, 1), np.uint8), np.eye(4)), like)
    labels = np.array([[[2**31 - 1, 5]]], np.uint32)
    files.write_labels(path, labels, like=like)
    assert files.read_labels(path).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="in 32 bits, but the largest label is 2147483648"):
        files.write_labels(path, labels + 1, like=like)
    assert files.read_labels(path).tolist() == labels.tolist()


def test_logits_of_integers_are_a_type_error_that_names_the_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), np.int32))
    with pytest.raises(TypeError, match="a.npy: logits are int32"):
        files.read_logits(tmp_path / "a.npy")
