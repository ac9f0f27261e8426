"""Tests of what the torch layer refuses, and that each message names the way out."""

import warnings

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import BackendUnavailableError, CRFParams, CRFRNN  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402

LABELS = 3


@pytest.fixture
def crf():
    return CRFRNN(LABELS)


def good(*size, batch=2, labels=LABELS, channels=3):
    return make.problem(0, *(size or (4, 5)), batch=batch, labels=labels, channels=channels,
                        dtype=torch.float32)


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (3, 4, 5), (1, 3, 2, 2, 2, 2)])
def test_crfrnn_rejects_logits_of_wrong_rank(crf, shape):
    with pytest.raises(ValueError, match=r"logits has shape .*must be \[B, L, H, W\]"):
        crf(torch.zeros(shape), torch.zeros(1, 3, 4, 5))


def test_crfrnn_rejects_an_image_of_wrong_rank(crf):
    logits, _ = good()
    with pytest.raises(ValueError, match=r"image has shape \(4, 5\); it must be \[B, C, H, W\]"):
        crf(logits, torch.zeros(4, 5))


def test_crfrnn_rejects_an_image_without_channels_and_names_the_index(crf):
    logits, image = good()
    with pytest.raises(ValueError, match=r"a one-channel image is image\[:, None\]"):
        crf(logits, image[:, 0])


def test_crfrnn_rejects_a_volume_with_a_flat_image(crf):
    logits, _ = good(2, 4, 5)
    with pytest.raises(ValueError, match=r"image has shape .*must be \[B, C, D, H, W\]"):
        crf(logits, good()[1])


def test_crfrnn_rejects_an_image_of_another_size(crf):
    with pytest.raises(ValueError, match=r"image is 8 x 10 but logits is 4 x 5 \(H, W\); enlarge"):
        crf(good()[0], good(8, 10)[1])


def test_crfrnn_rejects_a_channels_last_image_and_names_the_cure(crf):
    logits, image = good()
    with pytest.raises(ValueError, match=r"image\.movedim\(-1, 1\)"):
        crf(logits, image.movedim(1, -1))


def test_the_cure_for_a_channels_last_image_cures_it(crf):
    logits, image = good()
    assert torch.equal(crf(logits, image.movedim(1, -1).movedim(-1, 1)), crf(logits, image))


def test_crfrnn_rejects_another_number_of_images(crf):
    logits, image = good()
    with pytest.raises(ValueError, match="image holds 1 images but logits 2; give one each"):
        crf(logits, image[:1])


def test_a_guide_named_image_does_not_replace_an_image_in_silence(crf):
    logits, image = torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match="guides has an entry 'image'.*leave the image out"):
        crf(logits, image, guides={"image": image})
    assert crf(logits, guides={"image": image}).shape == logits.shape


def test_crfrnn_rejects_an_image_of_no_channels(crf):
    logits, image = good()
    with pytest.raises(ValueError, match="image has 0 channels"):
        crf(logits, image[:, :0])


@pytest.mark.parametrize("labels", [1, 2, 4])
def test_crfrnn_rejects_another_number_of_labels(crf, labels):
    logits, image = good(labels=labels)
    with pytest.raises(ValueError, match=f"logits has {labels} labels .*num_classes={labels}"):
        crf(logits, image)


@pytest.mark.parametrize("size", [(0, 5), (4, 0), (0, 0), (2, 0, 3)])
def test_crfrnn_rejects_images_without_pixels(crf, size):
    with pytest.raises(ValueError, match="without labels or without pixels"):
        crf(*good(*size))


@pytest.mark.parametrize("size", [(4, 5), (2, 4, 5)])
def test_an_image_in_place_of_logits_is_noticed(size):
    logits, image = good(*size, labels=5)
    with pytest.raises(ValueError, match=r"given first, exchange them: crf\(logits, image\)"):
        CRFRNN(5)(image, logits)
    for pixels in (image.byte(), image.byte().movedim(1, -1)):
        with pytest.raises(ValueError, match="seem to be exchanged"):
            functional.mean_field(pixels, logits)


def test_an_image_of_as_many_channels_as_labels_is_told_by_its_values(crf):
    logits, image = good(40, 50)
    pixels = (255 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))).floor()
    with pytest.raises(ValueError, match=r"seem to be exchanged.* refine\(logits, image\)"):
        crf(pixels, logits)
    crf(logits, pixels)
    crf(20 * (logits > 0).float(), image / 64 - 2)  # logits of a mask, a standardised image
    crf(logits, logits)


def test_mean_field_rejects_logits_without_labels():
    with pytest.raises(ValueError, match="without labels or without pixels"):
        functional.mean_field(*good(labels=0))


@pytest.mark.parametrize("spacing", [1.0, (1.0,), (1.0, 1.0, 1.0), "11"])
def test_crfrnn_rejects_spacing_of_another_length(crf, spacing):
    with pytest.raises(ValueError, match="spacing is .*must hold 2 numbers"):
        crf(*good(), spacing=spacing)


