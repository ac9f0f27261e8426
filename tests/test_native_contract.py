"""What Python and native code must agree on: names of struct fields, limits and layouts."""

import importlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from densecrf_rnn import _limits, engines
from densecrf_rnn.engines import device
from densecrf_rnn.params import QUALITIES

if engines.why_unavailable("cpu") is not None:
    pytest.skip("needs the native module", allow_module_level=True)
native = importlib.import_module("densecrf_rnn._cpu")
MODULES = ["_cpu", "_cuda", "_serial"]
LIMITS = {name: value for name, value in vars(_limits).items() if name.isupper()}


def problem():
    """A tiny mean field with one lattice kernel."""
    features = np.array([[0.0], [1.0], [2.5]], np.float32)
    plan = engines.Plan.empty(3, 1, np.float32, "standard")
    assert native.build([features], [plan], "standard", 1)
    scale = np.ones(3, np.float32)
    kernel = engines.LatticeKernel(plan, before=scale, after=scale, diagonal=scale)
    logits = np.zeros((2, 3), np.float32)
    return engines.Problem([kernel], logits, np.empty_like(logits), np.empty(0, np.float32))


def run(value):
    coupling = np.zeros((1, 2, 2), np.float32)
    return native.mean_field([value], coupling, 2, True, 0, 1)


def renamed(struct, name):
    """The same struct, with one field under another name."""
    values = {**struct._asdict(), "kind": getattr(struct, "kind", None)}
    values[f"{name}_renamed"] = values.pop(name)
    return SimpleNamespace(**values)


def test_a_problem_with_its_own_names_runs():
    assert run(problem())


@pytest.mark.parametrize("name", engines.Problem._fields)
def test_a_renamed_field_of_a_problem_fails_by_name(name):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        run(renamed(problem(), name))


@pytest.mark.parametrize(
    "name", ["kind", *engines.LatticeKernel._fields]
)
def test_a_renamed_field_of_a_kernel_fails_by_name(name):
    value = problem()
    kernel = renamed(value.kernels[0], name)
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        run(value._replace(kernels=[kernel]))


@pytest.mark.parametrize("name", engines.Plan._fields)
def test_a_renamed_field_of_a_plan_fails_by_name(name):
    value = problem()
    plan = renamed(value.kernels[0].plan, name)
    for call in (native.links_used, native.num_vertices):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            call(plan)


def test_an_array_that_does_not_fit_is_rejected_by_name_with_what_came_and_what_is_wanted():
    value = problem()
    wrong = value._replace(refined=np.empty((2, 4)))
    with pytest.raises(ValueError, match=r"refined must be .*float32 \[2, 3\], not of float64 .*4"):
        run(wrong)


@pytest.mark.parametrize("prune", [-1e-3, 0.5, float("nan")])
def test_a_prune_that_guarantees_nothing_is_rejected(prune):
    with pytest.raises(ValueError, match="prune must be 0 <= prune < 1 / L"):
        run(problem()._replace(prune=prune))


def test_the_table_of_labels_kept_has_a_row_for_each_iteration():
    with pytest.raises(ValueError, match=r"kept must be .*int64 \[2, 2\], not of int64 .*3"):
        run(problem()._replace(kept=np.zeros((3, 2), np.int64)))


def test_a_kernel_of_an_unknown_kind_is_rejected():
    value = problem()
    kernel = SimpleNamespace(**value.kernels[0]._asdict(), kind="mesh")
    with pytest.raises(ValueError, match="kind must be 'lattice' or 'grid', not 'mesh'"):
        run(value._replace(kernels=[kernel]))


def test_an_unknown_quality_is_rejected():
    plan = problem().kernels[0].plan
    with pytest.raises(ValueError, match="no lattice quality 'best'"):
        native.build([np.zeros((3, 1), np.float32)], [plan], "best", 1)


@pytest.mark.parametrize("module", MODULES)
def test_native_modules_were_compiled_with_the_limits_of_the_package(module):
    found = pytest.importorskip(f"densecrf_rnn.{module}", exc_type=ImportError)
    assert found.limits == LIMITS


def test_rows_are_as_wide_in_python_as_in_native_code():
    for labels in range(1, 100):
        assert native.row_width(labels) == engines.row_width(labels)


@pytest.mark.parametrize("quality", QUALITIES)
def test_links_are_as_long_in_python_as_in_native_code(quality):
    for points, dims in [(0, 1), (1, 1), (1000, 5), (12345, _limits.MAX_DIMS)]:
        size = engines.Plan.links_size(points, dims, quality)
        assert native.links_size(points, dims, quality) == size


def test_the_variance_of_the_filter_follows_from_the_blur():
    side = _limits.BLUR_SIDE
    blur = 2 * side / (1 + 2 * side)  # a step along an axis is (d+1) long, seen from one feature
    barycentric = 1 / 12  # of splat, and again of slice [Adams10]
    assert _limits.FILTER_VARIANCE == pytest.approx(blur + 2 * barycentric, abs=0, rel=1e-15)


def test_the_reference_scales_features_by_the_same_variance():
    lattice = pytest.importorskip("densecrf_rnn.reference.lattice")
    for dims in range(1, _limits.MAX_DIMS + 1):
        scale = lattice.elevation_scale(dims, np.float64)[0]
        wanted = math.sqrt(_limits.FILTER_VARIANCE) * (dims + 1) / math.sqrt(2)
        assert scale == pytest.approx(wanted, rel=1e-14)


# --- structs of the device modules ---------------------------------------------------------------


def device_structs(serial):
    """Calls of the serial module, each with the struct that it reads."""
    stream = device.Stream(device=0, handle=0)
    lattice = device.DeviceLattice(
        images=1, points=0, dims=1, vertices=0, symmetric=False, vertex=0, weight=0, links=0
    )
    kernel = device.DeviceKernel(
        lattice=lattice, axes=(), before=0, after=0, diagonal=0, grid_scales_per_image=False
    )
    model = device.DeviceModel(
        images=1, points=0, labels=2, width=4, iterations=1, coupling=0, coupling_columns=0,
        kernels=[kernel],
    )  # fmt: skip
    features = device.DeviceFeatures(
        data=0, image_stride=0, point_stride=1, feature_stride=1, images=1, points=0, dims=1,
        inside=0,
    )  # fmt: skip
    gradient = device.DeviceGradient()
    layout = serial.key_layout(False, [0.0], [1.0], 1)
    keys = device.SortedKeys(entries=0, distinct=0, keys=0, order=0, number=0)

    def workspace(of):
        return serial.mean_field_workspace(False, "full", of, False)

    return [
        (lattice, lambda of: serial.filter_workspace(False, of, 1, 1, 1)),
        (kernel, lambda of: workspace(model._replace(kernels=[of]))),
        (model, workspace),
        (features, lambda of: serial.feature_gradient(False, of, 0, 0, stream)),
        (stream, lambda of: serial.feature_gradient(False, features, 0, 0, of)),
        (gradient, lambda of: serial.backward_workspace(False, model, [of])),
        (keys, lambda of: serial.distinct_keys(layout, of, 0, stream)),
    ]


def test_a_renamed_field_of_a_device_struct_fails_by_name():
    serial = pytest.importorskip("densecrf_rnn._serial", exc_type=ImportError)
    for struct, call in device_structs(serial):
        call(struct)
        for name in struct._fields:
            if isinstance(struct, device.DeviceKernel) and name == "axes":
                continue  # read where there is no lattice
            values = {**struct._asdict(), f"{name}_renamed": 0}
            del values[name]
            with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
                call(SimpleNamespace(**values))
