"""The search for parameters: what it finds, that it repeats and resumes, and what it saves."""

import copy
import json
import signal
import subprocess
import sys
import warnings
import weakref
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import densecrf_rnn
from densecrf_rnn import CRFParams, engines, metrics, refine, tuning
from densecrf_rnn.inference.mean_field import infer
from densecrf_rnn.params import FEATURE_ORDERS, NORMALIZATIONS, QUALITIES, SPATIAL_FILTERS
from densecrf_rnn.tuning import Task, confusions, cross_validate, tune

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(eq=False)
class Example:
    name: str
    logits: np.ndarray
    image: np.ndarray
    truth: np.ndarray | None
    mask: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None


def planted(seed, size=(24, 31), contrast=60.0, noise=16.0):
    """Regions that differ by `contrast` in intensity, with noise, and logits that are mostly noise.

    An appearance kernel narrower than the noise joins no pixels, one wider than the contrast joins
    the wrong ones.
    """
    rng = np.random.default_rng(seed)
    truth = np.zeros(size, np.uint8)
    truth[..., size[-1] // 2 :] = 1
    truth[size[0] // 2 :] = 1 - truth[size[0] // 2 :]
    image = (100 + contrast * truth + rng.normal(0, noise, size)).clip(0, 255).astype(np.uint8)
    logits = (0.7 * np.eye(2)[:, truth] + rng.normal(0, 1, (2, *size))).astype(np.float32)
    return Example(f"planted-{seed}", logits, image[..., None], truth)


EXAMPLES = [planted(seed) for seed in range(4)]
NARROW = CRFParams(theta_alpha=10, theta_beta=1, w_bilateral=5, w_spatial=0.3)
TASK = Task(base=NARROW, ranges={"theta_beta": (1, 200)}, iterations=2, threads=1)


def tried(study):
    """The settings of a study and what came of them, in order."""
    return [
        (t.params, t.value, t.state.name, t.intermediate_values)
        for t in study.trials
        if t.state.name in ("COMPLETE", "PRUNED")
    ]


# --- scores that are no numbers ------------------------------------------------------------------


def test_a_score_that_is_nan_is_the_worst_and_the_search_goes_on():
    alone, first = confusions(EXAMPLES, None, TASK).sum(0), []

    def score(confusion):
        """NaN for the first setting on all images, as the precision of a label found nowhere."""
        if confusion.sum() == alone.sum() and (confusion != alone).any():
            first.extend([] if first else [confusion.copy()])
            if np.array_equal(confusion, first[0]):
                return float("nan")
        return metrics.mean_iu(confusion)

    task = replace(TASK, score=score)
    outcomes = []
    found = tune(EXAMPLES, task, trials=8, seed=0, on_trial=outcomes.append)
    scores = [outcome.score for outcome in outcomes]
    assert np.isnan(scores[0]) and np.isfinite(scores).any() and not outcomes[0].best
    assert len(found.study.trials) == 8 and found.score == pytest.approx(np.nanmax(scores))
    assert [t.state.name for t in found.study.trials].count("FAIL") == 0


def test_scores_that_are_nan_for_all_settings_are_said_to_be():
    def score(confusion):
        alone = confusions(EXAMPLES, None, TASK).sum(0)
        return 0.5 if np.array_equal(confusion, alone) else float("nan")

    words = "the score of all 3 settings is NaN; give a task a score that is a number for every"
    with pytest.raises(ValueError, match=words):
        tune(EXAMPLES, replace(TASK, score=score), trials=3)


# --- what it finds -------------------------------------------------------------------------------


def test_a_planted_bandwidth_is_found():
    found = tune(EXAMPLES, TASK, trials=16, per_lattice=1)
    assert 4 < found.params.theta_beta < 80  # between the noise and twice the contrast
    start = metrics.mean_iu(confusions(EXAMPLES, NARROW, TASK).sum(0))
    assert found.score > start + 0.05
    assert found.score > found.score_alone + 0.05
    held_out = [planted(seed) for seed in range(10, 14)]
    better, worse = (confusions(held_out, p, TASK).sum(0) for p in (found.params, NARROW))
    assert metrics.mean_iu(better) > metrics.mean_iu(worse) + 0.05


def test_what_was_found_scores_what_is_said():
    found = tune(EXAMPLES, TASK, trials=5)
    again = confusions(EXAMPLES, found.params, TASK)
    np.testing.assert_array_equal(again, found.confusions)
    assert metrics.mean_iu(again.sum(0)) == found.score
    assert found.score == max(score for _, score in tuning.settings(found.study, NARROW))
    alone = [metrics.confusion_matrix(e.truth, e.logits.argmax(0), 2) for e in EXAMPLES]
    np.testing.assert_array_equal(found.confusions_alone, alone)


def test_the_base_is_tried_first_so_that_nothing_worse_is_found():
    outcomes = []
    base = replace(NARROW, theta_beta=20)
    found = tune(EXAMPLES, replace(TASK, base=base), trials=2, on_trial=outcomes.append)
    assert outcomes[0].params == base
    assert [o.number for o in outcomes] == [1, 2]
    assert found.score >= outcomes[0].score


@pytest.mark.parametrize(
    "changes",
    [
        {"w_spatial": 0},
        {"theta_beta": 1.23456, "w_spatial": 0.01},
        {"w_spatial": (0.2, 0.4)},
        {"theta_beta": 12.3456, "w_bilateral": 3.14159},  # inside, but of more than three digits
        {"theta_alpha": (9.87654, 7), "w_bilateral": 3.14159},
    ],
)
@pytest.mark.parametrize("per_lattice", [1, 3])
def test_the_base_is_tried_first_exactly_whatever_the_ranges(changes, per_lattice):
    base, outcomes = replace(NARROW, **{"theta_beta": 20} | changes), []
    ranges = tuning.RANGES | {"theta_beta": (5, 50)}
    found = tune(
        EXAMPLES[:2], replace(TASK, base=base, ranges=ranges), trials=4, per_lattice=per_lattice,
        on_trial=outcomes.append,
    )  # fmt: skip
    assert outcomes[0].params == base and all(o.params != base for o in outcomes[1:])
    assert [o.number for o in outcomes] == [1, 2, 3, 4] and len(found.study.trials) == 4
    assert outcomes[0].score == metrics.mean_iu(confusions(EXAMPLES[:2], base, TASK).sum(0))
    assert tuning.settings(found.study, base)[0] == (base, outcomes[0].score)
    assert found.score == max(o.score for o in outcomes)


def best_at(params):
    """A task and examples whose best setting is the base, by far: a score that no other has."""
    target = confusions(EXAMPLES[:2], params, TASK).sum(0)

    def score(confusion):
        return 2.0 if np.array_equal(confusion, target) else metrics.mean_iu(confusion)

    return replace(TASK, base=params, score=score, ranges={"theta_beta": (40, 200)})


@pytest.mark.parametrize("theta", [21.2345, 51.2345])
def test_nothing_worse_than_the_base_is_found_and_a_study_scores_it_once(theta, tmp_path):
    base, outcomes = replace(NARROW, theta_beta=theta), []
    file = str(tmp_path / "study.db")
    task = best_at(base)
    for trials in (1, 3, 16):
        found = tune(
            EXAMPLES[:2], task, trials=trials, study_file=file, on_trial=outcomes.append
        )
        assert found.params == base and found.score == 2.0
        assert len(found.study.trials) == len(outcomes) == trials
    assert [o.number for o in outcomes] == list(range(1, 17))
    assert [o.best for o in outcomes] == [True] + 15 * [False]
    assert [o.params for o in outcomes].count(base) == 1


def test_a_base_outside_the_ranges_leaves_the_sampler_and_the_importances_their_scores():
    ranges = {"theta_beta": (1, 200), "w_spatial": (0.001, 0.01)}
    task = replace(TASK, base=replace(NARROW, w_spatial=0), ranges=ranges)
    found = tune(EXAMPLES, task, trials=40, per_lattice=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = tuning.importances(found.study)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["theta_beta"] > shares["w_spatial"]
    together = found.study.sampler.infer_relative_search_space(found.study, found.study.trials[-1])
    assert together == found.study.trials[-1].distributions


def test_values_have_three_digits_so_that_what_is_printed_is_what_was_scored():
    outcomes = []
    tune(EXAMPLES[:1], replace(TASK, ranges=tuning.RANGES), trials=4, on_trial=outcomes.append)
    for outcome in outcomes:
        for name in tuning.RANGES:
            value = getattr(outcome.params, name)
            assert value == float(f"{value:.3g}")


def test_all_bandwidths_and_weights_can_be_searched():
    names = {f.name for f in fields(CRFParams) if f.name.startswith(("theta_", "w_"))}
    assert set(tuning.RANGES) == names


def test_what_is_not_searched_keeps_its_value():
    base = CRFParams(7, 2, 2, (1.0, 2.0), 1, normalization="symmetric", spatial="lattice")
    found = tune(EXAMPLES[:2], replace(TASK, base=base), trials=3)
    assert found.params == replace(base, theta_beta=found.params.theta_beta)


def test_volumes_their_spacing_and_masks_are_heeded():
    mask = np.zeros((4, 9, 10), bool)
    mask[1:, :5] = True
    example = replace(planted(0, size=(4, 9, 10)), mask=mask, spacing=(5.0, 1.0, 1.0))
    found = tune([example], TASK, trials=2)
    q = refine(
        example.logits, example.image, found.params, iterations=2, mask=mask,
        spacing=example.spacing,
    )  # fmt: skip
    want = metrics.confusion_matrix(example.truth, q.argmax(0), 2)
    np.testing.assert_array_equal(found.confusions, want[None])


def test_binary_logits_are_scored_at_their_threshold():
    one, two = planted(3), planted(3)
    one.logits = one.logits[1:] - one.logits[:1]
    for params in (None, CRFParams(10, 20)):
        np.testing.assert_array_equal(*(confusions([e], params, TASK) for e in (one, two)))


def test_importances_of_the_one_parameter_that_matters_are_highest():
    ranges = {"theta_beta": (1, 200), "w_spatial": (0.001, 0.01)}  # the other does next to nothing
    task = replace(TASK, base=replace(NARROW, w_spatial=0.005), ranges=ranges)
    found = tune(EXAMPLES, task, trials=24, per_lattice=1)
    shares = tuning.importances(found.study)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["theta_beta"] > shares["w_spatial"]
    few = tune(EXAMPLES, TASK, trials=2)
    assert tuning.importances(few.study) == {}


# --- that it repeats and resumes -----------------------------------------------------------------

SEARCHED = replace(TASK, ranges=tuning.RANGES)


def test_the_same_seed_finds_the_same_and_another_does_not():
    first, again, other = (tune(EXAMPLES, SEARCHED, trials=14, seed=s) for s in (1, 1, 2))
    assert tried(first.study) == tried(again.study) != tried(other.study)
    assert first.params == again.params


def test_a_study_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    code = (
        "import os, signal, sys\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from test_tune import EXAMPLES, SEARCHED, tune\n"
        "class Deadly(list):\n"
        "    asked = 0\n"
        "    def __getitem__(self, index):\n"
        "        self.asked += 1\n"
        "        if self.asked > 60:  # in the middle of a round\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().__getitem__(index)\n"
        "tune(Deadly(EXAMPLES), SEARCHED, trials=100, study_file=sys.argv[1])\n"
    )
    file = tmp_path / "study.db"
    folders = [str(Path(__file__).parent), str(Path(densecrf_rnn.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), *folders], capture_output=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = optuna.load_study(study_name="tune", storage=f"sqlite:///{file}")
    ended = len(tried(left))
    assert ended == len(left.trials) > 0  # what was at work has left nothing

    outcomes = []
    trials = ended + 6
    found = tune(
        EXAMPLES, SEARCHED, trials=trials, study_file=str(file), on_trial=outcomes.append
    )
    assert [o.number for o in outcomes] == list(range(ended + 1, trials + 1))
    whole = tune(EXAMPLES, SEARCHED, trials=trials)
    assert tried(found.study) == tried(whole.study)
    assert found.params == whole.params


def test_a_finished_study_is_not_searched_again(tmp_path):
    file, outcomes = str(tmp_path / "a b?.db"), []
    first = tune(EXAMPLES, TASK, trials=3, study_file=file)
    assert Path(file).is_file()
    again = tune(EXAMPLES, TASK, trials=3, study_file=file, on_trial=outcomes.append)
    assert outcomes == [] and again.params == first.params and again.score == first.score


@pytest.fixture(scope="module")
def study_of_two(tmp_path_factory):
    """A study file of one setting, on two examples."""
    file = str(tmp_path_factory.mktemp("study") / "study.db")
    tune(EXAMPLES[:2], TASK, trials=1, study_file=file)
    return file


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"task": replace(TASK, iterations=3)}, "iterations: 2, now 3"),
        ({"task": replace(TASK, score=metrics.pixel_accuracy)}, "score: mean_iu, now pixel_acc"),
        ({"task": replace(TASK, score=partial(metrics.mean_iu, over=(1,)))}, "score: mean_iu, now"),
        ({"task": replace(TASK, base=CRFParams(w_spatial=(1, 2)))}, "base: "),
        ({"seed": 5}, "seed: 0, now 5"),
        ({"examples": EXAMPLES[1:]}, "images: "),
    ],
)
def test_a_study_of_something_else_is_not_gone_on_with(options, changed, study_of_two):
    options = {"examples": EXAMPLES[:2], "task": TASK, **options}
    with pytest.raises(ValueError, match=f"holds a study 'tune' with other {changed}"):
        tune(**options, trials=2, study_file=study_of_two)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("logits", lambda e: {"logits": e.logits[::-1].copy()}),
        ("image", lambda e: {"image": 255 - e.image}),
        ("truth", lambda e: {"truth": 1 - e.truth}),
        ("mask", lambda e: {"mask": e.truth > 0}),
        ("spacing", lambda e: {"spacing": (2.0, 1.0)}),
    ],
)
def test_a_study_of_other_contents_under_the_same_names_is_not_gone_on_with(
    part, change, study_of_two
):
    examples = [EXAMPLES[0], replace(EXAMPLES[1], **change(EXAMPLES[1]))]
    words = f"holds a study 'tune' with other contents of {part}: sha256 .*, now sha256 .*; name"
    with pytest.raises(ValueError, match=words):
        tune(examples, TASK, trials=1, study_file=study_of_two)


