"""Synthetic files for the tests of examples/fcn8s: published weights, VOC and CamVid."""

import struct

import numpy as np
import torch
from PIL import Image

from fcn8s import weights
from fcn8s.networks import VGG16FCN

VOC_NAMES = [f"2007_{i:06d}" for i in range(9)]


def small(labels=5, width=32, **options):
    """A thin FCN with weights that let each layer show in the output."""
    torch.manual_seed(0)
    net = VGG16FCN(labels, width=width, **options).eval()
    for name, p in net.named_parameters():
        with torch.no_grad():
            if name.startswith("score"):
                p.normal_()
            elif name.endswith("weight") and not name.startswith("upscore"):
                p.normal_(std=(2 / p[0].numel()) ** 0.5)
    return net


# --- .caffemodel ----------------------------------------------------------------------------------


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def bytes_field(number, payload):
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number(field, value):
    return varint(field << 3) + varint(value)


def blob(array, kind="new"):
    array = np.asarray(array, np.float32)
    if kind == "new":
        shape = bytes_field(7, bytes_field(1, b"".join(map(varint, array.shape))))
        return shape + bytes_field(5, array.tobytes())
    if kind == "double":
        return bytes_field(7, b"".join(number(1, n) for n in array.shape)) + bytes_field(
            8, array.astype(np.float64).tobytes())
    four = (1,) * (4 - array.ndim) + array.shape
    shape = b"".join(number(i, n) for i, n in enumerate(four, 1))
    # One by one, as very old files have them: field 5 of four bytes each.
    return shape + b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in array.ravel())


def caffe(layers, kind="new"):
    """A .caffemodel: layers of names and arrays."""
    file = bytes_field(1, b"net") + number(7, 1)
    for name, arrays in layers.items():
        if kind == "old":
            message = bytes_field(4, name.encode()) + number(5, 4)
            message += b"".join(bytes_field(6, blob(a, kind)) for a in arrays)
            file += bytes_field(2, message)
        else:
            message = bytes_field(1, name.encode()) + bytes_field(2, b"Convolution")
            message += b"".join(bytes_field(7, blob(a, kind)) for a in arrays)
            file += bytes_field(100, message)
    return file


def caffe_layers(net, crf=None, old_names=False):
    """A net's weights as the published Caffe models hold them."""
    names = {v: k for k, v in weights.OLD_NAMES.items()} if old_names else {}
    layers = {}
    for name, p in net.state_dict().items():
        layer, _ = name.split(".")
        layers.setdefault(names.get(layer, layer), []).append(p.numpy())
    if crf is not None:
        layers["inference1"] = [m[None, None] for m in crf]
    return layers


# --- datasets -------------------------------------------------------------------------------------


def make_camvid(root, counts=(3, 2, 3), shape=(32, 40)):
    """Write CamVid's layout: rectangles of noisy colours that tell the class."""
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros(shape, np.uint8)
            labels[5 + i : 25, 8:30] = 1 + i
            image = labels[..., None] * 60 + rng.integers(0, 30, (*shape, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / f"{i}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{i}.png")
        (root / f"{split}.txt").write_text("".join(f"{i}.png\n" for i in range(count)))
    return root


def save_mask(path, labels):
    """Write a palette image whose indices are the labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8), "L").convert("P")
    image.putpalette(list(range(256)) * 3)
    image.putdata(np.asarray(labels, np.uint8).ravel().tolist())
    image.save(path)


def make_voc(root, year=2012, shape=(30, 40)):
    """Write VOCdevkit as unpacked: images 0 to 5 are train, 6 to 8 val; return VOC's folder."""
    folder = root / f"VOCdevkit/VOC{year}"
    rng = np.random.default_rng(0)
    (folder / "JPEGImages").mkdir(parents=True)
    for i, name in enumerate(VOC_NAMES):
        labels = np.zeros(shape, np.uint8)
        labels[5:20, 8:30] = 1 + i
        labels[0] = 255
        image = labels[..., None] // 2 * 15 + rng.integers(0, 30, (*shape, 3))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"JPEGImages/{name}.jpg")
        save_mask(folder / f"SegmentationClass/{name}.png", labels)
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", VOC_NAMES[:6]), ("val", VOC_NAMES[6:])):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def make_sbd(folder, labels, shape=(30, 40), masks=True):
    """Write SBD as unpacked: images by name, each with one label, in turn train and val."""
    folder.mkdir(parents=True)
    for split, names in (("train", [*labels][::2]), ("val", [*labels][1::2])):
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    if masks:
        from scipy.io import savemat

        (folder / "cls").mkdir()
        for name, label in labels.items():
            found = {"GTcls": {"Segmentation": np.full(shape, label, np.uint8)}}
            savemat(folder / f"cls/{name}.mat", found, do_compression=True)
