"""Models, losses and metrics of segmentation_models_pytorch."""

import pytest

smp = pytest.importorskip("segmentation_models_pytorch", exc_type=Exception)

import torch  # noqa: E402

from segmentation import IMAGENET, LABELS, check, squares  # noqa: E402
from densecrf_rnn import CRFRNN  # noqa: E402


@pytest.mark.parametrize("name", ["Unet", "DeepLabV3Plus", "Segformer"])
def test_wrap_takes_models_of_segmentation_models_pytorch(name):
    torch.manual_seed(0)
    encoder = "mit_b0" if name == "Segformer" else "resnet18"
    backbone = getattr(smp, name)(encoder, encoder_weights=None, classes=LABELS)
    # your code
    model = CRFRNN.wrap(backbone, LABELS, **IMAGENET)
    # end
    check(model, torch.randn(2, 3, 64, 64))


def test_wrap_takes_models_with_a_second_output():
    torch.manual_seed(0)
    backbone = smp.Unet(
        "resnet18", encoder_weights=None, classes=LABELS, aux_params={"classes": 2}
    )
    # your code
    model = CRFRNN.wrap(backbone, LABELS, **IMAGENET, pick=lambda outputs: outputs[0])
    # end
    assert check(model, torch.randn(2, 3, 64, 64))[1].shape == (2, 2)


def targets(mode, labels):
    """Labels [B, H, W] as the losses of a mode take them."""
    if mode == "multiclass":
        return labels
    if mode == "binary":
        return (labels > 0).long()[:, None]
    return torch.stack([labels >= label for label in range(LABELS)], 1).long()  # nested regions


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_losses_and_metrics_of_every_mode_take_the_refined_logits(mode):
    torch.manual_seed(0)
    classes = 1 if mode == "binary" else LABELS
    backbone = smp.Unet("resnet18", encoder_weights=None, classes=classes)
    # your code
    model = CRFRNN.wrap(backbone, classes, multilabel=mode == "multilabel")
    # end
    image, labels = (torch.stack(x) for x in zip(*squares(2, (64, 64))))
    target = targets(mode, labels)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(3):
        logits = model(image)
        made = smp.losses.DiceLoss(mode), smp.losses.FocalLoss(mode)
        loss = sum(one(logits, target) for one in made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (model.crf.kernel_weights.grad != 0).any()
    found = logits.argmax(1) if mode == "multiclass" else logits.sigmoid()
    options = {"num_classes": LABELS} if mode == "multiclass" else {"threshold": 0.5}
    scores = smp.metrics.get_stats(found, target, mode=mode, **options)
    assert 0 <= smp.metrics.iou_score(*scores, reduction="micro") <= 1
