"""The layer on points without a grid, and without an image, against the dense definition."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFRNN, CRFParams, PermutohedralLattice  # noqa: E402
from densecrf_rnn.kernels import Custom, Kernel, Spatial  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.params import NORMALIZATIONS  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402

POTTS = 1 - np.eye(3)


def cloud(batch=2, labels=3, count=11, dims=4, seed=0, dtype=torch.float64):
    """Logits [B, L, N] and features [B, N, d]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, labels, count, generator=generator, dtype=torch.float64)
    features = torch.randn(batch, count, dims, generator=generator, dtype=torch.float64)
    return logits.to(dtype), features.to(dtype)


def dense_refined(logits, matrices, weights, iterations=5):
    """Refined logits [L, N] of one set of points."""
    return dense.mean_field(logits.T.numpy(), matrices, weights, POTTS, iterations).T


# --- points --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dims", [1, 3, 16])
def test_points_are_refined_as_the_dense_definition_says(dims, normalization):
    logits, features = cloud(dims=dims)
    params = CRFParams(w_bilateral=1.7, normalization=normalization, self_term=False)
    found = functional.mean_field(
        logits, params=params, features=features, iterations=4, method="exact"
    )
    for b in range(2):
        matrix = dense.normalized_kernel(features[b].numpy(), normalization, self_term=False)
        np.testing.assert_allclose(
            found[b], dense_refined(logits[b], [matrix], [1.7], 4), atol=1e-10
        )


def test_points_on_a_lattice_equal_its_matrix_on_every_engine(backend):
    logits, features = cloud()
    params = CRFParams(w_bilateral=1.7)
    found = functional.mean_field(logits, params=params, features=features, backend=backend)
    for b in range(2):
        raw = PermutohedralLattice(features[b].numpy()).filter(np.eye(11))
        wanted = dense_refined(logits[b], [dense.normalized(raw)], [1.7])
        np.testing.assert_allclose(found[b], wanted, atol=1e-10)


@pytest.mark.parametrize("normalization", ["after", "symmetric"])
def test_gradients_for_points_equal_finite_differences(backend, normalization):
    logits, features = cloud(count=7, dims=2)
    params = CRFParams(w_bilateral=1.7, normalization=normalization)
    mask = torch.tensor([[True] * 6 + [False], [True, False] + [True] * 5])

    def refined(logits, features):
        return functional.mean_field(
            logits, params=params, features=features, iterations=2, mask=mask, backend=backend
        )

    assert torch.autograd.gradcheck(refined, (logits.requires_grad_(), features.requires_grad_()))


def test_gradients_of_a_layer_on_points_equal_the_dense_ones():
    logits, features = cloud(batch=1)
    crf = CRFRNN(3, kernels=[Custom(1.0, "features")], method="exact").double()
    cotangent = torch.randn(1, 3, 11, dtype=torch.float64)
    given = [logits.requires_grad_(), crf.kernel_weights, crf.compatibility]
    found = torch.autograd.grad(crf(logits, features=features), given, cotangent)
    matrix = dense.normalized_kernel(features[0].numpy())
    wanted = dense.mean_field_gradients(
        logits[0].detach().T.numpy(), [matrix], crf.kernel_weights.detach().numpy(), POTTS, 5,
        cotangent[0].T.numpy(),
    )  # fmt: skip
    np.testing.assert_allclose(found[0][0].T, wanted.logits, atol=1e-10)
    weights = dense.reduce_weight_gradient(wanted.weights, "diagonal")
    np.testing.assert_allclose(found[1], weights, atol=1e-10)
    np.testing.assert_allclose(found[2], wanted.mu, atol=1e-10)


def test_points_with_several_guides_and_learned_bandwidths_train(backend):
    logits, features = cloud(dtype=torch.float32)
    colours = torch.rand(2, 3, 11)
    kernels = [Custom((0.5, 0.5, 0.5, 2.0), "features"), Custom(0.3, "colour")]
    crf = CRFRNN(3, kernels=kernels, trainable_bandwidths=True, backend=backend)
    out = crf(logits, features=features, guides={"colour": colours})
    assert out.shape == logits.shape
    out.square().sum().backward()
    assert crf.log_bandwidths.grad[:, 1].abs().min() > 0


def test_a_masked_cloud_equals_the_shorter_one_and_keeps_the_rest(backend):
    """How clouds of different lengths are put into one batch."""
    logits, features = cloud(batch=1, dtype=torch.float32)
    mask = torch.arange(11)[None] < 8
    features[:, 8:] = float("nan")
    crf = CRFRNN(3, kernels=[Custom(1.0, "features")], backend=backend)
    out = crf(logits, features=features, mask=mask)
    wanted = crf(logits[..., :8].contiguous(), features=features[:, :8].contiguous())
    torch.testing.assert_close(out[..., :8], wanted)
    assert torch.equal(out[..., 8:], logits[..., 8:])


