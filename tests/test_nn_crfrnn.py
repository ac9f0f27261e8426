"""Tests of CRFRNN, the trainable layer: what it is made of, what it accepts, and that it learns."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN, engines  # noqa: E402
from densecrf_rnn.engines import why_unavailable  # noqa: E402
from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD, crfrnn, functional  # noqa: E402
from densecrf_rnn.nn.ops import dispatch  # noqa: E402
from densecrf_rnn.params import SPATIAL_FILTERS  # noqa: E402


def problem(*size, **options):
    return make.problem(0, *size, dtype=options.pop("dtype", torch.float32), **options)


def perturbed(num_classes, **options):
    """A layer whose every parameter has moved away from its start."""
    crf = CRFRNN(num_classes, params=make.small_params(), **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return crf


def gradients(crf, logits, image):
    """The output and all gradients for one fixed cotangent, leaving nothing behind in .grad."""
    logits = logits.detach().requires_grad_()
    out = crf(logits, image)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out.detach(), *torch.autograd.grad(out, [logits, *crf.parameters()], cotangent)


def all_equal(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.fixture
def one_thread():
    """Starts the test on one thread, and gives torch its number of threads back afterwards."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


# --- what it is made of --------------------------------------------------------------------------


def test_crfrnn_defaults_are_the_published_ones():
    crf = CRFRNN(4)
    assert (crf.iterations, crf.eval_iterations) == (5, 10)
    assert crf.params == CRFParams()
    assert torch.equal(crf.kernel_weights, torch.tensor([[5.0] * 4, [3.0] * 4]))
    assert torch.equal(crf.compatibility, 1 - torch.eye(4))
    assert [name for name, _ in crf.named_parameters()] == ["kernel_weights", "compatibility"]


@pytest.mark.parametrize("form, shape", [("scalar", (2,)), ("diagonal", (2, 4)),
                                         ("full", (2, 4, 4))])
def test_crfrnn_kernel_weights_have_the_shape_of_their_form(form, shape):
    assert CRFRNN(4, kernel_weights=form).kernel_weights.shape == shape


def test_crfrnn_forms_start_as_the_same_function():
    logits, image = problem(6, 7, labels=4)
    outputs = [CRFRNN(4, kernel_weights=form)(logits, image) for form in make.FORMS]
    for out in outputs[1:]:
        torch.testing.assert_close(out, outputs[0], rtol=1e-6, atol=1e-6)


def test_crfrnn_full_weights_start_diagonal():
    weights = CRFRNN(3, kernel_weights="full").kernel_weights
    assert torch.equal(weights, torch.stack([5 * torch.eye(3), 3 * torch.eye(3)]))


def test_crfrnn_takes_weights_per_label_from_params():
    crf = CRFRNN(3, params=CRFParams(w_bilateral=(1.0, 2.0, 4.0), w_spatial=0.5))
    assert torch.equal(crf.kernel_weights, torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.5, 0.5]]))
    full = CRFRNN(3, params=crf.params, kernel_weights="full").kernel_weights
    assert torch.equal(full[0], torch.diag(torch.tensor([1.0, 2.0, 4.0])))


def test_crfrnn_potts_compatibility_is_saved_but_not_trained():
    crf = CRFRNN(3, compatibility="potts")
    assert [name for name, _ in crf.named_parameters()] == ["kernel_weights"]
    assert not crf.compatibility.requires_grad
    assert set(crf.state_dict()) == {"kernel_weights", "compatibility", "_extra_state"}
    assert torch.equal(crf.compatibility, 1 - torch.eye(3))


def test_crfrnn_normalization_and_self_term_replace_those_of_params():
    crf = CRFRNN(3, params=CRFParams(theta_beta=7), normalization="before", self_term=False)
    assert crf.params == CRFParams(theta_beta=7, normalization="before", self_term=False)


def test_crfrnn_runs_fewer_iterations_in_training_than_in_evaluation():
    logits, image = problem(6, 7)
    crf = CRFRNN(3, params=make.small_params(), iterations=2, eval_iterations=4)
    for training, iterations in ((True, 2), (False, 4)):
        wanted = functional.mean_field(logits, image, crf.params, iterations=iterations)
        torch.testing.assert_close(crf.train(training)(logits, image), wanted)
    assert not torch.allclose(crf.train()(logits, image), crf.eval()(logits, image))


