"""Scores of label maps, against a plain count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecrf_rnn.metrics import class_iu, confusion_matrix, mean_iu, pixel_accuracy


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
