"""Datasets of examples/fcn8s, read from the layouts in which they are published."""

import functools
import http.server
import io
import json
import pickle
import struct
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("scipy")
pytest.importorskip("torch")  # fcn8s is a package of networks

from densecrf_rnn import files  # noqa: E402
from fcn8s import augment, datasets, digests, download  # noqa: E402
from fcn8s.pictures import read_image, read_mask, read_names  # noqa: E402
from fcn8s.voc import hold_out, voc_lists  # noqa: E402
from fcn8s_files import make_sbd  # noqa: E402

SHARED = Path(__file__).parents[1] / "../shared/data"
NAMES = [f"2007_{i:06d}" for i in range(12)]
RNG = np.random.default_rng(0)


def save_jpeg(path, shape=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)


def save_mask(path, labels, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette(list(RNG.integers(0, 256, 768)))
        image.putdata(np.asarray(labels, np.uint8).ravel().tolist())
    image.save(path)


def save_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


@pytest.fixture
def voc(tmp_path):
    """VOC 2012: pictures 0..3 are train, 4..8 val; SBD has 2, 3, 4, 5 and 9..11."""
    folder = tmp_path / "VOCdevkit/VOC2012"
    for i, name in enumerate(NAMES):
        save_jpeg(folder / f"JPEGImages/{name}.jpg")
        if i < 9:
            labels = np.full((20, 30), i)
            labels[0] = 255
            save_mask(folder / f"SegmentationClass/{name}.png", labels, palette=True)
    save_list(folder / "ImageSets/Segmentation/train.txt", NAMES[:4])
    save_list(folder / "ImageSets/Segmentation/val.txt", NAMES[4:9])
    return tmp_path


def add_sbd(root):
    labels = {NAMES[i]: 20 - i for i in (2, 3, 4, 5, 9, 11, 10)}
    make_sbd(root / "benchmark_RELEASE/dataset", labels, shape=(20, 30))


# --- VOC -----------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_reduced_validation_list_is_what_sbd_leaves_of_val(train, val, sbd):
    val -= train  # VOC's own lists have no picture in common
    found_train, reduced = voc_lists(train, val, sbd)
    assert not set(found_train) & set(reduced)
    assert set(found_train) | set(reduced) == train | val | sbd
    assert all(name in val and name not in sbd for name in reduced)
    assert len(reduced) == len(val) - len(val & sbd)


def names_of(pictures):
    return [path.stem for path, _ in pictures.items]


def test_voc_with_sbd_trains_on_all_of_sbd_and_reports_on_the_rest_of_val(voc, capsys):
    add_sbd(voc)
    parts = datasets.load("voc", voc)
    assert names_of(parts["report"]) == [NAMES[i] for i in (6, 7, 8)]
    both = names_of(parts["train"]) + names_of(parts["select"])
    assert sorted(both) == [NAMES[i] for i in (0, 1, 2, 3, 4, 5, 9, 10, 11)]
    out = capsys.readouterr().out
    assert "train list has 9 images, the paper's 11685" in out
    assert "reduced validation list has 3 images, the paper's 346" in out


def test_voc_masks_come_from_voc_in_train_and_from_sbd_elsewhere(voc):
    add_sbd(voc)
    parts = datasets.load("voc", voc)
    labels = {path.stem: pictures.labels(i) for pictures in (parts["train"], parts["select"])
              for i, (path, _) in enumerate(pictures.items)}
    assert labels[NAMES[2]][5, 5] == 2 and labels[NAMES[2]][0, 0] == 255  # both have it
    assert (labels[NAMES[4]] == 16).all()  # in VOC's val, but here for training: SBD's
    assert (labels[NAMES[11]] == 9).all()


def test_voc_without_sbd_is_train_and_val(voc):
    parts = datasets.load("voc", voc)
    assert names_of(parts["report"]) == NAMES[4:9]
    assert sorted(names_of(parts["train"]) + names_of(parts["select"])) == NAMES[:4]


@given(st.integers(0, 500), st.integers(0, 60))
def test_held_out_pictures_are_spread_and_never_many(count, wanted):
    kept, held = hold_out(list(range(count)), wanted)
    assert sorted(kept + held) == list(range(count))
    assert len(held) == min(wanted, max(count // 10, count > 1))
    if len(held) > 1:
        gaps = np.diff(held)
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.skipif(not SHARED.exists(), reason="the shared pictures are not here")
def test_real_voc_and_camvid_are_found_and_their_masks_fit():
    for name, counts in (("voc", (697, 40, 300)), ("camvid", (367, 101, 233))):
        parts = datasets.load(name, SHARED)
        found = tuple(len(parts[part]) for part in ("train", "select", "report"))
        assert found == counts
        for pictures in parts.values():
            for i in range(0, len(pictures), 60):
                assert pictures.image(i).shape[:2] == pictures.labels(i).shape
    assert not set(names_of(parts["train"])) & set(names_of(parts["report"]))


# --- the others ----------------------------------------------------------------------------------


@pytest.fixture
def camvid(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        names = [f"{split}_{i}" for i in range(count)]
        for name in names:
            save_jpeg(tmp_path / f"CamVid/{split}/{name}.png")
            save_mask(tmp_path / f"CamVid/{split}annot/{name}.png", RNG.integers(0, 12, (20, 30)))
        # As published: paths on the authors' machine.
        save_list(tmp_path / f"CamVid/{split}.txt",
                  [f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png"
                   for n in names])
    return tmp_path


def test_camvid_chooses_on_val_and_reports_on_test(camvid):
    parts = datasets.load("camvid", camvid)
    assert [len(parts[p]) for p in ("train", "select", "report")] == [3, 2, 2]
    raw = read_mask(parts["train"].items[0][1])
    labels = parts["train"].labels(0)
    assert ((labels == 255) == (raw == 11)).all() and set(np.unique(labels)) <= {*range(11), 255}


@pytest.fixture
def context(tmp_path):
    from scipy.io import savemat

    voc = tmp_path / "VOCdevkit/VOC2010"
    masks = tmp_path / "pascal-context/trainval"
    masks.mkdir(parents=True)
    # 459 labels, in which three of the 59 have other names.
    chosen = ["diningtable", "bedcloth", "clothes"] + [f"class {i}" for i in range(56)]
    others = ["table", "bedclothes", "cloth"] + [f"class {i}" for i in range(56)]
    everything = ["accordion"] + [*others, *(f"rare {i}" for i in range(399))]
    labels = "".join(f"{i}: {name}\n" for i, name in enumerate(everything, 1))
    (masks.parent / "labels.txt").write_text(labels)
    (masks.parent / "59_labels.txt").write_text(
        "".join(f"{i}: {name}\n" for i, name in enumerate(chosen, 1)))
    for i, name in enumerate(NAMES):
        save_jpeg(voc / f"JPEGImages/{name}.jpg")
        if i != 7:  # VOC's lists name pictures that Context did not annotate
            savemat(masks / f"{name}.mat", {"LabelMap": np.arange(600).reshape(20, 30) % 460})
    save_list(voc / "ImageSets/Main/train.txt", NAMES[:6])
    save_list(voc / "ImageSets/Main/val.txt", NAMES[6:])
    return tmp_path


def test_context_scores_its_59_classes_and_nothing_else(context):
    parts = datasets.load("context", context)
    pictures = parts["train"]
    assert len(pictures.classes) == 59 and pictures.classes[0] == "diningtable"
    labels = pictures.labels(0).ravel()
    assert labels[0] == 255 and labels[1] == 255  # unlabelled; accordion
    assert labels[2:61].tolist() == list(range(59))  # 2 is "table", the name of diningtable
    assert (labels[61:460] == 255).all()
    assert [len(parts[p]) for p in ("train", "select", "report")] == [5, 1, 5]


def rectangle(image_id, category, row, column, rows, columns, **more):
    box = [column, row, column + columns, row, column + columns, row + rows, column, row + rows]
    return {"image_id": image_id, "category_id": category, "segmentation": [box],
            "area": rows * columns, "iscrowd": 0, "bbox": [column, row, columns, rows], **more}


@pytest.fixture
def coco(voc):
    pytest.importorskip("pycocotools")
    categories = [{"id": 5, "name": "airplane"}, {"id": 63, "name": "couch"},
                  {"id": 90, "name": "toothbrush"}]
    found = [
        rectangle(1, 5, 0, 0, 20, 30), rectangle(1, 63, 5, 5, 5, 10),
        rectangle(2, 5, 0, 0, 10, 19),  # 190 pixels: too few
        rectangle(3, 5, 0, 0, 10, 15), rectangle(3, 63, 10, 0, 10, 5),  # 200 together
        rectangle(4, 90, 0, 0, 20, 30),  # of no class of VOC
        rectangle(5, 5, 0, 0, 15, 15), rectangle(5, 5, 0, 0, 14, 14),  # 225 pixels, counted once
        rectangle(6, 5, 0, 0, 10, 15), rectangle(6, 5, 0, 0, 10, 15),  # 150, though 300 with both
    ]
    for i, one in enumerate(found):
        one["id"] = i
    images = [{"id": i, "height": 20, "width": 30, "file_name": f"{i}.jpg"} for i in range(1, 7)]
    file = voc / "coco/annotations/instances_train2014.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": found}))
    for i in range(1, 7):
        save_jpeg(voc / f"coco/train2014/{i}.jpg")
    return voc


def test_coco_pictures_with_200_pixels_of_vocs_classes_are_selected(coco, capsys):
    parts = datasets.load("coco", coco)
    assert names_of(parts["train"]) == ["1", "3", "5"]
    assert "selected 3 images of COCO; the paper has 66099" in capsys.readouterr().out
    labels = parts["train"].labels(0)
    assert labels[0, 0] == 1 and labels[7, 7] == 18  # the smaller lies before the larger
    assert names_of(parts["report"]) == NAMES[4:9]  # VOC's


def test_an_absent_dataset_is_named_with_what_was_looked_for(tmp_path):
    for name, wanted in (("voc", "VOCdevkit/VOC2012"), ("camvid", "CamVid/trainannot"),
                         ("context", "VOC2010")):
        with pytest.raises(FileNotFoundError, match=f"{wanted}.*README.md"):
            datasets.load(name, tmp_path)
    with pytest.raises(ValueError, match="there is no dataset 'cityscapes'; there are camvid"):
        datasets.load("cityscapes", tmp_path)


def test_masks_whose_values_are_no_labels_are_refused(voc):
    mask = voc / f"VOCdevkit/VOC2012/SegmentationClass/{NAMES[0]}.png"
    save_mask(mask, np.full((20, 30), 21))
    train = datasets.load("voc", voc)["train"]
    with pytest.raises(ValueError, match="hold 21, but .* classes 0..20"):
        train.labels(0)
    save_jpeg(mask)
    with pytest.raises(ValueError, match="of mode RGB: its values are colours, not labels"):
        train.labels(0)


@pytest.mark.parametrize("name", ["camvid", "voc", "context", "coco"])
def test_datasets_can_be_sent_to_worker_processes(name, request):
    root = request.getfixturevalue(name)
    for pictures in datasets.load(name, root).values():
        again = pickle.loads(pickle.dumps(pictures))
        np.testing.assert_array_equal(again.labels(0), pictures.labels(0))


@pytest.mark.parametrize("line, name", [
    ("2007_000032", "2007_000032"), ("2007_000032  1", "2007_000032"),
    ("a b.png", "a b"), ("/CamVid/Seq 1/0001TP 0.png /CamVid/Seq 1 annot/0001TP 0.png", "0001TP 0"),
    ("img1 masks/m1.png", "img1"), ("in/img1.JPG masks/m1.png", "img1"), ("x\\my a.jpeg", "my a"),
    ("  img.tar.png m.png", "img.tar"), ("a.png.png", "a.png"), ("a.pngs 1", "a.pngs"),
])  # fmt: skip
def test_names_of_lists_may_have_spaces_and_more_columns(tmp_path, line, name):
    save_list(tmp_path / "list.txt", [line, "", "last"])
    assert read_names(tmp_path / "list.txt") == [name, "last"]


def png(path, values, bits, colour=0):
    """Write a PNG file that Pillow does not write: 16 bits a channel, or grey of 2 or 4 bits."""
    rows, columns = values.shape[:2]
    if bits == 16:
        raw = np.ascontiguousarray(values, ">u2").reshape(rows, -1).view(np.uint8)
    else:
        each = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits:]
        raw = np.packbits(each.reshape(rows, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in raw)

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
                     + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_masks_of_all_depths_hold_their_labels(tmp_path, bits):
    labels = np.arange(35).reshape(5, 7) % min(2**bits, 20)
    png(tmp_path / "mask.png", labels, bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), labels)
    np.testing.assert_array_equal(files.read_labels(tmp_path / "mask.png"), labels)


