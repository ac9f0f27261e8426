"""Files of nnU-Net: modalities in files of their own, cropped probabilities, pickles, depth one."""

import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecrf_rnn import CRFParams, files, refine
from densecrf_rnn.cli import main
from densecrf_rnn.files import nnunet, npy, plain_pickle

pytest.importorskip("tqdm", reason="the commands need the extra cli")
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WHOLE, BOX = (5, 6, 7), [[1, 4], [0, 5], [2, 7]]
INNER = tuple(high - low for low, high in BOX)
PARAMS = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    monkeypatch.chdir(tmp_path)
    for name in ("logits", "images", "out"):
        (tmp_path / name).mkdir()
    return tmp_path


def run(*options, logits="logits", images="images", out="out"):
    return main(["refine", logits, images, "-o", out, "--iterations", "1", *options])


def softmax(size, labels=3, seed=0):
    scores = np.exp(np.random.default_rng(seed).normal(0, 2, (labels, *size)))
    return (scores / scores.sum(0)).astype(np.float16)


def scan(size=WHOLE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def write_nifti(path, volume, affine=None):
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([1.0, 1, 1, 1]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(volume.T), affine), path)


def properties(version=1):
    """What nnU-Net stores, in the types that it stores it in."""
    if version == 1:
        return OrderedDict(
            original_size_of_raw_data=np.array(WHOLE), original_spacing=np.array([1.0, 1, 1]),
            list_of_data_files=["case_0000.nii.gz"], seg_file=None, itk_origin=(0.0, 0.0, 0.0),
            crop_bbox=BOX, classes=np.array([-1, 0, 1], np.float32), size_after_cropping=INNER,
            use_nonzero_mask_for_norm=OrderedDict([(0, np.bool_(True))]),
        )  # fmt: skip
    return {
        "sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0)},
        "spacing": [np.float64(1), 1.0, 1.0], "shape_before_cropping": WHOLE,
        "bbox_used_for_cropping": BOX, "shape_after_cropping_and_before_resampling": INNER,
    }  # fmt: skip


def write_pickle(path, value, protocol=pickle.HIGHEST_PROTOCOL):
    Path(path).write_bytes(pickle.dumps(value, protocol))


def whole(inner):
    """Maps of the box, with background around them."""
    placed = np.zeros((len(inner), *WHOLE), inner.dtype)
    placed[0] = 1
    placed[(slice(None), *(slice(*ends) for ends in BOX))] = inner
    return placed


# --- probabilities that were cropped -------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("version", "key"), [(1, "softmax"), (2, "probabilities")])
def test_a_cropped_volume_is_placed_back_and_read_as_probabilities(version, key, protocol):
    inner = softmax(INNER)
    np.savez("logits/case.npz", **{key: inner})
    write_pickle("logits/case.pkl", properties(version), protocol)
    np.save("images/case.npy", scan())
    assert run("--write", "both", "--dtype", "float32") == 0
    logits = files.read_logits("logits/case.npz", kind="probabilities")
    np.testing.assert_allclose(np.exp(logits), whole(inner).clip(1e-5), atol=1e-3)
    expected = refine(logits, scan()[..., None], PARAMS, iterations=1)
    with np.load("out/case.npz") as written:
        np.testing.assert_array_equal(written["marginals"], expected)


def test_scores_of_a_cropped_volume_are_compared_with_the_whole_truth(capsys):
    inner = softmax(INNER)
    np.savez("logits/case.npz", softmax=inner)
    write_pickle("logits/case.pkl", properties())
    np.save("images/case.npy", whole(inner).argmax(0))
    assert main(["evaluate", "logits", "images"]) == 0
    assert "mean IU" in capsys.readouterr().out


def test_maps_of_the_whole_image_stay_as_they_are():
    maps = softmax(WHOLE)
    np.savez("logits/case.npz", probabilities=maps)
    write_pickle("logits/case.pkl", properties(2))
    np.testing.assert_array_equal(files.read_maps("logits/case.npz"), maps)


