"""What the tests of real packages share: data, and what a model with a head must do."""

import torch

from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD

LABELS = 4
IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def squares(count, size, seed=0):
    """Pairs of an image [3, *size] in 0..1 with noise and its labels [*size] in 0..LABELS-1."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        labels = torch.zeros(size, dtype=torch.long)
        for label in range(1, LABELS):
            corner = [int(torch.randint(0, n // 2, (), generator=generator)) for n in size]
            where = tuple(slice(c, c + n // 3) for c, n in zip(corner, size))
            labels[where] = label
        image = labels / LABELS + 0.1 * torch.randn(3, *size, generator=generator)
        pairs.append((image.clamp(0, 1), labels))
    return pairs


def check(model, image):
    """Refined logits of the image's size, and a gradient for every parameter that is used."""
    model.train()
    refined, outputs = model(image, return_outputs=True)
    assert type(refined) is torch.Tensor
    assert refined.shape == (len(image), LABELS, *image.shape[2:])
    assert refined.isfinite().all()
    target = torch.zeros(len(image), *image.shape[2:], dtype=torch.long)
    torch.nn.functional.cross_entropy(refined, target).backward()
    logits = model._logits(outputs)
    assert not torch.equal(logits, refined)
    first = next(p for p in model.backbone.parameters() if p.requires_grad)
    for parameter in (first, *model.crf.parameters()):
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any()
    with torch.no_grad():
        assert model.eval()(image).shape == refined.shape
    return outputs
