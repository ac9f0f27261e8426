"""Every option is recorded and used, or is one of the exceptions: none can be forgotten."""

import argparse
import json

import numpy as np
import pytest
from oracles import noisy_logits, picture

from densecrf_rnn import available_backends, files, refine as refine_array
from densecrf_rnn.cli import (
    _crf_options, _options, _parser, _refining, _sources, _tiling, main, refine, tune,
)  # fmt: skip
from densecrf_rnn.cli._inputs import Inputs
from densecrf_rnn.engines.numba import Numba
from densecrf_rnn.files.hashing import checksum

pytest.importorskip("tqdm", reason="the commands need the extra cli")
REFINE = ["refine", "logits", "images", "-o", "out", "--iterations", "1"]
TUNE = ["tune", "logits", "images", "truth", "--trials", "1", "--iterations", "1"]
OTHER_VERSION = "another version of densecrf-rnn wrote their record, which differs in the options"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two problems as .npy files, with label maps as ground truth; the working folder."""
    for name in ("logits", "images", "truth"):
        (tmp_path / name).mkdir()
    for seed, stem in enumerate("ab"):
        image = picture(14, 18, channels=3, seed=seed).astype(np.uint8)
        logits = noisy_logits(3, image, np.float32, seed)
        np.save(tmp_path / "logits" / stem, logits)
        np.save(tmp_path / "images" / stem, image)
        np.save(tmp_path / "truth" / stem, logits.argmax(0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    return tmp_path


def options_of(command):
    """Names of all options and positional arguments of a command."""
    args = _parser(command).parse_args(command)
    return set(vars(args)) - _options._INTERNAL


def with_made_up_option(monkeypatch, module):
    """Add --made-up to a command, as somebody who forgets all the rest would."""
    declare = module.add_arguments

    def declare_more(parser):
        declare(parser)
        parser.add_argument("--made-up", type=float, default=0.5)

    monkeypatch.setattr(module, "add_arguments", declare_more)


# --- refine --------------------------------------------------------------------------------------


def test_a_new_option_makes_files_done_again(folder, capsys, monkeypatch):
    assert main(REFINE) == 0
    with_made_up_option(monkeypatch, refine)
    for value, reason in (
        ("0.5", f"{OTHER_VERSION} --made-up"),
        ("2", "--made-up was 0.5, is 2"),
    ):
        capsys.readouterr()
        assert main([*REFINE, "--made-up", value]) == 0
        first, last = capsys.readouterr().out.splitlines()
        assert first == f"2 files are done again: {reason}"
        assert last.startswith("2 refined")
    assert main([*REFINE, "--made-up", "2"]) == 0
    assert capsys.readouterr().out.startswith("0 refined")


def test_a_mask_makes_files_done_again_with_a_sentence(folder, capsys):
    (folder / "masks").mkdir()
    for path in (folder / "logits").glob("*.npy"):
        np.save(folder / "masks" / path.name, np.ones(np.load(path).shape[1:], bool))
    assert main(REFINE) == 0
    capsys.readouterr()
    assert main([*REFINE, "--mask", "masks"]) == 0
    assert "done again: --mask was false, is true" in capsys.readouterr().out


def test_a_compatibility_of_integers_is_that_of_floats(folder, capsys):
    np.save(folder / "mu.npy", 1 - np.eye(3, dtype=int))
    assert main([*REFINE, "--compatibility", "mu.npy"]) == 0
    np.save(folder / "mu.npy", 1 - np.eye(3))
    capsys.readouterr()
    assert main([*REFINE, "--compatibility", "mu.npy"]) == 0
    assert capsys.readouterr().out.startswith("0 refined")


def test_a_record_without_the_names_of_today_means_done_again(folder, capsys):
    """A record as commit a00992b wrote it."""
    assert main(REFINE) == 0
    path = folder / "out" / "refine.json"
    record = json.loads(path.read_text())
    for options in record["options"].values():
        options["params"] = {"theta_alpha": options.pop("theta_alpha")}
    path.write_text(json.dumps(record))
    for entry in record["files"].values():
        entry["options"] = "0123456789abcdef"
    record["options"] = {"0123456789abcdef": next(iter(record["options"].values()))}
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert main(REFINE) == 0
    out = capsys.readouterr().out
    assert f"done again: {OTHER_VERSION} --params, --theta-" in out
    assert "2 refined" in out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--temperature", "2"], "--temperature was 1, is 2"),
        (["--theta-beta", "7", "--no-self-term"], "--theta-beta was 5, is 7; --self-term was true"),
        (["--classes", "0,2"], "--classes was not given, is [0, 2]"),
        (["--prune", "1e-3", "--backend", "numba"], "--prune was 0"),
        (["--tile", "8"], '--tile was not given, is 8; --dtype was "float16", is "float32"'),
    ],
)
def test_the_options_that_differ_are_named(folder, capsys, given, reason):
    assert main(REFINE) == 0
    capsys.readouterr()
    assert main([*REFINE, *given]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("2 files are done again: ")
    for part in reason.split("; "):
        assert part in first


@pytest.mark.skipif("cpu" not in available_backends(), reason="needs the native module")
@pytest.mark.parametrize(
    ("more", "prune"),
    [
        ([], 1e-4), (["--write", "both"], 0.0), (["--prune", "0"], 0.0),
        (["--backend", "numba"], 0.0),
    ],  # fmt: skip
)
def test_labels_alone_are_pruned_by_the_native_engine_unless_told_otherwise(folder, more, prune):
    if "numba" in more:
        pytest.importorskip("numba")
    assert main([*REFINE, *more]) == 0
    (options,) = json.loads((folder / "out" / "refine.json").read_text())["options"].values()
    assert options["prune"] == prune


def test_prune_is_passed_on_and_its_range_is_checked_first(folder, capsys, monkeypatch):
    pytest.importorskip("numba")
    given = []
    run = Numba.pruned_mean_field

    def spied(self, problem, *options):
        given.append(problem.prune)
        return run(self, problem, *options)

    monkeypatch.setattr(Numba, "pruned_mean_field", spied)
    for more in ([], ["--tile", "16"]):
        assert main([*REFINE, "--prune", "0.01", "--backend", "numba", *more]) == 0
        assert given and set(given) == {0.01}
        given.clear()
    for wrong in ("0.5", "-0.1", "nan"):
        assert main([*REFINE, "--prune", wrong]) == 2
        assert f"--prune is {wrong}; it must be at least 0 and below 1/L" in capsys.readouterr().err
    assert main([*REFINE, "--prune", "0.4"]) == 1
    assert "--prune is 0.4; with 3 labels it must lie in 0 <=" in capsys.readouterr().err
    monkeypatch.setattr(Numba, "prunes", False)
    assert main([*REFINE, "--prune", "0.01", "--backend", "numba"]) == 2
    said = capsys.readouterr().err
    assert "--prune is 0.01 but backend 'numba' does not leave labels out; give --prune 0" in said
    assert "prune=" not in said and "backend=" not in said


def test_options_that_do_not_bear_on_the_result_leave_files_alone(folder, capsys):
    assert main(REFINE) == 0
    capsys.readouterr()
    assert main([*REFINE, "--workers", "1", "--threads", "1", "--backend", "auto"]) == 0
    assert capsys.readouterr().out.startswith("0 refined")


def test_a_file_that_an_option_names_is_recorded_by_what_it_holds(folder, capsys):
    files.write_settings("a.json", files.Settings(_crf_options.START.params, 1))
    np.save("mu.npy", 1 - np.eye(3))
    command = [*REFINE, "--params", "a.json", "--compatibility", "mu.npy"]
    assert main(command) == 0
    files.write_settings("b.json", files.Settings(_crf_options.START.params, 4))
    capsys.readouterr()
    assert main([*command, "--params", "b.json"]) == 0  # --iterations overrides what differs
    assert capsys.readouterr().out.startswith("0 refined")
    np.save("mu.npy", 2 - 2 * np.eye(3))
    assert main(command) == 0
    assert "--compatibility was [[0.0, 1.0" in capsys.readouterr().out


class Spy(argparse.Namespace):
    """Parsed options that note which of them are read."""

    def __getattribute__(self, name):
        if name != "__dict__" and name in self.__dict__:
            read.add(name)
        return super().__getattribute__(name)


read: set[str] = set()


def options_read(*commands):
    """Names of the options that the code reads when it runs these commands."""
    read.clear()
    for command in commands:
        parsed = _parser(command).parse_args(command)
        args = Spy(**vars(parsed))
        assert refine.run(args) == 0
    return set(read)


def test_every_option_of_refine_is_recorded_or_an_exception(folder):
    args = _parser(REFINE).parse_args(REFINE)
    kept = refine.refining(args, Inputs(args), 1, 1).options().keys()
    assert kept | _options.UNRECORDED["refine"] == options_of(REFINE)
    assert not kept & _options.UNRECORDED["refine"]


def test_every_option_of_refine_is_used(folder):
    np.save("labels.npy", np.zeros((14, 18), np.uint8))
    labels = ["refine", "labels.npy", "images/a.npy", "-o", "out", "--kind", "labels",
              "--num-labels", "2", "--upsample", "corners"]  # fmt: skip
    elsewhere = _tiling._TILED_ONLY | {"max_bytes"}  # which `main` itself reads
    assert options_read(REFINE, labels) >= options_of(REFINE) - elsewhere


def test_every_option_is_used_in_tiles_or_rejected_by_name(folder):
    tiled = [*REFINE, "--tile", "8"]
    recorded = options_of(REFINE) - _options.UNRECORDED["refine"]
    assert _tiling.HEEDED <= recorded
    assert options_read(tiled) >= _tiling.HEEDED
    for name in recorded - _tiling.HEEDED:
        args = _parser(tiled).parse_args(tiled)
        inputs = Inputs(args)
        setattr(args, name, "a value that is no default")
        with pytest.raises(refine.UserError, match=f"{_options.option(name)} needs whole files"):
            refine.refining(args, inputs, 1, 1)


def test_a_new_option_is_rejected_in_tiles_until_they_use_it(folder, capsys, monkeypatch):
    with_made_up_option(monkeypatch, refine)
    assert main([*REFINE, "--tile", "8"]) == 0
    assert main([*REFINE, "--tile", "8", "--made-up", "2"]) == 2
    assert "--made-up needs whole files; leave it or --tile out" in capsys.readouterr().err


@pytest.mark.parametrize("command", [REFINE, TUNE], ids=["refine", "tune"])
def test_options_are_spelled_as_their_names_say(command):
    """Messages name an option by its attribute; each must be an option of the parser."""
    parsed = _parser(command).parse_args(command)
    help_text = parsed.parser.format_help()
    for name in options_of(command):
        assert _options.option(name) in help_text or name.upper() in help_text


@pytest.mark.parametrize("option", ["--w-bilateral", "--w-spatial"])
def test_a_list_of_numbers_may_begin_with_a_negative_one(folder, option):
    assert main([*REFINE, option, "-1,2,3"]) == 0
    args = _parser([*REFINE, option, "-.5,2,3"]).parse_args([*REFINE, option, "-.5,2,3"])
    assert getattr(args, option[2:].replace("-", "_")) == (-0.5, 2, 3)


def test_a_negative_spacing_is_refused_for_what_it_is(folder, capsys):
    assert main([*REFINE, "--spacing", "-1,1"]) == 1
    assert "--spacing[0] is -1; it must be positive" in capsys.readouterr().err


def test_a_word_that_begins_with_a_dash_is_given_with_an_equals_sign(folder, capsys):
    with pytest.raises(SystemExit):
        main([*REFINE, "--logits-suffix", "-logits"])
    assert "(one that begins with - is given as --option=-value)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--confidence", "1.5"], "--confidence is about label maps; add --kind labels if LOGITS"),
        (["--unsure", "255"], "--unsure is about label maps; add --kind labels"),
        (["--num-labels", "3"], "--num-labels is about label maps; add --kind labels"),
        (["--num-labels", "3", "--tile", "8"], "--num-labels is about label maps"),
        (["--unsure", "7", "--kind", "regions"], "--unsure is about label maps"),
        (["--mask-suffix", "_m"], "--mask-suffix goes with --mask; give both, or neither"),
        (["--palette", "voc", "--write", "marginals"],
         "--palette is about label maps, of which --write marginals writes none; leave"),
        (["--remove-small", "9", "--write", "saliency"],
         "--remove-small is about label maps, of which --write saliency writes none; leave"),
        (["--dtype", "float16"], "--dtype is about marginals, of which --write labels writes none"),
        (["--dtype", "float32", "--tile", "8"], "--dtype is about marginals, of which --write"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_apply_is_refused(folder, capsys, options, words):
    assert main([*REFINE, *options]) == 2
    assert words in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_search_refuses_options_of_label_maps_for_logits(folder, capsys):
    assert main([*TUNE, "--unsure", "255"]) == 2
    assert "--unsure is about label maps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        [*REFINE, "-o", ""], [*REFINE, "--mask", ""], [*REFINE, "--palette", " "],
        [*REFINE, "--colours", ""], [*REFINE, "--params", ""], [*REFINE, "--compatibility", ""],
        ["refine", "", "images", "-o", "out"], ["refine", "logits", "", "-o", "out"],
        [*TUNE, "--study", ""], [*TUNE, "--out", ""], [*TUNE, "--plots", ""],
        ["tune", "logits", "images", ""], ["evaluate", "logits", ""], ["evaluate", "", "truth"],
        ["evaluate", "logits", "truth", "--json", ""], ["demo", ""], ["demo", "--out", ""],
        ["explore", ""], ["explore", "--out", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_path_is_not_the_current_folder(folder, capsys, command):
    """A shell variable that is not set gives one."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "the name is empty; name a file or a folder" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