def test_zeros_that_early_versions_stored_around_the_box_are_background():
    maps = whole(softmax(INNER))
    zeros = maps.copy()
    zeros[0][maps[0] == 1] = 0
    np.savez("logits/case.npz", probabilities=zeros)
    np.testing.assert_array_equal(files.read_maps("logits/case.npz"), maps)


def test_maps_of_regions_are_zero_around_the_box():
    inner = np.random.default_rng(0).random((3, *INNER)).astype(np.float16)
    np.savez("logits/case.npz", softmax=inner)
    write_pickle("logits/case.pkl", properties())
    placed = files.read_maps("logits/case.npz")
    assert placed.shape == (3, *WHOLE) and not placed[:, 0].any()


def test_regions_of_nnunet_are_refined_in_the_whole_image():
    inner = np.random.default_rng(0).random((2, *INNER)).astype(np.float16)
    np.savez("logits/case.npz", softmax=inner)
    write_pickle("logits/case.pkl", properties())
    np.save("images/case.npy", scan())
    assert run("--kind", "regions", "--write", "marginals") == 0
    with np.load("out/case.npz") as written:
        foreground = written["marginals"]
    assert foreground.shape == (2, *WHOLE) and foreground[:, 0].max() < 0.5 < foreground.max()


def test_logits_under_the_name_of_probabilities_are_refused_until_kind_says_so(capsys):
    np.savez("logits/case.npz", probabilities=np.log(softmax((4, 5)).astype(np.float32)))
    np.save("images/case.npy", scan((4, 5)))
    assert run() == 1
    assert "must lie in 0..1" in (said := capsys.readouterr().err) and "--kind logits" in said
    assert run("--kind", "logits") == 0


@pytest.mark.parametrize("version", [1, 2])
def test_maps_that_fit_neither_size_are_refused(version, capsys):
    np.savez("logits/case.npz", probabilities=softmax((4, 4, 4)))
    write_pickle("logits/case.pkl", properties(version))
    np.save("images/case.npy", scan((4, 4, 4)))
    assert run() == 1
    sizes = "maps of 4 x 4 x 4, but case.pkl next to it says 5 x 6 x 7 for the image and 3 x 5 x 5"
    assert sizes in capsys.readouterr().err
    Path("logits/case.pkl").unlink()  # moved away, as it says
    assert run() == 0


def test_properties_that_contradict_themselves_are_refused():
    np.savez("logits/case.npz", softmax=softmax(INNER))
    for wrong in ({"crop_bbox": [[3, 6], [0, 5], [2, 7]]}, {"crop_bbox": None},
                  {"size_after_cropping": [1.5, 2, 3]}):  # fmt: skip
        write_pickle("logits/case.pkl", properties() | wrong)
        with pytest.raises(ValueError, match="case.(npz|pkl): .*move "):
            files.read_maps("logits/case.npz")


def test_a_pickle_is_read_next_to_probabilities_of_nnunet_alone():
    Path("logits/case.pkl").write_bytes(b"no pickle")
    for name, array in (("scores", softmax(INNER)), ("softmax", np.zeros((2, 2)))):
        np.savez("logits/case.npz", **{name: array})
        assert formats_read("logits/case.npz").shape == array.shape
    np.savez("logits/case.npz", softmax=softmax(INNER))
    with pytest.raises(ValueError, match="case.pkl: holds .*damaged"):
        files.read_maps("logits/case.npz")


def formats_read(path):
    array = files.read_array(path)
    return nnunet.completed(Path(path), None, array)


