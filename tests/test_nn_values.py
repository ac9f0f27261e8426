"""Values that the layer refuses, with one sentence on every path, engine and in compiled graphs."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFParams, kernels  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.stepwise import _relu_marginals  # noqa: E402

LABELS, STEPS, SIZE = 3, 2, (4, 5)
HERE = (1, 1, 2, 3)  # an entry of the second image
NAN, INF = float("nan"), float("inf")


def mean_field(inputs, **options):
    logits, image, kernel_weights, compatibility, bandwidths = inputs
    if options.get("multilabel"):
        compatibility = None
    elif not options.get("tied", True):
        kernel_weights = kernel_weights.expand(STEPS, *kernel_weights.shape)
        compatibility = compatibility.expand(STEPS, *compatibility.shape)
    options = {"iterations": STEPS, "bandwidths": bandwidths, **options}
    out = functional.mean_field(
        logits, image, kernel_weights=kernel_weights, compatibility=compatibility, warn=False,
        **options,
    )  # fmt: skip
    return out[-1] if isinstance(out, list) else out


def free_energy(inputs, **options):
    logits, image, kernel_weights, compatibility, _ = inputs
    return functional.free_energy(
        torch.zeros_like(logits), logits, image, kernel_weights=kernel_weights,
        compatibility=compatibility, **options,
    )  # fmt: skip


def energy_of_refined(inputs, **options):
    logits, image, *_ = inputs
    return functional.free_energy(logits, torch.zeros_like(logits), image, **options)


PATHS = {
    "plain": (mean_field, {}),
    "no iteration": (mean_field, {"iterations": 0}),
    "untied": (mean_field, {"tied": False}),
    "return_all": (mean_field, {"return_all": True}),
    "relu": (mean_field, {"update": "relu"}),
    "multilabel": (mean_field, {"multilabel": True}),
    "multilabel relu": (mean_field, {"multilabel": True, "update": "relu"}),
    "mask": (mean_field, {"mask": torch.ones(2, *SIZE, dtype=torch.bool)}),
    "mask relu": (mean_field, {"mask": torch.ones(2, *SIZE, dtype=torch.bool), "update": "relu"}),
    "exact": (mean_field, {"method": "exact"}),
    "energy": (free_energy, {}),
    "exact energy": (free_energy, {"method": "exact"}),
}
NAMES = ("logits", "image", "kernel_weights", "compatibility", "bandwidths")
# What is set, to what, and how the sentence begins.
BAD = [
    ("logits", HERE, NAN, "logits contains NaN (1 entry); every entry must be a number"),
    ("logits", HERE, INF, "logits contains +infinity; to fix a label"),
    ("logits", (1, slice(None), 2, 3), -INF, "logits is -infinity for every label at 1 pixels"),
    ("image", HERE, NAN, "image contains NaN (1 entry)"),
    ("image", HERE, -INF, "image contains infinity"),
    ("image", HERE, 1e31, "image reaches 1e+31; intensities must lie within 1e30"),
    ("kernel_weights", (1,), NAN, "kernel_weights contains NaN (1 entry)"),
    ("kernel_weights", (1,), INF, "kernel_weights contains infinity"),
    ("kernel_weights", (1,), 1e38, "a kernel weight times the compatibility is 1e+38"),
    ("compatibility", (0, 1), NAN, "compatibility contains NaN (1 entry)"),
    ("bandwidths", (1, 0), NAN, "bandwidths contains NaN (1 entry)"),
    ("bandwidths", (0, 1), INF, "bandwidths contains infinity"),
    ("bandwidths", (0, 1), -2.0, "bandwidths holds -2; they must be positive"),
]


def good():
    draw = torch.Generator().manual_seed(0)
    return [
        3 * torch.randn(2, LABELS, *SIZE, generator=draw),
        255 * torch.rand(2, 3, *SIZE, generator=draw),
        torch.ones(2), 1 - torch.eye(LABELS), torch.tensor([[9.0, 9.0], [2.0, 1.0]]),
    ]  # fmt: skip


def bad_inputs(path):
    """Yield inputs with one bad value each, and how the sentence begins."""
    call, options = PATHS[path]
    for name, where, value, sentence in BAD:
        if name == "bandwidths" and call is free_energy:
            continue
        if options.get("multilabel") and (name == "compatibility" or where == BAD[2][1]):
            continue  # maps take none; -infinity at all of them is background
        inputs = good()
        inputs[NAMES.index(name)][where] = value
        yield inputs, sentence


def only_torch(backend):
    if backend != "cpu":
        pytest.skip("the exact method runs in torch")
    return "auto"


def sentence_of(call, inputs, **options):
    try:
        call(inputs, **options)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


@pytest.mark.parametrize("path", PATHS)
def test_bad_values_are_refused_with_one_sentence_on_every_path(path, backend):
    call, options = PATHS[path]
    if options.get("method") == "exact":
        backend = only_torch(backend)
    assert torch.isfinite(call(good(), backend=backend, **options)).all()
    for inputs, sentence in bad_inputs(path):
        assert sentence_of(call, inputs, backend=backend, **options).startswith(sentence)


@pytest.mark.parametrize("path", ["plain", "untied", "relu", "multilabel", "exact", "energy"])
def test_compiled_graphs_refuse_the_same_values(path, backend):
    call, options = PATHS[path]
    if path not in {"numba": ("plain",), "serial": ("plain", "relu")}.get(backend, PATHS):
        pytest.skip("as on the other engines")
    if options.get("method") == "exact":
        backend = only_torch(backend)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda inputs: call(inputs, backend=backend, **options), backend="eager", fullgraph=True
    )
    expected = call(good(), backend=backend, **options)
    torch.testing.assert_close(compiled(good()), expected)
    for inputs, sentence in bad_inputs(path):
        assert sentence_of(compiled, inputs).startswith(sentence)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_storage_in_16_bits_refuses_the_same_values(storage, backend):
    if backend != "serial":
        pytest.skip("for devices alone")
    torch._dynamo.reset()

    def eager(inputs):
        return mean_field(inputs, storage=storage, backend=backend)

    compiled = torch.compile(eager, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(good()), eager(good()))
    for inputs, sentence in bad_inputs("plain"):
        for call in (eager, compiled):
            assert sentence_of(call, inputs).startswith(sentence)


@pytest.mark.parametrize("path", ["relu", "untied"])
def test_checks_leave_the_gradients_of_compiled_graphs_as_they_are(path):
    call, options = PATHS[path]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda inputs: call(inputs, **options), backend="aot_eager", fullgraph=True
    )
    leaves = [tensor.requires_grad_() for tensor in good()]
    expected, got = (
        torch.autograd.grad(one(leaves).square().sum(), leaves) for one in (
            lambda inputs: call(inputs, **options), compiled
        )
    )  # fmt: skip
    torch.testing.assert_close(got, expected)


def test_compiled_graphs_refuse_refined_logits_that_are_not_numbers():
    torch._dynamo.reset()
    compiled = torch.compile(energy_of_refined, backend="eager", fullgraph=True)
    inputs = good()
    inputs[0][HERE] = NAN
    for call in (energy_of_refined, compiled):
        assert sentence_of(call, inputs).startswith("refined contains NaN (1 entry)")


@pytest.mark.parametrize("path", ["plain", "untied", "return_all", "relu", "exact", "energy"])
def test_values_outside_the_mask_are_free(path):
    call, options = PATHS[path]
    mask = torch.ones(2, *SIZE, dtype=torch.bool)
    mask[1, 2, 3] = False
    expected = call(good(), mask=mask, **options)
    for values in ((NAN, NAN), (INF, INF), (-INF, 1e38)):
        inputs = good()
        inputs[0][1, :, 2, 3], inputs[1][1, :, 2, 3] = values
        got = call(inputs, mask=mask, **options)
        if got.dim() == 1:  # energies
            assert torch.equal(got, expected)
        else:
            inside = mask[:, None].expand_as(got)
            assert torch.equal(got[inside], expected[inside])


def test_a_wide_image_is_judged_before_it_is_narrowed():
    inputs = good()
    inputs[1] = inputs[1].double()
    inputs[1][HERE] = 1e200
    assert sentence_of(mean_field, inputs).startswith("image reaches 1e+200; intensities must lie")


def test_guides_that_no_kernel_uses_may_hold_anything():
    logits, image, *_ = good()
    image[HERE] = NAN
    spatial = [kernels.Spatial(3.0)]
    for method in ("lattice", "exact"):
        functional.mean_field(logits, image, kernels=spatial, method=method, warn=False)


def test_labels_that_are_ruled_out_are_no_bad_values():
    inputs = good()
    inputs[0][1, :2, 2, 3] = -INF
    for path in ("plain", "untied", "return_all", "exact"):
        call, options = PATHS[path]
        got = call(inputs, **options)
        assert torch.equal(got == -INF, inputs[0] == -INF) and not got.isnan().any()


# --- marginals of "relu" -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 3e-38, 1e-30, 1e-20, 1.0, 1e20, 1e38])
def test_relu_has_a_finite_gradient_for_logits_of_any_size(scale):
    row = torch.tensor([1.0, 2.0, -1.0, 0.5])
    weight = torch.tensor([3.0, -100.0, 7.0, 1.0])
    logits = (row * scale).requires_grad_()
    q = _relu_marginals(logits)
    (q * weight).sum().backward()
    wide = (row.double() * scale).requires_grad_()
    (_relu_marginals(wide) * weight).sum().backward()
    assert logits.grad.isfinite().all()
    if scale > 1e-38:  # below, logits themselves are rounded
        torch.testing.assert_close(q.double(), row.relu().double() / 3.5, rtol=1e-6, atol=0)
    if scale >= 1e-30:
        torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_the_gradient_of_relu_is_that_of_finite_differences(scale):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, dtype=torch.float64, generator=draw)
    rows = rows.where(rows.abs() > 0.1, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _relu_marginals(scale * x), rows)
    assert torch.autograd.gradgradcheck(lambda x: _relu_marginals(scale * x), rows)


def test_a_step_of_training_with_relu_survives_tiny_logits():
    logits = torch.full((1, 3, *SIZE), 1e-40).requires_grad_()
    image = 255 * torch.rand(1, 3, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = functional.mean_field(
            logits, image, CRFParams(theta_alpha=5.0), update="relu", warn=False
        )
    out[:, 0].sum().backward()
    assert out.isfinite().all() and logits.grad.isfinite().all()
