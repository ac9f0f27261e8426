"""The CUDA engine on a GPU: equal to the CPU's, the same bits each time, errors that harm nothing.

Its programs are tested without a GPU too, by the serial launcher: cpp/tests/test_cuda.cpp, and
every test of tensors with the backend "serial".
"""

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

from densecrf_rnn import CRFRNN, BackendUnavailableError, CRFParams, engines  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.ops.kernels import Grid, Kernel, Kernels, Lattice  # noqa: E402
from densecrf_rnn.nn.ops.lattice_build import lattice_build  # noqa: E402
from densecrf_rnn.nn.ops.mean_field import mean_field  # noqa: E402
from densecrf_rnn.params import QUALITIES  # noqa: E402

pytestmark = pytest.mark.skipif(
    engines.why_unavailable("cuda") is not None,
    reason=f"no CUDA engine: {engines.why_unavailable('cuda')}",
)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
SIZES = [(1, 1), (1, 7), (13, 11), (64, 65), (2, 3, 4), (5, 17, 9)]


def mean_field_and_gradients(logits, image, params, device, **options):
    """Everything, on the CPU again: the result and all gradients for one fixed cotangent."""
    labels, dtype = logits.shape[1], logits.dtype
    few = min(1, 6 / labels)  # sums over many labels near those over few
    leaves = [logits, image, make.weights("full", labels, dtype=dtype) * few,
              make.asymmetric(labels, dtype=dtype) * few]
    leaves = [leaf.detach().to(device, copy=True).requires_grad_() for leaf in leaves]
    refined = functional.mean_field(
        *leaves[:2], params, kernel_weights=leaves[2], compatibility=leaves[3], **options
    )
    cotangent = torch.randn(refined.shape, generator=torch.Generator().manual_seed(1)).to(refined)
    return [t.detach().cpu() for t in (refined, *torch.autograd.grad(refined, leaves, cotangent))]


def assert_equal_on_both(logits, image, params, **options):
    tolerance = TOLERANCE[logits.dtype]
    on_cpu = mean_field_and_gradients(logits, image, params, "cpu", **options)
    on_gpu = mean_field_and_gradients(logits, image, params, "cuda", **options)
    for found, wanted in zip(on_gpu, on_cpu, strict=True):
        scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


# --- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("labels", [2, 3, 21, 33, 150])
def test_mean_field_and_gradients_equal_the_cpu_at_awkward_sizes(size, labels, dtype):
    logits, image = make.problem(0, *size, batch=2, labels=labels, dtype=dtype)
    assert_equal_on_both(logits, image, make.small_params(), iterations=3)


@pytest.mark.parametrize("spatial, quality", make.FILTERS)
@pytest.mark.parametrize("normalization", make.NORMALIZATIONS)
@pytest.mark.parametrize("self_term", [True, False])
def test_every_option_equals_the_cpu(normalization, self_term, spatial, quality):
    logits, image = make.problem(1, 14, 9, batch=3)
    options = {"normalization": normalization, "self_term": self_term, "spatial": spatial}
    assert_equal_on_both(logits, image, make.small_params(quality=quality, **options))


@pytest.mark.skipif(
    engines.why_unavailable("serial") is not None,
    reason=f"no serial launcher: {engines.why_unavailable('serial')}",
)
@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_16_bits_are_rounded_as_the_serial_launcher_rounds_them(storage):
    logits, image = make.problem(4, 23, 17, batch=2, labels=5, dtype=torch.float32)
    params, kept = make.small_params(), {"storage": storage}
    wanted = functional.mean_field(logits, image, params, backend="serial", **kept)
    found = functional.mean_field(logits.cuda(), image.cuda(), params, **kept).cpu()
    # A last bit of float32 can tip a rounding, and a few do.
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-2)
    assert (found - wanted).abs().median() < 1e-5


@pytest.mark.parametrize("channels", [1, 4, 14])
def test_images_of_any_channels_equal_the_cpu(channels):
    logits, image = make.problem(2, 9, 8, channels=channels)
    assert_equal_on_both(logits, image, make.small_params())


def test_one_logit_and_no_images_work():
    logits, image = make.problem(3, 6, 7, batch=2, labels=1)
    crf = CRFRNN(1, params=make.small_params()).double()
    on_gpu = crf.cuda()(logits.cuda(), image.cuda()).cpu()
    torch.testing.assert_close(on_gpu, crf.cpu()(logits, image))
    assert crf.cuda()(logits[:0].cuda(), image[:0].cuda()).shape == (0, 1, 6, 7)


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_photograph_of_full_size_equals_the_cpu(quality):
    logits, image = make.problem(4, 240, 250, labels=21, dtype=torch.float32)
    image = image.round()
    params = CRFParams(160, 13, 3, quality=quality)
    on_cpu = functional.mean_field(logits, image, params)
    on_gpu = functional.mean_field(logits.cuda(), image.cuda(), params).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=1e-3)
    assert (on_gpu.argmax(1) == on_cpu.argmax(1)).double().mean() > 0.9999


