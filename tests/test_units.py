"""An image in other units than theta_beta is noticed on every path; what the warning says helps."""

import copy
import pickle
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import picture

from densecrf_rnn import CRFParams, files, mean_field, refine, refine_tiled
from densecrf_rnn.checks import image_units, units
from densecrf_rnn.energy import free_energy

PICTURE = picture(60, 70)  # 0..255 with some noise: [H, W, C] float64
LOGITS = np.random.default_rng(0).normal(size=(2, 60, 70)).astype(np.float32)
LOGITS[1] += np.where(np.arange(70) < 35, -2, 2)  # of noise alone a label may vanish
DEFAULTS = (3.0, 5.0)  # of the layer and of the command


def standardised(image):
    return (image - image.mean((0, 1))) / image.std((0, 1))


# Images in other units than 0..255, and what the warning says of them at the default theta_beta.
WRONG = {
    "0..1": (PICTURE / 255, "no edges.*image \\* 255"),
    "0..1 in float16": ((PICTURE / 255).astype(np.float16), "no edges.*image \\* 255"),
    "-1..1": (PICTURE / 127.5 - 1, r"no edges.*\(image \+ 1\) \* 127.5"),
    "standardised": (standardised(PICTURE), "no edges.*'percentile'"),
    "standardised for ImageNet": ((PICTURE / 255 - 0.45) / 0.225, "no edges.*'percentile'"),
    "grey, z-scored": (standardised(PICTURE.mean(-1, keepdims=True)), "no edges"),
    "bytes that hold 0 and 1": ((PICTURE > 150).astype(np.uint8), "no edges.*image \\* 255"),
    "16 bits": ((PICTURE * 257).astype(np.uint16), "noise"),
    "12 bits": ((PICTURE * 16).astype(np.int16), "noise"),
    "10,000 times as large": (PICTURE * 1e4, "noise"),
}
# Images that suit theta_beta = 5, whatever they look like.
RIGHT = {
    "8 bits": PICTURE.astype(np.uint8),
    "floats in 0..255": PICTURE,
    "dark": (PICTURE / 20).astype(np.uint8),
    "a ramp": np.linspace(0, 255, 4200).reshape(60, 70, 1),
    "two flat areas": np.where(PICTURE[..., :1] > 110, 200, 20).astype(np.uint8),
    "constant": np.full((60, 70, 3), 0.5),
    "black": np.zeros((60, 70, 1), np.uint8),
    "random bytes": np.random.default_rng(1).integers(0, 256, (60, 70, 3)).astype(np.uint8),
    "a channel in other units": np.dstack([PICTURE, PICTURE[..., :1] / 255]),
    "millimetres": np.clip(np.linspace(0, 4000, 4200).reshape(60, 70, 1) % 500, 0, 400),
}


def warned(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in found]


def sized(image):
    return np.zeros((2, *image.shape[:2]), np.float32)


def crf(theta_beta):
    return CRFParams(theta_alpha=3, theta_beta=theta_beta)


@pytest.mark.parametrize("theta_beta", DEFAULTS)
@pytest.mark.parametrize("name", WRONG)
def test_other_units_are_noticed_and_the_figure_given_helps(name, theta_beta):
    image, words = WRONG[name]
    (text,) = warned(lambda: refine(LOGITS, image, crf(theta_beta), iterations=0))
    assert re.search(words, text)
    suitable = eval(re.search(r"give theta_beta=([\d.e+-]+|\(.*?\)), in", text)[1])
    assert warned(lambda: refine(LOGITS, image, crf(suitable), iterations=0)) == []
    for remedy in re.findall(r"or pass (.*)", text):
        pictured = eval(remedy, {"files": files, "image": image})
        assert warned(lambda: refine(LOGITS, pictured, crf(theta_beta), iterations=0)) == []


