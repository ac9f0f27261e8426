"""Tests of the command line: what it prints, what it writes, how it fails."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from processes import environment

import densecrf_rnn
from densecrf_rnn import engines, samples
from densecrf_rnn.cli import main

needs_pictures = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("skimage", "matplotlib", "tqdm"))),
    reason="the demo needs the extra cli",
)


def run_module(*arguments, **options):
    """`python -m densecrf_rnn`, importing the package that this process has imported."""
    return subprocess.run(
        [sys.executable, *options.get("python", []), "-m", "densecrf_rnn", *arguments],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def few_samples(monkeypatch):
    """The demo on one photograph with ground truth and one without."""
    monkeypatch.setattr(samples, "names", lambda: ("2007_000033", "chelsea"))


def test_version_names_the_package():
    done = run_module("--version")
    assert done.returncode == 0
    assert done.stdout.strip() == f"densecrf-rnn {densecrf_rnn.__version__}"


def test_help_imports_nothing_heavy():
    done = run_module("--help", python=["-X", "importtime"])
    assert done.returncode == 0
    assert "demo" in done.stdout and "info" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported  # the list is what it seems to be
    assert not imported & {"torch", "matplotlib", "skimage", "tqdm", "numba"}


def test_demo_help_imports_nothing_heavy():
    done = run_module("demo", "--help", python=["-X", "importtime"])
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "matplotlib", "skimage", "tqdm", "numba"}


@pytest.mark.parametrize(
    "arguments", [["dmeo"], ["demo", "--steps", "0"], ["demo", "--threads", "two"], ["info", "-x"]]
)
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "densecrf-rnn" in capsys.readouterr().err


def test_no_arguments_prints_the_help(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_info_names_versions_and_backends(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("densecrf-rnn", "python", "numpy", "threads", "backend cpu", "backend numba"):
        assert word in out
    assert f"takes {densecrf_rnn.available_backends()[0]}" in out


def test_info_json_holds_the_same(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["densecrf_rnn"] == densecrf_rnn.__version__
    available = [name for name, state in facts["backends"].items() if state["available"]]
    assert available == densecrf_rnn.available_backends()
    assert facts["auto"] == available[0]
    assert facts["default_threads"] == engines.default_threads()
    assert facts["native_isa"] == engines.native_isa()


def test_info_names_the_instruction_set(capsys):
    isa = engines.native_isa()
    if isa is None:
        pytest.skip(engines.why_unavailable("cpu"))
    assert main(["info"]) == 0
    assert f"instruction set {isa}" in " ".join(capsys.readouterr().out.split())


def test_info_refuses_an_unknown_instruction_set(monkeypatch):
    if engines.why_unavailable("cpu") is not None:
        pytest.skip(engines.why_unavailable("cpu"))
    monkeypatch.setenv("DENSECRF_RNN_ISA", "sse")
    done = run_module("info")
    assert done.returncode == 2 and done.stdout == ""
    assert "DENSECRF_RNN_ISA must be baseline, avx2 or avx512, not sse" in done.stderr


def test_info_says_what_serves_without_the_native_module(capsys, monkeypatch):
    reasons = {"cpu": "it was not compiled; pip install -e .", "numba": None}
    monkeypatch.setattr(engines.registry, "why_unavailable", reasons.get)
    assert main(["info"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "not available: it was not compiled; pip install -e ." in out
    assert "takes numba, which replaces cpu" in out
    assert "for tensors on a GPU cuda, if it agrees with torch there in its self-test" in out


def test_info_says_that_torch_serves_gpus_without_the_cuda_engine(capsys, monkeypatch):
    reasons = {"cuda": "it was not compiled"}
    monkeypatch.setattr(engines.registry, "why_unavailable", reasons.get)
    assert main(["info"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "takes cpu; for tensors on any other device than a CPU torch" in out


def test_info_says_that_torch_alone_serves_tensors_alone(capsys, monkeypatch):
    reasons = {"cpu": "broken", "numba": "broken", "cuda": "broken"}
    monkeypatch.setattr(engines.registry, "why_unavailable", reasons.get)
    assert main(["info"]) == 0
    assert "no backend can run here, except torch, for tensors" in capsys.readouterr().out


def test_info_says_that_nothing_can_run(capsys, monkeypatch):
    monkeypatch.setattr(engines.registry, "why_unavailable", lambda name: "broken")
    assert main(["info"]) == 0
    assert "no backend can run here" in capsys.readouterr().out


@needs_pictures
def test_demo_without_a_backend_exits_with_2(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(engines.registry, "why_unavailable", lambda name: "broken")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert one_sentence(capsys).startswith("densecrf-rnn demo: no backend can run here")


def test_demo_without_an_extra_names_it(capsys, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert main(["demo", "--out", str(tmp_path)]) == 2
    message = one_sentence(capsys)
    assert "matplotlib" in message and "pip install 'densecrf-rnn[cli]'" in message


def test_packages_that_are_not_installed_are_named_as_pip_names_them(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command, said in {
        "demo": "scikit-image, matplotlib and tqdm, which are not installed",
        "explore": "nicegui and pillow, which are not installed",
    }.items():
        assert main([command]) == 2
        assert f"{command} needs {said}; pip install" in one_sentence(capsys)


@needs_pictures
@pytest.mark.parametrize("below", ["", "folder"])
def test_demo_with_unwritable_output_exits_with_2(below, capsys, tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--out", str(file / below)]) == 2
    assert str(file) in one_sentence(capsys)


@needs_pictures
def test_demo_names_the_picture_it_cannot_write(few_samples, capsys, tmp_path):
    (tmp_path / "2007_000033.png").mkdir()
    assert main(["demo", "--no-train", "--out", str(tmp_path)]) == 2
    assert "2007_000033.png" in one_sentence(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["2007_000033.png"]


@needs_pictures
def test_ctrl_c_exits_with_130(capsys, monkeypatch, tmp_path):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "load", interrupted)
    assert main(["demo", "--out", str(tmp_path)]) == 130
    assert "Traceback" not in capsys.readouterr().err


@needs_pictures
def test_demo_draws_every_photograph_and_gains(capsys, tmp_path):
    from skimage import io

    assert main(["demo", "--no-train", "--out", str(tmp_path / "new" / "folder")]) == 0
    out = capsys.readouterr().out
    before, after = percentages(out, "all 7 pairs")[:2]
    assert 0 < before < after < 100
    pictures = {path.stem: path for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(pictures) == set(samples.names())
    for name, path in pictures.items():
        assert name in out
        height, width, _ = io.imread(path).shape
        assert width == 2000 and 700 < height < 2000
    assert "Training" not in out


@needs_pictures
def test_demo_training_lowers_the_loss(few_samples, capsys, tmp_path):
    pytest.importorskip("torch")
    assert main(["demo", "--steps", "4", "--threads", "1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    before = percentages(out, "head before training")[0]
    assert percentages(out, "head after training")[0] < before


@needs_pictures
def test_demo_without_torch_leaves_the_training_out(few_samples, capsys, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert "pip install 'densecrf-rnn[torch]'" in capsys.readouterr().out


COMMANDS = {
    "demo": ["--no-train", "--out", "out"], "info": [],
    "refine": ["logits", "images", "-o", "out", "--iterations", "1"],
    "evaluate": ["truth", "truth", "--trimap", "1"],
    "tune": ["logits", "images", "truth", "--trials", "2", "--iterations", "1"],
}  # fmt: skip


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Logits, images and truths of three files; the working folder is theirs."""
    for module in ("tqdm", "optuna", "matplotlib", "skimage"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    rng = np.random.default_rng(0)
    for name in ("logits", "images", "truth"):
        (tmp_path / name).mkdir()
    for stem in "abc":
        truth = np.indices((8, 9))[1] // 5
        np.save(tmp_path / "truth" / stem, truth.astype(np.uint8))
        noise = rng.normal(size=(2, 8, 9)).astype(np.float32)
        np.save(tmp_path / "logits" / stem, 2 * np.stack([truth == 0, truth == 1]) + noise)
        image = (120 * truth + rng.integers(0, 20, (8, 9))).astype(np.uint8)
        np.save(tmp_path / "images" / stem, image)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_exit_statuses_are_those_of_the_help(command, folders, few_samples, capsys, monkeypatch):
    assert main([command, *COMMANDS[command]]) == 0
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert "Exit status: 0 for success; 1 if some of the files failed or, for refine, " in help_text
    assert "; 141 if the program that reads the output has ended." in help_text
    with pytest.raises(SystemExit) as stopped:
        main([command, *COMMANDS[command], "--wrong"])
    assert stopped.value.code == 2
    advice = f"unrecognized arguments: --wrong; see densecrf-rnn {command} --help"
    assert one_sentence(capsys).endswith(advice)
    if command == "refine":
        (folders / "images" / "b.npy").write_bytes(b"damaged")
        assert main([command, *COMMANDS[command]]) == 1
        (folders / "images" / "b.npy").unlink()
        assert main([command, *COMMANDS[command]]) == 1
    elif command in ("evaluate", "tune"):  # one file of several cannot be left out of a score
        (folders / "truth" / "b.npy").write_bytes(b"damaged")
        assert main([command, *COMMANDS[command]]) == 2
    if command in ("refine", "evaluate", "tune"):
        assert main([command, "nothing", *COMMANDS[command][1:]]) == 2
    capsys.readouterr()
    module = importlib.import_module(f"densecrf_rnn.cli.{command}")

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run", interrupted)
    assert main([command, *COMMANDS[command]]) == 130
    assert one_sentence(capsys) == f"densecrf-rnn {command}: interrupted"


@pytest.mark.parametrize("arguments", [["info"], ["refine", "--help"], ["evaluate", "t", "t"]])
def test_a_reader_that_has_ended_ends_the_command_quietly(arguments, folders):
    (folders / "truth").rename("t")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "densecrf_rnn", *arguments], stdout=writer, stderr=subprocess.PIPE,
        text=True, timeout=60, env=environment(),
    )  # fmt: skip
    os.close(writer)
    statuses = (0, 141) if "--help" in arguments else (141,)  # argparse ignores it
    assert done.returncode in statuses and done.stderr == ""


