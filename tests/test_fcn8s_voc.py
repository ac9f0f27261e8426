"""The way of a VOC user through examples/fcn8s: datasets are found, masks checked, starts named."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from fcn8s import datasets, digests, study  # noqa: E402
from fcn8s.__main__ import main  # noqa: E402
from fcn8s_files import VOC_NAMES, make_camvid, make_sbd, make_voc, save_mask  # noqa: E402

SBD = dict.fromkeys(VOC_NAMES[2:8], 20)
SETTINGS = ["--seeds", "0", "--no-search", "--set", "steps=1", "batch=1", "window=[16,24]"]


@pytest.fixture
def voc(tmp_path):
    make_voc(tmp_path / "data")
    return tmp_path / "data"


def names_of(pictures):
    return [path.stem for path, _ in pictures.items]


def both(parts):
    return sorted(names_of(parts["train"]) + names_of(parts["select"]))


# --- which dataset, which recipe ------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_table1_of_a_voc_user_finds_voc_and_says_so(voc, tmp_path, below, capsys):
    main(["table1", "--data", str(voc / below), "--out", str(tmp_path / "out"), "--init", "none",
          *SETTINGS])
    out, err = capsys.readouterr()
    assert "holds VOC 2012 and not CamVid: recipe small with dataset=voc. Recipes for VGG-16" in err
    assert "paper" in err and "modern" in err
    assert "VOC 2012 (val), 3 pictures" in out


def test_a_folder_of_both_keeps_to_camvid(voc, tmp_path, capsys):
    make_camvid(voc / "CamVid")
    main(["table1", "--data", str(voc), "--out", str(tmp_path / "out"), "--init", "none",
          *SETTINGS])
    assert "CamVid test, 3 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("more, message", [
    (["--recipe", "small"], "holds voc, but table1 with recipe small needs camvid; give --recipe "
                            "paper or .* or modern, or --set dataset=voc"),
    (["--recipe", "paper-v1"], "holds voc, but table1 with recipe paper-v1 needs voc2011"),
    (["--set", "dataset=coco"], "holds voc, but table1 with recipe small needs coco"),
])
def test_a_recipe_for_another_dataset_is_rejected_and_those_that_fit_are_named(
        voc, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        main(["table1", "--data", str(voc), "--out", str(tmp_path / "out"), "--init", "none",
              *more])
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(SystemExit, match="holds no dataset that is known here, such as VOC"):
        main(["table1", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--init", "none"])


@pytest.mark.parametrize("name", ["table1", "ablations", "convergence"])
def test_a_table_without_init_is_rejected_unless_init_is_none(voc, tmp_path, name):
    with pytest.raises(SystemExit, match=f"{name} needs --init FILE, because this recipe expects "
                       "ImageNet's MobileNetV2 .*README.*--init none makes a table from random"):
        main([name, "--data", str(voc), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_readme_has_the_lines_that_make_init_files():
    text = (Path(datasets.__file__).parent / "README.md").read_text()
    for name, weights in (("vgg16", "IMAGENET1K_V1"), ("mobilenet_v2", "IMAGENET1K_V2")):
        assert f'\ntorch.save({name}(weights="{weights}").state_dict(), "{name}.pth")\n' in text


# --- layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_sbd_is_found_where_it_was_unpacked_beside_vocdevkit(voc, below):
    make_sbd(voc / "benchmark_RELEASE/dataset", SBD)
    parts = datasets.load("voc", voc / below)
    assert names_of(parts["report"]) == VOC_NAMES[8:]
    assert both(parts) == VOC_NAMES[:8]
    assert {p.suffix for _, p in parts["train"].items} == {".png", ".mat"}


def test_segmentation_class_aug_trains_on_all_but_val(voc, capsys):
    folder = voc / "VOCdevkit/VOC2012"
    extra = "2008_000001"
    shutil.copy(folder / f"JPEGImages/{VOC_NAMES[0]}.jpg", folder / f"JPEGImages/{extra}.jpg")
    for name in [*VOC_NAMES, extra]:
        save_mask(folder / f"SegmentationClassAug/{name}.png", np.full((30, 40), 20))
    parts = datasets.load("voc", voc)
    assert names_of(parts["report"]) == VOC_NAMES[6:]
    assert both(parts) == sorted([*VOC_NAMES[:6], extra])
    assert "does not tell which images of VOC's val are SBD's" in capsys.readouterr().out
    labels = {p.stem: part.labels(i) for part in (parts["train"], parts["select"])
              for i, (p, _) in enumerate(part.items)}
    assert (labels[extra] == 20).all() and labels[VOC_NAMES[1]][10, 10] == 2  # VOC's own mask


@pytest.mark.parametrize("line", ["{0}\n", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n"])
def test_segmentation_class_aug_heeds_its_list(voc, line):
    folder = voc / "VOCdevkit/VOC2012"
    for name in VOC_NAMES:
        save_mask(folder / f"SegmentationClassAug/{name}.png", np.full((30, 40), 20))
    names = ["2008_000001", "2008_000002"]
    for name in names:
        shutil.copy(folder / f"JPEGImages/{VOC_NAMES[0]}.jpg", folder / f"JPEGImages/{name}.jpg")
    (folder / "ImageSets/Segmentation/trainaug.txt").write_text(
        "".join(line.format(n) for n in [*VOC_NAMES[:6], names[1]]))
    assert both(datasets.load("voc", voc)) == sorted([*VOC_NAMES[:6], names[1]])


def test_segmentation_class_aug_with_sbds_lists_gives_the_papers_lists(voc):
    folder = voc / "VOCdevkit/VOC2012"
    for name in VOC_NAMES:
        save_mask(folder / f"SegmentationClassAug/{name}.png", np.full((30, 40), 20))
    make_sbd(voc / "benchmark_RELEASE/dataset", SBD, masks=False)
    parts = datasets.load("voc", voc)
    assert names_of(parts["report"]) == VOC_NAMES[8:] and both(parts) == VOC_NAMES[:8]
    masks = {p.stem: m.parent.name for p, m in parts["train"].items}
    assert masks[VOC_NAMES[7]] == "SegmentationClassAug"
    assert masks[VOC_NAMES[2]] == "SegmentationClass"
    shutil.rmtree(folder / "SegmentationClassAug")
    with pytest.raises(FileNotFoundError, match="has lists but no folder cls of masks"):
        datasets.load("voc", voc)


def test_voc_2011_is_read_from_its_archive(tmp_path):
    make_voc(tmp_path / "TrainVal", 2011)
    parts = datasets.load("voc2011", tmp_path)
    assert parts["report"].name == "VOC 2011 (val)" and both(parts) == VOC_NAMES[:6]
    with pytest.raises(FileNotFoundError, match="has none of VOCdevkit/VOC2012"):
        datasets.load("voc", tmp_path)


@pytest.mark.parametrize("name, holds", [
    ("VOC2007", False), ("voc2007", False), ("VOC2007_trainval", False), ("VOC-2010", False),
    ("VOC2012", True), ("voc2012_all", True), ("my images", True), ("2007", True),
])
def test_a_folder_named_after_another_year_is_not_voc_2012(tmp_path, name, holds):
    folder = make_voc(tmp_path).rename(tmp_path / name)
    assert ("voc" in datasets.present(folder)) == holds


# --- masks ---------------------------------------------------------------------------------------


def colours(path):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.unlink(), "1 of the 5 images of .* cannot be used; the first: .*000001.png "
                                 "does not exist"),
    (colours, "of mode RGB: its values are colours"),
    (lambda path: save_mask(path, np.full((30, 40), 77)), "hold 77, but VOC 2012 .* 0..20"),
    (lambda path: save_mask(path, np.zeros((31, 40))), "has 31 x 40 pixels, but its image 30 x 40"),
    (lambda path: path.write_bytes(b"no image"), "000001.png"),
], ids=["absent", "colours", "values", "size", "junk"])
@pytest.mark.parametrize("name", ["table1", "train"])
def test_masks_are_checked_before_training(voc, tmp_path, name, damage, message):
    # Entry 3 of six is held out; entry 1 is among the five to train on.
    damage(voc / f"VOCdevkit/VOC2012/SegmentationClass/{VOC_NAMES[1]}.png")
    settings = SETTINGS if name == "table1" else SETTINGS[3:]
    with pytest.raises(SystemExit, match=message):
        main([name, "--data", str(voc), "--out", str(tmp_path / "out"), "--init", "none",
              *settings])
    assert not list(tmp_path.rglob("*.pt"))


def test_masks_that_were_checked_are_not_checked_again(voc, tmp_path, monkeypatch):
    arguments = ["table1", "--data", str(voc), "--out", str(tmp_path / "out"), "--init", "none",
                 *SETTINGS]
    main(arguments)
    checked = []
    monkeypatch.setattr(study, "check_masks", lambda pictures: checked.append(pictures.name))
    main(arguments)
    assert not checked
    mask = voc / f"VOCdevkit/VOC2012/SegmentationClass/{VOC_NAMES[7]}.png"
    before = digests.of_pictures(datasets.load("voc", voc)["report"])
    save_mask(mask, np.random.default_rng(0).integers(0, 20, (30, 40)))
    assert digests.of_pictures(datasets.load("voc", voc)["report"]) != before
    main(arguments)
    assert checked == ["VOC 2012 (val)"]