@pytest.mark.parametrize("theta_beta", [*DEFAULTS, (2.0, 5.0, 9.0)])
@pytest.mark.parametrize("factor", [1e-9, 1e-20, 1e11, 1e25])
def test_an_image_in_whose_units_no_theta_beta_is_accepted_can_be_rescaled(factor, theta_beta):
    image = PICTURE * factor
    (text,) = warned(lambda: refine(LOGITS, image, crf(theta_beta), iterations=0))
    assert "give theta_beta" not in text and "outside of 1e-06..1e+09" in text
    for remedy in re.search("; pass (.*?) or (.*), because", text).groups():
        rescaled = eval(remedy, {"files": files, "image": image})
        assert warned(lambda: refine(LOGITS, rescaled, crf(theta_beta), iterations=0)) == []


def test_the_channel_in_the_largest_units_decides_whether_theta_beta_is_accepted():
    image = PICTURE * [1e-3, 1e-3, 1e-12]
    (text,) = warned(lambda: refine(LOGITS, image, crf(5.0), iterations=0))
    suitable = eval(re.search(r"give theta_beta=(\(.*?\)), in", text)[1])
    assert warned(lambda: refine(LOGITS, image, crf(suitable), iterations=0)) == []


@pytest.mark.parametrize("name", RIGHT)
def test_images_in_the_units_of_theta_beta_are_not_warned_about(name):
    image = RIGHT[name]
    assert warned(lambda: refine(LOGITS, image, crf(5.0), iterations=0)) == []


