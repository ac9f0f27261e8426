"""What a CRF starts from: label maps, probabilities, temperature, subsets, coarse maps."""

from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as npst

from densecrf_rnn import unaries
from densecrf_rnn.inference.running import softmax
from densecrf_rnn.postprocess import remove_small
from densecrf_rnn.upsampling import upsample

label_maps = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=3, max_side=7),
                         elements=st.integers(0, 4))  # fmt: skip
scores = npst.arrays(np.float32, npst.array_shapes(min_dims=3, max_dims=4, max_side=6),
                     elements=st.floats(-50, 50, width=32))  # fmt: skip


# --- label maps ----------------------------------------------------------------------------------


@given(label_maps, st.floats(0.01, 0.99), st.integers(5, 9))
def test_labels_become_probabilities_of_which_the_label_has_its_confidence(
    labels, confidence, num_labels
):
    p = np.exp(unaries.logits_from_labels(labels, num_labels, confidence))
    assert p.dtype == np.float32 and p.shape == (num_labels, *labels.shape)
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-5)
    chosen = np.take_along_axis(p, labels[None].astype(int), 0)
    np.testing.assert_allclose(chosen, confidence, atol=1e-6)


@given(label_maps, st.integers(0, 4))
def test_unsure_pixels_have_no_opinion_and_others_keep_theirs(labels, unsure):
    with_unsure = unaries.logits_from_labels(labels, 5, unsure=unsure)
    sure = unaries.logits_from_labels(labels, 5)
    np.testing.assert_array_equal(with_unsure[:, labels != unsure], sure[:, labels != unsure])
    np.testing.assert_allclose(np.exp(with_unsure[:, labels == unsure]), 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((np.array([0, 5]), 5), r"holds 0\.\.5.*0\.\.4"),
        ((np.array([-1, 0]), 5), r"holds -1\.\.0"),
        ((np.array([0.5]), 5), "integers"),
        ((np.array([0]), 1), "at least 2"),
        ((np.array([0]), 2, 1.0), "between 0 and 1"),
        ((np.array([0]), 2, float("nan")), "finite"),
    ],
)
def test_label_maps_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        unaries.logits_from_labels(*arguments)


# --- probabilities -------------------------------------------------------------------------------


