"""`densecrf-rnn refine --tile`: rasters from folder to folder, by the options of the command."""

import json
import sys

import numpy as np
import pytest
from oracles import noisy_logits, picture

from densecrf_rnn import CRFParams, refine
from densecrf_rnn.cli import main

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
pytest.importorskip("tqdm", reason="tqdm is not installed")

GROUND = {
    "crs": rasterio.crs.CRS.from_epsg(32632),
    "transform": rasterio.transform.from_origin(691000, 5335000, 0.5, 0.5),
}
CRF = ["--theta-alpha", "2", "--theta-beta", "20", "--theta-gamma", "1.9", "--iterations", "2"]
PARAMS = CRFParams(theta_alpha=2, theta_beta=20, theta_gamma=1.9, w_bilateral=3)


@pytest.fixture
def folders(tmp_path):
    """logits/ and images/ with two GeoTIFFs each, and what they hold."""
    held = {}
    for seed, stem in enumerate("ab"):
        image = picture(70, 90, channels=4, seed=seed).astype(np.uint8)
        logits = noisy_logits(3, image, np.float32, seed)
        held[stem] = logits, image
        for folder, bands in (("logits", logits), ("images", np.moveaxis(image, -1, 0))):
            (tmp_path / folder).mkdir(exist_ok=True)
            with rasterio.open(
                tmp_path / folder / f"{stem}.tif", "w", driver="GTiff", count=len(bands),
                height=70, width=90, dtype=bands.dtype, photometric="MINISBLACK", **GROUND,
            ) as file:  # fmt: skip
                file.write(bands)
    return tmp_path, held


def command(folder, *options):
    paths = [str(folder / name) for name in ("logits", "images")]
    return main(["refine", *paths, "--out", str(folder / "out"), *CRF, *options])


def one_sentence(capsys):
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and "Traceback" not in err
    return err


def test_rasters_are_refined_in_tiles_and_stay_where_they_were(folders, capsys):
    folder, held = folders
    assert command(folder, "--tile", "32", "--halo", "exact") == 0
    assert "2 refined" in capsys.readouterr().out
    for stem, (logits, image) in held.items():
        with rasterio.open(folder / "out" / f"{stem}.tif") as file:
            assert file.crs == GROUND["crs"] and file.transform == GROUND["transform"]
            found = file.read(1)
        want = refine(logits, image, PARAMS, iterations=2).argmax(0)
        assert (found != want).mean() < 1e-3
    record = json.loads((folder / "out" / "refine.json").read_text())
    (options,) = record["options"].values()
    assert options["tile"] == 32 and options["halo"] == "exact"
    assert command(folder, "--tile", "32", "--halo", "exact") == 0
    assert "0 refined" in capsys.readouterr().out
    assert command(folder, "--tile", "32", "--halo", "3") == 0
    assert "2 refined" in capsys.readouterr().out


def test_plain_tiffs_are_refined_without_a_word(folders, capsys):
    folder, _ = folders
    for path in folder.glob("*/*.tif"):
        with rasterio.open(path) as file:
            bands = file.read()
        path.unlink()
        profile = {"count": len(bands), "height": 70, "width": 90, "dtype": bands.dtype}
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(
            path, "w", driver="GTiff", photometric="MINISBLACK", **profile
        ) as file:
            file.write(bands)
    assert command(folder, "--tile", "64") == 0
    assert capsys.readouterr().err == ""