# --- tune ----------------------------------------------------------------------------------------


def test_every_option_of_tune_is_part_of_the_study_or_an_exception():
    args = _parser(TUNE).parse_args(TUNE)
    _sources.gather(args, "logits", "images", "truth")
    names = {name.removeprefix("--").replace("-", "_") for name in tune._facts(args)}
    assert names | _options.UNRECORDED["tune"] == options_of(TUNE)


def test_a_study_is_not_continued_with_a_new_option(folder, capsys, monkeypatch):
    pytest.importorskip("optuna")
    command = [*TUNE, "--study", "study.db"]
    assert main(command) == 0
    with_made_up_option(monkeypatch, tune)
    assert main(command) == 2
    assert "with other --made-up: None, now 0.5" in capsys.readouterr().err


def test_logits_are_hashed_while_they_are_read_and_recorded_as_by_sha256sum(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(_refining, "checksum", lambda path: hashed.append(path) or checksum(path))
    assert main(REFINE) == 0
    assert hashed == []  # logits and images are .npy here
    entries = json.loads((folder / "out" / "refine.json").read_text())["files"]
    for stem, entry in entries.items():
        for name, folder_of in (("logits", "logits"), ("image", "images")):
            path = folder / folder_of / f"{stem}.npy"
            assert entry["inputs"][name]["sha256"] == checksum(path)
    assert main(REFINE) == 0  # done before: files are hashed, and not read
    assert len(hashed) == 4


def test_label_maps_alone_are_written_without_marginals(folder, monkeypatch):
    asked = []

    def spied(*args, labels, **options):
        asked.append(labels)
        return refine_array(*args, labels=labels, **options)

    monkeypatch.setattr(_refining, "refine", spied)
    for what, wanted in (("labels", True), ("both", False), ("marginals", False)):
        assert main([*REFINE, "--write", what]) == 0
        assert set(asked) == {wanted}
        asked.clear()
