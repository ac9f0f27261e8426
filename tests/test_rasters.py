"""Rasters from file to file in tiles: the same result as in memory, where it was on the ground, and
whole or not at all."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from oracles import noisy_logits, picture
from processes import environment

from densecrf_rnn import CRFParams, refine, tiles
from densecrf_rnn.files import read_mask, refine_raster

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
zarr = pytest.importorskip("zarr", reason="zarr is not installed")

SMALL = CRFParams(theta_alpha=2, theta_beta=20, theta_gamma=1.9, w_bilateral=2, w_spatial=1)
EXACT = {"params": SMALL, "iterations": 2, "tile": 64, "halo": "exact"}
# Half a metre a pixel, somewhere in Bavaria.
UTM = {
    "crs": rasterio.crs.CRS.from_epsg(32632),
    "transform": rasterio.transform.from_origin(691000, 5335000, 0.5, 0.5),
}
# rasterio warns of files without a georeference, which some of these lack on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


@pytest.fixture
def problem():
    image = picture(150, 170, channels=4).astype(np.uint8)
    return noisy_logits(3, image, np.float32), image


def geotiff(path, bands, ground=UTM, **options):
    """Write [band, H, W]."""
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "dtype": bands.dtype, "photometric": "MINISBLACK"}
    profile |= {**ground, **options}
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as file:
        file.write(bands)
    return path


def stored(path, array):
    """Write an array as the file name says."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".zarr":
        file = zarr.open_array(
            str(path), mode="w", shape=array.shape, dtype=array.dtype,
            chunks=tuple(min(n, 50) for n in array.shape),
        )  # fmt: skip
        file[...] = array
    return path


def loaded(path):
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".zarr":
        return zarr.open_array(str(path), mode="r")[...]
    with rasterio.open(path) as file:
        bands = file.read()
        return bands[0] if len(bands) == 1 else bands


@pytest.mark.parametrize("marginals", [False, True])
@pytest.mark.parametrize("kind", [".tif", ".zarr", ".npy"])
def test_a_raster_is_refined_as_in_memory(problem, kind, marginals, tmp_path):
    logits, image = problem
    if kind == ".tif":
        a = geotiff(tmp_path / "a.tif", logits)
        b = geotiff(tmp_path / "b.tif", np.moveaxis(image, -1, 0))
    else:
        a, b = stored(tmp_path / f"a{kind}", logits), stored(tmp_path / f"b{kind}", image)
    out = tmp_path / f"out{kind}"
    done = []
    refine_raster(a, b, out, marginals=marginals, progress=lambda *n: done.append(n), **EXACT)
    want = refine(logits, image, SMALL, iterations=2)
    found = loaded(out)
    if marginals:
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-6)
    else:
        assert found.dtype == np.uint8
        assert (found != want.argmax(0)).mean() < 1e-3
    assert len(done) == 9 and done[-1] == (150 * 170, 150 * 170)


@pytest.mark.parametrize("out", ["a.tif", "a.zarr"])
def test_the_georeference_is_kept(problem, out, tmp_path):
    logits, image = problem
    a = geotiff(tmp_path / "logits.tif", logits)
    b = geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0))
    refine_raster(a, b, tmp_path / out, **EXACT)
    if out == "a.tif":
        with rasterio.open(tmp_path / out) as file:
            assert file.crs == UTM["crs"] and file.transform == UTM["transform"]
            assert file.count == 1 and file.nodata is None
    else:
        attributes = zarr.open_array(str(tmp_path / out), mode="r").attrs
        assert rasterio.crs.CRS.from_wkt(attributes["crs"]) == UTM["crs"]
        assert tuple(attributes["transform"]) == tuple(UTM["transform"])[:6]


def test_ground_control_points_are_kept(problem, tmp_path):
    """As of radar scenes, which have no regular grid on the ground."""
    logits, image = problem
    points = [
        rasterio.control.GroundControlPoint(row, column, 11 + column / 1e4, 48 - row / 1e4, 0)
        for row, column in ((0, 0), (0, 169), (149, 0), (149, 169))
    ]
    where = {"gcps": points, "crs": rasterio.crs.CRS.from_epsg(4326)}
    a = stored(tmp_path / "logits.npy", logits)
    b = geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0), where)
    refine_raster(a, b, tmp_path / "out.tif", **EXACT)
    with rasterio.open(tmp_path / "out.tif") as file:
        found, crs = file.gcps
        assert crs == where["crs"] and [p.x for p in found] == [p.x for p in points]


