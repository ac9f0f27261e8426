"""DenseCRFLoss against its dense definition: value and gradients, and on every engine."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import interpolate  # noqa: E402

from densecrf_rnn import (  # noqa: E402
    CRFRNN, BackendUnavailableError, PermutohedralLattice, available_backends, nn,
)  # fmt: skip
from densecrf_rnn.nn import BilateralFilter, GibbsCRF  # noqa: E402
from densecrf_rnn.nn.losses import DenseCRFLoss, robust_log_likelihood  # noqa: E402
from densecrf_rnn.params import NORMALIZATIONS  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402

SIZES = [(5, 7), (1, 1), (3, 2, 4)]


def drawn(*size, batch=2, labels=3, seed=0):
    """Probabilities [B, L, *S], an image [B, 3, *S] in 0..255, a mask and labels [B, *S]."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    probabilities = torch.randn(batch, labels, *size, **options).softmax(1)
    image = torch.rand(batch, 3, *size, **options) * 255
    mask = torch.rand(batch, *size, **options) < 0.7
    labels = torch.randint(0, labels, (batch, *size), generator=generator)
    return probabilities, image, mask, torch.where(mask, labels, 255)


def features_of(image, sigma_xy, sigma_rgb):
    """Feature rows [N, d] of one image [C, *S], rows of pixels first."""
    array = image.movedim(0, -1).numpy()
    return dense.feature_rows(array, sigma_xy, sigma_rgb, (1.0,) * (image.dim() - 1))


def defined(probabilities, image, mask, kernel_of, gate, normalization="none"):
    """Sum of the energies of a batch, and its gradient for the probabilities."""
    total, gradients = 0.0, []
    for b in range(len(probabilities)):
        inside = np.ones(image[b, 0].numel(), bool) if mask is None else mask[b].flatten().numpy()
        q = probabilities[b].flatten(1).T.numpy()
        gates = None if gate is None else gate[b].flatten().numpy()[inside]
        kernel = kernel_of(image[b])[np.ix_(inside, inside)]
        kernel = dense.normalized(kernel, normalization)
        value, gradient = dense.relaxed_potts(kernel, q[inside], gates)
        total += value
        full = np.zeros_like(q)
        full[inside] = gradient
        gradients.append(full.T.reshape(probabilities.shape[1:]))
    return total, np.stack(gradients)


def gradient_of(loss, probabilities, *rest):
    probabilities = probabilities.detach().requires_grad_()
    value = loss(probabilities, *rest)
    return value, torch.autograd.grad(value, probabilities)[0]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_equal_the_dense_definition(size, gated, masked, normalization):
    s, image, mask, labels = drawn(*size)
    mask = mask if masked else None
    loss = DenseCRFLoss(
        1.3, sigma_rgb=60.0, sigma_xy=2.5, scale_factor=1, gate=gated,
        normalization=normalization, method="exact",
    )  # fmt: skip
    value, gradient = gradient_of(loss, s, image, mask, labels if gated else None)
    gate = None
    if gated:
        gate = torch.where(labels == 255, 1.0, 1 - s.amax(1))
    wanted, d_wanted = defined(
        s, image, mask, lambda one: dense.gaussian_kernel(features_of(one, 2.5, 60.0)), gate,
        normalization,
    )  # fmt: skip
    assert abs(value.item() - 1.3 * wanted / 2) < 1e-10 * max(1, abs(wanted))
    np.testing.assert_allclose(gradient, 1.3 * d_wanted / 2, atol=1e-10)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("quality", ["standard", "symmetric"])
def test_the_lattice_gives_the_definition_on_its_own_matrix(backend, quality, gated):
    s, image, mask, labels = drawn(5, 7)
    loss = DenseCRFLoss(
        1.0, 60.0, 2.5, 1, gate=gated, quality=quality, normalization="symmetric", backend=backend
    )
    value, gradient = gradient_of(loss, s, image, mask, labels if gated else None)
    gate = torch.where(labels == 255, 1.0, 1 - s.amax(1)) if gated else None
    total = 0.0
    for b in range(2):  # masked pixels are on no vertex: the matrix is that of the others
        inside = mask[b].flatten().numpy()
        rows = features_of(image[b], 2.5, 60.0)[:, [1, 0, 2, 3, 4]][inside]  # columns first
        matrix = PermutohedralLattice(rows, quality=quality).filter(np.eye(len(rows)))
        wanted, d_wanted = dense.relaxed_potts(
            dense.normalized(matrix, "symmetric"), s[b].flatten(1).T.numpy()[inside],
            gate[b].flatten().numpy()[inside] if gated else None,
        )  # fmt: skip
        total += wanted
        got = gradient[b].flatten(1).T.numpy()
        np.testing.assert_allclose(got[inside], d_wanted / 2, atol=1e-10)
        assert not got[~inside].any()
    assert abs(value.item() - total / 2) < 1e-10


