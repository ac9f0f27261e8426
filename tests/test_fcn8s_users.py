"""Files and folders of users of examples/fcn8s, whole or damaged: a result or a sentence."""

import os
import random
import shutil
from dataclasses import fields

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from fcn8s import __main__, datasets, networks, pictures, predict, training, weights  # noqa: E402
from fcn8s.__main__ import main  # noqa: E402
from fcn8s.config import Config, parse_setting  # noqa: E402
from fcn8s.voc import read_any, read_sbd  # noqa: E402
from fcn8s_files import (  # noqa: E402
    VOC_NAMES, caffe, caffe_layers, make_camvid, make_sbd, make_voc, small,
)

SBD = dict.fromkeys(VOC_NAMES[2:8], 20)


def names_of(parts, *which):
    return sorted(path.stem for part in which for path, _ in parts[part].items)


@pytest.fixture
def voc(tmp_path):
    """The folder VOC2012, in VOCdevkit below tmp_path."""
    return make_voc(tmp_path)


# --- lists and images -----------------------------------------------------------------------------


@pytest.mark.parametrize("write", [
    lambda names: "\r\n".join(names).encode(),
    lambda names: b"\xef\xbb\xbf" + "\n".join(names).encode(),
    lambda names: "".join(f"JPEGImages/{n}.jpg Masks/{n}.png\n" for n in names).encode(),
    lambda names: "".join(f"VOC2012\\JPEGImages\\{n}.jpg\n" for n in names).encode(),
    lambda names: "\n\n".join(f"  {n}  1" for n in names).encode(),
], ids=["windows", "byte-order mark", "two paths", "windows path", "spaces"])
def test_lists_of_other_editors_name_the_same_images(voc, write):
    for split, names in (("train", VOC_NAMES[:6]), ("val", VOC_NAMES[6:])):
        (voc / f"ImageSets/Segmentation/{split}.txt").write_bytes(write(names))
    parts = datasets.load("voc", voc)
    assert names_of(parts, "train", "select") == VOC_NAMES[:6]
    assert names_of(parts, "report") == VOC_NAMES[6:]


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.write_text("a\n", encoding="utf-16"), "train.txt is not in UTF-8"),
    (lambda path: path.unlink(), "the list .*train.txt does not exist; see .*README.md"),
    (lambda path: path.write_text("\n"), "'train' of voc .* is empty: its list names no"),
    (lambda path: path.write_text("x\ny\n"), "none of the 2 images of .* exists; .*x.jpg"),
], ids=["utf-16", "absent", "empty", "other"])
def test_a_list_that_cannot_be_used_is_named(voc, damage, message):
    damage(voc / "ImageSets/Segmentation/train.txt")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        datasets.load("voc", voc)


def test_images_of_any_usual_extension_are_found_and_those_that_lack_are_counted(voc, capsys):
    first, second, third, fourth = (voc / f"JPEGImages/{n}.jpg" for n in VOC_NAMES[:4])
    first.rename(first.with_suffix(".JPG"))
    second.rename(second.with_suffix(".jpeg"))
    Image.open(third).save(third.with_suffix(".png"))
    third.unlink()
    assert names_of(datasets.load("voc", voc), "train", "select") == VOC_NAMES[:6]
    assert "do not exist" not in capsys.readouterr().out
    fourth.unlink()
    assert VOC_NAMES[3] not in names_of(datasets.load("voc", voc), "train", "select")
    assert (f"1 of the 6 images of VOC 2012's train list do not exist and are left out; the first "
            f"is {fourth}") in capsys.readouterr().out


def test_images_that_camvid_lacks_are_counted(tmp_path, capsys):
    make_camvid(tmp_path / "CamVid")
    (tmp_path / "CamVid/test/0.png").unlink()
    assert len(datasets.load("camvid", tmp_path)["report"]) == 2
    assert "1 of the 3 images of CamVid's test list do not exist" in capsys.readouterr().out


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start, data", [
    ("VOCdevkit/VOC2012", "."), ("VOCdevkit", "VOC2012"), ("VOCdevkit", "."), (".", "VOCdevkit"),
    ("VOCdevkit/VOC2012/JPEGImages", ".."), ("links", "VOCdevkit"), ("links", "VOC2012"),
])
def test_sbd_is_found_from_relative_paths_and_links(voc, tmp_path, monkeypatch, start, data):
    make_sbd(tmp_path / "benchmark_RELEASE/dataset", SBD)
    (tmp_path / "links").mkdir()
    (tmp_path / "links/VOCdevkit").symlink_to(tmp_path / "VOCdevkit")
    (tmp_path / "links/VOC2012").symlink_to(voc)
    monkeypatch.chdir(tmp_path / start)
    assert names_of(datasets.load("voc", data), "report") == VOC_NAMES[8:]


@pytest.mark.parametrize("place", ["benchmark_RELEASE/dataset", "SBD", "VOCdevkit/sbd",
                                   "VOCdevkit/VOC2012/benchmark_RELEASE/dataset"])
def test_sbd_is_found_as_others_unpack_it(voc, tmp_path, place):
    make_sbd(tmp_path / place, SBD)
    assert names_of(datasets.load("voc", tmp_path), "report") == VOC_NAMES[8:]