def test_a_full_disk_behind_stdout_is_said_in_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "densecrf_rnn", "info"], stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, env=environment(),
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("densecrf-rnn info: ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith("No space left on device\n")


@pytest.mark.parametrize("command", ["refine", "evaluate", "tune"])
def test_quiet_prints_results_and_errors_only_and_verbose_what_is_read(command, folders, capsys):
    arguments = [command, *COMMANDS[command]]
    (folders / "logits" / "d.npy").write_bytes((folders / "logits" / "a.npy").read_bytes())
    status = 1 if command == "refine" else 0
    assert main([*arguments, "--quiet"]) == status
    quiet = capsys.readouterr()
    results = {"refine": "", "evaluate": "3 images, ", "tune": "params.json: CRFParams("}
    assert quiet.out.startswith(results[command])
    assert bool(quiet.out) == (command != "refine")
    assert quiet.err.count("\n") == status
    main([*arguments, "--verbose"])
    said = capsys.readouterr().err
    if command == "refine":  # nothing is read again
        assert main([*arguments, "--verbose", "--iterations", "2"]) == 1
        said = capsys.readouterr().err
    for stem in "abc":
        (line,) = [line for line in said.splitlines() if line.startswith(f"{stem}: ")]
        assert f"{stem}.npy" in line and "(8, 9" in line or "(2, 8, 9)" in line
    if command != "evaluate":
        assert "(2, 8, 9) as logits" in said and "uint8; spacing 1" in said


def test_json_can_go_to_stdout_alone(folders, capsys):
    assert main(["evaluate", *COMMANDS["evaluate"][:2], "--json", "scores.json"]) == 0
    assert capsys.readouterr().out.startswith("3 images")
    for more in ([], ["--plots", "plots"], ["-q"]):
        assert main(["evaluate", *COMMANDS["evaluate"][:2], "--json", "-", *more]) == 0
        out = capsys.readouterr().out
        assert json.loads(out) == json.loads((folders / "scores.json").read_text())


def test_messages_of_one_kind_are_printed_once_with_their_number(folders, capsys):
    for stem in "abc":
        image = np.load(folders / "images" / f"{stem}.npy").astype(np.float32)
        np.save(folders / "images" / stem, image * (1 + ord(stem)))
    assert main(["refine", *COMMANDS["refine"]]) == 0
    first, total = capsys.readouterr().err.splitlines()
    assert "give --theta-beta" in first
    assert re.search(r": the same warning: 2 more files: (a, b|a, c|b, c)$", total)  # threads race
    assert main(["refine", *COMMANDS["refine"], "-q", "--iterations", "2"]) == 0
    assert capsys.readouterr().err == ""
    for number, stem in enumerate("abc"):
        np.save(folders / "images" / stem, np.zeros((8, 5 + number), np.uint8))
    assert main(["refine", *COMMANDS["refine"]]) == 1
    assert one_sentence(capsys).endswith(" (and 2 more files: b, c)")
    record = json.loads((folders / "out" / "refine.json").read_text())
    assert sorted(record["failed"]) == ["a", "b", "c"]


def one_sentence(capsys):
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and "Traceback" not in err
    return err


def percentages(out, start):
    """The numbers of the line that begins with `start`."""
    line = next(line for line in out.splitlines() if line.startswith(start))
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]
