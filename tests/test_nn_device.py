"""How tensors on a device are served: when the host waits, and what outlives a call.

The serial launcher stands for a GPU: its tensors are on the CPU, and reads of them are counted.
"""

import collections
import gc
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, engines, inference  # noqa: E402
from densecrf_rnn.kernels import Bilateral, Spatial  # noqa: E402
from densecrf_rnn.nn import arguments, build, functional  # noqa: E402
from densecrf_rnn.nn.ops import (  # noqa: E402
    check_values, device, device_build, dispatch, shared,
)  # fmt: skip
from densecrf_rnn.nn.ops.kernels import Kernel, Kernels, Lattice  # noqa: E402
from densecrf_rnn.nn.ops.lattice_build import lattice_build  # noqa: E402

ENGINE = "serial"
pytestmark = pytest.mark.skipif(
    engines.why_unavailable(ENGINE) is not None,
    reason=f"no serial launcher: {engines.why_unavailable(ENGINE)}",
)

# --- waits ---------------------------------------------------------------------------------------

# Functions that read tensors which on a GPU, too, are in host memory, and those only of a CPU.
IN_HOST_MEMORY = {"lattice", "for_checks", "hashable"}


class Waits(TorchFunctionMode):
    """Counts what waits for a device, by the function that does it.

    Besides reads these are copies of Python numbers to the device, which torch waits for as well.
    """

    READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero"}
    READS |= {"unique", "_unique2", "new_tensor"}

    def __init__(self):
        super().__init__()
        self.found = collections.Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        copied = (name == "tensor" and "device" in kwargs) or (
            name == "__getitem__" and isinstance(args[1], (list, torch.Tensor))
            and getattr(args[1], "dtype", torch.bool) == torch.bool
        )  # fmt: skip
        if name in self.READS or copied:
            frame = sys._getframe(1)
            while "densecrf_rnn" not in frame.f_code.co_filename:
                frame = frame.f_back
            if frame.f_code.co_name not in IN_HOST_MEMORY:
                self.found[frame.f_code.co_name] += 1
        return func(*args, **kwargs)


CALLS = {
    "default": {},
    "mask": {"mask": True},
    "bandwidths": {"bandwidths": True},
    "multilabel": {"multilabel": True},
    "the grid first": {"kernels": (Spatial(2.0), Bilateral(8.0, 40.0))},
}


@pytest.fixture(params=[ENGINE, "torch"])
def engine(request, monkeypatch):
    """An engine whose tensors count as those of a device."""
    monkeypatch.setattr(arguments, "_on_device", lambda backend, like: True)
    return request.param


@pytest.mark.parametrize("storage", ["full", "float16"])
@pytest.mark.parametrize("case", CALLS)
def test_a_forward_pass_waits_once_per_lattice(case, storage, engine):
    if engine == "torch" and storage != "full":
        pytest.skip("16-bit storage is the CUDA engine's")
    logits, image = make.problem(0, 9, 7, batch=2, dtype=torch.float32)
    options = dict(CALLS[case], params=make.small_params(), backend=engine, storage=storage)
    if "mask" in options:
        options["mask"] = torch.rand(2, 9, 7) < 0.7
        options["params"] = make.small_params(spatial="lattice")
    if "bandwidths" in options:
        options["bandwidths"] = torch.tensor([[8.0, 40.0], [2.0, 1.0]])
    functional.mean_field(logits, image, warn=False, **options)  # makes tables that are kept
    with Waits() as waits:
        functional.mean_field(logits, image, warn=False, **options)
    lattices = 2 if case in ("bandwidths", "mask") else 1
    assert waits.found == {"read": lattices}


def test_quality_filled_and_a_new_range_wait_once_more():
    logits, image = make.problem(0, 9, 7, dtype=torch.float32)
    params = make.small_params(quality="filled")
    functional.mean_field(logits, image, params, backend=ENGINE)
    for scale, expected in ((1, 2), (1.01, 2), (100, 3), (90, 2)):
        with Waits() as waits:
            functional.mean_field(logits, image * scale, params, backend=ENGINE)
        assert waits.found == {"read": expected}


def test_no_numpy_runs_for_a_grid_whose_size_has_been_seen(engine, monkeypatch):
    logits, image = make.problem(0, 9, 7, dtype=torch.float32)
    params = make.small_params(self_term=False)
    options = {"params": params, "mask": torch.rand(1, 9, 7) < 0.7, "backend": engine}
    wanted = functional.mean_field(logits, image, **options)
    monkeypatch.setattr(inference.grid, "build", lambda *of: pytest.fail("NumPy runs"))
    for name in ("from_numpy", "as_tensor"):
        monkeypatch.setattr(torch, name, lambda *of: pytest.fail("copied from the host"))
    with Waits() as waits:
        found = functional.mean_field(logits, image, **options)
    assert waits.found == {"read": 1} and torch.equal(found, wanted)


