"""Files that say where their pixels are: the same grid is turned, another grid is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densecrf_rnn import files
from densecrf_rnn.cli import _parser, explore, main
from densecrf_rnn.explore import scenes
from densecrf_rnn.files.geometry import TOLERANCE, Turn
from densecrf_rnn.files.windows import turned

nibabel = pytest.importorskip("nibabel")

SIZE = (7, 5, 4)  # along x, y, z
AFFINE = np.array([[-1.5, 0, 0, 80], [0, 2, 0, -120], [0, 0, 4, 30], [0, 0, 0, 1.0]])
QUICK = settings(
    max_examples=40, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def rotation(degrees, axis=(0.3, -0.5, 0.8)):
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


OBLIQUE = rotation(25) @ AFFINE


def save(path, array, affine, qform=False, unit=0):
    """Save a NIfTI file whose place is in its sform or, with qform=True, in its qform."""
    image = nibabel.Nifti1Image(array, None)
    image.header.set_zooms((*np.linalg.norm(affine[:3, :3], axis=0), *(1,) * (array.ndim - 3)))
    image.header["xyzt_units"] = unit
    image.set_sform(None if qform else affine, int(not qform))
    image.set_qform(affine if qform else None, int(qform))
    nibabel.save(image, path)


def stored(array, affine, order, flips):
    """The same anatomy in another order and direction of the axes, with its affine."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = -1 if flips[new] else 1
        turn[old, 3] = array.shape[old] - 1 if flips[new] else 0
    array = array.transpose(*order, *range(3, array.ndim))
    array = np.flip(array, [axis for axis in range(3) if flips[axis]])
    return np.ascontiguousarray(array), affine @ turn


orders = st.permutations(range(3))
directions = st.tuples(st.booleans(), st.booleans(), st.booleans())


@QUICK
@given(orders, directions, st.booleans(), st.booleans(), st.booleans())
def test_an_array_stored_in_any_order_and_direction_is_turned(
    tmp_path, order, flips, labels, oblique, qform
):
    affine = OBLIQUE if oblique else AFFINE
    anatomy = np.random.default_rng(0).normal(size=(*SIZE, 3)).astype(np.float32)
    if labels:
        anatomy = anatomy.argmax(-1).astype(np.uint8)
    save(tmp_path / "image.nii", np.zeros(SIZE, np.uint8), affine)
    save(tmp_path / "other.nii", *stored(anatomy, affine, order, flips), qform=qform)
    read = files.read_labels if labels else files.read_logits
    found = files.aligned(
        read(tmp_path / "other.nii"), tmp_path / "other.nii", tmp_path / "image.nii"
    )
    np.testing.assert_array_equal(found, anatomy.T)


def test_an_array_stored_the_same_way_is_not_copied(tmp_path):
    save(tmp_path / "a.nii", np.zeros(SIZE, np.uint8), OBLIQUE)
    array = files.read_labels(tmp_path / "a.nii")
    assert files.aligned(array, tmp_path / "a.nii", tmp_path / "a.nii") is array


@st.composite
def mismatches(draw):
    """An affine that is none of the grid AFFINE in another order or direction, and why."""
    kind = draw(st.sampled_from(["shift", "size", "rotation", "shear"]))
    axis = draw(st.integers(0, 2))
    change = np.eye(4)
    if kind == "shift":
        change[axis, 3] = draw(st.floats(1.5, 40)) * TOLERANCE * draw(st.sampled_from([-1, 1]))
    elif kind == "size":
        change[axis, axis] = 1 + draw(st.floats(2, 40)) * TOLERANCE / SIZE[axis]
    elif kind == "rotation":
        turn = rotation(draw(st.floats(5, 175)), np.eye(3)[axis])
        return turn @ AFFINE, "at an angle|a shift of|pixels"
    else:
        change[axis, (axis + 1) % 3] = draw(st.floats(0.3, 3))
    words = {"shift": "a shift of", "size": "pixels of", "shear": "at an angle|pixels"}
    return AFFINE @ change, words[kind]


