"""gaussian_filter and BilateralFilter: the CRF's filter alone, against its dense definition."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import PermutohedralLattice  # noqa: E402
from densecrf_rnn.nn import BilateralFilter  # noqa: E402
from densecrf_rnn.nn.bilateral import BANDWIDTH_RANGE  # noqa: E402
from densecrf_rnn.nn.functional import gaussian_filter  # noqa: E402
from densecrf_rnn.params import NORMALIZATIONS, QUALITIES  # noqa: E402
from densecrf_rnn.reference import dense  # noqa: E402


def drawn(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def plain(values, features, normalization):
    """The definition in torch, for autograd to differentiate. [B, N, C], [B or 1, N, d]"""
    kernel = torch.exp(-(features[:, :, None] - features[:, None]).square().sum(-1) / 2)
    mass = kernel.sum(2, keepdim=True)
    if normalization == "before":
        return kernel @ (values / mass)
    if normalization == "symmetric":
        return kernel @ (values / mass.sqrt()) / mass.sqrt()
    return kernel @ values / (mass if normalization == "after" else 1)


def lattice_matrix(features, quality="standard"):
    """What the filter does to the identity, by the interface for arrays. [N, N]"""
    lattice = PermutohedralLattice(features.numpy(), quality=quality)
    return lattice.filter(np.eye(len(features)))


def gradients(function, inputs, cotangent):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    return out, *torch.autograd.grad(out, inputs, cotangent)


# --- the filter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dims", [1, 2, 3, 7, 16])
def test_the_exact_filter_and_its_gradients_equal_the_dense_definition(dims, normalization):
    values, features = drawn(2, 13, 3), drawn(2, 13, dims, seed=1, scale=0.7)
    cotangent = drawn(2, 13, 3, seed=2)

    def exact(values, features):
        return gaussian_filter(values, features, normalization=normalization, method="exact")

    found = gradients(exact, (values, features), cotangent)
    wanted = gradients(lambda *x: plain(*x, normalization), (values, features), cotangent)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    matrix = dense.normalized_kernel(features[1].numpy(), normalization)
    np.testing.assert_allclose(found[0][1].detach(), matrix @ values[1].numpy(), atol=1e-12)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dims", [1, 3, 16])
def test_the_lattice_filter_equals_its_matrix_on_every_engine(
    backend, dims, normalization, quality
):
    if quality == "filled" and dims == 16:
        quality = "symmetric"
    values, features = drawn(2, 11, 2), drawn(2, 11, dims, seed=1)
    found = gaussian_filter(
        values, features, normalization=normalization, quality=quality, backend=backend
    )
    for b in range(2):
        matrix = dense.normalized(lattice_matrix(features[b], quality), normalization)
        np.testing.assert_allclose(found[b], matrix @ values[b].numpy(), atol=1e-11)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dims", [1, 2, 5, 16])
def test_gradients_of_the_lattice_filter_equal_finite_differences(backend, dims, normalization):
    """With cotangents that torch draws; in both arguments at once."""
    values, features = drawn(2, 5, 2).requires_grad_(), drawn(2, 5, dims, seed=1).requires_grad_()

    def filtered(values, features):
        return gaussian_filter(values, features, normalization=normalization, backend=backend)

    assert torch.autograd.gradcheck(filtered, (values, features))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients_of_all_engines_agree_for_random_cotangents(backend, normalization):
    values, features = drawn(3, 17, 2), drawn(1, 17, 4, seed=1)  # one lattice for three sets
    cotangent = drawn(3, 17, 2, seed=2)

    def on(engine):
        return gradients(
            lambda *x: gaussian_filter(
                *x, normalization=normalization, backend=engine, quality="symmetric"
            ),
            (values, features), cotangent,
        )  # fmt: skip

    for one, other in zip(on(backend), on("torch"), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_the_gradient_for_values_is_the_transposed_operator(backend):
    features, cotangent = drawn(1, 40, 3), drawn(1, 40, 2, seed=2)
    matrix = dense.normalized(lattice_matrix(features[0]))
    assert np.abs(matrix - matrix.T).max() > 1e-3  # so that a forgotten transpose would show
    _, found = gradients(
        lambda v: gaussian_filter(v, features, backend=backend), (drawn(1, 40, 2),), cotangent
    )
    np.testing.assert_allclose(found[0], matrix.T @ cotangent[0].numpy(), atol=1e-11)


def test_the_lattice_filter_is_near_the_gaussian():
    values, features = torch.rand(1, 2000, 1), torch.rand(1, 2000, 5) * 3
    exact = gaussian_filter(values, features, method="exact")
    assert (gaussian_filter(values, features) - exact).abs().max() < 0.06
    assert exact.std() < 0.1 * values.std()


@pytest.mark.parametrize("method", ["lattice", "exact"])
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 1, 1), (1, 7, 0)])
def test_empty_and_single_sets_of_points_are_filtered(shape, method):
    values = torch.randn(shape, requires_grad=True)
    features = torch.randn(*shape[:2], 2, requires_grad=True)
    out = gaussian_filter(values, features, method=method)
    out.sum().backward()
    assert out.shape == shape and features.grad.shape == features.shape
    if shape[1] == 1:
        torch.testing.assert_close(out, values)  # a mean over one point


def test_a_mean_of_constant_values_is_that_constant(backend):
    out = gaussian_filter(torch.full((2, 19, 3), 2.5), drawn(2, 19, 6).float(), backend=backend)
    torch.testing.assert_close(out, torch.full_like(out, 2.5))


def test_strided_tensors_give_the_result_of_contiguous_ones(backend):
    values, features = drawn(2, 3, 9).mT, drawn(2, 4, 9, seed=1).mT
    found = gaussian_filter(values, features, backend=backend)
    wanted = gaussian_filter(values.contiguous(), features.contiguous(), backend=backend)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1e12, 3e38])
def test_features_that_are_overwritten_after_the_forward_pass_do_no_harm(backend, dims, wrong):
    """autograd does not see what NumPy writes into the memory of a tensor."""
    values, memory = drawn(1, 50, 2).float(), drawn(1, 50, dims, seed=1).float().numpy()
    features = torch.from_numpy(memory).requires_grad_()
    out = gaussian_filter(values, features, backend=backend)
    memory[0, 20:30] = wrong
    out.sum().backward()
    found, changed = features.grad[0], torch.arange(50).sub(25).abs() <= 5
    assert found[changed].isfinite().all()
    torch.from_numpy(memory)[:] = drawn(1, 50, dims, seed=1).float()
    features.grad = None
    gaussian_filter(values, features, backend=backend).sum().backward()
    torch.testing.assert_close(found[~changed], features.grad[0, ~changed])


def test_autocast_filters_in_float32():
    values, features = torch.randn(1, 9, 2).bfloat16(), torch.randn(1, 9, 2)
    with torch.autocast("cpu"):
        out = gaussian_filter(values, features)
    assert torch.equal(out, gaussian_filter(values.float(), features))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_returned_in_its_own_dtype(dtype):
    values, features = torch.randn(1, 9, 2).to(dtype), torch.randn(1, 9, 2).to(dtype)
    out = gaussian_filter(values, features)
    assert torch.equal(out, gaussian_filter(values.float(), features.float()).to(dtype))
    layer, image = BilateralFilter(2.0, 0.5), torch.rand(1, 3, 4, 5).to(dtype)
    wanted = layer(image.float()).to(dtype)
    assert torch.equal(layer.to(dtype)(image), wanted)


def test_subclasses_of_tensor_come_out_as_they_went_in():
    class Named(torch.Tensor):
        pass

    values, features = torch.randn(1, 9, 2), torch.randn(1, 9, 2)
    named = values.as_subclass(Named)
    named.affine = [1, 2]
    out = gaussian_filter(named, features)
    assert type(out) is Named and out.affine == [1, 2]
    assert torch.equal(out.as_subclass(torch.Tensor), gaussian_filter(values, features))
    image = torch.rand(1, 3, 4, 5).as_subclass(Named)
    assert type(BilateralFilter(2.0, 0.5)(image)) is Named


def test_transforms_and_compiled_graphs_give_the_same():
    values, features = drawn(2, 9, 2), drawn(2, 9, 3, seed=1)

    def loss(features):
        return gaussian_filter(values, features).square().sum()

    _, wanted = gradients(loss, (features,), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(torch.func.grad(loss)(features), wanted)
    each = torch.func.vmap(lambda v, f: gaussian_filter(v[None], f[None])[0])(values, features)
    torch.testing.assert_close(each, gaussian_filter(values, features))
    torch._dynamo.reset()
    compiled = torch.compile(gaussian_filter, fullgraph=True, backend="aot_eager")
    found = gradients(compiled, (values, features), torch.ones_like(values))
    expected = gradients(gaussian_filter, (values, features), torch.ones_like(values))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(loss, (features,), (features,))


V, F = torch.zeros(2, 5, 3), torch.zeros(2, 5, 2)
NAN = torch.full((2, 5, 2), float("nan"))
BAD = [
    (V.numpy(), F, {}, TypeError, "values is ndarray; it must be a tensor"),
    (V, [1.0], {}, TypeError, "features is list; it must be a tensor"),
    (V[0], F, {}, ValueError, r"values has shape \(5, 3\).*one set of points is values\[None\]"),
    (V, F[0], {}, ValueError, r"features has shape \(5, 2\).*features\[None\]"),
    (V.int(), F, {}, TypeError, "values has dtype int32; it must be float32 or float64"),
    (V, F.double(), {}, TypeError, "values has dtype float32 but features float64; convert"),
    (V, torch.zeros(2, 5, 17), {}, ValueError, "features has 17 columns.* 1 to 16"),
    (V, torch.zeros(2, 5, 0), {}, ValueError, "features has 0 columns.* 1 to 16"),
    (V, torch.zeros(2, 4, 2), {}, ValueError, "one row per point"),
    (V, torch.zeros(3, 5, 2), {}, ValueError, "as many sets of points"),
    (V[:, :0], F[:, :0], {}, ValueError, "without points"),
    (V, NAN, {}, ValueError, "features contains NaN"),
    (V, F + 1e30, {}, ValueError, r"features reach 1e.30 bandwidths.* \(theta\)$"),
    (V, F + 1e7, {}, ValueError, r"features reach 1e.07 .*float64 by .double\(\) of every"),
    (V + float("inf"), F, {}, ValueError, "values contains infinity"),
    (V + 1e38, F, {}, ValueError, r"values reaches 1e\+38.*rescale"),
    (V, F, {"normalization": "rows"}, ValueError, "normalization is 'rows'"),
    (V, F, {"quality": "best"}, ValueError, "quality is 'best'"),
    (V, F, {"method": "fft"}, ValueError, "method is 'fft'"),
    (V, F, {"method": "exact", "backend": "cpu"}, ValueError, "leave backend at 'auto'"),
    (V, NAN, {"method": "exact"}, ValueError, "features contains NaN"),
    (V, F.to("meta"), {}, ValueError, "values is on cpu but features on meta"),
]


@pytest.mark.parametrize("values, features, options, kind, message", BAD)
def test_bad_points_raise_one_clear_sentence(values, features, options, kind, message):
    with pytest.raises(kind, match=message):
        gaussian_filter(values, features, **options)


# --- the layer -----------------------------------------------------------------------------------


def plain_bilateral(values, guide, position, theta_guide, normalization="after", spacing=None):
    """The definition on one image [C, H, W] and guide [G, H, W]."""
    size = values.shape[1:]
    steps = spacing or (1.0,) * len(size)
    axes = [torch.arange(n, dtype=values.dtype) * s for n, s in zip(size, steps, strict=True)]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(size))
    features = torch.cat([at / position, guide.flatten(1).mT / theta_guide], 1)
    rows = values.flatten(1).mT
    return plain(rows[None], features[None], normalization)[0].mT.reshape(values.shape)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("size", [(4, 5), (2, 3, 2)])
def test_the_exact_layer_and_all_its_gradients_equal_the_definition(size, normalization):
    layer = BilateralFilter(
        2.0, (0.5, 0.8), normalization=normalization, method="exact"
    ).double()
    values, guide = drawn(1, 3, *size), drawn(1, 2, *size, seed=1)
    cotangent = drawn(1, 3, *size, seed=2)
    with torch.no_grad():
        layer.log_position += 0.3
        layer.log_guide += torch.tensor([0.1, -0.2])
    spacing = (1.5, 0.5, 2.0)[: len(size)]
    given = [values, guide, layer.log_position, layer.log_guide]

    def found(values, guide, log_position, log_guide):
        parameters = {"log_position": log_position, "log_guide": log_guide}
        return torch.func.functional_call(
            layer, parameters, (values, guide), {"spacing": spacing}
        )

    def wanted(values, guide, log_position, log_guide):
        position = 2.0 * BANDWIDTH_RANGE ** log_position.tanh()
        theta = torch.tensor([0.5, 0.8]).double() * BANDWIDTH_RANGE ** log_guide.tanh()
        return plain_bilateral(
            values[0], guide[0], position, theta, normalization, spacing
        )[None]

    pairs = zip(
        gradients(found, given, cotangent), gradients(wanted, given, cotangent), strict=True
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)  # bandwidths began as float32


@pytest.mark.parametrize("thetas", [(2.0, 0.5), (None, 0.5), ((2.0, 1.0), None)])
def test_gradients_of_the_layer_equal_finite_differences(backend, thetas):
    layer = BilateralFilter(*thetas, backend=backend).double()
    values = drawn(2, 1, 3, 4).requires_grad_()
    mask = drawn(2, 3, 4, seed=3) > -0.8
    guide = None if thetas[1] is None else drawn(2, 2, 3, 4, seed=1).requires_grad_()
    learned = [p for p in (layer.log_position, layer.log_guide) if p is not None]
    with torch.no_grad():  # at 2.0 pixels of a regular grid lie on the faces of simplices
        for parameter in learned:
            parameter += torch.linspace(0.13, 0.17, len(parameter), dtype=torch.float64)

    def filtered(values, *rest):
        return layer(values, guide, mask=mask)

    given = [values, *([] if guide is None else [guide]), *learned]
    assert torch.autograd.gradcheck(filtered, given)


def test_a_masked_image_is_filtered_like_its_crop_and_keeps_the_rest(backend):
    layer = BilateralFilter(3.0, 0.7, backend=backend)
    values = drawn(1, 2, 5, 6).float()
    mask = torch.zeros(1, 5, 6, dtype=torch.bool)
    mask[:, :4, :3] = True
    values[:, :, 4:] = float("nan")
    out = layer(values, mask=mask)
    torch.testing.assert_close(out[..., :4, :3], layer(values[..., :4, :3]))
    assert torch.equal(out[..., 3:].nan_to_num(7), values[..., 3:].nan_to_num(7))


def test_learning_finds_the_bandwidth_that_made_the_target():
    torch.manual_seed(0)
    values = torch.rand(1, 1, 16, 17)
    target = BilateralFilter(2.0, 0.3, trainable=False)(values)
    layer = BilateralFilter(4.0, 0.15)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        (layer(values) - target).square().sum().backward()
        optimizer.step()
    assert abs(layer.theta_position.item() - 2.0) < 0.2
    assert abs(layer.theta_guide.item() - 0.3) < 0.03


def test_a_state_dict_brings_the_bandwidths_to_a_layer_of_others():
    one, other = BilateralFilter(4.0, (0.1, 0.2)), BilateralFilter(1.0, (7.0, 8.0))
    with torch.no_grad():
        one.log_position += 0.5
    other.load_state_dict(one.state_dict())
    values, guide = torch.rand(1, 3, 4, 5), torch.rand(1, 2, 4, 5)
    assert torch.equal(one(values, guide), other(values, guide))
    fixed = BilateralFilter(4.0, None, trainable=False)
    assert not list(fixed.parameters()) and "theta_position=[4.0]" in repr(fixed)


def test_a_bandwidth_that_is_left_out_is_none():
    for given in ({"theta_position": 2.0}, {"theta_guide": 0.5}):
        layer, values = BilateralFilter(**given), torch.rand(1, 3, 4, 5)
        both = BilateralFilter(*(given.get(name) for name in ("theta_position", "theta_guide")))
        assert torch.equal(layer(values), both(values))


X = torch.zeros(1, 3, 4, 5)
BAD_MAPS = [
    ((X[0],), {}, ValueError, r"values has shape \(3, 4, 5\); it must be \[B, C, H, W\]"),
    ((X, X[..., :4]), {}, ValueError, r"guide has shape \(1, 3, 4, 4\) but values"),
    ((X, X[:, 0]), {}, ValueError, r"guide has shape \(1, 4, 5\).*\[B, G, \*S\]"),
    ((X, X.bool()), {}, TypeError, "guide has dtype bool"),
    ((X, torch.zeros(1, 15, 4, 5)), {}, ValueError, "guide has 15 channels.* 1 to 14"),
    ((X,), {"mask": X[:, 0]}, TypeError, r"mask has dtype float32.*mask > 0"),
    ((X,), {"mask": X > 0}, ValueError, r"mask has shape.*\[B, \*S\]"),
    ((X,), {"spacing": (1.0,)}, ValueError, "spacing"),
    ((X.double(),), {}, TypeError, r"float64 on cpu but this BilateralFilter.*bilateral.to\("),
    ((X, X + float("nan")), {}, ValueError, "guide contains NaN"),
    ((X.int(),), {}, TypeError, "values has dtype int32"),
    ((X[..., :0],), {}, ValueError, "without pixels"),
]


@pytest.mark.parametrize("args, options, kind, message", BAD_MAPS)
def test_bad_maps_raise_one_clear_sentence(args, options, kind, message):
    with pytest.raises(kind, match=message):
        BilateralFilter(2.0, 0.5)(*args, **options)


def test_a_layer_of_other_bandwidths_than_the_maps_raises_one_clear_sentence():
    with pytest.raises(ValueError, match="both None"):
        BilateralFilter()
    with pytest.raises(ValueError, match="theta_guide is None"):
        BilateralFilter(2.0, None)(X, X)
    with pytest.raises(ValueError, match="theta_guide has 2 numbers but the guide has 3 channels"):
        BilateralFilter(2.0, (1.0, 1.0))(X)
    with pytest.raises(ValueError, match="theta_position has 3 numbers.*2 spatial axes"):
        BilateralFilter((1.0, 1.0, 1.0), 1.0)(X)
