"""Engine "torch": the lattice of the native engine, bit for bit, on whatever device torch has."""

import pytest

torch = pytest.importorskip("torch")
hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

import nn_problems as make  # noqa: E402

from densecrf_rnn import (  # noqa: E402
    BackendUnavailableError, CRFRNN, GibbsCRF, PermutohedralLattice, engines, mean_field, refine,
)  # fmt: skip
from densecrf_rnn.engines import registry  # noqa: E402
from densecrf_rnn.nn import functional, self_test  # noqa: E402
from densecrf_rnn.nn.gibbs import sampling  # noqa: E402
from densecrf_rnn.nn.ops import dispatch  # noqa: E402
from densecrf_rnn.nn.ops.kernels import Lattice  # noqa: E402
from densecrf_rnn.nn.ops.lattice_build import lattice_build, lattice_feature_gradient  # noqa: E402
from densecrf_rnn.nn.ops.lattice_filter import (  # noqa: E402
    lattice_filter, lattice_filter_weight_gradient,
)  # fmt: skip
from densecrf_rnn.nn.ops.lattice_self_response import (  # noqa: E402
    lattice_self_response, lattice_self_response_gradient,
)  # fmt: skip
from densecrf_rnn.nn.torch_engine import sums  # noqa: E402
from densecrf_rnn.params import QUALITIES  # noqa: E402

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=["cpu", "numba"])
def other(request):
    """An engine that shares no code with engine "torch"."""
    reason = engines.why_unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


@st.composite
def clouds(draw, most=8):
    """Features [B, N, D]: points apart, repeated, on faces of simplices, close or far away."""
    batch, points = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3, 13, 64]))
    dims, dtype = draw(st.integers(1, most)), draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    found = torch.randn(batch, points, dims, generator=generator, dtype=torch.float64)
    found *= draw(st.sampled_from([0.0, 0.3, 2.0, 30.0, 1000.0]))
    if draw(st.booleans()):  # ties in rounding and in rank
        found = (2 * found).round() / 2
    return found.to(dtype)


def vertices(lattice, backend):
    """How many vertices the lattices of a batch have."""
    if backend == "torch":
        return lattice[2].shape[1] - 1
    engine = engines.engine(backend)
    return sum(map(engine.num_vertices, Lattice(*lattice).plans(len(lattice[0]))))


@hypothesis.given(clouds(), st.sampled_from(QUALITIES), st.integers(0, 2**31))
def test_lattices_are_those_of_other_engines(other, features, quality, seed):
    found, wanted = (lattice_build(features, quality, name) for name in ("torch", other))
    assert vertices(found, "torch") == vertices(wanted, other)
    assert torch.equal(found[1], wanted[1])  # barycentric weights, to the bit
    batch, points, dims = features.shape
    generator = torch.Generator().manual_seed(seed)
    values, cotangent, d_weight = (
        torch.randn(batch, points, width, generator=generator, dtype=features.dtype)
        for width in (3, 3, dims + 1)
    )
    exact = features.dtype == torch.float64
    close = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 1e-5, "atol": 2e-5}
    calls = {
        "K": lambda *of: lattice_filter(values, of[0], False, of[1]),
        "K'": lambda *of: lattice_filter(values, of[0], True, of[1]),
        "weights": lambda *of: lattice_filter_weight_gradient(
            values, cotangent, of[0], True, of[1]
        ),
        "diagonal": lattice_self_response,
        "of the diagonal": lambda *of: lattice_self_response_gradient(values[..., 0], *of),
        "features": lambda _, name: lattice_feature_gradient(features, d_weight, name),
    }
    for what, call in calls.items():
        got, expected = call([*found], "torch"), call([*wanted], other)
        torch.testing.assert_close(got, expected, msg=lambda m, w=what: f"{w}: {m}", **close)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("dims", [3, 8, 16])
def test_keys_of_several_words_never_wrap(dims, quality):
    generator = torch.Generator().manual_seed(dims)
    features = torch.randn(2, 9, dims, generator=generator, dtype=torch.float64) * 1e5
    features = torch.cat([features, features + 0.3], dim=1)
    found, wanted = (lattice_build(features, quality, name) for name in ("torch", "cpu"))
    assert vertices(found, "torch") == vertices(wanted, "cpu")
    values = torch.randn(2, 18, 2, generator=generator, dtype=torch.float64)
    got = lattice_filter(values, [*found], False, "torch")
    torch.testing.assert_close(got, lattice_filter(values, [*wanted], False, "cpu"))