@given(scores)
def test_probabilities_and_their_logits_have_one_softmax(logits):
    if len(logits) == 1:
        return
    p = softmax(logits.astype(np.float64), 0)
    again = softmax(unaries.logits_from_probabilities(p, floor=0), 0)
    np.testing.assert_allclose(again, p, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integer_probabilities_are_fractions_of_their_largest(dtype):
    most = np.iinfo(dtype).max
    stored = np.array([[0, most, most // 3], [most, 0, most - most // 3]], dtype)
    expected = unaries.logits_from_probabilities(stored / most)
    np.testing.assert_allclose(unaries.logits_from_probabilities(stored), expected, atol=1e-5)


def test_one_probability_map_becomes_the_logit_of_the_foreground():
    p = np.array([[0.1, 0.5, 0.9]])
    np.testing.assert_allclose(
        unaries.logits_from_probabilities(p), np.log(p / (1 - p)), atol=1e-6
    )


def test_a_floor_of_zero_rules_labels_out():
    assert unaries.logits_from_probabilities(np.array([[0.0], [1.0]]), floor=0)[0, 0] == -np.inf
    assert np.isfinite(unaries.logits_from_probabilities(np.array([[0.0], [1.0]]))).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan, np.inf])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
        unaries.logits_from_probabilities(np.array([[wrong], [0.5]]))


@pytest.mark.parametrize("most", [np.nextafter(np.float32(1), np.float32(2)), 1.0005])
def test_rounding_errors_of_probabilities_are_accepted(most):
    p = np.array([[most], [1 - most]], np.float32)
    assert unaries.logits_from_probabilities(p)[0, 0] == 0


def test_scores_that_overshoot_are_told_with_all_digits_and_can_be_clipped():
    p = np.array([[1.0011, 0.2], [-0.0011, 0.8]], np.float32)
    with pytest.raises(ValueError, match=r"holds -0\.0011\.\.1\.0011; .*p, clip=True\)"):
        unaries.logits_from_probabilities(p)
    found = unaries.logits_from_probabilities(p, clip=True)
    np.testing.assert_allclose(np.exp(found), [[1, 0.2], [0, 0.8]], atol=2e-5)


def test_probabilities_of_other_integers_are_refused():
    with pytest.raises(TypeError, match="int64"):
        unaries.logits_from_probabilities(np.array([[0], [1]]))


# --- temperature, subsets ------------------------------------------------------------------------


# --- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("size", [(), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("queries, labels", [(1, 1), (6, 4)])
def test_logits_of_queries_are_the_logarithms_of_their_scores(batch, size, queries, labels):
    rng = np.random.default_rng(0)
    classes = rng.normal(0, 3, (*batch, queries, labels + 1))
    masks = rng.normal(0, 5, (*batch, queries, *size))
    p = np.exp(classes) / np.exp(classes).sum(-1, keepdims=True)
    q = 1 / (1 + np.exp(-masks))
    scores = np.zeros((*batch, labels, *size))
    for query in range(queries):
        for label in range(labels):
            weight = p[..., query, label].reshape(batch + (1,) * len(size))
            at = (slice(None),) * len(batch)
            scores[(*at, label)] += weight * q[(*at, query)]
    found = unaries.from_queries(classes, masks)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.log(np.maximum(scores, 1e-5)), rtol=1e-9, atol=1e-12)


def test_queries_of_any_magnitude_give_finite_logits_above_the_floor():
    classes = np.array([[1e4, -1e4, 0], [-1e38, 1e38, 1e38]], np.float32)
    masks = np.array([[-3e38, 200, -200], [90, -90, 3e38]], np.float32)
    found = unaries.from_queries(classes, masks, floor=1e-3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), [[1e-3, 1, 1e-3], [0.5, 1e-3, 0.5]], rtol=1e-5)


def test_where_no_query_covers_a_pixel_its_labels_are_equally_probable():
    found = unaries.from_queries(np.array([[0.0, 5, 0]]), np.array([[-20.0, 20]]))
    assert found[0, 0] == found[1, 0] == np.log(1e-5) and found[1, 1] > found[0, 1]


def test_queries_of_tensors_have_the_logits_of_arrays_and_their_gradient():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    classes, masks = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 3, 2))
    tensors = [torch.tensor(x, requires_grad=True) for x in (classes, masks)]
    found = unaries.from_queries(*tensors)
    np.testing.assert_allclose(found.detach(), unaries.from_queries(classes, masks), rtol=1e-12)
    assert torch.autograd.gradcheck(unaries.from_queries, tensors)
    outputs = SimpleNamespace(class_queries_logits=tensors[0], masks_queries_logits=tensors[1])
    assert torch.equal(unaries.from_queries(outputs), found)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = unaries.from_queries(*(x.to(dtype) for x in tensors))
        wide = unaries.from_queries(*(x.to(dtype).float() for x in tensors))
        assert narrow.dtype is torch.float32 and torch.equal(narrow, wide)


@pytest.mark.parametrize("batch, queries", [(0, 5), (2, 0)])
def test_no_images_and_no_queries_have_logits_of_their_shape(batch, queries):
    torch = pytest.importorskip("torch")
    classes, masks = np.zeros((batch, queries, 4), np.float32), np.zeros((batch, queries, 3, 2))
    found = unaries.from_queries(classes, masks)
    assert found.shape == (batch, 3, 3, 2) and np.allclose(found, np.log(1e-5))
    given = [torch.from_numpy(x) for x in (classes, masks)]
    assert torch.equal(unaries.from_queries(*given), torch.from_numpy(found))


