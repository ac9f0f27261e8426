"""Doing what a message says gives the right labels: every hint at files that do not fit together.

The command is run, its message read, the advice followed, and the result compared with the truth.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import files
from densecrf_rnn.cli import main

pytest.importorskip("tqdm", reason="the commands need the extra cli")
LABELS = 3
COLOURS = np.array([[20, 20, 20], [220, 60, 40], [40, 90, 220]], np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)


def truth(size=(32, 40)):
    """An asymmetric map of three labels."""
    rows, columns = np.indices(size)
    labels = np.zeros(size, np.uint8)
    labels[rows * 2 < columns] = 1
    labels[(rows - 0.75 * size[0]) ** 2 + (columns - 0.3 * size[1]) ** 2 < size[0] * 2] = 2
    return labels


def logits_of(labels):
    noise = np.random.default_rng(0).normal(size=(LABELS, *labels.shape))
    scores = 3 * np.eye(LABELS)[labels].transpose(labels.ndim, *range(labels.ndim))
    return (scores + 0.7 * noise).astype(np.float32)


def picture(labels, noise=6):
    rng = np.random.default_rng(1)
    colours = COLOURS[labels].astype(int) + rng.integers(-noise, noise + 1, (*labels.shape, 3))
    return colours.clip(0, 255).astype(np.uint8)


def refine(logits, image, *options):
    """Refine two arrays; return the exit status."""
    np.save("logits.npy", logits)
    np.save("image.npy", image)
    given = ["--theta-alpha", "6", "--theta-beta", "20", *options]
    return main(["refine", "logits.npy", "image.npy", "-o", "out", *given])


def right(labels, end=".png"):
    found = files.read_labels(f"out/logits{end}")
    return found.shape == labels.shape and (found == labels).mean() > 0.98


def advice(capsys):
    """The advised options: all words that follow `add`, and what was said."""
    said = capsys.readouterr().err
    options = re.findall(r"add ((?:--[\w-]+(?: [^\s;:,]+(?:,[^\s;:,]+)*)?\s?)+)", said)
    return said, [words.split() for words in options]


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("size", [(32, 40), (37, 45)])
def test_coarse_logits_are_enlarged_as_advised(stride, size, capsys):
    labels = np.kron(truth((-(-size[0] // stride), -(-size[1] // stride))), np.ones((stride,) * 2))
    labels = labels.astype(np.uint8)[: size[0], : size[1]]
    coarse = logits_of(labels)[:, ::stride, ::stride] * 2
    assert refine(coarse, picture(labels)) == 1
    said, [options] = advice(capsys)
    assert options == ["--upsample", "{corners,centers}"] and "crop" not in said
    assert refine(coarse, picture(labels), "--upsample", "centers") == 0
    assert (files.read_labels("out/logits.png") == labels).mean() > 0.85


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (np.s_[4:28, 5:35], "the centre of the image: crop it to [4:28, 5:35]"),
        (np.s_[:24, :30], "the first corner of the image: crop it to [0:24, 0:30]"),
        (np.s_[3:27, 0:32], "if the network saw a part of the image, crop the image to that part"),
    ],
)
def test_logits_of_a_crop_are_not_stretched(part, words, capsys):
    labels = truth()
    assert refine(logits_of(labels[part]), picture(labels)) == 1
    said, options = advice(capsys)
    assert words in said
    if "[" in words:
        assert ["--upsample", "{corners,centers}"] not in options
        part = eval(f"np.s_{words[words.index('['):]}")
    assert refine(logits_of(labels[part]), picture(labels)[part]) == 0
    assert right(labels[part])


def test_logits_of_a_padded_input_are_cut_as_advised(capsys):
    labels = truth()
    padded = logits_of(np.pad(labels, ((0, 16), (0, 8))))
    assert refine(padded, picture(labels)) == 1
    said, [options] = advice(capsys)
    assert options == ["--upsample", "corners", "--covers", "48,48"]
    assert refine(padded, picture(labels), *options) == 0
    assert right(labels)
    assert refine(padded[:, ::4, ::4], picture(labels)) == 1
    said, options = advice(capsys)
    assert "padded at its bottom and right for the network, add --upsample" in said
    assert options[0] == ["--upsample", "{corners,centers}", "--covers", "H,W"]
    assert "squeezed into a square" in said
    advised = ["--upsample", "centers", "--covers", "48,48"]
    assert refine(padded[:, ::4, ::4] * 2, picture(labels), *advised) == 0
    assert (files.read_labels("out/logits.png") == labels).mean() > 0.85


TURNS = {
    "rows and columns of the logits exchanged": lambda a: a.swapaxes(-1, -2),
    "the logits turned by 90 degrees clockwise": lambda a: np.rot90(a, -1, axes=(-2, -1)),
    "the logits turned by 90 degrees counterclockwise": lambda a: np.rot90(a, 1, axes=(-2, -1)),
}


@pytest.mark.parametrize("size", [(32, 40), (40, 32)])
@pytest.mark.parametrize("words", TURNS)
def test_turned_logits_are_turned_back_as_advised(words, size, capsys):
    labels = truth(size)
    inverse = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}
    wrong = TURNS[" ".join(inverse.get(word, word) for word in words.split())](logits_of(labels))
    assert refine(wrong, picture(labels)) == 1
    said = capsys.readouterr().err
    assert f"their edges agree with {words}: save them so" in said
    assert refine(np.ascontiguousarray(TURNS[words](wrong)), picture(labels)) == 0
    assert right(labels)


def test_a_turn_that_the_values_do_not_tell_is_not_guessed(capsys):
    assert refine(logits_of(truth()), np.full((40, 32, 3), 7, np.uint8)) == 1
    said = capsys.readouterr().err
    assert "rows and columns exchanged, or turned by 90 degrees: compare them in a viewer" in said


@pytest.mark.parametrize("labels_file", [False, True])
def test_an_orientation_that_is_forced_against_the_size_is_named(labels_file, capsys):
    image = pytest.importorskip("PIL.Image")
    labels, exif = truth(), image.Exif()
    exif[274] = 6
    options = ["--theta-alpha", "6", "--theta-beta", "20", "-o", "out"]
    if labels_file:
        image.fromarray(labels).save("logits.png", exif=exif)
        np.save("image.npy", picture(labels))
        run = ["refine", "logits.png", "image.npy", "--num-labels", "3", *options]
        assert main(run) == 1
        said, [*_, advised] = advice(capsys)
        assert main([*run, *advised]) == 0
    else:
        np.save("logits.npy", logits_of(labels))
        image.fromarray(picture(labels)).save("image.png", exif=exif)
        run = ["refine", "logits.npy", "image.png", *options]
        assert main([*run, "--exif", "apply"]) == 1
        assert "leave --exif apply out" in capsys.readouterr().err
        assert main(run) == 0
    assert right(labels)


def volume():
    return np.stack([truth((10, 12))] * 7)


@pytest.mark.parametrize("which", ["logits", "image", "both"])
def test_volumes_in_another_order_are_turned_as_advised(which, capsys):
    nibabel = pytest.importorskip("nibabel")
    labels = volume()
    logits, grey = logits_of(labels), picture(labels)[..., 0]
    if which == "logits":
        np.save("logits.npy", logits.transpose(0, 3, 2, 1))
        nibabel.save(nibabel.Nifti1Image(grey.T.copy(), np.eye(4)), "image.nii")
        names = ["logits.npy", "image.nii"]
    elif which == "image":
        stored = np.ascontiguousarray(logits.transpose(3, 2, 1, 0))
        nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), "logits.nii")
        np.save("image.npy", np.ascontiguousarray(grey.T)[..., None])
        names = ["logits.nii", "image.npy"]
    else:
        np.save("logits.npy", logits.transpose(0, 3, 2, 1))
        np.save("image.npy", grey[..., None])
        names = ["logits.npy", "image.npy"]
    run = ["refine", *names, "-o", "out", "--theta-alpha", "6", "--theta-beta", "20"]
    assert main(run) == 1
    said, options = advice(capsys)
    if which == "both":  # --axes xyz would turn both
        assert not options and "save the logits in the order of the image" in said
        np.save("logits.npy", logits)
        options = [[]]
    assert options[0] in ([], ["--axes", "xyz"])
    assert main([*run, *options[0]]) == 0
    assert right(labels, ".nii.gz" if which == "logits" else ".npy")


@pytest.mark.parametrize("classes", [[], ["--classes", "0-2"]])
def test_labels_in_the_last_axis_are_found_whatever_their_number(classes, capsys):
    for size in ((32, 40), (3, 40)):
        labels = truth(size)
        assert refine(logits_of(labels).transpose(1, 2, 0), picture(labels), *classes) == 1
        said, options = advice(capsys)
        assert ["--labels-last"] in options
        last = logits_of(labels).transpose(1, 2, 0)
        assert refine(last, picture(labels), *classes, "--labels-last") == 0
        assert right(labels)
        assert refine(logits_of(labels), picture(labels), *classes, "--labels-last") == 1
        assert "leave --labels-last out" in capsys.readouterr().err


def test_of_two_causes_that_fit_both_are_named(capsys):
    """Logits [2, W, 3] may be [H, W, L], or an image [C, H, W] have its channels first."""
    labels = truth((2, 40))
    last, image = logits_of(labels).transpose(1, 2, 0), picture(labels)
    assert refine(last, image) == 1
    said, options = advice(capsys)
    assert "save it with its channels last" in said and options == [["--labels-last"]]
    assert refine(last, image, *options[0]) == 0
    assert right(labels)


def test_files_of_different_images_are_asked_about(capsys):
    assert refine(logits_of(truth((32, 40))), picture(truth((20, 77)))) == 1
    assert "do they belong to the same image?" in capsys.readouterr().err


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("stored", [(0, 255), (0, 127, 254), (0, 128, 255)])
def test_label_maps_of_other_values_are_read_as_advised(stored, void, capsys):
    """Masks of 0 and 255 and labels that were stretched over 0..255, with and without void."""
    known = stored[:-1] if void else stored
    labels = truth() % len(known)
    values = np.array(stored)[labels]
    if void:
        values[:3] = stored[-1]
        if stored[-1] != 255 or len(known) < 2:
            return
    np.save("values.npy", values)
    np.save("image.npy", picture(labels))
    run = ["refine", "values.npy", "image.npy", "-o", "out", "--kind", "labels", "--confidence",
           "0.9", "--theta-alpha", "6", "--theta-beta", "20"]  # fmt: skip
    assert main([*run, "--num-labels", str(len(known))]) == 1
    said = capsys.readouterr().err
    advised = re.search("add (--label-values [0-9,]+(?: --unsure [0-9]+)?)", said)[1].split()
    assert ("--unsure" in advised) == void
    assert main([*run, *advised]) == 0
    found = files.read_labels("out/values.png")
    found = np.searchsorted(np.array(known), found) if found.max() > len(known) else found
    assert (found == labels)[3:].mean() > 0.98


@pytest.mark.parametrize("wrong", ["mask", "truth"])
def test_a_mask_or_truth_of_another_size_is_named_with_both_sizes(wrong, capsys):
    labels = truth()
    np.save("other.npy", truth((16, 20)))
    np.save("logits.npy", logits_of(labels))
    np.save("image.npy", picture(labels))
    if wrong == "mask":
        assert refine(logits_of(labels), picture(labels), "--mask", "other.npy") == 1
    else:
        pytest.importorskip("optuna")
        assert main(["tune", "logits.npy", "image.npy", "other.npy", "--trials", "1"]) == 2
    said = capsys.readouterr().err
    assert "other.npy" in said and "16 x 20" in said and "32 x 40" in said
    assert Path("other.npy").exists()