def test_equal_contents_in_other_arrays_are_known_again(study_of_two):
    changes = {"logits": np.asfortranarray(EXAMPLES[1].logits), "image": EXAMPLES[1].image.copy()}
    tune([EXAMPLES[0], replace(EXAMPLES[1], **changes)], TASK, trials=1, study_file=study_of_two)


def test_a_study_of_an_earlier_version_without_contents_is_not_gone_on_with(tmp_path):
    file = str(tmp_path / "study.db")
    tune(EXAMPLES[:1], TASK, trials=1, study_file=file)
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{file}")
    known = study.user_attrs["task"]
    study.set_user_attr("task", {k: v for k, v in known.items() if "contents" not in k})
    words = "holds a study 'tune' with other contents of logits: None, now .*; name another file$"
    with pytest.raises(ValueError, match=words):
        tune(EXAMPLES[:1], TASK, trials=2, study_file=file)


def test_a_study_that_knew_another_option_is_not_gone_on_with(study_of_two):
    with pytest.raises(ValueError, match="other kind: None, now logits; name another file$"):
        tune(EXAMPLES[:2], replace(TASK, about={"kind": "logits"}), study_file=study_of_two)
    with pytest.raises(ValueError, match="about has ignore, which a task has itself"):
        replace(TASK, about={"ignore": 3}).describe()


