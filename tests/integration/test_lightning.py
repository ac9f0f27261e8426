"""Lightning: training, hyperparameters and checkpoints."""

import pytest

lightning = pytest.importorskip("lightning", exc_type=Exception)

import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from segmentation import LABELS, squares  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN  # noqa: E402

PARAMS = CRFParams(theta_alpha=8, theta_beta=30, theta_gamma=2)


class Segmentation(lightning.LightningModule):
    """A network with a head, whose settings are hyperparameters."""

    def __init__(self, params, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        backbone = torch.nn.Conv2d(3, LABELS, 3, padding=1)
        # your code
        self.model = CRFRNN.wrap(backbone, LABELS, params=params)
        # end

    def training_step(self, batch, index):
        image, labels = batch
        loss = torch.nn.functional.cross_entropy(self.model(image), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        lr = self.hparams.lr
        backbone = {"params": self.model.backbone.parameters(), "lr": lr}
        # your code
        groups = [backbone, *self.model.crf.parameter_groups(lr)]
        # end
        return torch.optim.Adam(groups)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_lightning_module_trains_and_its_checkpoint_is_loaded(precision, tmp_path):
    torch.manual_seed(0)
    module = Segmentation(PARAMS)
    before = module.model.crf.kernel_weights.detach().clone()
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, max_steps=3, accelerator="cpu", precision=precision,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(squares(6, (12, 10)), batch_size=2))
    assert trainer.global_step == 3
    assert (module.model.crf.kernel_weights != before).any()
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    back = Segmentation.load_from_checkpoint(path, weights_only=True)
    assert back.hparams.params == PARAMS
    image = squares(1, (12, 10))[0][0][None]
    with torch.no_grad():
        found, wanted = (m.float().eval().model(image) for m in (back, module))
    assert torch.equal(found, wanted)
