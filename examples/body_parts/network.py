"""A small U-Net from depth to logits."""

import torch
from torch import Tensor, nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two convolutions with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for c in (channels_in, channels_out):
        convolution = nn.Conv2d(c, channels_out, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net that returns logits [B, L, H, W] for inputs [B, 2, H, W]."""

    def __init__(self, labels: int, width: int = 16, levels: int = 4) -> None:
        super().__init__()
        sizes = [min(width * 2**i, 6 * width) for i in range(levels)]
        self.down = nn.ModuleList(block(a, b) for a, b in zip([2, *sizes], sizes))
        self.up = nn.ModuleList(
            block(a + b, b) for a, b in zip(sizes[:0:-1], sizes[-2::-1], strict=True)
        )
        self.scores = nn.Conv2d(sizes[0], labels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; each level going up gets the features of the same level going down."""
        height, width = x.shape[2:]
        step = 2 ** (len(self.down) - 1)
        x = nn.functional.pad(x, (0, -width % step, 0, -height % step))
        seen: list[Tensor] = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else nn.functional.max_pool2d(x, 2))
            seen.append(x)
        for up, skip in zip(self.up, seen[-2::-1], strict=True):
            larger = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = up(torch.cat([larger, skip], 1))
        return self.scores(x)[:, :, :height, :width]