def test_a_study_with_an_option_that_is_gone_is_not_gone_on_with(tmp_path):
    file = str(tmp_path / "study.db")
    tune(EXAMPLES[:1], replace(TASK, about={"kind": "logits"}), trials=1, study_file=file)
    with pytest.raises(ValueError, match="other kind: logits, now None; name another file$"):
        tune(EXAMPLES[:1], TASK, trials=1, study_file=file)


def test_a_study_of_labels_weights_is_known_again(tmp_path):
    task = replace(TASK, base=CRFParams(w_spatial=(1, 2)))  # JSON turns the tuple into a list
    file = str(tmp_path / "study.db")
    for trials in (1, 2):
        tune(EXAMPLES[:1], task, trials=trials, study_file=file)


@pytest.mark.parametrize("what", ["text", "folder", "nowhere"])
def test_a_file_that_is_no_study_is_refused(what, tmp_path):
    file = tmp_path / "study.db"
    if what == "text":
        file.write_text("this is no database, however long the text may be" * 40)
    elif what == "folder":
        file.mkdir()
    else:
        file = tmp_path / "missing" / "study.db"
    with pytest.raises(ValueError, match="cannot be used as a study"):
        tune(EXAMPLES[:1], TASK, trials=1, study_file=str(file))


def test_without_optuna_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"needs optuna.*pip install 'densecrf-rnn\[tune\]'"):
        tune(EXAMPLES[:1], TASK, trials=1)


