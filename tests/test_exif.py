"""Pictures that store an orientation are turned as viewers show them, or used as stored if only
so they fit the other files."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import files
from densecrf_rnn.cli import main

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")
tifffile = pytest.importorskip("tifffile")
pytest.importorskip("tqdm", reason="the commands need the extra cli")
SIZE, LABELS = (12, 17), 3
TURNED = range(2, 9)
FORMATS = ["jpg", "png", "webp", "tif"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)


def truth(size=SIZE):
    """An asymmetric map of three labels."""
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 2, : size[1] // 3] = 1
    labels[-3:, 4:] = 2
    return labels


def picture(labels):
    return np.array([[20, 20, 20], [220, 40, 40], [40, 220, 220]], np.uint8)[labels]


def save(name, shown, orientation):
    """Write pixels that a viewer shows as `shown`."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    image = Image.fromarray(shown)
    image.getexif()[274] = inverse
    stored = np.asarray(ImageOps.exif_transpose(image))
    exif = Image.Exif()
    exif[274] = orientation
    if name.endswith("tif"):
        photometric = "rgb" if shown.ndim == 3 else "minisblack"
        extra = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(name, stored, photometric=photometric, extratags=extra)
    else:
        options = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {"lossless": True}
        Image.fromarray(stored).save(name, exif=exif, **options)
    return stored


def logits_of(labels, gain=4.0):
    return gain * np.eye(LABELS, dtype=np.float32)[labels].transpose(2, 0, 1)


@pytest.mark.parametrize("end", FORMATS)
@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_read_as_viewers_show_it(orientation, end):
    shown = picture(truth())
    stored = save(f"a.{end}", shown, orientation)
    assert np.abs(files.read_image(f"a.{end}", exif="apply").astype(int) - shown).max() < 60
    assert np.abs(files.read_image(f"a.{end}", exif="ignore").astype(int) - stored).max() < 60
    with pytest.warns(files.FileNote, match="was applied"):
        auto = files.read_image(f"a.{end}", size=SIZE)
    np.testing.assert_array_equal(auto, files.read_image(f"a.{end}", exif="apply"))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_whose_logits_fit_only_the_stored_pixels_is_read_as_stored(orientation):
    stored = save("a.png", picture(truth()), orientation)
    for size in (stored.shape[:2], (7, 5)):  # of coarse logits
        with pytest.warns(files.FileNote, match="was not applied"):
            np.testing.assert_array_equal(files.read_image("a.png", size=size), stored)


def test_upright_pictures_and_georeferenced_ones_say_nothing():
    shown = picture(truth())
    Image.fromarray(shown).save("a.png")
    save("b.jpg", shown, 1)
    extra = [(274, "H", 1, 6, True), (33550, "d", 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite("c.tif", shown, photometric="rgb", extratags=extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "b.jpg", "c.tif"):
            assert files.read_image(name).shape == shown.shape


def test_an_unknown_choice_and_turned_files_where_pixels_are_used_as_stored_are_refused(capsys):
    save("a.png", picture(truth()), 6)
    with pytest.raises(ValueError, match="exif is 'yes'; choose from auto, apply, ignore"):
        files.read_image("a.png", exif="yes")
    extra = [(274, "H", 1, 3, True)]
    tifffile.imwrite("s.tif", logits_of(truth()), photometric="minisblack", extratags=extra)
    with pytest.raises(ValueError, match="save it upright"):
        files.read_logits("s.tif")
    pytest.importorskip("rasterio")
    save("a.tif", picture(truth()), 3)
    tifffile.imwrite("s.tif", logits_of(truth()), photometric="minisblack")
    assert main(["refine", "s.tif", "a.tif", "-o", "out", "--tile", "64"]) == 1
    assert "save it upright" in capsys.readouterr().err


def refine(*options):
    return main(["refine", "logits", "images", "-o", "out", "--theta-alpha", "8", *options])


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("size", [SIZE, (14, 14)])
@pytest.mark.parametrize("reader", ["viewer", "Pillow"])
def test_labels_follow_the_reader_that_the_network_was_fed_by(orientation, size, reader, capsys):
    """Noisy logits, whose right labels the image shows, in both orientations."""
    for name in ("logits", "images", "masks"):
        Path(name).mkdir()
    shown = truth(size)
    save("images/a.png", picture(shown), orientation)
    stored = save("masks/a.png", shown, orientation)
    right = shown if reader == "viewer" else stored
    noise = np.random.default_rng(0).normal(size=(LABELS, *right.shape))
    np.save("logits/a.npy", logits_of(right, 2.0) + noise.astype(np.float32))
    known = reader == "viewer" or (orientation > 4 and size[0] != size[1])
    options = [] if known else ["--exif", "ignore"]
    assert refine("--theta-beta", "30", "--write", "labels", *options) == 0
    said = capsys.readouterr().err
    assert said.count("EXIF orientation") == (1 if known else 0)
    assert ("add --exif ignore" in said) == (known and "was applied" in said)
    assert (files.read_labels("out/a.png") == right).mean() > 0.96
    record = json.loads(Path("out/refine.json").read_text())
    assert [o["exif"] for o in record["options"].values()] == ["auto" if known else "ignore"]


def test_masks_truths_and_predictions_are_turned_with_the_image(capsys):
    shown = truth()
    stored = save("t.png", shown, 6)
    save("a.png", picture(shown), 6)
    for prediction, perfect in ((shown, True), (stored, True), (stored[:, ::-1], False)):
        np.save("p.npy", prediction)
        assert main(["evaluate", "p.npy", "t.png", "--json", "s.json", "--trimap", "1"]) == 0
        score = json.loads(Path("s.json").read_text())["predictions"][0]["mean_iu"]
        assert (score == 1) == perfect
        assert capsys.readouterr().err.count("EXIF orientation") == 1
    for right in (shown, stored):
        np.save("l.npy", logits_of(right))
        mask = ["--mask", "t.png", "--write", "marginals", "--dtype", "float32"]
        assert main(["refine", "l.npy", "a.png", "-o", "out", *mask]) == 0
        outside = np.load("out/l.npz")["marginals"][:, right == 0]
        np.testing.assert_allclose(outside[0], 1 / (1 + 2 * np.exp(-4.0)), rtol=1e-5)


def test_label_maps_are_turned_as_viewers_show_them():
    shown = truth()
    save("l.png", shown, 8)
    Image.fromarray(picture(shown)).save("a.png")
    labels = ["--num-labels", "3", "--confidence", "0.9"]
    assert main(["refine", "l.png", "a.png", "-o", "out", *labels]) == 0
    np.testing.assert_array_equal(files.read_labels("out/l.png"), shown)