@QUICK
@given(mismatches(), orders, directions)
def test_any_other_grid_is_refused(tmp_path, mismatch, order, flips):
    affine, words = mismatch
    save(tmp_path / "image.nii", np.zeros(SIZE, np.uint8), AFFINE)
    save(tmp_path / "other.nii", *stored(np.zeros(SIZE, np.uint8), affine, order, flips))
    array = files.read_labels(tmp_path / "other.nii")
    with pytest.raises(ValueError, match=rf"other.nii and .*/image.nii lie .*({words}).*res"):
        files.aligned(array, tmp_path / "other.nii", tmp_path / "image.nii")


@QUICK
@given(st.integers(0, 2), st.floats(-0.9, 0.9), st.booleans())
def test_a_shift_within_the_tolerance_is_rounding(tmp_path, axis, part, oblique):
    affine = OBLIQUE if oblique else AFFINE
    change = np.eye(4)
    change[axis, 3] = part * TOLERANCE
    save(tmp_path / "image.nii", np.zeros(SIZE, np.uint8), affine)
    save(tmp_path / "other.nii", np.zeros(SIZE, np.uint8), affine @ change)
    array = files.read_labels(tmp_path / "other.nii")
    assert files.aligned(array, tmp_path / "other.nii", tmp_path / "image.nii") is array