def test_masks_that_hold_no_labels_are_named(tmp_path):
    png(tmp_path / "mask.png", np.full((2, 3), 256), 16)
    with pytest.raises(ValueError, match="mask.png holds 256 to 256; labels must be 0 to 255"):
        read_mask(tmp_path / "mask.png")
    Image.new("LA", (3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="has a channel of transparency; save it without"):
        read_mask(tmp_path / "mask.png")


def test_colours_of_16_bits_are_rejected(tmp_path):
    png(tmp_path / "a.png", np.full((4, 5, 3), 1000), 16, colour=2)
    with pytest.raises(ValueError, match="a.png holds numbers of more than 8 bits"):
        read_image(tmp_path / "a.png")
    skimage = pytest.importorskip("skimage.io")
    skimage.imsave(tmp_path / "a.tif", np.full((40, 50, 3), 1000, np.uint16), check_contrast=False)
    with pytest.raises(ValueError, match="a.tif (holds numbers of|cannot be read)"):
        read_image(tmp_path / "a.tif")


def test_masks_of_equal_size_with_other_labels_have_other_digests(camvid):
    report = datasets.load("camvid", camvid)["report"]
    before, mask = digests.of_pictures(report), report.items[0][1]
    content = mask.read_bytes()
    mask.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert digests.of_pictures(report) != before
    mask.write_bytes(content)
    assert digests.of_pictures(report) == before


# --- augmentation --------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50),
       st.integers(0, 2**32), st.booleans())
