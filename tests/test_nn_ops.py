"""Tests of the lattice and the grid as torch operators: that torch may trust them, and more."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import PermutohedralLattice  # noqa: E402
from densecrf_rnn.nn.ops.grid_filter import grid_filter  # noqa: E402
from densecrf_rnn.nn.ops.lattice_build import (  # noqa: E402
    lattice_build,
    lattice_feature_gradient,
)
from densecrf_rnn.nn.ops.lattice_filter import (  # noqa: E402
    lattice_filter,
    lattice_filter_weight_gradient,
)
from densecrf_rnn.nn.ops.lattice_self_response import (  # noqa: E402
    lattice_self_response,
    lattice_self_response_gradient,
)
from densecrf_rnn.params import NORMALIZATIONS, QUALITIES  # noqa: E402

DTYPES = [torch.float32, torch.float64]


def cloud(batch, points=7, dims=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, points, dims, generator=generator, dtype=torch.float64).to(dtype) * 2


def some_values(batch, points=7, channels=2, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, points, channels, generator=generator).to(dtype)


def of_arrays(points, backend, quality="standard"):
    """The lattice of the engine; of another one where the engine takes tensors alone."""
    backend = backend if backend in ("cpu", "numba") else "auto"
    return PermutohedralLattice(points, quality=quality, backend=backend)


def tolerance(backend, dtype):
    """The same bits from the same engine, the same sums in another order from another."""
    if backend in ("cpu", "numba"):
        return {"rtol": 0, "atol": 0}
    return {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0, "atol": 1e-13}


# --- torch's own examination ---------------------------------------------------------------------


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_build_passes_opcheck(batch, dtype, quality):
    features = cloud(batch, dtype=dtype)
    torch.library.opcheck(lattice_build.of_torch, (features, quality, "auto"))
    # The fourth check adds up outputs in the dtype of the first and so fails where that one is
    # integer; test_nn_image_gradient.py compiles the gradient instead.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    features.requires_grad_()
    arguments = (features, quality, "auto")
    torch.library.opcheck(lattice_build.of_torch, arguments, test_utils=checks)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("batches", [(0, 0), (1, 1), (2, 2), (1, 3), (1, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_filter_passes_opcheck(dtype, batches, transpose, requires_grad):
    lattice = lattice_build(cloud(batches[0], dtype=dtype), "standard", "auto")
    values = some_values(batches[1], dtype=dtype).requires_grad_(requires_grad)
    torch.library.opcheck(lattice_filter.of_torch, (values, [*lattice], transpose, "auto"))
    lattice[1].requires_grad_(requires_grad)
    arguments = (values.detach(), [*lattice], transpose, "auto")
    torch.library.opcheck(lattice_filter.of_torch, arguments)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_self_response_passes_opcheck(batch, dtype):
    lattice = lattice_build(cloud(batch, dtype=dtype), "standard", "auto")
    torch.library.opcheck(lattice_self_response.of_torch, ([*lattice], "auto"))
    lattice[1].requires_grad_()
    torch.library.opcheck(lattice_self_response.of_torch, ([*lattice], "auto"))


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_for_weights_and_features_pass_opcheck(batch, dtype):
    features = cloud(batch, dtype=dtype)
    lattice = lattice_build(features, "standard", "auto")
    values = some_values(batch, dtype=dtype)
    arguments = (values, values.flip(1), [*lattice], True, "auto")
    torch.library.opcheck(lattice_filter_weight_gradient.of_torch, arguments)
    arguments = (values[..., 0], [*lattice], "auto")
    torch.library.opcheck(lattice_self_response_gradient.of_torch, arguments)
    torch.library.opcheck(lattice_feature_gradient.of_torch, (features, lattice[1], "auto"))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("self_term", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_grid_filter_passes_opcheck(dtype, batch, self_term, requires_grad):
    values = some_values(batch, 12, dtype=dtype).requires_grad_(requires_grad)
    grid = ([3, 4], [1.5, 0.75], "after", self_term)
    torch.library.opcheck(grid_filter.of_torch, (values, *grid, False))


# --- the lattice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("transpose", [False, True])
def test_lattice_filter_equals_the_numpy_lattice(backend, dtype, quality, transpose):
    points = cloud(3, 29, dtype=dtype)
    values = some_values(3, 29, 5, dtype=dtype)
    lattice = lattice_build(points, quality, backend)
    found = lattice_filter(values, [*lattice], transpose, backend)
    for b in range(3):
        lattice = of_arrays(points[b].numpy(), backend, quality)
        wanted = lattice.filter(values[b].numpy(), transpose=transpose)
        np.testing.assert_allclose(found[b].numpy(), wanted, **tolerance(backend, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lattice_self_response_equals_the_numpy_lattice(backend, dtype):
    points = cloud(2, 29, dtype=dtype)
    found = lattice_self_response([*lattice_build(points, "standard", backend)], backend)
    for b in range(2):
        wanted = of_arrays(points[b].numpy(), backend).self_response()
        np.testing.assert_allclose(found[b].numpy(), wanted, **tolerance(backend, dtype))


def test_a_shared_lattice_serves_every_image(backend):
    points, values = cloud(1, 13), some_values(3, 13)
    shared = lattice_build(points, "standard", backend)
    repeated = lattice_build(points.repeat(3, 1, 1), "standard", backend)
    found = lattice_filter(values, [*shared], False, backend)
    assert torch.equal(found, lattice_filter(values, [*repeated], False, backend))


def test_equal_features_give_equal_lattices(backend):
    # Also in the parts that are never written, or opcheck and users' torch.equal would flicker.
    first, second = (lattice_build(cloud(2), "standard", backend) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_lattice_build_takes_features_of_any_memory_layout(backend):
    points = cloud(2, 13)
    wanted = lattice_build(points, "standard", backend)
    d_weight = some_values(2, 13, 4)
    gradient = lattice_feature_gradient(points, d_weight, backend)
    for strided in (points.mT.contiguous().mT, points.repeat(1, 2, 1)[:, :13],
                    points.repeat_interleave(2, -1)[..., ::2]):
        assert not strided.is_contiguous()
        found = lattice_build(strided, "standard", backend)
        assert all(map(torch.equal, found, wanted))
        assert torch.equal(lattice_feature_gradient(strided, d_weight, backend), gradient)


def test_lattice_filter_takes_values_of_any_memory_layout(backend):
    lattice = lattice_build(cloud(2, 13), "standard", backend)
    values = some_values(2, 13, 4)
    wanted = lattice_filter(values, [*lattice], False, backend)
    strided = values.mT.contiguous().mT
    assert not strided.is_contiguous()
    assert torch.equal(lattice_filter(strided, [*lattice], False, backend), wanted)
    inner = torch.zeros(2, 13, 9, dtype=values.dtype)
    inner[..., ::2][..., :4] = values
    found = lattice_filter(inner[..., ::2][..., :4], [*lattice], False, backend)
    assert torch.equal(found, wanted)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("batches", [(1, 1), (2, 2), (1, 2)])
def test_lattice_filter_passes_gradcheck(backend, batches, quality, transpose):
    points = cloud(batches[0], 5).requires_grad_()
    values = some_values(batches[1], 5).requires_grad_()

    def filtered(values, points):
        lattice = lattice_build(points, quality, backend)
        return lattice_filter(values, [*lattice], transpose, backend)

    assert torch.autograd.gradcheck(filtered, (values, points))
    fixed = points.detach()
    assert torch.autograd.gradgradcheck(lambda values: filtered(values, fixed), (values,))


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("batch, dims", [(1, 1), (2, 3), (1, 7)])
def test_lattice_self_response_passes_gradcheck(backend, batch, dims, quality):
    def response(points):
        return lattice_self_response([*lattice_build(points, quality, backend)], backend)

    assert torch.autograd.gradcheck(response, (cloud(batch, 6, dims).requires_grad_(),))


def test_a_weight_gradient_of_a_shared_lattice_is_the_sum_over_the_images(backend):
    lattice = lattice_build(cloud(1, 9), "standard", backend)
    values, cotangent = some_values(3, 9), some_values(3, 9, seed=2)
    found, *each = (
        lattice_filter_weight_gradient(x, g, [*lattice], False, backend)
        for x, g in [(values, cotangent), *zip(values[:, None], cotangent[:, None], strict=True)]
    )
    torch.testing.assert_close(found, sum(each))


def test_weight_gradients_refuse_to_be_differentiated_again(backend):
    points = cloud(1, 5).requires_grad_()
    values = some_values(1, 5).requires_grad_()
    lattice = lattice_build(points, "standard", backend)
    out = lattice_filter(values, [*lattice], False, backend).square().sum()
    out = out + lattice_self_response([*lattice], backend).square().sum()
    (first,) = torch.autograd.grad(out, points, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated again.*detach"):
        torch.autograd.grad(first.sum(), values)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("self_term", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_grid_filter_passes_gradcheck_and_its_adjoint_is_the_transposed(
    normalization, self_term, transpose
):
    grid = ([2, 3, 2], [1.5, 0.75, 2.0], normalization, self_term)
    values = some_values(2, 12).double().requires_grad_()
    cotangent = some_values(2, 12, seed=2).double()

    def filtered(values):
        return grid_filter(values, *grid, transpose)

    assert torch.autograd.gradcheck(filtered, (values,), fast_mode=True)
    assert torch.autograd.gradgradcheck(filtered, (values,), fast_mode=True)
    adjoint = grid_filter(cotangent, *grid, not transpose)
    torch.testing.assert_close((filtered(values) * cotangent).sum(), (values * adjoint).sum())


def test_lattice_filter_gradient_is_the_transposed_filter(backend):
    # A filter that is far from symmetric, so that forgetting the transpose could not pass.
    points = cloud(1, 40)
    lattice = lattice_build(points, "standard", backend)
    kernel = lattice_filter(torch.eye(40, dtype=points.dtype)[None], [*lattice], False, backend)
    assert (kernel - kernel.mT).abs().max() > 1e-3
    values, cotangent = some_values(1, 40).requires_grad_(), some_values(1, 40, seed=2)
    out = lattice_filter(values, [*lattice], False, backend)
    (gradient,) = torch.autograd.grad(out, values, cotangent)
    torch.testing.assert_close(gradient, kernel.mT @ cotangent, rtol=0, atol=1e-12)


# --- refusals: an operator is handed raw memory, so it must look before it reads -----------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_lattice_filter_rejects_values_of_another_dtype(backend, dtype):
    lattice = lattice_build(cloud(1, dtype=torch.float32), "standard", backend)
    for _ in range(20):  # a corrupted heap need not show at the first call
        with pytest.raises(TypeError, match="values has dtype"):
            lattice_filter(some_values(1).to(dtype), [*lattice], False, backend)


@pytest.mark.parametrize("points", [1, 6, 8, 500])
def test_lattice_filter_rejects_values_of_another_number_of_points(backend, points):
    lattice = lattice_build(cloud(1, 7), "standard", backend)
    with pytest.raises(ValueError, match="values"):
        lattice_filter(some_values(1, points), [*lattice], False, backend)


@pytest.mark.parametrize("batch", [1, 3])
def test_lattice_filter_rejects_values_of_another_batch_size(backend, batch):
    lattice = lattice_build(cloud(2), "standard", backend)
    with pytest.raises(ValueError, match="values"):
        lattice_filter(some_values(batch), [*lattice], False, backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_lattice_build_rejects_other_dtypes(backend, dtype):
    with pytest.raises(TypeError, match="features has dtype"):
        lattice_build(cloud(1).to(dtype), "standard", backend)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_lattice_build_rejects_features_that_cannot_be_indexed(backend, value):
    points = cloud(2)
    points[1, 3, 0] = value
    with pytest.raises(ValueError, match="features"):
        lattice_build(points, "standard", backend)
