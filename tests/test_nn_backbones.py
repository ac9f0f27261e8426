"""CRFRNN.wrap behind the networks of other packages, small and randomly initialised."""

import importlib
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFRNN  # noqa: E402
from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402

LABELS = 4
IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def package(name):
    """A package, or a skip; one built for another torch fails with more than ImportError."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} is not usable here: {type(error).__name__}: {error}")


class Returning(torch.nn.Module):
    """A backbone that hands its logits over in some container."""

    def __init__(self, container):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, LABELS, 1)
        self.container = container

    def forward(self, image):
        return self.container(self.layer(image))


CONTAINERS = {
    "tensor": lambda x: x,
    "dict with out": lambda x: {"aux": x + 1, "out": x},
    "dict with logits": lambda x: {"loss": None, "logits": x},
    "object with logits": lambda x: SimpleNamespace(logits=x, hidden_states=None),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_wrap_finds_the_logits_in(container):
    image = torch.rand(2, 3, 6, 7)
    wanted = CRFRNN.wrap(Returning(CONTAINERS["tensor"]), LABELS)(image)
    model = CRFRNN.wrap(Returning(CONTAINERS[container]), LABELS)
    assert torch.equal(model(image), wanted)
    refined, outputs = model(image, return_outputs=True)
    assert torch.equal(refined, wanted)
    assert isinstance(outputs, type(CONTAINERS[container](image)))


def test_wrap_hands_over_the_other_outputs_as_they_are_and_they_train():
    model = CRFRNN.wrap(Returning(CONTAINERS["dict with out"]), LABELS)
    refined, outputs = model(torch.rand(1, 3, 6, 7), return_outputs=True)
    assert torch.equal(outputs["aux"], outputs["out"] + 1)
    assert not torch.equal(outputs["out"], refined)
    gradient, = torch.autograd.grad(outputs["aux"].sum(), model.backbone.layer.bias)
    assert torch.equal(gradient, torch.full((LABELS,), 42.0))


def test_wrap_picks_logits_out_of_anything_with_a_function():
    image = torch.rand(1, 3, 6, 7)
    wanted = CRFRNN.wrap(Returning(CONTAINERS["tensor"]), LABELS)(image)
    model = CRFRNN.wrap(Returning(lambda x: (0, [x])), LABELS, pick=lambda out: out[1][0])
    assert torch.equal(model(image), wanted)


@pytest.mark.parametrize("container, message", [
    (lambda x: (x, x), "returned tuple; .* pass pick="),
    (lambda x: {"masks": x}, "returned dict with 'masks'; .* pass pick="),
    (lambda x: {}, "returned dict with no entries"),
    (lambda x: None, "returned NoneType"),
])
def test_wrap_refuses_outputs_in_which_it_finds_no_logits(container, message):
    with pytest.raises(TypeError, match=message):
        CRFRNN.wrap(Returning(container), LABELS)(torch.rand(1, 3, 6, 7))


def test_wrap_refuses_a_pick_that_finds_no_tensor():
    with pytest.raises(TypeError, match="pick is int; it must be a function"):
        CRFRNN.wrap(Returning(CONTAINERS["tensor"]), LABELS, pick=0)
    model = CRFRNN.wrap(Returning(CONTAINERS["tensor"]), LABELS, pick=lambda out: [out])
    with pytest.raises(TypeError, match="returned list from pick"):
        model(torch.rand(1, 3, 6, 7))


def test_wrap_refuses_logits_of_another_number_of_axes():
    """Such as those of deep supervision, stacked."""
    model = CRFRNN.wrap(Returning(lambda x: x[:, None]), LABELS)
    with pytest.raises(ValueError, match=r"logits have shape \(1, 1, 4, 6, 7\).*pick="):
        model(torch.rand(1, 3, 6, 7))


# --- other packages ------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name, options", [
    ("fcn_resnet50", {"aux_loss": True}),
    ("deeplabv3_mobilenet_v3_large", {}),
    ("lraspp_mobilenet_v3_large", {}),
])
def test_wrap_takes_torchvision_models(name, options):
    segmentation = package("torchvision.models.segmentation")
    torch.manual_seed(0)
    make = getattr(segmentation, name)
    backbone = make(weights=None, weights_backbone=None, num_classes=LABELS, **options)
    outputs = check(CRFRNN.wrap(backbone, LABELS, **IMAGENET), torch.randn(2, 3, 33, 40))
    assert set(outputs) == {"out"} | ({"aux"} if options else set())


@pytest.mark.parametrize("name", ["Unet", "DeepLabV3Plus", "Segformer"])
def test_wrap_takes_models_of_segmentation_models_pytorch(name):
    smp = package("segmentation_models_pytorch")
    torch.manual_seed(0)
    encoder = "mit_b0" if name == "Segformer" else "resnet18"
    backbone = getattr(smp, name)(encoder, encoder_weights=None, classes=LABELS)
    check(CRFRNN.wrap(backbone, LABELS, **IMAGENET), torch.randn(2, 3, 64, 64))


def test_wrap_takes_segformer_of_hugging_face():
    transformers = package("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16, num_labels=LABELS,
    )
    backbone = transformers.SegformerForSemanticSegmentation(config)
    outputs = check(CRFRNN.wrap(backbone, LABELS, **IMAGENET), torch.randn(2, 3, 35, 42))
    assert outputs.logits.shape[2:] == (9, 11)  # a quarter of the image


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 12)])
def test_wrap_takes_unets_of_monai(size):
    nets = package("monai.networks.nets")
    torch.manual_seed(0)
    backbone = nets.UNet(
        spatial_dims=len(size), in_channels=2, out_channels=LABELS, channels=(4, 8), strides=(2,)
    )
    check(CRFRNN.wrap(backbone, LABELS, scale=1), torch.randn(2, 2, *size))
