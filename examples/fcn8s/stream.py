"""Training samples by number, and stored features of frozen layers.

Sample n of a run depends on the seed and on n alone: not on workers, processes or interruptions.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from densecrf_rnn.files import replaced

from . import digests
from .augment import GREY, augment, mirror, window
from .config import Config
from .pictures import IGNORE, Pictures


FEATURES_PART = 64  # images in a file of features


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return an image as a tensor [3, H, W], float32 in 0..255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


class Stream(Dataset):
    """Samples 0, 1, 2, ... of a training run; each epoch has its own order.

    Parameters
    ----------
    pictures : Pictures
    config : Config
    features : Features, optional
        What the frozen layers made of the pictures.
    """

    def __init__(self, pictures: Pictures, config: Config, features: "Features | None" = None):
        self.pictures, self.config, self.features = pictures, config, features

    def __getitem__(self, number):
        config, count = self.config, len(self.pictures)
        epoch, place = divmod(number, count)
        i = int(np.random.default_rng((config.seed, epoch)).permutation(count)[place])
        rng = np.random.default_rng((config.seed, epoch, place))
        image, labels = self.pictures.image(i), self.pictures.labels(i)
        sample = {}
        if self.features is None:
            image, labels = augment(
                image, labels, rng, flip=config.flip, scales=config.scales, size=config.crop
            )
        else:
            mirrored = bool(config.flip and rng.random() < 0.5)
            if mirrored:
                image, labels = mirror(image, labels)
            sample["lower"] = self.features[i, mirrored]
        sample["image"] = to_tensor(image)
        sample["labels"] = torch.from_numpy(np.ascontiguousarray(labels)).long()
        if config.window is not None:
            sample["window"] = window(labels.shape, config.window, rng)
        return sample


def batches(stream: Stream, first: int, last: int, rank=0, world=1, workers=0) -> DataLoader:
    """Yield one process's share of the batches of steps `first` to `last` - 1."""
    batch = stream.config.batch
    if batch % world:
        raise ValueError(
            f"a batch of {batch} cannot be shared by {world} processes; give --set batch="
            f"{-(-batch // world) * world}"
        )
    share = batch // world
    # Each process takes consecutive samples, from step * batch + rank * share on.
    numbers = [step * batch + rank * share + k for step in range(first, last) for k in range(share)]
    return DataLoader(
        stream, batch_size=share, sampler=numbers, collate_fn=collate, num_workers=workers,
        # Its own, for a loader seeds its workers from the generator that dropout draws from.
        generator=torch.Generator(),
    )


def collate(samples):
    """Collate a batch; smaller images are padded below and on the right with ignored pixels."""
    rows, columns = (max(s["labels"].shape[k] for s in samples) for k in (0, 1))

    def enlarge(x, height, width, value):
        padding = (0, width - x.shape[-1], 0, height - x.shape[-2])
        return torch.nn.functional.pad(x, padding, value=value)

    batch = {
        "image": torch.stack([enlarge(s["image"], rows, columns, GREY) for s in samples]),
        "labels": torch.stack([enlarge(s["labels"], rows, columns, IGNORE) for s in samples]),
    }
    if "lower" in samples[0]:
        levels = zip(*(s["lower"] for s in samples), strict=True)
        batch["lower"] = tuple(
            torch.stack([enlarge(x, max(x.shape[1] for x in level), max(x.shape[2] for x in level),
                                 0) for x in level]) for level in map(list, levels)
        )
    if "window" in samples[0]:
        batch["window"] = [s["window"] for s in samples]
    return batch


class Features:
    """Stored features of each image and its mirror image from MobileNetV2's frozen layers.

    They are kept in files of float16, of `FEATURES_PART` images each, in a folder that is named
    after the pictures and the layers, and are read from where they lie; runs with the same pictures
    and layers share it, and an interrupted call continues.
    """

    def __init__(self, fcn, pictures: Pictures, folder: Path, device, mirrored: bool):
        made_of = hashlib.sha256(f"{digests.of_pictures(pictures)} {mirrored}".encode())
        for layer in fcn.lowest():
            for weight in layer.state_dict().values():
                made_of.update(weight.cpu().numpy().tobytes())
        inside = folder / f"features-{made_of.hexdigest()[:12]}"
        inside.mkdir(parents=True, exist_ok=True)
        fcn.eval()
        self.parts, self.size = [], FEATURES_PART
        with tqdm(total=len(pictures), desc=f"features of {pictures.name}", leave=False,
                  disable=None) as bar:
            for first in range(0, len(pictures), self.size):
                indices = range(first, min(first + self.size, len(pictures)))
                path = inside / f"{first:06d}.pt"
                if not path.exists():
                    levels = []
                    for i in indices:
                        image = to_tensor(pictures.image(i))[None].to(device)
                        views = [image, image.flip(3)] if mirrored else [image]
                        levels.append([lower_features(fcn, view) for view in views])
                        bar.update()
                    with replaced(path) as part:
                        torch.save(levels, part)
                self.parts.append(torch.load(path, mmap=True, weights_only=True))

    def __getitem__(self, key) -> tuple[torch.Tensor, torch.Tensor]:
        i, mirrored = key
        part, place = divmod(i, self.size)
        return tuple(x.float() for x in self.parts[part][place][int(mirrored)])


def lower_features(fcn, image) -> tuple[torch.Tensor, ...]:
    """Return the frozen layers' features of an image [1, 3, H, W] as they are stored."""
    return tuple(x[0].half().cpu() for x in fcn.lower(image))