def test_queries_and_masks_of_two_dtypes_give_the_wider():
    torch = pytest.importorskip("torch")
    classes, masks = np.float32(np.eye(4)[:, :3]), np.linspace(-2, 2, 24).reshape(4, 6)
    found = unaries.from_queries(classes, masks)
    tensor = unaries.from_queries(torch.from_numpy(classes), torch.from_numpy(masks))
    assert found.dtype == np.float64 and tensor.dtype is torch.float64
    np.testing.assert_allclose(tensor, found, rtol=1e-12)


@pytest.mark.parametrize("arguments, words", [
    (([[1.0, 2.0]],), "queries is list without class_queries_logits and masks_queries_logits"),
    ((np.zeros((5, 4)), np.zeros((4, 3))), r"queries has shape \(5, 4\) and masks \(4, 3\)"),
    ((np.zeros((2, 5, 4)), np.zeros((5, 3))), "with the same batch and number of queries Q"),
    ((np.zeros((5, 1)), np.zeros((5, 3))), r"they must be \[..., Q, L \+ 1\]"),
    ((np.zeros((5, 4), int), np.zeros((5, 3))), "queries has dtype int64"),
    ((np.zeros((5, 4)), [0.0]), "masks is list; it must be a NumPy array"),
])
def test_queries_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        unaries.from_queries(*arguments)
    with pytest.raises(ValueError, match="floor is 1; it must lie between 0 and 1"):
        unaries.from_queries(np.zeros((5, 4)), np.zeros((5, 3)), floor=1)


def test_former_names_are_the_same_functions():
    assert unaries.softened is unaries.scale_temperature
    assert unaries.of_classes is unaries.select_classes


@given(scores, st.floats(0.1, 10))
def test_temperature_keeps_the_likeliest_label_and_softens(logits, temperature):
    soft = unaries.scale_temperature(logits, temperature)
    assert soft.dtype == logits.dtype
    np.testing.assert_allclose(soft * np.float32(temperature), logits, rtol=1e-5, atol=1e-6)
    before, after = (softmax(x.astype(float), 0).max(0) for x in (logits, soft))
    assert (after <= before + 1e-5).all() if temperature >= 1 else (after >= before - 1e-5).all()


@pytest.mark.parametrize("temperature", [0, -1, np.inf, "1"])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises((TypeError, ValueError), match="temperature"):
        unaries.scale_temperature(np.zeros((2, 3)), temperature)


@given(scores.filter(lambda x: len(x) >= 2), st.randoms())
def test_a_subset_has_the_marginals_given_that_no_other_label_is_right(logits, random):
    classes = random.sample(range(len(logits)), random.randint(2, len(logits)))
    q = softmax(logits.astype(float), 0)[classes]
    kept = softmax(unaries.select_classes(logits, classes).astype(float), 0)
    np.testing.assert_allclose(kept * q.sum(0), q, atol=1e-7)


@pytest.mark.parametrize("classes", [[0], [0, 0], [0, 3], [-1, 0], [0.0, 1.0]])
def test_subsets_that_are_none_are_refused(classes):
    with pytest.raises((TypeError, ValueError), match="classes"):
        unaries.select_classes(np.zeros((3, 2)), classes)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: unaries.scale_temperature(x, 2),
        lambda x: unaries.select_classes(x, [0, 1]),
        lambda x: unaries.logits_from_probabilities(x, multilabel=True),
        lambda x: upsample(x, [5, 7]),
    ],
)
def test_arguments_are_not_changed(call):
    x = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    kept = x.copy()
    result = call(x)
    result += 1  # nor are results views of them
    np.testing.assert_array_equal(x, kept)


