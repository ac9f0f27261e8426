"""Published weights of examples/fcn8s: the heads they need, their scores, and label images."""

import json
import tarfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from densecrf_rnn import CRFRNN, CRFParams, refine  # noqa: E402
from densecrf_rnn.compat import load_crfasrnn_caffe  # noqa: E402
from densecrf_rnn.files import read_labels  # noqa: E402
from densecrf_rnn.metrics import confusion_matrix, mean_iu  # noqa: E402
from fcn8s import evaluation, predict, published, training, weights  # noqa: E402
from fcn8s.__main__ import main  # noqa: E402
from fcn8s.config import Config  # noqa: E402
from fcn8s.networks import FCNCRF, VGG16FCN  # noqa: E402
from fcn8s_files import VOC_NAMES, caffe, caffe_layers, make_voc, save_mask, small  # noqa: E402

RNG = np.random.default_rng(0)
FULL = [0.3 * RNG.normal(size=(21, 21)) + 3 * np.eye(21),
        0.3 * RNG.normal(size=(21, 21)) + 2 * np.eye(21),
        0.3 * RNG.normal(size=(21, 21)) - np.eye(21)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The two published files, thin: an FCN-8s, and a CRF-RNN with full weight matrices."""
    folder = tmp_path_factory.mktemp("weights")
    net = small(21, 64)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("score") and name.endswith("weight"):
                p.mul_(0.2)
    fcn, crf = folder / "fcn8s-heavy-pascal.caffemodel", folder / "TVG_CRFRNN.caffemodel"
    fcn.write_bytes(caffe(caffe_layers(net)))
    crf.write_bytes(caffe(caffe_layers(net, FULL, old_names=True)))
    return fcn, crf


@pytest.fixture(scope="module")
def voc(files, tmp_path_factory):
    """VOC in which the truth of val is what CRF-RNN finds after ten iterations."""
    root = tmp_path_factory.mktemp("voc")
    folder = make_voc(root)
    model, _ = published.build(files[1])
    for i in (6, 7, 8):
        found, = evaluation.predict(model, voc_pair(root, i)[0], (10,), size=48)
        labels = found.copy()
        labels[0] = 255
        save_mask(folder / f"SegmentationClass/{VOC_NAMES[i]}.png", labels)
    return root


# --- heads ---------------------------------------------------------------------------------------


def test_a_full_matrix_blob_builds_the_head_it_needs(files):
    model = FCNCRF(VGG16FCN(21, width=64), CRFRNN(21, iterations=3, eval_iterations=7))
    report = weights.load(model, files[1])
    assert not report.unused and not report.left
    assert model.crf.kernel_weights.shape == (2, 21, 21)
    assert (model.crf.iterations, model.crf.eval_iterations) == (3, 7)
    np.testing.assert_allclose(model.crf.kernel_weights[1].detach(), FULL[0], rtol=1e-6)
    np.testing.assert_allclose(model.crf.kernel_weights[0].detach(), FULL[1], rtol=1e-6)


def test_a_diagonal_blob_leaves_the_head_as_it_is(tmp_path):
    crf = [np.eye(21) * 3, np.eye(21) * 5, FULL[2]]
    (tmp_path / "crf.caffemodel").write_bytes(caffe(caffe_layers(small(21, 64), crf)))
    model = FCNCRF(VGG16FCN(21, width=64), CRFRNN(21))
    head = model.crf
    weights.load(model, tmp_path / "crf.caffemodel")
    assert model.crf is head and head.kernel_weights.shape == (2, 21)


def test_a_full_matrix_of_crfasrnn_pytorch_builds_its_head_too(tmp_path):
    state = small(21, 64).state_dict() | {
        f"crfrnn.{name}": torch.tensor(m)
        for name, m in zip(("spatial_ker_weights", "bilateral_ker_weights",
                            "compatibility_matrix"), FULL, strict=True)}
    torch.save(state, tmp_path / "crfasrnn.pth")
    model = FCNCRF(VGG16FCN(21, width=64), CRFRNN(21))
    weights.load(model, tmp_path / "crfasrnn.pth")
    np.testing.assert_allclose(model.crf.kernel_weights[0].detach(), FULL[1], rtol=1e-6)
    np.testing.assert_allclose(model.crf.compatibility.detach(), -FULL[2], rtol=1e-6)


def test_training_from_a_full_matrix_continues_with_that_head(files, voc, tmp_path, capsys):
    arguments = ["train", "--recipe", "paper", "--data", str(voc), "--init", str(files[1]),
                 "--out", str(tmp_path), "--set", "crf=true", "steps=2", "width=64", "lr=1e-9"]
    main([*arguments, "--stop-at", "1"])
    main(arguments)  # the same settings: a full head is no other run
    state = torch.load(tmp_path / training.LAST, weights_only=True)
    assert state["step"] == 2 and state["config"]["kernel_weights"] == "full"
    assert state["model"]["crf.kernel_weights"].shape == (2, 21, 21)
    model, _ = training.load_trained(tmp_path / training.LAST, 21)
    assert model.crf.kernel_weights.shape == (2, 21, 21)


def test_the_rnn_stage_alone_is_trained_behind_a_published_network(files, tmp_path):
    """What the first version of the paper says it optimised; command in docs/reproduction.md."""
    make_voc(tmp_path / "data", year=2011)
    main(["train", "--recipe", "paper-v1", "--data", str(tmp_path / "data"), "--init",
          str(files[0]), "--out", str(tmp_path / "out"), "--set", "crf=true", "freeze_fcn=true",
          "steps=2", "lr=1e-9", "width=64"])
    model, config = training.load_trained(tmp_path / "out" / training.LAST, 21)
    before = FCNCRF(VGG16FCN(21, width=64), training.make_crf(config, 21))
    start = {name: p.clone() for name, p in before.crf.named_parameters()}
    weights.load(before, files[0])
    assert config.iterations == 3
    for name, p in before.fcn.named_parameters():
        assert torch.equal(p, model.fcn.get_parameter(name)), name
    for name in ("kernel_weights", "compatibility"):
        assert not torch.equal(start[name], model.crf.get_parameter(name)), name


# --- the released computation ---------------------------------------------------------------------


def test_published_head_computes_on_the_padded_mean_subtracted_image(files):
    """Worked out by hand: padding by the mean, BGR, lattices, full matrices, T iterations."""
    model, report = published.build(files[1], iterations=4)
    assert not report.left and not report.unused
    image = RNG.integers(0, 256, (20, 33, 3), dtype=np.uint8)
    mean = np.array([123.68, 116.779, 103.939])  # of the release, not of the FCN authors
    whole = np.broadcast_to(mean, (50, 50, 3)).copy()
    whole[:20, :33] = image
    batch = torch.tensor(whole).permute(2, 0, 1)[None].float()
    head = CRFRNN(21, params=CRFParams(spatial="lattice"), kernel_weights="full",
                  eval_iterations=4).eval()
    load_crfasrnn_caffe(head, [m[None, None] for m in FULL])
    bgr = batch.flip(1) - torch.tensor(mean[::-1].copy()).view(3, 1, 1).float()
    with torch.no_grad():
        logits = model.fcn(batch)
        wanted = head(logits, bgr)[0, :, :20, :33].argmax(0)
        other = head(logits[..., :20, :33], bgr[..., :20, :33])[0].argmax(0)
    found, = evaluation.predict(model, image, (None,), size=50)
    np.testing.assert_array_equal(found, wanted)
    assert (wanted != other).any()  # the padding takes part
    assert evaluation.padded(image, model.fcn, 10).shape == (1, 3, 20, 33)


@pytest.mark.parametrize("change, message", [
    (lambda layers: layers.pop("score_fr"), "has no layer score_fr, so it labels no pixels"),
    (lambda layers: layers.update(scale_pool3=[np.ones(1)]), "is a net trained at once"),
])
def test_files_that_are_no_published_net_are_rejected_in_a_sentence(tmp_path, change, message):
    layers = caffe_layers(small(21, 64))
    change(layers)
    (tmp_path / "net.caffemodel").write_bytes(caffe(layers))
    with pytest.raises(ValueError, match=message):
        published.build(tmp_path / "net.caffemodel")
    torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth is no published net .it holds encoder.weight"):
        published.build(tmp_path / "other.pth")


# --- python -m fcn8s published --------------------------------------------------------------------


def command(files, voc, out, *more):
    main(["published", "--init", *map(str, files), "--data", str(voc), "--out", str(out),
          "--size", "48", *more])
    return json.loads((out / "published.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


def test_published_scores_rows_of_table_1(files, voc, out, monkeypatch):
    monkeypatch.setattr(published, "PART", 2)  # three images, so two files of confusions
    result = command(files, voc, out, "--no-search")
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["FCN-8s", "FCN-8s and CRF, disconnected",
                          "the same network without its CRF", "CRF-RNN, end to end, T = 5",
                          "CRF-RNN, end to end, T = 10"]
    assert rows["FCN-8s"]["published"] == "61.3 / 68.3"
    assert rows["FCN-8s and CRF, disconnected"]["published"] == "63.7 / 69.5"
    assert rows["CRF-RNN, end to end, T = 10"]["published"] == "69.6 / 72.9"
    assert rows["CRF-RNN, end to end, T = 5"]["published"] == ""
    for name, file, count in (("FCN-8s", files[0], None),
                              ("the same network without its CRF", files[1], 0),
                              ("CRF-RNN, end to end, T = 10", files[1], 10)):
        model, _ = published.build(file)
        total = np.zeros((21, 21), np.int64)
        for image, truth in (voc_pair(voc, i) for i in (6, 7, 8)):
            found, = evaluation.predict(model, image, (count,), size=48)
            total += confusion_matrix(truth, found, 21)
        assert rows[name]["mean IU"] == pytest.approx(100 * mean_iu(total))
    assert rows["CRF-RNN, end to end, T = 10"]["mean IU"] == 100
    assert 0 < rows["the same network without its CRF"]["mean IU"] < 100
    assert rows["FCN-8s and CRF, disconnected"]["mean IU"] != rows["FCN-8s"]["mean IU"]
    text = (out / "published.md").read_text()
    assert "VOC 2012 (val), 3 images, padded to 48 x 48" in text
    assert "\nThese are not the 346 images of the paper's reduced list but 3 of VOC 2012" in text
    assert "| CRF-RNN, end to end, T = 10 |" in text and "| 69.6 / 72.9 | TVG_CRFRNN" in text


def voc_pair(voc, i):
    folder = voc / "VOCdevkit/VOC2012"
    return (np.asarray(Image.open(folder / f"JPEGImages/{VOC_NAMES[i]}.jpg")),
            np.asarray(Image.open(folder / f"SegmentationClass/{VOC_NAMES[i]}.png")))


def test_published_continues_with_what_is_stored(files, voc, out, monkeypatch):
    monkeypatch.setattr(published, "PART", 2)
    before = command(files, voc, out, "--no-search")
    scored = []
    confusions = evaluation.confusions

    def count(model, pictures, *args, **options):
        scored.append(len(pictures))
        return confusions(model, pictures, *args, **options)

    monkeypatch.setattr(evaluation, "confusions", count)
    assert command(files, voc, out, "--no-search") == before and not scored
    lost = sorted(out.rglob("confusions-crf-rnn-*.npz"))[-1]
    lost.unlink()
    assert command(files, voc, out, "--no-search") == before and scored == [1]
    lost.write_bytes(b"damaged by a disk")
    assert command(files, voc, out, "--no-search") == before and scored == [1, 1]
    scored.pop()
    other = command(files, voc, out, "--no-search", "--size", "0")
    assert other["padded to"] is None and scored[1:] == [2, 1] * 3


def test_published_disconnected_row_searches_on_training_images(files, voc, tmp_path, monkeypatch):
    asked = []

    def choose(fcn, config, pictures, device, size):
        asked.append((pictures.name, size, config.eval_iterations, config.spatial))
        return dict(evaluation.START), {}

    monkeypatch.setattr(evaluation, "choose_crf", choose)
    for _ in range(2):
        rows = command(files[:1], voc, tmp_path, "--iterations", "4")["rows"]
    assert asked == [("VOC 2012 (held out of train)", 48, 4, "lattice")]
    assert rows[1]["settings"] == {**evaluation.START, "T": 4}
    assert [row["published"] for row in rows] == ["61.3 / 68.3", ""]  # of T = 10


def test_published_calls_a_coarser_net_by_its_name(voc, tmp_path):
    (tmp_path / "16.caffemodel").write_bytes(caffe(caffe_layers(small(21, 64, stride=16))))
    result = command([tmp_path / "16.caffemodel"], voc, tmp_path, "--no-search", "--limit", "1")
    assert [(row["row"], row["published"]) for row in result["rows"]] == [
        ("FCN-16s", ""), ("FCN-16s and CRF, disconnected", "")]


@pytest.mark.parametrize("more, message", [
    (["--iterations", "0"], "--iterations is 0; give at least 1"),
    (["--limit", "0"], "--limit is 0; score at least one"),
    (["--size", "-1"], "--size is -1; give a number of pixels"),
])
def test_published_rejects_settings_that_cannot_be(files, voc, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        command(files, voc, tmp_path, *more)


def test_published_rejects_a_net_of_other_labels(voc, tmp_path):
    (tmp_path / "five.caffemodel").write_bytes(caffe(caffe_layers(small(5, 64))))
    with pytest.raises(SystemExit, match="has 5 labels, but VOC 2012 .val. 21; give a net"):
        command([tmp_path / "five.caffemodel"], voc, tmp_path)


# --- python -m fcn8s predict ----------------------------------------------------------------------


@pytest.fixture
def images(voc, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (0, 1):
        Image.fromarray(voc_pair(voc, i)[0]).save(folder / f"{i}.png")
    return folder


def test_predict_writes_palette_images_and_logits_that_refine_takes(files, images, tmp_path):
    main(["predict", str(files[0]), str(images), "--out", str(tmp_path / "out"), "--logits",
          "--size", "0"])
    model, _ = published.build(files[0])
    for i in (0, 1):
        image = np.asarray(Image.open(images / f"{i}.png"))
        with Image.open(tmp_path / f"out/{i}.png") as file:
            assert file.mode == "P" and file.getpalette()[3:6] == [128, 0, 0]  # VOC's aeroplane
            found = np.asarray(file)
        wanted, = evaluation.predict(model, image, (None,))
        np.testing.assert_array_equal(found, wanted)
        logits = np.load(tmp_path / f"out/{i}.npy")
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits.argmax(0), wanted)
        assert refine(logits, image).shape == logits.shape
    assert not np.array_equal(*(read_labels(tmp_path / f"out/{i}.png") for i in (0, 1)))


def test_logits_of_predict_are_refined_by_the_command_line(files, images, tmp_path):
    pytest.importorskip("skimage")
    from densecrf_rnn.cli import main as densecrf_rnn

    out = tmp_path / "out"
    main(["predict", str(files[0]), str(images), "--out", str(out), "--logits"])
    logits = tmp_path / "logits"
    logits.mkdir()
    for path in out.glob("*.npy"):
        path.rename(logits / path.name)
    assert not densecrf_rnn(["refine", str(logits), str(images), "--out", str(tmp_path / "fine")])
    assert len(list((tmp_path / "fine").glob("*.png"))) == 2


def test_predict_gives_the_labels_of_a_trained_network_and_its_head(voc, images, tmp_path):
    config = Config(dataset="voc", crf=True, theta_alpha=8.0, eval_iterations=3)
    model = training.build(config, 21).eval()
    torch.save({"step": 1, "config": vars(config), "made_of": {}, "model": model.state_dict()},
               tmp_path / "last.pt")
    main(["predict", str(tmp_path / "last.pt"), str(images / "0.png"), "--out",
          str(tmp_path / "own")])
    main(["predict", str(tmp_path / "last.pt"), str(images / "0.png"), "--out",
          str(tmp_path / "none"), "--iterations", "0"])
    own, none = (read_labels(tmp_path / name / "0.png") for name in ("own", "none"))
    image = np.asarray(Image.open(images / "0.png"))
    for found, count in ((own, None), (none, 0)):
        np.testing.assert_array_equal(found, evaluation.predict(model, image, (count,))[0])
    assert (own != none).any()


def test_predict_keeps_what_it_has_written_and_notices_other_images(files, images, tmp_path):
    arguments = ["predict", str(files[0]), str(images), "--out", str(tmp_path / "out")]
    main(arguments)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")}
    Image.fromarray(np.asarray(Image.open(images / "1.png"))[::-1]).save(images / "0.png")
    main(arguments)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")}
    assert after["1.png"] == times["1.png"] and after["0.png"] != times["0.png"]
    with pytest.raises(SystemExit, match="out holds predictions of another network, or with"):
        main([*arguments, "--size", "64"])


@pytest.mark.parametrize("arguments, message", [
    (["nothing"], "nothing does not exist; give images or folders"),
    (["images", "images/0.png"], "several images are called 0, and would overwrite"),
    (["empty"], "empty holds no image"),
    (["broken.jpg"], "broken.jpg cannot be read as an image"),
    (["images", "--size", "-1"], "--size is -1; give a number of pixels, or 0"),
    (["images", "--iterations", "3"], "has no CRF, so it makes no iterations"),
    (["images", "--voc-test"], "has none of VOCdevkit/VOC2012/JPEGImages"),
    (["images", "images", "--voc-test"], "with --voc-test give one folder"),
])
def test_predict_rejects_in_a_sentence(files, images, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=message):
        main(["predict", str(files[0]), *arguments, "--out", "out"])


def test_untied_iterations_cannot_be_changed(tmp_path):
    config = Config(dataset="voc", crf=True, tied=False)
    state = training.build(config, 21).state_dict()
    torch.save({"step": 1, "config": vars(config), "made_of": {}, "model": state},
               tmp_path / "last.pt")
    with pytest.raises(ValueError, match="--iterations is 10; it must be 5, as its iterations"):
        predict.load(tmp_path / "last.pt", 10)


def test_voc_test_packs_what_the_evaluation_server_takes(files, tmp_path):
    folder = make_voc(tmp_path)
    (folder / "ImageSets/Segmentation/test.txt").write_text("\n".join(VOC_NAMES[2:5]) + "\n")
    main(["predict", str(files[1]), str(tmp_path), "--voc-test", "--out", str(tmp_path / "out"),
          "--iterations", "2"])
    inside = "results/VOC2012/Segmentation/comp6_test_cls"
    with tarfile.open(tmp_path / "out/results.tgz") as tar:
        assert sorted(tar.getnames()) == [f"{inside}/{name}.png" for name in VOC_NAMES[2:5]]
        tar.extractall(tmp_path / "unpacked", filter="data")
    model, _ = published.build(files[1], 2)
    for i in (2, 3, 4):
        with Image.open(tmp_path / f"unpacked/{inside}/{VOC_NAMES[i]}.png") as file:
            assert file.mode == "P" and file.size == (40, 30)
            found = np.asarray(file)
        image = np.asarray(Image.open(folder / f"JPEGImages/{VOC_NAMES[i]}.jpg"))
        np.testing.assert_array_equal(found, evaluation.predict(model, image, (None,), size=500)[0])
    # The folder of the year itself is as good, and images that are absent are counted.
    (folder / f"JPEGImages/{VOC_NAMES[3]}.jpg").unlink()
    with pytest.raises(SystemExit, match=f"1 of the 3 images in .* missing, .*{VOC_NAMES[3]}.jpg"):
        main(["predict", str(files[1]), str(folder), "--voc-test", "--out", str(tmp_path / "2")])


def test_voc_test_rejects_a_network_of_other_labels(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "five.caffemodel").write_bytes(caffe(caffe_layers(small(5, 64))))
    with pytest.raises(SystemExit, match="has 5 labels, but VOC 21; give a network"):
        main(["predict", str(tmp_path / "five.caffemodel"), str(tmp_path), "--voc-test", "--out",
              str(tmp_path / "out")])
