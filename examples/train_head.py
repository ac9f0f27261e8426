"""Train a small network, then the network and a CRF-RNN head behind it together.

Each made-up picture is a bright disc on darker ground, with strong noise. As in the paper the
network is trained first: behind an untrained one, a strong head learns to repeat the commonest
label. The head improves what the network says at once, and more when both have learned together.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from densecrf_rnn import CRFRNN, CRFParams


def pictures(count, size=48):
    """Images [count, 3, size, size] in 0..1 and their labels [count, size, size]."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.randint(16, size - 16, (2, count, 1, 1))
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 17**2
    image = 0.35 + 0.3 * disc[:, None] + 0.4 * torch.randn(count, 3, size, size)
    return image.clamp(0, 1), disc.long()


def train(network, steps):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    for _ in range(steps):
        image, labels = pictures(4)
        optimizer.zero_grad()
        cross_entropy(network(image), labels).backward()
        optimizer.step()
    return network


@torch.no_grad()
def show(name, network):
    right = (network.eval()(test_image).argmax(1) == test_labels).float().mean()
    print(f"{name:<19}{100 * right:5.1f} % of pixels right on new pictures")


torch.manual_seed(0)
torch.set_num_threads(1)  # pictures this small do not repay more
test_image, test_labels = pictures(32)
layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
backbone = train(nn.Sequential(*layers, nn.Conv2d(8, 2, 3, padding=1)), steps=30)
show("network alone", backbone)

# Bandwidths in pixels and in intensities 0..255, to which wrap brings these images of 0..1.
params = CRFParams(theta_alpha=8, theta_beta=60, theta_gamma=2, w_bilateral=1, w_spatial=1)
model = CRFRNN.wrap(backbone, num_classes=2, params=params)
show("with a new head", model)
show("trained together", train(model, steps=30))
