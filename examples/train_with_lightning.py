"""Train a network with a CRF-RNN head in a LightningModule for two steps on noisy squares.

Needs lightning (pip install lightning), which is not a dependency of this package.
"""

import logging
import warnings

import torch
from torch import nn

from densecrf_rnn import CRFRNN, CRFParams

try:
    import lightning
except ImportError as error:
    raise SystemExit(f"this example needs lightning: pip install lightning ({error})") from None


def squares(count, size=32):
    """Return pairs of an image [3, size, size] in 0..1 and its labels [size, size]."""
    labels = torch.zeros(count, size, size, dtype=torch.long)
    for one, (row, column) in zip(labels, torch.randint(4, 14, (count, 2)), strict=True):
        one[row : row + 14, column : column + 14] = 1
    image = 0.3 + 0.4 * labels[:, None] + 0.2 * torch.randn(count, 3, size, size)
    return list(zip(image.clamp(0, 1), labels, strict=True))


class Segmentation(lightning.LightningModule):
    """A network with a head whose learning rate is ten times the network's."""

    def __init__(self):
        super().__init__()
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        params = CRFParams(theta_alpha=8, theta_beta=60, theta_gamma=2, w_bilateral=1, w_spatial=1)
        self.model = CRFRNN.wrap(backbone, num_classes=2, params=params)
        self.losses = []

    def training_step(self, batch, index):
        image, labels = batch
        loss = nn.functional.cross_entropy(self.model(image), labels)
        self.log("loss", loss)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        backbone = {"params": self.model.backbone.parameters(), "lr": 0.01}
        return torch.optim.Adam([backbone, *self.model.crf.parameter_groups(0.01)])


warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
lightning.seed_everything(0, verbose=False)
module = Segmentation()
before = [parameter.detach().clone() for parameter in module.parameters()]
loader = torch.utils.data.DataLoader(squares(8), batch_size=4)
trainer = lightning.Trainer(
    max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(module, loader)
moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
print(f"{trainer.global_step} steps, losses {', '.join(f'{x:.3f}' for x in module.losses)}")
print(f"{sum(moved)} of {len(moved)} parameters changed; those of the head did: {all(moved[-2:])}")
