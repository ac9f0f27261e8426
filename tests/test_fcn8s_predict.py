"""`python -m fcn8s predict` for photos as they are: nothing is overwritten, and CRFs agree."""

import json
import tarfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from densecrf_rnn.cli import main as densecrf_rnn  # noqa: E402
from densecrf_rnn.files import read_labels  # noqa: E402
from fcn8s import pictures, predict, published, training, weights  # noqa: E402
from fcn8s.__main__ import main  # noqa: E402
from fcn8s.config import Config  # noqa: E402
from fcn8s.networks import CAFFE_MEAN  # noqa: E402
from fcn8s_files import VOC_NAMES, caffe, caffe_layers, make_voc, small  # noqa: E402

RNG = np.random.default_rng(0)
ORIENTATION = 274  # the EXIF tag


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A thin FCN-8s without CRF, as its authors publish it."""
    path = tmp_path_factory.mktemp("weights") / "fcn8s.caffemodel"
    path.write_bytes(caffe(caffe_layers(small(21, 64))))
    return path


def photo(shape=(40, 60)):
    """A picture of patches with noise."""
    patches = RNG.integers(0, 256, (shape[0] // 10, shape[1] // 10, 3)).repeat(10, 0).repeat(10, 1)
    return Image.fromarray((patches // 2 + RNG.integers(0, 60, patches.shape)).astype(np.uint8))


def save(image, path, orientation=1):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def run(*arguments):
    main(["predict", *map(str, arguments)])


# --- what is there already ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_labels_are_not_written_among_the_images(net, tmp_path, name):
    photo().save(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    for images, out in ((tmp_path, tmp_path), (tmp_path / name, tmp_path / "x" / "..")):
        with pytest.raises(SystemExit, match=f"is the folder of .*{name}; give another --out"):
            run(net, images, "--out", out, "--size", 0)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name, more", [("a.png", []), ("a.npy", ["--logits"])])
def test_files_of_others_are_not_overwritten(net, tmp_path, name, more):
    photo().save(tmp_path / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"mine")
    with pytest.raises(SystemExit, match=f"out/{name} exists, and .* holds no predict.json"):
        run(net, tmp_path / "a.jpg", "--out", tmp_path / "out", "--size", 0, *more)
    assert (tmp_path / "out" / name).read_bytes() == b"mine"


def test_files_beside_results_are_not_overwritten(net, tmp_path):
    out = tmp_path / "out"
    for name in "ab":
        photo().save(tmp_path / f"{name}.jpg")
    run(net, tmp_path / "a.jpg", "--out", out, "--size", 0)
    for name, more in (("b.png", []), ("a.npy", ["--logits"])):
        (out / name).write_bytes(b"mine")
        with pytest.raises(SystemExit, match=f"out/{name} exists, and .* holds no predict.json"):
            run(net, tmp_path, "--out", out, "--size", 0, *more)
        assert (out / name).read_bytes() == b"mine"
        (out / name).unlink()
    run(net, tmp_path, "--out", out, "--size", 0, "--logits")
    assert (out / "a.npy").exists() and (out / "b.npy").exists()


def test_labels_of_another_image_of_the_same_name_are_kept(net, tmp_path):
    out = tmp_path / "out"
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        photo().save(tmp_path / folder / "a.png")
    run(net, tmp_path / "p", "--out", out, "--size", 0)
    before = (out / "a.png").read_bytes()
    with pytest.raises(SystemExit, match="a.png holds the labels of .*p/a.png, and .*q/a.png has"):
        run(net, tmp_path / "q", "--out", out, "--size", 0)
    assert (out / "a.png").read_bytes() == before
    photo().save(tmp_path / "p/a.png")  # the same image, changed
    run(net, tmp_path / "p", "--out", out, "--size", 0)
    assert (out / "a.png").read_bytes() != before
    (tmp_path / "p").rename(tmp_path / "moved")
    run(net, tmp_path / "moved", "--out", out, "--size", 0)
    (out / "a.png").unlink()  # as if it had been noted, but a killed call had not made it
    run(net, tmp_path / "q", "--out", out, "--size", 0)
    assert (out / "a.png").exists()


def test_logits_of_an_image_that_has_changed_are_made_again(net, tmp_path):
    image, out = tmp_path / "a.png", tmp_path / "out"
    photo().save(image)
    run(net, image, "--out", out, "--size", 0, "--logits")
    before = (out / "a.npy").read_bytes()
    photo().save(image)
    run(net, image, "--out", out, "--size", 0)
    run(net, image, "--out", out, "--size", 0, "--logits")
    assert (out / "a.npy").read_bytes() != before


def test_an_interrupted_call_continues_and_damaged_notes_overwrite_nothing(
        net, tmp_path, monkeypatch):
    for name in "abc":
        photo().save(tmp_path / f"{name}.jpg")
    label, seen = predict.Predicting.label, []

    def interrupted(self, image, target, scores):
        if target.stem == "b" and not seen:
            seen.append(target)
            label(self, image, target, scores)  # killed before it was noted
            raise KeyboardInterrupt
        label(self, image, target, scores)

    monkeypatch.setattr(predict.Predicting, "label", interrupted)
    arguments = [net, tmp_path, "--out", tmp_path / "out", "--size", 0]
    with pytest.raises(SystemExit, match="130"):
        run(*arguments)
    first = (tmp_path / "out/a.png").stat().st_mtime_ns
    run(*arguments)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png", "c.png"]
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == first
    for content in ("", "[]", "{", "{}"):
        (tmp_path / "out/predict.json").write_text(content)
        with pytest.raises(SystemExit, match="a.png exists, and .* holds no predict.json"):
            run(*arguments)


def test_settings_that_mean_the_same_are_no_others(tmp_path):
    crf = [np.eye(21), np.eye(21), -np.eye(21)]
    (tmp_path / "crf.caffemodel").write_bytes(caffe(caffe_layers(small(21, 64), crf)))
    photo().save(tmp_path / "a.jpg")
    arguments = [tmp_path / "crf.caffemodel", tmp_path / "a.jpg", "--out", tmp_path / "out"]
    run(*arguments)
    run(*arguments, "--size", 500, "--iterations", 10)
    with pytest.raises(SystemExit, match="or with another --iterations"):
        run(*arguments, "--iterations", 9)


# --- kinds of images ------------------------------------------------------------------------------


def test_photos_of_all_kinds_are_read_or_named(net, tmp_path):
    image, folder = photo(), tmp_path / "photos"
    folder.mkdir()
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("1").save(folder / "bits.bmp")
    image.save(folder / "web.WEBP")
    image.resize((1, 1)).save(folder / "pixel.png")
    (folder / "._cmyk.jpg").write_bytes(b"notes of a file system")
    run(net, folder, "--out", tmp_path / "out", "--size", 0)
    sizes = {p.stem: Image.open(p).size for p in (tmp_path / "out").glob("*.png")}
    assert sizes.pop("pixel") == (1, 1)
    assert sizes == dict.fromkeys(("cmyk", "grey", "alpha", "palette", "bits", "web"), (60, 40))
    found = pictures.read_image(folder / "cmyk.jpg").astype(float)
    assert np.abs(found - np.asarray(image)).mean() < 25
    for mode, dtype in (("I;16", np.uint16), ("F", np.float32)):
        Image.fromarray(np.asarray(image.convert("L")).astype(dtype)).save(folder / "deep.tif")
        with pytest.raises(SystemExit, match=f"deep.tif holds .* more than 8 bits .mode {mode}"):
            run(net, folder / "deep.tif", "--out", tmp_path / "deep", "--size", 0)


def test_images_larger_than_the_padding_are_labelled_whole(net, tmp_path):
    photo((60, 80)).save(tmp_path / "a.png")
    for size in (0, 50, 70):
        run(net, tmp_path / "a.png", "--out", tmp_path / str(size), "--size", size)
    zero, below, between = (read_labels(tmp_path / f"{n}/a.png") for n in (0, 50, 70))
    assert zero.shape == below.shape == between.shape == (60, 80)
    np.testing.assert_array_equal(zero, below)


# --- the CRF --------------------------------------------------------------------------------------


def checkpoint(path, **changes):
    """A run's last.pt whose head is not as it was made."""
    config = Config(dataset="voc", crf=True, theta_alpha=20.0, theta_beta=8.0, eval_iterations=4,
                    **changes)
    model = training.build(config, 21)
    with torch.no_grad():
        model.crf.kernel_weights.mul_(0.5 + torch.rand(model.crf.kernel_weights.shape))
        model.crf.compatibility.add_(0.1 * torch.randn(model.crf.compatibility.shape))
    torch.save({"step": 1, "config": vars(config), "made_of": {}, "model": model.state_dict()},
               path)
    return path


