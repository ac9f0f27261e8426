"""OME-Zarr: axes by name, the channel axis, scale and translation, resolutions and labels."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densecrf_rnn import CRFParams, files, refine
from densecrf_rnn.cli import main

zarr = pytest.importorskip("zarr")

SIZE = {"t": 1, "c": 3, "z": 4, "y": 5, "x": 7}
SCALE = {"z": 4.0, "y": 2.0, "x": 1.5}
# zarr 2 writes its own format only, in which OME-Zarr goes up to version 0.4.
VERSIONS = ["0.4", "0.5"] if int(zarr.__version__.split(".")[0]) > 2 else ["0.4"]
KINDS = {"t": "time", "c": "channel"}


def group_at(path, version):
    if version == "0.5":
        return zarr.open_group(str(path), mode="a", zarr_format=3)
    more = {"zarr_format": 2} if len(VERSIONS) > 1 else {}
    return zarr.open_group(str(path), mode="a", **more)


def put(group, name, array):
    create = getattr(group, "create_array", None) or group.create_dataset
    create(name, shape=array.shape, dtype=array.dtype, overwrite=True)[...] = array


def write(
    path, *levels, axes, scale=SCALE, shift=None, of_all=None, unit="micrometer", version="0.4",
    name=None,
):  # fmt: skip
    """Write an image, or with `name` a label image of it, at one or more resolutions."""
    group = group_at(path if name is None else path / "labels" / name, version)
    named = [{"name": a, "type": KINDS.get(a, "space")} for a in axes]
    named = [a if a["type"] != "space" or unit is None else {**a, "unit": unit} for a in named]
    datasets = []
    for i, level in enumerate(levels):
        put(group, f"{i}", level)
        factor = 2**i
        changes = [{"type": "scale", "scale": [scale.get(a, 1.0) * factor for a in axes]}]
        if shift is not None:
            changes.append({"type": "translation", "translation": [shift.get(a, 0) for a in axes]})
        datasets.append({"path": f"{i}", "coordinateTransformations": changes})
    image = {"version": version, "axes": named, "datasets": datasets}
    if of_all is not None:
        changes = [{"type": "scale", "scale": [of_all] * len(axes)}]
        image["coordinateTransformations"] = changes
    found = {"multiscales": [image]}
    group.attrs.update({"ome": {"version": version, **found}} if version == "0.5" else found)
    if name is not None:
        labels = {"labels": [name]}
        above = group_at(path / "labels", version)
        above.attrs.update({"ome": labels} if version == "0.5" else labels)


def arranged(array, axes):
    """An array [c, z, y, x] stored along `axes`; axes of length 1 are added or left out."""
    here = [a for a in "czyx" if a in axes]
    array = array[tuple(slice(None) if a in axes else 0 for a in "czyx")]
    array = array.transpose([here.index(a) for a in axes if a != "t"])
    return np.expand_dims(array, axes.index("t")) if "t" in axes else array


def random(*size, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["tczyx", "czyx", "zyx", "cyx", "tcyx", "yx", "tzyx"]).flatmap(st.permutations),
    st.sampled_from(VERSIONS), st.booleans(),
)  # fmt: skip
def test_axes_are_read_by_name(tmp_path_factory, axes, version, coarse):
    path = tmp_path_factory.mktemp("ome") / "a.zarr"
    array = random(3, 4, 5, 7)
    write(path, arranged(array, axes), axes=axes, version=version, of_all=2.0 if coarse else None)
    array = array if "c" in axes else array[:1]
    array = array if "z" in axes else array[:, 0]
    np.testing.assert_array_equal(files.read_logits(path), array)
    np.testing.assert_array_equal(files.read_image(path), np.moveaxis(array, 0, -1))
    factor = 2 if coarse else 1
    expected = tuple(SCALE[a] * factor for a in "zyx" if a in axes)
    assert files.read_geometry(path).spacing == pytest.approx(expected)
    assert files.read_spacing(path) == (pytest.approx(expected) if "z" in axes else None)


def test_a_single_plane_is_two_dimensional(tmp_path):
    write(tmp_path / "a.zarr", random(1, 3, 1, 5, 7), axes="tczyx")
    assert files.read_image(tmp_path / "a.zarr").shape == (5, 7, 3)
    assert len(files.read_geometry(tmp_path / "a.zarr").size) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_name_resolutions_and_label_images(tmp_path, version):
    path = tmp_path / "a.zarr"
    fine, coarse = random(2, 8, 6), random(2, 4, 3, seed=1)
    labels = np.arange(48, dtype=np.uint16).reshape(8, 6)
    write(path, fine, coarse, axes="cyx", version=version)
    write(path, labels, axes="yx", version=version, name="cells")
    np.testing.assert_array_equal(files.read_logits(path), fine)
    np.testing.assert_array_equal(files.read_logits(path, key="1"), coarse)
    assert files.read_geometry(path, key="1").spacing == (4.0, 3.0)
    for key in ("labels", "labels/cells", "labels/cells/0"):
        np.testing.assert_array_equal(files.read_labels(path, key=key), labels)
    np.testing.assert_array_equal(files.read_array(path, key="1"), coarse)
    with pytest.raises(ValueError, match="a.zarr: holds no array '2', but '0', '1', 'labels/cells"):
        files.read_logits(path, key="2")


def test_several_images_are_chosen_by_name(tmp_path):
    path = tmp_path / "a.zarr"
    group_at(path, "0.4").attrs.update({"bioformats2raw.layout": 3})
    write(path / "0", random(2, 8, 6), axes="cyx")
    assert files.read_logits(path).shape == (2, 8, 6)
    write(path / "1", random(3, 8, 6), axes="cyx")
    assert files.read_logits(path, key="1").shape == (3, 8, 6)
    with pytest.raises(ValueError, match="holds 2 arrays, '0', '1'; choose one by `key`"):
        files.read_logits(path)


@pytest.mark.parametrize(
    "array, options, message",
    [
        (random(2, 1, 4, 5, 7), {"axes": "tczyx"}, "has 2 positions along the axis t; save one"),
        (random(4, 5, 7), {"axes": "zyx", "scale": {"y": 0.0}}, "has the scale .*must be positive"),
        (random(4, 5, 7), {"axes": "cx"}, "names 2 axes, but its array has 3"),
        (random(4, 5), {"axes": "cx"}, "has the axes c, x; an image has two or three axes"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, array, options, message):
    write(tmp_path / "a.zarr", array, **options)
    with pytest.raises(ValueError, match=f"a.zarr: {message}"):
        files.read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", ["{}", "[]", '{"attributes": {"ome": 1}}', '{"attributes": null}'])
def test_other_folders_are_no_ome_zarr(tmp_path, text):
    for name in ("zarr.json", ".zattrs"):
        (tmp_path / "a.zarr").mkdir(exist_ok=True)
        (tmp_path / "a.zarr" / name).write_text(text)
        assert files.axes_of(tmp_path / "a.zarr") is None


def test_other_transformations_are_refused(tmp_path):
    path = tmp_path / "a.zarr"
    write(path, random(4, 5, 7), axes="zyx")
    group = group_at(path, "0.4")
    image = dict(group.attrs["multiscales"][0])
    image["coordinateTransformations"] = [{"type": "affine", "affine": []}]
    group.attrs["multiscales"] = [image]
    with pytest.raises(ValueError, match="a.zarr: has a coordinate transformation of type affine"):
        files.read_logits(path)


# --- on one grid ---------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = (50 * random(4, 5, 7, seed=2) + 128).clip(0, 255).astype(np.uint8)
    logits = random(3, 4, 5, 7)
    write(tmp_path / "image.zarr", image, axes="zyx")
    write(tmp_path / "logits.zarr", logits, axes="czyx")
    return logits, image


def run(*words):
    return main([*map(str, words)])


REFINE = (
    "refine", "logits.zarr", "image.zarr", "--iterations", 2, "--theta-alpha", 4, "--out", "out",
)  # fmt: skip


@pytest.mark.parametrize("named", ["image.zarr", "image.npy"])
@pytest.mark.parametrize("tile", [(), ("--tile", 64)])
def test_refine_measures_in_the_scale_of_the_image_or_else_the_logits(scan, tile, named, tmp_path):
    logits, image = scan
    np.save(tmp_path / "image.npy", image[..., None])
    assert run(*REFINE[:2], named, *REFINE[3:], *tile) == 0
    params = CRFParams(4, 5, 3, w_bilateral=3, w_spatial=3)
    expected = refine(
        logits, image[..., None], params, iterations=2, spacing=tuple(SCALE.values())
    )
    (path,) = (tmp_path / "out").glob("logits.*")
    assert path.suffix == (".zarr" if tile and named == "image.zarr" else ".npy")
    np.testing.assert_array_equal(files.read_labels(path), expected.argmax(0))


@pytest.mark.parametrize("tile", [(), ("--tile", 64)])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"shift": {"y": 1.0}}, "a shift of 0 x 0.5 x 0 pixels"),
        ({"scale": {**SCALE, "x": 3.0}}, "pixels of 4 x 2 x 3 and of 4 x 2 x 1.5"),
        ({"unit": "millimeter"}, "coordinates in millimeter and in micrometer"),
    ],
)
def test_another_grid_is_refused(scan, tile, options, message, tmp_path, capsys):
    write(tmp_path / "moved.zarr", scan[0], axes="czyx", **options)
    command = [REFINE[0], "moved.zarr", *REFINE[2:], *tile]
    assert run(*command) == 1
    found = capsys.readouterr().err
    assert f"moved.zarr and image.zarr lie on different grids: {message}" in found


def test_units_that_only_one_file_states_are_taken_as_equal(scan, tmp_path):
    write(tmp_path / "logits.zarr", scan[0], axes="czyx", unit=None)
    assert run(*REFINE) == 0


def test_logits_of_a_coarse_level_are_enlarged_to_the_image(scan, tmp_path, capsys):
    write(tmp_path / "pair.zarr", random(3, 8, 10, 14), scan[0], axes="czyx")
    write(tmp_path / "image.zarr", random(8, 10, 14, seed=3), axes="zyx")
    command = ["refine", "pair.zarr", *REFINE[2:], "--key", 1, "--upsample", "centers"]
    assert run(*command) == 0
    write(tmp_path / "pair.zarr", random(3, 8, 10, 14), scan[0], axes="czyx", shift={"x": 6})
    assert run(*command) == 1
    assert "pair.zarr and image.zarr lie on different grids" in capsys.readouterr().err


@pytest.mark.parametrize("tile", [(), ("--tile", 64)])
def test_a_single_plane_meets_arrays_of_two_axes(scan, tile, tmp_path):
    np.save("logits.npy", scan[0][:, 0])
    write(tmp_path / "image.zarr", random(1, 2, 1, 5, 7), axes="tczyx", scale={})
    words = ["refine", "logits.npy", *REFINE[2:], *tile]
    assert run(*words) == 0
    found = files.read_labels(tmp_path / "out" / f"logits{'.zarr' if tile else '.png'}")
    assert found.shape == (5, 7)


@pytest.mark.parametrize("tile", [(), ("--tile", 64)])
def test_keys_choose_resolution_and_array(scan, tile, tmp_path):
    logits, image = scan
    write(tmp_path / "image.zarr", np.repeat(image, 2, 0), image, axes="zyx")
    write(tmp_path / "logits.zarr", logits, axes="czyx", scale={a: 2 * s for a, s in SCALE.items()})
    assert run(*REFINE, *tile) == 1
    assert run(*REFINE, *tile, "--image-key", "1") == 0
    group = group_at(tmp_path / "plain.zarr", "0.4")
    put(group, "a", logits)
    put(group, "b", logits)
    plain = ["refine", "plain.zarr", *REFINE[2:], *tile, "--image-key", 1]
    assert run(*plain) == 1
    assert run(*plain, "--key", "b") == 0


def test_evaluate_takes_the_label_image_of_the_group(scan, tmp_path):
    labels = scan[0].argmax(0).astype(np.uint8)
    write(tmp_path / "image.zarr", labels, axes="zyx", name="cells")
    words = ("evaluate", "logits.zarr", "image.zarr", "--truth-key", "labels", "--json", "a.json")
    assert run(*words) == 0
    assert '"mean_iu": 1.0' in (tmp_path / "a.json").read_text()
