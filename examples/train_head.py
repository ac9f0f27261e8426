"""Train a small network on noisy discs, then the network together with a CRF-RNN head.

As in the paper, the network is trained alone first: with an untrained network, the head would learn
to predict the most frequent label everywhere.
"""

import torch
from torch import nn

from densecrf_rnn import CRFRNN, CRFParams


def make_images(count, size=48):
    """Return images [count, 3, size, size] in 0..1 and their labels [count, size, size]."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.randint(16, size - 16, (2, count, 1, 1))
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 17**2
    image = 0.35 + 0.3 * disc[:, None] + 0.4 * torch.randn(count, 3, size, size)
    return image.clamp(0, 1), disc.long()


def train(network, steps=30):
    optimizer = torch.optim.Adam(network.train().parameters(), lr=0.01)
    for image, labels in (make_images(4) for _ in range(steps)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), labels).backward()
        optimizer.step()
    right = (network.eval()(test_image).argmax(1) == test_labels).float().mean()
    print(f"{type(network).__name__}: {100 * right:.1f} % of pixels correct on new images")


torch.manual_seed(0)
test_image, test_labels = make_images(32)
layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
backbone = nn.Sequential(*layers, nn.Conv2d(8, 2, 3, padding=1))
train(backbone)
# Bandwidths are in pixels and in intensities 0..255: wrap scales images of 0..1 to that range.
params = CRFParams(theta_alpha=8, theta_beta=60, theta_gamma=2, w_bilateral=1, w_spatial=1)
model = CRFRNN.wrap(backbone, num_classes=2, params=params)
train(model)
