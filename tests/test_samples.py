"""Tests of the sample pictures that ship with the package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import samples

FOLDER = Path(samples.__file__).parent


def test_samples_have_logits_for_every_picture():
    stems = {path.name.removesuffix(".logits.npz") for path in FOLDER.glob("*.logits.npz")}
    assert set(samples.names()) == stems
    assert len(stems) >= 7


def test_samples_have_a_picture_for_every_label_map():
    stems = {path.name.removesuffix(".labels.png") for path in FOLDER.glob("*.labels.png")}
    assert stems <= set(samples.names())


def test_samples_total_under_eight_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.*")) < 8_000_000


def test_the_readme_names_every_sample():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in samples.names():
        assert name in text or (name.startswith("2007_") and "2007_*" in text)


@pytest.mark.parametrize("name", samples.names())
def test_samples_have_consistent_shapes_and_types(name):
    pytest.importorskip("skimage")
    sample = samples.load(name)
    height, width = sample.image.shape[:2]
    assert sample.name == name
    assert sample.image.shape == (height, width, 3)
    assert sample.image.dtype == np.uint8
    assert sample.logits.shape == (21, height, width)
    assert sample.logits.dtype == np.float32
    assert np.isfinite(sample.logits).all()
    if sample.truth is not None:
        assert sample.truth.shape == (height, width)
        assert sample.truth.dtype == np.uint8
        assert ((sample.truth < 21) | (sample.truth == samples.IGNORE)).all()


def test_class_scores_find_most_of_the_true_labels():
    pytest.importorskip("skimage")
    right = total = 0
    for name in samples.names():
        sample = samples.load(name)
        if sample.truth is not None:
            counted = sample.truth != samples.IGNORE
            right += int((sample.logits.argmax(axis=0) == sample.truth)[counted].sum())
            total += int(counted.sum())
    assert right / total > 0.9


def test_the_cat_is_a_cat_without_true_labels():
    pytest.importorskip("skimage")
    sample = samples.load("chelsea")
    assert sample.truth is None
    labels = sample.logits.argmax(axis=0)
    assert np.bincount(labels.ravel()).argmax() == samples.CLASS_NAMES.index("cat")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no sample 'nobody'.*chelsea"):
        samples.load("nobody")


def test_upsampling_has_aligned_corners():
    torch = pytest.importorskip("torch")
    coarse = np.random.default_rng(0).normal(size=(3, 33, 33)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None], size=(513, 513), mode="bilinear", align_corners=True
    )[0].numpy()
    np.testing.assert_allclose(samples.upsample(coarse, (513, 513)), expected, atol=1e-5)


def test_upsampling_to_another_size_has_aligned_corners():
    torch = pytest.importorskip("torch")
    coarse = np.random.default_rng(1).normal(size=(2, 5, 7)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None], size=(12, 30), mode="bilinear", align_corners=True
    )[0].numpy()
    np.testing.assert_allclose(samples.upsample(coarse, (12, 30)), expected, atol=1e-5)


def test_upsampling_repeats_the_coarse_values_at_its_nodes():
    coarse = np.random.default_rng(2).normal(size=(1, 3, 4)).astype(np.float32)
    fine = samples.upsample(coarse, (2 * 16 + 1, 3 * 16 + 1))
    np.testing.assert_array_equal(fine[:, ::16, ::16], coarse)


def test_cropped_upsampling_is_the_top_left_part():
    coarse = np.random.default_rng(3).normal(size=(2, 33, 33)).astype(np.float32)
    whole = samples.upsample(coarse, (513, 513))
    part = samples.upsample(coarse, (513, 513), crop=(300, 451))
    np.testing.assert_allclose(part, whole[:, :300, :451], atol=1e-6)


def test_upsampling_refuses_a_crop_larger_than_the_grid():
    with pytest.raises(ValueError, match="cannot take 514 of 513 pixels"):
        samples.upsample(np.zeros((1, 33, 33), np.float32), (513, 513), crop=(514, 10))


def test_palette_has_the_standard_voc_colours():
    colours = samples.palette()
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    person, tvmonitor = samples.CLASS_NAMES.index("person"), samples.CLASS_NAMES.index("tvmonitor")
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[1].tolist() == [128, 0, 0]
    assert colours[person].tolist() == [192, 128, 128]
    assert colours[tvmonitor].tolist() == [0, 64, 128]
    assert colours[samples.IGNORE].tolist() == [224, 224, 192]
    assert len(np.unique(colours, axis=0)) == 256


def test_there_are_twenty_one_different_class_names():
    assert len(samples.CLASS_NAMES) == len(set(samples.CLASS_NAMES)) == 21


def test_importing_the_samples_does_not_import_scikit_image():
    code = (
        "import sys; from densecrf_rnn import samples;"
        "samples.names(); samples.palette();"
        "sys.exit(any(n.split('.')[0] in ('skimage', 'torch', 'PIL') for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_scikit_image_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.io", None)
    with pytest.raises(ImportError, match=r"needs scikit-image.*'densecrf-rnn\[cli\]'"):
        samples.load("chelsea")
