"""Read depth frames and their part labels from folders of PNG files.

Layout: FOLDER/train and FOLDER/val, each with depth/*.png (16 bits, millimetres, 0 where there is
no reading) and label/*.png (8 bits, 0 for background, 1..19 for parts) of the same names;
FOLDER/classes.txt with a line such as `1 head` for each label. The Kinect frames of the paper are
not public; for another layout use --splits, --depth-folder and --label-folder of run.py.
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
    depth_folder, label_folder : str
        Folders of the PNG files, relative to `folder`.
    most : int
        Maximum number of frames to read; 0 reads all.
    shrink : int
        Read every `shrink`-th row and column.
    """

    def __init__(
        self,
        folder: Path,
        depth_folder: str = "depth",
        label_folder: str = "label",
        most: int = 0,
        shrink: int = 1,
    ) -> None:
        paths = sorted((folder / depth_folder).glob("*.png"))[: most or None]
        if not paths:
            raise SystemExit(
                f"{folder / depth_folder} holds no PNG files; --data must hold the splits"
            )
        depth, labels = [], []
        for path in paths:
            partner = folder / label_folder / path.name
            if not partner.is_file():
                raise SystemExit(f"{path} has no labels; {partner} does not exist")
            millimetres, parts = imread(path), imread(partner)
            if millimetres.ndim != 2 or millimetres.shape != parts.shape:
                raise SystemExit(
                    f"{path} is {millimetres.shape} and its labels {parts.shape}; both must be "
                    "images of one channel and of the same size"
                )
            metres = millimetres.astype(np.float32) / 1000
            depth.append(np.stack([metres / FAR, metres > 0]).astype(np.float32))
            labels.append(parts.astype(np.int64))
        if len({d.shape for d in depth}) > 1:
            raise SystemExit(f"{folder} holds frames of several sizes; all must have one size")
        self.depth = torch.from_numpy(np.stack(depth)[..., ::shrink, ::shrink].copy())
        self.labels = torch.from_numpy(np.stack(labels)[..., ::shrink, ::shrink].copy())

    def __len__(self) -> int:
        return len(self.depth)

    def batches(self, size: int, shuffled: bool = True):
        """Yield indices, depth and labels of `size` frames at a time; each frame once."""
        order = torch.randperm(len(self)) if shuffled else torch.arange(len(self))
        for index in order.split(size):
            yield index, self.depth[index], self.labels[index]


def class_names(folder: Path) -> list[str]:
    """Return the names of all labels in order; label 0 is the background."""
    path = folder / "classes.txt"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; it holds a line such as `1 head` for each label")
    return [line.split(maxsplit=1)[1] for line in path.read_text().splitlines() if line.strip()]


def scores(predicted: Tensor, labels: Tensor, count: int) -> dict[str, float]:
    """Return recall over the pixels of parts, its mean over parts, and mean IU, in percent.

    The first two exclude pixels whose true label is the background, as the paper does, so they do
    not count parts predicted there; mean IU covers all labels.
    """
    confusion = metrics.confusion_matrix(labels.numpy(), predicted.numpy(), count)
    parts = confusion[1:]
    seen = parts.sum(1) > 0
    recall = np.diag(confusion)[1:][seen] / parts.sum(1)[seen]
    return {
        "pixels of parts": 100 * float(np.trace(confusion[1:, 1:]) / parts.sum()),
        "mean of parts": 100 * float(recall.mean()),
        "mean IU, background too": 100 * metrics.mean_iu(confusion),
    }
