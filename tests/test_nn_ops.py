"""Tests of the torch operators: that torch may trust them, and that they are the lattice."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import (  # noqa: E402
    BackendUnavailableError,
    PermutohedralLattice,
    available_backends,
)
from densecrf_rnn.nn import ops  # noqa: E402

DTYPES = [torch.float32, torch.float64]


def cloud(batch, points=7, dims=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, points, dims, generator=generator, dtype=torch.float64).to(dtype) * 2


def some_values(batch, points=7, channels=2, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, points, channels, generator=generator).to(dtype)


# --- torch's own examination ---------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_build_passes_opcheck(batch, dtype):
    torch.library.opcheck(ops.lattice_build, (cloud(batch, dtype=dtype), "auto"))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("batches", [(0, 0), (1, 1), (2, 2), (1, 3), (1, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_filter_passes_opcheck(dtype, batches, transpose, requires_grad):
    lattice = ops.lattice_build(cloud(batches[0], dtype=dtype), "auto")
    values = some_values(batches[1], dtype=dtype).requires_grad_(requires_grad)
    torch.library.opcheck(ops.lattice_filter, (values, *lattice, transpose, "auto"))


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_self_response_passes_opcheck(batch, dtype):
    lattice = ops.lattice_build(cloud(batch, dtype=dtype), "auto")
    torch.library.opcheck(ops.lattice_self_response, (*lattice, "auto"))


# --- the lattice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [False, True])
def test_lattice_filter_equals_the_numpy_lattice(backend, dtype, transpose):
    points = cloud(3, 29, dtype=dtype)
    values = some_values(3, 29, 5, dtype=dtype)
    found = ops.lattice_filter(values, *ops.lattice_build(points, backend), transpose, backend)
    for b in range(3):
        lattice = PermutohedralLattice(points[b].numpy(), backend=backend)
        wanted = lattice.filter(values[b].numpy(), transpose=transpose)
        np.testing.assert_array_equal(found[b].numpy(), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_self_response_equals_the_numpy_lattice(backend, dtype):
    points = cloud(2, 29, dtype=dtype)
    found = ops.lattice_self_response(*ops.lattice_build(points, backend), backend)
    for b in range(2):
        lattice = PermutohedralLattice(points[b].numpy(), backend=backend)
        np.testing.assert_array_equal(found[b].numpy(), lattice.self_response())


def test_a_shared_lattice_serves_every_image(backend):
    points, values = cloud(1, 13), some_values(3, 13)
    shared = ops.lattice_build(points, backend)
    repeated = ops.lattice_build(points.repeat(3, 1, 1), backend)
    found = ops.lattice_filter(values, *shared, False, backend)
    assert torch.equal(found, ops.lattice_filter(values, *repeated, False, backend))


def test_equal_features_give_equal_lattices(backend):
    # Also in the parts that are never written, or opcheck and users' torch.equal would flicker.
    first, second = (ops.lattice_build(cloud(2), backend) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_lattice_filter_takes_values_of_any_memory_layout(backend):
    lattice = ops.lattice_build(cloud(2, 13), backend)
    values = some_values(2, 13, 4)
    wanted = ops.lattice_filter(values, *lattice, False, backend)
    strided = values.mT.contiguous().mT
    assert not strided.is_contiguous()
    assert torch.equal(ops.lattice_filter(strided, *lattice, False, backend), wanted)
    inner = torch.zeros(2, 13, 9, dtype=values.dtype)
    inner[..., ::2][..., :4] = values
    found = ops.lattice_filter(inner[..., ::2][..., :4], *lattice, False, backend)
    assert torch.equal(found, wanted)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("batches", [(1, 1), (2, 2), (1, 2)])
def test_lattice_filter_passes_gradcheck(backend, batches, transpose):
    lattice = ops.lattice_build(cloud(batches[0], 5), backend)
    values = some_values(batches[1], 5).requires_grad_()

    def filtered(values):
        return ops.lattice_filter(values, *lattice, transpose, backend)

    assert torch.autograd.gradcheck(filtered, (values,))
    assert torch.autograd.gradgradcheck(filtered, (values,))


def test_lattice_filter_gradient_is_the_transposed_filter(backend):
    # A filter that is far from symmetric, so that forgetting the transpose could not pass.
    points = cloud(1, 40)
    lattice = ops.lattice_build(points, backend)
    kernel = ops.lattice_filter(torch.eye(40, dtype=points.dtype)[None], *lattice, False, backend)
    assert (kernel - kernel.mT).abs().max() > 1e-3
    values, cotangent = some_values(1, 40).requires_grad_(), some_values(1, 40, seed=2)
    out = ops.lattice_filter(values, *lattice, False, backend)
    (gradient,) = torch.autograd.grad(out, values, cotangent)
    torch.testing.assert_close(gradient, kernel.mT @ cotangent, rtol=0, atol=1e-12)


# --- refusals: an operator is handed raw memory, so it must look before it reads -----------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_lattice_filter_rejects_values_of_another_dtype(backend, dtype):
    lattice = ops.lattice_build(cloud(1, dtype=torch.float32), backend)
    for _ in range(20):  # a corrupted heap need not show at the first call
        with pytest.raises(TypeError, match="values has dtype"):
            ops.lattice_filter(some_values(1).to(dtype), *lattice, False, backend)


@pytest.mark.parametrize("points", [1, 6, 8, 500])
def test_lattice_filter_rejects_values_of_another_number_of_points(backend, points):
    lattice = ops.lattice_build(cloud(1, 7), backend)
    with pytest.raises(ValueError, match="values"):
        ops.lattice_filter(some_values(1, points), *lattice, False, backend)


@pytest.mark.parametrize("batch", [1, 3])
def test_lattice_filter_rejects_values_of_another_batch_size(backend, batch):
    lattice = ops.lattice_build(cloud(2), backend)
    with pytest.raises(ValueError, match="values"):
        ops.lattice_filter(some_values(batch), *lattice, False, backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_lattice_build_rejects_other_dtypes(backend, dtype):
    with pytest.raises(TypeError, match="features has dtype"):
        ops.lattice_build(cloud(1).to(dtype), backend)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_lattice_build_rejects_features_that_cannot_be_indexed(backend, value):
    points = cloud(2)
    points[1, 3, 0] = value
    with pytest.raises(ValueError, match="features"):
        ops.lattice_build(points, backend)


# --- the fused mean field ------------------------------------------------------------------------


def fused_arguments(dtype, batch=2, points=19, labels=3):
    """Arguments of ops.mean_field: two kernels, one lattice for all images and one for each."""
    kernels = []
    for seed, count in ((0, 1), (1, batch)):
        features = cloud(count, points, dtype=dtype) + seed
        lattice = ops.Lattice(*ops.lattice_build(features, "cpu"))
        scale = torch.rand(count, points, 1, dtype=dtype) + 0.5
        none = features.new_empty(0)
        kernels.append(ops.Kernel(lattice, scale, none if seed else scale, none if seed else scale))
    logits = torch.randn(batch, labels, points, dtype=dtype, requires_grad=True)
    coupling = torch.randn(2, labels, labels, dtype=dtype, requires_grad=True)
    return logits, coupling, ops.flatten(kernels)


needs_native = pytest.mark.skipif(
    "cpu" not in available_backends(), reason="the fused mean field is native code"
)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_mean_field_passes_opcheck(dtype, batch):
    torch.library.opcheck(ops.mean_field, (*fused_arguments(dtype, batch), 3, True, "cpu"))
    logits, coupling, kernels = fused_arguments(dtype, batch)
    plain = (logits.detach(), coupling.detach(), kernels, 3, False, "cpu")
    torch.library.opcheck(ops.mean_field, plain)


@needs_native
@pytest.mark.parametrize("labels", [1, 3, 4, 25])
def test_fused_mean_field_and_its_gradients_equal_the_unfused(labels):
    logits, coupling, flat = fused_arguments(torch.float64, labels=labels)
    fused = ops.mean_field(logits, coupling, flat, 4, True, "cpu")[0]
    unfused = ops.mean_field_unfused(logits, coupling, ops._unflatten(flat), 4, "cpu")
    torch.testing.assert_close(fused, unfused, rtol=1e-11, atol=1e-11)
    cotangent = torch.randn_like(fused)
    found = torch.autograd.grad(fused, (logits, coupling), cotangent)
    wanted = torch.autograd.grad(unfused, (logits, coupling), cotangent)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@needs_native
@pytest.mark.parametrize("frozen", [0, 1])
def test_mean_field_second_derivative_allows_a_frozen_input(frozen):
    arguments = list(fused_arguments(torch.float64, points=7))
    arguments[frozen] = arguments[frozen].detach()
    free = arguments[1 - frozen]
    refined = ops.mean_field(*arguments, 2, True, "cpu")[0]
    (first,) = torch.autograd.grad(refined.square().sum(), free, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), free)
    assert torch.isfinite(second).all() and second.abs().max() > 0


def test_mean_field_without_a_fused_engine_is_refused():
    pytest.importorskip("numba")
    features = cloud(1, 5)
    none = features.new_empty(0)
    kernel = ops.Kernel(ops.Lattice(*ops.lattice_build(features, "numba")), none, none, none)
    logits, coupling = torch.zeros(1, 2, 5).double(), torch.zeros(1, 2, 2).double()
    with pytest.raises(BackendUnavailableError, match="no fused mean field"):
        ops.mean_field(logits, coupling, ops.flatten([kernel]), 1, False, "numba")


@needs_native
def test_mean_field_backward_passes_opcheck():
    logits, coupling, flat = fused_arguments(torch.float64)
    refined, saved_q = ops.mean_field(logits.detach(), coupling.detach(), flat, 3, True, "cpu")
    cotangent = torch.randn_like(refined)
    arguments = (cotangent, saved_q, coupling.detach(), flat, "cpu")
    torch.library.opcheck(ops.mean_field_backward, arguments)
