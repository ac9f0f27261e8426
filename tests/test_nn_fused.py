"""Tests of the whole mean field as one torch operator: that torch may trust it, and its modes."""

import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import BackendUnavailableError  # noqa: E402
from densecrf_rnn.engines import why_unavailable  # noqa: E402
from densecrf_rnn.nn import stepwise  # noqa: E402
from densecrf_rnn.nn.ops.kernels import NO_GRID, Grid, Kernel, Kernels, Lattice  # noqa: E402
from densecrf_rnn.nn.ops.lattice_build import lattice_build  # noqa: E402
from densecrf_rnn.nn.ops.mean_field import mean_field, mean_field_backward  # noqa: E402
from densecrf_rnn.params import QUALITIES  # noqa: E402

BUDGET = (2**30, "full")  # nothing worked out again, nothing rounded
FLAT = Grid([4, 5], [2.5, 1.5], "symmetric", False)


@pytest.fixture(params=["cpu", "serial", "torch"])
def fused_backend(request):
    """The name of each engine that runs whole mean fields."""
    reason = why_unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


def problem(dtype=torch.float64, batch=2, labels=3, grid=FLAT, spread=2.0, quality="standard",
            self_term=False, backend="cpu"):
    """Arguments of mean_field up to the grid: two lattices, one for all images and one each.

    Everything that a gradient can be taken for requires one.
    """
    points = 20 if grid.size is None else torch.Size(grid.size).numel()
    generator = torch.Generator().manual_seed(batch * 100 + labels)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    kernels = []
    for count in (1, batch):
        lattice = lattice_build(spread * random(count, points, 3), quality, backend)
        # The more points, the larger the sums that these keep near 1.
        scales = [(random(count, points, 1).abs() + 0.5) * 20 / points for _ in range(3)]
        if count == batch:
            scales[1] = random(0)
        if self_term:
            scales[2] = random(0)
        kernels.append(Kernel(Lattice(*lattice), *scales))
    tensors = [random(batch, labels, points), random(2 + (grid.size is not None), labels, labels),
               *Kernels(kernels).flatten()]
    tensors = [t.requires_grad_() if t.is_floating_point() and t.dim() > 1 else t for t in tensors]
    return tensors[0], tensors[1], tensors[2:], grid


def detached(logits, coupling, kernels, grid):
    return logits.detach(), coupling.detach(), [t.detach() for t in kernels], grid


def gradients(refined, logits, coupling, kernels, seed=9):
    """For everything that requires grad, with one fixed cotangent."""
    cotangent = torch.randn(refined.shape, generator=torch.Generator().manual_seed(seed),
                            dtype=torch.float64).to(refined.dtype)
    inputs = [t for t in (logits, coupling, *kernels) if t.requires_grad]
    return torch.autograd.grad(refined, inputs, cotangent)


# --- torch's own examination ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", [FLAT, NO_GRID])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_mean_field_passes_opcheck(fused_backend, dtype, batch, grid):
    given = problem(dtype, batch, grid=grid, backend=fused_backend)
    options = (3, True, *BUDGET, fused_backend)
    torch.library.opcheck(mean_field.of_torch, (*given[:3], *grid, *options))
    plain = detached(*given)
    options = (3, False, *BUDGET, fused_backend)
    torch.library.opcheck(mean_field.of_torch, (*plain[:3], *grid, *options))