@pytest.mark.parametrize("iterations", [0, 1])
def test_crfrnn_few_iterations_work(iterations):
    logits, image = problem(6, 7)
    crf = CRFRNN(3, iterations=iterations)
    assert torch.equal(crf(logits, image), logits) == (iterations == 0)


def test_crfrnn_one_class_equals_two_labels():
    logits, image = problem(6, 7, labels=1)
    one, two = CRFRNN(1, params=make.small_params()), CRFRNN(2, params=make.small_params())
    found = one(logits, image)
    pair = two(torch.cat([torch.zeros_like(logits), logits], 1), image)
    assert found.shape == logits.shape
    torch.testing.assert_close(found, pair[:, 1:] - pair[:, :1])
    torch.testing.assert_close(found.sigmoid(), pair.softmax(1)[:, 1:])


def test_crfrnn_equals_the_functional_form():
    logits, image = problem(6, 7, batch=2)
    crf = perturbed(3, kernel_weights="full", self_term=False)
    wanted = functional.mean_field(
        logits, image, crf.params, kernel_weights=crf.kernel_weights,
        compatibility=crf.compatibility, spacing=(2.0, 0.5),
    )
    assert torch.equal(crf(logits, image, spacing=(2.0, 0.5)), wanted)


def test_crfrnn_follows_double():
    logits, image = problem(6, 7, dtype=torch.float64)
    out = CRFRNN(3).double()(logits, image)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), CRFRNN(3)(logits.float(), image.float()),
                               rtol=1e-3, atol=1e-3)