@pytest.mark.parametrize("size", [(6, 9), (4, 5, 6)])
def test_gradients_equal_finite_differences(backend, size):
    """For the probabilities through the scaling, and for the image."""
    s, image, mask, _ = drawn(*size, batch=1)
    loss = DenseCRFLoss(1.0, 60.0, 3.1, 0.5, normalization="after", backend=backend)
    given = (s.clamp(0.01, 0.99).requires_grad_(), image.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, x: loss(s, x, mask), given, fast_mode=True)


def test_maps_are_scaled_as_in_rloss():
    s, image, mask, labels = drawn(8, 10)
    mask = mask[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    labels = labels.where(mask, 255)
    whole = DenseCRFLoss(2.0, 40.0, 6.0, 0.5, gate=True, method="exact")
    value = whole(s, image, mask, labels)
    smaller = interpolate(s, scale_factor=0.5, mode="bilinear", align_corners=False)
    of_labels = interpolate(labels[:, None].double(), scale_factor=0.5)[:, 0].long()
    of_mask = interpolate(mask[:, None].double(), scale_factor=0.5)[:, 0] > 0
    already = DenseCRFLoss(2.0, 40.0, 3.0, 1, gate=True, method="exact")
    wanted = already(smaller, interpolate(image, scale_factor=0.5), of_mask, of_labels)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)


def test_one_map_stands_for_foreground_and_background():
    s, image, mask, _ = drawn(5, 6, labels=2)
    loss = DenseCRFLoss(1.0, normalization="after", reduction="mean")
    torch.testing.assert_close(loss(s[:, 1:], image, mask), loss(s, image, mask))


def test_the_mean_lies_between_minus_one_and_zero_and_prefers_edges_of_the_image():
    image = torch.zeros(1, 3, 8, 10)
    image[..., 5:] = 255.0
    along = (image[:, :1] > 0).float()
    across = torch.zeros_like(along)
    across[:, :, 4:] = 1.0
    loss = DenseCRFLoss(1.0, normalization="after", reduction="mean", scale_factor=1)
    good, bad, none = (loss(s, image) for s in (along, across, torch.full_like(along, 0.5)))
    assert -1 <= good < bad - 0.3 and good < -0.95 and abs(none + 0.5) < 1e-3


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16])
def test_images_and_probabilities_of_other_dtypes_are_taken(kind):
    s, image, _, _ = drawn(6, 8)
    loss = DenseCRFLoss(1.0, reduction="mean")
    image = image.round().to(kind)
    torch.testing.assert_close(loss(s, image), loss(s, image.double()))
    half = loss(s.half(), image)
    assert half.dtype == torch.float32 and torch.equal(half, loss(s.half().float(), image))


def test_empty_batches_and_masks_give_zero():
    s, image, mask, _ = drawn(4, 6)
    for reduction in ("sum", "mean"):
        loss = DenseCRFLoss(1.0, reduction=reduction, normalization="after")
        assert loss(s, image, mask & False) == 0
    assert DenseCRFLoss(1.0)(s[:0], image[:0]) == 0
    assert DenseCRFLoss(1.0, reduction="mean")(s[:0], image[:0]) == 0


@pytest.mark.parametrize("scale", [1, 0.5, 0.7, 0.3])
@pytest.mark.parametrize("size", [(7, 9), (5, 6, 7)])
def test_masked_pixels_may_hold_anything_and_get_no_gradient(size, scale):
    s, image, mask, _ = drawn(*size)
    mask[:, 3:] = False  # with 0.5, pixels of both kinds lie in one block
    loss = DenseCRFLoss(1.0, scale_factor=scale, normalization="after")
    wanted, gradient = gradient_of(loss, s, image, mask)
    outside = ~mask[:, None]
    assert wanted != 0 and not gradient[outside.expand_as(gradient)].any()
    s, image = (x.masked_fill(outside, float("nan")) for x in (s, image))
    found = gradient_of(loss, s, image, mask)
    torch.testing.assert_close(found, (wanted, gradient), rtol=0, atol=0)


def test_a_place_without_a_probability_inside_does_not_count():
    s, image, mask, _ = drawn(8, 12, batch=1)
    mask[:] = True
    mask[:, 1:3] = False  # all that the first row of places is the mean of, but not the nearest
    without = mask.clone()
    without[:, 0] = False
    for maps in (s, s[:, :1]):
        loss = DenseCRFLoss(1.0, 40.0, 6.0, 0.25, reduction="mean", gate=True)
        assert loss(maps, image, mask) == loss(maps, image, without) != 0


