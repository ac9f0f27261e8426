"""Scores of label maps, against plain counts, brute force and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecrf_rnn.metrics import (
    bootstrap_interval,
    border_distance,
    class_accuracy,
    class_dice,
    class_iu,
    confusion_matrix,
    frequency_weighted_iu,
    mean_accuracy,
    mean_iu,
    pixel_accuracy,
    trimap,
    trimap_confusions,
)


def label_maps(seed, labels, size):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, size)
    truth[rng.random(size) < 0.2] = 255
    return truth.astype(np.uint8), rng.integers(0, labels, size).astype(np.uint8)


MAPS = given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.sampled_from((1, 2, 21)),
    size=st.sampled_from(((1, 1), (7, 11), (2, 3, 5))),
)


@MAPS
def test_confusion_matrix_counts_pairs(seed, labels, size):
    truth, prediction = label_maps(seed, labels, size)
    want = np.zeros((labels, labels), int)
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        if t != 255:
            want[t, p] += 1
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, labels), want)


@MAPS
def test_scores_are_those_of_the_definition(seed, labels, size):
    truth, prediction = label_maps(seed, labels, size)
    scored = truth != 255
    confusion = confusion_matrix(truth, prediction, labels)
    ius = []
    for label in range(labels):
        t, p = (truth == label) & scored, (prediction == label) & scored
        iu = (t & p).sum() / (t | p).sum() if (t | p).any() else np.nan
        np.testing.assert_allclose(class_iu(confusion)[label], iu)
        if t.any():
            ius.append(iu)
    np.testing.assert_allclose(mean_iu(confusion), np.mean(ius) if ius else np.nan)
    right = (truth == prediction)[scored]
    np.testing.assert_allclose(pixel_accuracy(confusion), right.mean() if right.size else np.nan)
    recalls = [right[truth[scored] == label].mean() for label in np.unique(truth[scored])]
    np.testing.assert_allclose(mean_accuracy(confusion), np.mean(recalls) if recalls else np.nan)
    known = class_accuracy(confusion)[~np.isnan(class_accuracy(confusion))]
    np.testing.assert_allclose(known, recalls)
    if right.size:
        pixels = [(truth == label).sum() for label in np.unique(truth[scored])]
        want = np.dot(pixels, ius) / right.size
        np.testing.assert_allclose(frequency_weighted_iu(confusion), want)


@MAPS
def test_dice_is_twice_the_intersection_over_both_areas(seed, labels, size):
    truth, prediction = label_maps(seed, labels, size)
    found = class_dice(confusion_matrix(truth, prediction, labels))
    for label in range(labels):
        t = truth == label
        p = (prediction == label) & (truth != 255)
        areas = t.sum() + p.sum()
        np.testing.assert_allclose(found[label], 2 * (t & p).sum() / areas if areas else np.nan)


@MAPS
def test_scores_do_not_depend_on_which_label_has_which_number(seed, labels, size):
    truth, prediction = label_maps(seed, labels, size)
    order = np.random.default_rng(seed).permutation(labels)
    renamed = np.concatenate([order, np.full(256 - labels, 255)]).astype(np.uint8)
    before = confusion_matrix(truth, prediction, labels)
    after = confusion_matrix(renamed[truth], renamed[prediction], labels)
    for score in (mean_iu, mean_accuracy, frequency_weighted_iu, pixel_accuracy):
        np.testing.assert_allclose(score(after), score(before))
    over = [0, labels - 1]
    np.testing.assert_allclose(mean_iu(after, over=order[over]), mean_iu(before, over=over))
    np.testing.assert_array_equal(
        border_distance(renamed[truth], 5), border_distance(truth, 5)
    )


@MAPS
def test_what_is_predicted_on_ignored_pixels_does_not_count(seed, labels, size):
    truth, prediction = label_maps(seed, labels, size)
    other = np.where(truth == 255, 0, prediction)
    widths = (1, 2, 5)
    np.testing.assert_array_equal(
        trimap_confusions(truth, other, widths, labels),
        trimap_confusions(truth, prediction, widths, labels),
    )
    np.testing.assert_array_equal(
        confusion_matrix(truth, other, labels), confusion_matrix(truth, prediction, labels)
    )


def test_mean_iu_over_some_labels_counts_the_pixels_of_the_others_against_them():
    confusion = np.array([[4, 1, 0], [2, 3, 0], [0, 5, 0]])
    assert mean_iu(confusion, over=[1]) == 3 / 11  # the 5 pixels of label 2 are in the union
    assert mean_iu(confusion, over=[0, 1, 2]) == mean_iu(confusion)
    assert mean_iu(np.pad(confusion, (0, 1)), over=[1, 3]) == 3 / 11  # 3 does not occur
    assert np.isnan(mean_iu(np.pad(confusion, (0, 1)), over=[3]))
    with pytest.raises(ValueError, match=r"over names label 3; the labels are 0\.\.2"):
        mean_iu(confusion, over=[3])


def test_a_perfect_prediction_scores_one():
    truth, _ = label_maps(0, 5, (9, 9))
    confusion = confusion_matrix(truth, np.where(truth == 255, 0, truth), 5)
    assert mean_iu(confusion) == pixel_accuracy(confusion) == 1


def test_confusion_matrices_of_several_images_add_up():
    maps = [label_maps(seed, 4, (5, 6)) for seed in range(3)]
    together = confusion_matrix(*(np.stack(part) for part in zip(*maps, strict=True)), 4)
    np.testing.assert_array_equal(together, sum(confusion_matrix(*pair, 4) for pair in maps))


def test_labels_without_scored_pixels_score_nan():
    nothing = np.full((2, 2), 255)
    confusion = confusion_matrix(nothing, nothing * 0, 3)
    assert np.isnan(class_iu(confusion)).all()
    assert np.isnan(mean_iu(confusion)) and np.isnan(pixel_accuracy(confusion))


def test_another_label_can_be_ignored():
    truth, prediction = np.array([0, 1, 11]), np.array([0, 0, 1])
    want = [[1, 0], [1, 0]]
    assert confusion_matrix(truth, prediction, 2, ignore=11).tolist() == want


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 1], [0, 1, 1], "truth has shape .* but prediction"),
        ([0, 2], [0, 1], r"truth holds labels 0\.\.2; they must lie in 0\.\.1 .*ignore=255"),
        ([0, -1], [0, 1], r"truth holds labels -1\.\.0"),
        ([0, 1], [0, 255], r"prediction holds labels 0\.\.255"),
    ],
)
def test_confusion_matrix_refuses_labels_out_of_range(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(truth), np.array(prediction), 2)


# --- trimap bands --------------------------------------------------------------------------------

# Blocks rather than noise, so that distances grow; sizes with one row, one column and one pixel.
BLOCKS = given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(((1, 1), (1, 17), (19, 1), (13, 11), (23, 29), (5, 7, 6), (1, 9, 1))),
    limit=st.sampled_from((1, 2, 3, 7, 40)),
)


def blocks(seed, size):
    """A label map of large blobs with a void strip."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, [-(-n // 6) for n in size]).astype(np.uint8)
    for axis in range(len(size)):
        coarse = coarse.repeat(6, axis)
    truth = coarse[tuple(slice(n) for n in size)].copy()
    truth[..., size[-1] // 2][rng.random(truth.shape[:-1]) < 0.5] = 255
    return truth


def border_by_definition(truth):
    """The border pixels, one pixel at a time."""
    border = np.zeros(truth.shape, bool)
    for pixel in np.ndindex(truth.shape):
        for axis in range(truth.ndim):
            for step in (-1, 1):
                other = list(pixel)
                other[axis] += step
                if 0 <= other[axis] < truth.shape[axis]:
                    border[pixel] |= truth[tuple(other)] != truth[pixel]
    return border


@BLOCKS
def test_border_distance_is_that_of_brute_force(seed, size, limit):
    truth = blocks(seed, size)
    border = np.argwhere(border_by_definition(truth))
    want = np.full(size, np.inf)
    if len(border):
        apart = np.argwhere(np.ones(size, bool))[:, None] - border[None]
        want = np.sqrt((apart**2).sum(-1)).min(1).reshape(size)
    want[want >= limit] = np.inf
    np.testing.assert_array_equal(border_distance(truth, limit), want)


@BLOCKS
def test_border_distance_is_scipys(seed, size, limit):
    ndimage = pytest.importorskip("scipy.ndimage")
    truth = blocks(seed, size)
    border = border_by_definition(truth)
    if border.any():
        want = ndimage.distance_transform_edt(~border)
        found = border_distance(truth, limit)
        np.testing.assert_allclose(found[found < np.inf], want[want < limit])


@BLOCKS
def test_a_wider_band_holds_the_narrower_and_the_widest_all_but_flat_maps(seed, size, limit):
    truth = blocks(seed, size)
    narrow, wide = trimap(truth, limit), trimap(truth, limit + 1)
    assert (wide | ~narrow).all()
    np.testing.assert_array_equal(trimap(truth, 1), border_by_definition(truth))
    assert trimap(truth, 100).all() == (len(np.unique(truth)) > 1)


@BLOCKS
def test_trimap_confusions_are_those_of_the_pixels_in_each_band(seed, size, limit):
    truth = blocks(seed, size)
    prediction = np.random.default_rng(seed).integers(0, 3, size)
    found = trimap_confusions(truth, prediction, (limit, 1, 100), 3)
    for confusion, width in zip(found, (limit, 1, 100), strict=True):
        band = trimap(truth, width)
        want = confusion_matrix(truth[band], prediction[band], 3)
        np.testing.assert_array_equal(confusion, want)
    assert found.sum() == 0 or len(np.unique(truth)) > 1


@pytest.mark.parametrize("width", [0, -3])
def test_bands_without_width_are_refused(width):
    truth = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match=f"width is {width}; it must be at least 1 pixel"):
        trimap(truth, width)
    with pytest.raises(ValueError, match=f"width is {width}; it must be at least 1 pixel"):
        trimap_confusions(truth, truth, [3, width], 2)
    with pytest.raises(ValueError, match=f"limit is {width}"):
        border_distance(truth, width)


