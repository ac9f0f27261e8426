"""Engine "torch" on each device that torch finds here: equal to the CPU engine, same bits each run.

Everything runs on the CPU too, where the same code serves; benchmarks/gpu_day.py runs it on a GPU.
"""

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, GibbsCRF  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.ops.lattice_build import lattice_build  # noqa: E402
from densecrf_rnn.nn.ops.lattice_filter import lattice_filter  # noqa: E402
from densecrf_rnn.nn.ops.lattice_self_response import lattice_self_response  # noqa: E402
from densecrf_rnn.params import QUALITIES  # noqa: E402

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def is_there(device):
    module = getattr(torch, device, None)
    return device == "cpu" or (module is not None and module.is_available())


@pytest.fixture(params=["cpu", "cuda", "mps", "xpu"])
def device(request):
    if not is_there(request.param):
        pytest.skip(f"no {request.param} device")
    return request.param


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request, device):
    if device == "mps" and request.param == torch.float64:
        pytest.skip("mps has no float64")
    return request.param


def close(found, wanted, tolerance):
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=tolerance * scale)


def everything(logits, image, params, device, backend, **options):
    """The refined logits and all gradients for one fixed cotangent."""
    labels, dtype = logits.shape[1], logits.dtype
    few = min(1, 6 / labels)  # sums over many labels near those over few
    leaves = [logits, image, make.weights("full", labels, dtype=dtype) * few,
              make.asymmetric(labels, dtype=dtype) * few]  # fmt: skip
    leaves = [leaf.detach().to(device, copy=True).requires_grad_() for leaf in leaves]
    refined = functional.mean_field(
        *leaves[:2], params, kernel_weights=leaves[2], compatibility=leaves[3], backend=backend,
        **options,
    )  # fmt: skip
    cotangent = torch.randn(refined.shape, generator=torch.Generator().manual_seed(1)).to(refined)
    return [t.detach() for t in (refined, *torch.autograd.grad(refined, leaves, cotangent))]


def assert_equals_the_cpu_engine(device, logits, image, params, **options):
    mask = options.pop("mask", None)
    ways = {}
    for where, backend in ((device, "torch"), ("cpu", "cpu")):
        given = {} if mask is None else {"mask": mask.to(where)}
        ways[backend] = everything(logits, image, params, where, backend, **given, **options)
    for found, wanted in zip(ways["torch"], ways["cpu"], strict=True):
        assert found.device.type == device
        close(found, wanted, TOLERANCE[logits.dtype])


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("dims", [1, 2, 3, 5, 8])
def test_filters_equal_those_of_the_cpu_engine(device, dtype, dims, quality):
    generator = torch.Generator().manual_seed(dims)
    features = 3 * torch.randn(2, 131, dims, generator=generator, dtype=torch.float64).to(dtype)
    values = torch.randn(2, 131, 4, generator=generator, dtype=torch.float64).to(dtype)
    found = lattice_build(features.to(device), quality, "torch")
    wanted = lattice_build(features, quality, "cpu")
    close(found[1], wanted[1], TOLERANCE[dtype])  # barycentric weights
    close(lattice_self_response(list(found), "torch"), lattice_self_response(list(wanted), "cpu"),
          TOLERANCE[dtype])  # fmt: skip
    for transpose in (False, True):
        close(lattice_filter(values.to(device), list(found), transpose, "torch"),
              lattice_filter(values, list(wanted), transpose, "cpu"), TOLERANCE[dtype])  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 11), (64, 65), (2, 3, 4), (5, 17, 9)])
@pytest.mark.parametrize("labels", [2, 21])
def test_mean_field_and_gradients_equal_the_cpu_engine(device, dtype, labels, size):
    logits, image = make.problem(0, *size, batch=2, labels=labels, dtype=dtype)
    assert_equals_the_cpu_engine(device, logits, image, make.small_params(), iterations=3)