def test_a_changed_pickle_or_modality_makes_the_result_again(capsys):
    np.savez("logits/case.npz", softmax=softmax(INNER))
    write_pickle("logits/case.pkl", properties())
    for number in (0, 1):
        np.save(f"images/case_000{number}.npy", scan(seed=number))
    suffix = ["--image-suffix", "_0000,_0001"]
    assert run(*suffix) == 0
    record = files.record.json.loads(Path("out/refine.json").read_text())
    assert list(record["files"]["case"]["inputs"]) == ["logits", "image", "image 2", "properties"]

    def refined():
        capsys.readouterr()
        assert run(*suffix) == 0
        return int(capsys.readouterr().out.split()[0])

    assert refined() == 0
    np.save("images/case_0001.npy", scan(seed=5))
    assert refined() == 1
    moved = properties() | {"crop_bbox": [[0, 3], *BOX[1:]]}
    write_pickle("logits/case.pkl", moved)
    assert refined() == 1
    suffix[1] = "_0001,_0000"  # the same files in another order
    assert refined() == 1


def test_maps_in_the_directions_of_nibabel_are_turned_to_the_image():
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[0, -2.0, 0, 9], [-1, 0, 0, 4], [0, 0, 3, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.ascontiguousarray(scan().T), affine)
    nibabel.save(image, "images/case.nii.gz")
    canonical = nibabel.as_closest_canonical(image)
    maps = softmax(WHOLE)
    turned = np.stack([
        nibabel.as_closest_canonical(nibabel.Nifti1Image(m.T.astype(np.float32), affine))
        .get_fdata().T for m in maps
    ]).astype(np.float16)  # fmt: skip
    assert turned.shape != maps.shape
    stored = {"original_affine": affine, "reoriented_affine": canonical.affine}
    np.savez("logits/case.npz", probabilities=turned)
    write_pickle("logits/case.pkl", {"nibabel_stuff": stored, "spacing": [3.0, 2.0, 1.0]})
    np.testing.assert_array_equal(files.read_maps("logits/case.npz"), maps)
    assert run() == 0


# --- pickles -------------------------------------------------------------------------------------