@pytest.mark.parametrize("labels, multilabel", [(1, False), (4, True)])
def test_options_of_images_work_for_points(backend, labels, multilabel):
    logits, features = cloud(labels=labels)
    options = {"features": features, "multilabel": multilabel, "backend": backend}
    steps = functional.mean_field(logits, return_all=True, iterations=3, **options)
    last = functional.mean_field(logits, iterations=3, **options)
    torch.testing.assert_close(steps[-1], last)
    energy = functional.free_energy(steps, logits, **options)
    assert energy.shape == (3, 2) and bool((energy[-1] <= energy[0]).all())
    assert torch.equal(functional.mean_field(logits, iterations=0, **options), logits)
    row = functional.mean_field(  # the same as an image of one row with an embedding
        logits[:, :, None], kernels=[Custom(1.0, "row")], guides={"row": features.mT[:, :, None]},
        iterations=3, multilabel=multilabel, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(row[:, :, 0], last)


def test_points_compile_and_transform():
    logits, features = cloud(dtype=torch.float32)
    crf = CRFRNN(3, kernels=[Custom(1.0, "features")])
    wanted = crf(logits, features=features)
    torch._dynamo.reset()
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, features=features), wanted)
    each = torch.func.vmap(lambda x, f: crf(x[None], features=f[None])[0])(logits, features)
    torch.testing.assert_close(each, wanted)


# --- no image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial", ["grid", "lattice"])
def test_without_an_image_labels_are_smoothed_by_position_alone(backend, spatial):
    logits, image = torch.randn(2, 3, 5, 6), torch.rand(2, 3, 5, 6) * 255
    params = CRFParams(theta_gamma=1.5, w_spatial=2.0, spatial=spatial)
    found = functional.mean_field(logits, None, params, backend=backend)
    silent = torch.tensor([0.0, 2.0])
    wanted = functional.mean_field(logits, image, params, kernel_weights=silent, backend=backend)
    torch.testing.assert_close(found, wanted)
    crf = CRFRNN(3, params=params, kernels=[Spatial(1.5)], iterations=5, backend=backend)
    torch.testing.assert_close(crf(logits), wanted)
    energies = crf.free_energy(crf(logits, return_all=True), logits)
    assert energies.shape == (5, 2)


def test_kernels_of_other_guides_need_no_image():
    logits, depth = torch.randn(1, 3, 5, 6), torch.rand(1, 1, 5, 6)
    kernels = [Kernel(4.0, 0.3, "depth")]
    found = functional.mean_field(logits, kernels=kernels, guides={"depth": depth})
    image = torch.rand(1, 3, 5, 6)
    wanted = functional.mean_field(logits, image, kernels=kernels, guides={"depth": depth})
    assert torch.equal(found, wanted)


X, F = torch.zeros(2, 3, 5), torch.zeros(2, 5, 4)
ON_POINTS = CRFRNN(3, kernels=[Custom(1.0, "features")])
BAD = [
    (CRFRNN(3), (X,), {"features": F}, ValueError, "uses positions.*Custom\\(1.0, 'features'\\)"),
    (CRFRNN(3), (X[:, :, None],), {}, ValueError, r"'image', which is not given.*Spatial\(3.0\)"),
    (ON_POINTS, (X,), {}, ValueError, r"of points give features=\[B, N, d\]"),
    (ON_POINTS, (X[:, :, None],), {}, ValueError, r"pass features=\[B, N, d\]"),
    (ON_POINTS, (X[:, :, None],), {"features": F}, ValueError, r"must be \[B, L, N\]"),
    (ON_POINTS, (X, X), {"features": F}, ValueError, "image and features are both given"),
    (ON_POINTS, (X,), {"features": F, "spacing": (1,)}, ValueError, "spacing and features"),
    (ON_POINTS, (X,), {"features": F[0]}, ValueError, r"must be \[B, N, d\]"),
    (ON_POINTS, (X,), {"features": F.mT}, ValueError, "4 points but logits 5; .*transpose"),
    (ON_POINTS, (X,), {"features": F[:1]}, ValueError, "1 sets of points but logits 2"),
    (ON_POINTS, (X,), {"features": F[..., :0]}, ValueError, "0 columns"),
    (ON_POINTS, (X,), {"features": F.repeat(1, 1, 5)}, ValueError, "20 columns"),
    (ON_POINTS, (X,), {"features": F.bool()}, TypeError, "features has dtype bool"),
    (ON_POINTS, (X,), {"features": F.numpy()}, TypeError, "features is ndarray"),
    (ON_POINTS, (X,), {"features": F / 0}, ValueError, "features contains NaN"),
    (ON_POINTS, (X,), {"features": F, "mask": X > 0}, ValueError, "mask is"),
    (ON_POINTS, (X[:, :2],), {"features": F}, ValueError, "2 labels.*build it with num_classes=2"),
    (ON_POINTS, (X,), {"features": F, "guides": {"a": F}}, ValueError, r"a has.*\[B, C, 5\]"),
    (ON_POINTS, (X,), {"features": F, "guides": {"features": X}}, ValueError, "another name"),
]


@pytest.mark.parametrize("crf, args, options, kind, message", BAD)
def test_bad_points_raise_one_clear_sentence(crf, args, options, kind, message):
    with pytest.raises(kind, match=message):
        crf(*args, **options)
