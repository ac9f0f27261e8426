"""CRFRNN.wrap behind outputs as other packages have them; tests/integration has the packages."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFRNN, unaries  # noqa: E402

LABELS = 4


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


@pytest.mark.parametrize("value", [-torch.inf, torch.inf])
@pytest.mark.parametrize("guided", [False, True])
def test_infinite_logits_of_another_size_than_the_image_are_named(value, guided):
    def masked(x):
        x = x[..., ::2, ::2].clone()
        x[:, 0, :2] = value
        return x

    model, image = CRFRNN.wrap(Returning(masked), LABELS), torch.rand(2, 3, 6, 8)
    options = {"guide": 255 * image} if guided else {}
    words = r"the backbone's logits contain infinity \(16 entries\), so they cannot be interpolated"
    with pytest.raises(ValueError, match=words):
        model(image, **options)
    value = -1e4  # the way out
    assert (model(image, **options)[:, 0, :4] < -1e3).all()


def test_nan_of_a_backbone_is_named_whatever_the_size_of_its_logits():
    model = CRFRNN.wrap(Returning(lambda x: (x * torch.nan)[..., ::2, ::2]), LABELS)
    with pytest.raises(ValueError, match="logits contains NaN .*check the computation"):
        model(torch.rand(1, 3, 6, 8))


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


# --- returns="same" ------------------------------------------------------------------------------

Pair = namedtuple("Pair", "logits hidden_states")


class Outputs(OrderedDict):
    """As the outputs of transformers: a dictionary whose entries are attributes too."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        setattr(self, key, value)


@pytest.mark.parametrize("container, get", [
    (lambda x: x, lambda out: out),
    (lambda x: OrderedDict(out=x, aux=x + 1), lambda out: out["out"]),
    (lambda x: {"loss": None, "logits": x}, lambda out: out["logits"]),
    (lambda x: SimpleNamespace(logits=x, hidden_states=None), lambda out: out.logits),
    (lambda x: Pair(x, None), lambda out: out.logits),
    (lambda x: Outputs(loss=None, logits=x), lambda out: out.logits),
    (lambda x: Outputs(loss=None, logits=x), lambda out: out["logits"]),
], ids=["tensor", "out", "logits", "object", "named tuple", "attribute", "entry"])
def test_same_returns_the_outputs_of_the_backbone_with_refined_logits(container, get):
    image = torch.rand(2, 3, 6, 7)
    wanted = CRFRNN.wrap(Returning(container), LABELS)(image)
    model = CRFRNN.wrap(Returning(container), LABELS, returns="same")
    found, outputs = model(image, return_outputs=True)
    assert type(found) is type(outputs)
    assert torch.equal(get(found), wanted)
    assert torch.equal(get(outputs), get(model.backbone(image)))  # not modified
    assert not torch.equal(get(outputs), wanted)
    if isinstance(found, dict):
        assert list(found) == list(outputs)
        assert all(found[key] is outputs[key] for key in found if key not in ("out", "logits"))


def test_same_trains_as_the_training_loop_of_torchvision_does():
    """Its criterion takes a loss of every entry, and its evaluation reads "out"."""
    model = CRFRNN.wrap(Returning(lambda x: OrderedDict(out=x, aux=2 * x)), LABELS, returns="same")
    losses = {
        name: torch.nn.functional.cross_entropy(x, torch.zeros(1, 6, 7).long(), ignore_index=255)
        for name, x in model(torch.rand(1, 3, 6, 7)).items()
    }
    (losses["out"] + 0.5 * losses["aux"]).backward()
    for parameter in (model.crf.kernel_weights, model.backbone.layer.weight):
        assert (parameter.grad != 0).any()


@pytest.mark.parametrize("container", [
    lambda x: x, lambda x: {"logits": x, "loss": None}, lambda x: OrderedDict(aux=x + 1, out=x)
], ids=["tensor", "dict", "ordered"])
def test_same_compiles_into_one_graph(container):
    model = CRFRNN.wrap(Returning(container), LABELS, returns="same")
    image = torch.rand(1, 3, 6, 7)
    torch._dynamo.reset()
    found = torch.compile(model, fullgraph=True, backend="eager")(image)
    wanted = model(image)
    assert type(found) is type(wanted)
    torch.testing.assert_close(found, wanted)


def test_same_is_refused_where_there_is_no_place_for_logits():
    with pytest.raises(ValueError, match="returns is 'all'; choose from 'logits', 'same'"):
        CRFRNN.wrap(Returning(CONTAINERS["tensor"]), LABELS, returns="all")
    with pytest.raises(ValueError, match="returns is 'same' but pick is given"):
        CRFRNN.wrap(Returning(CONTAINERS["tensor"]), LABELS, returns="same", pick=lambda x: x)
    model = CRFRNN.wrap(Returning(of_queries), LABELS, returns="same")
    with pytest.raises(TypeError, match="SimpleNamespace, which has no place for refined logits"):
        model(torch.rand(1, 3, 6, 7))


def of_queries(x):
    """Outputs as those of MaskFormer, with a query per label."""
    classes = 5 * torch.eye(LABELS, LABELS + 1).expand(len(x), -1, -1)
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=x)


def test_wrap_finds_logits_in_queries_and_trains_the_backbone():
    image = torch.rand(2, 3, 6, 7)
    model = CRFRNN.wrap(Returning(of_queries), LABELS)
    refined, outputs = model(image, return_outputs=True)
    assert torch.equal(refined, model.crf(unaries.from_queries(outputs), image * 255))
    refined[:, 0].sum().backward()
    assert (model.backbone.layer.weight.grad != 0).all()
