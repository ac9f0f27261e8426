"""CRFRNN(L, multilabel=True): L binary heads that share their lattices."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, mean_field as numpy_mean_field  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.ops import lattice_build  # noqa: E402

PARAMS = CRFParams(**make.SMALL)
FORMS = {"scalar": (2,), "diagonal": (2, 3)}
# Options under which the mean field runs as one operator per map, or filter by filter.
OPTIONS = {
    "fused": {}, "small budget": {"memory_budget": 1}, "relu": {"update": "relu"},
    "all iterations": {"return_all": True}, "exact": {"method": "exact"},
    "no self term": {"params": CRFParams(**make.SMALL, self_term=False)},
    "lattices": {"params": CRFParams(**make.SMALL, spatial="lattice")},
}


def weights_of(form, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + torch.rand(FORMS[form], generator=generator, dtype=torch.float64)


def together(logits, image, weights, **options):
    options = {"params": PARAMS, "iterations": 3, **options}
    found = functional.mean_field(
        logits, image, kernel_weights=weights, multilabel=True, **options
    )
    return torch.stack(found) if isinstance(found, list) else found


def one_by_one(logits, image, weights, **options):
    """The maps as L calls of the binary CRF."""
    options = {"params": PARAMS, "iterations": 3, **options}
    maps = []
    for index in range(logits.shape[1]):
        own = weights if weights.shape[-1] == 2 else weights[..., index]
        found = functional.mean_field(
            logits[:, index : index + 1], image, kernel_weights=own, **options
        )
        maps.append(torch.stack(found) if isinstance(found, list) else found)
    return torch.cat(maps, dim=-1 - image.dim() + 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)], ids=["2-D", "3-D"])
def test_maps_and_their_gradients_equal_a_loop_over_binary_crfs(form, options, size):
    logits, image = make.problem(0, *size, batch=2)
    logits[0, 1, 0] = -3e4
    leaves = [logits, image, weights_of(form)]
    options = {"mask": torch.rand(2, *size) < 0.8, "spacing": (1.5,) * len(size), **options}
    both = []
    for call in (together, one_by_one):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        found = call(*given, **options)
        gradients = torch.autograd.grad(found.sin().sum(), given)
        both.append([found.detach(), *gradients])
    for got, want in zip(*both, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_maps_equal_a_loop_on_every_engine(backend):
    logits, image = make.problem(1, 5, 4, batch=2, dtype=torch.float32)
    weights = weights_of("diagonal").float()
    got = together(logits, image, weights, backend=backend)
    torch.testing.assert_close(got, one_by_one(logits, image, weights, backend=backend))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_maps_equal_a_loop_in_16_bit_storage(storage):
    make_serial = pytest.importorskip("densecrf_rnn._serial", reason="no serial launcher")
    assert make_serial
    logits, image = make.problem(1, 5, 4, batch=2, dtype=torch.float32)
    weights = weights_of("diagonal").float()
    options = {"backend": "serial", "storage": storage}
    got = together(logits, image, weights, **options)
    torch.testing.assert_close(got, one_by_one(logits, image, weights, **options))


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_of_multilabel_mean_fields(form):
    logits, image = make.problem(2, 3, 3, batch=2)
    leaves = [leaf.requires_grad_() for leaf in (logits, weights_of(form))]
    assert torch.autograd.gradcheck(lambda u, w: together(u, image, w), leaves)
    assert torch.autograd.gradgradcheck(lambda u, w: together(u, image, w, iterations=1), leaves)


def test_trainable_bandwidths_get_the_gradient_of_all_maps():
    logits, image = make.problem(2, 4, 4)
    crf = CRFRNN(3, multilabel=True, params=PARAMS, trainable_bandwidths=True).double()
    crf(logits, image).sin().sum().backward()
    found = crf.log_bandwidths.grad
    single = CRFRNN(1, multilabel=True, params=PARAMS, trainable_bandwidths=True).double()
    for one in logits.split(1, 1):
        single(one, image).sin().sum().backward()
    torch.testing.assert_close(found, single.log_bandwidths.grad)


def test_the_layer_equals_refinement_of_arrays():
    weights = {"w_bilateral": (1.25, 0.25, 2.0), "w_spatial": 0.75}  # exact in float32
    params = CRFParams(**{**make.SMALL, **weights})
    logits, image = make.problem(3, 6, 5)
    crf = CRFRNN(3, multilabel=True, params=params).double().eval()
    refined = crf(logits, image)[0].detach().numpy()
    wanted = numpy_mean_field(
        logits[0].numpy(), make.numpy_image(image[0]), params, multilabel=True, iterations=10
    )
    np.testing.assert_allclose(refined, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradients", [False, True])
def test_lattices_are_built_once_and_never_repeated_for_the_maps(monkeypatch, gradients):
    built, seen = [], []
    build = lattice_build.lattice_build
    logits, image = make.problem(4, 6, 5, batch=2, labels=7, dtype=torch.float32)
    image.requires_grad_(gradients)

    def building(*args, **options):
        built.append(1)
        return build(*args, **options)

    operator = functional.fused_mean_field

    def running(u, coupling, inputs, *rest):
        seen.append([tensor.data_ptr() for tensor in inputs])
        return operator(u, coupling, inputs, *rest)

    monkeypatch.setattr("densecrf_rnn.nn.build.lattice_build", building)
    monkeypatch.setattr(functional, "fused_mean_field", running)
    CRFRNN(7, multilabel=True, params=PARAMS)(logits, image).sum().backward()
    assert len(built) == 1
    assert len(seen) == 7 and all(pointers == seen[0] for pointers in seen)


@pytest.mark.parametrize("update", ["softmax", "relu"])
def test_the_free_energy_is_the_sum_over_maps(update):
    logits, image = make.problem(5, 4, 5, batch=2)
    crf = CRFRNN(3, multilabel=True, params=PARAMS, update=update).double()
    steps = crf(logits, image, return_all=True)
    found = crf.free_energy(steps, logits, image)
    single = CRFRNN(1, params=PARAMS, update=update).double()
    wanted = sum(
        single.free_energy([s[:, i : i + 1] for s in steps], logits[:, i : i + 1], image)
        for i in range(3)
    )
    assert found.shape == (5, 2)
    torch.testing.assert_close(found, wanted)
    if update == "softmax":
        assert bool((found[1:] <= found[:-1] + 1e-6).all())


def test_untied_iterations_have_weights_of_their_own_for_each_map():
    logits, image = make.problem(6, 4, 5)
    crf = CRFRNN(3, multilabel=True, params=PARAMS, iterations=2, tied=False).double()
    assert crf.kernel_weights.shape == (2, 2, 3)
    with torch.no_grad():
        crf.kernel_weights.copy_(0.3 + torch.rand(2, 2, 3))
    weights = crf.kernel_weights.detach()
    wanted = one_by_one(logits, image, weights, tied=False, iterations=2)
    torch.testing.assert_close(crf(logits, image), wanted)


def test_pixels_where_no_map_is_possible_are_right_and_bad_values_are_refused(backend):
    logits, image = make.problem(7, 4, 5, dtype=torch.float32)
    logits[0, :, 1, 2] = -torch.inf
    refined = together(logits, image, weights_of("scalar").float(), backend=backend)
    assert bool((refined[0, :, 1, 2] == -torch.inf).all())
    assert int(refined.isinf().sum()) == 3
    for bad, message in ((torch.nan, "NaN"), (torch.inf, r"infinity")):
        logits[0, 1, 2, 2] = bad
        with pytest.raises(ValueError, match=f"logits contains? .*{message}"):
            together(logits, image, weights_of("scalar").float(), backend=backend)


def test_the_layer_learns_weights_and_keeps_them():
    crf = CRFRNN(3, multilabel=True, kernel_weights="scalar")
    assert set(crf.state_dict()) == {"kernel_weights", "_extra_state"}
    assert crf.kernel_weights.shape == (2,)
    crf = CRFRNN(3, multilabel=True)
    assert crf.kernel_weights.shape == (2, 3) and crf.compatibility is None
    assert [group["name"] for group in crf.parameter_groups(1e-3)] == ["kernel_weights"]
    assert "multilabel=True" in repr(crf)
    with torch.no_grad():
        crf.kernel_weights.mul_(0.1)
    file = io.BytesIO()
    torch.save(crf.state_dict(), file)
    file.seek(0)
    other = CRFRNN(3, multilabel=True)
    other.load_state_dict(torch.load(file, weights_only=True))
    logits, image = make.problem(8, 4, 5, dtype=torch.float32)
    assert torch.equal(other(logits, image), copy.deepcopy(crf)(logits, image))


def test_wrap_refines_the_maps_of_a_backbone():
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 4, 1), 4, multilabel=True)
    image = torch.rand(2, 3, 6, 7) * 255
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        model(image), torch.ones(2, 4, 6, 7)
    )
    loss.backward()
    assert bool(model.crf.kernel_weights.grad.isfinite().all())


@pytest.mark.parametrize("options, message", [
    ({"kernel_weights": "full"}, "kernel_weights='full' couples labels but multilabel is True"),
    ({"compatibility": "learned"}, "compatibility='learned' couples labels but multilabel is True"),
    ({"multilabel": 1}, "multilabel is int; it must be True or False"),
    ({"params": CRFParams(w_bilateral=(1.0, 2.0))}, "there are 3 maps; .* one for each map"),
    ({"params": CRFParams(w_bilateral=(1.0, 2.0, 3.0)), "kernel_weights": "scalar"},
     "params has a weight for each map"),
])  # fmt: skip
def test_what_binary_heads_cannot_have_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CRFRNN(3, **{"multilabel": True, **options})
    CRFRNN(3, multilabel=True, compatibility="potts")  # what they have, said once more


def test_matrices_and_compatibilities_are_refused_by_the_function():
    logits, image = make.problem(9, 3, 4)
    with pytest.raises(ValueError, match="compatibility is given but multilabel is True"):
        together(logits, image, weights_of("scalar"), compatibility=torch.eye(3).double())
    with pytest.raises(ValueError, match=r"\[2\] or 2 x 3: .*one per kernel and map"):
        together(logits, image, torch.ones(2, 3, 3).double())


def test_the_layer_compiles_and_exports_without_graph_breaks():
    crf = CRFRNN(3, multilabel=True, params=PARAMS).eval()
    logits, image = make.problem(10, 5, 6, batch=2, dtype=torch.float32)
    wanted = crf(logits, image)
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, image), wanted)
    compiled(logits, image).sum().backward()
    dim = torch.export.Dim
    shapes = ({0: dim("batch"), 2: dim("height"), 3: dim("width")},) * 2
    program = torch.export.export(crf, (logits, image), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(logits, image), wanted)
    logits, image = make.problem(11, 4, 7, batch=3, dtype=torch.float32)
    torch.testing.assert_close(program.module()(logits, image), crf(logits, image))


def test_functional_transforms_see_the_maps():
    crf = CRFRNN(3, multilabel=True, params=PARAMS).double()
    logits, image = make.problem(12, 3, 4)
    got = torch.func.grad(lambda u: crf(u, image).sin().sum())(logits)
    logits.requires_grad_()
    crf(logits, image).sin().sum().backward()
    torch.testing.assert_close(got, logits.grad)
