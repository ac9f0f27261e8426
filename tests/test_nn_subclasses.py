"""Subclasses of Tensor and half precision: what comes in, and that the same kind comes out."""

import copy

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import CRFRNN, kernels  # noqa: E402
from densecrf_rnn.nn import BilateralFilter, functional  # noqa: E402

HALVES = (torch.float16, torch.bfloat16)


class MetaTensor(torch.Tensor):
    """As MONAI's: results inherit attributes, and `new_empty` takes its size as one argument."""

    def __new__(cls, x, **meta):
        return torch.as_tensor(x).as_subclass(cls)

    def __init__(self, x, **meta):
        self.meta, self.applied_operations, self.is_batch = meta, [], True

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        given = next((a for a in args if isinstance(a, MetaTensor) and a.__dict__), None)
        for one in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(one, MetaTensor) and given is not None:
                one.__dict__.update({k: copy.copy(v) for k, v in given.__dict__.items()})
        return found

    def new_empty(self, size, dtype=None, device=None, requires_grad=False):
        plain = self.as_subclass(torch.Tensor)
        return MetaTensor(plain.new_empty(size, dtype=dtype, device=device))

    def new_zeros(self, size, dtype=None, device=None, requires_grad=False):
        return self.new_empty(size, dtype, device).fill_(0)


class TVTensor(torch.Tensor):
    """As torchvision's tv_tensors: all operations but a few return plain tensors."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        kept = func in (torch.Tensor.clone, torch.Tensor.to, torch.Tensor.detach)
        return found.as_subclass(cls) if kept else found


class Blind(torch.Tensor):
    """Supports nothing: whatever is called on it fails."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") == "__get__" or func in (
            torch.Tensor.dim, torch.Tensor.__repr__, torch.Tensor.backward
        ):
            return super().__torch_function__(func, types, args, kwargs or {})
        raise NotImplementedError(func)


KINDS = {"MetaTensor": lambda t: MetaTensor(t, name="case 7"),
         "TVTensor": lambda t: t.as_subclass(TVTensor),
         "Blind": lambda t: t.as_subclass(Blind)}
PATHS = {
    "one operator": {}, "every iteration": {"return_all": True}, "exact": {"method": "exact"},
    "relu": {"update": "relu"}, "maps": {"multilabel": True}, "pruned": {"prune": 0.01},
    "lattices": {"params": make.small_params(spatial="lattice", self_term=False)},
}


def call(logits, image, mask, options):
    """The refined logits, of every iteration if the options say so."""
    options = {"params": make.small_params(), **options}
    found = functional.mean_field(logits, image, mask=mask, **options)
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["logits", "image", "mask", "all"])
@pytest.mark.parametrize("path", PATHS)
def test_subclasses_come_in_and_the_kind_of_the_logits_comes_out(kind, which, path):
    logits, image = make.problem(0, 5, 6, batch=2, dtype=torch.float32)
    given = {"logits": logits, "image": image, "mask": image[:, 0] > 60}
    wanted = call(*given.values(), PATHS[path])
    for name in given if which == "all" else [which]:
        given[name] = KINDS[kind](given[name])
    for found, plain in zip(call(*given.values(), PATHS[path]), wanted, strict=True):
        assert type(found) is type(given["logits"])
        assert torch.equal(undressed(found), plain)


def undressed(tensor):
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


@pytest.mark.parametrize("kind", ["MetaTensor", "TVTensor"])
def test_gradients_reach_subclasses_and_parameters(kind):
    logits, image = make.problem(0, 5, 6, batch=2, dtype=torch.float32)

    def gradients(dress):
        crf = CRFRNN(3, params=make.small_params(), trainable_bandwidths=True)
        given = [t.clone().requires_grad_() for t in (logits, image)]
        crf(*map(dress, given)).sin().sum().backward()
        return [p.grad for p in (*given, *crf.parameters())]

    for found, wanted in zip(gradients(KINDS[kind]), gradients(lambda t: t), strict=True):
        assert torch.equal(undressed(found), wanted)


