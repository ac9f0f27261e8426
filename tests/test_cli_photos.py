"""Tests of `densecrf-rnn demo PHOTO`: what it reads, what it prints, how it fails."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from densecrf_rnn import samples
from densecrf_rnn.cli import main

needs_pictures = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("skimage", "matplotlib", "tqdm"))),
    reason="the demo needs the extra cli",
)


def one_sentence(capsys):
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and "Traceback" not in err
    return err


@pytest.fixture
def photos(tmp_path):
    """A small photograph in colour, and the same in grey under the same name."""
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.fromarray(samples.load("chelsea").image[:120, :160])
    (tmp_path / "grey").mkdir()
    image.save(tmp_path / "cat.jpg", quality=95)
    image.convert("L").save(tmp_path / "grey" / "cat.png")
    return [str(tmp_path / "cat.jpg"), str(tmp_path / "grey" / "cat.png")]


@needs_pictures
def test_demo_refines_photographs_of_ones_own(photos, capsys, tmp_path):
    pytest.importorskip("torch")
    assert main(["demo", *photos, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cat.png", "cat_2.png"}
    assert "160x120" in out and "of pixels changed" in out and "Training" not in out


@needs_pictures
def test_demo_never_replaces_a_photograph(photos, capsys, tmp_path):
    pytest.importorskip("torch")
    before = Path(photos[1]).read_bytes()
    assert main(["demo", photos[1], "--out", str(tmp_path / "grey")]) == 2
    assert "give another folder by --out" in one_sentence(capsys)
    assert Path(photos[1]).read_bytes() == before


@needs_pictures
def test_demo_of_a_folder_asks_for_the_photographs_in_it(photos, capsys, tmp_path):
    pytest.importorskip("torch")
    assert main(["demo", str(tmp_path / "grey"), "--out", str(tmp_path / "out")]) == 2
    assert "grey is a folder; name the photographs in it" in one_sentence(capsys)


@needs_pictures
def test_demo_turns_a_photograph_as_its_exif_says_without_a_note(photos, capsys, tmp_path):
    pytest.importorskip("torch")
    image_module = pytest.importorskip("PIL.Image")
    exif = image_module.Exif()
    exif[0x0112] = 6  # a quarter turn
    image_module.open(photos[0]).save(tmp_path / "turned.jpg", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["demo", str(tmp_path / "turned.jpg"), "--out", str(tmp_path / "out")]) == 0
    assert "120x160" in capsys.readouterr().out


@needs_pictures
def test_demo_reduces_a_large_photograph(photos, capsys, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    from densecrf_rnn.cli import _photos

    monkeypatch.setattr(_photos, "_LONGEST", 80)
    assert main(["demo", photos[0], "--out", str(tmp_path / "out")]) == 0
    assert "80x60" in (out := capsys.readouterr().out)
    assert "; reduced from 160x120" in out and "theta_alpha 30" not in out


@needs_pictures
def test_demo_prints_the_bandwidths_of_a_larger_photograph(photos, capsys, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    from densecrf_rnn.explore import photos as of_photos

    monkeypatch.setattr(of_photos, "_USUAL", 80)  # half of the photograph's longest side
    assert main(["demo", photos[0], "--out", str(tmp_path / "out")]) == 0
    assert "; theta_alpha 60, theta_gamma 6" in capsys.readouterr().out


@needs_pictures
@pytest.mark.parametrize("height, width", [(600, 3), (3, 600), (1, 1), (1, 600)])
def test_the_picture_of_a_narrow_photograph_has_a_usual_size(height, width):
    from densecrf_rnn.cli import _panels

    image = np.full((height, width, 3), 200, np.uint8)
    labels = np.zeros((height, width), np.uint8)
    sample = samples.Sample("narrow", image, np.zeros((21, height, width), np.float32), None)
    figure = _panels.draw(sample, labels, labels + 1)
    wide, tall = figure.get_size_inches() * figure.dpi
    assert wide == 2000 and 500 < tall < 4000
    figure.canvas.draw()
    shown = figure.axes[0].transData.transform([(0, 0), (1, 0), (0, 1)])
    assert abs(shown[1] - shown[0]).max() == pytest.approx(abs(shown[2] - shown[0]).max())


@needs_pictures
def test_demo_does_not_import_torch_before_the_photographs_are_read(tmp_path):
    pytest.importorskip("torch")
    code = (
        "import sys; from densecrf_rnn.cli import main; code = main(['demo', 'none.jpg']); "
        "assert code == 2 and 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "none.jpg: no such file" in done.stderr, done.stderr


@needs_pictures
@pytest.mark.parametrize("name, content, said", [
    ("none.jpg", None, "no such file"), ("text.txt", b"hi", ".txt cannot be read as an image"),
    ("broken.png", b"hi", "broken.png"),
])  # fmt: skip
def test_demo_names_the_photograph_it_cannot_read(capsys, tmp_path, name, content, said):
    pytest.importorskip("torch")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["demo", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    sentence = one_sentence(capsys)
    assert sentence.startswith("densecrf-rnn demo: ") and said in sentence and name in sentence


@needs_pictures
def test_demo_refuses_a_photograph_of_16_bits(capsys, tmp_path):
    pytest.importorskip("torch")
    np.save(tmp_path / "deep.npy", np.zeros((8, 9, 3), np.uint16))
    assert main(["demo", str(tmp_path / "deep.npy"), "--out", str(tmp_path / "out")]) == 2
    assert "give a photograph of 8 bits a channel" in one_sentence(capsys)


@needs_pictures
def test_demo_of_photographs_without_torch_names_the_extra(photos, capsys, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    assert main(["demo", *photos, "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'densecrf-rnn[torch]'" in one_sentence(capsys)