@pytest.mark.parametrize("spacing", [(1.0, 0.0), (-1.0, 1.0), (1.0, float("nan"))])
def test_crfrnn_rejects_spacing_that_is_not_positive(crf, spacing):
    with pytest.raises(ValueError, match=r"spacing\["):
        crf(*good(), spacing=spacing)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, message",
    [(float("nan"), r"logits contains NaN \(1 entry\)"), (float("inf"), r"logits contains \+inf")],
)
def test_crfrnn_rejects_non_finite_logits(crf, value, message):
    logits, image = good()
    logits[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=message):
        crf(logits, image)


def test_crfrnn_rejects_pixels_with_every_label_ruled_out(crf):
    logits, image = good()
    logits[1, :, 3, 4] = -torch.inf
    with pytest.raises(ValueError, match="infinity for every label at 1 pixels"):
        crf(logits, image)


@pytest.mark.parametrize(
    "value, message",
    [(float("nan"), "image contains NaN"), (float("inf"), "image contains infinity"),
     (-float("inf"), "image contains infinity")],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_crfrnn_rejects_a_non_finite_image(crf, value, message, dtype):
    logits, image = good()
    image = image.to(dtype)
    image[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=message):
        crf(logits, image)


@pytest.mark.parametrize("name", ["compatibility", "kernel_weights"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_crfrnn_rejects_parameters_that_diverged(crf, name, value):
    with torch.no_grad():
        getattr(crf, name)[1, 2] = value
    with pytest.raises(ValueError, match=f"{name} contains"):
        crf(*good())


def test_crfrnn_rejects_features_too_far_away_to_index():
    logits, image = good()
    crf = CRFRNN(LABELS, params=CRFParams(theta_beta=1e-5))
    with pytest.raises(ValueError, match=r"larger bandwidths .*\.double\(\) of every tensor and"):
        crf(logits, image.double())
    crf.double()(logits.double(), image.double())


def test_crfrnn_warns_of_an_image_in_0_to_1(crf):
    logits, image = good()
    with pytest.warns(UserWarning, match=r"image spans .*sees no edges.*pass image \* 255"):
        crf(logits, image / 255)


@pytest.mark.parametrize("case", ["in 0..255", "integers", "small bandwidth", "black"])
def test_crfrnn_does_not_warn_without_cause(case):
    logits, image = good()
    params = CRFParams(theta_beta=0.1 if case == "small bandwidth" else 3.0)
    if case == "small bandwidth":
        image = image / 255
    if case == "integers":
        image = (image > 128).to(torch.uint8) * 255
    if case == "black":
        image = torch.zeros_like(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CRFRNN(LABELS, params=params)(logits, image)


# --- kinds, dtypes and devices -------------------------------------------------------------------


@pytest.mark.parametrize("which", ["logits", "image"])
def test_crfrnn_rejects_numpy_arrays(crf, which):
    logits, image = good()
    given = {"logits": logits, "image": image}
    given[which] = given[which].numpy()
    with pytest.raises(TypeError, match=f"{which} is ndarray; it must be a tensor"):
        crf(**given)


@pytest.mark.parametrize("name", ["compatibility", "kernel_weights"])
def test_mean_field_rejects_numpy_parameters(name):
    with pytest.raises(TypeError, match=f"{name} is ndarray; it must be a tensor"):
        functional.mean_field(*good(), **{name: torch.ones(3, 3).numpy()})


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64]
)
def test_crfrnn_rejects_logits_of_other_dtypes(crf, dtype):
    logits, image = good()
    with pytest.raises(TypeError, match=r"logits has dtype .*float32 or float64 \(logits.float"):
        crf(logits.to(dtype), image)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_crfrnn_rejects_images_of_other_dtypes(crf, dtype):
    logits, image = good()
    with pytest.raises(TypeError, match="image has dtype"):
        crf(logits, image.to(dtype))


def test_crfrnn_rejects_float64_logits_in_a_float32_module(crf):
    logits, image = good()
    with pytest.raises(TypeError, match=r"torch.float32 .*torch.float64 .*crf\.to\(logits\)"):
        crf(logits.double(), image)
    # The way out that the message names.
    assert crf.to(logits.double())(logits.double(), image).dtype == torch.float64


def test_crfrnn_rejects_float32_logits_in_a_float64_module(crf):
    with pytest.raises(TypeError, match=r"torch.float64 .*torch.float32"):
        crf.double()(*good())


@pytest.mark.parametrize("elsewhere", ["logits", "image"])
def test_crfrnn_rejects_tensors_on_two_devices(crf, elsewhere):
    logits, image = good()
    given = {"logits": logits, "image": image}
    given[elsewhere] = given[elsewhere].to("meta")
    with pytest.raises(ValueError, match="image is on (meta|cpu) but logits on (cpu|meta); move"):
        crf(**given)


def test_crfrnn_rejects_devices_without_a_backend(crf):
    logits, image = (tensor.to("meta") for tensor in good())
    with pytest.raises(BackendUnavailableError, match="not compute on tensors that are on meta"):
        crf.to("meta")(logits, image)


@pytest.mark.parametrize("shape", [(2, 2), (3,), (4, 4), (3, 3, 1)])
def test_mean_field_rejects_a_compatibility_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"compatibility has shape .*must be \[3, 3\]"):
        functional.mean_field(*good(), compatibility=torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 4), (3, 2), (2, 3, 4), (1, 3, 3)])