def test_attributes_are_copied():
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    logits = MetaTensor(logits, affine=torch.eye(4), name="case 7")
    logits.applied_operations.append("Spacing")
    found = CRFRNN(3)(logits, MetaTensor(image, name="another"))
    assert torch.equal(found.meta.pop("affine"), torch.eye(4))
    assert found.meta == {"name": "case 7"} and found.applied_operations == ["Spacing"]
    found.applied_operations.append("CRF")
    assert logits.applied_operations == ["Spacing"] and "affine" in logits.meta


def test_guides_and_refined_logits_may_be_subclasses_and_an_energy_is_plain():
    logits, image = make.problem(0, 5, 6, batch=2, dtype=torch.float32)
    kernel = kernels.Kernel(3.0, 20.0, guide="depth")
    crf = CRFRNN(3, kernels=[kernel])
    options = {"guides": {"depth": MetaTensor(image[:, :1])}, "mask": MetaTensor(image[:, 0] > 60)}
    steps = crf(MetaTensor(logits), image, return_all=True, **options)
    found = crf.free_energy(steps, logits, image, **options)
    plain = {name: undressed(t) if name == "mask" else {"depth": undressed(t["depth"])}
             for name, t in options.items()}
    wanted = crf.free_energy(crf(logits, image, return_all=True, **plain), logits, image, **plain)
    assert type(found) is torch.Tensor and torch.equal(found, wanted)


def test_a_parameter_may_be_the_logits_and_is_none_afterwards():
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    given = [torch.nn.Parameter(t) for t in (logits, image)]
    found = CRFRNN(3)(*given)
    assert type(found) is torch.Tensor
    assert torch.equal(found, CRFRNN(3)(logits, image))
    found.sum().backward()
    assert given[0].grad is not None and given[1].grad is not None


def test_subclasses_go_through_torch_func():
    logits, image = make.problem(0, 5, 6, batch=4, dtype=torch.float32)
    crf = CRFRNN(3, params=make.small_params())
    groups = [t.unflatten(0, (2, 2)) for t in (logits, image)]
    found = torch.func.vmap(crf)(*map(MetaTensor, groups))
    assert torch.equal(undressed(found.flatten(0, 1)), crf(logits, image))

    def loss(x, image):
        return crf(x, image).sin().sum()

    found = torch.func.grad(loss)(logits, MetaTensor(image))
    assert torch.equal(undressed(found), torch.func.grad(loss)(logits, image))


@pytest.mark.parametrize("kind", ["MetaTensor", "TVTensor"])
def test_compiled_layers_take_subclasses_with_a_break_and_name_it(kind):
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    crf, given = CRFRNN(3), [KINDS[kind](t) for t in (logits, image)]
    torch._dynamo.reset()
    found = torch.compile(crf, backend="aot_eager")(*given)
    assert type(found) is type(given[0]) and found.__dict__ == given[0].__dict__
    torch.testing.assert_close(undressed(found), crf(logits, image))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="pass plain tensors to compile a full graph"):
        torch.compile(crf, backend="aot_eager", fullgraph=True)(*given)


def test_wrapped_networks_return_the_kind_of_their_images():
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2)
    image = make.problem(0, 5, 6, dtype=torch.float32)[1] / 255
    found = model(MetaTensor(image, name="case 7"))
    assert isinstance(found, MetaTensor) and found.meta == {"name": "case 7"}
    assert torch.equal(undressed(found), model(image))


