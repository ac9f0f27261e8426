"""Pascal VOC with SBD: where they are, the paper's lists, and the masks of each image."""

import os
import re
from pathlib import Path

import numpy as np

from densecrf_rnn.samples import CLASS_NAMES as VOC_CLASSES

from .pictures import (
    LAYOUT, Item, Pictures, existing, find, image_of, read_mask, read_mat, read_names,
)

# Entries of VOC's and Context's training lists, evenly spaced, held out to choose settings on.
HELD_OUT = 40
# Lengths of the paper's lists; another length means that files are missing.
PAPER_COUNTS = {"train": 11685, "reduced validation": 346}
# SBD as unpacked, and as torchvision leaves it; below --data, VOC's folder or next to it.
SBD = ("benchmark_RELEASE/dataset", "sbd/dataset", "SBD/dataset", "benchmark_RELEASE", "sbd", "SBD")
# The year in a folder's name, such as VOC2007, voc2007, VOC_2007 and VOC2007_trainval.
YEAR = re.compile(r"^voc\D{0,3}(\d{4})(?!\d)", re.IGNORECASE)


def places(year: int) -> tuple[str, ...]:
    """Return where VOC's folder of a year may be below `--data`."""
    more = {2011: (f"TrainVal/VOCdevkit/VOC{year}",), 2012: ("voc",)}.get(year, ())
    return (f"VOCdevkit/VOC{year}", f"VOC{year}", *more, ".")


def folder_of(root: Path, year: int) -> Path | None:
    """Return VOC's folder of a year, or None.

    A folder named after another year does not count; one with any other name counts as 2012.
    """
    for place in places(year):
        folder = root / place
        if (folder / "JPEGImages").exists():
            named = {int(n) for path in (Path(os.path.abspath(folder)), folder.resolve())
                     for n in YEAR.findall(path.name)}
            if named <= {year} and (named or year == 2012):
                return folder
    return None


def required_folder(root: Path, year: int) -> Path:
    """Return VOC's folder of a year; raise FileNotFoundError if there is none."""
    folder = folder_of(root, year)
    if folder is None:
        raise FileNotFoundError(
            f"{root} has none of {', '.join(f'{p}/JPEGImages' for p in places(year)[:-1])} and is "
            f"no such folder{advice(root, year)}; {LAYOUT}"
        )
    return folder


def advice(root: Path, year: int = 2012) -> str:
    """Return which VOC there is in a folder without that of a year, for an error; or nothing."""
    deeper = [path.parent for depth in ("*", "*/*")
              for path in sorted(root.glob(f"{depth}/VOC{year}/JPEGImages"))]
    if deeper:
        return f"; VOC {year} is in {deeper[0]}, so give --data {deeper[0]}"
    years = sorted({path.parent.name for depth in ("", "*/", "*/*/")
                    for path in root.glob(f"{depth}VOC2*/JPEGImages")}
                   | {f"VOC{n}" for n in YEAR.findall(Path(os.path.abspath(root)).name)})
    return f"; it holds {', '.join(years)}, not VOC{year}" if years else ""


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
    folder = required_folder(root, year)
    lists = find(folder, "ImageSets/Segmentation", "ImageSets")
    train, val = read_names(lists / "train.txt"), read_names(lists / "val.txt")
    sbd, masks = sbd_of(root, folder, lists, set(train), set(val))
    # Where both annotate an image, VOC's own masks are finer.
    own = {n: folder / "SegmentationClass" / f"{n}.png" for n in [*train, *val]}
    labels = masks | {n: p for n, p in own.items() if n not in masks or n in set(train)}
    names, reduced = voc_lists(train, val, sbd)
    for what, found in (("train", names), ("reduced validation", reduced)):
        if sbd and year == 2012 and len(found) != PAPER_COUNTS[what]:
            print(f"VOC's {what} list has {len(found)} images, the paper's {PAPER_COUNTS[what]}")

    def items(of, what):
        found = [(image_of(folder / "JPEGImages", name), labels[name]) for name in of]
        return existing(found, f"VOC {year}'s {what} list")

    kept, held = hold_out(items(names, "train"))
    whole = Pictures(f"VOC {year}", VOC_CLASSES, (), read_any)
    reports = "reduced val" if len(reduced) < len(set(val)) else "val"
    return {"train": whole.part(kept, "train"), "select": whole.part(held, "held out of train"),
            "report": whole.part(items(reduced, reports), reports)}


def sbd_of(root: Path, folder: Path, lists: Path, train: set, val: set) -> tuple[list, dict]:
    """Return the names of SBD's images and their masks, from where they are; or nothing.

    Parameters
    ----------
    root, folder, lists : Path
        `--data`, VOC's folder and that of its lists.
    train, val : names in VOC's lists
    """
    benchmark = benchmark_of(root, folder)
    names = [] if benchmark is None else [
        name for split in ("train", "val") for name in read_names(benchmark / f"{split}.txt")]
    if benchmark is not None and (benchmark / "cls").is_dir():
        return names, {name: benchmark / "cls" / f"{name}.mat" for name in names}
    augmented = folder / "SegmentationClassAug"
    if augmented.is_dir():
        if not names:
            given = [lists / name for name in ("trainaug.txt", "train_aug.txt")]
            listed = next((path for path in given if path.exists()), None)
            found = ([path.stem for path in augmented.glob("*.png")] if listed is None
                     else read_names(listed))
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
        names = read_names(lists / "train_sbd.txt")
        return names, {name: folder / "SegmentationClass" / f"{name}.png" for name in names}
    print(
        f"no SBD below {root} or next to {folder} (benchmark_RELEASE/dataset or "
        "SegmentationClassAug): VOC's own train and val lists are used, not the paper's"
    )
    return [], {}


def benchmark_of(root: Path, folder: Path) -> Path | None:
    """Return SBD's folder of lists, below `--data`, in VOC's folder or next to it, or None.

    Relative paths and links have other parents by name than on disk; both are searched.
    """
    real = [Path(os.path.abspath(folder)), folder.resolve()]
    near = [root, folder, *(parent for path in real for parent in path.parents[:2])]
    found = (each / place for each in near for place in SBD)
    return next((p for p in found if (p / "train.txt").exists() and (p / "val.txt").exists()), None)


def hold_out(items: list[Item], count: int = HELD_OUT) -> tuple[list[Item], list[Item]]:
    """Split off `count` evenly spaced entries of a list (short lists: a tenth, at least one)."""
    count = min(count, max(len(items) // 10, len(items) > 1))
    chosen = {(2 * i + 1) * len(items) // (2 * count) for i in range(count)}
    kept = [item for i, item in enumerate(items) if i not in chosen]
    return kept, [items[i] for i in sorted(chosen)]


def read_sbd(path) -> np.ndarray:
    """Read the labels in a .mat file of SBD."""
    found = read_mat(path, "GTcls")
    try:
        return found[0, 0]["Segmentation"].astype(np.uint8)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} has no GTcls.Segmentation; take SBD's folder cls") from error


def read_any(path) -> np.ndarray:
    """Read a mask, or a .mat file of SBD."""
    return read_sbd(path) if Path(path).suffix == ".mat" else read_mask(path)