def test_a_model_trains_under_autocast():
    backbone = torch.nn.Conv2d(3, 4, 3, padding=1)
    model = CRFRNN.wrap(backbone, 4, params=make.small_params()).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            refined = model(torch.rand(2, 3, 15, 16, device="cuda"))
        loss = torch.nn.functional.cross_entropy(refined, refined.new_zeros(2, 15, 16).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# --- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_two_runs_give_the_same_bits(dtype):
    logits, image = make.problem(5, 61, 67, batch=3, labels=21, dtype=dtype)
    params = make.small_params(self_term=False)
    first, second = (mean_field_and_gradients(logits, image, params, "cuda") for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_an_image_gives_the_same_bits_in_any_batch():
    logits, image = make.problem(6, 31, 37, batch=4, labels=5, dtype=torch.float32)
    logits, image = logits.cuda(), image.cuda()
    whole = functional.mean_field(logits, image, make.small_params())
    for chosen in ([0], [3, 1], [2, 2, 0]):
        part = functional.mean_field(logits[chosen], image[chosen], make.small_params())
        assert torch.equal(part, whole[chosen])


def fused_arguments(labels=5):
    """A mean field with its lattice already built, on the GPU."""
    logits = torch.randn(2, labels, 30 * 31, device="cuda")
    lattice = Lattice(*lattice_build(torch.randn(2, 930, 5, device="cuda"), "standard", "cuda"))
    kernel = Kernel(lattice, *[logits.new_empty(0)] * 3)
    grid = Grid([30, 31], [3.0, 3.0], "after", True)
    coupling = torch.randn(2, labels, labels, device="cuda") / 10
    return logits, coupling, Kernels([kernel]).flatten(), *grid


def test_a_mean_field_can_be_captured_in_a_graph():
    arguments = fused_arguments()
    options = (5, False, 2**30, "full", "cuda")
    wanted = mean_field(*arguments, *options)[0]  # which also makes the grid's tables
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = mean_field(*arguments, *options)[0]
    graph.replay()
    assert torch.equal(found, wanted)
    arguments[0].mul_(0.5)
    graph.replay()
    assert torch.equal(found, mean_field(*arguments, *options)[0])


def test_work_is_queued_on_the_current_stream():
    arguments = fused_arguments()
    wanted = mean_field(*arguments, 5, False, 2**30, "full", "cuda")[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = mean_field(*arguments, 5, False, 2**30, "full", "cuda")[0]
    stream.synchronize()
    assert torch.equal(found, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_the_second_gpu_is_used_where_the_tensors_are_there():
    logits, image = make.problem(7, 12, 13)
    before = torch.cuda.current_device()
    found = functional.mean_field(logits.to("cuda:1"), image.to("cuda:1"), make.small_params())
    assert found.device == torch.device("cuda:1") and torch.cuda.current_device() == before
    wanted = functional.mean_field(logits, image, make.small_params())
    torch.testing.assert_close(found.cpu(), wanted)


# --- errors --------------------------------------------------------------------------------------


def works():
    logits, image = (t.cuda() for t in make.problem(8, 5, 6))
    return torch.isfinite(functional.mean_field(logits, image, make.small_params())).all()


@pytest.mark.parametrize("value, name", [(float("nan"), "NaN"), (float("inf"), "infinity")])
@pytest.mark.parametrize("which", ["logits", "image"])
def test_nan_and_infinity_are_refused_by_name(which, value, name):
    given = dict(zip(("logits", "image"), (t.cuda() for t in make.problem(9, 5, 6)), strict=True))
    given[which][0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=f"{which} contains .*{name}"):
        functional.mean_field(**given)
    assert works()


def test_keys_that_overflow_are_refused():
    logits, image = (t.cuda() for t in make.problem(10, 5, 6, dtype=torch.float32))
    with pytest.raises(ValueError, match="can index"):
        functional.mean_field(logits, image * 1e6, CRFParams(theta_beta=1e-3))
    assert works()


def test_engines_refuse_tensors_of_other_devices():
    logits, image = make.problem(11, 5, 6)
    with pytest.raises(BackendUnavailableError, match="compute on tensors that are on cpu"):
        functional.mean_field(logits, image, backend="cuda")
    with pytest.raises(BackendUnavailableError, match="compute on tensors that are on cuda"):
        functional.mean_field(logits.cuda(), image.cuda(), backend="cpu")
    with pytest.raises(ValueError, match="image is on cpu but logits on cuda"):
        functional.mean_field(logits.cuda(), image)
