"""Which files belong together: trees of folders, patterns, files that a shell named one by one."""

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import noisy_logits, picture

from densecrf_rnn import files
from densecrf_rnn.cli import UserError, _sources, main

pytest.importorskip("tqdm", reason="the commands need the extra cli")
SIZE = (7, 9)


@pytest.fixture(autouse=True)
def memory_as_it_was(monkeypatch):
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, array):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def write_case(stem, seed=0, logits="logits/{}.npy", image="images/{}.npy", truth="truth/{}.npy"):
    picture_ = picture(*SIZE, channels=3, seed=seed).astype(np.uint8)
    scores = noisy_logits(3, picture_, np.float32, seed)
    save(logits.format(stem), scores)
    save(image.format(stem), picture_)
    save(truth.format(stem), scores.argmax(0))


FILMS = ("film1/0001", "film1/0002", "film2/0001", "film2/night/0001")


@pytest.fixture
def films(here):
    """Frames whose names repeat from film to film."""
    for seed, stem in enumerate(FILMS):
        write_case(stem, seed)
    return here


def refine(*words, out="out"):
    return main(["refine", *words, "-o", out, "--iterations", "1"])


def names_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


# --- folders in folders --------------------------------------------------------------------------


def test_recursive_keeps_the_tree_and_pairs_within_a_folder(films, capsys):
    assert refine("logits", "images", "--recursive", "--write", "both") == 0
    assert "4 refined" in capsys.readouterr().out
    written = [f"{stem}{end}" for stem in FILMS for end in (".npz", ".png")]
    assert names_in("out") == sorted([*written, "refine.json"])
    for stem in FILMS:
        Path("flat").mkdir(exist_ok=True)
        assert refine(f"logits/{stem}.npy", f"images/{stem}.npy", out="flat") == 0
        alone = files.read_labels(f"flat/{Path(stem).name}.png")
        np.testing.assert_array_equal(files.read_labels(f"out/{stem}.png"), alone)


