"""Two networks from depth to logits: one that sees a few pixels, and one that sees the figure."""

import copy

import torch
from torch import Tensor, nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two convolutions with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for c in (channels_in, channels_out):
        convolution = nn.Conv2d(c, channels_out, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)


class Local(nn.Module):
    """Four convolutions of 3 x 3 pixels: logits [B, L, H, W] of inputs [B, 2, H, W]."""

    def __init__(self, labels: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            block(2, width), block(width, width), nn.Conv2d(width, labels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layers(x)


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


NETWORKS = {"local": Local, "unet": UNet}


@torch.no_grad()
def receptive_field(network: nn.Module, size: int = 256) -> int:
    """Return the side in pixels of the square of logits that one pixel of the input can change.

    Measured, not computed: with all weights positive and no offsets, an image that is 0 but for one
    pixel gives logits that are positive exactly where they depend on it. Where pooling makes the
    side depend on the pixel's position, it is the largest.
    """
    positive = copy.deepcopy(network).eval()
    for module in positive.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()
    most = 0
    for place in range(size // 2, size // 2 + 8):
        image = torch.zeros(1, 2, 4, size)  # a strip is enough: networks treat both axes alike
        image[:, :, :, place] = 1
        changed = (positive(image)[0, 0] > 0).any(0).nonzero()
        most = max(most, int(changed.max() - changed.min()) + 1)
    return most