def test_logits_of_another_kind_take_the_georeference_of_the_image(problem, tmp_path):
    logits, image = problem
    a = stored(tmp_path / "logits.npy", logits.astype(np.float16))
    b = geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0))
    refine_raster(a, b, tmp_path / "out.tif", **EXACT)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs == UTM["crs"] and file.transform == UTM["transform"]


@pytest.mark.parametrize("other", ["crs", "transform"])
def test_rasters_of_different_ground_are_refused(problem, other, tmp_path):
    logits, image = problem
    elsewhere = {
        "crs": rasterio.crs.CRS.from_epsg(32633),
        "transform": rasterio.transform.from_origin(691000.5, 5335000, 0.5, 0.5),
    }
    a = geotiff(tmp_path / "logits.tif", logits, {**UTM, other: elsewhere[other]})
    b = geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0))
    with pytest.raises(ValueError, match="logits.tif and .*image.tif lie on .* warp one"):
        refine_raster(a, b, tmp_path / "out.tif", **EXACT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "logits.tif"]


@pytest.mark.parametrize("marginals", [False, True])
def test_pixels_without_data_take_no_part_and_come_out_without(problem, marginals, tmp_path):
    """A nodata value in the image, NaN in the logits, and a mask beside them."""
    logits, image = problem
    image = image.clip(1)
    image[:40, :30] = 0
    logits[:, 100:, 150:] = np.nan
    extra = np.ones((150, 170), np.uint8)
    extra[60:80, 60:80] = 0
    seen = (image > 0).any(-1) & np.isfinite(logits).all(0) & (extra > 0)
    a = geotiff(tmp_path / "logits.tif", logits, nodata=np.nan)
    b = geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0), nodata=0)
    mask = geotiff(tmp_path / "mask.tif", extra[None])
    out = tmp_path / "out.tif"
    refine_raster(a, b, out, mask=mask, marginals=marginals, **EXACT)
    want = refine(logits, image, SMALL, iterations=2, mask=seen)
    with rasterio.open(out) as file:
        assert (file.dataset_mask() != 0).tolist() == seen.tolist()
        found = file.read()
        if marginals:
            assert np.isnan(file.nodata)
            np.testing.assert_allclose(found[:, seen], want[:, seen], rtol=0, atol=2e-6)
        else:
            assert file.nodata == 255
            assert (found[0][seen] != want.argmax(0)[seen]).mean() < 1e-3


INSIDE = np.arange(170) % 7 * np.ones((150, 1), int)  # 0 outside


@pytest.mark.parametrize("kind", [".npy", ".zarr", ".tif"])
@pytest.mark.parametrize(
    "values",
    [
        INSIDE.astype(np.uint8), INSIDE.astype(np.int16) - 3, INSIDE > 0, INSIDE.astype(np.float32),
        INSIDE.astype(np.float64), INSIDE / np.float32(6), np.where(INSIDE, 1.0, np.nan),
        np.where(INSIDE, 1e30, 0),
    ],
    ids=lambda values: f"{values.dtype} up to {values.max():g}",
)  # fmt: skip
def test_a_mask_is_read_in_tiles_as_it_is_read_whole(values, kind, problem, tmp_path):
    logits, image = problem
    a, b = stored(tmp_path / "logits.npy", logits), stored(tmp_path / "image.npy", image)
    if kind == ".tif":
        mask = geotiff(tmp_path / "mask.tif", values[None].astype(np.result_type(values, np.uint8)))
    else:
        mask = stored(tmp_path / f"mask{kind}", values)
    out = tmp_path / "out.npy"
    try:
        want = read_mask(mask)
    except ValueError as error:
        with pytest.raises(ValueError) as caught:
            refine_raster(a, b, out, mask=mask, **EXACT)
        assert str(caught.value) == str(error) and "a mask holds integers" in str(error)
        assert not out.exists()
    else:
        refine_raster(a, b, out, mask=mask, **EXACT)
        np.testing.assert_array_equal(np.load(out) != 255, want)
        np.testing.assert_array_equal(want, values != 0)