def test_marginals_of_chosen_bands(folders):
    folder, held = folders
    options = ("--tile", "32", "--halo", "exact", "--bands", "4,1", "--write", "marginals")
    assert command(folder, *options) == 0
    logits, image = held["b"]
    with rasterio.open(folder / "out" / "b.tif") as file:
        found = file.read()
    want = refine(logits, image[..., [3, 0]], PARAMS, iterations=2)
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--halo", "3"), "--halo goes with --tile"),
        (("--tile", "32", "--upsample", "corners"), "--upsample needs whole files"),
        (("--tile", "32", "--remove-small", "9"), "--remove-small needs whole files"),
        (("--tile", "32", "--write", "both"), "labels or marginals, not both"),
        (("--tile", "32", "--classes", "0,1", "--write", "marginals"), "writes labels only"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_contradict_tiles_are_refused(options, message, folders, capsys):
    folder, _ = folders
    assert command(folder, *options) == 2
    assert message in one_sentence(capsys)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("option", [("--tile", "0"), ("--halo", "wide"), ("--bands", "1,x")])
def test_numbers_that_are_none_are_refused(option, folders, capsys):
    with pytest.raises(SystemExit):
        command(folders[0], *option)
    assert option[0] in capsys.readouterr().err


def test_a_file_that_cannot_be_read_in_parts_is_named_and_stops_no_other(folders, capsys):
    folder, _ = folders
    (folder / "images" / "a.tif").rename(folder / "images" / "a.png")
    assert command(folder, "--tile", "32") == 1
    captured = capsys.readouterr()
    assert "1 refined" in captured.out and "a.png: .png cannot be" in captured.err
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["b.tif", "refine.json"]


def test_units_beyond_bytes_are_pointed_out(folders, capsys):
    folder, held = folders
    for stem in held:
        with rasterio.open(
            folder / "images" / f"{stem}.tif", "w", driver="GTiff", count=1, height=70, width=90,
            dtype="uint16", **GROUND,
        ) as file:  # fmt: skip
            file.write(np.uint16(30) * (np.indices((1, 70, 90))[2] % 80).astype(np.uint16))
    out = ["--out", str(folder / "out"), "--tile", "32"]
    assert main(["refine", str(folder / "logits"), str(folder / "images"), *out]) == 0
    assert "give --theta-beta" in capsys.readouterr().err


# --- with and without --tile the same ------------------------------------------------------------


def write(path, bands, ground=GROUND, **options):
    """Write [band, H, W]."""
    path.parent.mkdir(exist_ok=True)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype,
        **{"photometric": "MINISBLACK", **ground, **options},
    ) as file:  # fmt: skip
        file.write(bands)


def both(folder, *options):
    """Refine without and with --tile; return labels, their nodata values, and the files."""
    found = []
    for name, more in (("whole", ()), ("tiles", ("--tile", "40", "--halo", "exact"))):
        paths = [str(folder / of) for of in ("logits", "images")]
        assert main(["refine", *paths, "--out", str(folder / name), *CRF, *options, *more]) == 0
        (path,) = (folder / name).glob("*.tif*")
        with rasterio.open(path) as file:
            assert (file.crs, file.transform) == (GROUND["crs"], GROUND["transform"])
            found.append((file.read(1), file.nodata, file.dtypes))
    (whole, *marks), (tiles, *marks_of_tiles) = found
    assert marks == marks_of_tiles
    assert (whole != tiles).mean() < 1e-3
    return whole, marks[0]


def single(folder, stem="a"):
    """Return logits [3, H, W] and image [4, H, W] of a problem; the folders hold nothing yet."""
    image = picture(70, 90, channels=4).astype(np.uint8)
    return noisy_logits(3, image, np.float32), np.moveaxis(image, -1, 0).copy()