def test_a_report_is_called_reduced_only_if_it_is(voc, tmp_path, capsys):
    parts = datasets.load("voc", tmp_path)
    assert parts["report"].name == "VOC 2012 (val)"
    assert "no SBD below" in capsys.readouterr().out
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    shutil.copy(voc / f"JPEGImages/{VOC_NAMES[0]}.jpg", voc / "JPEGImages/extra.jpg")
    augmented = voc / "SegmentationClassAug"
    shutil.copy(augmented / f"{VOC_NAMES[0]}.png", augmented / "extra.png")
    parts = datasets.load("voc", tmp_path)
    assert "extra" in names_of(parts, "train", "select")
    assert parts["report"].name == "VOC 2012 (val)"
    make_sbd(tmp_path / "SBD", SBD)
    assert datasets.load("voc", tmp_path)["report"].name == "VOC 2012 (reduced val)"


def test_a_folder_of_another_year_is_not_taken_for_2012(tmp_path):
    folder = make_voc(tmp_path, 2007)
    link = tmp_path / "pascal"
    link.symlink_to(folder)
    for data in (tmp_path, tmp_path / "VOCdevkit", folder, link):
        assert datasets.present(data) == []
    for data in (tmp_path, tmp_path / "VOCdevkit", folder):
        with pytest.raises(FileNotFoundError, match="holds VOC2007, not VOC2012;"):
            datasets.load("voc", data)
        with pytest.raises(FileNotFoundError, match="holds VOC2007, not VOC2011;"):
            datasets.load("voc2011", data)
    assert datasets.present(make_voc(tmp_path / "eleven", 2011)) == ["voc2011"]


def test_a_folder_further_down_is_named(voc, tmp_path):
    deep = tmp_path / "downloads/VOCtrainval"
    deep.mkdir(parents=True)
    shutil.move(tmp_path / "VOCdevkit", deep)
    with pytest.raises(SystemExit, match="so give --data .*VOCtrainval/VOCdevkit/VOC2012"):
        main(["table1", "--data", str(tmp_path / "downloads"), "--out", "x", "--init", "none"])
    with pytest.raises(SystemExit, match="there is no folder .*nowhere; give --data"):
        main(["table1", "--data", str(tmp_path / "nowhere"), "--out", "x", "--init", "none"])


# --- damaged files --------------------------------------------------------------------------------


def damaged(content, count=60):
    """Yield a file's content cut short, and with some bytes changed, most of them near its head."""
    for seed in range(count):
        rng = random.Random(seed)
        if seed % 2:
            yield content[:rng.randrange(len(content))]
        else:
            changed = bytearray(content)
            for _ in range(4):
                place = rng.randrange(min(len(changed), 400 if seed % 4 else 10**9))
                changed[place] ^= rng.randrange(1, 256)
            yield bytes(changed)