# --- half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("path", PATHS)
def test_half_precision_is_computed_in_float32_and_returned_in_its_own_dtype(dtype, path):
    logits, image = make.problem(0, 5, 6, batch=2, dtype=dtype)
    for mask in (None, image[:, 0] > 60):
        wanted = call(logits.float(), image, mask, PATHS[path])
        for found, wide in zip(call(logits, image, mask, PATHS[path]), wanted, strict=True):
            assert found.dtype == dtype and torch.equal(found, wide.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("head", ["float32", "the same"])
def test_a_head_may_be_of_half_precision_or_not(dtype, head):
    logits, image = make.problem(0, 5, 6, batch=2, dtype=dtype)
    crf = CRFRNN(3, params=make.small_params(w_bilateral=1.5), trainable_bandwidths=True)
    wide = copy.deepcopy(crf)
    if head == "the same":
        crf = crf.to(dtype)
        wide = copy.deepcopy(crf).float()
    logits, again = logits.clone().requires_grad_(), logits.float().requires_grad_()
    found, wanted = crf(logits, image), wide(again, image.float())
    assert found.dtype == dtype and torch.equal(found, wanted.to(dtype))
    for out in (found, wanted):
        out.backward(torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(dtype).to(out.dtype))
    for p, q in zip((logits, *crf.parameters()), (again, *wide.parameters()), strict=True):
        assert p.grad.dtype == p.dtype
        torch.testing.assert_close(p.grad.float(), q.grad, rtol=0.02, atol=1e-3)
    assert (crf.log_bandwidths.grad != 0).any()


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rounds_no_initial_bandwidth(dtype):
    params = make.small_params(theta_alpha=160.7, theta_beta=70000.7)
    crf, again = (CRFRNN(3, params=params, trainable_bandwidths=True) for _ in range(2))
    with torch.no_grad():
        crf.log_bandwidths += 0.3
    wanted = crf.to(dtype).bandwidths
    assert crf.bandwidths.isfinite().all() and wanted.dtype == torch.float32
    again.load_state_dict(crf.state_dict())
    copied = copy.deepcopy(crf).float()
    for other in (again, copied, crf.double().float()):
        assert torch.equal(other.bandwidths, wanted)
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    assert torch.equal(again(logits, image), copied(logits, image))
    assert crf.to(dtype)(logits.to(dtype), image.to(dtype)).isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rounds_no_bandwidth_of_a_bilateral_filter(dtype):
    layer = BilateralFilter(160.7, (0.123, 70000.7)).to(dtype)
    assert layer.log_guide.dtype == dtype
    assert layer.theta_position.item() == pytest.approx(160.7)
    assert layer.float().theta_guide.tolist() == pytest.approx([0.123, 70000.7])
    other = BilateralFilter(160.7, (0.123, 70000.7))
    other.load_state_dict(layer.to(dtype).state_dict())
    assert torch.equal(other.theta_guide, layer.theta_guide)


@pytest.mark.parametrize("dtype", HALVES)
def test_no_iteration_returns_half_precision_that_is_not_the_input(dtype):
    logits, image = make.problem(0, 5, 6, dtype=dtype)
    found = CRFRNN(3, iterations=0)(logits, image)
    assert torch.equal(found, logits) and found.data_ptr() != logits.data_ptr()


@pytest.mark.parametrize("dtype", HALVES)
def test_the_head_of_a_model_in_half_precision_sees_the_image_to_its_own_precision(dtype):
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, mean=0.485, std=0.229, scale=65535.0)
    image = torch.randn(1, 3, 5, 6).to(dtype)
    model(image.float())
    wanted = model._guide(image.float())
    for kind in (dtype, torch.float32):
        model.to(kind)
        assert torch.equal(model._guide(image), wanted) and wanted.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_a_whole_model_in_half_precision_trains(dtype):
    torch.manual_seed(0)
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, params=make.small_params()).to(dtype)
    image = make.problem(0, 5, 6, batch=2, dtype=torch.float32)[1].to(dtype) / 255
    model(image).float().square().mean().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())
    assert all((p.grad != 0).any() for p in model.parameters())


def test_the_energy_of_half_precision_does_not_overflow():
    logits, image = make.problem(0, 64, 64, dtype=torch.float16)
    logits, crf = 100 * logits, CRFRNN(3)
    found = crf.free_energy(crf(logits, image), logits, image)
    assert found.dtype == torch.float32 and found.abs() > torch.finfo(torch.float16).max


def test_half_precision_compiles_into_one_graph():
    logits, image = make.problem(0, 5, 6, dtype=torch.bfloat16)
    crf = CRFRNN(3, params=make.small_params())
    torch._dynamo.reset()
    found = torch.compile(crf, backend="aot_eager", fullgraph=True)(logits, image)
    assert torch.equal(found, crf(logits, image))
