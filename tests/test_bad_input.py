"""What mean_field, refine and CRFParams refuse: the argument by name, and the way out."""

import warnings
from dataclasses import fields

import numpy as np
import pytest

from densecrf_rnn import BackendUnavailableError, CRFParams, mean_field, refine

LABELS, HEIGHT, WIDTH = 3, 5, 7


@pytest.fixture(params=[mean_field, refine], ids=["mean_field", "refine"])
def function(request):
    return request.param


def logits(shape=(LABELS, HEIGHT, WIDTH), dtype=np.float32, fill=None):
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    if fill is not None:
        array[..., -1] = fill
    return array


def image(shape=(HEIGHT, WIDTH, 3), dtype=np.float32, fill=None):
    array = (200 * np.random.default_rng(1).random(shape) + 20).astype(dtype)
    if fill is not None:
        array[0, 0, 0] = fill
    return array


def with_entry(array, value):
    array = np.array(array, float)
    array.flat[1] = value
    return array


POTTS = 1 - np.eye(LABELS)

LOGITS = {
    "two axes": (logits((5, 7)), ValueError, r"logits has shape \(5, 7\); .*\[L, H, W\]"),
    "a batch": (logits((2, 2, 3, 5, 7)), ValueError, r"logits has shape .*\[L, D, H, W\]"),
    "no labels": (logits((0, 5, 7)), ValueError, "logits has shape .* without labels"),
    "no pixels": (logits((3, 0, 7)), ValueError, "without pixels; leave empty images out"),
    "integers": (np.zeros((3, 5, 7), int), TypeError, "logits has dtype int64; .*astype"),
    "half with NaN": (logits(dtype=np.float16, fill=np.nan), ValueError, "logits contain.? NaN"),
    "byte": (logits(dtype=np.uint8), TypeError, "logits has dtype uint8; .*astype"),
    "big-endian": (logits(dtype=">f4"), TypeError, "logits has dtype >f4; .*astype"),
    "booleans": (np.zeros((3, 5, 7), bool), TypeError, "logits has dtype bool; .*astype"),
    "a list": ([[[0.0]]], TypeError, "logits is list; it must be a NumPy array .*asarray"),
    "None": (None, TypeError, "logits is None; it must be a NumPy array"),
    "NaN": (logits(fill=np.nan), ValueError, r"logits contains NaN \(15 entries\); .*check"),
    "infinity": (logits(fill=np.inf), ValueError, r"logits contains \+infinity; to fix a label"),
    "all ruled out": (logits(fill=-np.inf), ValueError, "logits .* at 5 pixels; leave at"),
}


@pytest.mark.parametrize("case", LOGITS)
def test_bad_logits_are_refused(function, case):
    bad, error, message = LOGITS[case]
    with pytest.raises(error, match=message):
        function(bad, image())


def test_one_nan_among_finite_logits_is_found(function):
    bad = logits((21, 40, 50))
    bad[20, 39, 49] = np.nan
    with pytest.raises(ValueError, match=r"logits contains NaN \(1 entry\)"):
        function(bad, image((40, 50, 3)))


def test_nan_is_found_beside_infinities(function):
    bad = logits()
    bad[0], bad[1, 0, 0] = -np.inf, np.nan
    with pytest.raises(ValueError, match=r"logits contains NaN \(1 entry\)"):
        function(bad, image())