def files_of_users(folder):
    """Files that commands read, with the function that reads them."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / "image.jpg")
    Image.fromarray(rng.integers(0, 20, (30, 40), np.uint8)).save(folder / "mask.png")
    make_sbd(folder / "sbd", {"a": 20})
    (folder / "net.caffemodel").write_bytes(caffe({"conv1_1": [np.ones((4, 3, 3, 3)), np.ones(4)]}))
    np.savez(folder / "net.npz", **{f"{n}.{p}": np.ones(2, np.float32)
                                    for n in ("stem", "b6.expand") for p in ("weight", "bias")})
    torch.save({"conv1_1.weight": torch.ones(4, 3, 3, 3)}, folder / "net.pth")
    torch.save({"config": vars(Config()), "made_of": {}, "step": 1,
                "model": {"fcn.score_fr.bias": torch.ones(3)}}, folder / "last.pt")
    small_net = networks.FCNCRF(small(5, 64))
    (folder / "train.txt").write_text("a\nb\n")
    return {
        "image.jpg": pictures.read_image, "mask.png": read_any, "sbd/cls/a.mat": read_sbd,
        "net.caffemodel": lambda path: weights.load(small_net, path),
        "net.npz": lambda path: weights.load(networks.FCNCRF(None), path),
        "net.pth": lambda path: weights.load(small_net, path),
        "last.pt": training.load_trained, "train.txt": pictures.read_names,
    }


@pytest.mark.parametrize("name", ["image.jpg", "mask.png", "sbd/cls/a.mat", "net.caffemodel",
                                  "net.npz", "net.pth", "last.pt", "train.txt"])
def test_a_damaged_file_is_named_in_a_sentence(tmp_path, name):
    path = tmp_path / name
    read = files_of_users(tmp_path)[name]
    failed = 0
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            read(path)
        except ValueError as error:  # anything else is a traceback for the user
            failed += 1
            assert path.name in str(error) or "belongs to this model" in str(error) or (
                "backbone=" in str(error))
    assert failed > (0 if name == "train.txt" else 20)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)


@pytest.mark.parametrize("state, message", [
    ({"features.0.weight": torch.ones(3)}, "has 1 layers with weights .* give torchvision's vgg16"),
    ({f"features.{i}.weight": torch.ones(3) for i in range(26)}, "has 26 layers"),
    ({"features.0.0.weight": torch.ones(3)}, "so it is no MobileNetV2 of torchvision's"),
    ({"model": {"a": "b"}}, "holds a str called 'a' among its weights"),
    ({"model": None}, "holds a NoneType instead of a state_dict"),
    ({"conv1_1.weight": 3}, "holds a int called 'conv1_1.weight'"),
])
def test_other_networks_are_rejected_by_what_they_lack(tmp_path, state, message):
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        weights.load(networks.FCNCRF(small(5, 64)), tmp_path / "net.pth")


def test_weights_are_recognised_by_their_content(tmp_path):
    net = small(5, 64)
    (tmp_path / "download.bin").write_bytes(caffe(caffe_layers(net)))
    torch.save(net.state_dict(), tmp_path / "download")
    for name, kind in (("download.bin", "caffe"), ("download", "torch")):
        assert weights.kind_of(tmp_path / name) == kind
        model = networks.FCNCRF(small(5, 64))
        with torch.no_grad():
            model.fcn.fc7.weight.zero_()
        weights.load(model, tmp_path / name)
        assert torch.equal(model.fcn.fc7.weight, net.fc7.weight)


def test_a_recipe_that_trains_no_scores_needs_them_in_its_weights(tmp_path):
    make_camvid(tmp_path / "data/CamVid")
    net = small(11, 64)
    layers = {n: a for n, a in caffe_layers(net).items() if not n.startswith("score")}
    (tmp_path / "vgg.caffemodel").write_bytes(caffe(layers))
    with pytest.raises(SystemExit, match="vgg.caffemodel has no score_.* for 11 labels, and this"):
        main(["table1", "--recipe", "paper-published-fcn", "--data", str(tmp_path / "data"),
              "--out", str(tmp_path / "out"), "--init", str(tmp_path / "vgg.caffemodel"), "--set",
              "dataset=camvid", "width=64", "--set-row", "steps=1"])


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, message", [
    ("width=0", "at least 1"), ("width=100", "at most 64"), ("batch=0", "at least 1"),
    ("steps=-1", "at least 0"), ("seed=-1", "at least 0"), ("lr=-1", "at least 0"),
    ("lr_head=-1", "at least 0"), ("weight_decay=-1", "at least 0"), ("iterations=-1", "least 0"),
    ("window=[0,10]", "two positive integers"), ("window=[1.5,10]", "two positive integers"),
    ("crop=[-3,10]", "two positive integers"), ("scales=[0,1]", "two positive factors"),
    ("scales=[2,0.5]", "the smaller one first"), ("backbone=resnet", "one of mobilenetv2, vgg16"),
    ("stride=4", "one of 8, 16, 32"), ("kernel_weights=matrix", "one of diagonal, scalar, full"),
    ("compatibility=none", "one of learned, potts"), ("update=none", "one of softmax, relu"),
])
def test_a_setting_without_meaning_is_rejected_by_its_name(text, message):
    name, value = parse_setting(text)
    with pytest.raises(ValueError, match=f"^{name} is .*{message}"):
        Config(**{name: value})


def test_every_setting_is_documented():
    head = Config.__doc__.split("Parameters")[1]
    named = {name.strip() for line in head.splitlines() if " : " in line
             for name in line.split(" : ")[0].split(",")}
    assert named == {field.name for field in fields(Config)}


@pytest.mark.parametrize("arguments, message", [
    (["--device", "tpu"], "--device is tpu; give cpu, cuda or cuda:N"),
    (["--init", "absent.pth"], "--init absent.pth is no file; give the initial weights, or none"),
    (["--threads", "0"], "2"), (["--workers", "-1"], "2"), (["--seeds", "-1"], "2"),
])
def test_options_without_meaning_are_rejected(tmp_path, arguments, message):
    make_camvid(tmp_path / "CamVid")
    with pytest.raises(SystemExit, match=message):
        main(["table1", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--init", "none",
              *arguments])


def test_an_interruption_says_how_to_continue(tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "run", interrupt)
    with pytest.raises(SystemExit, match="130"):
        main(["evaluate", "last.pt", "--data", str(tmp_path)])
    assert "interrupted; give the same command again" in capsys.readouterr().err


def test_a_checkpoint_of_another_number_of_classes_is_rejected(tmp_path):
    make_voc(tmp_path)
    model = training.build(Config(dataset="voc"), 5)
    torch.save({"step": 1, "config": vars(Config(dataset="voc")), "made_of": {},
                "model": model.state_dict()}, tmp_path / "last.pt")
    with pytest.raises(SystemExit, match="last.pt has 5 labels, but the images have 21"):
        main(["evaluate", str(tmp_path / "last.pt"), "--data", str(tmp_path)])
    assert predict.load(tmp_path / "last.pt").fcn.labels == 5


def test_a_folder_that_is_a_file_is_named(tmp_path):
    make_camvid(tmp_path / "CamVid")
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit, match="^fcn8s: .*out: (File exists|Not a directory)"):
        main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--init", "none"])
    assert os.path.isfile(tmp_path / "out")
