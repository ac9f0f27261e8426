"""Tensors, DataArrays and other array-likes in `refine`: NumPy out, or the line that converts."""

import sys
import warnings
from types import ModuleType

import numpy as np
import pytest

from densecrf_rnn import CRFParams, mean_field, refine, refine_tiled

PARAMS = CRFParams(theta_alpha=4, theta_beta=20, theta_gamma=1)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 5, 7)).astype(np.float32)
IMAGE = RNG.integers(0, 256, (5, 7, 3), np.uint8)
EXPECTED = refine(LOGITS, IMAGE, PARAMS)


class Named:
    """As much of xarray.DataArray as is read, so that the tests need no xarray."""

    def __init__(self, values, dims, coords=None):
        self.values, self.dims, self.coords = values, tuple(dims), coords or {}
        self.shape, self.dtype = values.shape, values.dtype

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __getitem__(self, where):
        return Named(self.values[where], self.dims, self.coords)

    def expand_dims(self, name, axis):
        return Named(self.values[..., None], (*self.dims, name), self.coords)

    def transpose(self, *dims):
        values = self.values.transpose([self.dims.index(axis) for axis in dims])
        return Named(values, dims, self.coords)


def named(logits="band y x", image="y x band", rows=None, **image_coords):
    coords = {} if rows is None else {"y": rows}
    return Named(LOGITS, logits.split(), coords), Named(IMAGE, image.split(), image_coords)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_tensors_on_a_cpu_become_arrays(torch):
    found = refine(torch.from_numpy(LOGITS), torch.from_numpy(IMAGE), PARAMS,
                   mask=torch.ones(5, 7, dtype=torch.bool))  # fmt: skip
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, EXPECTED)


def channels_first(torch):
    return torch.from_numpy(LOGITS), torch.from_numpy(IMAGE).movedim(-1, 0)


