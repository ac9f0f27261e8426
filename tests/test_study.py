"""The study of docs/refinement.md: its pieces, on the sample pictures and on folders made here."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import CRFParams, metrics, samples

pytest.importorskip("optuna")
io = pytest.importorskip("skimage.io")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "study_refinement.py"
NAME = "2007_000033"


@pytest.fixture(scope="module")
def study():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("study_refinement", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def crop(sample, rows=40, columns=60):
    inside = (slice(100, 100 + rows), slice(150, 150 + columns))
    logits = np.ascontiguousarray(sample.logits[(slice(None), *inside)])
    image = np.ascontiguousarray(sample.image[inside])
    return replace(sample, image=image, logits=logits, truth=sample.truth[inside])


def archive(path, ids, labels, side, seed=0):
    """Coarse logits of some images, as the study reads them."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 256, (len(ids), *side, labels), dtype=np.uint8)
    np.savez(path, ids=np.array(ids), q=q, scale=np.float32(0.1), zero_point=np.int32(128))


@pytest.fixture
def data(tmp_path):
    """A folder laid out as the script wants it, with tiny pictures."""
    rng = np.random.default_rng(0)
    for folder in ("logits", "voc/JPEGImages", "voc/SegmentationClass", "voc/ImageSets",
                   "camvid/val", "camvid/valannot", "brats3d"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    for kind, images, truths, labels, ignored in (
        ("voc_val_mnv2", "voc/JPEGImages", "voc/SegmentationClass", 21, 255),
        ("camvid_val_fcn8s_mnv2", "camvid/val", "camvid/valannot", 11, 11),
    ):
        ids = [f"{kind}_{number}" for number in range(6)]
        side = (3, 4) if "camvid" in kind else (5, 5)
        archive(tmp_path / "logits" / f"{kind}.npz", ids, labels, side)
        for name in ids:
            image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            truth = np.zeros((12, 16), np.uint8)
            truth[:, 8:], truth[0] = 8, ignored
            io.imsave(tmp_path / images / f"{name}.jpg", image, check_contrast=False)
            io.imsave(tmp_path / truths / f"{name}.png", truth, check_contrast=False)
    (tmp_path / "voc/ImageSets/val_first60.txt").write_text("voc_val_mnv2_0\nvoc_val_mnv2_3\n")
    for name in ("one", "two"):
        shape = (5, 6, 7)
        np.savez(
            tmp_path / "brats3d" / f"{name}.npz",
            flair=rng.integers(0, 255, shape, dtype=np.uint8),
            t1c=rng.integers(0, 255, shape, dtype=np.uint8),
            label=rng.integers(0, 5, shape, dtype=np.uint8),
            prob=rng.integers(1, 255, (*shape, 5), dtype=np.uint8),
        )
    return tmp_path


def values(out, row):
    """The numbers of the first cell of each table row of that name, with their intervals."""
    lines = [line for line in out.splitlines() if line.startswith(f"| {row} |")]
    return [
        [float(n) for n in re.findall(r"[-+]?\d+\.\d", line.split("|")[2])] for line in lines
    ]


def test_the_samples_are_studied_without_data(study, capsys, monkeypatch):
    pictures = [crop(samples.load(name)) for name in (NAME, "2007_000129", "2007_001288")]
    monkeypatch.setattr(study, "shipped", lambda: pictures)
    study.main(["--trials", "2", "--passes", "0"])
    out = capsys.readouterr().out
    assert "Tuned on 2" in out and "Scored on 1 others" in out
    (alone,) = values(out, "network alone")
    unseen = pictures[1]
    confusion = metrics.confusion_matrix(unseen.truth, unseen.logits.argmax(0), 21)
    assert alone == [round(100 * metrics.mean_iu(confusion), 1)]  # of one image: no interval
    assert len(values(out, "tuned")) == 1 and "learned" not in out


def test_every_part_for_which_there_is_data_is_run(study, data, capsys):
    pytest.importorskip("pydensecrf")
    pytest.importorskip("torch")
    study.main(["--data", str(data), "--trials", "1", "--images", "2"])
    out = capsys.readouterr().out
    titles = re.findall(r"^### (.*)$", out, re.MULTILINE)
    assert titles == [
        "VOC against pydensecrf", "VOC", "CamVid against pydensecrf", "CamVid",
        "BRATS, scored on one", "BRATS, scored on two",
    ]  # fmt: skip
    assert len(values(out, "pydensecrf")) == 2
    assert len(values(out, "tuned, then learned by gradients")) == 4
    assert "Tuned on 2: " in out and "Tuned on 1: " in out


def test_what_is_missing_is_skipped(study, data, capsys, tmp_path):
    (data / "logits" / "voc_val_mnv2.npz").unlink()
    (data / "camvid" / "val").rename(data / "camvid" / "elsewhere")
    (data / "brats3d" / "one.npz").unlink()  # one volume alone has none to be tuned on
    study.main(["--data", str(data), "--trials", "1"])
    assert "###" not in capsys.readouterr().out


def test_regions_are_scored_before_and_after(study, data, capsys):
    spec = importlib.util.spec_from_file_location(
        "study_regions", SCRIPT.with_name("study_regions.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    module.main([str(data / "brats3d")])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| one")]
    assert [line.split("|")[1].strip() for line in lines] == [
        "one: before", "one: three regions at once", "one: one CRF over the five labels",
    ]  # fmt: skip
    one = np.load(data / "brats3d" / "one.npz")
    inside = one["prob"].argmax(-1) > 0
    both = 200 * (inside & (one["label"] > 0)).sum() / (inside.sum() + (one["label"] > 0).sum())
    assert abs(float(lines[0].split("|")[2]) - both) < 0.06
    module.main([str(data / "voc")])
    assert "nothing to refine" in capsys.readouterr().out


def test_stored_logits_are_those_of_the_samples(study, tmp_path):
    folder = Path(samples.__file__).parent
    with np.load(folder / f"{NAME}.logits.npz") as stored:
        coarse = np.moveaxis(stored["q"], 0, -1)[None]
        np.savez(tmp_path / "all.npz", ids=np.array([NAME]), q=coarse, scale=stored["scale"],
                 zero_point=stored["zero_point"])  # fmt: skip
    found = study.Stored(
        tmp_path / "all.npz", f"{folder}/{{}}.image.png", f"{folder}/{{}}.labels.png", None, 513
    )
    sample = samples.load(NAME)
    assert len(found) == 1 and found[0].name == NAME
    np.testing.assert_array_equal(found[0].logits, sample.logits)
    np.testing.assert_array_equal(found[0].image, sample.image)
    np.testing.assert_array_equal(found[0].truth, sample.truth)


def test_stored_images_are_read_when_asked_for(study, data):
    found = study.voc(data)
    assert [part.ids for part in (found[0::2], found[1::2])] == [found.ids[0::2], found.ids[1::2]]
    (data / "voc/JPEGImages" / f"{found.ids[5]}.jpg").unlink()
    assert found[:5][4].name == found.ids[4]
    with pytest.raises(FileNotFoundError):
        found[5]


def test_whole_tumour_dice_joins_the_tumours_parts(study):
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 5, (2, 6, 7, 8))
    confusion = metrics.confusion_matrix(truth, prediction, 5)
    t, p = truth > 0, prediction > 0
    assert study.whole_tumour_dice(confusion) == 2 * (t & p).sum() / (t.sum() + p.sum())