def test_picture_and_labels_change_alike(rows, columns, height, width, seed, scaled):
    """A picture that shows its own labels still does, wherever labels are scored."""
    labels = np.random.default_rng(seed).integers(0, 5, (rows, columns), dtype=np.uint8)
    labels = labels // 5 * 0 + labels[0, 0]  # one label: scaling mixes nothing
    image = np.repeat(labels[..., None] * 40, 3, 2).astype(np.uint8)
    scales = (0.5, 2.0) if scaled else (1.0, 1.0)
    i, t = augment.augment(image, labels, np.random.default_rng(seed), flip=True, scales=scales,
                           size=(height, width))
    assert i.shape == (height, width, 3) and t.shape == (height, width)
    scored = t != 255
    assert scored.any() and (i[..., 0][scored] == t[scored] * 40).all()
    assert (i[~scored] == augment.GREY).all()
    again = augment.augment(image, labels, np.random.default_rng(seed), flip=True, scales=scales,
                            size=(height, width))
    assert (again[0] == i).all() and (again[1] == t).all()


def test_mirroring_reverses_every_other_picture():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = np.repeat(labels[..., None], 3, 2)
    seen = {0: 0, 3: 0}
    for seed in range(200):
        i, t = augment.augment(image, labels, np.random.default_rng(seed), flip=True)
        assert (i[..., 1] == t).all()
        seen[int(t[0, 0])] += 1
    assert 70 < seen[3] < 130