def test_values_without_data_in_a_mask_exclude_pixels(problem, tmp_path):
    logits, image = problem
    a, b = stored(tmp_path / "logits.npy", logits), stored(tmp_path / "image.npy", image)
    values = np.where(INSIDE, 1.0, np.nan).astype(np.float32)
    mask = geotiff(tmp_path / "mask.tif", values[None], nodata=np.nan)
    refine_raster(a, b, tmp_path / "out.npy", mask=mask, **EXACT)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy") != 255, INSIDE > 0)
    np.testing.assert_array_equal(read_mask(mask), INSIDE > 0)


def test_an_alpha_band_is_a_mask_and_no_channel(problem, tmp_path):
    logits, image = problem
    alpha = np.full((1, 150, 170), 255, np.uint8)
    alpha[:, :, 100:] = 0
    bands = np.concatenate([np.moveaxis(image[..., :3], -1, 0), alpha])
    a = stored(tmp_path / "logits.npy", logits)
    b = geotiff(tmp_path / "image.tif", bands, photometric="RGB", alpha="YES")
    refine_raster(a, b, tmp_path / "out.npy", **EXACT)
    seen = alpha[0] > 0
    want = refine(logits, image[..., :3], SMALL, iterations=2, mask=seen).argmax(0)
    found = np.load(tmp_path / "out.npy")
    assert (found[~seen] == 255).all() and (found[seen] != want[seen]).mean() < 1e-3


def test_bands_are_chosen_by_number_even_one_that_is_marked_as_alpha(problem, tmp_path):
    """As GDAL marks the fourth of four bands of bytes unless told otherwise."""
    logits, image = problem
    image[:50, :, 3] = 0
    a = stored(tmp_path / "logits.npy", logits)
    b = geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0), photometric="RGB", alpha="YES")
    with rasterio.open(b) as file:
        assert file.colorinterp[3].name == "alpha"
    for bands in ([1, 2, 3, 4], [4, 1], [2]):
        refine_raster(a, b, tmp_path / "out.npy", bands=bands, **EXACT)
        channels = image[..., [band - 1 for band in bands]]
        seen = None if 4 in bands else image[..., 3] > 0
        want = refine(logits, channels, SMALL, iterations=2, mask=seen).argmax(0)
        found = np.load(tmp_path / "out.npy")
        everywhere = np.ones_like(want, bool) if seen is None else seen
        assert (found[everywhere] != want[everywhere]).mean() < 1e-3


def test_probabilities_stored_as_bytes_are_read_as_such(problem, tmp_path):
    logits, image = problem
    p = np.exp(logits) / np.exp(logits).sum(0)
    a = geotiff(tmp_path / "p.tif", (255 * p).round().astype(np.uint8))
    b = stored(tmp_path / "image.npy", image)
    refine_raster(a, b, tmp_path / "out.tif", kind="probabilities", **EXACT)
    want = refine(logits, image, SMALL, iterations=2).argmax(0)
    assert (loaded(tmp_path / "out.tif") != want).mean() < 0.01


@pytest.mark.parametrize("kind", [".zarr", ".npy"])
@pytest.mark.parametrize("integers", [0, 100, 149])
def test_one_map_of_two_axes_is_one_foreground(problem, kind, integers, tmp_path):
    """The first rows may hold integers alone, such as 0."""
    logits, image = problem
    one = logits[0].copy()
    one[:integers] = np.round(one[:integers])
    a, b = stored(tmp_path / f"a{kind}", one), stored(tmp_path / f"b{kind}", image)
    refine_raster(a, b, tmp_path / f"out{kind}", **EXACT)
    want = refine(one[None], image, SMALL, iterations=2, labels=True)
    assert (loaded(tmp_path / f"out{kind}") != want).mean() < 1e-3
    stored(a, np.round(one))
    with pytest.raises(ValueError, match="for a label map pass kind='labels'"):
        refine_raster(a, b, tmp_path / f"out{kind}", **EXACT)


