"""CRFRNN(prune=...): labels are left out in eval() without gradients, and nowhere else."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_prune import SOFT, confident  # noqa: E402

from densecrf_rnn import CRFRNN, engines, mean_field  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402

PRUNING = [
    name for name in ("cpu", "numba")
    if engines.why_unavailable(name) is None and engines.engine(name).prunes
]  # fmt: skip


@pytest.fixture(params=PRUNING)
def pruner(request):
    return request.param


def problem(labels=6, size=(16, 24)):
    """Logits [1, L, H, W] and image [1, 3, H, W] of which most labels can be left out."""
    logits, image = confident(labels, size, seed=0, patch=8, dtype=np.float32)
    return torch.tensor(logits)[None], torch.tensor(image).movedim(-1, 0)[None]


def layer(pruner, prune, **options):
    return CRFRNN(6, params=SOFT, prune=prune, backend=pruner, **options).eval()


def test_the_layer_gives_what_mean_field_gives_with_the_same_prune(pruner):
    logits, image = problem()
    with torch.no_grad():
        found = layer(pruner, 1e-2, eval_iterations=3)(logits, image)
    want = mean_field(
        logits[0].numpy(), image[0].movedim(0, -1).numpy(), SOFT, iterations=3, prune=1e-2,
        backend=pruner,
    )  # fmt: skip
    np.testing.assert_allclose(found[0], want, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        assert torch.equal(layer(pruner, 1e-2, eval_iterations=3)(logits, image), found)


def test_the_layer_is_exact_in_training_and_wherever_gradients_are_recorded(pruner):
    logits, image = problem()
    exact, pruned = (layer(pruner, prune, eval_iterations=3) for prune in (0.0, 1e-2))
    assert torch.equal(pruned(logits, image), exact(logits, image))
    with torch.no_grad():
        assert not torch.equal(pruned(logits, image), exact(logits, image))
        assert torch.equal(pruned.train()(logits, image), exact.train()(logits, image))
    found = logits.clone().requires_grad_()
    pruned.eval()(found, image).square().sum().backward()
    assert found.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"update": "relu"}, {"method": "exact"}, {"tied": False}])
def test_options_that_run_filter_by_filter_are_exact(pruner, options):
    logits, image = problem()
    more = {} if options == {"tied": False} else {"eval_iterations": 3}
    backend = "auto" if "method" in options else pruner
    with torch.no_grad():
        exact, pruned = (
            layer(backend, prune, **options, **more)(logits, image) for prune in (0.0, 1e-2)
        )
    assert torch.equal(exact, pruned)


def test_masks_and_maps_that_overlap_are_pruned(pruner):
    logits, image = problem()
    mask = torch.ones(1, 16, 24, dtype=torch.bool)
    mask[:, :5] = False
    with torch.no_grad():
        for options in ({"mask": mask}, {"multilabel": True}):
            exact, pruned = (
                functional.mean_field(
                    logits, image, SOFT, prune=prune, backend=pruner, **options
                ).sigmoid()
                for prune in (0.0, 1e-3)
            )
            assert not torch.equal(exact, pruned)
            assert (exact - pruned).abs().max() < 0.02
    assert torch.equal(exact.isfinite(), torch.ones_like(exact, dtype=torch.bool))


def test_engines_that_do_not_prune_and_values_out_of_range_are_refused():
    with pytest.raises(engines.BackendUnavailableError, match="'torch' does not leave labels out"):
        CRFRNN(3, prune=1e-3, backend="torch")
    logits, image = problem()
    with pytest.raises(engines.BackendUnavailableError, match="'torch' does not leave labels out"):
        functional.mean_field(logits, image, prune=1e-3, backend="torch")
    with pytest.raises(ValueError, match="with 3 labels it must lie in 0 <= prune < 1/3"):
        CRFRNN(3, prune=0.4)


def test_a_layer_that_prunes_says_so_and_one_that_does_not_is_silent(pruner):
    assert "prune=0.01" in repr(layer(pruner, 1e-2)) and "prune" not in repr(layer(pruner, 0))


def test_values_out_of_range_are_refused_under_transforms_too():
    logits, image = torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match="prune is 0.9; with 3 labels it must lie in"):
        torch.func.grad(lambda x: functional.mean_field(x, image, prune=0.9).sum())(logits)