@given(orders, directions, st.data())
def test_a_turned_view_reads_what_a_turned_array_holds(order, flips, data):
    array = np.arange(2 * np.prod(SIZE)).reshape(2, *SIZE)
    turn = Turn(tuple(order), flips)
    view, whole = turned(array, turn), turn(array)
    assert view.shape == whole.shape
    ends = (sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in whole.shape)
    where = tuple(slice(*pair) for pair in ends)
    np.testing.assert_array_equal(view[where], whole[where])


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """A folder with image, logits [x, y, z, label], truth and mask of one scan, all RAS."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, SIZE).astype(np.uint8)
    logits = rng.normal(size=(*SIZE, 3)).astype(np.float32)
    truth = logits.argmax(-1).astype(np.uint8)
    mask = (rng.random(SIZE) < 0.8).astype(np.uint8)
    arrays = {"image": image, "logits": logits, "truth": truth, "mask": mask}
    for name, array in arrays.items():
        save(tmp_path / f"{name}.nii", array, AFFINE)
    return arrays


def run(*words):
    return main([*map(str, words)])


REFINE = ("--mask", "mask.nii", "--iterations", 2, "--theta-alpha", 4, "--workers", 1)


def refined(out, *options):
    assert run("refine", "logits.nii", "image.nii", *REFINE, *options, "--out", out) == 0
    image = nibabel.load(f"{out}/logits.nii.gz")
    return np.asarray(image.dataobj), image.affine


few = settings(QUICK, max_examples=6)


@few
@given(st.tuples(orders, directions), st.tuples(orders, directions))
def test_refine_of_any_orientation_gives_the_same_anatomy(scan, logits, mask):
    for name in ("logits", "mask"):
        save(f"{name}.nii", scan[name], AFFINE)
    expected, _ = refined("expected")
    save("logits.nii", *stored(scan["logits"], AFFINE, *logits))
    save("mask.nii", *stored(scan["mask"], AFFINE, *mask))
    found, affine = refined("found")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(affine, nibabel.load("image.nii").affine)


@few
@given(orders, directions)
def test_evaluate_scores_100_for_the_same_labels_stored_any_way(scan, order, flips):
    save("truth.nii", *stored(scan["truth"], AFFINE, order, flips))
    assert run("evaluate", "logits.nii", "truth.nii", "--json", "scores.json") == 0
    assert '"mean_iu": 1.0' in open("scores.json").read()


def test_predictions_are_compared_with_one_another_if_the_truth_is_nowhere(scan, capsys):
    np.save("truth.npy", scan["truth"].T)
    save("other.nii", *stored(scan["truth"], AFFINE, (1, 2, 0), (True, False, False)))
    words = ("evaluate", "truth.nii", "other.nii", "truth.npy", "--names", "a,b")
    assert run(*words, "--json", "a.json") == 0
    assert open("a.json").read().count('"mean_iu": 1.0') == 2
    moved("other", scan["truth"])
    assert run(*words) == 2
    assert "other.nii and truth.nii lie on different grids" in capsys.readouterr().err


def moved(name, array):
    affine = AFFINE.copy()
    affine[2, 3] += 4
    save(f"{name}.nii", array, affine)


@pytest.mark.parametrize("name", ["logits", "mask"])
def test_refine_refuses_files_of_another_grid(scan, name, capsys):
    moved(name, scan[name])
    assert run("refine", "logits.nii", "image.nii", *REFINE, "--out", "out") == 1
    assert f"{name}.nii and image.nii lie on different grids" in capsys.readouterr().err


def test_evaluate_refuses_files_of_another_grid(scan, capsys):
    moved("logits", scan["logits"])
    assert run("evaluate", "truth.nii", "logits.nii", "truth.nii", "--names", "a,b") == 2
    assert "logits.nii and truth.nii lie on different grids" in capsys.readouterr().err


@pytest.mark.parametrize("classes", [(), ("--classes", "0,2")])
@pytest.mark.parametrize("qform", [False, True])
def test_marginals_keep_the_grid_of_the_image(scan, classes, qform, capsys):
    save("image.nii", scan["image"], OBLIQUE if qform else AFFINE, qform=qform)
    affine = nibabel.load("image.nii").affine
    for name in ("logits", "mask"):
        save(f"{name}.nii", scan[name], affine)
    labels, _ = refined("out", "--write", "both", *classes)
    key = ("--key", "marginals") if classes else ()
    turned_axes = (2, 0, 1), (True, False, True)
    words = ("evaluate", "out/logits.npz", "truth.nii", *key)
    save("truth.nii", *stored(labels, affine, *turned_axes))
    assert run(*words, "--json", "a.json") == 0
    assert '"mean_iu": 1.0' in Path("a.json").read_text()
    with np.load("out/logits.npz") as file:
        expected = files.aligned(file["marginals"].argmax(0), "out/logits.npz", "truth.nii")
    assert expected.shape == files.read_labels("truth.nii").shape
    affine[2, 3] += 4
    save("truth.nii", *stored(labels, affine, *turned_axes))
    assert run(*words) == 2
    assert "out/logits.npz and truth.nii lie on different grids" in capsys.readouterr().err


def test_marginals_are_refined_again_in_the_directions_of_any_image(scan):
    options = ("--iterations", 0, "--write", "marginals", "--dtype", "float32")
    assert run("refine", "logits.nii", "image.nii", *options, "--out", "once") == 0
    save("logits.nii", *stored(scan["image"], AFFINE, (1, 0, 2), (False, True, True)))
    words = ("refine", "once/logits.npz", "logits.nii", "--kind", "probabilities")
    assert run(*words, *options, "--out", "twice") == 0
    first, second = (np.load(f"{out}/logits.npz") for out in ("once", "twice"))
    back = files.aligned(second["marginals"], "twice/logits.npz", "once/logits.npz")
    np.testing.assert_allclose(back, first["marginals"], atol=1e-4)


def test_a_damaged_place_in_an_npz_is_refused(tmp_path):
    for affine in (np.eye(4), np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan)):
        np.savez(tmp_path / "a.npz", marginals=np.zeros((2, 3, 4, 5)), affine_nifti=affine)
        with pytest.raises(ValueError, match="a.npz: its array 'affine_nifti' .*hold"):
            files.read_geometry(tmp_path / "a.npz")


def test_a_shift_is_told_in_two_digits_without_rounding_errors(tmp_path):
    save(tmp_path / "a.nii", np.zeros(SIZE, np.uint8), OBLIQUE)
    moved_by = OBLIQUE.copy()
    moved_by[:3, 3] += OBLIQUE[:3, :3] @ (0, 0, 0.364)
    save(tmp_path / "b.nii", np.zeros(SIZE, np.uint8), moved_by)
    labels = files.read_labels(tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"a shift of 0\.36 x 0 x 0 pixels, which moves a corner"):
        files.aligned(labels, tmp_path / "b.nii", tmp_path / "a.nii")


def test_masks_are_compared_with_the_logits_if_the_image_is_nowhere(scan):
    np.save("image.npy", scan["image"].T)
    order = (2, 1, 0), (True, False, False)
    options = ("--mask", "mask.nii", "--iterations", 2)
    assert run("refine", "logits.nii", "image.npy", *options, "--out", "expected") == 0
    save("mask.nii", *stored(scan["mask"], AFFINE, *order))
    assert run("refine", "logits.nii", "image.npy", *options, "--out", "found") == 0
    np.testing.assert_array_equal(np.load("found/logits.npy"), np.load("expected/logits.npy"))
    moved("mask", scan["mask"])
    assert run("refine", "logits.nii", "image.npy", *options, "--out", "found") == 1


def test_label_maps_of_another_orientation_are_turned(scan):
    labels = ("refine", "truth.nii", "image.nii", "--kind", "labels", "--iterations", 2)
    assert run(*labels, "--classes", "0,1,2", "--out", "expected") == 0
    save("truth.nii", *stored(scan["truth"], AFFINE, (1, 2, 0), (True, True, False)))
    assert run(*labels, "--classes", "0,1,2", "--out", "found") == 0
    found, expected = (files.read_labels(f"{out}/truth.nii.gz") for out in ("found", "expected"))
    np.testing.assert_array_equal(found, expected)


def test_tune_sees_the_same_anatomy_in_any_orientation(scan, capsys):
    pytest.importorskip("optuna")
    words = ("--trials", 1, "--iterations", 1, "--mask", "mask.nii", "--theta-alpha", "3,5")
    tune = ("tune", "logits.nii", "image.nii", "truth.nii", *words)
    assert run(*tune, "--out", "a.json") == 0
    expected = capsys.readouterr().out.replace("a.json", "b.json")
    for name, order in (("truth", (1, 2, 0)), ("mask", (2, 1, 0)), ("logits", (0, 2, 1))):
        save(f"{name}.nii", *stored(scan[name], AFFINE, order, (True, False, True)))
    assert run(*tune, "--out", "b.json") == 0
    assert capsys.readouterr().out == expected
    for name in ("truth", "mask", "logits"):
        moved(name, scan[name])
        assert run(*tune, "--out", "b.json") == 2
        assert f"{name}.nii and image.nii lie on different grids" in capsys.readouterr().err
        save(f"{name}.nii", scan[name], AFFINE)


@pytest.mark.parametrize("name", ["image", "logits"])
def test_a_header_that_places_nothing_is_compared_with_nothing(scan, name, tmp_path):
    header = nibabel.load(f"{name}.nii").header
    image = nibabel.Nifti1Image(scan[name], None, header)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / f"{name}.nii")
    assert not files.read_geometry(f"{name}.nii").placed
    assert files.read_spacing(f"{name}.nii") == (4.0, 2.0, 1.5)
    array = files.read_logits("logits.nii")
    assert files.aligned(array, "logits.nii", "image.nii") is array


@pytest.mark.parametrize("written", ["qform", "both"])
def test_files_written_from_a_rounded_qform_are_on_the_grid_of_the_image(tmp_path, written):
    """ITK reads the qform, in which angles near half a turn are rounded to a thousandth."""
    size, affine = (600, 2, 2), rotation(180 - 0.05, (0.02, 0.01, 1)) @ np.diag([1, 1, 1, 1.0])
    image = nibabel.Nifti1Image(np.zeros(size, np.uint8), affine)
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "image.nii")
    rounded = nibabel.load(tmp_path / "image.nii").get_qform()
    assert np.abs((rounded - affine) @ [600, 0, 0, 1]).max() > TOLERANCE
    other = nibabel.Nifti1Image(np.zeros(size, np.uint8), None, image.header)
    other.set_sform(rounded if written == "both" else None, int(written == "both"))
    nibabel.save(other, tmp_path / "other.nii")
    array = np.zeros(size[::-1])
    assert files.aligned(array, tmp_path / "other.nii", tmp_path / "image.nii") is array
    stale = affine.copy()
    stale[0, 3] += 5
    other.set_sform(stale, 1)
    nibabel.save(other, tmp_path / "other.nii")
    with pytest.raises(ValueError, match="a shift of"):
        files.aligned(array, tmp_path / "other.nii", tmp_path / "image.nii")


def test_units_are_compared_if_both_files_state_them(scan):
    array = files.read_logits("logits.nii")
    for code, equal in ((0, True), (7, True), (2, True), (3, False)):  # unknown, none, mm, micron
        save("image.nii", scan["image"], AFFINE, unit=code)
        save("logits.nii", scan["logits"], AFFINE, unit=2)
        if equal:
            assert files.aligned(array, "logits.nii", "image.nii") is array
        else:
            with pytest.raises(ValueError, match="coordinates in mm and in micron"):
                files.aligned(array, "logits.nii", "image.nii")


def test_a_matrix_without_inverse_places_nothing(tmp_path):
    save(tmp_path / "a.nii", np.zeros(SIZE, np.uint8), AFFINE)
    image = nibabel.load(tmp_path / "a.nii")
    for entry in "xyz":
        image.header[f"srow_{entry}"] = 0
    image = type(image)(np.asarray(image.dataobj), None, image.header)
    nibabel.save(image, tmp_path / "a.nii")
    assert not files.read_geometry(tmp_path / "a.nii").placed


@pytest.mark.parametrize("other", ["a.npy", "a.png", "a.nii"])
def test_volumes_are_not_compared_with_formats_that_say_nothing(tmp_path, other):
    save(tmp_path / "a.nii", np.zeros(SIZE, np.uint8), AFFINE)
    array = np.zeros(SIZE[::-1])
    assert files.aligned(array, tmp_path / "b.npy", tmp_path / other) is array
    assert files.read_geometry(tmp_path / "b.npy") is None


@pytest.mark.parametrize("mode", ["corners", "centers"])
def test_coarse_logits_must_cover_the_image(scan, mode, capsys):
    words = ("refine", "coarse.nii", "image.nii", "--iterations", 1, "--out", "out")
    few = np.array([4, 3, 2])
    step = (np.array(SIZE) - 1) / (few - 1) if mode == "corners" else np.array(SIZE) / few
    affine = AFFINE @ np.diag([*step, 1])
    if mode == "centers":
        affine[:3, 3] += AFFINE[:3, :3] @ ((step - 1) / 2)
    coarse = np.random.default_rng(1).normal(size=(*few, 3)).astype(np.float32)
    save("coarse.nii", *stored(coarse, affine, (2, 0, 1), (True, True, False)))
    assert run(*words) == 1
    found = capsys.readouterr().err
    assert "2 x 3 x 4 and 4 x 5 x 7 pixels; resample one" in found
    assert f"--upsample {mode}" in found
    assert run(*words, "--upsample", mode) == 0
    affine[0, 3] += 6
    save("coarse.nii", coarse, affine)
    assert run(*words, "--upsample", mode) == 1
    assert "coarse.nii and image.nii lie on different grids: a shift" in capsys.readouterr().err
    save("coarse.nii", coarse, AFFINE)
    assert run(*words, "--upsample", mode) == 1
    assert f", which --upsample {mode} does not explain" in capsys.readouterr().err


# --- GeoTIFF --------------------------------------------------------------------------------------


UTM = (0.5, 0, 691000, 0, -0.5, 5335000)


@pytest.fixture
def rasters(tmp_path, monkeypatch):
    """Return a function that writes GeoTIFFs of one scene."""
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    scene = {
        "image": rng.integers(0, 255, (3, 40, 50)).astype(np.uint8),
        "logits": rng.normal(size=(3, 40, 50)).astype(np.float32),
        "mask": (rng.random((1, 40, 50)) < 0.9).astype(np.uint8),
    }

    def write(name, transform=UTM, epsg=32632, south_up=False, nodata=None):
        bands, t = scene[name], rasterio.Affine(*transform)
        if south_up:
            bands, t = bands[:, ::-1], t @ rasterio.Affine(1, 0, 0, 0, -1, 40)
        with rasterio.open(
            f"{name}.tif", "w", driver="GTiff", count=len(bands), height=40, width=50,
            dtype=bands.dtype, crs=f"EPSG:{epsg}", transform=t, nodata=nodata,
        ) as file:  # fmt: skip
            file.write(bands)

    for name in scene:
        write(name)
    write.scene = scene
    return write


TILE = pytest.mark.parametrize("tile", [(), ("--tile", 32)], ids=["whole", "tile"])
RASTERS = ("refine", "logits.tif", "image.tif", "--mask", "mask.tif", "--iterations", 2)


@TILE
@pytest.mark.parametrize("name", ["logits", "mask"])
def test_rasters_of_another_direction_are_turned(rasters, name, tile):
    assert run(*RASTERS, *tile, "--out", "expected") == 0
    rasters(name, south_up=True)
    assert run(*RASTERS, *tile, "--out", "found") == 0
    found, expected = (next(Path(out).glob("logits.*")) for out in ("found", "expected"))
    np.testing.assert_array_equal(files.read_labels(found), files.read_labels(expected))


@pytest.mark.parametrize("turned", ["logits", "truth"])
def test_explore_turns_the_truth_as_the_image(rasters, turned):
    scene = rasters.scene
    scene["truth"] = scene["logits"].argmax(0)[None].astype(np.uint8)
    rasters("truth")
    rasters(turned, south_up=True)
    Path("true").mkdir()
    Path("truth.tif").rename("true/logits.tif")
    words = ["explore", "logits.tif", "image.tif", "true"]
    (source,) = explore._sources_of(_parser(words).parse_args(words)).values()
    found = scenes.load(source)
    np.testing.assert_array_equal(found.truth, scene["truth"][0])
    np.testing.assert_array_equal(found.before, scene["truth"][0])


@TILE
@pytest.mark.parametrize("name", ["logits", "mask"])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"transform": (0.5, 0, 691000.5, 0, -0.5, 5335000)}, "a shift of 0 x 1 pixels"),
        ({"transform": (0.51, 0, 691000, 0, -0.51, 5335000)}, "pixels of 0.51 x 0.51 and"),
        ({"transform": (0.5, 0.1, 691000, 0.1, -0.5, 5335000)}, "pixels of|axes at an angle"),
        ({"epsg": 32633}, "coordinates in EPSG:32633 and in EPSG:32632"),
    ],
)
def test_rasters_of_another_grid_are_refused(rasters, name, tile, options, message, capsys):
    rasters(name, **options)
    assert run(*RASTERS, *tile, "--out", "out") == 1
    expected = rf"{name}.tif and image.tif lie on different grids: ({message}).*; warp one"
    assert re.search(expected, capsys.readouterr().err)


@TILE
def test_pixels_without_data_are_turned_with_their_raster(rasters, tile):
    rasters.scene["logits"][:, :7, :9] = -9999
    outputs = []
    for number, south_up in enumerate((False, True)):
        rasters("logits", south_up=south_up, nodata=-9999)
        assert run(*RASTERS, *tile, "--out", f"{number}") == 0
        outputs.append(next(Path(f"{number}").glob("logits.*")))
    first, second = map(files.read_labels, outputs)
    np.testing.assert_array_equal(first, second)
    assert (first[:7, :9] == 255).all()


def test_evaluate_compares_rasters(rasters, tmp_path, capsys):
    rasters("mask", south_up=True)
    Path("mask.tif").rename("truth.tif")
    rasters("mask")
    words = ("evaluate", "mask.tif", "truth.tif", "--label-values", "0,1", "--json", "a.json")
    assert run(*words) == 0
    assert '"mean_iu": 1.0' in Path("a.json").read_text()
    rasters("mask", epsg=32633)
    assert run(*words) == 2
    assert "mask.tif and truth.tif lie on different grids" in capsys.readouterr().err
