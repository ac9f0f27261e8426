"""Pixels without data in label maps of any format: marked where this is possible, never scored."""

import json
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import files

pytest.importorskip("tqdm")
Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
rasterio = pytest.importorskip("rasterio")
RNG = np.random.default_rng(0)
SIZE = (20, 24)
IMAGE = RNG.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
LOGITS = RNG.normal(size=(3, *SIZE)).astype(np.float32)
TRUTH = LOGITS.argmax(0).astype(np.uint8)


def raster(path, bands, nodata=None):
    shape = {"count": len(bands), "height": SIZE[0], "width": SIZE[1]}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(1, 0, 9, 0, -1, 9)}
    with rasterio.open(path, "w", dtype=bands.dtype, nodata=nodata, **shape, **place) as file:
        file.write(bands)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("logits", "images", "truth"):
        Path(name).mkdir()
    Image.fromarray(IMAGE).save("images/a.png")
    Image.fromarray(TRUTH).save("truth/a.png")


def run(*words):
    from densecrf_rnn.cli import main

    crf = ["--iterations", "0", "--theta-alpha", "4", "--theta-beta", "20"]
    return main([*words, *(crf if words[0] == "refine" else ())])


def scores(*words):
    assert run("evaluate", *words, "--json", "scores.json") == 0
    return json.loads(Path("scores.json").read_text())


def test_a_png_says_where_it_has_no_data(folder):
    logits = LOGITS.copy()
    logits[:, :4] = -9999
    raster("logits/a.tif", logits, nodata=-9999)
    assert run("refine", "logits", "images", "-o", "out") == 0
    expected = np.arange(20)[:, None] > 3 + 0 * TRUTH
    np.testing.assert_array_equal(files.read_valid("out/a.png"), expected)
    found = scores("out", "truth")
    assert found["predictions"][0]["mean_iu"] == 1 and found["pixels_without_prediction"] == 4 * 24
    again = ("refine", "out", "images", "--num-labels", "3", "-o", "again")
    assert run(*again) == 0
    np.testing.assert_array_equal(files.read_labels("again/a.png"), files.read_labels("out/a.png"))
    files.write_labels("plain.png", TRUTH)
    assert files.read_valid("plain.png") is None


def test_an_array_without_data_is_scored_as_the_message_says(folder, capsys):
    logits = LOGITS.copy()
    logits[:, :4] = -9999
    raster("logits/a.tif", logits, nodata=-9999)
    np.save("images/a.npy", IMAGE)
    Path("images/a.png").unlink()
    assert run("refine", "logits", "images", "-o", "out", "--tile", "16") == 0
    assert run("evaluate", "out", "truth") == 2
    assert "without data in the prediction, give --ignore 255" in capsys.readouterr().err
    found = scores("out", "truth", "--ignore", "255")
    assert found["predictions"][0]["mean_iu"] == 1 and found["pixels_without_prediction"] == 4 * 24


def test_a_foreground_of_255_is_not_without_data(folder, capsys):
    Path("masks").mkdir()
    np.save("masks/a.npy", (TRUTH > 0) * np.uint8(255))
    Image.fromarray((TRUTH > 0).astype(np.uint8)).save("truth/a.png")
    assert run("evaluate", "masks", "truth", "--ignore", "255") == 2
    assert "add --label-values 0,255" in capsys.readouterr().err


def test_transparent_pixels_have_no_label_with_and_without_tiles(folder):
    alpha = np.where(np.arange(24) > 5, 255, 0 * TRUTH).astype(np.uint8)
    Path("images/a.png").unlink()
    pixels = np.dstack([IMAGE, alpha])
    tifffile.imwrite("images/a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    np.save("logits/a.npy", LOGITS)
    outputs = []
    for number, tile in enumerate(([], ["--tile", "16"])):
        assert run("refine", "logits", "images", "-o", f"{number}", *tile) == 0
        outputs.append(next(Path(f"{number}").glob("a.*")))
    first, second = map(files.read_labels, outputs)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first == 255, alpha == 0)
    for path in outputs:
        np.testing.assert_array_equal(files.read_valid(path), alpha > 0)


@pytest.mark.parametrize("nodata, warned", [(0, True), (1, True), (9, False), (None, False)])
@pytest.mark.parametrize("tile", [[], ["--tile", "16"]])
def test_a_label_that_is_marked_as_nodata_is_noticed_once(folder, capsys, nodata, warned, tile):
    for name in ("maps", "scenes"):
        Path(name).mkdir()
    raster("maps/a.tif", TRUTH[None], nodata=nodata)
    raster("scenes/a.tif", np.moveaxis(IMAGE, -1, 0))
    options = ("--kind", "labels", "--num-labels", "3", "-o", "out", *tile)
    assert run("refine", "maps", "scenes", *options) == 0
    said = capsys.readouterr().err
    assert said.count("warning") == warned
    assert not warned or f"if {nodata} is a label, remove the mark: gdal_edit.py -unset" in said
    raster("truth/a.tif", TRUTH[None], nodata=nodata)
    Path("truth/a.png").unlink()
    share = f"{100 * (TRUTH == nodata).mean():.3g} % of the pixels"
    raster("scenes/a.tif", TRUTH[None])
    for words in (("scenes", "truth"), ("truth", "scenes")):
        scores(*words)
        said = capsys.readouterr().err
        assert said.count("warning") == warned and (share in said) == warned


def test_a_pattern_is_named_by_its_folder(folder, capsys):
    np.save("logits/a.npy", LOGITS)
    assert [c["name"] for c in scores("logits/*.npy", "truth")["predictions"]] == ["logits"]


def test_values_that_the_truth_never_holds_are_noticed(folder, capsys):
    Path("maps").mkdir()
    np.save("maps/a.npy", 10 + 10 * TRUTH)
    scores("maps", "truth")
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "such as --label-values 10,20,30" in said
    found = scores("maps", "truth", "--label-values", "10,20,30")
    assert found["predictions"][0]["mean_iu"] == 1
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("marked", ["image", "logits", "both"])
@pytest.mark.parametrize("command", ["refine", "tune"])
def test_a_mask_of_another_size_is_refused_beside_pixels_without_data(
    folder, capsys, command, marked
):
    """Before, the mask was dropped: exit status 0, and every pixel refined."""
    if command == "tune":
        pytest.importorskip("optuna")
    logits, image = LOGITS.copy(), IMAGE.transpose(2, 0, 1).copy()
    logits[:, :4] = -9999
    image[:, :4] = 0
    Path("images/a.png").unlink()
    raster("images/a.tif", image, nodata=0 if marked != "logits" else None)
    raster("logits/a.tif", logits, nodata=-9999 if marked != "image" else None)
    Path("masks").mkdir()
    files.write_labels("masks/a.png", np.ones((5, 6), np.uint8), palette="none")
    truth = ["truth"] if command == "tune" else []
    out = ["-o", "out"] if command == "refine" else ["--trials", "2"]
    assert run(command, "logits", "images", *truth, "--mask", "masks", *out) != 0
    said = capsys.readouterr().err
    assert "mask" in said and "5 x 6" in said.replace("(5, 6)", "5 x 6"), said
