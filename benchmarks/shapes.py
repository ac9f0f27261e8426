"""Images of striped shapes with labels, and a small network whose logits have blurred borders."""

import torch
from torch import Tensor, nn

from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD

LABELS = 4  # background, discs, squares, and small discs, which are rare
SIZE = 48
_NOISE = 15.0  # standard deviation, of 255


def make(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images [count, 3, S, S] in 0..255, and their labels [count, S, S].

    The stripes of a shape show its label (horizontal, vertical, both), its colour, drawn at random
    for each shape as that of the background, shows its border only.
    """
    made = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=made)

    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, truths = [], []
    for _ in range(count):
        image = (255 * uniform(3, 1, 1)).expand(3, SIZE, SIZE)
        truth = torch.zeros(SIZE, SIZE, dtype=torch.long)
        for label in range(1, LABELS):
            radius = 4.0 if label == 3 else 8 + 5 * float(uniform(1))
            centre = radius + (SIZE - 2 * radius) * uniform(2)
            dy, dx = (rows - centre[0]).abs(), (columns - centre[1]).abs()
            inside = torch.max(dy, dx) < 0.9 * radius if label == 2 else dy.hypot(dx) < radius
            phase, stripes = 6 * uniform(1), torch.zeros(SIZE, SIZE)
            for axis, of in ((rows, (1, 3)), (columns, (2, 3))):
                stripes = stripes + (label in of) * torch.sin(1.6 * axis + phase)
            truth[inside] = label
            image = torch.where(inside, 40 + 175 * uniform(3, 1, 1) + 20 * stripes, image)
        noise = _NOISE * torch.randn(image.shape, generator=made)
        images.append((image + noise).clamp(0, 255))
        truths.append(truth)
    return torch.stack(images), torch.stack(truths)


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images in each of which two rectangles have a random colour, as an augmentation."""
    images = images.clone()
    for image in images:
        for _ in range(2):
            top, left = torch.randint(0, SIZE - 14, (2,), generator=generator).tolist()
            colour = 255 * torch.rand(3, 1, 1, generator=generator)
            image[:, top : top + 14, left : left + 14] = colour
    return images


def normalised(images: Tensor) -> Tensor:
    """Return images of 0..255 normalised as for networks trained on ImageNet."""
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std


def network() -> nn.Sequential:
    """Return a network with logits [B, L, S / 4, S / 4]."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 1), (32, 48, 2), (48, 48, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(48, LABELS, 1))
