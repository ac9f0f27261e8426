"""Correct uses cause no warning: the samples, and real images of 8 and 16 bits with real scores.

Warnings depend on the input alone, so most of these calls run no iteration.
"""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import CRFParams, files, mean_field, refine, refine_tiled, samples

# The command's starting values, and those of the published layer.
SETTINGS = (CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3), CRFParams())


@contextlib.contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def in_units(params, factor):
    """Return `params` for images whose values are `factor` times as large."""
    return CRFParams.from_dict({**params.to_dict(), "theta_beta": params.theta_beta * factor})


def in_other_units(image):
    """Yield `image`, uint8, in four types and ranges, with the factor of its values."""
    yield image, 1
    yield image.astype(np.uint16) * np.uint16(257), 257
    yield (image / np.float32(255)).astype(np.float32), 1 / 255
    yield (image / np.float32(127.5) - 1).astype(np.float32), 1 / 127.5


def check(logits, image, params, **options):
    with no_warning():
        refine(logits, image, params, iterations=0, **options)
        mean_field(logits, image, params, iterations=0, **options)


@pytest.mark.parametrize("name", samples.names())
def test_samples_cause_no_warning_in_any_unit(name):
    pytest.importorskip("skimage")
    sample = samples.load(name)
    for image, factor in in_other_units(sample.image):
        for params in SETTINGS:
            check(sample.logits, image, in_units(params, factor))


def test_samples_cause_no_warning_in_tiles():
    pytest.importorskip("skimage")
    sample = samples.load(samples.names()[0])
    with no_warning():
        out = np.empty(sample.image.shape[:2], np.uint8)
        options = {"out": out, "labels": True, "tile": 256, "iterations": 1}
        refine_tiled(sample.logits, sample.image, SETTINGS[0], **options)


def test_samples_cause_no_warning_in_the_layer():
    torch = pytest.importorskip("torch")
    pytest.importorskip("skimage")
    from densecrf_rnn import CRFRNN

    sample = samples.load(samples.names()[0])
    logits = torch.from_numpy(sample.logits[None, :, :99, :101])
    image = torch.from_numpy(sample.image[:99, :101].copy()).permute(2, 0, 1)[None].float()
    with no_warning():
        CRFRNN(21, eval_iterations=1).eval()(logits, image)
        # A backbone of normalised images, of which `wrap` undoes the normalisation.
        model = CRFRNN.wrap(torch.nn.Conv2d(3, 21, 1), 21, mean=0.45, std=0.225, iterations=1)
        model((image / 255 - 0.45) / 0.225).sum().backward()


def test_the_command_says_nothing_about_the_samples(tmp_path, capfd):
    pytest.importorskip("skimage")
    pytest.importorskip("tqdm")
    from densecrf_rnn.cli import main

    image_module = pytest.importorskip("PIL.Image")
    for folder in ("logits", "images", "truth"):
        (tmp_path / folder).mkdir()
    for name in samples.names()[:2]:
        sample = samples.load(name)
        np.save(tmp_path / "logits" / f"{name}.npy", sample.logits.astype(np.float16))
        image_module.fromarray(sample.image).save(tmp_path / "images" / f"{name}.png")
        truth = sample.logits.argmax(0) if sample.truth is None else sample.truth
        image_module.fromarray(truth.astype(np.uint8)).save(tmp_path / "truth" / f"{name}.png")
    folders = [str(tmp_path / folder) for folder in ("logits", "images", "truth")]
    refined = str(tmp_path / "refined")
    assert main(["refine", *folders[:2], "--out", refined, "--iterations", "1"]) == 0
    assert main(["evaluate", refined, folders[2]]) == 0
    printed = capfd.readouterr().err
    assert "warning" not in printed.lower()


# --- real images next to the repository ----------------------------------------------------------


def pictures(folder, list_):
    for stem in (folder / list_).read_text().split():
        yield stem, files.read_image(folder / "JPEGImages" / f"{stem}.jpg")


def test_voc_causes_no_warning(shared_data):
    """300 photographs with the logits of a network."""
    pytest.importorskip("PIL")
    stored = np.load(shared_data / "logits" / "voc_val_mnv2.npz")
    scores = dict(zip(stored["ids"], stored["q"], strict=True))
    for number, (stem, image) in enumerate(pictures(shared_data / "voc", "ImageSets/val.txt")):
        coarse = (scores[stem].astype(np.float32) - stored["zero_point"]) * stored["scale"]
        rows, columns = (np.arange(n) * 33 // 513 for n in image.shape[:2])
        logits = np.ascontiguousarray(coarse[rows[:, None], columns].transpose(2, 0, 1))
        units = list(in_other_units(image))
        # Every photograph in 8 bits; the other units in turn.
        for picture, factor in {0: units[0], 1: units[1 + number % 3]}.values():
            for params in SETTINGS:
                check(logits[:3], picture, in_units(params, factor))


def test_camvid_causes_no_warning(shared_data):
    """Frames of a film, some of them dark."""
    pytest.importorskip("PIL")
    for path in sorted((shared_data / "camvid" / "test").glob("*.jpg"))[::4]:
        image = files.read_image(path)
        check(np.zeros((2, *image.shape[:2]), np.float32), image, SETTINGS[0])
        check(np.zeros((2, *image.shape[:2]), np.float32), image, SETTINGS[1])


def test_cell_membranes_cause_no_warning(shared_data):
    """Noisy grey images of an electron microscope, at the command's starting values."""
    pytest.importorskip("PIL")
    for path in sorted((shared_data / "isbi2012" / "image").glob("*.png")):
        image = files.read_image(path)
        logits = np.zeros((2, *image.shape[:2]), np.float32)
        for picture, factor in in_other_units(image):
            check(logits, picture, in_units(SETTINGS[0], factor))


def test_depth_in_millimetres_causes_no_warning(shared_data):
    """16-bit depth, at the bandwidth in millimetres that its example uses."""
    pytest.importorskip("PIL")
    for path in sorted((shared_data / "depth_parts" / "val" / "depth").glob("*.png"))[::4]:
        image = files.read_image(path)
        assert image.dtype == np.uint16
        check(np.zeros((2, *image.shape[:2]), np.float32), image, CRFParams(30, 100))


@pytest.mark.parametrize("stem", ["brats_2013_pat0001_1", "brats_2013_pat0003_1"])
def test_brain_volumes_cause_no_warning(shared_data, stem):
    """Two modalities, as 8-bit numbers and as z-scores inside the brain, with probabilities."""
    stored = np.load(shared_data / "brats3d" / f"{stem}.npz")
    p = np.moveaxis(stored["prob"], -1, 0).astype(np.float32)
    total = p.sum(0, keepdims=True)  # 0 outside the brain
    logits = np.log(np.maximum(p / np.maximum(total, 1), 1e-5))
    image = np.stack([stored["flair"], stored["t1c"]], -1)
    z = np.where(stored["mask"][..., None], image / np.float32(20) - 4, 0).astype(np.float32)
    for mask in (None, stored["mask"]):
        check(logits, image, CRFParams(5, 10), mask=mask)
        check(logits, z, CRFParams(5, 0.5), mask=mask)


def test_an_mr_volume_in_16_bits_causes_no_warning(shared_data):
    pytest.importorskip("nibabel")
    folder = Path(shared_data / "golden" / "simplecrf")
    image = files.read_image(folder / "2013_12_1_img.nii.gz")
    logits = np.zeros((2, *image.shape[:3]), np.float32)
    low, high = np.percentile(image, [1, 99])
    check(logits, image, CRFParams(5, 5 / 255 * float(high - low)))
