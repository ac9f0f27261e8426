"""Read depth frames and their part labels from folders of PNG files.

Layout: FOLDER/train, FOLDER/choose and FOLDER/report, each with depth/*.png (16 bits, millimetres,
0 where there is no reading) and label/*.png (8 bits, 0 for background, 1..19 for parts) of the same
names; FOLDER/classes.txt with a line such as `1 head` for each label. Labels of two sides end in _L
and _R. The Kinect frames of the paper are not public.
"""

from pathlib import Path

import numpy as np
import torch
from skimage.io import imread
from torch import Tensor

from densecrf_rnn import metrics

FAR = 5.0  # metres; depth is divided by it


class Frames:
    """A split in memory: depth [N, 2, H, W] (scaled depth, and 1 where there is a reading), labels.

    Parameters
    ----------
    folder : path
        Folder of the split.
    most : int
        Maximum number of frames to read; 0 reads all.
    """

    def __init__(self, folder: Path, most: int = 0) -> None:
        paths = sorted((folder / "depth").glob("*.png"))[: most or None]
        if not paths:
            raise SystemExit(
                f"{folder / 'depth'} holds no PNG files; --data must hold the splits"
            )
        depth, labels = [], []
        for path in paths:
            partner = folder / "label" / path.name
            if not partner.is_file():
                raise SystemExit(f"{path} has no labels; {partner} does not exist")
            millimetres, parts = read_png(path), read_png(partner)
            if millimetres.ndim != 2 or millimetres.shape != parts.shape:
                raise SystemExit(
                    f"{path} is {millimetres.shape} and its labels {parts.shape}; both must be "
                    "images of one channel and of the same size"
                )
            if millimetres.dtype != np.uint16:
                raise SystemExit(
                    f"{path} holds {millimetres.dtype}; depth must be in millimetres, as a PNG "
                    "file of 16 bits"
                )
            metres = millimetres.astype(np.float32) / 1000
            depth.append(np.stack([metres / FAR, metres > 0]).astype(np.float32))
            labels.append(parts.astype(np.int64))
        if len({d.shape for d in depth}) > 1:
            raise SystemExit(f"{folder} holds frames of several sizes; all must have one size")
        self.depth = torch.from_numpy(np.stack(depth))
        self.labels = torch.from_numpy(np.stack(labels))

    def __len__(self) -> int:
        return len(self.depth)

    def batches(self, size: int, shuffled: bool = True):
        """Yield indices, depth and labels of `size` frames at a time; each frame once."""
        order = torch.randperm(len(self)) if shuffled else torch.arange(len(self))
        for index in order.split(size):
            yield index, self.depth[index], self.labels[index]


def read_png(path: Path) -> np.ndarray:
    """Read an image; the error for a damaged one names it."""
    try:
        return imread(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise SystemExit(f"{path} cannot be read ({error}); remove it or replace it") from error


def class_names(folder: Path) -> list[str]:
    """Return the names of all labels in order; label 0 is the background."""
    path = folder / "classes.txt"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; it holds a line such as `1 head` for each label")
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    names = [line.split(maxsplit=1) for line in lines]
    for number, (name, line) in enumerate(zip(names, lines, strict=True)):
        if len(name) != 2 or name[0] != str(number):
            raise SystemExit(
                f"{path} has the line `{line}` for label {number}; it must start with {number} and "
                "a space, then comes the name"
            )
    return [name for _, name in names]


def kinds_and_sides(names: list[str]) -> tuple[Tensor, Tensor]:
    """Return the number of each label's kind of part, and of its side: 1 L, 2 R, 0 neither.

    Labels that differ in an ending _L or _R only, such as hand_L and hand_R, are of one kind.
    """
    stems = [name.removesuffix("_L").removesuffix("_R") for name in names]
    kinds = torch.tensor([stems.index(stem) for stem in stems])
    sides = torch.tensor([1 * name.endswith("_L") + 2 * name.endswith("_R") for name in names])
    return kinds, sides


def scores(predicted: Tensor, labels: Tensor, names: list[str]) -> dict[str, float]:
    """Return five scores in percent of predicted labels [N, H, W], given the true ones.

    Pixels of parts: those that are right, of all whose true label is a part. Mean of parts: the
    mean of this over parts. Both exclude the background, as the paper does, so they do not count
    parts predicted there; mean IU covers all labels. Kind: pixels of parts whose kind is right,
    whatever the side. Side: of the pixels of left or right parts whose kind is right, those whose
    side is right too.
    """
    confusion = metrics.confusion_matrix(labels.numpy(), predicted.numpy(), len(names))
    parts = confusion[1:]
    seen = parts.sum(1) > 0
    recall = np.diag(confusion)[1:][seen] / parts.sum(1)[seen]
    kinds, sides = (x.numpy() for x in kinds_and_sides(names))
    same_kind = kinds[1:, None] == kinds[None]
    sided = (sides[1:, None] > 0) & same_kind
    same_side = sided & (sides[1:, None] == sides[None])
    return {
        "pixels of parts": 100 * float(np.trace(confusion[1:, 1:]) / parts.sum()),
        "mean of parts": 100 * float(recall.mean()),
        "mean IU": 100 * metrics.mean_iu(confusion),
        "kind": 100 * float(parts[same_kind].sum() / parts.sum()),
        "side": 100 * float(parts[same_side].sum() / max(parts[sided].sum(), 1)),
    }