@pytest.mark.parametrize("self_term", [True, False])
@pytest.mark.parametrize("budget", [1, 2**30])
@pytest.mark.parametrize("spread", [20.0, 500.0])  # fewer vertices than points, and more
def test_gradients_do_not_depend_on_the_memory_budget(spread, budget, self_term):
    logits, image = make.problem(0, 9, 11, batch=2)
    params = make.small_params(self_term=self_term, theta_beta=255 / spread)

    def gradients(backend, budget):
        leaves = [t.clone().requires_grad_() for t in (logits, image)]
        refined = functional.mean_field(
            *leaves, params, backend=backend, memory_budget=budget, warn=False
        )
        return torch.autograd.grad(refined.sin().sum(), leaves)

    for got, wanted in zip(gradients("torch", budget), gradients("cpu", 2**30), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_the_same_in_any_batch_and_run(dtype):
    logits, image = make.problem(3, 8, 9, batch=3, dtype=dtype)
    params = make.small_params()
    together = functional.mean_field(logits, image, params, backend="torch")
    assert torch.equal(together, functional.mean_field(logits, image, params, backend="torch"))
    for b in range(3):
        one = (logits[b : b + 1], image[b : b + 1])
        alone = functional.mean_field(*one, params, backend="torch")
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("masked", [False, True])
def test_devices_without_embedding_bag_get_the_same_results(masked, monkeypatch):
    given = (*make.problem(1, 8, 9, batch=2), make.small_params())
    options = {"mask": random_mask(2, 8, 9) if masked else None, "backend": "torch"}
    wanted = functional.mean_field(*given, **options)
    monkeypatch.setattr(sums, "_WITH_BAGS", frozenset())
    found = functional.mean_field(*given, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def random_mask(*shape):
    """Every third pixel or so; nothing of the last image."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.3
    mask[-1] = False
    return mask


@pytest.mark.parametrize("images", [1, 2])  # of one nothing is inside
@pytest.mark.parametrize("options", [
    {}, {"quality": "filled"}, {"quality": "symmetric", "self_term": False},
    {"normalization": "symmetric", "spatial": "lattice"},
], ids=str)  # fmt: skip
def test_masked_gradients_are_those_of_the_cpu_engine(images, options):
    mask = random_mask(images, 9, 8)
    found = []
    for backend in ("cpu", "torch"):
        leaves = [leaf.requires_grad_() for leaf in make.problem(5, 9, 8, batch=images)]
        refined = functional.mean_field(
            *leaves, make.small_params(**options), mask=mask, backend=backend
        )
        found.append([refined, *torch.autograd.grad(refined.square().sum(), leaves)])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1, 1e5])  # keys of one word, and of several
@pytest.mark.parametrize("quality", QUALITIES)
def test_points_outside_the_mask_are_on_no_vertex(quality, scale):
    generator = torch.Generator().manual_seed(0)
    features = scale * torch.randn(2, 13, 8, generator=generator, dtype=torch.float64)
    inside = torch.rand(2, 13, 1, generator=generator, dtype=torch.float64).round()
    first = features[[0, 1], inside[..., 0].argmax(1)]
    features = torch.where(inside > 0, features, first[:, None])  # no vertices of their own
    of = (features, quality, "torch", "features", None)
    found, whole = Lattice(*lattice_build(*of, inside)), Lattice(*lattice_build(*of))
    vertices, kept = found.links.shape[1] - 1, 9 * int(inside.sum())
    assert found.facts.numel() == kept
    outside = found.vertex == vertices
    assert torch.equal(outside, (inside == 0).expand_as(outside))
    values = inside * torch.randn(2, 13, 2, generator=generator, dtype=torch.float64)
    got = lattice_filter(values, [*found], False, "torch")
    wanted = lattice_filter(values, [*whole], False, "torch")
    torch.testing.assert_close(got, wanted * inside)


def test_a_lattice_of_another_engine_is_refused():
    features = torch.zeros(1, 4, 2)
    lattice = lattice_build(features, "standard", "cpu")
    with pytest.raises(ValueError, match="built by another engine; build it with this backend"):
        lattice_filter(torch.zeros(1, 4, 1), [*lattice], False, "torch")


# --- which engine serves -------------------------------------------------------------------------


def needs_serial():
    reason = engines.why_unavailable("serial")
    if reason is not None:
        pytest.skip(reason)


def test_the_self_test_accepts_the_cuda_programs_on_the_serial_launcher():
    needs_serial()
    assert self_test.disagreement("serial", torch.device("cpu")) is None


def test_the_self_test_rejects_an_engine_with_another_result(monkeypatch):
    results = self_test._results

    def wrong(backend, device):
        found = results("cpu", device)
        return found if backend == "torch" else [*found[:3], found[3] * 1.01]

    monkeypatch.setattr(self_test, "_results", wrong)
    reason = self_test.disagreement("serial", torch.device("cpu"))
    assert reason == "in its self-test gradients of features differ from those of engine 'torch'"


def test_the_self_test_rejects_an_engine_that_fails(monkeypatch):
    def fails(backend, device):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(self_test, "_results", fails)
    reason = self_test.disagreement("serial", torch.device("cpu"))
    assert "its self-test failed there (no kernel image)" in reason


def test_auto_selects_torch_on_devices_until_the_cuda_engine_agreed_there(monkeypatch):
    monkeypatch.setattr(registry, "_agreed", set())
    assert registry.for_tensors("auto", "cuda:0") == "torch"
    assert registry.for_tensors("auto", "mps:0") == registry.for_tensors("auto", "xpu") == "torch"
    engines.agree("cuda:0")
    assert registry.for_tensors("auto", "cuda:0") == "cuda"
    assert registry.for_tensors("auto", "cuda:1") == "torch"


def test_auto_selects_torch_on_a_cpu_where_no_other_engine_is(monkeypatch):
    monkeypatch.setattr(registry, "why_unavailable", lambda name: None if name == "torch" else "no")
    dispatch.forget()
    try:
        logits, image = make.problem(0, 5, 6)
        refined = CRFRNN(3).double()(logits, image)
    finally:
        monkeypatch.undo()
        dispatch.forget()
    torch.testing.assert_close(refined, CRFRNN(3).double()(logits, image))


@pytest.mark.parametrize("call", [
    lambda: refine(torch.zeros(2, 3, 4).numpy(), torch.zeros(3, 4, 3).numpy(), backend="torch"),
    lambda: mean_field(torch.zeros(2, 3, 4).numpy(), torch.zeros(3, 4, 3).numpy(), backend="torch"),
    lambda: PermutohedralLattice(torch.zeros(2, 3).numpy(), backend="torch"),
])
def test_functions_of_arrays_refuse_engine_torch_and_name_what_takes_tensors(call):
    with pytest.raises(BackendUnavailableError) as error:
        call()
    assert "computes on torch tensors only; use densecrf_rnn.CRFRNN" in str(error.value)


def test_gibbs_sampling_on_a_device_without_an_engine_is_copied_to_the_cpu(monkeypatch):
    tables, offsets = torch.zeros(2, 3, 3), [(0, 1), (1, 0)]
    crf = GibbsCRF(3, offsets)
    with torch.no_grad():
        crf.tables.copy_(tables + torch.eye(3))
    logits = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    wanted = crf(logits)

    def copying(self, backend, like):
        self._backend, self._native, self._copies = backend, None, True

    monkeypatch.setattr(sampling.TensorEngine, "__init__", copying)
    assert torch.equal(crf(logits), wanted)


def test_gibbs_sampling_refuses_engine_torch():
    with pytest.raises(BackendUnavailableError, match="draws no samples; use backend='auto'"):
        GibbsCRF(3, [(0, 1)], backend="torch")(torch.zeros(1, 3, 4, 4))


# --- graphs --------------------------------------------------------------------------------------


@pytest.fixture
def dynamic_sizes():
    """Let graphs hold operators whose output size depends on values, as lattices' does."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield


@pytest.mark.parametrize("options", [
    {}, {"self_term": False}, {"trainable_bandwidths": True}, {"tied": False}, {"update": "relu"},
    {"params": make.small_params(quality="symmetric", spatial="lattice")},
    {"params": make.small_params(normalization="symmetric")}, {"mask": random_mask(2, 5, 6)},
    {"mask": random_mask(2, 5, 6), "params": make.small_params(quality="filled", self_term=False)},
], ids=str)  # fmt: skip
def test_the_layer_compiles_into_one_graph(dynamic_sizes, options):
    logits, image = make.problem(0, 5, 6, batch=2)
    options = {"params": make.small_params(), "mask": None, **options}
    mask = options.pop("mask")
    crf = CRFRNN(3, **options, backend="torch").double()
    make.assert_compiles_into_one_graph(crf, logits, image, mask=mask)


def test_one_graph_serves_any_batch_and_size(dynamic_sizes):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    crf = CRFRNN(3, params=make.small_params(), backend="torch").double()
    compiled = torch.compile(crf, fullgraph=True, dynamic=True, backend=keep)
    for batch, size in ((2, (5, 6)), (3, (7, 4)), (4, (9, 8))):
        given = make.problem(batch, *size, batch=batch)
        torch.testing.assert_close(compiled(*given), crf(*given))
    assert len(graphs) == 1


def test_the_iterations_are_operations_of_the_graph(dynamic_sizes):
    names = []

    def keep(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    crf = CRFRNN(3, params=make.small_params(), iterations=2, backend="torch").double()
    with torch.no_grad():
        torch.compile(crf, fullgraph=True, backend=keep)(*make.problem(0, 5, 6))
    assert not any("densecrf_rnn.mean_field" in name for name in names)
    assert sum("softmax" in name for name in names) == 2


def test_a_compiled_layer_refuses_nan(dynamic_sizes):
    logits, image = make.problem(0, 5, 6)
    crf = CRFRNN(3, params=make.small_params(), backend="torch").double()
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    compiled(logits, image)
    logits[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="logits contains NaN"):
        compiled(logits, image)


def test_the_layer_is_exported():
    crf = CRFRNN(3, params=make.small_params(), backend="torch").double().eval()
    program = torch.export.export(crf, make.problem(0, 5, 6)).module()
    given = make.problem(1, 5, 6)
    torch.testing.assert_close(program(*given), crf(*given))
