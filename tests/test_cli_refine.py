"""`densecrf-rnn refine`: what it writes, how it resumes, and every way in which a file can fail."""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from processes import environment

import densecrf_rnn
from densecrf_rnn import CRFParams, files, refine
from densecrf_rnn.cli import _parallel, _refining, _types, main
from densecrf_rnn.files.record import Record

for _module in ("tqdm", "PIL", "tifffile", "skimage"):
    pytest.importorskip(_module, reason="refine needs the extra cli")

START = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)
SIZE, LABELS = (17, 23), 4


@pytest.fixture(autouse=True)
def memory_as_it_was(monkeypatch):
    """What the command asks of the allocator would last for the rest of the tests."""
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)


def problem(seed=0, labels=LABELS, size=SIZE):
    """Logits [L, *S] that mean something, and an image [*S, 3]."""
    rng = np.random.default_rng(seed)
    blocks = np.indices(size).sum(0) // 6
    logits = rng.normal(size=(labels, *size)).astype(np.float32)
    np.put_along_axis(logits, (blocks % labels)[None], 2, axis=0)
    image = (blocks[..., None] * [40, 25, 10] + rng.integers(0, 9, (*size, 3))) % 256
    return logits, image.astype(np.uint8)


def write_image(path, image):
    from PIL import Image

    Image.fromarray(image).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three logits and their images; relative paths from here."""
    for name in ("logits", "images"):
        (tmp_path / name).mkdir()
    for seed, stem in enumerate("abc"):
        logits, image = problem(seed)
        np.save(tmp_path / "logits" / f"{stem}.npy", logits)
        write_image(tmp_path / "images" / f"{stem}.png", image)
    return tmp_path


def call(folder, *more, logits="logits", images="images"):
    """The exit status."""
    return main(
        ["refine", str(folder / logits), str(folder / images), "-o", str(folder / "out"), *more]
    )


def labels_of(folder, stem="a", end=".png"):
    return files.read_labels(folder / "out" / f"{stem}{end}")


def errors(capsys, and_read=False):
    """Lines on stderr, each of which is one sentence of ours, or says what was read of a file."""
    lines = capsys.readouterr().err.splitlines()
    if and_read:
        lines = [line for line in lines if not re.match("[abc]: ", line)]
    assert all(line.startswith("densecrf-rnn refine: ") for line in lines), lines
    return [line.removeprefix("densecrf-rnn refine: ") for line in lines]


def listing(folder):
    return sorted(path.name for path in (folder / "out").iterdir())


# --- what it computes ----------------------------------------------------------------------------


def test_labels_are_those_of_refine(folder, capsys):
    assert call(folder) == 0
    assert "3 refined" in capsys.readouterr().out
    assert listing(folder) == ["a.png", "b.png", "c.png", "refine.json"]
    for seed, stem in enumerate("abc"):
        logits, image = problem(seed)
        expected = refine(logits, image, START).argmax(0)
        np.testing.assert_array_equal(labels_of(folder, stem), expected)
        assert (expected != logits.argmax(0)).any()  # or this would show nothing


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_marginals_are_those_of_refine(folder, dtype):
    assert call(folder, "--write", "both", "--dtype", dtype, "--iterations", "2") == 0
    logits, image = problem(0)
    q = refine(logits, image, START, iterations=2)
    with np.load(folder / "out" / "a.npz") as written:
        assert written.files == ["marginals"]
        np.testing.assert_array_equal(written["marginals"], q.astype(dtype))
    np.testing.assert_array_equal(labels_of(folder), q.argmax(0))


def test_every_option_of_the_crf_reaches_it(folder):
    mu = 1 - np.eye(LABELS)
    mu[0, 1] = 0.3
    np.save(folder / "mu.npy", mu)
    assert call(
        folder, "--theta-alpha", "9", "--theta-beta", "20", "--theta-gamma", "2",
        "--w-bilateral", "1,2,3,4", "--w-spatial", "2", "--normalization", "symmetric",
        "--feature-order", "yx", "--spatial", "lattice", "--quality", "symmetric",
        "--no-self-term", "--iterations", "3", "--compatibility", str(folder / "mu.npy"),
        "--write", "marginals", "--dtype", "float32",
    ) == 0  # fmt: skip
    params = CRFParams(9, 20, 2, (1, 2, 3, 4), 2, "symmetric", False, "yx", "lattice", "symmetric")
    logits, image = problem(0)
    with np.load(folder / "out" / "a.npz") as written:
        np.testing.assert_array_equal(
            written["marginals"], refine(logits, image, params, compatibility=mu, iterations=3)
        )


def test_settings_come_from_a_file_and_options_go_before_them(folder):
    settings = files.Settings(CRFParams(theta_beta=20, w_spatial=1), iterations=2)
    files.write_settings(folder / "best.json", settings)
    assert call(folder, "--params", str(folder / "best.json"), "--theta-alpha", "11") == 0
    logits, image = problem(0)
    params = CRFParams(theta_alpha=11, theta_beta=20, w_spatial=1)
    np.testing.assert_array_equal(
        labels_of(folder), refine(logits, image, params, iterations=2).argmax(0)
    )


def test_workers_and_threads_do_not_change_a_bit(folder):
    assert call(folder, "--write", "marginals", "--workers", "1", "--threads", "2") == 0
    first = {path.name: path.read_bytes() for path in (folder / "out").glob("*.npz")}
    shutil.rmtree(folder / "out")
    assert call(folder, "--write", "marginals", "--workers", "3", "--threads", "1") == 0
    assert first == {path.name: path.read_bytes() for path in (folder / "out").glob("*.npz")}


def test_published_pictures_of_pydensecrf_come_out_of_their_scribbles(tmp_path):
    """Label pictures in, palette and all: the result is the published picture, colours included."""
    from PIL import Image

    data = Path(__file__).parent / "data" / "pydensecrf"
    scribbles = files.read_labels(data / "anno1.png")
    colours = np.asarray(Image.open(data / "anno1.png").convert("RGB")).astype(int)
    unsure = scribbles[(colours == 0).all(-1)][0]
    kept = ",".join(str(label) for label in np.unique(scribbles) if label != unsure)
    assert main(
        ["refine", str(data / "anno1.png"), str(data / "im1.png"), "-o", str(tmp_path),
         "--unsure", str(unsure), "--classes", kept, "--confidence", "0.7",
         "--theta-alpha", "80", "--theta-beta", "13", "--w-bilateral", "10", "--w-spatial", "3",
         "--normalization", "symmetric", "--spatial", "lattice", "--feature-order", "yx",
         "--iterations", "5"]
    ) == 0  # fmt: skip
    found = np.asarray(Image.open(tmp_path / "anno1.png").convert("RGB"))
    np.testing.assert_array_equal(found, np.asarray(Image.open(data / "out1.png").convert("RGB")))


def test_label_maps_are_trusted_as_far_as_said(folder):
    labels = problem(0)[0].argmax(0)
    labels[:2] = 255
    np.save(folder / "labels.npy", labels)
    assert call(
        folder, "--kind", "labels", "--num-labels", str(LABELS), "--confidence", "0.6",
        "--unsure", "255", logits="labels.npy", images="images/a.png",
    ) == 0  # fmt: skip
    from densecrf_rnn.unaries import logits_from_labels

    logits = logits_from_labels(labels, LABELS, 0.6, unsure=255)
    expected = refine(logits, problem(0)[1], START).argmax(0)
    np.testing.assert_array_equal(labels_of(folder, "labels"), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_probabilities_are_taken_as_such(folder, dtype):
    logits, image = problem(0)
    p = np.exp(logits) / np.exp(logits).sum(0)
    stored = p if dtype == np.float32 else (p * 255).round().astype(np.uint8)
    np.save(folder / "p.npy", stored)
    assert call(folder, "--kind", "probabilities", logits="p.npy", images="images/a.png") == 0
    used = np.log(np.maximum(stored / (1 if dtype == np.float32 else np.float32(255)), 1e-5))
    expected = refine(used.astype(np.float32), image, START).argmax(0)
    assert (labels_of(folder, "p") == expected).mean() > 0.99  # the logarithm's last digit


def test_probabilities_taken_for_logits_are_noticed(folder, capsys):
    p = np.exp(problem(0)[0])
    np.save(folder / "p.npy", p / p.sum(0))
    assert call(folder, logits="p.npy", images="images/a.png") == 0
    assert any("as probabilities do" in line for line in errors(capsys))


@pytest.mark.parametrize("corners", [True, False])
def test_coarse_logits_are_enlarged(folder, corners):
    coarse = problem(0, size=(5, 6))[0]
    np.save(folder / "coarse.npy", coarse)
    how = "corners" if corners else "centers"
    assert call(folder, "--upsample", how, logits="coarse.npy", images="images/a.png") == 0
    from densecrf_rnn.upsampling import upsample

    logits = upsample(coarse, SIZE, align_corners=corners)
    expected = refine(logits, problem(0)[1], START).argmax(0)
    np.testing.assert_array_equal(labels_of(folder, "coarse"), expected)


def test_coarse_logits_of_the_samples_are_enlarged_as_the_network_had_them(tmp_path):
    from densecrf_rnn import samples

    shipped = Path(samples.__file__).parent
    with np.load(shipped / "2007_000033.logits.npz") as stored:
        coarse = (stored["q"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
    np.save(tmp_path / "a.npy", coarse.astype(np.float32))
    image = str(shipped / "2007_000033.image.png")
    assert main(
        ["refine", str(tmp_path / "a.npy"), image, "-o", str(tmp_path / "out"),
         "--upsample", "corners", "--covers", "513,513", "--iterations", "1"]
    ) == 0  # fmt: skip
    sample = samples.load("2007_000033")
    q = refine(sample.logits, sample.image, START, iterations=1)
    assert (labels_of(tmp_path) == q.argmax(0)).mean() > 0.9999


def test_masked_pixels_take_no_part(folder):
    logits, image = problem(0)
    mask = np.zeros(SIZE, np.uint8)
    mask[3:, 5:] = 255
    logits[:, mask == 0] = np.nan
    logits[1, 0, 0] = 5
    np.save(folder / "holes.npy", logits)
    write_image(folder / "mask.png", mask)
    assert call(
        folder, "--mask", str(folder / "mask.png"), "--write", "marginals", "--dtype", "float32",
        logits="holes.npy", images="images/a.png",
    ) == 0  # fmt: skip
    with np.load(folder / "out" / "holes.npz") as written:
        expected = refine(logits, image, START, mask=mask > 0)
        np.testing.assert_array_equal(written["marginals"], expected)


def test_temperature_and_classes_reach_the_logits(folder):
    assert call(folder, "--temperature", "2.5", "--classes", "3,0-1", "--write", "both",
                "--dtype", "float32") == 0  # fmt: skip
    logits, image = problem(0)
    q = refine(logits[[3, 0, 1]] / np.float32(2.5), image, START)
    np.testing.assert_array_equal(labels_of(folder), np.array([3, 0, 1])[q.argmax(0)])
    with np.load(folder / "out" / "a.npz") as written:
        np.testing.assert_array_equal(written["marginals"], q)
        assert written["classes"].tolist() == [3, 0, 1]


def test_small_regions_are_removed_when_asked(folder):
    from densecrf_rnn.postprocess import remove_small

    assert call(folder, "--iterations", "0", "--remove-small", "12") == 0
    before = problem(0)[0].argmax(0)
    np.testing.assert_array_equal(labels_of(folder), remove_small(before, 12))
    assert (labels_of(folder) != before).any()


def test_more_than_256_labels_become_a_16_bit_picture_and_never_wrap(folder):
    from PIL import Image

    logits = np.zeros((300, *SIZE), np.float32)
    logits[299, :, 9:] = 50
    logits[43, :, :9] = 50  # 299 - 256
    np.save(folder / "many.npy", logits)
    assert call(folder, logits="many.npy", images="images/a.png") == 0
    assert Image.open(folder / "out" / "many.png").mode.startswith("I;16")
    assert set(np.unique(labels_of(folder, "many"))) == {43, 299}


def test_one_pixel_and_one_logit_are_enough(folder):
    np.save(folder / "one.npy", np.full((1, 1, 1), 0.5, np.float32))
    write_image(folder / "one.png", np.full((1, 1, 3), 9, np.uint8))
    assert call(folder, "--write", "both", logits="one.npy", images="one.png") == 0
    assert labels_of(folder, "one").tolist() == [[1]]


def test_a_map_of_one_logit_is_foreground_above_one_half(folder):
    logits = problem(0)[0][:1] - 1
    np.save(folder / "one.npy", logits)
    assert call(folder, logits="one.npy", images="images/a.png") == 0
    expected = refine(logits, problem(0)[1], START)[0] > 0.5
    np.testing.assert_array_equal(labels_of(folder, "one"), expected)


@pytest.mark.parametrize("labels", [1, 2, 5, 257])
def test_the_likeliest_label_is_argmax(labels):
    q = np.random.default_rng(0).integers(0, 4, (labels, 50)).astype(np.float32)  # many ties
    expected = q.argmax(0) if labels > 1 else q[0] > 0.5
    np.testing.assert_array_equal(_refining.most_probable(q), expected)


# --- volumes -------------------------------------------------------------------------------------

AFFINE = np.diag([1.5, 2.0, 4.0, 1.0])


@pytest.fixture
def volume(tmp_path):
    """Logits as a network saves them, [L, z, y, x], and a NIfTI image."""
    nibabel = pytest.importorskip("nibabel")
    logits, image = problem(0, labels=3, size=(5, 8, 9))
    logits /= 4
    np.save(tmp_path / "scan.npy", logits)
    stored = np.ascontiguousarray(image[..., 0].T).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE), tmp_path / "scan.nii.gz")
    expected = refine(logits, image[..., :1], START, spacing=(4.0, 2.0, 1.5))
    plain = refine(logits, image[..., :1], START)
    assert (plain.argmax(0) != expected.argmax(0)).any()  # the spacing matters here
    return tmp_path, expected.argmax(0)


def test_volumes_are_refined_in_millimetres_and_keep_their_affine(volume):
    import nibabel

    folder, expected = volume
    assert call(folder, logits="scan.npy", images="scan.nii.gz") == 0
    np.testing.assert_array_equal(labels_of(folder, "scan", ".nii.gz"), expected)
    np.testing.assert_array_equal(nibabel.load(folder / "out" / "scan.nii.gz").affine, AFFINE)


def test_volumes_that_store_x_first_are_turned_round(volume, capsys):
    folder, expected = volume
    logits = np.load(folder / "scan.npy").transpose(0, 3, 2, 1)
    np.save(folder / "scan.npy", logits)
    assert call(folder, logits="scan.npy", images="scan.nii.gz") == 1
    (line,) = errors(capsys)
    assert "9 x 8 x 5 but the image is 5 x 8 x 9; if the array file" in line
    assert line.endswith("holds [x, y, z], add --axes xyz")
    assert call(folder, "--axes", "xyz", logits="scan.npy", images="scan.nii.gz") == 0
    np.testing.assert_array_equal(labels_of(folder, "scan", ".nii.gz"), expected)


def test_logits_in_nifti_are_refined(volume):
    import nibabel

    folder, expected = volume
    logits = np.load(folder / "scan.npy").transpose(3, 2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(logits, AFFINE), folder / "scores.nii.gz")
    assert call(folder, logits="scores.nii.gz", images="scan.nii.gz") == 0
    np.testing.assert_array_equal(labels_of(folder, "scores", ".nii.gz"), expected)


def test_volumes_in_array_files_take_their_spacing_from_the_option(volume):
    folder, expected = volume
    np.save(folder / "image.npy", files.read_image(folder / "scan.nii.gz")[..., 0])
    assert call(folder, "--spacing", "4,2,1.5", logits="scan.npy", images="image.npy") == 0
    np.testing.assert_array_equal(labels_of(folder, "scan", ".npy"), expected)


def test_only_an_image_without_a_header_takes_its_spacing_from_the_logits(volume):
    import nibabel

    folder, expected = volume
    logits = np.load(folder / "scan.npy")
    image = files.read_image(folder / "scan.nii.gz")
    np.save(folder / "image.npy", image[..., 0])
    nibabel.save(nibabel.Nifti1Image(logits.transpose(3, 2, 1, 0), AFFINE), folder / "maps.nii.gz")
    assert call(folder, logits="maps.nii.gz", images="image.npy") == 0
    np.testing.assert_array_equal(labels_of(folder, "maps", ".npy"), expected)
    shutil.rmtree(folder / "out")
    assert call(folder, "--spacing", "1,1,1", logits="maps.nii.gz", images="image.npy") == 0
    plain = refine(logits, image, START).argmax(0)
    np.testing.assert_array_equal(labels_of(folder, "maps", ".npy"), plain)
    # without an affine: a voxel size of 1, but no place that contradicts that of the image
    nibabel.save(nibabel.Nifti1Image(logits.transpose(3, 2, 1, 0), None), folder / "maps.nii.gz")
    assert call(folder, logits="maps.nii.gz", images="scan.nii.gz") == 0
    np.testing.assert_array_equal(labels_of(folder, "maps", ".nii.gz"), expected)


@pytest.mark.parametrize("upsample, spacing", [("centers", "2.4,1,0.75"), ("corners", "3,1.125,1")])
def test_enlarged_logits_lend_an_image_the_spacing_of_their_parts(volume, upsample, spacing):
    import nibabel

    folder, _ = volume
    stored = np.load(folder / "scan.npy")[:, :3, ::2, ::2].T  # x, y, z: 5, 4 and 3 voxels
    image = files.read_image(folder / "scan.nii.gz")
    steps = {"centers": (1.35, 2, 4), "corners": (2, 2.625, 6)}[upsample]
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([*steps, 1])), folder / "maps.nii.gz")
    np.save(folder / "image.npy", image[..., 0])
    found = []
    for options in ([], ["--spacing", spacing]):
        options += ["--upsample", upsample, "--write", "marginals", "--dtype", "float32"]
        assert call(folder, *options, logits="maps.nii.gz", images="image.npy") == 0
        found.append(files.read_maps(folder / "out" / "maps.npz", key="marginals"))
        shutil.rmtree(folder / "out")
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("options", [[], ["--axes", "xyz"]])
@pytest.mark.parametrize("leading", [(1,), (1, 1)])
def test_volumes_of_one_logit_are_binary(volume, options, leading):
    """[1, D, H, W] is no batch of one of [L, H, W] where the image is a volume."""
    folder, _ = volume
    logits = np.load(folder / "scan.npy")[0]
    image = files.read_image(folder / "scan.nii.gz")
    expected = refine(logits[None], image, START, spacing=(4.0, 2.0, 1.5))[0] > 0.5
    stored = logits.T if options else logits
    np.save(folder / "scan.npy", stored.reshape(*leading, *stored.shape))
    assert call(folder, *options, logits="scan.npy", images="scan.nii.gz") == 0
    np.testing.assert_array_equal(labels_of(folder, "scan", ".nii.gz"), expected)


# --- resuming ------------------------------------------------------------------------------------


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}


def test_a_second_run_leaves_finished_files_alone(folder, capsys):
    assert call(folder) == 0
    before = times(folder)
    assert call(folder, "--workers", "1") == 0
    assert "0 refined" in (out := capsys.readouterr().out) and "3 were done before" in out
    assert times(folder) == before


def test_one_folder_may_hold_everything_if_suffixes_tell_it_apart(folder, capsys):
    data = folder / "out"
    data.mkdir()
    for stem in "abc":
        (folder / "logits" / f"{stem}.npy").rename(data / f"{stem}-logits.npy")
        (folder / "images" / f"{stem}.png").rename(data / f"{stem}-image.png")
    options = ["--logits-suffix=-logits", "--image-suffix=-image"]
    assert call(folder, *options, logits="out", images="out") == 0
    assert call(folder, *options, logits="out", images="out") == 0
    assert "3 were done before" in capsys.readouterr().out


def test_what_changed_or_is_gone_is_done_again_and_nothing_else(folder, capsys):
    assert call(folder) == 0
    before = times(folder)
    np.save(folder / "logits" / "a.npy", problem(7)[0])
    (folder / "out" / "b.png").write_bytes(b"")  # as after a power cut
    capsys.readouterr()
    assert call(folder) == 0
    assert "2 refined" in capsys.readouterr().out
    after = times(folder)
    assert after["c.png"] == before["c.png"] and after["a.png"] != before["a.png"]
    write_image(folder / "images" / "c.png", problem(8)[1])
    assert call(folder) == 0
    assert "1 refined" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [["--iterations", "3"], ["--theta-beta", "6"], ["--temperature", "2"],
               ["--write", "both"], ["--remove-small", "5"]],
)  # fmt: skip
def test_other_options_do_all_again(folder, capsys, option):
    assert call(folder) == 0
    assert call(folder, *option) == 0
    assert "3 refined" in capsys.readouterr().out.splitlines()[-1]


def test_the_record_says_what_was_made_of_what_and_how(folder):
    assert call(folder, "--iterations", "4") == 0
    record = json.loads((folder / "out" / "refine.json").read_text())
    assert record["densecrf_rnn"] == densecrf_rnn.__version__
    assert record["counts"] == {"refined": 3} and record["failed"] == {}
    assert record["versions"]["numpy"] == np.__version__
    assert record["backend"] == densecrf_rnn.available_backends()[0]
    (options,) = record["options"].values()
    assert options["iterations"] == 4
    params = {field.name: options[field.name] for field in dataclasses.fields(CRFParams)}
    assert CRFParams.from_dict(params) == START
    entry = record["files"]["a"]
    digest = hashlib.sha256((folder / "logits" / "a.npy").read_bytes()).hexdigest()
    assert entry["inputs"]["logits"]["sha256"] == digest
    size = (folder / "out" / "a.png").stat().st_size
    assert entry["outputs"] == {"a.png": size} and entry["shape"] == [LABELS, *SIZE]
    assert list(record["options"]) == [entry["options"]]


COMMAND = [sys.executable, "-m", "densecrf_rnn", "refine", "logits", "images", "-o", "out"]


def start(command, folder):
    """A process that heeds Ctrl-C, whatever this one was told to do."""
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def many(folder, count=40):
    """Enough to be interrupted in the middle: a file takes some 50 ms."""
    for kind in ("logits", "images"):
        shutil.rmtree(folder / kind)
        (folder / kind).mkdir()
    logits, image = problem(0, labels=21, size=(90, 110))
    for i in range(count):
        np.save(folder / "logits" / f"{i:02}.npy", logits + np.float32(i % 3))
        write_image(folder / "images" / f"{i:02}.png", image)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_an_interrupted_run_loses_nothing_and_leaves_nothing_half_written(folder, kill):
    many(folder)
    command = [*COMMAND, "--write", "both", "--workers", "2", "--threads", "1"]
    process = start(command, folder)
    deadline = time.monotonic() + 60
    while len(list((folder / "out").glob("[0-9]*.npz"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(kill)
    stderr = process.communicate(timeout=60)[1].decode()
    done = sorted(path.stem for path in (folder / "out").glob("[0-9]*.npz"))
    assert 4 <= len(done) < 40, "it was to be interrupted in the middle"
    assert process.returncode == (-signal.SIGKILL if kill == signal.SIGKILL else 130)
    assert "Traceback" not in stderr, stderr
    for stem in done:  # whole, whatever the moment
        with np.load(folder / "out" / f"{stem}.npz") as written:
            assert written["marginals"].shape == (21, 90, 110)
        assert labels_of(folder, stem).shape == (90, 110)
    before = {stem: (folder / "out" / f"{stem}.npz").stat().st_mtime_ns for stem in done}

    again = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    record = json.loads((folder / "out" / "refine.json").read_text())
    # what was written but not noted yet when the signal came is done again: a file per thread
    kept = record["counts"]["as before"]
    assert len(done) - 4 <= kept <= len(done) and record["counts"]["refined"] == 40 - kept
    unchanged = [s for s in done if before[s] == (folder / "out" / f"{s}.npz").stat().st_mtime_ns]
    assert len(unchanged) == kept
    assert len(record["files"]) == 40
    expected = sorted([f"{i:02}{end}" for i in range(40) for end in (".npz", ".png")])
    assert listing(folder) == [*expected, "refine.json"]  # no partial file, no lines


def test_a_second_ctrl_c_does_not_wait_for_what_is_in_hand(folder):
    many(folder, 4)
    process = start([*COMMAND, "--iterations", "100000"], folder)
    try:
        while not (folder / "out" / "refine.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # so that files are in the engine, for minutes
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
    again = subprocess.run(COMMAND, cwd=folder, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0 and "4 refined" in again.stdout


def test_a_folder_that_another_run_writes_into_is_refused(folder, capsys):
    (folder / "out").mkdir()
    other = Record(folder / "out", "refine", {})
    assert call(folder) == 2
    assert "another run is writing into" in errors(capsys)[0]
    other.close()
    assert call(folder) == 0


# --- failures ------------------------------------------------------------------------------------


def truncated(folder):
    path = folder / "logits" / "b.npy"
    path.write_bytes(path.read_bytes()[:-50])
    return "b.npy: damaged, or not a .npy file"


def truncated_image(folder):
    path = folder / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:100])
    return "b.png: damaged, or not an image"


def other_size(folder):
    np.save(folder / "logits" / "b.npy", problem(1, size=(9, 12))[0])
    return "b.npy: logits are 9 x 12 but the image is 17 x 23; if .* coarse, add --upsample"


def turned(folder):
    np.save(folder / "logits" / "b.npy", problem(1)[0].transpose(0, 2, 1))
    return "logits are 23 x 17 but the image is 17 x 23; .*rows and columns .*exchanged"


def not_a_number(folder):
    logits = problem(1)[0]
    logits[2, 3, 4] = np.nan
    np.save(folder / "logits" / "b.npy", logits)
    return r"b.npy: logits contains NaN \(1 entry\)"


def infinite(folder):
    logits = problem(1)[0]
    logits[2, 3, 4] = np.inf
    np.save(folder / "logits" / "b.npy", logits)
    return r"b.npy: logits contains \+infinity"


def too_large_for_float32(folder):
    np.save(folder / "logits" / "b.npy", problem(1)[0].astype(np.float64) * 1e39)
    return r"b.npy: logits contains \+infinity"


def pickled(folder):
    np.save(folder / "logits" / "b.npy", np.array([{}], object), allow_pickle=True)
    return "b.npy: holds pickled Python objects"


def without_image(folder):
    (folder / "images" / "b.png").unlink()
    return r"b.npy: no file b\.\* in .*images"


def no_logits(folder):
    np.save(folder / "logits" / "b.npy", np.zeros(SIZE, np.float32))
    return r"b.npy: scores of shape \(17, 23\); they must be \[L, H, W\]"


def empty(folder):
    np.save(folder / "logits" / "b.npy", np.zeros((0, 0, 0), np.float32))
    return "b.npy: .*0 x 0 but the image is 17 x 23"


def unreadable(folder):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "logits" / "b.npy").chmod(0)
    return "b.npy: Permission denied"


BREAKAGES = [
    truncated, truncated_image, other_size, turned, not_a_number, infinite, too_large_for_float32,
    pickled, without_image, no_logits, empty, unreadable,
]  # fmt: skip


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda f: f.__name__)
def test_a_bad_file_gets_one_line_and_stops_no_other(folder, capsys, breakage):
    words = breakage(folder)
    assert call(folder) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert re.search(words, line), line
    assert "2 refined" in captured.out and "1 failed" in captured.out
    assert listing(folder) == ["a.png", "c.png", "refine.json"]
    assert call(folder) == 1  # it failed again, and the others were done before
    assert "2 were done before, 1 failed" in capsys.readouterr().out


def test_a_file_that_was_put_right_is_refined_at_last(folder):
    truncated(folder)
    assert call(folder) == 1
    np.save(folder / "logits" / "b.npy", problem(1)[0])
    assert call(folder) == 0
    assert "b" in json.loads((folder / "out" / "refine.json").read_text())["files"]


def test_a_wrong_key_is_named_with_those_there_are(folder, capsys):
    np.savez(folder / "two.npz", logits=problem(0)[0], other=problem(1)[0])
    assert call(folder, logits="two.npz", images="images/a.png") == 1
    assert "2 arrays, 'logits', 'other'" in errors(capsys)[0]
    assert call(folder, "--key", "scores", logits="two.npz", images="images/a.png") == 1
    assert "no array 'scores', but 'logits', 'other'" in errors(capsys)[0]
    assert call(folder, "--key", "logits", logits="two.npz", images="images/a.png") == 0


def two_of_one_stem(folder):
    np.savez(folder / "logits" / "a.npz", problem(0)[0])
    return [], "a.npy and .*a.npz have the same stem; .* give a pattern"


def nothing_there(folder):
    shutil.rmtree(folder / "logits")
    return [], "logits: no such file or folder"


def no_pairs(folder):
    for path in list((folder / "images").iterdir()):
        path.rename(path.with_stem(path.stem + "_rgb"))
    return [], "'a' has no partner, but 'a_rgb' exists; try --image-suffix _rgb"


def out_is_a_file(folder):
    (folder / "out").touch()
    return [], "--out .*out is a file; name a folder"


def out_below_a_file(folder):
    return ["-o", str(folder / "images" / "a.png" / "out")], "cannot make the folder .*a.png/out"


def out_holds_the_images(folder):
    return ["-o", str(folder / "images")], "a.png is one of the inputs; choose another folder"


def out_holds_the_logits(folder):
    return ["-o", str(folder / "images" / ".." / "logits")], "logits, where the next run would"


def bad_params(folder):
    (folder / "p.json").write_text('{"params": {"theta_beta": -1}}')
    return ["--params", str(folder / "p.json")], "p.json: .* in JSON: theta_beta is -1"


def bad_bandwidth(folder):
    return ["--theta-alpha", "nan"], "--theta-alpha is nan; it must be finite"


def labels_without_a_number(folder):
    return ["--kind", "labels"], "give --num-labels L, or --classes"


def covers_alone(folder):
    return ["--covers", "20,30"], "--covers needs --upsample"


@pytest.mark.parametrize(
    "mistake",
    [two_of_one_stem, nothing_there, no_pairs, out_is_a_file, out_below_a_file,
     out_holds_the_images, out_holds_the_logits, bad_params, bad_bandwidth,
     labels_without_a_number, covers_alone],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_a_mistake_is_one_sentence_before_anything_is_written(folder, capsys, mistake):
    options, words = mistake(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert call(folder, *options) == 2
    (line,) = errors(capsys)
    assert re.search(words, line), line
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "options",
    [["--classes", "1"], ["--classes", "a"], ["--classes", "1,1"], ["--spacing", "1"],
     ["--covers", "0,5"], ["--w-spatial", "x"], ["--workers", "0"], ["--backend", "tpu"]],
)  # fmt: skip
def test_options_that_cannot_be_read_are_refused(folder, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        call(folder, *options)
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--upsample", "corners", "--covers", "16,30"], "--covers is 16 x 30 but the image is 17"),
        (["--temperature", "0"], "temperature is 0"),
        (["--classes", "2,9"], "classes holds 9 but logits has 4 labels"),
        (["--spacing", "1,2,3"], "spacing is .*it must hold 2 numbers"),
        (["--w-spatial", "1,2"], "--w-spatial has 2 weights but there are 4 labels"),
        (["--key", "x"], "holds one array without a name; leave out 'x', given by --key"),
        (["--labels-last"], "logits are 4 x 17 but the image is 17 x 23"),
    ],
)
def test_options_that_no_file_goes_with_fail_by_file(folder, capsys, options, words):
    assert call(folder, *options) == 1
    (line,) = errors(capsys)
    assert re.search(words, line) and line.endswith(" (and 2 more files: b, c)")
    assert call(folder, "--verbose", *options) == 1
    lines = [line for line in errors(capsys, and_read=True) if re.search(words, line)]
    assert len(lines) == 3


@pytest.mark.parametrize(
    "logits, image, options, words",
    [
        ((17, 23, 4), (17, 23, 3), [], "logits.npy: logits are 23 x 4 .*add --labels-last"),
        ((4, 17, 23), (17, 23, 3), ["--labels-last"], "leave --labels-last out"),
        ((4, 17, 23), (3, 17, 23), [], "the image is 3 x 17; .*save it with its channels last"),
        ((4, 17, 23), (23, 17, 3), [], "rows and columns exchanged, or turned by 90 degrees"),
        ((4, 17, 23), (17, 23, 20), [], "image.npy: image has 20 channels"),
    ],
)
def test_arrays_turned_another_way_are_told_the_way_out(
    folder, capsys, logits, image, options, words
):
    np.save(folder / "logits.npy", np.zeros(logits, np.float32))
    np.save(folder / "image.npy", np.zeros(image, np.uint8))
    assert call(folder, *options, logits="logits.npy", images="image.npy") == 1
    (line,) = errors(capsys)
    assert re.search(words, line), line


def test_coarse_logits_that_may_have_their_labels_last_are_pointed_at(folder, capsys):
    write_image(folder / "image.png", np.zeros((40, 40, 3), np.uint8))
    for shape, options, warned in (
        ((20, 20, 5), [], True),
        ((20, 20, 5), ["--labels-last"], False),
        ((5, 20, 20), [], False),
        ((5, 20, 10), [], False),  # uneven either way
    ):
        np.save(folder / "coarse.npy", np.zeros(shape, np.float32))
        assert call(folder, "--upsample", "corners", *options, "--iterations", "0",
                    logits="coarse.npy", images="image.png") == 0  # fmt: skip
        assert any("add --labels-last" in line for line in errors(capsys)) == warned


def test_label_maps_with_other_labels_are_refused(folder, capsys):
    np.save(folder / "l.npy", np.full(SIZE, 7))
    assert call(folder, "--kind", "labels", "--num-labels", "4",
                logits="l.npy", images="images/a.png") == 1  # fmt: skip
    (line,) = errors(capsys)
    assert "holds the label 7, not among those to keep (--classes or --num-labels);" in line
    assert "add --unsure 7" in line


def test_infinite_coarse_logits_are_refused_before_they_spread(folder, capsys):
    coarse = problem(0, size=(5, 6))[0]
    coarse[0, 1, 1] = -np.inf
    np.save(folder / "coarse.npy", coarse)
    assert call(folder, "--upsample", "corners", logits="coarse.npy", images="images/a.png") == 1
    assert "NaN or infinity, so they cannot be interpolated" in errors(capsys)[0]


def test_a_masked_nan_does_not_hide_the_units_of_the_image(folder, capsys):
    image = problem(0)[1].astype(np.float32) * 99
    mask = np.ones(SIZE, bool)
    image[0, 0], mask[0, 0] = np.nan, False
    np.save(folder / "image.npy", image)
    np.save(folder / "mask.npy", mask)
    assert call(folder, "--mask", str(folder / "mask.npy"), logits="logits/a.npy",
                images="image.npy") == 0  # fmt: skip
    assert "give --theta-beta 4" in errors(capsys)[0]


def test_a_file_with_two_warnings_counts_once(folder, capsys):
    np.save(folder / "image.npy", np.zeros(SIZE, complex))  # its least and its greatest value
    assert call(folder, logits="logits/a.npy", images="image.npy") == 1
    assert not any("files had this warning" in line for line in errors(capsys))


def test_an_image_beyond_8_bits_asks_for_theta_beta_once(folder, capsys):
    for stem in "abc":
        (folder / "images" / f"{stem}.png").unlink()
        write_image(folder / "images" / f"{stem}.png", problem(0)[1][..., 0].astype(np.uint16) * 99)
    assert call(folder) == 0
    first, total = errors(capsys)
    assert "neighbouring pixels of image differ by" in first
    assert "give --theta-beta" in first
    assert total.startswith("the same warning: 2 more files: ")
    assert call(folder, "--theta-beta", "900") == 0
    assert errors(capsys) == []


def test_a_missing_package_is_said_once(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for stem in "abc":
        (folder / "logits" / f"{stem}.npy").rename(folder / "logits" / f"{stem}.h5")
    assert call(folder) == 2
    (line,) = errors(capsys)
    assert "pip install 'densecrf-rnn[files]'" in line


def test_a_missing_package_for_an_option_is_said_in_one_sentence(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (folder / "mu.h5").touch()
    assert call(folder, "--compatibility", str(folder / "mu.h5")) == 2
    (line,) = errors(capsys)
    assert "pip install 'densecrf-rnn[files]'" in line


def test_a_missing_progress_bar_is_said_before_anything_is_done(folder, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tqdm" else found(name)
    )
    assert call(folder) == 2
    assert "pip install 'densecrf-rnn[cli]'" in errors(capsys)[0]
    assert not (folder / "out").exists()


def test_a_full_disk_stops_the_run_and_the_next_goes_on(folder, capsys, monkeypatch):
    """The second file finds the disk full after half of it was written."""
    written = []
    write = files.pillow.write_label_png

    def half(path, labels, palette, *more):
        if written:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, labels, palette, *more)

    monkeypatch.setattr(files.pillow, "write_label_png", half)
    assert call(folder, "--workers", "1") == 2
    (line,) = errors(capsys)
    assert "No space left on device; finished files are kept, and the same command resumes" in line
    assert "/.part-" not in line
    assert len(list((folder / "out").glob("*.png"))) == 1
    assert not list((folder / "out").glob(".part-*"))
    monkeypatch.setattr(files.pillow, "write_label_png", write)
    assert call(folder) == 0
    assert "2 refined" in (out := capsys.readouterr().out) and "1 were done before" in out


def in_mount(folder, options, script):
    """Run a shell script with a tmpfs on out/, in a mount namespace of its own."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    (folder / "out").mkdir()
    try:
        subprocess.run([*namespace, "mount -t tmpfs none out"], cwd=folder, check=True,
                       capture_output=True, timeout=20)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no mount namespaces here")
    return subprocess.run(
        [*namespace, f"mount -t tmpfs -o {options} none out && {script}"], cwd=folder,
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_folder_that_cannot_be_written_to_is_one_sentence(folder):
    done = in_mount(folder, "ro", " ".join(COMMAND))
    assert done.returncode == 2
    assert done.stderr == "densecrf-rnn refine: cannot write into out: Read-only file system\n"


def test_a_file_system_without_room_is_survived(folder):
    many(folder, 12)
    for i in range(12):  # marginals of 160 kB each
        np.save(folder / "logits" / f"{i:02}.npy", problem(0, labels=4, size=(90, 110))[0])
    command = f"{' '.join(COMMAND)} --write marginals --dtype float32 --workers 1"
    done = in_mount(folder, "size=400k", f"{command}; echo $?; ls -A out; stat -c %s out/*.npz")
    status, *names = done.stdout.split()
    assert status == "2", done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert not any(name.startswith(".part-") for name in names)
    sizes = {int(name) for name in names if name.isdecimal()}
    assert len(sizes) == 1, "two or so fit, and what is there is whole"


def test_a_limit_on_file_sizes_fails_by_file_and_leaves_no_half(folder):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    done = subprocess.run(
        [*COMMAND, "--write", "marginals", "--dtype", "float32"], cwd=folder, env=environment(),
        capture_output=True, text=True, timeout=60, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and "a.npz: File too large (and 2 more files: b, c)" in lines[0]
    assert listing(folder) == ["refine.json"]


# --- running -------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_names_everything(folder, capsys):
    without_image(folder)
    before = sorted(folder.rglob("*"))
    assert call(folder, "--dry-run", "--write", "both") == 1
    out = capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    for words in ("a.npy + ", "a.png", "a.npz", "b.npy: no file b.*", "2 to refine", "1 left out"):
        assert words in out
    (folder / "logits" / "b.npy").unlink()
    assert call(folder, "--dry-run") == 0


def test_a_terminal_shows_how_fast_it_goes_and_how_long_it_will_take(folder):
    terminal, screen = os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    many(folder, 15)
    command = [*COMMAND, "--workers", "1", "--threads", "1"]
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=screen) as process:
        os.close(screen)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(terminal, 4096):
                shown += part
    os.close(terminal)
    assert process.returncode == 0
    assert re.search(rb"\d+/15 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ ?file/s\]", shown), shown


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "densecrf_rnn", "refine", "--help"],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    heavy = {"torch", "matplotlib", "skimage", "PIL", "tqdm", "numba", "h5py", "zarr", "nibabel"}
    assert "numpy" in imported and not imported & heavy


def test_no_more_files_are_begun_than_there_are_threads():
    begun, most, lock = [0], [0], threading.Lock()
    asked = []

    def items():
        for i in range(50):
            asked.append(i)
            yield i

    def work(i):
        with lock:
            begun[0] += 1
            most[0] = max(most[0], begun[0])
        time.sleep(0.001)
        with lock:
            begun[0] -= 1
        if i == 7:
            raise ValueError("seven")
        return i * i

    results = {}
    for i, outcome in _parallel.finished(work, items(), threads=3):
        assert len(asked) <= len(results) + 3 + 1
        results[i] = outcome
    assert most[0] == 3
    assert isinstance(results.pop(7), ValueError)
    assert results == {i: i * i for i in range(50) if i != 7}


def test_stopping_early_begins_nothing_else():
    seen = []
    outcomes = _parallel.finished(seen.append, range(1000), threads=2)
    next(outcomes)
    outcomes.close()
    assert len(seen) <= 4


@pytest.mark.parametrize("text, expected", [("0,8-10", (0, 8, 9, 10)), ("5-6,1", (5, 6, 1))])
def test_lists_of_classes_are_read(text, expected):
    assert _types.labels(text) == expected