@pytest.mark.parametrize("alpha", [None, "YES"])
@pytest.mark.parametrize("content", ["logits", "uint8", "uint16", "labels", "NaN", "classes"])
def test_a_geotiff_is_refined_alike_with_and_without_tiles(tmp_path, content, alpha):
    """Pixels without data are excluded, and nodata in the output; a mask is another reason."""
    logits, image = single(tmp_path)
    image[:, :9] = 0
    image[1, 20:30] = 0  # a band of 0 is no reason: the pixel has data
    photometric = {} if alpha is None else {"photometric": "RGB", "alpha": alpha}
    if alpha:
        image[3] = 255
        image[3, :, 80:] = 0
    seen = image[3] > 0 if alpha else (image > 0).any(0)
    options, name = [], "a.tiff" if content == "classes" else "a.tif"
    p = np.exp(logits) / np.exp(logits).sum(0)
    held, nodata = logits, None
    if content in ("uint8", "uint16"):
        most = np.iinfo(content).max
        held, options = (most * p).round().astype(content), ["--kind", "probabilities", "--clip"]
    elif content == "labels":
        held, nodata = logits.argmax(0)[None].astype(np.uint8), 7
        options = ["--kind", "labels", "--num-labels", "3", "--unsure", "200"]
        held[0, 40:50], held[0, 50:] = 7, 200
        seen[40:50] = False
    elif content == "NaN":
        held, nodata = logits.copy(), np.nan
        held[:, 40:50] = np.nan
        seen[40:50] = False
    elif content == "classes":
        options = ["--classes", "0,2", "--temperature", "2"]
    write(tmp_path / "logits" / name, held, nodata=nodata)
    write(tmp_path / "images" / name, image, nodata=None if alpha else 0, **photometric)
    found, mark = both(tmp_path, *options)
    assert mark == 255 and ((found != 255) == seen).all()
    assert set(np.unique(found[seen])) <= ({0, 2} if content == "classes" else {0, 1, 2})


def test_a_mask_is_heeded_alike_with_and_without_tiles(tmp_path):
    """Where it has no data, pixels are excluded; excluded pixels are nodata in a GeoTIFF."""
    logits, image = single(tmp_path)
    mask = np.ones((1, 70, 90), np.uint8)
    mask[:, :20], mask[:, 50:] = 0, 9
    write(tmp_path / "logits" / "a.tif", logits)
    write(tmp_path / "images" / "a.tif", image)
    write(tmp_path / "masks" / "a.tif", mask, nodata=9)
    found, mark = both(tmp_path, "--mask", str(tmp_path / "masks"))
    assert mark == 255 and ((found != 255) == (mask[0] == 1)).all()


def test_small_regions_at_the_edge_of_the_data_take_no_label_from_outside(tmp_path):
    logits, image = single(tmp_path)
    image[:, :35] = 0
    write(tmp_path / "logits" / "a.tif", logits)
    write(tmp_path / "images" / "a.tif", image, nodata=0)
    out = ["--out", str(tmp_path / "out"), "--remove-small", "60"]
    folders = [str(tmp_path / name) for name in ("logits", "images")]
    assert main(["refine", *folders, *out, *CRF]) == 0
    with rasterio.open(tmp_path / "out" / "a.tif") as file:
        found = file.read(1)
    assert (found[:35] == 255).all() and (found[35:] < 3).all()


def test_a_plain_tiff_is_refined_to_a_picture_and_a_geotiff_needs_rasterio(
    tmp_path, capsys, monkeypatch
):
    tifffile = pytest.importorskip("tifffile")
    logits, image = single(tmp_path)
    write(tmp_path / "logits" / "a.tif", logits)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.moveaxis(image[:3], 0, -1))
    assert command(tmp_path) == 0
    assert (tmp_path / "out" / "a.png").exists()
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert command(tmp_path, "--iterations", "3") == 2
    assert "a.tif: a GeoTIFF needs rasterio" in (error := one_sentence(capsys))
    assert "pip install 'densecrf-rnn[raster]'" in error
    (tmp_path / "logits" / "a.tif").unlink()
    np.save(tmp_path / "logits" / "a.npy", logits)
    assert command(tmp_path, "--iterations", "3") == 0  # plain TIFFs need tifffile alone


def test_pixels_without_data_are_not_scored_and_the_table_says_how_many(tmp_path, capsys):
    truth = np.zeros((1, 70, 90), np.uint8)
    truth[:, :, 45:] = 1
    prediction = truth.copy()
    prediction[:, :, 40:50] ^= 1
    right, lacking = prediction.copy(), prediction.copy()
    truth[:, :10] = 9
    lacking[:, 60:] = 255
    write(tmp_path / "truth" / "a.tif", truth, nodata=9)
    write(tmp_path / "one" / "a.tif", right)
    write(tmp_path / "two" / "a.tif", lacking, nodata=255)
    paths = [str(tmp_path / name) for name in ("one", "two", "truth")]
    assert main(["evaluate", *paths, "--json", str(tmp_path / "scores.json")]) == 0
    assert "900 more pixels have a true label, but no data in a prediction" in (
        capsys.readouterr().out
    )
    facts = json.loads((tmp_path / "scores.json").read_text())
    assert facts["pixels"] == 50 * 90 and facts["pixels_without_prediction"] == 900
    assert all(one["pixel_accuracy"] == 1 - 10 / 90 for one in facts["predictions"])


