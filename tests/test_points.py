"""refine and mean_field on points without a grid and without an image, on NumPy arrays."""

import numpy as np
import pytest

from densecrf_rnn import CRFParams, PermutohedralLattice, mean_field, refine
from densecrf_rnn.energy import free_energy
from densecrf_rnn.reference import dense
from oracles import softmax

PARAMS = CRFParams(w_bilateral=1.7, normalization="symmetric", self_term=False)


def cloud(labels=3, count=13, dims=4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(labels, count)).astype(dtype), rng.normal(size=(count, dims))


def wanted(logits, features, params, iterations=5):
    """Refined logits [L, N] by the dense reference on the lattice's matrix."""
    raw = PermutohedralLattice(features, quality=params.quality).filter(np.eye(len(features)))
    matrix = dense.normalized(raw, params.normalization, params.self_term)
    mu = 1 - np.eye(len(logits))
    return dense.mean_field(logits.T, [matrix], [params.w_bilateral], mu, iterations).T


@pytest.mark.parametrize("quality", ["standard", "symmetric"])
@pytest.mark.parametrize("dims, count", [(1, 1), (3, 13), (16, 29)])
def test_points_are_refined_as_the_definition_says(backend, dims, count, quality):
    logits, features = cloud(dims=dims, count=count)
    params = CRFParams(w_bilateral=1.7, quality=quality)
    found = mean_field(logits, params=params, features=features, backend=backend)
    np.testing.assert_allclose(found, wanted(logits, features, params), atol=1e-10)
    q = refine(logits, params=params, features=features, iterations=5, backend=backend)
    np.testing.assert_allclose(q, softmax(found), atol=1e-6)
    labels = refine(logits, features=features, params=params, iterations=5, labels=True)
    assert labels.shape == (count,) and np.array_equal(labels, q.argmax(0))


@pytest.mark.parametrize("spatial", ["grid", "lattice"])
def test_without_an_image_only_the_smoothness_kernel_remains(backend, spatial):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 4, 5, 6))
    params = CRFParams(
        theta_gamma=(1.0, 2.0, 1.5), theta_beta=(1.0, 2.0), w_spatial=(1.0, 2.0, 3.0),
        spatial=spatial,
    )  # fmt: skip
    mask = rng.random((4, 5, 6)) < 0.8
    found = mean_field(logits, None, params, mask=mask, spacing=(2, 1, 1), backend=backend)
    both = mean_field(
        logits, rng.integers(0, 256, (4, 5, 6, 2)), params, mask=mask, spacing=(2, 1, 1),
        kernel_weights=np.array([[0.0] * 3, [1.0, 2.0, 3.0]]), backend=backend,
    )  # fmt: skip
    np.testing.assert_allclose(found, both, atol=1e-12)
    again = mean_field(
        logits, None, params, mask=mask, spacing=(2, 1, 1), backend=backend,
        kernel_weights=np.array([[1.0, 2.0, 3.0]]),
    )  # fmt: skip
    assert np.array_equal(again, found)


def test_options_of_images_work_for_points(backend):
    logits, features = cloud(dtype=np.float32)
    given = {"params": PARAMS, "features": features, "backend": backend}
    mask = np.arange(13) < 9
    short = mean_field(
        logits[:, :9].copy(), params=PARAMS, features=features[:9], backend=backend
    )
    found = mean_field(logits, mask=mask, **given)
    np.testing.assert_allclose(found[:, :9], short, atol=1e-5)
    assert np.array_equal(found[:, 9:], logits[:, 9:])
    one = mean_field(logits[1:2], **given)
    maps = mean_field(logits, multilabel=True, **given)
    np.testing.assert_allclose(maps[1:2], one, atol=1e-5)
    assert np.array_equal(mean_field(logits, iterations=0, **given), logits)
    p = softmax(logits)
    q = refine(p, kind="probabilities", **given)
    np.testing.assert_allclose(q, refine(logits, **given), atol=1e-5)
    stored = np.arange(39, dtype=np.uint8).reshape(3, 13)
    eighths = {"quantization": (0.125, 16), **given}
    np.testing.assert_allclose(
        refine(stored, **eighths), refine((stored - 16.0) / 8, **given), atol=1e-5
    )
    energies = [
        free_energy(mean_field(logits, iterations=t, **given), logits, **given) for t in (0, 3)
    ]
    assert energies[1] < energies[0]
    _, info = mean_field(logits, return_info=True, **given)
    assert info.pixels == 13 and len(info.vertices) == 1


def test_tensors_of_points_are_taken_as_arrays():
    torch = pytest.importorskip("torch")
    logits, features = cloud()
    found = refine(torch.from_numpy(logits), features=torch.from_numpy(features))
    assert np.array_equal(found, refine(logits, features=features))


X, F = np.zeros((3, 5)), np.zeros((5, 4))
BAD = [
    ((X,), {}, ValueError, r"logits has shape \(3, 5\).*of points give features=\[N, d\]"),
    ((X[None],), {"features": F}, ValueError, r"logits has shape.*must be \[L, N\]"),
    ((X, F), {"features": F}, ValueError, "image and features are both given"),
    ((X,), {"features": F, "spacing": (1,)}, ValueError, "spacing and features are both given"),
    ((X,), {"features": F[None]}, ValueError, r"features has shape.*\[N, d\]"),
    ((X,), {"features": F.T}, ValueError, "features holds 4 points but logits 5; .*transpose"),
    ((X,), {"features": F[:3]}, ValueError, "one row per point"),
    ((X,), {"features": np.zeros((5, 17))}, ValueError, "17 columns; a lattice takes 1 to 16"),
    ((X,), {"features": F > 0}, TypeError, "features has dtype bool"),
    ((X,), {"features": [[1.0]]}, TypeError, "features is list"),
    ((X,), {"features": F + np.nan}, ValueError, "features contains NaN"),
    ((X,), {"features": F, "mask": np.ones((1, 5), bool)}, ValueError, "mask is 1 x 5"),
    (("x",), {"features": F}, TypeError, "logits is 'x'"),
    ((None,), {}, TypeError, "logits is None"),
]


@pytest.mark.parametrize("args, options, kind, message", BAD)
def test_bad_points_raise_one_clear_sentence(args, options, kind, message):
    with pytest.raises(kind, match=message):
        refine(*args, **options)
