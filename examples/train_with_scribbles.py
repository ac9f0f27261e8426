"""Train with scribbles: cross-entropy on 2 % of the pixels, with and without a dense CRF loss.

The images are made here: discs with horizontal and squares with vertical stripes, in random
colours, so that a label shows in the stripes and its edge in the colour. Both arms get the same
network, images, steps and number of trials: each tries six settings on validation images. Then
each is trained with three seeds, on other images each, and scored on held-out images with full
labels. The interval is a bootstrap over these images of the mean gain of the seeds.
"""

import argparse
from itertools import product

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, max_pool2d

from densecrf_rnn.metrics import bootstrap_interval, confusion_matrix, mean_iu
from densecrf_rnn.nn.losses import DenseCRFLoss

SIZE, UNLABELLED = 48, 255


def make_images(count, seed):
    """Return images [count, 3, S, S] in 0..255, their labels and scribbles [count, S, S]."""
    made = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=made)

    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, truths, scribbles = [], [], []
    for _ in range(count):
        image = (200 * uniform(3, 1, 1)).expand(3, SIZE, SIZE)
        truth = torch.zeros(SIZE, SIZE, dtype=torch.long)
        for label in (1, 2):
            centre, radius = 12 + (SIZE - 24) * uniform(2), 8 + 5 * uniform(1)
            dy, dx = (rows - centre[0]).abs(), (columns - centre[1]).abs()
            inside = dy**2 + dx**2 < radius**2 if label == 1 else torch.max(dy, dx) < 0.9 * radius
            stripes = torch.sin(1.6 * (rows if label == 1 else columns) + 6 * uniform(1))
            truth[inside] = label
            image = torch.where(inside, 40 + 175 * uniform(3, 1, 1) + 25 * stripes, image)
        scribble = torch.full_like(truth, UNLABELLED)
        for label in range(3):  # a stroke well inside each region
            deep = max_pool2d((truth != label).float()[None], 7, stride=1, padding=3)[0] == 0
            if (places := torch.nonzero(deep)).numel():
                y, x = places[torch.randint(len(places), (1,), generator=made)[0]]
                stroke = ((rows - y).abs() <= 1) & ((columns - x).abs() <= 4) & deep
                scribble[stroke] = label
        noise = 15 * torch.randn(image.shape, generator=made)
        images.append((image + noise).clamp(0, 255))
        truths.append(truth)
        scribbles.append(scribble)
    return torch.stack(images), torch.stack(truths), torch.stack(scribbles)


def block(inputs, outputs):
    layers = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A small U-Net for images in 0..255."""

    def __init__(self):
        super().__init__()
        self.fine, self.middle = block(3, 16), block(16, 32)
        self.coarse, self.join = nn.Sequential(block(32, 48), block(48, 32)), block(64, 16)
        self.last, self.pool = nn.Sequential(block(32, 16), nn.Conv2d(16, 3, 1)), nn.MaxPool2d(2)

    def forward(self, image):
        fine = self.fine(image / 255 - 0.5)
        middle = self.middle(self.pool(fine))
        coarse = interpolate(self.coarse(self.pool(middle)), scale_factor=2, mode="bilinear")
        joined = self.join(torch.cat([middle, coarse], 1))
        return self.last(torch.cat([fine, interpolate(joined, scale_factor=2, mode="bilinear")], 1))


def train(data, seed, steps, rate, decay=0.0, weight=0.0):
    """Train a network; a `weight` of 0 leaves the CRF loss out."""
    torch.manual_seed(seed)
    network = UNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    crf = DenseCRFLoss(
        weight, sigma_rgb=25, sigma_xy=15, normalization="after", reduction="mean"
    )
    images, _, scribbles = data
    for _ in range(steps):
        pick = torch.randint(len(images), (8,))
        logits = network(images[pick])
        loss = cross_entropy(logits, scribbles[pick], ignore_index=UNLABELLED)
        if weight:
            loss = loss + crf(logits.softmax(1), images[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def confusions(network, data):
    """Return the confusion matrix of each image, [images, L, L]."""
    found = network(data[0]).argmax(1).numpy()
    pairs = zip(data[1].numpy(), found, strict=True)
    return np.stack([confusion_matrix(truth, labels, 3) for truth, labels in pairs])


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--steps", type=int, default=300, help="training steps of each run")
steps = parser.parse_args().steps
torch.set_num_threads(1)
RATES = (0.003, 0.01, 0.03)
ARMS = {
    "scribbles alone": [
        {"rate": rate, "decay": decay} for rate, decay in product(RATES, (0.0, 0.1))
    ],
    "with DenseCRFLoss": [
        {"rate": rate, "weight": weight} for rate, weight in product(RATES, (1.0, 2.0))
    ],
}
training, validation, held_out = make_images(100, 100), make_images(40, 101), make_images(80, 102)
labelled = (training[2] != UNLABELLED).double().mean()
print(f"{100 * labelled:.1f} % of the pixels have labels; mean IU in %")
chosen = {}
for arm, settings in ARMS.items():
    scores = [
        mean_iu(confusions(train(training, 0, steps, **one), validation).sum(0))
        for one in settings
    ]
    chosen[arm] = settings[int(np.argmax(scores))]
    print(f"{arm}: {', '.join(f'{100 * s:.1f}' for s in scores)} on validation; {chosen[arm]}")

found = []  # [seeds, arms, images, L, L]
for seed in (1, 2, 3):
    data = make_images(100, 110 + seed)
    found.append(
        [confusions(train(data, seed, steps, **chosen[arm]), held_out) for arm in ARMS]
    )
    ious = [100 * mean_iu(arm.sum(0)) for arm in found[-1]]
    print(f"seed {seed}: {ious[0]:.1f} alone, {ious[1]:.1f} with the CRF loss, on held-out images")
of_images = np.moveaxis(np.array(found), 2, 0)


def gain(c):
    return 100 * np.mean([mean_iu(crf) - mean_iu(alone) for alone, crf in c])


low, high = bootstrap_interval(of_images, gain)
print(f"gain {gain(of_images.sum(0)):.1f}, 95 % interval {low:.1f} to {high:.1f}")