@pytest.mark.parametrize("weights", ["diagonal", "scalar"])
def test_refining_the_logits_with_the_heads_settings_gives_the_heads_labels(tmp_path, weights):
    pytest.importorskip("skimage")
    torch.manual_seed(0)
    trained = checkpoint(tmp_path / "last.pt", kernel_weights=weights)
    for orientation in (1, 3, 6):  # as it is, upside down, on its side
        save(photo(), tmp_path / f"photos/{orientation}.jpg", orientation)
    save(photo((40, 40)), tmp_path / "photos/square.jpg", 6)
    out = tmp_path / "out"
    run(trained, tmp_path / "photos", "--out", out, "--logits")
    assert not densecrf_rnn(["refine", str(out / "*.npy"), str(tmp_path / "photos"), "--params",
                             str(out / "crf.json"), "--out", str(tmp_path / "fine"), "-q"])
    changed = 0
    for name in ("1", "3", "6", "square"):
        found = read_labels(tmp_path / f"fine/{name}.png")
        np.testing.assert_array_equal(found, read_labels(out / f"{name}.png"))
        changed += (np.load(out / f"{name}.npy").argmax(0) != found).sum()
    assert changed > 500
    assert read_labels(out / "6.png").shape == (60, 40)  # as viewers show it


@pytest.mark.parametrize("changes", [{"kernel_weights": "full"}, {"tied": False},
                                     {"update": "relu"}, {"crf": False}])