def test_mean_field_rejects_kernel_weights_of_another_shape(shape):
    with pytest.raises(ValueError, match="kernel_weights has shape"):
        functional.mean_field(*good(), kernel_weights=torch.zeros(shape))


def test_mean_field_rejects_weights_for_another_number_of_labels():
    with pytest.raises(ValueError, match="params.w_spatial has 2 weights but there are 3 labels"):
        functional.mean_field(*good(), CRFParams(w_spatial=(1.0, 2.0)))


# --- the constructor -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1])
def test_crfrnn_rejects_fewer_than_one_class(value):
    with pytest.raises(ValueError, match=f"num_classes is {value}; it must be at least 1"):
        CRFRNN(value)


@pytest.mark.parametrize("value", [3.0, True, "3", None])
def test_crfrnn_rejects_num_classes_that_is_no_whole_number(value):
    with pytest.raises(TypeError, match="num_classes is .*integer"):
        CRFRNN(value)


@pytest.mark.parametrize("name", ["iterations", "eval_iterations"])
def test_crfrnn_rejects_iterations_that_are_no_count(name):
    with pytest.raises(ValueError, match=f"{name} is -1; it must be at least 0"):
        CRFRNN(LABELS, **{name: -1})
    with pytest.raises(TypeError, match=f"{name} is float; it must be an integer"):
        CRFRNN(LABELS, **{name: 2.5})


@pytest.mark.parametrize("iterations", [-1, 1.5, True, None])
def test_mean_field_rejects_iterations_that_are_no_count(iterations):
    with pytest.raises((TypeError, ValueError), match="iterations is"):
        functional.mean_field(*good(), iterations=iterations)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "1"])
def test_a_memory_budget_that_is_no_number_of_bytes_is_refused(value):
    for call in (lambda: CRFRNN(LABELS, memory_budget=value),
                 lambda: functional.mean_field(*good(), memory_budget=value)):
        with pytest.raises((TypeError, ValueError), match="memory_budget is"):
            call()


@pytest.mark.parametrize("name", ["kernel_weights", "compatibility", "normalization"])
def test_crfrnn_rejects_unknown_words_and_lists_the_known(name):
    with pytest.raises(ValueError, match=f"{name} is 'bogus'; choose from '"):
        CRFRNN(LABELS, **{name: "bogus"})


def test_crfrnn_rejects_a_self_term_that_is_no_flag():
    with pytest.raises(TypeError, match="self_term is int; it must be True or False"):
        CRFRNN(LABELS, self_term=1)


def test_crfrnn_rejects_weights_for_another_number_of_labels():
    with pytest.raises(ValueError, match="params.w_bilateral has 2 weights but there are 3 label"):
        CRFRNN(LABELS, params=CRFParams(w_bilateral=(1.0, 2.0)))


def test_crfrnn_rejects_one_weight_per_kernel_where_params_has_one_per_label():
    with pytest.raises(ValueError, match="kernel_weights is 'scalar' but params has a weight"):
        CRFRNN(2, params=CRFParams(w_bilateral=(1.0, 2.0)), kernel_weights="scalar")


@pytest.mark.parametrize("name", ["tpu", "", None, 3])
def test_an_unknown_backend_is_unavailable(name):
    with pytest.raises(BackendUnavailableError, match="cannot run here"):
        CRFRNN(LABELS, backend=name)
    with pytest.raises(BackendUnavailableError, match="cannot run here"):
        functional.mean_field(*good(), backend=name)


# --- wrap ----------------------------------------------------------------------------------------


class Returns(torch.nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, image):
        return self.result


@pytest.mark.parametrize("result", [{"mask": torch.zeros(1)}, (torch.zeros(1),), None])
def test_wrap_refuses_backbones_that_return_no_logits(result):
    model = CRFRNN.wrap(Returns(result), LABELS)
    with pytest.raises(TypeError, match="the backbone returned .*pass pick="):
        model(torch.zeros(1, 3, 4, 5))


@pytest.mark.parametrize("name", ["mean", "std"])
def test_wrap_refuses_statistics_for_another_number_of_channels(name):
    logits, image = good()
    model = CRFRNN.wrap(Returns(logits), LABELS, **{name: (0.5, 0.5)})
    with pytest.raises(ValueError, match=f"{name} has 2 entries but the image 3 channels"):
        model(image)


def test_wrap_refuses_logits_of_another_number_of_labels():
    logits, image = good()
    with pytest.raises(ValueError, match="logits has 3 labels"):
        CRFRNN.wrap(Returns(logits), 5)(image)