# --- what it saves -------------------------------------------------------------------------------


def test_settings_that_fall_behind_are_given_up(tmp_path):
    examples = [planted(seed, size=(12, 13)) for seed in range(24)]
    outcomes = []
    found = tune(examples, TASK, trials=24, per_lattice=1, on_trial=outcomes.append)
    given_up = [o for o in outcomes if o.pruned]
    assert len(given_up) >= 3
    assert not any(o.pruned for o in outcomes[:5])  # nobody to compare with yet
    assert all(6 <= o.seen < 24 for o in given_up)
    assert all(o.seen == 24 for o in outcomes if not o.pruned)
    assert found.score == max(o.score for o in outcomes if not o.pruned)
    # Each was below the median, at that image, of those scored to the end before it.
    curves = []
    for params, _, state, curve in tried(found.study):
        for seen, value in curve.items():
            behind = len(curves) >= 5 and value < np.median([c[seen] for c in curves])
            assert behind == (state == "PRUNED" and seen == max(curve))
        if state == "COMPLETE":
            curves.append(curve)


def test_one_lattice_serves_several_settings(monkeypatch):
    engine = engines.engine("auto")
    built = []
    build = engine.build

    def counted(features, *rest):
        built.extend(features)
        return build(features, *rest)

    monkeypatch.setattr(engine, "build", counted)
    outcomes = {}
    for per_lattice, builds in ((1, 5), (4, 2), (5, 1)):
        built.clear()
        outcomes[per_lattice] = []
        tune(
            EXAMPLES, SEARCHED, trials=5, per_lattice=per_lattice,
            on_trial=outcomes[per_lattice].append,
        )  # fmt: skip
        assert len(built) == len(EXAMPLES) * (builds + 1)  # once more for what was found
    shared = [(o.params.theta_alpha, o.params.theta_beta) for o in outcomes[4]]
    assert len(set(shared[:4])) == 1 and shared[4] != shared[0]
    weights = {(o.params.theta_gamma, o.params.w_bilateral) for o in outcomes[4][:4]}
    assert len(weights) == 4