@pytest.mark.parametrize("wanted", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_mean_field_backward_passes_opcheck(fused_backend, batch, wanted):
    logits, coupling, kernels, grid = detached(*problem(batch=batch, backend=fused_backend))
    options = (coupling, kernels, *grid)
    refined, saved = mean_field(logits, *options, 3, True, *BUDGET, fused_backend)
    arguments = (torch.randn_like(refined), logits, saved, *options, wanted, 3, *BUDGET)
    torch.library.opcheck(mean_field_backward.of_torch, (*arguments, fused_backend))


# --- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("grid", [FLAT, NO_GRID])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("labels", [1, 2, 3, 4, 25])
def test_fused_mean_field_and_its_gradients_equal_the_unfused(
    fused_backend, labels, batch, grid, quality
):
    given = problem(batch=batch, labels=labels, grid=grid, quality=quality,
                    backend=fused_backend)
    logits, coupling, kernels, _ = given
    whole = mean_field(*given[:3], *grid, 4, True, *BUDGET, fused_backend)[0]
    messages = stepwise.messages(Kernels.unflatten(kernels, grid), fused_backend)
    steps = stepwise.mean_field(logits, [coupling] * 4, messages)[-1]
    torch.testing.assert_close(whole, steps, rtol=1e-11, atol=1e-11)
    for found, wanted in zip(gradients(whole, *given[:3]), gradients(steps, *given[:3])):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("labels", [2, 5])
def test_a_small_memory_budget_keeps_less_for_the_same_gradients(
    fused_backend, dtype, tolerance, labels
):
    # So many points in so few simplices that the values at their vertices are fewer.
    grid = Grid([30, 31], [3.0, 3.0], "after", True)
    given = problem(dtype, labels=labels, grid=grid, spread=0.3, self_term=True,
                    backend=fused_backend)
    results, kept = [], []
    for budget in (2**30, 1):
        refined, saved = mean_field(*given[:3], *grid, 4, True, budget, "full", fused_backend)
        results.append((refined, *gradients(refined, *given[:3])))
        kept.append(int((saved != 0).sum()))
    assert kept[1] < kept[0] / 2
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_a_gradient_of_no_iterations_is_the_identity(fused_backend):
    logits, coupling, kernels, grid = problem(backend=fused_backend)
    refined = mean_field(logits, coupling, kernels, *grid, 0, True, *BUDGET, fused_backend)[0]
    assert torch.equal(refined, logits)
    found = torch.autograd.grad(refined.sum(), [logits, coupling, kernels[1]])
    assert (found[0] == 1).all() and (found[1] == 0).all() and (found[2] == 0).all()


# --- second derivatives --------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [0, 1])
def test_mean_field_second_derivative_allows_a_frozen_input(fused_backend, frozen):
    *arguments, grid = detached(*problem(backend=fused_backend))
    free = arguments[1 - frozen].requires_grad_()
    refined = mean_field(*arguments, *grid, 2, True, *BUDGET, fused_backend)[0]
    (first,) = torch.autograd.grad(refined.square().sum(), free, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), free)
    assert torch.isfinite(second).all() and second.abs().max() > 0


def test_a_second_derivative_of_no_iterations_is_that_of_the_identity(fused_backend):
    logits, coupling, kernels, grid = problem(backend=fused_backend)
    refined = mean_field(logits, coupling, kernels, *grid, 0, True, *BUDGET, fused_backend)[0]
    (first,) = torch.autograd.grad(refined.square().sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), logits)
    assert torch.equal(first, 2 * logits) and (second == 2).all()


def test_a_gradient_made_to_be_differentiated_equals_the_plain_one(fused_backend):
    # Where one input was made from another, what flows to it through both must be counted once.
    logits, coupling, kernels, grid = problem(backend=fused_backend)
    before = kernels[4] * kernels[1].mean() * logits.mean()

    def refined():
        made = [*kernels[:4], before, *kernels[5:]]
        return mean_field(logits, coupling, made, *grid, 2, True, *BUDGET, fused_backend)[0]

    inputs = [logits, coupling, kernels[1], kernels[4]]
    wanted = torch.autograd.grad(refined().sin().sum(), inputs, retain_graph=True)
    found = torch.autograd.grad(refined().sin().sum(), inputs, create_graph=True)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# --- refusals ------------------------------------------------------------------------------------


def test_mean_field_without_a_fused_engine_is_refused():
    pytest.importorskip("numba")
    lattice = Lattice(*lattice_build(torch.rand(1, 5, 3), "standard", "numba"))
    kernel = Kernel(lattice, *[torch.empty(0)] * 3)
    arguments = (torch.zeros(1, 2, 5), torch.zeros(1, 2, 2), Kernels([kernel]).flatten())
    with pytest.raises(BackendUnavailableError, match="no fused mean field"):
        mean_field(*arguments, *NO_GRID, 1, False, *BUDGET, "numba")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_mean_field_refuses_logits_that_are_no_numbers(fused_backend, value):
    logits, coupling, kernels, grid = detached(*problem(backend=fused_backend))
    logits[1, 2, 3] = value
    with pytest.raises(ValueError, match="logits contains"):
        mean_field(logits, coupling, kernels, *grid, 2, False, *BUDGET, fused_backend)


def test_mean_field_refuses_coupling_of_another_dtype(fused_backend):
    logits, coupling, kernels, grid = detached(*problem(backend=fused_backend))
    with pytest.raises(TypeError, match="logits is torch.float64 but coupling torch.float32"):
        mean_field(logits, coupling.float(), kernels, *grid, 2, False, *BUDGET, fused_backend)