def test_a_probability_is_scaled_as_the_mean_of_the_pixels_inside():
    s, image, _, _ = drawn(4, 6, batch=1)
    mask = torch.ones(1, 4, 6, dtype=torch.bool)
    mask[:, :, 3] = False  # the third of each two columns: half of the blocks in the middle
    value = DenseCRFLoss(1.0, 40.0, 6.0, 0.5, method="exact")(s, image, mask)
    blocks, inside = (x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)) for x in (s, mask[:, None]))
    smaller = (blocks * inside).sum((-1, -3)) / inside.sum((-1, -3))
    already = DenseCRFLoss(1.0, 40.0, 3.0, 1, method="exact")
    wanted = already(smaller, interpolate(image, scale_factor=0.5), mask[:, ::2, ::2])
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)


def test_transforms_and_compiled_graphs_give_the_same():
    s, image, mask, labels = drawn(6, 8)
    loss = DenseCRFLoss(1.0, gate=True)
    value, gradient = gradient_of(loss, s, image, mask, labels)
    torch.testing.assert_close(torch.func.grad(loss)(s, image, mask, labels), gradient)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, d_found = gradient_of(compiled, s, image, mask, labels)
    torch.testing.assert_close((found, d_found), (value, gradient))


P, X = torch.full((1, 3, 4, 5), 0.25), torch.zeros(1, 3, 4, 5)
BAD = [
    ((P * 40 - 5, X), {}, ValueError, r"probabilities holds 5\.\.5;.*logits.softmax\(1\)"),
    ((P / 0, X), {}, ValueError, "probabilities contains infinity"),
    ((P[0], X), {}, ValueError, "probabilities has shape"),
    ((P.int(), X), {}, TypeError, "probabilities has dtype int32"),
    ((P, X[..., :4]), {}, ValueError, "image has shape .* but probabilities"),
    ((P, X * float("nan")), {}, ValueError, "image contains NaN"),
    ((P, X, X[:, 0]), {}, TypeError, r"mask has dtype float32.*mask > 0"),
    ((P, X, None, X[:, 0].long()), {}, ValueError, "labels are given but gate is False"),
    ((P, X, None, X.long()), {"gate": True}, ValueError, r"labels has shape.*\[B, \*S\]"),
    ((P, X, None, X[:, 0]), {"gate": True}, TypeError, "labels has dtype torch.float32"),
    ((P, X), {"scale_factor": 0.2}, ValueError, "leaves no pixel of images of size 4 x 5"),
    ((P, X), {"scale_factor": 2}, ValueError, "scale_factor is 2; it must lie in 0 <"),
    ((P, X), {"sigma_xy": 0}, ValueError, "sigma_xy"),
    ((P, X), {"sigma_rgb": (1, 2)}, ValueError, "sigma_rgb has 2 numbers but the image has 3"),
    ((P, X), {"sigma_xy": (1, 2, 3)}, ValueError, "sigma_xy has 3 numbers but there are 2"),
    ((P, X), {"reduction": "max"}, ValueError, "reduction is 'max'"),
    ((P, X), {"weight": "1"}, TypeError, "weight"),
]


@pytest.mark.parametrize("args, options, kind, message", BAD)
def test_bad_arguments_raise_one_clear_sentence(args, options, kind, message):
    with pytest.raises(kind, match=message):
        DenseCRFLoss(**options)(*args)


def test_losses_are_found_where_documents_name_them():
    assert {"functional", "losses"} <= set(nn.__all__) and nn.losses.DenseCRFLoss is DenseCRFLoss


def test_labels_of_other_kinds_are_refused():
    for make in (lambda index: DenseCRFLoss(ignore_index=index),
                 lambda index: nn.losses.robust_log_likelihood(S, L, ignore_index=index)):
        for index in (255.5, "255"):
            with pytest.raises(TypeError, match="ignore_index is .*; it must be an integer"):
                make(index)
        make(-100)
    with pytest.raises(TypeError, match=r"target has dtype torch.float32.*\(target.long\(\)\)"):
        nn.losses.robust_log_likelihood(S, L.float())


S, L = torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4).long()


@pytest.mark.parametrize("build", [
    lambda backend: DenseCRFLoss(backend=backend),
    lambda backend: BilateralFilter(3.0, backend=backend),
    lambda backend: CRFRNN(2, backend=backend),
    lambda backend: GibbsCRF(2, backend=backend),
])
def test_a_backend_that_does_not_exist_is_an_error_of_the_constructor(build):
    with pytest.raises(BackendUnavailableError, match="no backend of that name"):
        build("bogus")
    build("cpu") if "cpu" in available_backends() else build("auto")


def test_gibbs_crfs_have_no_engine_torch():
    with pytest.raises(BackendUnavailableError, match="draws no samples; use backend='auto'"):
        GibbsCRF(2, backend="torch")


def test_robust_losses_take_labels_and_no_masks():
    with pytest.raises(TypeError, match="target has dtype torch.bool; it must be integer"):
        robust_log_likelihood(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.bool))