@given(
    seed=st.integers(0, 2**32 - 1),
    spatial=st.sampled_from(SPATIAL_FILTERS),
    masked=st.booleans(),
)
def test_kept_lattices_change_no_bit(seed, spatial, masked):
    example = planted(0, size=(7, 9))
    mask = np.random.default_rng(seed).random((7, 9)) < 0.7 if masked else None
    rng = np.random.default_rng(seed)
    kept = {}
    for _ in range(6):
        params = CRFParams(
            theta_alpha=rng.choice([3.0, 10.0]), theta_beta=rng.choice([5.0, 20.0]),
            theta_gamma=rng.choice([1.0, 2.0]), w_bilateral=rng.random(), spatial=spatial,
            normalization=rng.choice(NORMALIZATIONS).item(),
            self_term=bool(rng.integers(2)), feature_order=rng.choice(FEATURE_ORDERS).item(),
            quality=rng.choice(QUALITIES).item(),
        )  # fmt: skip
        once, again = (
            infer(
                example.logits, example.image, params, kernel_weights=None, compatibility=None,
                iterations=2, mask=mask, spacing=None, backend="auto", threads=1, marginals=True,
                lattices=lattices,
            )
            for lattices in (None, kept)
        )  # fmt: skip
        np.testing.assert_array_equal(once, again)


def test_examples_are_asked_for_one_at_a_time():
    alive = weakref.WeakSet()
    most = 0

    class Fleeting(list):
        def __getitem__(self, index):
            nonlocal most
            example = copy.copy(super().__getitem__(index))
            alive.add(example)
            most = max(most, len(alive))
            return example

    tune(Fleeting(EXAMPLES), TASK, trials=3)
    assert most <= 2  # the one at work, and the one that is asked for


# --- cross-validation ----------------------------------------------------------------------------


@given(count=st.integers(2, 9), folds=st.integers(2, 9))
def test_every_example_is_held_out_once_and_neighbours_stay_together(count, folds):
    examples = [replace(EXAMPLES[0], name=str(i)) for i in range(count)]
    if folds > count:
        with pytest.raises(ValueError, match=f"folds is {folds} but there are {count} examples"):
            cross_validate(examples, folds, lambda seen, fold: None)
        return
    held = []
    alone = tuning.Tuned(NARROW, 0.9, 0.5, np.zeros(0), np.zeros(0), None)

    def find(seen, fold):
        names = [int(seen[i].name) for i in range(len(seen))]
        held.append(sorted(set(range(count)) - set(names)))
        assert fold == len(held) and names == sorted(names)
        return alone

    found = cross_validate(examples, folds, find, TASK)
    assert sum(held, []) == list(range(count))
    assert all(part == list(range(part[0], part[-1] + 1)) for part in held)
    assert found.held_out.shape == found.held_out_alone.shape == (count, 2, 2)
    assert found.gain_seen == pytest.approx(0.4)