def test_pydensecrf_and_we_agree_where_the_settings_do(study):
    pytest.importorskip("pydensecrf")
    picture = crop(samples.load("2007_001288"), rows=90, columns=120)
    ours, theirs = (
        make(study.PYDENSECRF, 5)(picture) for make in (study.ours, study.theirs)
    )
    assert (ours != theirs).mean() < 0.002
    assert (ours != study.alone(picture)).mean() > 0.002  # there is something to agree on


def test_tables_show_gains_over_the_first_row(study, capsys):
    pictures = [crop(samples.load(name)) for name in (NAME, "2007_001288")]
    refiners = {"network alone": study.alone, "ours": study.ours(CRFParams(10, 5), 2)}
    counts = study.count(pictures, refiners, 21, 255)
    assert counts.shape == (2, 2, 2, 21, 21)
    study.table(counts, list(refiners), metrics.mean_iu, "mean IU")
    lines = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    total = counts.sum(0)
    for cell, part in ((2, 0), (4, 1)):
        gain = metrics.mean_iu(total[1, part]) - metrics.mean_iu(total[0, part])
        assert float(cells[cell].split()[0]) == pytest.approx(100 * gain, abs=0.05)
    assert cells[5] == f"{100 * metrics.pixel_accuracy(total[1, 0]):.1f}"
