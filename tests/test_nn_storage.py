"""Values kept in 16 bits, an option of the CUDA engine: how near, what it changes, what it refuses.

On the serial launcher here; tests/test_cuda.py compares it with a GPU.
"""

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, engines, samples  # noqa: E402
from densecrf_rnn.nn.functional import mean_field  # noqa: E402
from densecrf_rnn.nn.ops import dispatch  # noqa: E402
from densecrf_rnn.params import NORMALIZATIONS, SPATIAL_FILTERS  # noqa: E402

ENGINE = "serial"
pytestmark = pytest.mark.skipif(
    engines.why_unavailable(ENGINE) is not None,
    reason=f"no serial launcher: {engines.why_unavailable(ENGINE)}",
)

# The greatest difference of a marginal from float32's on a photograph, measured, times two.
PHOTOGRAPH = {"float16": 7e-3, "bfloat16": 5e-2}


@pytest.mark.parametrize("storage", PHOTOGRAPH)
@pytest.mark.parametrize(
    "params",
    [
        CRFParams(),
        CRFParams(30, 5, w_bilateral=3, normalization="symmetric", self_term=False),
        CRFParams(300, 500, normalization="before"),
    ],
    ids=["narrow", "medium without self term", "a few vertices for all"],
)
def test_marginals_of_a_photograph_stay_near_those_of_float32(params, storage):
    sample = samples.load("2007_000033")
    logits = torch.from_numpy(sample.logits)[None, :, 80:240, 100:300].float()
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None, :, 80:240, 100:300].float()
    wanted = mean_field(logits, image, params, backend=ENGINE).softmax(1)
    found = mean_field(logits, image, params, backend=ENGINE, storage=storage).softmax(1)
    assert 0 < (found - wanted).abs().max() < PHOTOGRAPH[storage]
    assert (found.argmax(1) != wanted.argmax(1)).float().mean() < 3e-4


@pytest.mark.parametrize("labels", [1, 2, 5, 9])
@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
@pytest.mark.parametrize("quality", ["standard", "symmetric"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_kind_of_kernel_stays_near_float32(labels, spatial, quality, normalization):
    logits, image = make.problem(1, 9, 7, batch=2, labels=labels, dtype=torch.float32)
    params = CRFParams(3, 60, 2, 0.5, 0.3, normalization=normalization, spatial=spatial,
                       quality=quality)
    wanted = mean_field(logits, image, params, backend=ENGINE)
    for storage, tolerance in (("float16", 2e-3), ("bfloat16", 2e-2)):
        found = mean_field(logits, image, params, backend=ENGINE, storage=storage)
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


def test_all_pixels_on_one_vertex_and_great_weights_stay_finite_in_float16():
    logits, image = torch.zeros(1, 2, 300, 300), torch.zeros(1, 3, 300, 300)
    logits[:, 1] = 0.1
    params = CRFParams(1e5, 10, 1e5, w_bilateral=1e6, w_spatial=1e6, normalization="none",
                       spatial="lattice")
    wanted = mean_field(logits, image, params, backend=ENGINE, iterations=1)
    found = mean_field(logits, image, params, backend=ENGINE, iterations=1, storage="float16")
    assert wanted.abs().max() > 1e9  # far beyond what float16 holds
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=0)


@pytest.mark.parametrize("storage", PHOTOGRAPH)
@pytest.mark.parametrize("budget", [2**30, 1], ids=["kept", "worked out again"])
def test_gradients_are_those_of_float32_at_the_marginals_that_were_found(storage, budget):
    logits, image = make.problem(0, 8, 9, labels=3, dtype=torch.float32)
    logits.requires_grad_()
    options = {"backend": ENGINE, "iterations": 4, "memory_budget": budget}
    gradients = []
    for kept in ("full", storage):
        weights = torch.tensor([2.0, 1.0], requires_grad=True)
        image_now = image.clone().requires_grad_()
        out = mean_field(logits, image_now, make.small_params(), kernel_weights=weights,
                         storage=kept, **options)
        out.softmax(1)[:, 0].square().sum().backward()
        gradients.append([logits.grad, weights.grad, image_now.grad])
        logits.grad = None
    tolerance = 5 * PHOTOGRAPH[storage]
    for wanted, found in zip(*gradients, strict=True):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


def test_two_runs_and_any_batch_give_the_same_bits():
    logits, image = make.problem(2, 12, 11, batch=3, labels=4, dtype=torch.float32)
    crf = CRFRNN(4, params=make.small_params(), storage="float16", backend=ENGINE)
    together = crf(logits, image)
    assert torch.equal(together, crf(logits, image))
    for b in range(3):
        assert torch.equal(together[b], crf(logits[b : b + 1], image[b : b + 1])[0])


def test_workspace_shrinks_to_little_more_than_half():
    native = engines.device_module(ENGINE, "cpu")
    sizes = {}

    class Watched:
        def __getattr__(self, name):
            return getattr(native, name)

        def mean_field_workspace(self, wide, storage, model, saves):
            sizes[storage] = native.mean_field_workspace(wide, storage, model, saves)
            return sizes[storage]

    logits, image = make.problem(0, 20, 20, labels=8, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "native_module", lambda *args: Watched())
        for storage in ("full", "float16"):
            mean_field(logits, image, make.small_params(), backend=ENGINE, storage=storage)
    marginals = 20 * 20 * 8 * 4
    assert sizes["float16"] - marginals < 0.55 * (sizes["full"] - marginals)


def test_where_it_has_no_effect_it_is_refused():
    logits, image = make.problem(0, 4, 5, labels=3, dtype=torch.float32)
    with pytest.raises(ValueError, match="the CUDA engine alone has"):
        mean_field(logits, image, storage="float16")
    with pytest.raises(TypeError, match="float64, which is kept in full"):
        mean_field(logits.double(), image, storage="bfloat16", backend=ENGINE)
    for options in ({"update": "relu"}, {"return_all": True}):
        with pytest.raises(ValueError, match="supports the defaults only; leave storage at 'full'"):
            mean_field(logits, image, storage="float16", backend=ENGINE, **options)
    with pytest.raises(ValueError, match="storage is 'int8'; choose from"):
        CRFRNN(3, storage="int8")