def test_without_a_lattice_the_answers_are_read_at_the_end(engine):
    logits, image = make.problem(0, 9, 7, dtype=torch.float32)
    options = {"kernels": [Spatial(2.0)], "params": make.small_params(), "backend": engine}
    functional.mean_field(logits, image, **options)
    with Waits() as waits:
        functional.mean_field(logits, image, **options)
    assert waits.found == {"read": 1}
    with pytest.raises(ValueError, match="logits contains NaN"):
        functional.mean_field(logits * float("nan"), image, **options)


def test_a_training_step_waits_no_more_often(engine):
    logits, image = make.problem(0, 9, 7, dtype=torch.float32)
    crf = CRFRNN(3, params=make.small_params(), backend=engine)
    crf(logits, image)
    for budget in (2**30, 1):  # keep the marginals, or run the forward pass again
        crf.memory_budget = budget
        with Waits() as waits:
            crf(logits.requires_grad_(), image).sum().backward()
        assert waits.found == {"read": 1}


@pytest.mark.parametrize("quality", ["standard", "filled"])
@pytest.mark.parametrize("dims", [2, 5, 16])
def test_a_lattice_does_not_depend_on_the_ranges_before_it(dims, quality, monkeypatch):
    generator = torch.Generator().manual_seed(dims)
    wide = 50 * torch.randn(2, 20, dims, generator=generator, dtype=torch.float64)
    tight = wide[:, :7] / 40 + 3
    inside = (torch.rand(2, 7, 1, generator=generator) < 0.7).double()
    found = []
    for before in ([], [wide], [wide, -3 * wide], [tight - 400]):
        monkeypatch.setattr(device_build, "_known", {})
        for features in before:
            lattice_build(features, quality, ENGINE)
        found.append([*lattice_build(tight, quality, ENGINE)])
        found[-1] += lattice_build(tight, quality, ENGINE, "features", None, inside)
    for one in found[1:]:
        assert all(map(torch.equal, one, found[0]))


def test_features_that_cannot_be_used_are_refused_after_others_were_not():
    features = torch.zeros(1, 4, 2)
    lattice_build(features, "standard", ENGINE)
    for bad, message in ((float("nan"), "NaN"), (float("inf"), "infinity"), (1e30, "float32")):
        features[0, 1, 1] = bad
        with pytest.raises(ValueError, match=message):
            lattice_build(features, "standard", ENGINE)


@pytest.mark.parametrize(
    "which, value, message",
    [
        ("logits", float("nan"), "logits contains NaN"),
        ("logits", float("inf"), "logits contains .infinity"),
        ("image", float("nan"), "image contains NaN"),
        ("kernel_weights", float("nan"), "kernel_weights contains NaN"),
        ("kernel_weights", 1e38, "a kernel weight times the compatibility is"),
        ("compatibility", float("inf"), "compatibility contains .*infinity"),
        ("bandwidths", float("nan"), "bandwidths contains NaN"),
        ("bandwidths", -1.0, "bandwidths holds -1; they must be positive"),
    ],
)
def test_answers_that_are_read_late_name_the_same_fault(which, value, message, engine):
    logits, image = make.problem(1, 6, 5, dtype=torch.float32)
    given = {
        "logits": logits, "image": image, "kernel_weights": torch.ones(2),
        "compatibility": 1 - torch.eye(3), "bandwidths": torch.tensor([[8.0, 40.0], [2.0, 1.0]]),
    }  # fmt: skip
    given[which].view(-1)[0] = value
    with pytest.raises(ValueError, match=message):
        functional.mean_field(**given, params=make.small_params(), backend=engine)


def test_a_capture_is_refused_before_anything_waits(monkeypatch):
    logits, image = make.problem(2, 6, 5, dtype=torch.float32)
    for module in (dispatch, device, device_build, check_values):
        monkeypatch.setattr(module, "capturing", lambda tensor: True)
    for options in ({}, {"tied": False, "kernel_weights": torch.ones(5, 2)}):
        with Waits() as waits, pytest.raises(RuntimeError, match="graph is captured"):
            functional.mean_field(logits, image, backend=ENGINE, **options)
        assert not waits.found


def test_devices_are_asked_once_a_process(monkeypatch):
    logits, image = make.problem(2, 6, 5, dtype=torch.float32)
    native = dispatch.native_module(ENGINE, "cpu")
    monkeypatch.setattr(native, "devices", lambda: pytest.fail("asked again"))
    functional.mean_field(logits, image, backend=ENGINE)
    assert engines.why_unavailable(ENGINE) is None


# --- what calls share ----------------------------------------------------------------------------


class Stream:
    """A stand-in for a CUDA stream that records what is asked of it."""

    def __init__(self):
        self.waited = []

    def record_event(self):
        return ("event of", self)

    def wait_event(self, event):
        self.waited.append(event)


def test_a_shared_tensor_is_waited_for_once_by_each_other_stream(monkeypatch):
    first, second = Stream(), Stream()
    current, recorded = [first], []
    monkeypatch.setattr(shared, "current_stream", lambda like: current[0])
    monkeypatch.setattr(shared, "is_capturing", lambda: False)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, s: recorded.append(s))
    make_it = shared.shared(2)(lambda size: [torch.zeros(size), None])
    made = make_it(3)
    current[0] = second
    assert make_it(3) is made and make_it(3) is made
    assert second.waited == [("event of", first)] and recorded == [second]
    current[0] = first
    assert make_it(3) is made and not first.waited