def test_recursive_resumes_and_shows_relative_stems(films, capsys):
    assert refine("logits", "images", "--recursive") == 0
    record = json.loads(Path("out/refine.json").read_text())
    assert sorted(record["files"]) == sorted(FILMS)
    assert list(record["files"]["film2/night/0001"]["outputs"]) == ["film2/night/0001.png"]
    Path("out/film2/night/.part-1-1-0001.png").touch()  # what a killed run leaves
    save("images/film1/0002.npy", np.zeros((*SIZE, 3), np.uint8))
    capsys.readouterr()
    assert refine("logits", "images", "--recursive", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert all(f"logits/{s}.npy + images/{s}.npy -> out/{s}.png" in shown for s in FILMS)
    assert refine("logits", "images", "--recursive") == 0
    assert capsys.readouterr().out.startswith("1 refined")
    assert not list(Path("out").rglob(".part-*"))


def test_recursive_works_in_tiles(films):
    assert refine("logits", "images", "--recursive", "--tile", "5", "--halo", "exact") == 0
    assert names_in("out") == sorted([*(f"{stem}.npy" for stem in FILMS), "refine.json"])
    assert refine("logits", "images", "--recursive", out="whole") == 0
    for stem in FILMS:
        tiled = files.read_labels(f"out/{stem}.npy")
        np.testing.assert_array_equal(tiled, files.read_labels(f"whole/{stem}.png"))


def test_without_recursive_folders_in_folders_are_ignored(films, capsys):
    write_case("top")
    assert refine("logits", "images") == 0
    assert names_in("out") == ["refine.json", "top.png"]


@pytest.mark.parametrize("command", ["refine", "evaluate"])
def test_a_folder_of_folders_alone_names_recursive_and_it_works(films, command, capsys):
    words = ["logits", "images", "-o", "out"] if command == "refine" else ["logits", "truth"]
    assert main([command, *words]) == 2
    assert "for the files of its subfolders add --recursive" in capsys.readouterr().err
    assert main([command, *words, "--recursive"]) == 0


def test_evaluate_and_tune_walk_folders_too(films, capsys):
    pytest.importorskip("optuna")
    assert main(["evaluate", "logits", "truth", "--recursive"]) == 0
    assert "4 images, " in capsys.readouterr().out
    tune = ["tune", "logits", "images", "truth", "--trials", "1", "--iterations", "1"]
    assert main([*tune, "--recursive"]) == 0
    assert "4 images with truth" in capsys.readouterr().out


def test_a_frame_is_never_paired_with_one_of_another_film(here):
    write_case("film1/0001")
    write_case("film2/0002")
    Path("images/film2/0002.npy").rename("images/film1/0002.npy")
    found, missing = files.pair("logits", "images", recursive=True)
    assert [match.stem for match in found] == ["film1/0001"]
    assert missing == ["logits/film2/0002.npy: no file film2/0002.* in images"]


def test_walking_follows_links_but_never_in_circles(films):
    Path("elsewhere").symlink_to("logits/film2")
    Path("linked").mkdir()
    Path("linked/film2").symlink_to("../logits/film2")
    Path("logits/film2/back").symlink_to("..")
    found = files.pair("linked", "images", recursive=True).found
    assert "film2/0001" in [match.stem for match in found]
    stems = [match.stem for match in files.pair("logits", "images", recursive=True).found]
    assert stems == sorted(FILMS)


def test_a_store_in_a_folder_is_a_file_and_is_not_walked(here):
    for place in ("a/one/x.zarr/0", "b/one/x.zarr/0"):
        save(f"{place}/inside.npy", np.zeros(3))
    found = files.pair("a", "b", recursive=True).found
    assert [match.stem for match in found] == ["one/x"]


@pytest.mark.parametrize("images", ["images", "images/**/*.npy"])
def test_out_inside_a_walked_folder_is_refused(films, images, capsys):
    assert refine("logits", images, "--recursive", out="images/refined") == 2
    assert f"--out images/refined is inside {images}" in capsys.readouterr().err
    assert refine("logits", "images", "--recursive", out="images-refined") == 0


def test_patterns_keep_the_tree_with_recursive(films):
    save("logits/film1/notes.npz.npy", np.zeros(3))
    found, missing = files.pair("logits/**/0*.npy", "images/**/*.npy", recursive=True)
    assert [match.stem for match in found] == sorted(FILMS) and not missing


@pytest.mark.parametrize("tree", ["case{}", "site/case{}"])
def test_a_folder_per_case_with_fixed_names_is_a_stem(here, tree, capsys):
    for number in (1, 2):
        folder = f"root/{tree.format(number)}"
        write_case("", number, f"{folder}/logits.npy", f"{folder}/t1.npy", f"{folder}/seg.npy")
    stars = "/".join("*" for _ in tree.split("/"))
    assert refine(f"root/{stars}/logits.npy", f"root/{stars}/t1.npy") == 0
    assert names_in("out") == sorted([*(f"{tree.format(n)}.png" for n in (1, 2)), "refine.json"])
    assert main(["evaluate", f"root/{stars}/logits.npy", f"root/{stars}/seg.npy"]) == 0
    assert "2 images, " in capsys.readouterr().out


# --- patterns that the shell expanded ------------------------------------------------------------


@pytest.fixture
def pairs_of_files(here):
    for seed, stem in enumerate("abc"):
        write_case(stem, seed)
    return here


def expanded(*patterns):
    """Words as a shell makes them."""
    return [str(p) for pattern in patterns for p in sorted(Path().glob(pattern))]


def test_refine_takes_the_words_of_an_expanded_pattern(pairs_of_files, capsys):
    assert refine(*expanded("logits/*.npy", "images/*.npy")) == 0
    assert names_in("out") == ["a.png", "b.png", "c.png", "refine.json"]


@pytest.mark.parametrize(
    "words",
    [
        ["logits", "images/?.npy"], ["logits/?.npy", "images"], ["logits/[ab].npy", "images/?.npy"],
        ["mixed/?.npy", "mixed/?.txt"],
    ],
)  # fmt: skip
def test_only_the_files_given_are_the_source(pairs_of_files, words):
    for stem in "ab":
        save(f"mixed/{stem}.npy", np.zeros(3))
        Path(f"mixed/{stem}.txt").touch()
    args = type("Args", (), {})()
    args.logits, args.images = expanded(words[0]), expanded(words[1])
    _sources.gather(args, "logits", "images")
    for source, word in zip((args.logits, args.images), words, strict=True):
        own = expanded(word)
        assert source == own[0] if len(own) == 1 else [str(p) for p in source.files] == own


@given(counts=st.lists(st.integers(1, 3), min_size=2, max_size=3), one_folder=st.booleans())
def test_words_of_expanded_patterns_are_split_as_they_were_written(tmp_path, counts, one_folder):
    ends = (".npy", ".png", ".tif")
    groups = []
    for place, count in enumerate(counts):
        folder = tmp_path / ("all" if one_folder else f"folder{place}")
        folder.mkdir(exist_ok=True)
        groups.append([str(folder / f"{place}{n}{ends[place]}") for n in range(count)])
        for word in groups[-1]:
            Path(word).touch()
    words = [word for group in groups for word in group]
    names = [f"source{place}" for place in range(len(counts))]
    args = argparse.Namespace(**{name: [] for name in names} | {names[-1]: words})
    _sources.gather(args, *names)
    for name, group in zip(names, groups, strict=True):
        source = getattr(args, name)
        assert ([source] if len(group) == 1 else [str(p) for p in source.files]) == group


def test_one_file_missing_from_the_words_is_not_refined(pairs_of_files, capsys):
    assert refine(*expanded("logits/*.npy", "images/[ab].npy")) == 1
    assert "logits/c.npy: no file c.* in images" in capsys.readouterr().err
    assert names_in("out") == ["a.png", "b.png", "refine.json"]


@pytest.mark.parametrize(
    "patterns", [["logits/*.npy"], ["logits/*.npy", "images/*.npy", "truth/*.npy"]]
)
def test_words_that_could_be_split_otherwise_are_refused(pairs_of_files, patterns, capsys):
    assert refine(*expanded(*patterns)) == 2
    said = capsys.readouterr().err
    assert "it is not clear which of the" in said and "quote patterns" in said
    assert refine("logits/*.npy", "images/*.npy") == 0  # quoted, as it says


def test_interleaved_words_are_refused(pairs_of_files):
    args = type("Args", (), {})()
    args.logits = ["logits/a.npy", "images/a.npy", "logits/b.npy"]
    args.images = ["images/b.npy"]
    with pytest.raises(UserError, match="not clear which of the 4 paths are LOGITS and IMAGES"):
        _sources.gather(args, "logits", "images")


def test_a_word_that_is_no_file_is_named(pairs_of_files, capsys):
    assert refine(*expanded("logits/*.npy"), "imags", "images") == 2
    assert "imags: no such file or folder" in capsys.readouterr().err


def test_tune_takes_the_words_of_expanded_patterns(pairs_of_files, capsys):
    pytest.importorskip("optuna")
    words = expanded("logits/*.npy", "images/*.npy", "truth/[ab].npy")
    tune = ["--trials", "1", "--iterations", "1", "--study", "s.db"]
    assert main(["tune", *words, *tune]) == 0
    assert "2 images with truth" in capsys.readouterr().out
    assert main(["tune", *expanded("logits/*.npy", "images/*.npy", "truth/*.npy"), *tune]) == 2
    assert "holds a study 'all' with other images" in capsys.readouterr().err


@pytest.mark.parametrize("some", ["*", "[ab]"])
def test_the_command_that_tune_prints_refines_the_same_files(pairs_of_files, some, capsys):
    pytest.importorskip("optuna")
    words = expanded(*(f"{folder}/{some}.npy" for folder in ("logits", "images", "truth")))
    assert main(["tune", *words, "--trials", "1", "--iterations", "1"]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[0] == "densecrf-rnn" and main(command[1:]) == 0
    assert len(names_in("refined")) == len(words) / 3 + 1


def test_evaluate_takes_a_row_of_files_as_one_prediction(pairs_of_files, capsys):
    for stem in "abc":
        save(f"after/{stem}.npy", files.read_labels(f"truth/{stem}.npy"))
    words = expanded("logits/*.npy", "after/*.npy", "truth/*.npy")
    assert main(["evaluate", *words]) == 0
    said = capsys.readouterr().out
    assert "3 images, " in said and said.split("IU, %")[1].split()[:2] == ["logits", "after"]
    assert main(["evaluate", *expanded("logits/*.npy", "after/*.npy"), "truth"]) == 0
    assert "3 images, " in capsys.readouterr().out


def test_evaluate_takes_single_files_as_predictions_whatever_their_names(pairs_of_files, capsys):
    for truth in ("truth/a.npy", "logits/truth.npy"):
        save(truth, files.read_labels("truth/a.npy"))
        assert main(["evaluate", "logits/a.npy", "logits/b.npy", truth]) == 0
        said = capsys.readouterr().out
        assert "1 image, " in said and said.split("IU, %")[1].split()[:2] == ["a", "b"]