def test_crfrnn_state_dict_round_trip():
    logits, image = problem(6, 7)
    crf, other = perturbed(3), CRFRNN(3, params=make.small_params())
    file = io.BytesIO()
    torch.save(crf.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all_equal(gradients(other, logits, image), gradients(crf, logits, image))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("compatibility", ["learned", "potts"])
def test_crfrnn_survives_copying_and_pickling(duplicate, compatibility):
    logits, image = problem(6, 7)
    crf = perturbed(3, compatibility=compatibility)
    other = duplicate(crf)
    assert other.kernel_weights is not crf.kernel_weights
    assert all_equal(gradients(other, logits, image), gradients(crf, logits, image))


def test_crfrnn_hands_its_memory_budget_on(monkeypatch):
    logits, image = problem(6, 7)
    seen = []
    monkeypatch.setattr(
        crfrnn, "mean_field", lambda *args, **options: seen.append(options["memory_budget"])
    )
    CRFRNN(3)(logits, image)
    CRFRNN(3, memory_budget=12345)(logits, image)
    assert seen == [2**30, 12345]


def test_crfrnn_prints_its_settings():
    text = repr(CRFRNN(3, params=CRFParams(theta_beta=7), iterations=4, kernel_weights="full"))
    for part in ("num_classes=3", "theta_beta=7.0", "iterations=4", "eval_iterations=10",
                 "[2, 3, 3]"):
        assert part in text


# --- what it accepts -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (9, 1), (7, 11), (2, 3), (3, 4, 5), (1, 1, 6)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_crfrnn_takes_images_of_any_size_and_channels(size, channels):
    logits, image = problem(*size, batch=2, channels=channels)
    out, *found = gradients(CRFRNN(3), logits, image)
    assert out.shape == logits.shape and out.dtype == logits.dtype
    assert all(tensor.isfinite().all() for tensor in (out, *found))


@pytest.mark.parametrize("num_classes", [1, 3])
def test_crfrnn_empty_batch_comes_back_empty(num_classes):
    crf = CRFRNN(num_classes)
    logits, image = problem(6, 7, batch=0, labels=num_classes)
    logits.requires_grad_()
    out = crf(logits, image)
    assert out.shape == (0, num_classes, 6, 7)
    out.sum().backward()
    assert logits.grad.shape == logits.shape
    assert (crf.compatibility.grad == 0).all() and (crf.kernel_weights.grad == 0).all()


def test_crfrnn_takes_bytes():
    logits, image = problem(6, 7)
    image = image.to(torch.uint8)
    assert torch.equal(CRFRNN(3)(logits, image), CRFRNN(3)(logits, image.float()))


@pytest.mark.parametrize("layout", ["channels last", "slices", "strides", "expanded", "rotated"])
def test_crfrnn_takes_tensors_of_any_memory_layout(layout):
    logits, image = problem(6, 7, batch=2)
    change = {
        "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "slices": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1, 1, 1))[:, 1:-1, 3:-1, 1:-2],
        "strides": lambda x: x.repeat_interleave(2, -1)[..., ::2],
        "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
        "rotated": lambda x: x.mT.contiguous().mT,
    }[layout]
    logits, image = change(logits), change(image)
    assert not logits.is_contiguous()
    crf = perturbed(3)
    wanted = gradients(crf, logits.contiguous(), image.contiguous())
    assert all_equal(gradients(crf, logits, image), wanted)


def test_crfrnn_leaves_its_inputs_unchanged():
    logits, image = problem(6, 7, batch=2)
    crf = perturbed(3)
    kept = copy.deepcopy([logits, image, *crf.parameters()])
    gradients(crf, logits, image)
    assert all_equal([logits, image, *crf.parameters()], kept)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_crfrnn_works_without_gradients(mode):
    logits, image = problem(6, 7)
    crf = CRFRNN(3)
    with mode():
        out = crf(logits, image)
    assert not out.requires_grad
    assert torch.equal(out, crf(logits, image))


def test_crfrnn_accepts_tensors_made_in_inference_mode():
    with torch.inference_mode():
        logits, image = problem(6, 7)
        out = CRFRNN(3)(logits, image)
    assert out.shape == logits.shape


def test_crfrnn_under_autocast_equals_that_without():
    logits, image = problem(6, 7)
    crf = perturbed(3)
    out, *wanted = gradients(crf, logits, image)
    with torch.autocast("cpu", torch.bfloat16):
        found = crf(logits.requires_grad_(), image)
    assert torch.equal(found, out)
    # Outside the context, as torch asks of every backward pass.
    cotangent = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    assert all_equal(torch.autograd.grad(found, [logits, *crf.parameters()], cotangent), wanted)


@pytest.mark.parametrize("self_term", [True, False])
def test_crfrnn_compiles_into_one_graph(self_term):
    logits, image = problem(6, 7, batch=2)
    crf = perturbed(3, self_term=self_term)
    torch._dynamo.reset()
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    wanted = gradients(crf, logits, image)
    logits.requires_grad_()
    out = compiled(logits, image)
    cotangent = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    found = torch.autograd.grad(out, [logits, *crf.parameters()], cotangent)
    for a, b in zip((out, *found), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
def test_crfrnn_compiled_for_one_size_and_for_all_gives_the_same(spatial):
    crf = CRFRNN(3, params=make.small_params(spatial=spatial))
    torch._dynamo.reset()
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    for size in ((6, 7), (8, 9), (11, 5)):  # from the second on the sizes are symbols
        logits, image = problem(*size)
        torch.testing.assert_close(compiled(logits, image), crf(logits, image))


# --- how it runs ---------------------------------------------------------------------------------


class Counting:
    """An engine that counts the lattices it builds, by their number of features, call by call."""

    def __init__(self, engine):
        self.engine, self.built = engine, []

    def build(self, features, plans, quality, threads):
        self.built.append([rows.shape[1] for rows in features])
        return self.engine.build(features, plans, quality, threads)

    def __getattr__(self, name):
        return getattr(self.engine, name)


@pytest.mark.parametrize("normalization, self_term", [("after", True), ("symmetric", False)])
@pytest.mark.parametrize("iterations", [0, 1, 7])
@pytest.mark.parametrize("spatial", SPATIAL_FILTERS)
def test_crfrnn_builds_each_lattice_once_and_those_of_a_batch_in_one_call(
    monkeypatch, iterations, normalization, self_term, spatial
):
    counting = Counting(engines.engine("auto"))
    monkeypatch.setattr(dispatch, "engine", lambda name: counting)
    params = CRFParams(normalization=normalization, self_term=self_term, spatial=spatial)
    crf = CRFRNN(3, params=params, iterations=iterations)
    logits, image = problem(6, 7, batch=3)
    out = crf(logits.requires_grad_(), image.requires_grad_())
    # A bilateral lattice (x, y and three channels) for each image; one spatial lattice for all.
    wanted = [[5, 5, 5], [2]] if spatial == "lattice" else [[5, 5, 5]]
    assert counting.built == wanted
    out.sum().backward()
    assert counting.built == wanted


@pytest.mark.parametrize("form", ["diagonal", "full"])
@pytest.mark.parametrize("num_classes", [1, 2, 17, 21])
def test_crfrnn_results_do_not_depend_on_the_number_of_threads(one_thread, num_classes, form):
    # Enough pixels that matrix products and lattices are in fact split among threads.
    logits, image = problem(61, 67, batch=2, labels=num_classes)
    crf = perturbed(num_classes, kernel_weights=form, self_term=False)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(gradients(crf, logits, image))
    assert all_equal(results[1], results[0])
    assert all_equal(results[2], results[0])


def test_crfrnn_results_do_not_change_from_run_to_run():
    logits, image = problem(31, 37, batch=2, labels=21)
    crf = perturbed(21)
    first = gradients(crf, logits, image)
    assert all(all_equal(gradients(crf, logits, image), first) for _ in range(3))


def test_crfrnn_serves_two_threads_at_once():
    # Different sizes, so that a buffer shared between calls would show at once.
    crf = perturbed(3)
    cases = [problem(*size, batch=2) for size in ((9, 11), (14, 6), (5, 5), (8, 17))] * 10
    serial = [gradients(crf, *case) for case in cases[:4]] * 10
    with ThreadPoolExecutor(2) as pool:
        parallel = list(pool.map(lambda case: gradients(crf, *case), cases))
    assert all(map(all_equal, parallel, serial))


# --- wrap ----------------------------------------------------------------------------------------


def tiny_backbone(stride=1):
    torch.manual_seed(3)
    return torch.nn.Conv2d(3, 4, 3, padding=1, stride=stride)


def test_wrap_feeds_the_head_the_image_in_0_to_255():
    _, image = problem(8, 10, batch=2)
    mean, std = (torch.tensor(t).reshape(3, 1, 1) for t in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (image / 255 - mean) / std
    model = CRFRNN.wrap(tiny_backbone(), 4, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    guides = []
    model.crf.register_forward_pre_hook(lambda module, args: guides.append(args[1]))
    found = model(normalised)
    torch.testing.assert_close(guides[0], image, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        found, model.crf(model.backbone(normalised), guides[0]), rtol=0, atol=0
    )


@pytest.mark.parametrize("mean, std, scale", [(0.0, 1.0, 1.0), (0.5, 0.25, 255.0), (0, 1, 4)])
def test_wrap_takes_one_mean_and_deviation_for_all_channels(mean, std, scale):
    image = torch.rand(1, 3, 6, 7) + 1
    model = CRFRNN.wrap(tiny_backbone(), 4, mean=mean, std=std, scale=scale)
    wanted = model.crf(model.backbone(image), (image * std + mean) * scale)
    torch.testing.assert_close(model(image), wanted)


def test_wrap_enlarges_small_logits_to_the_image():
    _, image = problem(9, 14)
    model = CRFRNN.wrap(tiny_backbone(stride=4), 4, scale=1)
    small = model.backbone(image)
    assert small.shape[2:] == (3, 4)
    large = torch.nn.functional.interpolate(small, (9, 14), mode="bilinear", align_corners=False)
    out = model(image)
    assert out.shape == (1, 4, 9, 14)
    assert torch.equal(out, model.crf(large, image))


def test_wrap_takes_volumes():
    _, image = problem(5, 6, 7)
    backbone = torch.nn.Conv3d(3, 2, 1, stride=2)
    assert CRFRNN.wrap(backbone, 2, scale=1)(image).shape == (1, 2, 5, 6, 7)


def test_wrap_trains_backbone_and_head_together():
    _, image = problem(8, 10)
    model = CRFRNN.wrap(tiny_backbone(), 4, scale=1, kernel_weights="full", iterations=2)
    assert model.crf.iterations == 2 and model.crf.kernel_weights.shape == (2, 4, 4)
    torch.nn.functional.cross_entropy(model(image), torch.zeros(1, 8, 10).long()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_wrap_saves_nothing_but_weights_and_settings():
    model = CRFRNN.wrap(tiny_backbone(), 4, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert set(model.state_dict()) == {
        "backbone.weight", "backbone.bias", "crf.kernel_weights", "crf.compatibility",
        "_extra_state", "crf._extra_state",
    }


# --- learning ------------------------------------------------------------------------------------

CELL, CORE = 12, 5


def cycles(seed, count):
    """Pictures in which every label is surrounded by the next: 0 by 1, 1 by 2, 2 by 0.

    Each of the four cells of a picture has a colour and a square core. The logits know the labels
    of the cores and nothing about their surroundings. Returns logits, images, labels and where
    the surroundings are.
    """
    generator = torch.Generator().manual_seed(seed)
    core = torch.randint(3, (count, 2, 2), generator=generator)
    order = torch.stack([torch.randperm(4, generator=generator) for _ in range(count)])
    colours = torch.tensor([[30.0, 30, 30], [220, 60, 60], [60, 220, 60], [60, 60, 220]])
    image = colours[order].mT.reshape(count, 3, 2, 2)
    core, image = (x.repeat_interleave(CELL, -2).repeat_interleave(CELL, -1)
                   for x in (core, image))
    inside = torch.zeros(core.shape, dtype=torch.bool)
    corners = torch.randint(CELL - CORE + 1, (count, 2, 2, 2), generator=generator)
    for b, row, column in torch.cartesian_prod(torch.arange(count), *[torch.arange(2)] * 2):
        y, x = (corners[b, row, column] + CELL * torch.stack([row, column])).tolist()
        inside[b, y : y + CORE, x : x + CORE] = True
    labels = torch.where(inside, core, (core + 1) % 3)
    logits = torch.randn(count, 3, 2 * CELL, 2 * CELL, generator=generator)
    logits += 5 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * inside[:, None]
    return logits, image + 2 * torch.randn(image.shape, generator=generator), labels, ~inside


def symmetrised(matrix):
    """The symmetric matrix nearest to one that acts as `matrix` does.

    A constant added to a column adds the same penalty to all labels and changes nothing, so it
    must not count as asymmetry: first the column constants that make the matrix most symmetric.
    """
    shifted = matrix - (matrix - matrix.T).mean(0)
    return (shifted + shifted.T) / 2


def train(symmetric, seed=0, steps=150):
    """A layer trained on `cycles`, and a function from pictures to its accuracy around cores."""
    params = CRFParams(theta_alpha=20, theta_beta=20, theta_gamma=2, w_bilateral=3, w_spatial=1)
    # Weights per label could undo the symmetry of a matrix, so both kernels have a single one.
    crf = CRFRNN(3, params=params, kernel_weights="scalar", iterations=5, eval_iterations=5)
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.05)
    logits, image, labels, _ = cycles(seed, 6)

    def refine(logits, image, matrix):
        return functional.mean_field(
            logits, image, params, kernel_weights=crf.kernel_weights, compatibility=matrix
        )

    for _ in range(steps):
        matrix = crf.compatibility
        out = refine(logits, image, (matrix + matrix.T) / 2) if symmetric else crf(logits, image)
        loss = torch.nn.functional.cross_entropy(out, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    crf.requires_grad_(False)

    def accuracy(pictures, matrix=None):
        logits, image, labels, around = pictures
        out = refine(logits, image, crf.compatibility if matrix is None else matrix)
        return (out.argmax(1) == labels)[around].double().mean().item()

    return crf, accuracy


def test_crfrnn_learns_an_asymmetric_compatibility_that_no_symmetric_one_can_replace(one_thread):
    # Near 0 label 1 must beat 2, near 1 label 2 must beat 0, near 2 label 0 must beat 1. With a
    # symmetric matrix mu that reads mu01 < mu02, mu12 < mu01 and mu02 < mu12: impossible.
    # (One thread: on so few pixels a second one that waits for a busy processor costs a lot.)
    unseen = cycles(99, 12)
    logits, _, labels, around = unseen
    alone = (logits.argmax(1) == labels)[around].double().mean().item()
    _, accuracy_at_start = train(symmetric=False, steps=0)
    start = accuracy_at_start(unseen)
    crf, accuracy = train(symmetric=False)
    trained = accuracy(unseen)
    assert trained > alone + 0.4
    assert trained > start + 0.6

    matrix = crf.compatibility
    asymmetry = matrix - matrix.T
    # Around the cycle, constants of columns cancel; Potts has 0.
    assert asymmetry[0, 1] + asymmetry[1, 2] + asymmetry[2, 0] > 3
    assert trained > accuracy(unseen, (matrix + matrix.T) / 2) + 0.5
    assert trained > accuracy(unseen, symmetrised(matrix)) + 0.5
    same, accuracy_of_symmetric = train(symmetric=True)
    assert trained > accuracy_of_symmetric(unseen, symmetrised(same.compatibility)) + 0.15


# --- found in review -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_segmenter_trains_under_autocast(dtype):
    """The backbone gives half precision there; the head computes in float32 and gives float32."""
    torch.manual_seed(0)
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 3, 1), 3)
    image = torch.rand(1, 3, 6, 7)
    with torch.autocast("cpu", dtype):
        refined = model(image)
        logits = model.backbone(image)
        assert logits.dtype == dtype and refined.dtype == torch.float32
        loss = torch.nn.functional.cross_entropy(refined, torch.zeros(1, 6, 7).long())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.equal(refined, model.crf(logits.float(), image * 255))


def test_segmenter_passes_spacing_on():
    model = CRFRNN.wrap(torch.nn.Conv3d(1, 2, 1), 2)
    volume = torch.rand(1, 1, 3, 4, 5)
    wanted = model.crf(model.backbone(volume), volume * 255, spacing=(5, 1, 1))
    assert torch.equal(model(volume, spacing=(5, 1, 1)), wanted)


@pytest.mark.parametrize("options", [{"std": 0}, {"scale": 0}, {"mean": None}, {"std": "x"}])
def test_wrap_refuses_statistics_that_cannot_be(options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, **options)


def test_compiled_layer_still_refuses_nan():
    """The check runs inside the operator, so tracing does not lose it."""
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    layer = torch.compile(CRFRNN(3), fullgraph=True, backend="aot_eager")
    logits, image = torch.zeros(1, 3, 4, 5), torch.rand(1, 3, 4, 5) * 255
    layer(logits, image)
    logits[0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="logits contains NaN"):
        layer(logits, image)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_layer_names_the_image_that_it_refuses(dynamic, value):
    torch._dynamo.reset()
    layer = torch.compile(CRFRNN(3), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    logits, image = torch.zeros(1, 3, 4, 5), torch.rand(1, 3, 4, 5) * 255
    layer(logits, image)
    image[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match="image contains (NaN|infinity)"):
        layer(logits, image)


def test_products_of_weights_beyond_the_range_are_refused():
    weights, mu = torch.full((2, 3), 1e38), 100 * (1 - torch.eye(3))
    logits, image = torch.zeros(1, 3, 4, 5), torch.rand(1, 3, 4, 5) * 255
    with pytest.raises(ValueError, match="messages could exceed the range"):
        functional.mean_field(logits, image, kernel_weights=weights, compatibility=mu)


def test_zero_iterations_do_not_hand_the_input_back(backend):
    logits, image = torch.zeros(1, 2, 1, 1), torch.zeros(1, 3, 1, 1)
    functional.mean_field(logits, image, iterations=0, backend=backend).add_(7)
    assert logits.abs().max() == 0


def test_image_may_require_grad_where_no_gradient_is_recorded():
    image = torch.rand(1, 3, 4, 5, requires_grad=True)
    with torch.no_grad():
        CRFRNN(2)(torch.zeros(1, 2, 4, 5), image * 255)