IMAGES = {
    "no channel axis": (image((5, 7)), ValueError, r"image has shape .*image\[\.\.\., None\]"),
    "too many axes": (image((1, 5, 7, 3)), ValueError, r"image has shape .* be \[H, W, C\]"),
    "other size": (
        image((4, 7, 3)), ValueError, r"image is 4 x 7 but logits is 5 x 7 .*crop the larger"),
    "swapped axes": (image((7, 5, 3)), ValueError, "image is 7 x 5 but logits is 5 x 7"),
    "channels first": (image((3, 5, 7)), ValueError, r"np\.moveaxis\(image, 0, -1\)"),
    "no channels": (image((5, 7, 0)), ValueError, "image has 0 channels"),
    "booleans": (np.zeros((5, 7, 1), bool), TypeError, "image has dtype bool"),
    "complex": (np.zeros((5, 7, 1), complex), TypeError, "image has dtype complex128"),
    "objects": (np.zeros((5, 7, 1), object), TypeError, "image has dtype object"),
    "a list": ([[[0]]], TypeError, "image is list; it must be a NumPy array .*asarray"),
    "NaN": (image(fill=np.nan), ValueError, r"image contains NaN \(1 entry\)"),
    "infinity": (image(fill=np.inf), ValueError, "image contains infinity"),
    "minus infinity": (image(fill=-np.inf), ValueError, "image contains infinity"),
    "half with NaN": (image(dtype=np.float16, fill=np.nan), ValueError, "image contains NaN"),
    "huge": (image(fill=1e9), ValueError, r"features reach .*larger .* or float64 logits"),
    "far": (image(fill=1e20), ValueError, r"features reach .*larger bandwidths \(theta\)$"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_bad_images_are_refused(function, case):
    bad, error, message = IMAGES[case]
    with pytest.raises(error, match=message):
        function(logits(), bad)


def test_float64_logits_serve_an_image_too_far_from_0_for_float32(function):
    function(logits().astype(np.float64), image(fill=1e9))


def test_an_image_in_the_other_byte_order_is_refused_for_its_byte_order(function):
    """As TIFF and FITS readers may give it."""
    with pytest.raises(TypeError, match="image has dtype >f4.*byte order.*astype"):
        function(logits(), image(dtype=">f4"))


@pytest.mark.parametrize("size", [(5, 7), (4, 5, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_logits_and_image_in_the_order_of_other_packages_are_noticed(function, size, dtype):
    scores, pixels = logits((3, *size)), image((*size, 3), dtype)
    with pytest.raises(ValueError, match=r"seem to be exchanged.* refine\(logits, image\)"):
        function(pixels, scores)
    function(scores, pixels)


def test_an_image_in_place_of_logits_is_noticed_in_any_layout(function):
    """As SimpleCRF and torch order them."""
    with pytest.raises(ValueError, match="seem to be exchanged"):
        function(image(dtype=np.uint8), logits((3, 5, 7)).transpose(1, 2, 0))
    pixels, scores = image(dtype=np.uint8), logits((6, 5, 7))
    for one, other in ((pixels, scores.transpose(1, 2, 0)), (pixels.transpose(2, 0, 1), scores)):
        with pytest.raises(ValueError, match="seem to be exchanged"):
            function(one, other)


def test_arguments_in_order_but_another_layout_are_not_called_exchanged(function):
    for one, other, words in (
        (logits().transpose(1, 2, 0), image(dtype=np.uint8), r"np\.moveaxis\(logits, -1, 0\)"),
        (logits((4, 5, 7)), image().transpose(2, 0, 1), r"np\.moveaxis\(image, 0, -1\)"),
        (logits().astype(np.uint8), image(), "logits has dtype uint8; it must be float32"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            function(one, other)


def test_volumes_need_an_image_of_the_same_rank(function):
    with pytest.raises(ValueError, match=r"image has shape .* must be \[D, H, W, C\]"):
        function(logits((3, 4, 5, 7)), image((4, 5, 7)))


OPTIONS = {
    "compatibility shape": (
        {"compatibility": np.eye(2)}, ValueError,
        r"compatibility has shape \(2, 2\); it must be \[3, 3\], the penalty"),
    "compatibility rank": (
        {"compatibility": np.ones(3)}, ValueError, r"compatibility has shape \(3,\)"),
    "compatibility NaN": (
        {"compatibility": with_entry(POTTS, np.nan)}, ValueError, "compatibility contains NaN"),
    "compatibility infinity": (
        {"compatibility": with_entry(POTTS, np.inf)}, ValueError, "compatibility contains inf"),
    "compatibility list": (
        {"compatibility": POTTS.tolist()}, TypeError, "compatibility is list; .*asarray"),
    "compatibility complex": (
        {"compatibility": POTTS + 1j}, TypeError, "compatibility has dtype complex128"),
    "compatibility strings": (
        {"compatibility": POTTS.astype(str)}, TypeError, "compatibility has dtype <U"),
    "compatibility words": (
        {"compatibility": "potts"}, TypeError, "compatibility is 'potts'; it must be a NumPy"),
    "iterations negative": (
        {"iterations": -1}, ValueError, "iterations is -1; it must be at least 0"),
    "iterations float": (
        {"iterations": 5.0}, TypeError, "iterations is float; it must be an integer"),
    "iterations bool": (
        {"iterations": True}, TypeError, "iterations is True; it must be an integer"),
    "iterations None": (
        {"iterations": None}, TypeError, "iterations is None; it must be an integer"),
    "mask dtype": (
        {"mask": np.ones((5, 7), np.uint8)}, TypeError, "mask has dtype uint8; .*mask > 0"),
    "mask size": (
        {"mask": np.ones((7, 5), bool)}, ValueError, "mask is 7 x 5 but logits is 5 x 7"),
    "mask with channels": (
        {"mask": np.ones((5, 7, 1), bool)}, ValueError, "mask is 5 x 7 x 1 but logits is 5 x 7"),
    "mask list": (
        {"mask": [[True]]}, TypeError, "mask is list; it must be a NumPy array"),
    "spacing number": (
        {"spacing": 2.0}, ValueError, r"spacing is 2.0; it must hold 2 numbers.*\(row, column\)"),
    "spacing length": (
        {"spacing": (1, 1, 1)}, ValueError, "spacing is .* it must hold 2 numbers"),
    "spacing zero": (
        {"spacing": (1, 0)}, ValueError, r"spacing\[1\] is 0; .*positive"),
    "spacing NaN": (
        {"spacing": (np.nan, 1)}, ValueError, r"spacing\[0\] is nan; it must be finite"),
    "spacing words": (
        {"spacing": ("a", 1)}, TypeError, r"spacing\[0\] is 'a'; it must be a number"),
    "backend unknown": (
        {"backend": "tpu"}, BackendUnavailableError, "backend 'tpu' .*choose from cpu, numba"),
    "backend None": (
        {"backend": None}, BackendUnavailableError, "backend None .*must be a string"),
    "threads zero": (
        {"threads": 0}, ValueError, "threads is 0; it must be at least 1"),
    "threads float": (
        {"threads": 2.0}, TypeError, "threads is float; it must be an integer"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options_are_refused(function, case):
    options, error, message = OPTIONS[case]
    with pytest.raises(error, match=message):
        function(logits(), image(), **options)


# What an early way out must not skip: each of these leaves nothing to compute.
IDLE = {
    "no iterations": {"iterations": 0},
    "an empty mask": {"mask": np.zeros((HEIGHT, WIDTH), bool)},
}


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize(
    "case", ["spacing zero", "backend unknown", "threads zero", "compatibility NaN"]
)
def test_bad_options_are_refused_even_when_nothing_is_computed(function, case, idle):
    options, error, message = OPTIONS[case]
    with pytest.raises(error, match=message):
        function(logits(), image(), **options, **IDLE[idle])


WEIGHTS = {
    "length": (np.ones(3), ValueError, r"kernel_weights has shape \(3,\); .*one per kernel"),
    "labels": (np.ones((2, 4)), ValueError, r"kernel_weights has shape \(2, 4\).* 2 x 3"),
    "matrix": (np.ones((2, 3, 2)), ValueError, "kernel_weights has shape .*2 x 3 x 3"),
    "NaN": (np.array([1, np.nan]), ValueError, "kernel_weights contains NaN"),
    "infinity": (np.array([1, np.inf]), ValueError, "kernel_weights contains infinity"),
    "complex": (np.array([5j, 3]), TypeError, "kernel_weights has dtype complex128"),
    "list": ([5.0, 3.0], TypeError, "kernel_weights is list; .*asarray"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_kernel_weights_are_refused(case):
    bad, error, message = WEIGHTS[case]
    with pytest.raises(error, match=message):
        mean_field(logits(), image(), kernel_weights=bad)


@pytest.mark.parametrize("name", [f.name for f in fields(CRFParams) if f.name[:2] == "w_"])
def test_weights_of_another_number_of_labels_are_refused(function, name):
    params = CRFParams(**{name: (1.0, 2.0)})
    with pytest.raises(ValueError, match=f"params.{name} has 2 weights but there are 3 labels"):
        function(logits(), image(), params)


def test_weights_beyond_the_range_of_float32_are_refused(function):
    """Finite as given, infinite once in the dtype of the logits; the result would be NaN."""
    with pytest.raises(ValueError, match="weight.*range of the logits' dtype"):
        function(logits(), image(), CRFParams(w_bilateral=1e300))


@pytest.mark.parametrize("params", [{"theta_alpha": 3}, None, 80.0])
def test_params_of_another_kind_are_refused(function, params):
    with pytest.raises(TypeError, match="params is .*CRFParams"):
        function(logits(), image(), params)


def test_tensors_are_refused_with_the_way_to_numpy(function):
    torch = pytest.importorskip("torch")
    scores = torch.from_numpy(logits()).requires_grad_()
    way_out = r"{} requires grad; pass {}\.detach\(\)|{} is Tensor; .*x\.detach\(\)\.cpu\(\)"
    with pytest.raises(TypeError, match=way_out.replace("{}", "logits")):
        function(scores, image())
    pixels = torch.from_numpy(image()).requires_grad_()
    with pytest.raises(TypeError, match=way_out.replace("{}", "image")):
        function(logits(), pixels)


# --- CRFParams -----------------------------------------------------------------------------------

THETA = [
    (0, ValueError, "is 0; a bandwidth must be positive .*weight to 0"),
    (-3.0, ValueError, "is -3; a bandwidth must be positive"),
    (float("nan"), ValueError, "is nan; it must be finite"),
    (float("inf"), ValueError, "is inf; it must be finite"),
    ("80", TypeError, "is '80'; it must be a number"),
    (True, TypeError, "is True; it must be a number"),
    (None, TypeError, "is None; it must be a number"),
    ((), ValueError, "is empty; give one bandwidth, or one for each (axis|channel)"),
    ((80, 0), ValueError, r"\[1\] is 0; it must be positive|\[1\] is 0; a bandwidth must be"),
    ([80, "80"], TypeError, r"\[1\] is '80'; it must be a number"),
    (np.eye(2), TypeError, r"\[0\] is list; it must be a number"),
]


@pytest.mark.parametrize("name", [f.name for f in fields(CRFParams) if "theta" in f.name])
@pytest.mark.parametrize(("value", "error", "message"), THETA)
def test_params_refuse_a_bandwidth(name, value, error, message):
    with pytest.raises(error, match=f"{name} ?{message}"):
        CRFParams(**{name: value})


@pytest.mark.parametrize("name", [f.name for f in fields(CRFParams) if f.name[:2] == "w_"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (float("nan"), ValueError, " is nan; it must be finite"),
        (float("-inf"), ValueError, " is -inf; it must be finite"),
        ("5", TypeError, " is '5'; it must be a number"),
        (False, TypeError, " is False; it must be a number"),
        ((), ValueError, " is empty; give one weight, or one for each label"),
        ((1.0, float("nan")), ValueError, r"\[1\] is nan; it must be finite"),
        ([1.0, "2"], TypeError, r"\[1\] is '2'; it must be a number"),
        (np.eye(2), TypeError, r"\[0\] is list; it must be a number"),
    ],
)
def test_params_refuse_a_weight(name, value, error, message):
    with pytest.raises(error, match=name + message):
        CRFParams(**{name: value})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"normalization": "both"}, "normalization is 'both'; choose from 'after', 'before', "),
        ({"normalization": None}, "normalization is None; choose from "),
        ({"feature_order": "rc"}, "feature_order is 'rc'; choose from 'xy', 'yx'"),
        ({"spatial": "fft"}, "spatial is 'fft'; choose from 'grid', 'lattice'$"),
        ({"spatial": None}, "spatial is None; choose from 'grid', 'lattice'$"),
        ({"quality": "best"}, "quality is 'best'; choose from 'standard', 'symmetric', 'filled'$"),
        ({"quality": 1}, "quality is 1; choose from 'standard', 'symmetric', 'filled'$"),
    ],
)
def test_params_refuse_an_unknown_word(option, message):
    with pytest.raises(ValueError, match=message):
        CRFParams(**option)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_params_refuse_a_self_term_that_is_not_bool(value):
    with pytest.raises(TypeError, match="self_term is .*; it must be True or False"):
        CRFParams(self_term=value)


def test_params_take_numpy_numbers_and_are_frozen_hashable_and_equal():
    params = CRFParams(np.float32(80), np.int64(13), w_bilateral=np.array([1, 2]))
    assert params == CRFParams(80.0, 13, w_bilateral=(1.0, 2.0))
    assert hash(params) == hash(CRFParams(80.0, 13, w_bilateral=[1.0, 2.0]))
    with pytest.raises(AttributeError):
        params.theta_alpha = 3


def test_params_print_what_differs_from_the_defaults():
    assert str(CRFParams()) == "CRFParams()"
    assert str(CRFParams(80, self_term=False)) == "CRFParams(theta_alpha=80.0, self_term=False)"


# --- the warning about the range -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_a_float_image_in_0_to_1_is_warned_about(function, kind):
    with pytest.warns(UserWarning, match=r"image spans 0\.\d+ theta_beta .*pass image \* 255"):
        function(logits(), (image() / 255).astype(kind))


def test_the_warning_points_at_the_caller(function):
    with pytest.warns(UserWarning, match="image spans") as caught:
        function(logits(), image() / 255)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("picture", "theta_beta"),
    [
        (image(), 3.0),
        (image() / 255, 0.05),
        (image() / 255 - 0.5, 0.05),
        (np.zeros((HEIGHT, WIDTH, 3), np.float32), 3.0),  # nothing to see whatever the scale
        (np.eye(HEIGHT, WIDTH, dtype=np.uint8)[..., None], 0.5),
    ],
    ids=["0..255", "small theta", "centred", "constant", "integers"],
)
def test_other_images_are_not_warned_about(function, picture, theta_beta):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(logits(), picture, CRFParams(theta_beta=theta_beta))