# --- finer grids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "coarse, fine",
    [((5, 7), (12, 300)), ((1, 4), (9, 4)), ((33, 33), (129, 130)), ((3, 4, 5), (7, 9, 140))],
)
def test_upsampling_is_that_of_torch(coarse, fine, align_corners):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).normal(size=(3, *coarse)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=fine, align_corners=align_corners,
        mode="bilinear" if len(fine) == 2 else "trilinear",
    )[0].numpy()  # fmt: skip
    found = upsample(maps, fine, align_corners=align_corners)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(st.data())
def test_upsampling_keeps_straight_lines(data):
    """Where corners are aligned a linear function stays one; whatever else it does would show."""
    coarse = data.draw(st.integers(2, 40))
    fine = data.draw(st.integers(coarse, 400))
    line = np.linspace(-1, 3, coarse)[None]
    np.testing.assert_allclose(
        upsample(line, [fine], align_corners=True)[0], np.linspace(-1, 3, fine), atol=1e-12
    )


def test_a_crop_is_the_first_corner():
    maps = np.random.default_rng(0).normal(size=(2, 5, 6))
    whole = upsample(maps, (50, 60))
    np.testing.assert_allclose(upsample(maps, (50, 60), crop=(31, 45)), whole[:, :31, :45])


@pytest.mark.parametrize(
    ("size", "crop", "message"),
    [
        (16, None, r"size is 16 but maps has shape \(1, 2, 3\), .* a sequence of 2 integers, one"),
        ((5,), None, r"size is \(5,\) but maps"),
        (None, None, "size is None but maps"),
        ("55", None, "size is '55' but maps"),
        ((0, 5), None, r"size\[0\] is 0; it must be at least 1"),
        ((5.0, 5), None, r"size\[0\] is float; it must be an integer"),
        ((5, 5), 5, "crop is 5 but maps"),
        ((5, 5), (6, 5), "cannot take 6 of 5 pixels"),
    ],
)
def test_sizes_that_are_none_are_refused(size, crop, message):
    with pytest.raises((TypeError, ValueError), match=message):
        upsample(np.zeros((1, 2, 3)), size, crop=crop)


def test_a_size_may_be_an_array():
    assert upsample(np.zeros((1, 2, 3)), np.array([4, 6])).shape == (1, 4, 6)


# --- small regions -------------------------------------------------------------------------------


def regions(labels):
    measure = pytest.importorskip("skimage.measure")
    return measure.label(labels + 1, background=0, connectivity=1)


@given(npst.arrays(np.int32, npst.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12),
                   elements=st.integers(0, 2)), st.integers(1, 9))  # fmt: skip
def test_small_regions_take_the_label_of_the_nearest_large_one(labels, pixels):
    before = regions(labels)
    sizes = np.bincount(before.ravel())
    after = remove_small(labels, pixels)
    assert after.dtype == labels.dtype
    large = (sizes >= pixels)[before]
    np.testing.assert_array_equal(after[large], labels[large])
    if not large.any():
        np.testing.assert_array_equal(after, labels)
        return
    kept = np.argwhere(large)
    for pixel in np.argwhere(~large):  # each took the label of a nearest one that stayed
        distance = ((kept - pixel) ** 2).sum(1)
        nearest = kept[distance == distance.min()]
        assert after[tuple(pixel)] in labels[tuple(nearest.T)]


def test_a_speck_takes_the_label_of_its_neighbours_in_a_volume():
    labels = np.full((5, 6, 7), 3)
    labels[2, 2, 2] = 900
    assert (remove_small(labels, 2) == 3).all()


def test_remove_small_refuses_what_is_no_label_map():
    with pytest.raises(TypeError, match="float64"):
        remove_small(np.zeros((3, 3)), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_maps_that_cannot_be_interpolated_are_refused(bad):
    maps = np.zeros((2, 2, 2))
    maps[0, 0, 1] = bad
    with pytest.raises(ValueError, match="maps contain NaN or infinity, so they cannot be interp"):
        upsample(maps, (4, 4))