# Arguments, and the line that the message gives, as a function of them.
TENSORS = {
    "channels first": (channels_first, "image.movedim(0, -1)"),
    "labels last": (lambda t: (t.from_numpy(LOGITS).movedim(0, -1), t.from_numpy(IMAGE)),
                    "logits.movedim(-1, 0)"),
    "a batch": (lambda t: [x[None] for x in channels_first(t)],
                "logits[b], image[b].movedim(0, -1)"),
    "a gradient": (lambda t: (t.from_numpy(LOGITS).requires_grad_(), t.from_numpy(IMAGE)),
                   "logits.detach()"),
    "half precision": (lambda t: (t.from_numpy(LOGITS).half(), t.from_numpy(IMAGE)),
                       "logits.float()"),
    "bfloat16": (lambda t: (t.from_numpy(LOGITS), t.from_numpy(IMAGE).bfloat16()),
                 "image.float()"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_the_line_that_converts_a_tensor_converts_it(torch, case):
    arguments, line = TENSORS[case]
    logits, image = arguments(torch)
    with pytest.raises((TypeError, ValueError)) as error:
        refine(logits, image, PARAMS)
    assert line in str(error.value)
    made = eval(line, {"logits": logits, "image": image, "x": logits, "b": 0})
    if case == "a batch":
        logits, image = made
    elif line.startswith("image"):
        image = made
    else:
        logits = made
    found = refine(logits, image, PARAMS)
    np.testing.assert_allclose(found, EXPECTED, atol=0.3 if "precision" in case else 0.05)


def test_named_axes_in_their_order_are_used_as_they_are():
    for logits, image in (named(), named("label lat lon", "lat lon channel"),
                          named("p q r", "q r s"), named("model y x", "y x model")):  # fmt: skip
        np.testing.assert_array_equal(refine(logits, image, PARAMS), EXPECTED)


@pytest.mark.parametrize("function", [refine, refine_tiled])
@pytest.mark.parametrize(
    "order, image_order",
    [("y x band", "y x band"), ("band y x", "band y x"), ("band x y", "y x band"),
     ("band y x", "x y band"), ("k u v", "v u k")],
)
def test_named_axes_in_another_order_are_refused_and_the_transpose_works(
    function, order, image_order
):
    logits, image = named()
    if "u" in order:
        logits, image = named("k u v", "u v k")
    logits, image = logits.transpose(*order.split()), image.transpose(*image_order.split())
    if logits.dims[1:] == image.dims[:-1] and logits.shape == LOGITS.shape:
        return
    given = {"logits": logits, "image": image}
    for _ in range(2):  # one message for each array
        try:
            found = function(*given.values(), PARAMS)
            break
        except ValueError as error:
            assert "must be in another order: pass" in str(error)
            line = str(error).rpartition("pass ")[2]
            given[line.partition(".")[0]] = eval(line, dict(given))
    else:
        found = function(*given.values(), PARAMS)
    np.testing.assert_allclose(found, EXPECTED, atol=1e-5)


def test_coordinates_in_another_direction_or_place_are_refused():
    rows = 10.0 * np.arange(5)
    logits, image = named(rows=rows, y=rows + 1e-3)
    np.testing.assert_array_equal(refine(logits, image, PARAMS), EXPECTED)
    for other in (rows[::-1], rows + 5, 2 * rows):
        with pytest.raises(ValueError, match=r"coordinates along 'y'.*image\.sel\(y=logits\.y"):
            refine(*named(rows=rows, y=other), PARAMS)


def test_a_data_array_of_xarray_is_one():
    xr = pytest.importorskip("xarray")
    y = {"y": np.arange(5.0)}
    logits = xr.DataArray(LOGITS, dims=("band", "y", "x"), coords=y)
    image = xr.DataArray(IMAGE, dims=("y", "x", "band"), coords=y)
    np.testing.assert_array_equal(refine(logits, image, PARAMS), EXPECTED)
    with pytest.raises(ValueError, match=r"image\.sel\(y=logits\.y\)"):
        refine(logits, image[::-1], PARAMS)
    np.testing.assert_array_equal(refine(logits, image[::-1].sel(y=logits.y), PARAMS), EXPECTED)
    with pytest.raises(ValueError, match=r"logits\.transpose\('band', 'y', 'x'\)"):
        refine(logits.transpose("y", "x", "band"), image, PARAMS)


def test_named_axes_without_channels_get_some():
    image = Named(IMAGE[..., 0], ("y", "x"))
    with pytest.raises(ValueError, match="image.expand_dims") as error:
        refine(LOGITS, image, PARAMS)
    made = eval(str(error.value).rpartition("pass ")[2], {"image": image})
    np.testing.assert_array_equal(refine(LOGITS, made, PARAMS),
                                  refine(LOGITS, IMAGE[..., :1], PARAMS))  # fmt: skip


def test_dask_arrays_are_told_of_refine_dask():
    da = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match=r"logits is a dask array; densecrf_rnn\.refine_dask\("):
        refine(da.from_array(LOGITS), IMAGE, PARAMS)


@pytest.mark.parametrize("function", [refine, mean_field, refine_tiled])
def test_a_masked_array_gives_its_mask_by_name(function):
    hidden = np.zeros(IMAGE.shape, bool)
    hidden[:, :2] = True
    image = np.ma.array(IMAGE, mask=hidden)
    with pytest.raises(TypeError, match="image is a masked array; pass image.data and") as error:
        function(LOGITS, image, PARAMS)
    mask = eval(str(error.value).rpartition("mask=")[2], {"np": np, "image": image})
    q = function(LOGITS, image.data, PARAMS, mask=mask)
    np.testing.assert_array_equal(q, function(LOGITS, IMAGE, PARAMS, mask=mask))
    assert (mask == ~hidden[..., 0]).all()


def test_converting_gives_no_warning(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(torch.from_numpy(LOGITS), Named(IMAGE, ("y", "x", "band")), PARAMS)


def test_an_array_is_taken_while_another_thread_imports_masked_arrays(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))
    logits = np.zeros((2, 3, 4), np.float32)
    assert refine(logits, np.zeros((3, 4, 3), np.uint8)).shape == logits.shape
