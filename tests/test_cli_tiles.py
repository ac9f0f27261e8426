"""`densecrf-rnn refine --tile`: rasters from folder to folder, by the options of the command."""

import json

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
        (("--bands", "1"), "--bands goes with --tile"),
        (("--tile", "32", "--temperature", "2"), "--temperature needs whole files"),
        (("--tile", "32", "--remove-small", "9"), "--remove-small needs whole files"),
        (("--tile", "32", "--write", "both"), "labels or marginals, not both"),
        (("--tile", "32", "--kind", "labels", "--num-labels", "3"), "not labels"),
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
            file.write(np.full((1, 70, 90), 3000, np.uint16))
    out = ["--out", str(folder / "out"), "--tile", "32"]
    assert main(["refine", str(folder / "logits"), str(folder / "images"), *out]) == 0
    assert "give --theta-beta" in capsys.readouterr().err