def test_scores_in_a_tiff_are_evaluated(tmp_path):
    logits, image = single(tmp_path)
    write(tmp_path / "truth" / "a.tif", logits.argmax(0)[None].astype(np.uint8))
    logits[:, :5] = np.nan
    write(tmp_path / "scores" / "a.tif", logits, nodata=np.nan)
    paths = [str(tmp_path / name) for name in ("scores", "truth")]
    assert main(["evaluate", *paths, "--json", str(tmp_path / "scores.json")]) == 0
    facts = json.loads((tmp_path / "scores.json").read_text())
    assert facts["predictions"][0]["pixel_accuracy"] == 1
    assert facts["pixels_without_prediction"] == 5 * 90


def test_what_refine_writes_is_scored_whatever_lacks_data(folders, tmp_path):
    """Labels as GeoTIFF, marginals with NaN as .npz, and labels of 255 as PNG."""
    folder, held = folders
    for stem, (logits, image) in held.items():
        logits[:, :20] = np.nan
        write(folder / "logits" / f"{stem}.tif", logits, nodata=np.nan)
        truth = np.nan_to_num(logits).argmax(0)[None].astype(np.uint8)
        truth[:, :20] = 255
        write(folder / "truth" / f"{stem}.tif", truth)
    assert command(folder, "--write", "both") == 0
    for end in ("tif", "npz"):
        paths = [f"{folder}/out/*.{end}", str(folder / "truth")]
        assert main(["evaluate", *paths, "--json", str(folder / f"{end}.json")]) == 0
    facts = [json.loads((folder / f"{end}.json").read_text()) for end in ("tif", "npz")]
    assert facts[0]["predictions"][0]["confusion"] == facts[1]["predictions"][0]["confusion"]


def test_grey_values_never_hide_that_there_are_no_data(tmp_path, capsys):
    logits, image = single(tmp_path)
    logits[:, :20] = np.nan
    write(tmp_path / "logits" / "a.tif", logits[:2], nodata=np.nan)
    write(tmp_path / "images" / "a.tif", image)
    assert command(tmp_path, "--write", "saliency") == 1
    assert "a.png: 1800 pixels have no data" in one_sentence(capsys)
    assert command(tmp_path, "--write", "marginals") == 0


def test_tune_neither_refines_nor_scores_pixels_without_data(folders, monkeypatch):
    pytest.importorskip("optuna")
    folder, held = folders
    for stem, (logits, image) in held.items():
        logits[:, :20] = np.nan
        write(folder / "logits" / f"{stem}.tif", logits, nodata=np.nan)
        truth = np.nan_to_num(logits).argmax(0)[None].astype(np.uint8)
        truth[:, 60:] = 77
        write(folder / "truth" / f"{stem}.tif", truth, nodata=77)
    seen = []

    def look(examples, task, **more):
        seen.extend(examples[i] for i in range(len(examples)))
        raise ValueError("enough")

    monkeypatch.setattr("densecrf_rnn.tuning.tune", look)
    paths = [str(folder / name) for name in ("logits", "images", "truth")]
    assert main(["tune", *paths, "--out", str(folder / "p.json"), "--trials", "1"]) == 2
    assert len(seen) == 2
    for example in seen:
        assert not example.mask[:20].any() and example.mask[20:].all()
        assert np.isfinite(example.logits).all()
        scored = example.truth != -1
        assert not scored[:20].any() and scored[20:60].all() and not scored[60:].any()