# --- downloads -----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *args: None
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{site.server_port}"
    site.shutdown()


def test_download_unpacks_and_says_where_a_missing_file_is_to_be_had(server, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    folder, address = server
    (folder / "hello.txt").write_text("hello")
    with tarfile.open(folder / "data.tar", "w") as tar:
        tar.add(folder / "hello.txt", "VOCdevkit/hello.txt")
    archives = {"voc": [download.Archive(f"{address}/data.tar", None)]}
    monkeypatch.setattr(download, "ARCHIVES", archives)
    download.download("voc", tmp_path / "out")
    assert (tmp_path / "out/VOCdevkit/hello.txt").read_text() == "hello"
    download.download("voc", tmp_path / "out")  # verified and kept
    (tmp_path / "out" / "data.tar").write_text("changed on disk")
    (folder / "data.tar").write_text("changed on the server")  # not what was downloaded first
    with pytest.raises(OSError, match="could not be downloaded"):
        download.download("voc", tmp_path / "out")
    archives["voc"] = [download.Archive(f"{address}/data.tar", "0" * 64)]
    with pytest.raises(OSError, match="could not be downloaded.*download it with a browser"):
        download.download("voc", tmp_path / "other")
    archives["voc"] = [download.Archive(f"{address}/gone.tar", None)]
    with pytest.raises(OSError, match="gone.tar could not be downloaded"):
        download.download("voc", tmp_path / "other")
    with pytest.raises(ValueError, match="no download for 'cityscapes'"):
        download.download("cityscapes", tmp_path)


def test_downloads_use_https_and_are_verified():
    for archives in download.ARCHIVES.values():
        for archive in archives:
            assert archive.url.startswith("https://")
            assert archive.sha256 is None or len(archive.sha256) == 64
            pinned = download.CAMVID_COMMIT in archive.url
            by_hash = archive.sha256 or archive.md5
            assert pinned or by_hash or archive.url.endswith("/labels.txt"), archive.url


def bad_tar(path, kind):
    member = tarfile.TarInfo("safe/a.txt")
    content = io.BytesIO(b"text")
    member.size = 4
    if kind in ("symbolic link", "hard link"):
        member.type = tarfile.SYMTYPE if kind == "symbolic link" else tarfile.LNKTYPE
        member.size = 0
        member.linkname = "../../outside.txt"
    elif kind == "device":
        member.type, member.size = tarfile.CHRTYPE, 0
    else:
        member.name = kind
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("first.txt"), io.BytesIO())
        tar.addfile(member, content if member.size else None)


@pytest.mark.parametrize(
    "kind",
    ["../outside.txt", "/tmp/outside.txt", "a/../../outside.txt", "symbolic link", "hard link",
     "device"],
)  # fmt: skip
def test_archives_with_members_outside_the_folder_are_refused_whole(tmp_path, kind):
    into = tmp_path / "into"
    into.mkdir()
    bad_tar(tmp_path / "bad.tar", kind)
    with pytest.raises(ValueError, match="is a link or lies outside the folder"):
        download.unpack(tmp_path / "bad.tar", into)
    if "outside" in kind:
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr("first.txt", "")
            archive.writestr(kind, "text")
        with pytest.raises(ValueError, match="is a link or lies outside the folder"):
            download.unpack(tmp_path / "bad.zip", into)
    assert not list(into.iterdir())
    assert {path.name for path in tmp_path.iterdir()} <= {"into", "bad.tar", "bad.zip"}
