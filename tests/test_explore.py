"""The page of `densecrf-rnn explore`: what it computes, the code it shows, and the page itself."""

import argparse
import importlib.util
import re
import shlex
import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from explore_server import explored, labels_of_command, labels_of_python

from densecrf_rnn import CRFParams, cli, files, samples
from densecrf_rnn.cli import _inputs, explore, main
from densecrf_rnn.explore import controls, pictures, scenes, scribbles, settings
from densecrf_rnn.explore.scenes import Scene
from densecrf_rnn.files import sizes
from densecrf_rnn.inference import build

needs_pictures = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("PIL", "skimage", "tqdm"))), reason="needs the extra cli"
)
SETTINGS = settings.Settings(
    theta_alpha=41.7, theta_beta=7.3, theta_gamma=2.1, w_bilateral=4.2, w_spatial=1.3,
    iterations=3, temperature=1.7, quality="symmetric",
    others=CRFParams(normalization="symmetric", self_term=False, spatial="lattice"),
)  # fmt: skip


def small(name="made", truth=True, labels=3):
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (5, 6, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    logits = rng.normal(0, 2, (labels, 30, 36)).astype(np.float32)
    found = rng.integers(0, labels, (30, 36)) if truth else None
    return Scene(name, image, logits, found, image)


# --- the code that is copied ---------------------------------------------------------------------


@needs_pictures
@pytest.mark.parametrize("of", [SETTINGS, settings.Settings(), replace(SETTINGS, iterations=0)])
def test_python_of_a_sample_gives_the_labels_on_the_screen(of):
    scene = scenes.of_samples()["2007_000033"]()
    np.testing.assert_array_equal(labels_of_python(scene, of), settings.view(scene, of).after)


@needs_pictures
def test_the_page_of_the_documents_shows_the_python_of_the_first_sample():
    page = Path(__file__).parents[1] / "docs" / "explore.md"
    if not page.is_file():
        pytest.skip("the documents are not installed with the package")
    first, make = next(iter(scenes.of_samples().items()))
    code = settings.python_of(make(), settings.Settings())
    assert first in code and f"```python\n{code.strip()}\n```" in page.read_text(encoding="utf-8")


@needs_pictures
@pytest.mark.parametrize("of", [SETTINGS, settings.Settings()])
def test_python_and_command_of_saved_inputs_give_the_labels_on_the_screen(of, tmp_path):
    scene = scenes.saved(small(), tmp_path / "it's a folder")
    wanted = settings.view(scene, of).after
    np.testing.assert_array_equal(labels_of_python(scene, of), wanted)
    np.testing.assert_array_equal(labels_of_command(scene, of, tmp_path / "out"), wanted)


@needs_pictures
def test_command_of_files_keeps_the_options_of_the_input(tmp_path, monkeypatch):
    scene = small()
    np.save(tmp_path / "a.npy", np.moveaxis(scene.logits, 0, -1))
    np.save(tmp_path / "a.img.npy", scene.image)
    sources, _ = explored(
        monkeypatch, tmp_path / "a.npy", tmp_path / "a.img.npy", "--image-suffix", ".img",
        "--labels-last", "--classes", "0,2", "--temperature", "2",
    )  # fmt: skip
    (source,) = sources.values()
    found = source()
    assert found.logits.shape == (2, 30, 36) and found.truth is None
    of = replace(SETTINGS, temperature=2.0)
    wanted = np.array([0, 2])[settings.view(found, of).after]
    np.testing.assert_array_equal(labels_of_command(found, of, tmp_path / "out"), wanted)


@pytest.mark.parametrize("of", [
    replace(SETTINGS, w_spatial=-1e-05, theta_alpha=1234.5678901234567, w_bilateral=1 / 3),
    replace(SETTINGS, iterations=23, temperature=1e-05, theta_beta=1e8),
])  # fmt: skip
def test_numbers_are_in_the_code_to_the_digit(of):
    scene = replace(small(), command=("a.npy", "a.png"))
    words = shlex.split(settings.command_of(scene, of, "out"))
    args = cli._parser(words[1:]).parse_args(words[1:])
    names = ("theta_alpha", "theta_beta", "theta_gamma", "w_bilateral", "w_spatial", "iterations",
             "temperature")  # fmt: skip
    assert all(getattr(args, name) == getattr(of, name) for name in names)


# A value of each option that says how inputs are read.
WORDS = {
    "--kind": "labels", "--key": "a b", "--image-key": "it's", "--label-values": "0,8-10",
    "--colours": "colours.txt", "--labels-last": None, "--axes": "xyz", "--upsample": "corners",
    "--covers": "40,50", "--bands": "3,1", "--spacing": "0.1,2e-05", "--exif": "ignore",
    "--logits-suffix": "_l", "--image-suffix": "_0000,_0001", "--mask-suffix": "_m",
    "--strict": None, "--max-bytes": "5000000000", "--normalize": "zscore", "--clip": None,
    "--classes": "0,2-4", "--num-labels": "7", "--confidence": "0.30000000000000004",
    "--unsure": "-1",
}  # fmt: skip
# The page has a slider for it, or names the file of each scene.
OTHERS = {"--temperature", "--mask", "--recursive"}


def test_every_option_of_the_inputs_is_in_the_command_as_it_was_given():
    parser = argparse.ArgumentParser(add_help=False)
    _inputs.add_content_options(parser)
    options = {action.option_strings[0] for action in parser._actions}
    assert options == WORDS.keys() | OTHERS
    for name, value in WORDS.items():
        given = [f"{name}={value}"] if value else [name]
        words = ["explore", "LOGITS", "IMAGES", *given]
        args = cli._parser(words).parse_args(words)
        words = ["refine", "LOGITS", "IMAGES", "-o", "out", *explore._words(args)]
        again = cli._parser(words).parse_args(words)
        dest = name[2:].replace("-", "_")
        assert getattr(again, dest) == getattr(args, dest) != again.parser.get_default(dest)


@pytest.fixture
def explored_here(tmp_path, monkeypatch, capsys):
    """Runs `explore` on files, without a page; returns a scene and the settings, or the error."""

    def run(*more, truth=None, dtype=np.float32, mask=None):
        scene = small()
        for name, array in (("a", scene.logits.astype(dtype)), ("a.img", scene.image),
                            ("a.truth", truth), ("a.mask", mask)):  # fmt: skip
            if array is not None:
                np.save(tmp_path / f"{name}.npy", array)
        words = [tmp_path / "a.npy", tmp_path / "a.img.npy", "--image-suffix", ".img"]
        if mask is not None:
            words += ["--mask", tmp_path / "a.mask.npy", "--mask-suffix", ".mask"]
        if truth is not None:
            (tmp_path / "truth").mkdir(exist_ok=True)
            np.save(tmp_path / "truth" / "a.npy", truth)
            words.insert(2, tmp_path / "truth")
        found = explored(monkeypatch, *words, *more)
        if found is None:
            return capsys.readouterr().err
        sources, start = found
        return sources["a"](), start

    return run


def mask_of(scene):
    mask = np.zeros(scene.logits.shape[1:], np.uint8)
    mask[4:20, 5:30] = 1
    return mask


@needs_pictures
@pytest.mark.parametrize("more", ["--no-self-term", "--spacing=3,1", "--quality=filled"])
def test_options_of_the_command_give_the_same_labels_on_the_page(explored_here, tmp_path, more):
    scene, start = explored_here(more)
    wanted = settings.view(scene, start).after
    np.testing.assert_array_equal(labels_of_command(scene, start, tmp_path / "out"), wanted)
    kept = scenes.saved(scene, tmp_path / "saved")
    np.testing.assert_array_equal(labels_of_python(kept, start), wanted)
    np.testing.assert_array_equal(labels_of_command(kept, start, tmp_path / "again"), wanted)


@needs_pictures
def test_a_mask_is_in_the_code_and_the_entropy_is_0_outside(explored_here, tmp_path):
    mask = mask_of(small())
    scene, start = explored_here(mask=mask)
    scene.logits[:, mask == 0] = np.nan
    wanted = settings.view(scene, start).after
    certain = settings.entropy(scene, start)
    assert np.all(certain[mask == 0] == 0) and np.all(certain[mask == 1] > 0)
    assert pictures.entropy(certain).dtype == np.uint8
    kept = scenes.saved(scene, tmp_path / "saved")
    np.testing.assert_array_equal(labels_of_python(kept, start), wanted)
    written = labels_of_command(kept, start, tmp_path / "out")
    np.testing.assert_array_equal(written[mask == 1], wanted[mask == 1])


@needs_pictures
def test_the_slider_of_the_temperature_acts_on_float16(explored_here):
    scene, _ = explored_here(dtype=np.float16)
    assert settings.view(scene, replace(SETTINGS, temperature=0.5)).after.shape == (30, 36)


@needs_pictures
def test_true_labels_are_those_of_the_logits_channels(explored_here):
    truth = np.tile(np.arange(36) % 3, (30, 1)).astype(np.uint8)
    truth[0] = samples.IGNORE
    scene, _ = explored_here("--classes", "0,2", truth=truth)
    wanted = np.select([truth == 0, truth == 2], [0, 1], samples.IGNORE)
    np.testing.assert_array_equal(scene.truth, wanted)
    stretched = np.where(truth < 3, 50 * truth, 255)
    scene, _ = explored_here("--label-values", "0,50,100", truth=stretched)
    np.testing.assert_array_equal(scene.truth, truth)


@needs_pictures
def test_what_reading_and_refining_would_warn_of_is_kept_for_the_page(explored_here):
    mask = np.where(np.arange(36) % 2, 255, 0) * np.ones((30, 1), np.uint8)
    doubts = explored_here(truth=mask)[0].doubts
    assert "holds only 0 and 255, of which 255 is taken for void" in doubts[0]
    with_values = explored_here("--label-values=0,255,9", truth=mask)[0]
    assert with_values.doubts == () and set(np.unique(with_values.truth)) == {0, 1}
    faint = replace(small(), image=small().image / np.float32(255))
    for _ in range(2):  # also with kept lattices
        assert "the appearance kernel sees no edges" in settings.view(faint, SETTINGS).doubts[0]
    assert settings.view(small(), SETTINGS).doubts == ()


@needs_pictures
def test_a_limit_on_what_files_unpack_to_holds_in_the_threads_of_the_page(
    tmp_path, monkeypatch
):  # fmt: skip
    seen = []
    monkeypatch.setattr(
        _inputs.files, "read_image", lambda *args, **more: seen.append(sizes._ALLOWED.get()) or (
            small().image))  # fmt: skip
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", small().logits)
        np.save(tmp_path / f"{name}.img.npy", small().image)
    sources, _ = explored(
        monkeypatch, tmp_path / "[ab].npy", tmp_path / "*.img.npy", "--image-suffix", ".img",
        "--max-bytes", "123456789",
    )  # fmt: skip
    thread = threading.Thread(target=sources["b"])
    thread.start()
    thread.join()
    assert seen == [123456789] * 2


@needs_pictures
def test_a_first_file_that_cannot_be_shown_ends_the_command(explored_here, tmp_path):
    said = explored_here(truth=np.full((30, 36), 7, np.uint8))
    assert "holds the label 7, but the logits' labels are 0..2" in said and said.count("\n") == 1
    assert "the true labels are (2, 2) but the logits (30, 36)" in explored_here(
        truth=np.zeros((2, 2), np.uint8)
    )


@needs_pictures
@pytest.mark.parametrize("more", ["--temperature=nan", "--temperature=0", "--iterations=-3"])
def test_a_number_that_no_slider_can_show_is_refused(explored_here, more):
    assert more.split("=")[0] in explored_here(more)


@needs_pictures
def test_a_truth_of_no_stem_is_refused(explored_here, tmp_path, monkeypatch, capsys):
    scene, _ = explored_here()
    np.save(tmp_path / "b.npy", np.zeros((30, 36), np.uint8))
    words = [*scene.command[:2], tmp_path / "b.npy", *scene.command[2:]]
    assert explored(monkeypatch, *words) is None
    assert "b.npy has the stem of a file of" in capsys.readouterr().err


def test_a_port_that_cannot_be_used_is_refused():
    pytest.importorskip("torch")
    from densecrf_rnn.explore import serving

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for number, said in ((port, f"--port {port}: .*; give another port"), (70000, "to 65535")):
            with pytest.raises(ValueError, match=said):
                serving.serve({}, SETTINGS, port=number, browser=False, threads=1, folder=Path())


def test_settings_of_parameters_and_back_are_the_same():
    params = CRFParams(theta_alpha=12.5, w_spatial=2.0, quality="filled", normalization="before")
    found = settings.Settings.of(params, 7)
    assert found.params() == params and found.iterations == 7
    with pytest.raises(ValueError, match="its slider sets one for all"):
        settings.Settings.of(replace(params, theta_alpha=(12.5, 3)), 7)


@pytest.mark.parametrize("name", settings.SLIDERS)
def test_a_slider_stands_at_its_ends_for_values_beyond(name):
    slider = settings.SLIDERS[name]
    low, high = (0, controls._STEPS) if slider.logarithmic else (slider.low, slider.high)
    for value, at in ((slider.low / 10 - 1, low), (slider.low, low), (slider.high, high),
                      (10 * slider.high, high)):  # fmt: skip
        assert controls.position(slider, value) == pytest.approx(at)
    assert low < controls.position(slider, 0.5 * (slider.low + slider.high)) < high


@pytest.mark.parametrize("name, text, said", [
    ("theta_alpha", "three", "theta_alpha is 'three'; give a number"),
    ("theta_alpha", "", "theta_alpha is ''; give a number"),
    ("theta_beta", "0", "theta_beta is 0; a bandwidth must be positive"),
    ("theta_gamma", "1e10", "theta_gamma is 1e[+]10; it must lie in"),
    ("w_bilateral", "nan", "w_bilateral is nan; it must be finite"),
    ("w_spatial", "-inf", "w_spatial is -inf; it must be finite"),
    ("iterations", "-1", "iterations is -1; it must be at least 0"),
    ("iterations", "2.5", "iterations is 2.5; it must be an integer"),
    ("iterations", "inf", "iterations is inf; it must be an integer"),
    ("iterations", "1001", "the page runs at most 1000"),
    ("temperature", "-1", "temperature is -1; it must be positive"),
])  # fmt: skip
def test_a_number_that_refine_would_not_take_is_refused_in_one_sentence(name, text, said):
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        SETTINGS.with_value(name, settings.number(name, text))
    assert "\n" not in str(raised.value)


# --- lattices that are kept ----------------------------------------------------------------------


def test_labels_and_entropy_with_kept_lattices_are_bit_identical():
    changes = [{}, {"w_spatial": 0.1}, {"w_bilateral": 7.0}, {"iterations": 9},
               {"temperature": 0.4}, {"theta_gamma": 1.1}, {"theta_alpha": 12.0}, {},
               {"theta_beta": 3.0}, {"quality": "filled"}, {"theta_beta": 4.0}, {}]  # fmt: skip
    for spatial in ("lattice", "grid"):
        start = replace(SETTINGS, others=replace(SETTINGS.others, spatial=spatial))
        kept = replace(small(), mask=mask_of(small()) > 0, spacing=(2.0, 1.0))
        for change in changes:
            of = replace(start, **change)
            for compute in (settings.entropy, lambda *given: settings.view(*given).after):
                new = replace(kept)
                np.testing.assert_array_equal(compute(kept, of), compute(new, of))
            assert 0 < len(kept.lattices) <= settings._KEPT


def test_lattices_are_built_once_while_bandwidths_stay(monkeypatch):
    scene = small()
    settings.view(scene, SETTINGS)
    monkeypatch.setattr(build, "_plans", lambda *args: pytest.fail("a lattice was built"))
    for change in ({"w_spatial": 9.0}, {"iterations": 1}, {"temperature": 3.0}):
        settings.view(scene, replace(SETTINGS, **change))
        settings.entropy(scene, replace(SETTINGS, **change))


def test_another_image_has_lattices_of_its_own():
    scene = small()
    settings.view(scene, SETTINGS)
    other = replace(scene, image=255 - np.roll(scene.image, 7, axis=1))
    assert other.lattices == {}
    fresh = Scene("b", other.image, scene.logits, None, other.image)
    np.testing.assert_array_equal(
        settings.view(other, SETTINGS).after, settings.view(fresh, SETTINGS).after
    )


# --- files that are written ----------------------------------------------------------------------


def test_saving_never_replaces_a_file(tmp_path):
    (tmp_path / "made.npy").write_bytes(b"somebody's")
    for name in ("made_2", "made_3"):
        scene = scenes.saved(small(), tmp_path)
        assert scene.command[0] == str(tmp_path / f"{name}.npy")
    assert (tmp_path / "made.npy").read_bytes() == b"somebody's"


# --- what is shown -------------------------------------------------------------------------------


def test_scores_name_the_truth_or_the_changes():
    scene = small()
    found = settings.view(scene, SETTINGS)
    assert re.fullmatch(
        r"mean IU [\d.]+ → [\d.]+; accuracy [\d.]+ → [\d.]+ \(percent\); "
        r"[\d.]+ % of the pixels changed", found.scores,
    )  # fmt: skip
    assert settings.view(small(truth=False), SETTINGS).scores.startswith(
        f"{100 * (scene.before != found.after).mean():.1f} % of"
    )


def test_entropy_is_0_where_certain_and_1_where_labels_are_equal():
    scene = small(truth=False)
    scene.logits[:] = 0
    scene.logits[0, :, :18] = 500
    found = settings.entropy(scene, settings.Settings(w_bilateral=0, w_spatial=0))
    np.testing.assert_allclose(found[:, :18], 0, atol=1e-6)
    np.testing.assert_allclose(found[:, 18:], 1, atol=1e-6)
    drawn = pictures.entropy(found).sum(-1)
    assert np.all(drawn[:, 18:] > drawn[:, :18])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_labels_of_any_integers_are_drawn(dtype):
    image = np.full((3, 4, 3), 90, np.uint8)
    found = np.arange(12).reshape(3, 4).astype(dtype) + (250 if dtype == np.int64 else 0)
    assert pictures.labels(image, found.astype(dtype)).shape == image.shape


def test_the_difference_is_green_where_right_now_and_red_where_right_before():
    image = np.zeros((1, 4, 3), np.uint8)
    before, after = np.array([[0, 1, 2, 1]]), np.array([[1, 0, 1, 1]])
    truth = np.array([[1, 1, samples.IGNORE, 1]])
    drawn = pictures.difference(image, before, after, truth)[0].astype(int)
    assert drawn[0].argmax() == 1 and drawn[1].argmax() == 0  # green, red
    assert drawn[2, 2] < 60 < drawn[2, 0] and np.ptp(drawn[3]) == 0  # amber, grey


def test_one_foreground_is_shown_as_two_labels():
    scene = replace(small(truth=False), logits=small().logits[:1])
    found = settings.view(scene, SETTINGS)
    assert set(np.unique(found.after)) <= {0, 1}
    np.testing.assert_array_equal(scene.before, scene.logits[0] > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_image_can_be_displayed(dtype, channels):
    image = (np.arange(20 * channels).reshape(4, 5, channels) * 3).astype(dtype)
    found = scenes.displayable(image)
    assert found.shape == (4, 5, 3) and found.dtype == np.uint8 and np.ptp(found) > 0


def test_a_volume_and_a_truth_of_another_size_are_refused():
    scene = small()
    with pytest.raises(ValueError, match="one slice"):
        scenes.checked(replace(scene, logits=scene.logits[:, None]))
    with pytest.raises(ValueError, match="the same image"):
        scenes.checked(replace(scene, truth=scene.truth[1:]))


# --- scribbles -----------------------------------------------------------------------------------


@needs_pictures
def test_strokes_in_two_regions_segment_both():
    image = np.full((40, 60, 3), 50, np.uint8)
    image[:, 30:] = 200
    strokes = [scribbles.Stroke(0, 4, ((5.0, 5.0), (5.0, 30.0))),
               scribbles.Stroke(1, 4, ((50.0, 5.0),))]  # fmt: skip
    scene = scribbles.scene("s", image, strokes, 2)
    of = settings.Settings(theta_alpha=60, theta_beta=10, w_bilateral=10, iterations=10)
    truth = np.arange(60)[None] >= 30
    assert np.mean(settings.view(scene, of).after == truth) > 0.99


@needs_pictures
def test_later_strokes_lie_above_and_the_rest_is_unknown():
    strokes = [scribbles.Stroke(1, 6, ((0.0, 10.0), (19.0, 10.0))),
               scribbles.Stroke(2, 2, ((10.0, 10.0),))]  # fmt: skip
    found = scribbles.drawn(strokes, (20, 20))
    assert found[10, 10] == 2 and found[10, 2] == 1 and found[0, 0] == scribbles.UNKNOWN


# --- the command ---------------------------------------------------------------------------------


def test_explore_without_its_extra_names_it(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nicegui" else found(name)
    )
    assert main(["explore"]) == 2
    assert "pip install 'densecrf-rnn[explore]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--labels-last"], ["--port", "1"], ["--temperature", "1"]])
def test_sliders_begin_where_the_help_says(words):
    parser = argparse.ArgumentParser()
    explore.add_arguments(parser)
    args = parser.parse_args(words, argparse.Namespace(parser=parser))
    start = explore._start(args)
    text = " ".join(parser.format_help().split())
    assert f"updates (default: {start.iterations})" in text
    for name in ("theta_alpha", "theta_beta", "theta_gamma", "w_bilateral", "w_spatial"):
        own = text[text.rindex(f"--{name.replace('_', '-')} X") :]
        assert own[own.index("(default: ") :].startswith(f"(default: {getattr(start, name):g})")
    assert "--prune" not in text and "--compatibility" not in text


def test_parameters_with_a_compatibility_are_refused(tmp_path):
    path = tmp_path / "params.json"
    files.write_settings(path, files.Settings(CRFParams(), 5, np.eye(2)))
    parser = argparse.ArgumentParser()
    explore.add_arguments(parser)
    args = parser.parse_args(["--params", str(path)], argparse.Namespace(parser=parser))
    with pytest.raises(cli.UserError, match="a compatibility, which the page has no slider for"):
        explore._start(args)
