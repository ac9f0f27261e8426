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

FAR = 5.0  # metres: what depth is divided by


class Frames:
    """A split in memory: depth [N, 2, H, W] (scaled, and whether there is a reading) and labels.

    `depth_folder` and `label_folder` are relative to the folder of the split.
    """

    def __init__(
        self, folder: Path, depth_folder: str = "depth", label_folder: str = "label", most: int = 0
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
        self.depth = torch.from_numpy(np.stack(depth))
        self.labels = torch.from_numpy(np.stack(labels))

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
    """Percent right, background excluded: of all pixels of parts, and the mean over the parts."""
    parts = labels > 0
    right = (predicted == labels)[parts].double()
    which = labels[parts]
    hits = torch.zeros(count, dtype=torch.float64).index_add_(0, which, right)
    sizes = torch.bincount(which, minlength=count)
    seen = sizes > 0
    return {
        "pixels": 100 * float(right.mean()),
        "mean of parts": 100 * float((hits[seen] / sizes[seen]).mean()),
    }
