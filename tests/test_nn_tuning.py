"""Parameters learned by gradients from saved logits."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_tune import planted  # noqa: E402

from densecrf_rnn import CRFParams, refine  # noqa: E402
from densecrf_rnn.nn.tuning import learn  # noqa: E402
from densecrf_rnn.tuning import Task, confusions  # noqa: E402

EXAMPLES = [planted(seed, size=(12, 15)) for seed in range(3)]
# Too narrow to see beyond the noise, so there is something to learn.
START = CRFParams(theta_alpha=10, theta_beta=6, theta_gamma=2, w_bilateral=1, w_spatial=0.5)
TASK = Task(iterations=2, threads=1)


def accuracy(params, compatibility=None, examples=EXAMPLES):
    total = confusions(examples, params, TASK, compatibility).sum(0)
    return np.trace(total) / total.sum()


def test_learning_lowers_the_loss_and_helps_images_it_has_not_seen():
    learned = learn(EXAMPLES, START, TASK, passes=12)
    assert learned.losses[-1] < 0.9 * learned.losses[0]
    others = [planted(seed, size=(12, 15)) for seed in range(10, 14)]
    before = accuracy(START, examples=others)
    assert accuracy(learned.params, learned.compatibility, others) > before + 0.01
    assert learned.params.theta_beta > START.theta_beta  # towards the width of the noise
    assert len(learned.params.w_bilateral) == len(learned.params.w_spatial) == 2
    assert learned.compatibility.shape == (2, 2)
    assert learned.params.normalization == START.normalization


def test_the_same_seed_learns_the_same_and_another_does_not():
    first, again, other = (learn(EXAMPLES, START, TASK, passes=2, seed=s) for s in (1, 1, 2))
    assert first.params == again.params != other.params
    assert first.losses == again.losses
    np.testing.assert_array_equal(first.compatibility, again.compatibility)


def test_binary_logits_learn_as_two_labels():
    one = replace(EXAMPLES[0], logits=EXAMPLES[0].logits[1:] - EXAMPLES[0].logits[:1])
    single, double = (learn([e], START, TASK, passes=2) for e in (one, EXAMPLES[0]))
    np.testing.assert_allclose(single.losses, double.losses, rtol=1e-4)
    assert len(single.params.w_spatial) == 2
    assert accuracy(single.params, single.compatibility, [one]) > 0.5


def test_volumes_masks_and_spacing_are_heeded():
    mask = np.zeros((3, 6, 7), bool)
    mask[:, 1:] = True
    volume = replace(planted(0, size=(3, 6, 7)), mask=mask, spacing=(4.0, 1.0, 1.0))
    losses = [
        learn([example], START, TASK, passes=2).losses
        for example in (volume, replace(volume, mask=None), replace(volume, spacing=None))
    ]
    assert losses[0][1] < losses[0][0]
    assert losses[0] != losses[1] != losses[2] != losses[0]


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_dtype_and_layout_are_learned_from_as_they_are_refined():
    mask = np.ones((12, 15), bool)
    mask[3:5] = False
    plain = replace(EXAMPLES[0], mask=mask)
    logits = plain.logits.astype(np.float64)
    logits.flags.writeable = mask.flags.writeable = False
    image = np.ascontiguousarray(plain.image[::-1])[::-1]
    image.flags.writeable = False
    other = replace(
        plain, logits=np.asfortranarray(logits), image=image,
        mask=np.ascontiguousarray(mask[::-1])[::-1],
    )  # fmt: skip
    wanted, found = (learn([one], START, TASK, passes=2) for one in (plain, other))
    assert found.params == wanted.params and found.losses == wanted.losses
    half = replace(plain, logits=plain.logits.astype(np.float16))
    assert learn([half], START, TASK, passes=2).losses == pytest.approx(wanted.losses, rel=1e-2)


@pytest.mark.parametrize(
    "changed",
    [
        {"logits": np.zeros((2, 12, 15), np.uint8)}, {"logits": np.zeros((2, 12, 15), ">f4")},
        {"logits": np.ma.masked_less(EXAMPLES[0].logits, 0)},
        {"image": np.zeros((12, 15, 1), ">u2")}, {"image": np.ones((12, 15, 1), bool)},
        {"mask": np.ones((12, 15), np.uint8)},
        {"mask": np.ones((3, 4), bool)},
    ],
    ids=lambda changed: next(f"{name} {array.dtype}" for name, array in changed.items()),
)  # fmt: skip
def test_what_refine_refuses_learning_refuses_with_the_same_sentence(changed):
    example = replace(EXAMPLES[0], **changed)
    with pytest.raises((TypeError, ValueError)) as wanted:
        refine(example.logits, example.image, START, mask=example.mask)
    with pytest.raises(type(wanted.value)) as found:
        learn([example], START, TASK, passes=1)
    assert str(found.value) == f"{example.name}: {wanted.value}"


def test_learning_leaves_the_number_of_torchs_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        seen = []
        learn(EXAMPLES[:1], START, TASK, passes=1,
              on_step=lambda loss: seen.append(torch.get_num_threads()))  # fmt: skip
        assert seen == [1] and torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="passes"):
            learn(EXAMPLES[:1], START, TASK, passes=0)
        with pytest.raises(ValueError, match="examples is empty"):
            learn([], START, TASK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_pixels_and_images_that_do_not_count_are_passed_over():
    void = replace(EXAMPLES[1], truth=np.full((12, 15), 255, np.uint8))
    steps = []
    learned = learn([EXAMPLES[0], void], START, TASK, passes=2, on_step=steps.append)
    assert len(steps) == 2 and learned.losses == pytest.approx(steps)
    nothing = learn([void], START, TASK, passes=1)
    assert np.isnan(nothing.losses[0])
    assert nothing.params.theta_alpha == START.theta_alpha


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": None}, "planted-0: it has no true labels to learn from"),
        ({"truth": np.zeros((3, 3), np.uint8)}, r"planted-0: truth has shape \(3, 3\) but logits"),
        ({"truth": np.full((12, 15), 2)}, r"planted-0: truth holds labels 2\.\.2"),
        ({"image": np.zeros((3, 3, 3), np.uint8)}, "planted-0: image is 3 x 3"),
    ],
)
def test_an_example_that_cannot_be_learned_from_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        learn([replace(EXAMPLES[0], **changes)], START, TASK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 0}, "passes is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"examples": []}, "examples is empty"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        learn(**{"examples": EXAMPLES, "params": START, "task": TASK, **options})