class Evil:
    """Runs a command when a pickle of it is read."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def objects():
    array = np.empty(1, object)
    array[0] = Evil()
    return array


MALICIOUS = {
    "alone": Evil(),
    "in a dictionary": properties() | {"crop_bbox": Evil()},
    "in a list in a list": {"a": [(1, [Evil()])]},
    "an array of objects": {"a": objects()},
    "an array of objects that are plain": {"a": np.array([None, 1], object)},
    "a structure": {"a": np.zeros(2, [("x", "f4")])},
    "a function": {"a": eval},
    "a module's function": {"a": shutil.rmtree},
    "an array of another class": {"a": np.ma.masked_array([1])},
    "a path": {"a": Path("x")},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", MALICIOUS)
def test_nothing_in_a_pickle_is_run(case, protocol):
    write_pickle("logits/case.pkl", MALICIOUS[case], protocol)
    np.savez("logits/case.npz", softmax=softmax(INNER))
    with pytest.raises(ValueError, match="nothing in it is run"):
        files.read_maps("logits/case.npz")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\nlist\nS'append'\ntR.",
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"cnumpy\ndtype\n(S'i4,O'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n}S'a'\nI1\nsb.",  # sets an attribute of a function
        b"c_codecs\nencode\n(N}S'__defaults__'\n(I1\ntstb.",
        b"Pthing\n.",
        b"\x82\x01.",
    ],
)
def test_streams_that_name_more_than_plain_values_are_refused(stream, here):
    Path("a.pkl").write_bytes(stream)
    with pytest.raises(ValueError, match="a.pkl: holds .*nothing in it is run"):
        plain_pickle.read_plain(Path("a.pkl"))
    assert not Path("ran").exists()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    write_pickle("a.pkl", value, protocol)
    assert plain_pickle.read_plain(Path("a.pkl")) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["<f8", ">i4", "u1", "?", "<f2", "<U3", "S2", "<c8"])
def test_arrays_and_scalars_are_read_as_pickle_reads_them(code, protocol):
    grid = np.arange(6).reshape(2, 3).astype(code)
    for array in (grid, grid.T, np.zeros((2, 0), code)):
        write_pickle("a.pkl", [array, *array.ravel()[:1]], protocol)
        stored, *scalars = plain_pickle.read_plain(Path("a.pkl"))
        np.testing.assert_array_equal(stored.values, array)
        assert stored.values.dtype == array.dtype
        assert scalars == list(array.ravel()[:1])


def test_the_values_of_an_array_cannot_be_changed_by_the_rest_of_the_pickle():
    """Nor freed: appending to a bytearray moves it."""
    values = b"\x96" + (8).to_bytes(8, "little") + bytes(range(8)) + b"\x940"
    dtype = b"cnumpy\ndtype\n(\x8c\x02u1tR"
    array = b"cnumpy._core.numeric\n_frombuffer\n(h\x00" + dtype + b"K\x08\x85\x8c\x01CtR"
    longer = b"h\x00(" + b"K\xff" * 5000 + b"e0"
    Path("a.pkl").write_bytes(b"\x80\x05" + values + array + longer + b".")
    assert plain_pickle.read_plain(Path("a.pkl")).values.tolist() == list(range(8))


# --- modalities ----------------------------------------------------------------------------------


def write_image(path, array):
    if path.endswith(".npy"):
        np.save(path, array)
    elif path.endswith(".nii.gz"):
        write_nifti(path, array)
    else:
        from PIL import Image

        Image.fromarray(array).save(path)


@pytest.mark.parametrize(
    ("end", "size"),
    [(".png", WHOLE[1:]), (".npy", WHOLE[1:]), (".tif", WHOLE[1:]), (".npy", WHOLE),
     (".nii.gz", WHOLE)],
)  # fmt: skip
def test_the_channels_of_several_files_are_one_image(end, size):
    channels = [scan(size, seed) for seed in range(3)]
    for number, channel in enumerate(channels):
        write_image(f"images/case_000{number}{end}", channel)
    logits = np.log(softmax(size).astype(np.float32))
    np.save("logits/case.npy", logits)
    options = ["--write", "marginals", "--dtype", "float32"]
    assert run(*options, "--image-suffix", "_0002,_0000,_0001") == 0
    image = np.stack([channels[2], channels[0], channels[1]], axis=-1)
    paths = [f"images/case_{n}{end}" for n in ("0002", "0000", "0001")]
    np.testing.assert_array_equal(files.read_modalities(paths, axes=len(size)), image)
    expected = refine(logits, image, PARAMS, iterations=1)
    with np.load("out/case.npz") as written:
        np.testing.assert_array_equal(written["marginals"], expected)


def test_pair_and_read_modalities_do_it_in_python():
    np.save("logits/case.npy", np.zeros((2, 4, 5), np.float32))
    np.save("images/case_t1.npy", scan((4, 5)))
    np.save("images/case_t2.npy", scan((4, 5, 2)))
    (match,) = files.pair("logits", "images", "images", suffixes=("", "_t1", "_t2")).found
    stem, (_, *paths) = match
    assert stem == "case" and files.read_modalities(paths).shape == (4, 5, 3)


def test_modalities_in_a_folder_per_case_need_no_stem_of_their_own():
    for case in ("one", "two"):
        Path("data", case).mkdir(parents=True)
        np.save(f"data/{case}/logits.npy", np.zeros((2, 4, 5), np.float32))
        for name in ("t1", "flair", "t1ce"):
            np.save(f"data/{case}/{name}.npy", scan((4, 5)))
    options = ["--recursive", "--image-suffix", "t1,flair"]
    assert run(*options, logits="data/*/logits.npy", images="data") == 0
    assert run(*options, "--logits-suffix", "logits", logits="data", images="data", out="o") == 0
    for out in ("out", "o"):
        assert sorted(p.name for p in Path(out).iterdir()) == ["one.png", "refine.json", "two.png"]
    record = files.record.json.loads(Path("o/refine.json").read_text())
    assert record["files"]["one"]["inputs"]["image 2"]["path"] == "data/one/flair.npy"


def test_modalities_of_another_size_or_missing_ones_are_named(capsys):
    np.save("logits/a.npy", np.zeros((2, 4, 5), np.float32))
    np.save("logits/b.npy", np.zeros((2, 4, 5), np.float32))
    for stem in "ab":
        np.save(f"images/{stem}_0000.npy", scan((4, 5)))
    np.save("images/a_0001.npy", scan((5, 4)))
    assert run("--image-suffix", "_0000,_0001") == 1
    said = capsys.readouterr().err
    assert "logits/b.npy: no file b_0001.* in images" in said
    assert "images/a_0001.npy: image is 5 x 4 but images/a_0000.npy is 4 x 5" in said


def test_modalities_on_another_grid_are_refused_and_turned_ones_are_turned(capsys):
    np.save("logits/case.npy", np.log(softmax(WHOLE).astype(np.float32)))
    volumes = [scan(seed=0), scan(seed=1)]
    write_nifti("images/case_0000.nii.gz", volumes[0])
    flipped = np.array([[-1.0, 0, 0, WHOLE[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_nifti("images/case_0001.nii.gz", volumes[1][..., ::-1], flipped)
    paths = [f"images/case_000{n}.nii.gz" for n in (0, 1)]
    np.testing.assert_array_equal(files.read_modalities(paths), np.stack(volumes, axis=-1))
    write_nifti("images/case_0001.nii.gz", volumes[1], np.diag([1.0, 2, 1, 1]))
    assert run("--image-suffix", "_0000,_0001") == 1
    assert "lie on different grids" in capsys.readouterr().err


def test_the_suffixes_of_all_modalities_are_suggested_and_work(capsys):
    np.save("logits/case.npy", np.zeros((2, 4, 5), np.float32))
    for name in ("case_0000", "case_0001", "case_seg"):
        np.save(f"images/{name}.npy", scan((4, 5)))
    assert run() == 2
    assert "try --image-suffix _0000,_0001\n" in capsys.readouterr().err
    assert run("--image-suffix", "_0000,_0001") == 0


def test_one_file_for_two_suffixes_is_refused_and_the_folder_works(capsys):
    np.save("logits/case.npy", np.zeros((2, 4, 5), np.float32))
    for number in (0, 1):
        np.save(f"images/case_000{number}.npy", scan((4, 5)))
    options = ["--image-suffix", "_0000,_0001"]
    assert run(*options, logits="logits/case.npy", images="images/case_0000.npy") == 2
    assert "give the folder that holds them" in capsys.readouterr().err
    assert run(*options, logits="logits/case.npy", images="images") == 0


def test_modalities_work_in_tune_and_are_refused_in_tiles(capsys):
    pytest.importorskip("optuna")
    np.save("logits/case.npy", np.log(softmax((8, 9)).astype(np.float32)))
    Path("truth").mkdir()
    np.save("truth/case.npy", softmax((8, 9)).argmax(0))
    for number in (0, 1):
        np.save(f"images/case_000{number}.npy", scan((8, 9)))
    options = ["--image-suffix", "_0000,_0001"]
    assert main(["tune", "logits", "images", "truth", "--trials", "1", *options]) == 0
    assert run(*options, "--tile", "4") == 2
    assert "--tile reads one file per image" in capsys.readouterr().err
    np.save("images/case.npy", np.stack([scan((8, 9))] * 2, axis=-1))
    assert run("--tile", "4", logits="logits/case.npy", images="images/case.npy") == 0


def test_a_mask_goes_with_modalities():
    np.save("logits/case.npy", np.log(softmax((4, 5)).astype(np.float32)))
    Path("masks").mkdir()
    np.save("masks/case.npy", np.arange(20).reshape(4, 5) > 9)
    for number in (0, 1):
        np.save(f"images/case_000{number}.npy", scan((4, 5)))
    assert run("--image-suffix", "_0000,_0001", "--mask", "masks") == 0
    record = files.record.json.loads(Path("out/refine.json").read_text())
    assert record["files"]["case"]["inputs"]["mask"]["path"] == "masks/case.npy"


# --- two or three axes ---------------------------------------------------------------------------


def marginals(image_end, logits, image, *options):
    np.save("logits/case.npy", logits)
    write_image(f"images/case{image_end}", image)
    assert run("--write", "marginals", "--dtype", "float32", *options) == 0
    with np.load("out/case.npz") as written:
        return written["marginals"]


@pytest.mark.parametrize("end", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("batch", [False, True])
def test_logits_of_depth_one_are_those_of_a_picture(end, batch):
    image = scan((6, 7, 3))
    logits = np.log(softmax((6, 7)).astype(np.float32))
    stored = logits[:, None] if not batch else logits[None, :, None]
    found = marginals(end, stored, image)
    np.testing.assert_array_equal(found, refine(logits, image, PARAMS, iterations=1))


def test_a_label_map_of_depth_one_is_that_of_a_picture():
    labels = softmax((6, 7)).argmax(0)
    options = ["--kind", "labels", "--num-labels", "3"]
    found = marginals(".png", labels[None], scan((6, 7, 3)), *options)
    np.testing.assert_array_equal(found, marginals(".png", labels, scan((6, 7, 3)), *options))


def test_a_prediction_of_depth_one_is_scored(capsys):
    scores = softmax((6, 7))
    np.savez("logits/case.npz", probabilities=scores[:, None])
    np.save("images/case.npy", scores.argmax(0))
    assert main(["evaluate", "logits", "images"]) == 0
    assert "100.0" in capsys.readouterr().out


@pytest.mark.parametrize(("end", "channels"), [(".npy", 0), (".npy", 2), (".nii.gz", 0)])
@pytest.mark.parametrize("spacing", [[], ["--spacing", "1,1,1"]])
def test_one_logit_per_voxel_is_read_with_every_image_of_a_volume(end, channels, spacing):
    image = scan((*WHOLE, channels) if channels else WHOLE)
    logits = np.random.default_rng(3).normal(size=(1, *WHOLE)).astype(np.float32)
    found = marginals(end, logits, image, *spacing)
    expected = refine(logits, image if channels else image[..., None], PARAMS, iterations=1)
    np.testing.assert_array_equal(found, expected)


def test_a_volume_of_logits_without_an_axis_of_labels_is_told_how_to_be_saved(capsys):
    logits = np.random.default_rng(3).normal(size=WHOLE).astype(np.float32)
    np.save("logits/case.npy", logits)
    np.save("images/case.npy", scan())
    assert run() == 1
    assert "of one logit per voxel, save the logits as [1, D, H, W]" in capsys.readouterr().err
    np.save("logits/case.npy", logits[None])
    assert run() == 0


@pytest.mark.parametrize(
    ("size", "options"), [((6, 6, 6), []), ((3, 4, 5), ["--upsample", "corners"])]
)
def test_a_volume_that_may_be_a_picture_is_refused_until_spacing_tells(size, options, capsys):
    np.save("logits/case.npy", np.random.default_rng(3).normal(size=(1, *size)))
    np.save("images/case.npy", scan((6, 6, 6)))
    assert run(*options) == 1
    assert "say by --spacing 1,1,1 that it is a volume, or by --spacing 1,1" in (
        capsys.readouterr().err
    )
    for spacing, shape in (("1,1,1", (6, 6, 6)), ("1,1", (6, 6))):
        assert run(*options, "--spacing", spacing, out=f"out{len(shape)}") == 0
        end = ".npy" if len(shape) == 3 else ".png"
        assert files.read_labels(f"out{len(shape)}/case{end}").shape == shape


def test_the_directory_of_an_archive_is_read_a_few_times_however_often_its_content_is_asked(
    monkeypatch,
):
    opened = []
    genuine = npy._Archive.__init__
    monkeypatch.setattr(
        npy._Archive, "__init__", lambda self, path: (opened.append(path), genuine(self, path))[1]
    )
    maps = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    np.savez("logits/a.npz", scores=maps)
    np.save("images/a.npy", np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
    assert run() == 0
    assert len(opened) <= 5, opened  # its content, its names twice, names of maps, its grid