def test_volumes_go_from_zarr_to_zarr(tmp_path):
    image = picture(20, 23)[None].repeat(9, 0).astype(np.float32)
    logits = noisy_logits(2, image, np.float32)
    a, b = stored(tmp_path / "a.zarr", logits), stored(tmp_path / "b.zarr", image[..., 0])
    out = tmp_path / "out.zarr"
    refine_raster(a, b, out, marginals=True, spacing=(3, 1, 1), **EXACT)
    want = refine(logits, image[..., :1], SMALL, iterations=2, spacing=(3, 1, 1))
    np.testing.assert_allclose(loaded(out), want, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="a GeoTIFF holds no volumes"):
        refine_raster(a, b, tmp_path / "out.tif", **EXACT)


@pytest.mark.parametrize("kind", [".tif", ".zarr", ".npy"])
def test_a_refined_raster_is_never_left_half_written(problem, kind, tmp_path):
    """NaN in the last tile; what was there before stays as it was."""
    logits, image = problem
    out = tmp_path / f"out{kind}"
    good, b = stored(tmp_path / "good.npy", logits), stored(tmp_path / "image.npy", image)
    logits[1, 149, 169] = np.nan
    bad = stored(tmp_path / "bad.npy", logits)
    for before in (False, True):
        if before:
            refine_raster(good, b, out, **EXACT)
        names = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(ValueError, match=r"NaN \(1 entry\).*rows .*\.\.149, columns"):
            refine_raster(bad, b, out, **{**EXACT, "halo": 0})
        assert sorted(path.name for path in tmp_path.iterdir()) == names
    want = loaded(out)
    refine_raster(good, b, out, **EXACT)  # over what is there
    np.testing.assert_array_equal(loaded(out), want)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


DISK = """
    import resource, signal, sys
    from densecrf_rnn.files import refine_raster
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a full disk
    try:
        refine_raster(*sys.argv[1:4], marginals=True, iterations=0)
    except (OSError, ValueError) as error:
        print("refused:", error)
"""


