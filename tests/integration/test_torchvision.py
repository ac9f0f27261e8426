"""torchvision's segmentation models, and its reference training loop, unchanged."""

import numpy as np
import pytest

pytest.importorskip("torchvision", exc_type=Exception)

import torch  # noqa: E402
import torchvision  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from segmentation import IMAGENET, LABELS, check, squares  # noqa: E402
from densecrf_rnn import CRFRNN  # noqa: E402


@pytest.mark.parametrize("name, options", [
    ("fcn_resnet50", {"aux_loss": True}),
    ("deeplabv3_mobilenet_v3_large", {}),
    ("lraspp_mobilenet_v3_large", {}),
])
def test_wrap_takes_torchvision_models(name, options):
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, name)
    backbone = make(weights=None, weights_backbone=None, num_classes=LABELS, **options)
    # your code
    model = CRFRNN.wrap(backbone, LABELS, **IMAGENET)
    # end
    outputs = check(model, torch.randn(2, 3, 33, 40))
    assert set(outputs) == {"out"} | ({"aux"} if options else set())


# What references/segmentation of torchvision does, in its words: a criterion over the entries of
# a mapping, an evaluation of its "out", batches that are padded with 0 and 255.


def criterion(inputs, target):
    losses = {
        name: torch.nn.functional.cross_entropy(x, target, ignore_index=255)
        for name, x in inputs.items()
    }
    return losses["out"] if len(losses) == 1 else losses["out"] + 0.5 * losses["aux"]


def cat_list(images, fill):
    size = tuple(max(s) for s in zip(*[image.shape for image in images]))
    batched = images[0].new(len(images), *size).fill_(fill)
    for image, padded in zip(images, batched):
        padded[..., : image.shape[-2], : image.shape[-1]].copy_(image)
    return batched


def collate(batch):
    images, targets = zip(*batch)
    return cat_list(images, 0), cat_list(targets, 255)


def train_one_epoch(model, optimizer, data, scheduler):
    model.train()
    losses = []
    for image, target in data:
        loss = criterion(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def evaluate(model, data):
    model.eval()
    confusion = np.zeros((LABELS, LABELS), int)
    with torch.inference_mode():
        for image, target in data:
            output = model(image)["out"]
            for a, b in zip(target.flatten(), output.argmax(1).flatten(), strict=True):
                if a < LABELS:
                    confusion[a, b] += 1
    return confusion


def test_the_reference_training_of_torchvision_runs_with_a_head():
    torch.manual_seed(0)
    make = torchvision.models.segmentation.fcn_resnet50
    backbone = make(weights=None, weights_backbone=None, num_classes=LABELS, aux_loss=True)
    lr = 0.01
    # your code
    model = CRFRNN.wrap(backbone, LABELS, **IMAGENET, returns="same")
    params = [{"params": model.backbone.parameters()}, *model.crf.parameter_groups(lr)]
    # end
    normalise = v2.Normalize(**IMAGENET)
    examples = [(normalise(x), y) for size in ((33, 40), (36, 32)) for x, y in squares(3, size)]
    data = DataLoader(examples, batch_size=2, collate_fn=collate)
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, len(data), 0.9)
    before = [p.detach().clone() for p in model.crf.parameters()]
    losses = train_one_epoch(model, optimizer, data, scheduler)
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert all((a != b).any() for a, b in zip(before, model.crf.parameters(), strict=True))
    confusion = evaluate(model, DataLoader(examples, collate_fn=collate))
    assert confusion.sum() == sum(y.numel() for _, y in examples)


def test_tensors_of_torchvision_come_in():
    """Such as its transforms v2 return; a model is trained on plain tensors and on them alike."""
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, LABELS, 1)
    # your code
    model = CRFRNN.wrap(backbone, LABELS)
    # end
    image, _ = squares(1, (9, 11))[0]
    given = v2.RandomHorizontalFlip(0)(tv_tensors.Image(image))
    assert isinstance(given, tv_tensors.Image)
    assert torch.equal(torch.as_tensor(model(given[None])), model(image[None]))