PATHS = {
    "mean_field": lambda image, p: mean_field(sized(image), image, p, iterations=1),
    "refine": lambda image, p: refine(sized(image), image, p, iterations=1),
    "refine_tiled": lambda image, p: refine_tiled(sized(image), image, p, tile=20, iterations=1),
    "free_energy": lambda image, p: free_energy(sized(image), sized(image), image, p),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_warns_once_and_only_with_cause(path):
    for name in ("standardised", "16 bits"):
        (text,) = warned(lambda: PATHS[path](WRONG[name][0], crf(5.0)))
        assert re.search(WRONG[name][1].split(".*")[0], text)
    assert warned(lambda: PATHS[path](RIGHT["8 bits"], crf(5.0))) == []
    off = CRFParams(theta_alpha=3, w_bilateral=0)
    assert warned(lambda: PATHS[path](WRONG["0..1"][0], off)) == []


@given(
    unit=st.floats(-6, 6).map(lambda power: 10.0**power),
    offset=st.floats(-3, 3),
    channels=st.integers(1, 4),
    fraction=st.sampled_from([2e-4, 0.02, 0.1, 60.0]),
)
def test_units_do_not_matter_but_their_relation_to_theta_beta(unit, offset, channels, fraction):
    """An image of any unit and offset is judged as its span in theta_beta says."""
    image = (picture(50, 60, channels) / 255 + offset) * unit
    theta = float(np.clip(fraction * unit, 1e-6, 1e4))
    texts = warned(lambda: image_units(image, theta))
    span = 0.5 * unit / theta
    if span < 0.3 or span > 2000:
        assert len(texts) == 1 and ("edges" if span < 1 else "noise") in texts[0]
    if 6 < span < 80:
        assert texts == []


def test_only_pixels_inside_the_mask_are_judged():
    image = PICTURE / 255
    mask = np.zeros((60, 70), bool)
    mask[20:40, 10:50] = True
    image[~mask] *= 255
    assert len(warned(lambda: refine(LOGITS, image, crf(5.0), mask=mask, iterations=0))) == 1
    image = np.where(mask[..., None], PICTURE, np.nan)
    assert warned(lambda: refine(LOGITS, image, crf(5.0), mask=mask, iterations=1)) == []


def test_an_image_that_is_hidden_whole_or_almost_is_not_judged():
    mask = np.zeros((60, 70), bool)
    for _ in range(2):
        call = {"mask": mask.copy(), "iterations": 0}
        assert warned(lambda: refine(LOGITS, PICTURE / 255, crf(5.0), **call)) == []
        mask[7, 9] = True


def test_an_image_is_blank_only_if_all_its_channels_are():
    depth = PICTURE[..., :1] / 255
    image = np.dstack([PICTURE, depth])
    assert warned(lambda: refine(LOGITS, image, crf((5, 5, 5, 5)), iterations=0)) == []
    image = np.dstack([PICTURE[..., :1] / 255, 100 * depth])
    (text,) = warned(lambda: refine(LOGITS, image, crf((5, 500)), iterations=0))
    assert "no edges" in text and re.search(r"theta_beta=\(0\.\d+, \d", text)


def test_a_bandwidth_beyond_16_bits_is_meant_to_hide_the_image():
    assert warned(lambda: refine(LOGITS, PICTURE, crf(1e9), iterations=0)) == []


def test_volumes_and_their_constant_ground_are_judged():
    volume = np.zeros((12, 40, 40, 1))
    rng = np.random.default_rng(0)
    volume[:, 10:32, 8:34] = 600 + 400 * np.sin(np.arange(26) / 4)[:, None]
    volume[:, 10:32, 8:34] += rng.normal(0, 60, (12, 22, 26, 1))
    logits = np.zeros((2, 12, 40, 40), np.float32)
    for function in (refine, refine_tiled):
        (text,) = warned(lambda: function(logits, volume, crf(2.0), iterations=0))
        assert "noise" in text
        assert warned(lambda: function(logits, volume, crf(40.0), iterations=0)) == []


# --- torch ---------------------------------------------------------------------------------------


@pytest.fixture
def tensors():
    torch = pytest.importorskip("torch")
    logits = torch.from_numpy(LOGITS)[None]
    image = torch.from_numpy(PICTURE.astype(np.float32)).movedim(-1, 0)[None]
    return torch, logits, image


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_a_layer_warns_in_its_first_call_per_dtype_and_device(tensors, method):
    torch, logits, image = tensors
    from densecrf_rnn import CRFRNN

    logits, image = logits[..., :20, :20], image[..., 15:35, 15:35]
    layer = CRFRNN(2, iterations=1, method=method).train()
    assert len(warned(lambda: layer(logits, image / 255))) == 1
    assert warned(lambda: layer(logits, image / 127.5 - 1)) == []
    assert len(warned(lambda: layer(logits, (image / 255).bfloat16()))) == 1
    assert list(layer.state_dict()) == ["kernel_weights", "compatibility", "_extra_state"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert warned(lambda other=other: other(logits, image / 255)) == []
    right = CRFRNN(2, iterations=1, method=method)
    assert warned(lambda: right(logits, image)) == []
    assert warned(lambda: right(logits, image / 255)) == []  # only the first call is judged


def test_a_trial_run_on_zeros_does_not_use_up_the_first_call(tensors):
    torch, logits, image = tensors
    from densecrf_rnn import CRFRNN

    layer = CRFRNN(2, iterations=1)
    assert warned(lambda: layer(logits, torch.zeros_like(image))) == []
    assert len(warned(lambda: layer(logits, image / 255))) == 1


def test_wrap_warns_of_a_scale_that_does_not_suit(tensors):
    torch, logits, image = tensors
    from densecrf_rnn import CRFRNN

    def model(**options):
        return CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, iterations=1, **options)

    assert warned(lambda: model()(image / 255)) == []
    assert warned(lambda: model(mean=0.45, std=0.225)((image / 255 - 0.45) / 0.225)) == []
    (text,) = warned(lambda: model(scale=1)((image / 255 - 0.45) / 0.225))
    assert "CRFRNN.wrap: mean, std" in text
    first, second = warned(lambda: model()(image))
    assert "far outside of 0..255" in first and "pass scale=1" in first and "noise" in second


def test_nothing_is_read_or_said_while_a_layer_is_compiled(tensors):
    torch, logits, image = tensors
    from densecrf_rnn import CRFRNN

    torch._dynamo.reset()
    layer = torch.compile(CRFRNN(2, iterations=1), fullgraph=True, backend="eager")
    said = warned(lambda: layer(logits, image / 255))
    assert not [text for text in said if "theta_beta" in text]


def test_the_function_warns_of_cpu_tensors_unless_told_not_to(tensors):
    torch, logits, image = tensors
    from densecrf_rnn.nn import functional

    for _ in range(2):
        assert len(warned(lambda: functional.mean_field(logits, image / 255))) == 1
    assert warned(lambda: functional.mean_field(logits, image / 255, warn=False)) == []
    assert warned(lambda: functional.mean_field(logits, image)) == []
    mask = torch.zeros(1, 60, 70, dtype=torch.bool)
    mask[:, 20:40, 10:50] = True
    mixed = torch.where(mask[:, None], image / 255, image)
    assert len(warned(lambda: functional.mean_field(logits, mixed, mask=mask))) == 1
    grad = torch.func.grad(lambda u: functional.mean_field(u, image).sum())
    assert warned(lambda: grad(logits)) == []


# --- normalized ----------------------------------------------------------------------------------


@given(
    scale=st.floats(-5, 5).map(lambda power: 10.0**power),
    offset=st.floats(-10, 10),
    dtype=st.sampled_from([np.float32, np.float64, np.uint16, np.int32]),
    how=st.sampled_from(files.NORMALIZE),
)
def test_normalized_images_do_not_depend_on_the_units_they_came_in(scale, offset, dtype, how):
    if np.dtype(dtype).kind != "f":
        scale, offset = max(1.0, min(scale, 200.0)), max(0.0, offset)
    image = ((PICTURE[:20, :30] + offset) * scale).astype(dtype)
    want = files.normalized(PICTURE[:20, :30], how)
    found = files.normalized(image, how)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=(255 if how == "percentile" else 4) * 0.02)


