"""Hydra: a head that a configuration describes."""

import pytest

hydra = pytest.importorskip("hydra", exc_type=Exception)

import torch  # noqa: E402
from hydra.utils import instantiate  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from densecrf_rnn import CRFParams, CRFRNN  # noqa: E402

CONFIG = """
_target_: densecrf_rnn.CRFRNN
num_classes: 4
iterations: 3
params:
  _target_: densecrf_rnn.CRFParams
  theta_alpha: 30
  theta_beta: [5, 5, 5]
"""


def test_hydra_makes_a_head():
    crf = instantiate(OmegaConf.create(CONFIG))
    wanted = CRFRNN(4, iterations=3, params=CRFParams(theta_alpha=30, theta_beta=(5, 5, 5)))
    assert repr(crf) == repr(wanted)
    logits, image = torch.randn(1, 4, 6, 7), torch.rand(1, 3, 6, 7) * 255
    assert torch.equal(crf(logits, image), wanted(logits, image))


def test_hydra_makes_a_model_with_lists():
    config = OmegaConf.create("""
    backbone: {_target_: torch.nn.Conv2d, in_channels: 3, out_channels: 4, kernel_size: 1}
    # your code
    _target_: densecrf_rnn.CRFRNN.wrap
    num_classes: 4
    mean: [0.4, 0.5, 0.6]
    std: [0.2, 0.2, 0.3]
    # end
    """)
    model = instantiate(config)
    assert torch.equal(model.mean, torch.tensor([0.4, 0.5, 0.6]))
    assert model(torch.rand(1, 3, 6, 7)).shape == (1, 4, 6, 7)