@pytest.mark.parametrize("captured", [True, False])
def test_the_tables_of_a_captured_graph_outlive_the_cache(captured, monkeypatch):
    monkeypatch.setattr(shared, "current_stream", lambda like: Stream())
    monkeypatch.setattr(shared, "is_capturing", lambda: captured)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, s: None)
    monkeypatch.setattr(shared, "_of_graphs", {})
    params = CRFParams(theta_gamma=2, w_bilateral=0.5)
    make_tables = device._grid_on_device

    def tables(size):
        grid = build.Grid((size, size), (2.0, 2.0), "after", True)
        return make_tables(grid, torch.float32, torch.device("cpu"))

    alive = weakref.ref(tables(5)[0][0][1][0])
    for size in range(6, 30):
        tables(size)
    gc.collect()
    assert (alive() is not None) == captured
    assert params.spatial == "grid"


# --- values --------------------------------------------------------------------------------------


def test_values_in_float16_do_not_depend_on_the_other_images():
    logits = torch.zeros(2, 3, 40)
    none = logits.new_empty(0)
    before = torch.tensor([1.0, 2.0**-20])[:, None, None].expand(2, 40, 1)

    def scaled(images):
        kernel = Kernel(Lattice(none, none, none, none), before[images], none, none)
        _, found = device._in_range(logits[images], torch.eye(3)[None], Kernels([kernel]))
        return found.lattices[0].scales[:2]

    both = scaled(slice(0, 2))
    for one in range(2):
        for alone, beside in zip(scaled(slice(one, one + 1)), both, strict=True):
            assert torch.equal(alone, beside[one : one + 1])


@pytest.mark.parametrize("quality", ["standard", "filled"])
def test_masked_pixels_are_not_splatted(quality):
    logits, image = make.problem(4, 40, 41, batch=2, dtype=torch.float64)
    mask = torch.rand(2, 40, 41, generator=torch.Generator().manual_seed(0)) < 0.02
    mask[1] = False
    seen = []
    native = dispatch.native_module(ENGINE, "cpu")
    lattice = device.Call.lattice

    def spied(call, given):
        seen.append(given)
        return lattice(call, given)

    params = make.small_params(quality=quality)
    wanted = functional.mean_field(logits, image, params, mask=mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device.Call, "lattice", spied)
        found = functional.mean_field(logits, image, params, mask=mask, backend=ENGINE)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    given = seen[0]
    vertices, entries = given.facts.tolist()[0], given.vertex.numel()
    first = given.links[entries + vertices + 1 :][: vertices + 1]  # first chunk of each vertex
    assert (first[1:] - first[:-1]).max() == 1  # a thousand pixels would make sixteen chunks
    assert native.links_size(vertices, entries, given.vertex.shape[2]) == given.links.numel()


@pytest.mark.parametrize("quality", ["standard", "filled"])
def test_gradients_with_a_mask_equal_the_cpu_engine(quality):
    params = make.small_params(quality=quality, self_term=False)
    mask = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    found = []
    for backend in ("auto", ENGINE):
        leaves = [leaf.requires_grad_() for leaf in make.problem(5, 9, 8, batch=2)]
        refined = functional.mean_field(*leaves, params, mask=mask, backend=backend)
        found.append([refined, *torch.autograd.grad(refined.square().sum(), leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_flat_pictures_are_summed_by_a_tree():
    logits, image = make.problem(6, 70, 120, dtype=torch.float32)  # more than 64 * 64 pixels
    image[:] = 100
    wanted = functional.mean_field(logits, image, CRFParams(1000, 10))
    found = functional.mean_field(logits, image, CRFParams(1000, 10), backend=ENGINE)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-4)


BOTH = (Bilateral(8.0, 40.0), Spatial(2.0))


# The groups of lanes are 1, 8 and 32; a row of 130 labels has two blocks. The gradient of a
# coupling takes a sum over the lanes per entry, which with 32 threads and many labels is slow: a
# few seconds for 33 labels and one kernel.
@pytest.mark.parametrize("labels, kernels, trains", [
    (3, BOTH, True), (12, BOTH, True), (33, BOTH[:1], True), (33, BOTH, False), (130, BOTH, False),
])  # fmt: skip
def test_a_warp_of_lanes_equals_one(labels, kernels, trains, monkeypatch):
    logits, image = make.problem(7, 2, 3, labels=labels, dtype=torch.float64)
    options = {"params": make.small_params(self_term=False), "kernels": kernels, "iterations": 1}
    found = []
    for lanes in (1, 32):
        monkeypatch.setenv("DENSECRF_RNN_SERIAL_LANES", str(lanes))
        leaves = [leaf.clone().requires_grad_(trains) for leaf in (logits, image)]
        refined = functional.mean_field(*leaves, **options, backend=ENGINE)
        found.append([refined])
        if trains:
            found[-1] += torch.autograd.grad(refined.square().sum(), leaves)
    for one, warp in zip(*found, strict=True):
        torch.testing.assert_close(one, warp, rtol=1e-10, atol=1e-10)