def test_percentiles_are_those_of_each_channel_inside_the_mask():
    image = PICTURE.copy()
    mask = np.random.default_rng(0).random((60, 70)) < 0.7
    image[~mask] = np.where(np.arange(3) == 1, np.nan, 1e9)
    image[mask.nonzero()[0][0], mask.nonzero()[1][0]] = np.nan
    found = files.normalized(image, mask=mask)
    for channel in range(3):
        values = image[..., channel][mask]
        low, high = np.percentile(values[np.isfinite(values)], [0.5, 99.5])
        want = np.clip((values - low) / (high - low) * 255, 0, 255)
        np.testing.assert_allclose(found[..., channel][mask], want, atol=1e-3)
    z = files.normalized(image, "zscore", mask=mask)[mask]
    np.testing.assert_allclose(np.nanmean(z, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(z, 0), 1, atol=1e-5)


def test_a_dark_ground_leaves_something_of_the_rest():
    image = np.zeros((50, 50, 1), np.uint16)
    image[20:22, 20:22] = 900
    assert files.normalized(image)[20, 20, 0] == 255
    assert files.normalized(np.full((5, 6, 2), 7)).max() == 0
    assert files.normalized(image, "zscore").std() == pytest.approx(1)


@pytest.mark.parametrize("wrong, error, message", [
    ({"how": "minmax"}, ValueError, "normalize is 'minmax'; choose from 'percentile', 'zscore'"),
    ({"mask": np.ones((3, 4), bool)}, ValueError, "mask"),
    ({"image": np.zeros((3, 4))}, ValueError, r"must be \[H, W, C\]"),
    ({"image": np.zeros((3, 4, 1), complex)}, ValueError, "integer or floating point"),
])
def test_normalized_refuses(wrong, error, message):
    with pytest.raises(error, match=message):
        files.normalized(**{"image": PICTURE, **wrong})


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, capsys):
    pytest.importorskip("tqdm")
    from densecrf_rnn.cli import main

    def run(image, *options, stems="ab", name="refine"):
        for kind, array in (("logits", LOGITS), ("images", image), ("truth", LOGITS.argmax(0))):
            (tmp_path / kind).mkdir(exist_ok=True)
            for stem in stems:
                np.save(tmp_path / kind / f"{stem}.npy", array)
        folders = [str(tmp_path / kind) for kind in ("logits", "images")]
        out = ["--out", str(tmp_path / "out")]
        if name == "tune":
            folders.append(str(tmp_path / "truth"))
            out = ["--out", str(tmp_path / "found.json")]
        assert main([name, *folders, *out, *options]) == 0
        return capsys.readouterr()

    run.folder = tmp_path
    return run