@pytest.mark.parametrize("kind", [".tif", ".zarr", ".npy"])
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by setrlimit")
def test_a_full_disk_leaves_nothing_behind(kind, tmp_path):
    rng = np.random.default_rng(0)
    a = stored(tmp_path / "a.npy", rng.normal(size=(2, 300, 300)).astype(np.float32))
    b = stored(tmp_path / "b.npy", rng.integers(0, 255, (300, 300, 3), np.uint8))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DISK), a, b, tmp_path / f"out{kind}"],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0 and "refused:" in result.stdout, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"logits": "none.tif"}, FileNotFoundError, "no such file"),
        ({"logits": "image.png"}, ValueError, "image.png: .png cannot be read and written"),
        ({"out": "out.jpg"}, ValueError, "out.jpg: .jpg cannot be"),
        ({"image": "damaged.tif"}, ValueError, "damaged.tif: damaged, or not a TIFF"),
        ({"image": "damaged.npy"}, ValueError, "damaged.npy: damaged, or not a .npy file"),
        ({"image": "damaged.zarr"}, ValueError, "damaged.zarr: damaged, or not a zarr array"),
        ({"image": "small.npy"}, ValueError, "image is 5 x 6 but logits is 150 x 170"),
        ({"mask": "image.tif"}, ValueError, "has 4 bands; a label map, or a mask, has one"),
        ({"mask": "small.npy"}, ValueError, "small.npy is 5 x 6 x 3 but logits is 150 x 170"),
        ({"bands": [1, 5]}, ValueError, "image.tif: bands are [1, 5]; choose from [1, 2, 3, 4]"),
        ({"bands": [1], "image": "small.npy"}, ValueError, "only a TIFF has bands"),
        ({"logits": "image.tif"}, TypeError, "logits has dtype uint8"),
        ({"kind": "probabilities"}, ValueError, "logits.tif: probabilities holds"),
        ({"kind": "probability"}, ValueError, "kind is 'probability'; choose from 'logits', "),
        ({"num_labels": 5}, ValueError, "num_labels is about label maps, but kind is 'logits'"),
        ({"unsure": 3}, ValueError, "unsure is about label maps, but kind is 'logits'; pass kind="),
        ({"confidence": 7}, ValueError, "confidence is about label maps, but kind is 'logits'"),
        ({"clip": True}, ValueError, "clip is about probabilities, but kind is 'logits'; pass"),
        ({"tile": 0}, ValueError, "tile is 0"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(change, kind, message, problem, tmp_path):
    logits, image = problem
    geotiff(tmp_path / "logits.tif", logits)
    geotiff(tmp_path / "image.tif", np.moveaxis(image, -1, 0))
    np.save(tmp_path / "small.npy", np.zeros((5, 6, 3), np.uint8))
    (tmp_path / "damaged.zarr").mkdir()
    for name in ("damaged.tif", "damaged.npy", "image.png", "damaged.zarr/zarr.json"):
        (tmp_path / name).write_bytes(b"II*\0 or not")
    names = sorted(path.name for path in tmp_path.iterdir())
    paths = {"logits": "logits.tif", "image": "image.tif", "out": "out.tif"}
    options = {**paths, **EXACT, **change}
    for name in (*paths, "mask"):
        if name in options:
            options[name] = tmp_path / options[name]
    with pytest.raises(kind) as caught:
        refine_raster(**options)
    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def stat_of(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "out", ["logits.npy", "image.npy", "mask.npy", "x/../logits.npy", "link.npy"]
)
def test_an_output_that_is_one_of_the_inputs_is_refused(out, problem, tmp_path):
    logits, image = problem
    a, b = stored(tmp_path / "logits.npy", logits), stored(tmp_path / "image.npy", image)
    mask = stored(tmp_path / "mask.npy", np.ones(image.shape[:2], bool))
    (tmp_path / "x").mkdir()
    (tmp_path / "link.npy").symlink_to(b)
    before = stat_of(tmp_path)
    with pytest.raises(ValueError, match="is one of the inputs .*; choose another path for out"):
        refine_raster(a, b, tmp_path / out, mask=mask, **EXACT)
    assert stat_of(tmp_path) == before
    refine_raster(a, b, tmp_path / "other.npy", mask=mask, **EXACT)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("all.zarr/logits.zarr", "is one of the inputs"),
        ("all.zarr", "holds one of the inputs"),
        ("all.zarr/logits.zarr/out.zarr", "is inside one of the inputs"),
    ],
)
def test_an_output_that_would_replace_a_part_of_a_folder_of_inputs_is_refused(
    out, words, problem, tmp_path
):
    logits, image = problem
    (tmp_path / "all.zarr").mkdir()
    a = stored(tmp_path / "all.zarr" / "logits.zarr", logits)
    b = stored(tmp_path / "b.npy", image)
    before = stat_of(tmp_path)
    with pytest.raises(ValueError, match=words):
        refine_raster(a, b, tmp_path / out, **EXACT)
    assert stat_of(tmp_path) == before
    refine_raster(a, b, tmp_path / "all.zarr" / "out.zarr", **EXACT)


@pytest.mark.parametrize("module", ["rasterio", "zarr"])
def test_without_its_package_the_error_says_what_to_install(module, problem, monkeypatch, tmp_path):
    logits, image = problem
    a, b = stored(tmp_path / "a.npy", logits), stored(tmp_path / "b.npy", image)
    monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / ("out.tif" if module == "rasterio" else "out.zarr")
    with pytest.raises(ImportError, match=rf"{module}.*pip install 'densecrf-rnn\[raster\]'"):
        refine_raster(a, b, out, **EXACT)


def test_a_cut_off_geotiff_is_refused_by_name(problem, tmp_path):
    logits, image = problem
    a = stored(tmp_path / "a.npy", logits)
    b = geotiff(tmp_path / "b.tif", np.moveaxis(image, -1, 0))
    b.write_bytes(b.read_bytes()[:30_000])
    with pytest.raises(ValueError, match="b.tif: damaged, or not a GeoTIFF"):
        refine_raster(a, b, tmp_path / "out.tif", **EXACT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.tif"]


def test_tiles_and_files_agree_on_what_is_read():
    """A default tile is a multiple of the blocks and chunks that are written."""
    from densecrf_rnn.files import geotiff, windows

    for axes, tile in tiles._DEFAULT_TILE.items():
        assert tile % windows._CHUNK[axes] == 0
    assert tiles._DEFAULT_TILE[2] % geotiff._BLOCK == 0
