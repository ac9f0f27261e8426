"""Depth frames and their part labels, from folders of PNG files.

Layout: FOLDER/train and FOLDER/val, each with depth/*.png (16 bits, millimetres, 0 where there is
no reading) and label/*.png (8 bits, 0 for background, 1..19 for parts) under the same names;
FOLDER/classes.txt with a line such as `1 head` for each label. The Kinect frames of the paper are
not public; whoever has them names their folders: run.py --splits, --depth-folder, --label-folder.
"""

from pathlib import Path

import numpy as np
import torch
from skimage.io import imread
from torch import Tensor

from densecrf_rnn import metrics

FAR = 5.0  # metres: what depth is divided by


class Frames:
    """A split in memory: depth [N, 2, H, W] (scaled, and whether there is a reading) and labels.

    `depth_folder` and `label_folder` are relative to the folder of the split. Of its frames the
    first `most` are taken (0: all), of their rows and columns every `shrink`-th.
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
                f"{folder / depth_folder} holds no PNG files; --data is the folder of the splits"
            )
        depth, labels = [], []
        for path in paths:
            partner = folder / label_folder / path.name
            if not partner.is_file():
                raise SystemExit(f"{path} has no labels: there is no {partner}")
            millimetres, parts = imread(path), imread(partner)
            if millimetres.ndim != 2 or millimetres.shape != parts.shape:
                raise SystemExit(
                    f"{path} is {millimetres.shape} and its labels {parts.shape}; both must be "
                    "pictures of one channel and of one size"
                )
            metres = millimetres.astype(np.float32) / 1000
            depth.append(np.stack([metres / FAR, metres > 0]).astype(np.float32))
            labels.append(parts.astype(np.int64))
        if len({d.shape for d in depth}) > 1:
            raise SystemExit(f"{folder} holds frames of several sizes; give them one")
        self.depth = torch.from_numpy(np.stack(depth)[..., ::shrink, ::shrink].copy())
        self.labels = torch.from_numpy(np.stack(labels)[..., ::shrink, ::shrink].copy())

    def __len__(self) -> int:
        return len(self.depth)

    def batches(self, size: int, shuffled: bool = True):
        """Numbers, depth and labels of some frames at a time; each frame once."""
        order = torch.randperm(len(self)) if shuffled else torch.arange(len(self))
        for index in order.split(size):
            yield index, self.depth[index], self.labels[index]


def class_names(folder: Path) -> list[str]:
    """Names of all labels, in order; from 0, the background."""
    path = folder / "classes.txt"
    if not path.is_file():
        raise SystemExit(f"there is no {path}, with a line such as `1 head` for each label")
    return [line.split(maxsplit=1)[1] for line in path.read_text().splitlines() if line.strip()]


def scores(predicted: Tensor, labels: Tensor, count: int) -> dict[str, float]:
    """Percent of the pixels of parts that are right, over all and as the mean of parts; mean IU.

    The first two leave the background out, as the paper does, and do not see parts where there are
    none; the last, over all labels, does.
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