def test_trimap_confusions_refuse_maps_of_two_sizes():
    with pytest.raises(ValueError, match=r"truth has shape \(2, 3\) but prediction \(3, 2\)"):
        trimap_confusions(np.zeros((2, 3), int), np.zeros((3, 2), int), [1], 2)


# --- bootstrap -----------------------------------------------------------------------------------


def confusions_of(images, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 40, (images, 3, 3)) + 60 * np.eye(3, dtype=int)


def test_an_interval_holds_the_score_and_narrows_with_more_images():
    widths = []
    for images in (5, 20, 320):
        confusions = confusions_of(images)
        low, high = bootstrap_interval(confusions, mean_iu)
        assert low < mean_iu(confusions.sum(0)) < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_an_interval_is_as_wide_as_the_standard_error_says():
    # Images of one size that are all right or all wrong: accuracy is a binomial proportion.
    rng = np.random.default_rng(1)
    right = rng.random(400) < 0.7
    confusions = np.where(right[:, None, None], [[10, 0], [0, 10]], [[0, 10], [10, 0]])
    low, high = bootstrap_interval(confusions, pixel_accuracy, resamples=4000)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert abs((high - low) / (2 * 1.96 * error) - 1) < 0.1


def test_the_same_seed_gives_the_same_interval():
    confusions = confusions_of(12)
    first, again, other = (
        bootstrap_interval(confusions, mean_iu, resamples=200, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_an_interval_of_a_difference_is_narrower_than_the_difference_of_intervals():
    before = confusions_of(30)
    after = before + 5 * np.eye(3, dtype=int)
    pairs = np.stack([before, after], axis=1)
    low, high = bootstrap_interval(pairs, lambda c: mean_iu(c[1]) - mean_iu(c[0]))
    assert 0 < low < high  # every image gained, and so does every resample
    apart = [bootstrap_interval(part, mean_iu) for part in (before, after)]
    assert high - low < apart[1][1] - apart[0][0]


def test_an_interval_of_every_label_skips_resamples_without_it():
    confusions = np.zeros((4, 3, 3), int)
    confusions[:, 0, 0] = 5
    confusions[0, 1] = (1, 1, 0)  # label 1 is in one image only, label 2 in none
    low, high = bootstrap_interval(confusions, class_iu)
    assert low.shape == high.shape == (3,)
    assert low[0] > 0.6 and low[1] == high[1] == 0.5
    assert np.isnan(low[2]) and np.isnan(high[2])


def test_one_image_has_an_interval_without_width():
    confusions = confusions_of(1)
    low, high = bootstrap_interval(confusions, mean_iu)
    np.testing.assert_allclose([low, high], mean_iu(confusions[0]))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (0, {}, "holds no image"),
        (2, {"resamples": 0}, "resamples is 0; it must be at least 1"),
        (2, {"level": 1.0}, "level is 1.0; it must lie between 0 and 1"),
    ],
)
def test_intervals_of_nothing_are_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(confusions_of(images), mean_iu, **options)


# --- masked arrays and small integers ------------------------------------------------------------


def test_masked_arrays_are_rejected_since_their_mask_would_not_count():
    labels = np.array([[0, 1], [1, 0]])
    masked = np.ma.array(labels, mask=[[False, False], [True, True]])
    for truth, prediction, name in ((masked, labels, "truth"), (labels, masked, "prediction")):
        for function in (confusion_matrix, lambda t, p, n: trimap_confusions(t, p, [1], n)):
            with pytest.raises(TypeError, match=f"{name} is a masked array.*pass {name}.data"):
                function(truth, prediction, 2)
    with pytest.raises(TypeError, match="masked array"):
        border_distance(masked, 2)
    # What the message says.
    found = confusion_matrix(np.where(np.ma.getmaskarray(masked), 255, masked.data), labels, 2)
    assert found.tolist() == [[1, 0], [0, 1]]
    assert confusion_matrix(np.ma.array(labels), labels, 2).sum() == 4


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_scores_of_counts_near_the_largest_of_their_dtype_are_exact(dtype):
    confusion = np.diag(np.full(2, np.iinfo(dtype).max // 2 + 1)).astype(dtype)
    for score in (class_dice, class_iu, class_accuracy):
        assert score(confusion).tolist() == [1, 1]
