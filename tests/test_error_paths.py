"""Every way in which `evaluate` and `tune` fail is one sentence about files and options."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_cli_messages import IMAGE, LOGITS, PYTHON

from densecrf_rnn.cli import main

pytest.importorskip("tqdm", reason="the commands need the extra cli")
# Names of Python: arguments with =, words joined by _ that are no file, calls.
NAMES = re.compile(r"\b[a-z]\w*=|(?<![\w/.'\"-])[a-z]+_\w+(?!\.\w)|\b\w+\(\w*\)|ndarray|dtype=")
TRUTH = (np.indices((8, 9))[1] // 3).astype(np.uint8)

# What replaces the files of stem a: name -> array or bytes; options; words of the message.
EVALUATE = {
    "a key of a file without": ({}, ["--truth-key", "x"], "given by --key, --image-key or"),
    "another size": ({"before": TRUTH[:4]}, [], "before/a.npy is 4 x 9, but truth/a.npy 8 x 9"),
    "a label too many": ({"before": TRUTH + 5}, ["--labels", "3"], "--labels"),
    "a label too many in the truth": ({"truth": TRUTH + 5}, ["--labels", "3"], "--labels"),
    "colours": ({"before": np.zeros((8, 9, 3), np.uint8)}, [], "before/a.npy is 8 x 9 x 3"),
    "fractions": ({"before": TRUTH + 0.5}, [], "holds fractions"),
    "scores of one label": ({"before": np.zeros((1, 8, 9), np.float32)}, [], "add --kind logits"),
    "scores of one label more": ({"before": np.full((3, 8, 9), np.nan)}, [], "holds NaN"),
    "batches": ({"before": np.zeros((2, 3, 8, 9), np.float32)}, [], "a label map is"),
    "labels last": ({"before": np.full((8, 9, 3), 2.0)}, [], "scores have their labels in"),
    "instances": ({"before": TRUTH.astype(np.uint16) + 4000}, [], "holds the label 4002"),
    "void or foreground": ({"truth": TRUTH // 2 * 255}, [], "--label-values 0,255 if 255 is the"),
    "a value not listed": ({}, ["--label-values", "0,9"], "add --ignore 1"),
    "no common label": ({}, ["--mean-over", "person"], "--mean-over names 'person'"),
    "names": ({}, ["--names", "a,b"], "--names has 2 for 1"),
    "a damaged file": ({"before": b"damaged"}, [], "before/a.npy: damaged, or not a .npy file"),
    "pickles": ({"before": np.array([None])}, [], "pickled"),
    "ignored and listed": ({}, ["--label-values", "0,1,2", "--ignore", "1"], "leave one of them"),
    "resamples": ({}, ["--seed", "-1"], "--seed is -1"),
}  # fmt: skip
TUNE = {
    "truth of another size": ({"truth": TRUTH[:4]}, [], "truth/a.npy: the truth is 4 x 9"),
    "image of another size": ({"images": IMAGE[:4]}, [], "the image is 4 x 9"),
    "a label too many": ({"truth": TRUTH + 5}, [], "--ignore 7|--ignore 5"),
    "only void": ({"truth": np.full((8, 9), 7, np.uint8)}, ["--ignore", "7"], "no label that"),
    "other labels": ({"logits": LOGITS[:2]}, [], "2 labels where|3 labels where|holds the label 2"),
    "logits not finite": ({"logits": LOGITS * np.nan}, [], "a: logits contains NaN"),
    "integers": ({"logits": TRUTH[None].repeat(3, 0)}, [], "add --kind probabilities"),
    "probabilities above 1": ({}, ["--kind", "probabilities"], "logits/a.npy: .*--kind logits"),
    "labels last": ({"logits": LOGITS.transpose(1, 2, 0)}, [], "--labels-last"),
    "classes": ({}, ["--classes", "0,9"], "logits/a.npy: --classes holds 9 but"),
    "temperature": ({}, ["--temperature", "0"], "logits/a.npy: --temperature is 0"),
    "folds": ({}, ["--folds", "9"], "--folds is 9 but 2 images have truth"),
    "a range from above": ({}, ["--theta-alpha", "9,3"], "--theta-alpha is 9 to 3; give the lower"),
    "all fixed": ({}, [o for n in ("alpha", "beta", "gamma") for o in (f"--theta-{n}", "5")]
                  + ["--w-spatial", "3", "--w-bilateral", "3"], "give one a range"),
    "spacing": ({}, ["--spacing", "1,1,1"], "--spacing"),
    "covers": ({}, ["--covers", "9,9"], "--covers needs --upsample"),
    "a file of settings": ({}, ["--params", "truth/a.npy"], "not valid settings in JSON"),
    "unknown settings": ({}, ["--params", "unknown.json"], "unknown.json: not valid settings"),
    "weights of settings": ({}, ["--params", "weights.json"], "--w-spatial has 2 weights"),
    "a study of other options": ({}, ["--study", "old.db", "--temperature", "3"],
                                 "with other --temperature: 1.0, now 3.0; name another file, or"),
    "a study of other ranges": ({}, ["--study", "old.db", "--theta-alpha", "3,9"],
                                "old.db holds a study 'all' with other"),
    "a study that is none": ({}, ["--study", "truth/a.npy"], "truth/a.npy cannot be used as a"),
    "a mask of another size": ({"masks": TRUTH[:4]}, ["--mask", "masks"],
                               "masks/a.npy: the mask is 4 x 9"),
    "bandwidths": ({}, ["--theta-alpha", "0.0000001"], "--theta-alpha is 1e-07; it must lie in"),
    "no image": ({"images": None}, [], "images"),
    "a damaged truth": ({"truth": b"x"}, [], "truth/a.npy: damaged, or not a .npy file"),
    "the other's labels": ({"truth": TRUTH // 2 * 255}, ["--ignore", "9"], "255"),
    "a label not there": ({}, ["--mean-over", "9"], "--mean-over names '9'; the 3 labels are 0"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {"logits": LOGITS, "images": IMAGE, "truth": TRUTH, "masks": TRUTH, "before": TRUTH}
    for name, array in arrays.items():
        Path(name).mkdir()
        for stem in "ab":
            np.save(f"{name}/{stem}", array)
    Path("unknown.json").write_text('{"alpha": 3}')
    Path("weights.json").write_text('{"params": {"w_spatial": [3, 3]}}')


def fail(command, changes, options, words, capsys):
    for name, content in changes.items():
        if content is None:
            for stem in "ab":
                Path(f"{name}/{stem}.npy").unlink()
        elif isinstance(content, bytes):
            Path(f"{name}/a.npy").write_bytes(content)
        else:
            for stem in "ab" if name == "truth" else "a":
                np.save(f"{name}/{stem}", content)
    assert main([*command, *options]) == 2
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    print(last)
    assert last.startswith(f"densecrf-rnn {command[0]}: ")
    for line in said.splitlines():
        assert not PYTHON.search(line), line
        assert not NAMES.search(line), line
    assert words in last or re.search(words, last), last


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate_fails_in_a_sentence_about_files_and_options(case, capsys):
    fail(["evaluate", "before", "truth"], *EVALUATE[case], capsys)


@pytest.mark.parametrize("case", TUNE)
def test_tune_fails_in_a_sentence_about_files_and_options(case, capsys):
    pytest.importorskip("optuna")
    command = ["tune", "logits", "images", "truth", "--trials", "1", "--iterations", "1"]
    if "old.db" in TUNE[case][1]:
        assert main([*command, "--study", "old.db"]) == 0
        capsys.readouterr()
    fail(command, *TUNE[case], capsys)