def test_a_head_that_refine_cannot_have_writes_no_settings(tmp_path, changes):
    config = Config(**{"dataset": "voc", "crf": True, **changes})
    assert predict.head_settings(training.build(config, 21)) is None


def test_padding_is_the_mean_that_a_net_subtracts(tmp_path):
    layers = caffe_layers(small(21, 64)), caffe_layers(small(21, 64), [np.eye(21)] * 3)
    for name, each, mean in (("fcn", layers[0], CAFFE_MEAN),
                             ("crf", layers[1], published.CRFRNN_MEAN)):
        (tmp_path / name).write_bytes(caffe(each))
        model, _ = published.build(tmp_path / name)
        np.testing.assert_allclose(model.fcn.padding, mean[::-1], rtol=1e-6)
        np.testing.assert_allclose(model.fcn.mean.flatten(), mean, rtol=1e-6)


def test_a_published_net_that_lacks_layers_labels_nothing(tmp_path):
    layers = caffe_layers(small(21, 64))
    del layers["conv4_2"]
    (tmp_path / "fcn.caffemodel").write_bytes(caffe(layers))
    with pytest.raises(ValueError, match="lacks conv4_2.weight, conv4_2.bias, or they have other"):
        predict.load(tmp_path / "fcn.caffemodel")
    assert weights.kind_of(tmp_path / "fcn.caffemodel") == "caffe"


# --- VOC's server ---------------------------------------------------------------------------------


def test_voc_test_takes_any_folder_and_a_list_with_repeats(net, tmp_path, monkeypatch):
    folder = make_voc(tmp_path)
    listed = folder / "ImageSets/Segmentation/test.txt"
    listed.write_bytes("\r\n".join([*VOC_NAMES[:2], VOC_NAMES[0]]).encode())
    for start, data in ((folder, "."), (folder.parent, "VOC2012"), (tmp_path, "VOCdevkit")):
        monkeypatch.chdir(start)
        run(net, data, "--voc-test", "--out", tmp_path / "out", "--size", 0)
    with tarfile.open(tmp_path / "out/results.tgz") as tar:
        assert [name.rsplit("/", 1)[1] for name in tar.getnames()] == [
            f"{name}.png" for name in VOC_NAMES[:2]]
    assert len(json.loads((tmp_path / "out/predict.json").read_text())["results"]) == 2
    listed.write_text("")
    with pytest.raises(SystemExit, match="test.txt names no image"):
        run(net, folder, "--voc-test", "--out", tmp_path / "out", "--size", 0)
    with pytest.raises(SystemExit, match="none of VOCdevkit/VOC2011/JPEGImages"):
        run(net, folder, "--voc-test", 2011, "--out", tmp_path / "out", "--size", 0)