def test_folds_score_what_was_found_without_them():
    examples = [planted(seed) for seed in range(4)]
    settings = [CRFParams(10, 20), CRFParams(10, 1)]
    found = cross_validate(
        examples, 2,
        lambda seen, fold: tuning.Tuned(settings[fold - 1], 1, 0, np.zeros(0), np.zeros(0), None),
        TASK,
    )  # fmt: skip
    halves = (examples[:2], examples[2:])
    want = [confusions(half, s, TASK) for half, s in zip(halves, settings, strict=True)]
    np.testing.assert_array_equal(found.held_out, np.concatenate(want))
    alone = metrics.mean_iu(confusions(examples, None, TASK).sum(0))
    assert found.gain == metrics.mean_iu(np.concatenate(want).sum(0)) - alone


def test_a_gain_that_is_real_survives():
    found = cross_validate(
        EXAMPLES, 2, lambda seen, fold: tune(seen, TASK, trials=10, per_lattice=1), TASK
    )
    assert found.gain > 0.5 * found.gain_seen > 0.02


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ranges": {}}, ValueError, "ranges is empty"),
        ({"ranges": {"theta_delta": (1, 2)}}, ValueError, "a name in ranges is 'theta_delta'"),
        ({"ranges": {"theta_beta": (5, 2)}}, ValueError, "is 5 to 2; give the lower end first"),
        ({"ranges": {"theta_beta": (0, 2)}}, ValueError, r"ranges\['theta_beta'\] is 0"),
        ({"ranges": {"w_spatial": (1, np.nan)}}, ValueError, "must be finite"),
        ({"ranges": {"w_spatial": (1,)}}, ValueError, r"must be \(low, high\)"),
        ({"iterations": 0}, ValueError, "iterations is 0; it must be at least 1"),
        ({"base": 3}, TypeError, "params"),
        ({"ranges": {"theta_alpha": 5}}, ValueError, r"is 5; it must be .* leave theta_alpha"),
        ({"ranges": ["theta_alpha"]}, TypeError, "ranges is list; it must be a mapping"),
        ({"ranges": None}, TypeError, "ranges is NoneType; it must be a mapping"),
        ({"score": "miou"}, TypeError, r"score is 'miou'; it must be a function of .*\.mean_iu"),
        ({"ignore": "x"}, TypeError, "ignore is 'x'; it must be an integer"),
        ({"ignore": None}, TypeError, "ignore is None; it must be an integer"),
        ({"about": "logits"}, TypeError, "about is str; it must be a mapping"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Task(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": None}, "planted-0: it has no true labels"),
        ({"truth": np.zeros((3, 3), np.uint8)}, r"planted-0: truth has shape \(3, 3\)"),
        ({"truth": np.full((24, 31), 7)}, r"planted-0: truth holds labels 7\.\.7"),
        ({"image": np.zeros((3, 3, 3), np.uint8)}, "planted-0: image is 3 x 3"),
        ({"logits": np.full((2, 24, 31), np.nan, np.float32)}, "planted-0: logits contains? .*NaN"),
    ],
)
def test_an_example_that_cannot_be_scored_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tune([replace(EXAMPLES[0], **changes)], TASK, trials=1)


def test_examples_that_do_not_go_together_are_refused():
    three = replace(planted(1), name="three", logits=np.zeros((3, 24, 31), np.float32))
    with pytest.raises(ValueError, match="three: logits have 3 labels where those of planted-0 ha"):
        tune([EXAMPLES[0], three], TASK, trials=1)
    with pytest.raises(ValueError, match="examples is empty"):
        tune([], TASK, trials=1)


def test_a_truth_without_labels_that_count_is_refused():
    void = replace(EXAMPLES[0], truth=np.full((24, 31), 255, np.uint8))
    with pytest.raises(ValueError, match="the score is NaN: no label that counts occurs"):
        tune([void], TASK, trials=1)


@pytest.mark.parametrize("name", ["trials", "per_lattice"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        tune(EXAMPLES, TASK, **{name: 0})


def test_a_task_describes_itself_in_plain_values():
    task = Task(score=partial(metrics.mean_iu, over=(0, 8)), about={"kind": "logits"})
    facts = json.loads(json.dumps(task.describe()))
    assert facts["score"] == "mean_iu {'over': (0, 8)}"
    assert facts["base"]["theta_alpha"] == 30 and facts["kind"] == "logits"
