"""`densecrf-rnn tune`: from files to a setting that `refine` and `evaluate` agree with."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_tune import planted

from densecrf_rnn import CRFParams, files, metrics, refine, tuning
from densecrf_rnn.cli import main

pytest.importorskip("optuna")
pytest.importorskip("tqdm")
QUICK = ("--iterations", "2", "--threads", "1", "--trials", "3")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Folders of logits, images and truth with three examples; the working folder is theirs."""
    for folder in ("logits", "images", "truth"):
        (tmp_path / folder).mkdir()
    for seed in range(3):
        write(tmp_path, planted(seed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, example):
    np.save(folder / "logits" / example.name, example.logits)
    np.save(folder / "images" / example.name, example.image)
    np.save(folder / "truth" / example.name, example.truth)


def tune(*arguments):
    return main(["tune", "logits", "images", "truth", *QUICK, *arguments])


def one_sentence(capsys):
    err = capsys.readouterr().err.strip()
    assert err.startswith("densecrf-rnn tune: ") and "\n" not in err
    return err


def number(out, start):
    line = next(line for line in out.splitlines() if line.startswith(start))
    return float(re.search(r"[-+]?\d+\.\d+", line)[0])


def test_what_is_found_is_what_the_search_finds(data, capsys):
    assert tune("--theta-alpha", "5,20", "--seed", "4") == 0
    out = capsys.readouterr().out
    task = tuning.Task(ranges={**tuning.RANGES, "theta_alpha": (5, 20)}, iterations=2)
    found = tuning.tune([planted(seed) for seed in range(3)], task, trials=3, seed=4)
    settings = files.read_settings("params.json")
    assert settings.params == found.params and settings.iterations == 2
    assert settings.compatibility is None
    assert number(out, "network alone") == pytest.approx(100 * found.score_alone, abs=0.005)
    assert number(out, "best setting") == pytest.approx(100 * found.score, abs=0.005)
    assert str(found.params) in out


def test_the_command_it_prints_scores_what_it_says(data, capsys):
    assert tune("--temperature", "2") == 0
    out = capsys.readouterr().out
    command = shlex.split(next(line for line in out.splitlines() if "densecrf-rnn refine" in line))
    assert main(command[1:]) == 0
    assert main(["evaluate", "refined", "truth", "--json", "scores.json"]) == 0
    scores = json.loads((data / "scores.json").read_text())
    said = number(out, "best setting")
    assert 100 * scores["predictions"][0]["mean_iu"] == pytest.approx(said, abs=0.005)


def test_one_value_fixes_a_parameter(data):
    assert tune("--theta-beta", "11", "--w-spatial", "0.5") == 0
    params = files.read_settings("params.json").params
    assert params.theta_beta == 11 and params.w_spatial == 0.5


def test_params_say_where_to_begin_and_what_is_not_searched(data, capsys):
    start = CRFParams(7, 9, 2, 1, (1.0, 2.0), normalization="symmetric")
    files.write_settings("start.json", files.Settings(start, iterations=3))
    assert main(["tune", "logits", "images", "truth", "--trials", "1", "--params", "start.json",
                 "--theta-alpha", "8"]) == 0  # fmt: skip
    found = files.read_settings("params.json")
    assert found.params == CRFParams(8, 9, 2, 1, (1.0, 2.0), normalization="symmetric")
    assert found.iterations == 3


def test_a_study_goes_on_where_it_was(data, capsys):
    assert tune("--study", "study.db") == 0
    first = capsys.readouterr().out
    assert tune("--study", "study.db", "--trials", "5") == 0
    second = capsys.readouterr().out
    assert "3 settings tried" in first and "5 settings tried" in second
    assert "setting 1:" in first and "setting 1:" not in second
    assert tune("--study", "study.db", "--trials", "5", "--temperature", "3") == 2
    assert "with other --temperature: 1.0, now 3.0" in one_sentence(capsys)


def test_a_study_that_another_process_uses_is_refused(data, capsys):
    script = "from densecrf_rnn.tuning import held\nwith held('s.db'): print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        assert tune("--study", "s.db") == 2
        assert "another search is using s.db; wait until it ends" in one_sentence(capsys)
        assert tune("--study", "t.db") == 0
        other.communicate("\n")
    assert tune("--study", "s.db") == 0
    assert not list(data.glob("*.lock"))


def test_of_searches_that_begin_a_study_at_once_one_goes_on_and_the_others_say_why(data):
    words = [sys.executable, "-m", "densecrf_rnn", "tune", "logits", "images", "truth", *QUICK]
    runs = [
        subprocess.Popen(
            [*words, "--study", "new.db", "--out", f"{i}.json"], text=True, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for i in range(3)
    ]  # fmt: skip
    said = [run.communicate()[1] for run in runs]
    assert 0 in [run.returncode for run in runs]
    for run, text in zip(runs, said, strict=True):
        assert run.returncode in (0, 2)
        if run.returncode == 2:
            assert text.startswith("densecrf-rnn tune: another search is using new.db; wait")
            assert text.count("\n") == 1
    optuna = pytest.importorskip("optuna")
    study = optuna.load_study(study_name="all", storage="sqlite:///new.db")
    assert len(study.trials) == 3


def test_a_study_of_other_files_is_not_gone_on_with(data, capsys):
    """Another truth or mask: settings that were scored do not compare."""
    assert tune("--study", "study.db") == 0
    for folder in ("other", "masks"):
        shutil.copytree("truth", folder)
    capsys.readouterr()
    for arguments, words in (
        (["logits", "images", "other"], "with other truth: "),
        (["logits", "images", "truth", "--mask", "masks"], "with other --mask: None, now "),
    ):
        assert main(["tune", *arguments, *QUICK, "--study", "study.db"]) == 2
        assert words in one_sentence(capsys)


def test_a_study_of_files_that_have_changed_is_not_gone_on_with(data, capsys):
    assert tune("--study", "study.db") == 0
    before = (data / "params.json").read_bytes()
    for seed in range(3):  # another network, same names
        example = planted(seed)
        np.save(data / "logits" / example.name, example.logits[::-1])
    capsys.readouterr()
    assert tune("--study", "study.db") == 2
    assert "study.db holds a study 'all' with other contents of logits: " in one_sentence(capsys)
    assert (data / "params.json").read_bytes() == before


def test_settings_to_begin_with_that_no_range_holds_are_kept_if_nothing_is_better(data, capsys):
    """The truth is what they give, so that they score 100 %."""
    start = CRFParams(3, 9.87654, w_bilateral=2, w_spatial=0)
    files.write_settings("start.json", files.Settings(start, iterations=2))
    for seed in range(3):
        e = planted(seed)
        e.truth = refine(e.logits, e.image, start, iterations=2).argmax(0).astype(np.uint8)
        write(data, e)
    assert tune("--params", "start.json") == 0
    out = capsys.readouterr().out
    assert files.read_settings("params.json").params == start
    assert number(out, "best setting") == 100 and "3 settings tried" in out
    assert f"setting 1: 100.00, {start}" in out


def test_the_result_of_another_search_is_kept_and_that_of_its_continuation_is_not(data, capsys):
    def kept(*arguments):
        """The contents of the file if the next search keeps it under another name."""
        old = (data / "params.json").read_text()
        known = set(data.glob("params.*.json"))
        capsys.readouterr()
        assert tune(*arguments) == 0
        said = "params.json held other settings, which are now " in capsys.readouterr().err
        new = set(data.glob("params.*.json")) - known
        assert said == bool(new) and all(file.read_text() == old for file in new)
        return said

    assert tune("--trials", "4") == 0
    assert not kept("--trials", "4")
    assert not kept("--trials", "9")
    assert kept("--trials", "1", "--seed", "3", "--theta-beta", "7")
    assert kept("--trials", "9")
    assert kept("--trials", "1")  # fewer
    assert kept("--trials", "6", "--seed", "3")
    assert not kept("--trials", "7", "--seed", "3", "--study", "study.db")
    assert not kept("--trials", "2", "--seed", "3", "--study", "study.db")  # which has seven
    for seed in range(3):
        example = planted(seed)
        np.save(data / "logits" / example.name, example.logits[::-1])
    assert kept("--trials", "7", "--seed", "3")


def test_equal_settings_of_another_search_are_not_kept_twice(data, capsys):
    assert tune("--trials", "1") == 0
    for other in (["--seed", "5"], ["--theta-gamma", "2,4"]):  # all find the first setting
        assert tune("--trials", "1", *other) == 0
    assert "held other settings" not in capsys.readouterr().err
    assert not (data / "params.1.json").exists()


def test_what_gradients_learned_is_kept_if_a_search_has_none_or_other_passes(data, capsys):
    pytest.importorskip("torch")
    ranges = ("--theta-beta", "11", "--w-bilateral", "0.3", "--w-spatial", "0.1")
    assert tune(*ranges, "--gradient") == 0
    learned = (data / "params.json").read_text()
    assert files.read_settings("params.json").compatibility is not None
    assert tune(*ranges, "--gradient") == 0
    assert not (data / "params.1.json").exists()
    assert tune(*ranges, "--gradient", "--passes", "1") == 0
    assert (data / "params.1.json").read_text() == learned
    assert tune(*ranges) == 0
    assert (data / "params.2.json").exists()


def test_labels_of_many_bits_never_wrap(data, capsys):
    name = next(Path("truth").iterdir())
    truth = np.load(name).astype(np.int64)
    truth[0, 0] = 2**32 + 1
    np.save(name, truth)
    assert tune() == 2
    assert "holds the label 4294967297" in one_sentence(capsys)


def test_the_command_it_prints_repeats_options_to_the_last_digit(data, capsys):
    for name in Path("images").iterdir():
        name.rename(name.with_name(f"{name.stem}-i.npy"))
    assert tune("--spacing", "1,0.9765625", "--image-suffix=-i") == 0
    assert "--spacing 1,0.9765625 --image-suffix=-i --params" in capsys.readouterr().out


def test_folds_say_how_much_survives(data, capsys):
    assert tune("--folds", "3", "--trials", "2") == 0
    out = capsys.readouterr().out
    assert "3 searches, each on a part of the images: gain" in out
    assert "on those held out" in out and "fold 3, setting 1" in out
    assert "of the gain survives" in out


def test_a_crf_that_does_not_help_is_said_not_to(data, capsys):
    for seed in range(3):
        example = planted(seed)
        example.logits = 9 * np.eye(2, dtype=np.float32)[:, example.truth]  # right everywhere
        write(data, example)
    assert tune() == 0
    out = capsys.readouterr().out
    assert "No setting beats the network alone: do not refine these logits." in out


def test_the_mean_is_over_the_labels_asked_for(data, capsys):
    assert tune("--mean-over", "1", "--trials", "1", "--temperature", "1") == 0
    alone = sum(
        metrics.confusion_matrix(e.truth, e.logits.argmax(0), 2) for e in map(planted, range(3))
    )
    said = number(capsys.readouterr().out, "network alone")
    assert said == pytest.approx(100 * metrics.mean_iu(alone, over=[1]), abs=0.005)


def test_labels_are_scored_by_their_names_where_some_are_ruled_out(data, capsys):
    for seed in range(3):
        example = planted(seed)
        padded = np.full((5, *example.truth.shape), 20, np.float32)  # the others would win
        padded[[3, 1]] = example.logits
        example.logits, example.truth = padded, np.where(example.truth == 0, 3, 1)
        example.truth[0, 0] = 255
        write(data, example)
    assert tune("--classes", "3,1", "--trials", "1") == 0
    assert number(capsys.readouterr().out, "network alone") > 40
    example.truth[0, 0] = 2
    write(data, example)
    assert tune("--classes", "3,1", "--trials", "1") == 2
    assert "the label 2, but the logits' labels are those of --classes" in one_sentence(capsys)


def test_gradients_learn_on_from_what_was_found(data, capsys):
    pytest.importorskip("torch")
    assert tune("--gradient", "--passes", "2", "--theta-beta", "11") == 0
    out = capsys.readouterr().out
    assert "cross-entropy of each pass" in out
    settings = files.read_settings("params.json")
    if "that is no better" in out:
        assert settings.compatibility is None
    else:
        assert settings.compatibility.shape == (2, 2) and len(settings.params.w_spatial) == 2
    assert number(out, "best setting") >= number(out, "all images, setting 1: ")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra cli")
@pytest.mark.parametrize("trials", ["1", "8"])
def test_the_plot_is_drawn_even_of_one_setting(trials, data):
    from matplotlib.image import imread

    assert tune("--plots", "plots", "--trials", trials) == 0
    assert imread("plots/tune.png").std() > 0.01


def test_images_of_other_units_are_pointed_at(data, capsys):
    for path in (data / "images").glob("*.npy"):
        np.save(path, np.load(path).astype(np.uint16) * 257)
    assert tune("--trials", "1") == 0
    assert "warning: planted-0: image of planted-0 holds" in (said := capsys.readouterr().err)
    (ends,) = re.findall(r"give --theta-beta ([\d.e+]+,[\d.e+]+)", said)
    assert tune("--trials", "1", "--theta-beta", ends) == 0
    assert "warning" not in capsys.readouterr().err


def test_what_lacks_truth_is_left_out_and_said(data, capsys):
    (data / "truth" / "planted-1.npy").unlink()
    assert tune("--trials", "1") == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 images with truth")
    assert "left out: " in err and "planted-1.npy" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds is 1; it must be at least 2"),
        (["--folds", "9"], "--folds is 9 but 3 images have truth"),
        (["--out", "no/params.json"], "--out no/params.json: there is no folder no"),
        (["--study", "truth"], "--study truth is a folder; name a file"),
        (["--seed", "-3"], "--seed is -3"),
        (["--mean-over", "2"], "--mean-over names '2'; the 2 labels are 0, 1"),
        (["--params", "no.json"], "no.json: No such file"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments, message, data, capsys):
    assert tune(*arguments) == 2
    assert message in one_sentence(capsys)
    assert not (data / "params.json").exists()


@pytest.mark.parametrize("words", ["0,5", "a", "1,2,3", "nan", "1,inf"])
def test_ranges_that_are_none_exit_with_2(words, data):
    with pytest.raises(SystemExit) as stopped:
        tune("--theta-alpha", words)
    assert stopped.value.code == 2


def test_a_compatibility_to_begin_with_is_refused(data, capsys):
    files.write_settings("start.json", files.Settings(compatibility=np.ones((2, 2))))
    assert tune("--params", "start.json") == 2
    assert "has a compatibility, which the search does not use" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [("optuna", [], "tune"), ("torch", ["--gradient"], "torch"), ("tqdm", [], "cli")],
)
def test_what_is_not_installed_is_named(missing, arguments, extra, data, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    assert tune(*arguments) == 2
    sentence = one_sentence(capsys)
    assert missing in sentence and f"pip install 'densecrf-rnn[{extra}]'" in sentence