@pytest.mark.parametrize("options", [
    {"normalization": "none"}, {"normalization": "symmetric"}, {"normalization": "before"},
    {"self_term": False}, {"spatial": "lattice"}, {"quality": "symmetric"},
    {"quality": "filled", "spatial": "lattice"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("masked", [False, True])
def test_options_equal_the_cpu_engine(device, masked, options):
    logits, image = make.problem(1, 14, 9, batch=3)
    more = {"mask": torch.rand(3, 14, 9, generator=torch.Generator().manual_seed(2)) < 0.6}
    if device == "mps":
        logits, image = logits.float(), image.float()
    assert_equals_the_cpu_engine(
        device, logits, image, make.small_params(**options), **(more if masked else {})
    )


def test_overlapping_regions_equal_the_cpu_engine(device):
    logits, image = make.problem(2, 12, 17, batch=2, dtype=torch.float32)
    crf = CRFRNN(3, params=make.small_params(), multilabel=True)
    wanted = crf(logits, image)
    crf = CRFRNN(3, params=make.small_params(), multilabel=True, backend="torch").to(device)
    close(crf(logits.to(device), image.to(device)), wanted, 1e-4)


def test_two_runs_give_the_same_bits(device, dtype):
    logits, image = make.problem(5, 61, 67, batch=3, labels=21, dtype=dtype)
    params = make.small_params(self_term=False)
    first, second = (everything(logits, image, params, device, "torch") for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_a_photograph_of_full_size_equals_the_cpu_engine(device):
    logits, image = make.problem(4, 240, 250, labels=21, dtype=torch.float32)
    image, params = image.round(), CRFParams(160, 13, 3)
    wanted = functional.mean_field(logits, image, params, backend="cpu", warn=False)
    found = functional.mean_field(
        logits.to(device), image.to(device), params, backend="torch", warn=False
    )
    close(found, wanted, 1e-4)
    assert (found.cpu().argmax(1) == wanted.argmax(1)).double().mean() > 0.9999


def test_values_that_are_not_finite_and_keys_that_overflow_are_refused(device):
    logits, image = make.problem(9, 5, 6, dtype=torch.float32)
    logits, image = logits.to(device), image.to(device)
    wrong = logits.clone()
    wrong[0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="logits contains .*NaN"):
        functional.mean_field(wrong, image, backend="torch")
    with pytest.raises(ValueError, match="can index"):
        functional.mean_field(logits, image * 1e6, CRFParams(theta_beta=1e-3), backend="torch")
    assert torch.isfinite(functional.mean_field(logits, image, backend="torch")).all()


def test_a_model_trains_under_autocast(device):
    backbone = torch.nn.Conv2d(3, 4, 3, padding=1)
    model = CRFRNN.wrap(backbone, 4, params=make.small_params(), backend="torch").to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images = torch.rand(2, 3, 15, 16, generator=torch.Generator().manual_seed(0)).to(device)
    losses = []
    for _ in range(3):
        with torch.autocast(device, torch.bfloat16):
            refined = model(images)
        loss = torch.nn.functional.cross_entropy(refined, refined.new_zeros(2, 15, 16).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_gibbs_sampling_gives_the_samples_of_the_cpu(device):
    crf = GibbsCRF(3, [(0, 1), (1, 0)])
    with torch.no_grad():
        crf.tables.copy_(torch.eye(3).expand(2, 3, 3))
    logits = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    wanted = crf(logits)
    close(crf.to(device)(logits.to(device)), wanted, 1e-5)


@pytest.mark.skipif(not is_there("cuda"), reason="no cuda device")
def test_a_compiled_mean_field_equals_the_eager_one_on_a_gpu():
    # A compiler rounds features otherwise. Where a point lies on a face of a simplex, that decides
    # which vertices exist, so a few values near it differ by more than rounding, in any precision.
    logits, image = (t.cuda() for t in make.problem(6, 33, 31, labels=5))
    crf = CRFRNN(5, params=make.small_params(), backend="torch").double().cuda().eval()
    with torch.no_grad():
        wanted = crf(logits, image)
        gap = (torch.compile(crf)(logits, image) - wanted).abs()
    assert gap.quantile(0.95) < 1e-3 and gap.max() < 0.05
