"""The layer among torch's own tools: each row of docs/integration.md has its test here."""

import copy
import importlib.util
import io
import pickle
import re
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from processes import environment, results_of_two  # noqa: E402
from densecrf_rnn import CRFRNN, onnx_runtime  # noqa: E402
from densecrf_rnn.kernels import Bilateral, Spatial  # noqa: E402
from densecrf_rnn.nn import export_onnx  # noqa: E402

SIZES = ((6, 7), (9, 5), (12, 8))


def segmenter(labels=3, **options):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU()]
    backbone = torch.nn.Sequential(*layers, torch.nn.Conv2d(4, labels, 1))
    return CRFRNN.wrap(backbone, labels, params=make.small_params(), **options)


def images(*size, batch=2, seed=0):
    """In 0..1, to which `segmenter` is made."""
    return make.problem(seed, *size, batch=batch, dtype=torch.float32)[1] / 255


def gradients(model, image):
    """The output, and the gradients of all parameters for one fixed cotangent."""
    out = model(image)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad(out, list(model.parameters()), cotangent)]


def assert_close(found, wanted, tolerance=1e-5):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- torch.compile -------------------------------------------------------------------------------


def test_backbone_and_head_compile_into_one_graph_for_any_batch_and_size():
    model, graphs = segmenter(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for batch, size in enumerate(SIZES, 2):
        image = images(*size, batch=batch)
        assert torch.equal(compiled(image), model(image))
    assert len(graphs) == 1


def test_compiled_backbone_and_head_train_as_eager():
    model, image = segmenter(), images(6, 7)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(gradients(compiled, image), gradients(model, image))


@pytest.mark.slow
def test_backbone_and_head_compile_with_inductor():
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    model, image = segmenter(), images(6, 7)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    assert_close(gradients(compiled, image), gradients(model, image))


# --- torch.export --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_exported_program_that_was_saved_and_loaded_equals_eager(training):
    model, image = segmenter(iterations=2, eval_iterations=3).train(training), images(6, 7)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (image,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    image = images(6, 7, seed=1)
    assert torch.equal(loaded(image), model(image))


def test_exported_program_takes_any_batch_and_size():
    dim, model = torch.export.Dim, segmenter().eval()
    shapes = ({0: dim("batch"), 2: dim.AUTO, 3: dim.AUTO},)  # the backbone's strides ask for AUTO
    program = torch.export.export(model, (images(6, 7),), dynamic_shapes=shapes).module()
    for batch, size in enumerate(SIZES, 1):
        image = images(*size, batch=batch)
        assert_close([program(image)], [model(image)])


def test_exported_program_runs_in_another_process(tmp_path):
    """Where the operators are not known until densecrf_rnn.nn is imported."""
    model, image, file = segmenter().eval(), images(6, 7), str(tmp_path / "model.pt2")
    torch.export.save(torch.export.export(model, (image,)), file)
    torch.save((image, model(image).detach()), file + ".values")
    code = (
        "import sys, torch, densecrf_rnn.nn\n"
        "image, wanted = torch.load(sys.argv[1] + '.values')\n"
        "found = torch.export.load(sys.argv[1]).module()(image)\n"
        "torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], env=environment(), capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- ONNX ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["one CRF", "multilabel"])
def exported(request, tmp_path_factory):
    """A model and the file that it was exported to, for any batch and size."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    file = str(tmp_path_factory.mktemp("onnx") / "model.onnx")
    dim, model = torch.export.Dim, segmenter(multilabel=request.param).eval()
    with torch.no_grad():
        model.crf.kernel_weights += torch.rand(model.crf.kernel_weights.shape)
        if not request.param:
            model.crf.compatibility += torch.rand(model.crf.compatibility.shape)
    shapes = ({0: dim("batch"), 2: dim("height"), 3: dim("width")},)
    export_onnx(model, (images(6, 7),), file, dynamic_shapes=shapes, input_names=["image"])
    return model, file


def check_exported(model, run):
    """For other sizes and batches than that which it was exported with."""
    for size in SIZES:
        image = images(*size, seed=2, batch=3)
        (found,) = run(None, {"image": image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(image), rtol=1e-4, atol=1e-4)


def test_onnx_model_runs_in_onnxruntime_and_equals_eager(exported):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    model, file = exported
    check_exported(model, onnx_runtime.inference_session(file).run)
    shared = runtime.SessionOptions()  # of several sessions, as is usual
    shared.log_severity_level = 3
    for _ in range(2):
        check_exported(model, onnx_runtime.inference_session(file, sess_options=shared).run)


def test_onnx_model_runs_in_the_reference_evaluator_and_equals_eager(exported):
    model, file = exported
    check_exported(model, onnx_runtime.reference_evaluator(file).run)


def test_onnx_model_is_valid_and_holds_one_node_for_the_head(exported):
    onnx = importlib.import_module("onnx")
    model = onnx.load(exported[1])
    onnx.checker.check_model(model)
    ours = [node for node in model.graph.node if node.domain != ""]
    assert [(n.domain, n.op_type) for n in ours] == [("ai.onnx.contrib", "DenseCRFMeanField")]
    names = {f"crf.{name}" for name, _ in exported[0].crf.named_parameters()}
    assert names <= {t.name for t in model.graph.initializer}


def test_onnx_export_leaves_the_model_as_it_was(exported):
    assert "forward" not in vars(exported[0].crf)
    assert not exported[0].crf._forward_hooks


def test_onnx_export_refuses_a_model_without_a_head_and_options_that_the_node_lacks(monkeypatch):
    with pytest.raises(ValueError, match="Linear has no CRFRNN"):
        export_onnx(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    model = segmenter()
    monkeypatch.setattr(model.crf, "forward", lambda logits, image: logits + 1)
    with pytest.raises(ValueError, match="an option that its ONNX node does not support"):
        export_onnx(model, (images(6, 7),))


@pytest.mark.parametrize("options, name", [
    ({"kernels": [Bilateral(2.0, 100.0), Spatial(8.0)]}, "kernels"),
    ({"trainable_bandwidths": True}, "learned bandwidths"),
    ({"method": "exact"}, "method='exact'"), ({"update": "relu"}, "update='relu'"),
    ({"tied": False}, "tied=False"),
])  # fmt: skip
def test_onnx_export_refuses_an_option_whose_result_is_equal_on_the_example(options, name):
    """On an image of one colour, kernels of any bandwidths give the same."""
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 3, 1), 3, **options).eval()
    if "trainable_bandwidths" in options:
        torch.nn.init.ones_(model.crf.log_bandwidths)
    with pytest.raises(ValueError, match=re.escape(f"its ONNX node does not support ({name})")):
        export_onnx(model, (torch.zeros(1, 3, 8, 9),))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_onnx_export_of_torch_names_ours(dynamo, nested, tmp_path):
    if dynamo:
        pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(segmenter()) if nested else segmenter()
    with pytest.raises(Exception, match=r"use densecrf_rnn.nn.export_onnx\(model, args, file\)"):
        torch.onnx.export(model.eval(), (images(6, 7),), str(tmp_path / "m.onnx"), dynamo=dynamo)


@pytest.mark.parametrize("strict", [True, False])
def test_onnx_export_of_torch_is_noticed_by_either_way_to_trace(strict, monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(Exception, match="use densecrf_rnn.nn.export_onnx"):
        torch.export.export(segmenter(), (images(6, 7),), strict=strict)


@pytest.mark.parametrize("labels, size, multilabel", [
    (1, (6, 7), False), (3, (4, 5, 6), False), (3, (6, 7), True),
])
def test_onnx_node_computes_what_the_layer_does(labels, size, multilabel):
    params = make.small_params(normalization="symmetric")
    crf = CRFRNN(labels, params=params, self_term=False, multilabel=multilabel)
    logits, image = make.problem(0, *size, labels=labels, batch=2, dtype=torch.float32)
    spacing = (2.0,) + (1.0,) * (len(size) - 1)
    weights, mu = (*crf.parameters(), torch.ones(1))[:2]
    inputs = (logits, image, weights, mu)
    settings = onnx_runtime.settings(crf.params, crf.iterations, spacing, multilabel)
    found = onnx_runtime.run_node(settings, *(t.detach().numpy() for t in inputs))
    assert_close([torch.from_numpy(found)], [crf(logits, image, spacing=spacing)])


@pytest.mark.parametrize("call, needs", [
    (onnx_runtime.inference_session, "onnxruntime"), (onnx_runtime.reference_evaluator, "onnx"),
])
def test_running_an_onnx_model_without_its_packages_says_what_to_install(call, needs, monkeypatch):
    for name in ("onnxruntime", "onnx.reference"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {needs}"):
        call("model.onnx")


# --- torch.func ----------------------------------------------------------------------------------


def test_functional_call_and_grad_equal_backward():
    model, image = segmenter(), images(6, 7)

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (image,)).square().mean()

    parameters = dict(model.named_parameters())
    found = torch.func.grad(loss)(parameters)
    wanted = torch.autograd.grad(loss(parameters), list(parameters.values()))
    assert_close(found.values(), wanted, 1e-6)


def test_vjp_and_jacrev_equal_autograd():
    crf = CRFRNN(3, params=make.small_params())
    logits, image = make.problem(0, 2, 3, dtype=torch.float32)
    cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    out, pull = torch.func.vjp(crf, logits, image)
    inputs = (logits.requires_grad_(), image.requires_grad_())
    plain = crf(*inputs)
    assert torch.equal(out, plain)
    assert_close(pull(cotangent), torch.autograd.grad(plain, inputs, cotangent), 1e-6)
    image = image.detach()
    wanted = torch.autograd.functional.jacobian(lambda x: crf(x, image), logits.detach())
    found = torch.func.jacrev(lambda x: crf(x, image))(logits.detach())
    assert_close([found], [wanted], 1e-6)


def test_vmap_equals_a_loop():
    crf = CRFRNN(3, params=make.small_params())
    logits, image = make.problem(0, 5, 6, batch=6, dtype=torch.float32)
    groups = torch.func.vmap(crf)(logits.unflatten(0, (3, 2)), image.unflatten(0, (3, 2)))
    assert torch.equal(groups.flatten(0, 1), crf(logits, image))
    shared = torch.func.vmap(crf, in_dims=(1, None), out_dims=1)(logits[None], image[:1])
    assert torch.equal(shared[0], torch.cat([crf(x[None], image[:1]) for x in logits]))


def test_vmap_of_grad_gives_the_gradient_of_each_image():
    model, image = segmenter(), images(6, 7, batch=3)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, one):
        return torch.func.functional_call(model, parameters, (one[None],)).square().mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, image)
    for b, one in enumerate(image):
        wanted = torch.func.grad(loss)(parameters, one)
        assert_close([g[b] for g in found.values()], wanted.values())


def test_vmap_over_parameters_runs_an_ensemble():
    models = [segmenter() for _ in range(2)]
    with torch.no_grad():
        models[1].crf.compatibility.mul_(-1)
    parameters, buffers = torch.func.stack_module_state(models)
    image = images(6, 7)

    def run(parameters, buffers):
        return torch.func.functional_call(models[0], (parameters, buffers), (image,))

    found = torch.func.vmap(run)(parameters, buffers)
    assert_close(found, [model(image) for model in models], 1e-6)


def test_forward_mode_and_nested_reverse_mode_are_refused():
    crf = CRFRNN(3, params=make.small_params())
    logits, image = make.problem(0, 2, 3, dtype=torch.float32)

    def loss(x):
        return crf(x, image).square().sum()

    for derivative in (torch.func.jacfwd(loss), torch.func.hessian(loss)):
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            derivative(logits)
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(loss, (logits,), (logits,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, logits)
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            loss(dual)
    with pytest.raises(NotImplementedError, match="no second derivative under torch.func"):
        torch.func.jacrev(torch.func.jacrev(loss))(logits)


def test_second_derivatives_outside_torch_func_work():
    crf = CRFRNN(2, params=make.small_params(), iterations=2).double()
    logits, image = make.problem(0, 2, 2, labels=2)

    def loss(x):
        return crf(x, image).square().sum()

    found = torch.autograd.functional.hessian(loss, logits).reshape(8, 8)
    assert_close([found], [found.T])
    step = torch.zeros_like(logits)
    step[0, 0, 0, 0] = 1e-5
    (above,) = torch.autograd.grad(loss(up := (logits + step).requires_grad_()), up)
    (below,) = torch.autograd.grad(loss(down := (logits - step).requires_grad_()), down)
    assert_close([found[0]], [((above - below) / 2e-5).flatten()], 1e-4)


# --- checkpointing, processes, files -------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_the_head_gives_the_same_gradients(use_reentrant):
    model, image = segmenter(), images(6, 7)
    wanted = gradients(model, image)
    model.zero_grad()
    logits = torch.nn.functional.interpolate(
        model.backbone(image), size=(6, 7), mode="bilinear", align_corners=False
    )
    inputs = (logits, image * 255)
    out = torch.utils.checkpoint.checkpoint(model.crf, *inputs, use_reentrant=use_reentrant)
    out.backward(torch.linspace(-1, 1, out.numel()).reshape(out.shape))
    assert_close([out, *(p.grad for p in model.parameters())], wanted, 0)


WORKER = """
from test_nn_integration import images, segmenter

model = DistributedDataParallel(segmenter().double())
half = images(6, 7, batch=4).double()[2 * rank : 2 * rank + 2]
model(half).square().mean().backward()
torch.save([p.grad for p in model.module.parameters()], result)
"""


def test_two_processes_give_the_gradient_of_one(tmp_path):
    results = results_of_two(WORKER, tmp_path)
    model = segmenter().double()
    model(images(6, 7, batch=4).double()).square().mean().backward()
    wanted = [p.grad for p in model.parameters()]
    for found in results:
        assert_close(found, wanted, 1e-6)
        assert all((g != 0).any() for g in found)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_wrapped_models_survive_copying_and_pickling(duplicate):
    model, image = segmenter(), images(6, 7)
    other = duplicate(model)
    assert other.crf.kernel_weights is not model.crf.kernel_weights
    assert_close(gradients(other, image), gradients(model, image), 0)


def test_whole_models_can_be_saved_and_loaded():
    model, file = segmenter(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(images(6, 7)), model(images(6, 7)))


def test_state_goes_through_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, other, file = segmenter(), segmenter(), tmp_path / "model.safetensors"
    with torch.no_grad():
        model.crf.compatibility += torch.rand(3, 3)
    safetensors.save_model(model, str(file))
    safetensors.load_model(other, str(file))
    assert torch.equal(other(images(6, 7)), model(images(6, 7)))


# What commit a00992b saved, form by form; later ones load it, strictly.
@pytest.mark.parametrize("form, shape", [("scalar", (2,)), ("diagonal", (2, 4)),
                                         ("full", (2, 4, 4))])
@pytest.mark.parametrize("compatibility", ["learned", "potts"])
def test_state_of_version_0_1_0_loads_strictly(form, shape, compatibility):
    state = {"kernel_weights": torch.rand(shape), "compatibility": torch.rand(4, 4)}
    crf = CRFRNN(4, kernel_weights=form, compatibility=compatibility)
    crf.load_state_dict(state, strict=True)
    assert torch.equal(crf.kernel_weights, state["kernel_weights"])
    assert torch.equal(crf.compatibility, state["compatibility"])
    assert set(crf.state_dict()) == {*state, "_extra_state"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_refuses_the_layer():
    with pytest.raises((RuntimeError, torch.jit.frontend.NotSupportedError)):
        torch.jit.script(CRFRNN(3))