@pytest.mark.parametrize("tile", [[], ["--tile", "32"]])
def test_the_command_says_how_to_rescale_what_no_theta_beta_suits(command, tile):
    text = command(PICTURE * 1e-9, *tile, "--iterations", "1").err
    factor = float(re.search(r"; save the image times ([\d.e+]+),", text)[1])
    assert ("--normalize percentile" in text) == (not tile)
    assert "warning" not in command(PICTURE * 1e-9 * factor, *tile, "--iterations", "1").err


@pytest.mark.parametrize("tile", [[], ["--tile", "32"]])
@pytest.mark.parametrize("name", ["0..1", "standardised", "bytes that hold 0 and 1", "16 bits"])
def test_the_command_warns_once_and_its_advice_works(command, name, tile):
    image = WRONG[name][0]
    text = command(image, *tile, "--iterations", "1").err
    assert len(re.findall(r"refine: warning: [ab]: ", text)) == 1
    assert "the same warning: 1 more file:" in text
    suitable = re.search(r"give --theta-beta (\S+), in the units of the image", text)[1]
    assert "theta-beta" not in command(image, *tile, "--theta-beta", suitable).err
    if "--normalize percentile" in text:
        assert not tile
        assert "warning" not in command(image, "--normalize", "percentile").err


def test_the_command_normalizes_each_file_and_records_it(command):
    image = PICTURE * 37 + 1000
    options = ["--write", "marginals", "--dtype", "float32", "--normalize"]
    command(image, *options, "percentile", stems="a")
    found = np.load(command.folder / "out" / "a.npz")["marginals"]
    params = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)
    np.testing.assert_array_equal(
        found, refine(LOGITS, files.normalized(image), params, iterations=10)
    )
    assert "--normalize was \"percentile\", is \"zscore\"" in command(
        image, *options, "zscore", stems="a"
    ).out


def test_normalize_is_refused_in_tiles(command, capsys):
    with pytest.raises(AssertionError):
        command(PICTURE, "--normalize", "zscore", "--tile", "32")
    assert "--normalize needs whole files" in capsys.readouterr().err


@pytest.mark.parametrize("name, factor", [("0..1", 1), ("16 bits", 1)])
def test_tune_compares_its_range_with_the_images(command, name, factor):
    pytest.importorskip("optuna")
    image = WRONG[name][0]
    options = ["--trials", "2", "--iterations", "1"]
    text = command(image, *options, name="tune").err
    found = re.findall(r"give --theta-beta (\S+),([\d.e+-]+), or add --normalize", text)
    assert len(found) == 1
    assert "give --theta-beta" not in command(
        image, *options, "--theta-beta", ",".join(found[0]), name="tune"
    ).err
    for right in (["--normalize", "percentile"], ["--normalize", "zscore", "--theta-beta", "0.1"]):
        assert "theta-beta" not in command(image, *options, *right, name="tune").err


@pytest.mark.parametrize("size", [(90, 110), (12, 30, 29)])
def test_an_image_without_a_pixel_inside_the_mask_is_not_judged(size):
    logits = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    image = np.zeros((*size, 3), np.float32)
    image[0] = 1e-3
    mask = np.zeros(size, bool)
    assert units.units(image, 3.0, mask=mask) is None
    refine(logits, image, mask=mask, iterations=1)
