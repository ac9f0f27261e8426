"""What scores are: logits or probabilities, as one says; what is taken for the other is noticed."""

import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst

from densecrf_rnn import checks, CRFParams, files, mean_field, refine, refine_tiled, unaries
from densecrf_rnn.upsampling import upsample

PARAMS = CRFParams(theta_alpha=4, theta_beta=20, theta_gamma=1, w_bilateral=5, w_spatial=2)
SIZE = (9, 10)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (*SIZE, 3), np.uint8)
LOGITS = RNG.normal(size=(3, *SIZE)).astype(np.float32)


def softmax(logits):
    p = np.exp(logits - logits.max(0))
    return p / p.sum(0)


P = softmax(LOGITS)
SIGMOIDS = (1 / (1 + np.exp(-LOGITS))).astype(np.float32)
MASK = (LOGITS[:1] > 0).astype(np.float32)

# Maps in 0..1 that are taken for logits, and what is said of them.
SUSPICIOUS = {
    "a softmax": (P, "sum to 1 over the labels, as probabilities do; if they are, pass .*log"),
    "a sigmoid": (SIGMOIDS[:1], "as the probabilities of a sigmoid do, .* their logit"),
    "a mask": (MASK, "as the probabilities of a sigmoid do, .* their logit"),
    "masks": (np.concatenate([1 - MASK, MASK]), "sum to 1 over the labels, as probabilities do"),
    "sigmoids": (SIGMOIDS, "do not sum to 1 .* as sigmoids that overlap do; .* multilabel=True"),
    "masks that overlap": ((LOGITS > 0).astype(np.float32), "as sigmoids that overlap do"),
    "in half precision": (P.astype(np.float16).astype(np.float32), "as probabilities do"),
}
# Logits that are no probabilities, or that cannot be told from logits of no information.
LOGITS_INDEED = {
    "normal": LOGITS,
    "one normal": LOGITS[:1],
    "rectified": np.maximum(3 * LOGITS, 0),
    "log-probabilities": np.log(P),
    "zeros": np.zeros_like(LOGITS),
    "constants": np.full_like(LOGITS, 0.5),
    "of a label map": unaries.logits_from_labels(LOGITS.argmax(0), 3),
    "with labels ruled out": np.where((LOGITS > 1) & (LOGITS < LOGITS.max(0)), -np.inf, P),
}


# --- maps in 0..1 where logits are wanted --------------------------------------------------------


@pytest.mark.parametrize("function", [mean_field, refine, refine_tiled])
@pytest.mark.parametrize("case", SUSPICIOUS)
def test_logits_in_0_to_1_are_noticed_once_and_told_apart(function, case):
    maps, words = SUSPICIOUS[case]
    with pytest.warns(UserWarning, match=f"logits lie in 0..1.*{words}") as found:
        function(maps, IMAGE, PARAMS)
    assert len(found) == 1 and found[0].filename == __file__


@pytest.mark.parametrize("function", [mean_field, refine, refine_tiled])
@pytest.mark.parametrize("case", LOGITS_INDEED)
def test_logits_are_not_taken_for_probabilities(function, case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(LOGITS_INDEED[case], IMAGE, PARAMS)


@pytest.mark.parametrize("case", ["a softmax", "a sigmoid", "masks"])
def test_what_is_noticed_is_cured_by_the_kind(case):
    maps = SUSPICIOUS[case][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(maps, IMAGE, PARAMS, kind="probabilities")
        refine_tiled(maps, IMAGE, PARAMS, kind="probabilities")


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_faint_sigmoid_is_not_taken_for_its_probabilities_once_it_is_a_logit(multilabel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(0.5 + SIGMOIDS[:1] / 5, IMAGE, PARAMS, kind="probabilities", multilabel=multilabel)


def test_only_the_pixels_of_a_mask_are_looked_at():
    mask = np.arange(SIZE[1]) < 6 + np.zeros(SIZE, int)
    outside = np.where(mask, P, -9999).astype(np.float32)
    with pytest.warns(UserWarning, match="as probabilities do"):
        refine(outside, IMAGE, PARAMS, mask=mask)
    assert (outside[:, ~mask] == -9999).all()


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_the_layer_notices_probabilities_and_names_torch(case):
    torch = pytest.importorskip("torch")
    from densecrf_rnn import CRFRNN

    maps, _ = SUSPICIOUS[case]
    logits, image = torch.from_numpy(maps)[None], torch.from_numpy(IMAGE).movedim(-1, 0)[None]
    crf = CRFRNN(len(maps))
    with pytest.warns(UserWarning, match="logits lie in 0..1") as found:
        crf(logits, image)
    assert len(found) == 1 and found[0].filename == __file__
    said = str(found[0].message)
    assert "kind=" not in said and "np." not in said
    p = logits  # the name in the advice
    cure = said.rpartition(": ")[2] if len(maps) == 1 or "sum to 1 over the labels, as" in said \
        else "torch.logit(p.clamp(1e-5, 1 - 1e-5))"
    assert cure in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crf(eval(cure, {"torch": torch, "p": p}), image)


@pytest.mark.parametrize("last", ["Sigmoid", "Softmax"])
def test_a_backbone_that_ends_in_probabilities_is_noticed(last):
    torch = pytest.importorskip("torch")
    from densecrf_rnn import CRFRNN

    torch.manual_seed(0)  # a sigmoid of large logits may be 1 everywhere
    labels = 1 if last == "Sigmoid" else 3
    end = torch.nn.Sigmoid() if last == "Sigmoid" else torch.nn.Softmax(1)
    model = CRFRNN.wrap(torch.nn.Sequential(torch.nn.Conv2d(3, labels, 1), end), labels)
    image = 40 * torch.rand(2, 3, *SIZE) + 20
    with pytest.warns(UserWarning, match="logits lie in 0..1"):
        model(image)


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_no_value_is_read_while_a_graph_is_captured(monkeypatch, method):
    torch = pytest.importorskip("torch")
    from densecrf_rnn import CRFRNN
    from densecrf_rnn.nn.ops import check_values, dispatch

    crf = CRFRNN(3, method=method)
    p, image = torch.from_numpy(P)[None], torch.from_numpy(IMAGE).movedim(-1, 0)[None]
    with pytest.warns(UserWarning, match="logits lie in 0..1"):
        expected = crf(p, image)
    for where in (dispatch, check_values):
        monkeypatch.setattr(where, "capturing", lambda tensor: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(crf(p, image), expected)


def test_compiling_gives_no_warning():
    torch = pytest.importorskip("torch")
    from densecrf_rnn import CRFRNN

    crf = torch.compile(CRFRNN(3), backend="eager")
    p, image = torch.from_numpy(P)[None], torch.from_numpy(IMAGE).movedim(-1, 0)[None]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "logits lie")
        crf(p, image)


# --- probabilities that are said to be such ------------------------------------------------------


@settings(max_examples=20)
@given(npst.arrays(np.float32, (3, *SIZE), elements=st.floats(-8, 8, width=32)))
def test_probabilities_refine_as_their_logarithms(logits):
    p = softmax(logits)
    found = refine(p, IMAGE, PARAMS, kind="probabilities")
    np.testing.assert_array_equal(found, refine(np.log(np.maximum(p, 1e-5)), IMAGE, PARAMS))
    tiled = refine_tiled(p, IMAGE, PARAMS, kind="probabilities", tile=20)
    np.testing.assert_allclose(tiled, found, atol=1e-5)


@settings(max_examples=20)
@given(npst.arrays(np.float32, (1, *SIZE), elements=st.floats(-8, 8, width=32)))
def test_a_sigmoid_refines_as_its_logit(logit):
    p = 1 / (1 + np.exp(-logit.astype(np.float64)))
    found = refine(p, IMAGE, PARAMS, kind="probabilities")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant logit of 0 but one, for instance
        np.testing.assert_allclose(found, refine(logit, IMAGE, PARAMS), atol=1e-3)
    two = refine(np.concatenate([1 - p, p]), IMAGE, PARAMS, kind="probabilities")
    np.testing.assert_allclose(two[1:], found, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.uint8, ">u2"])
def test_probabilities_of_any_precision_are_one_distribution(dtype):
    dtype = np.dtype(dtype)
    most = 1 if dtype.kind == "f" else np.iinfo(dtype).max
    stored = (P * most if most == 1 else np.rint(P * most)).astype(dtype)
    expected = refine(P if most == 1 else stored / most, IMAGE, PARAMS, kind="probabilities")
    found = refine(stored, IMAGE, PARAMS, kind="probabilities")
    np.testing.assert_allclose(found, expected, atol=2e-3)
    tiled = refine_tiled(stored, IMAGE, PARAMS, kind="probabilities")
    np.testing.assert_allclose(tiled, found, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(2, 150), st.booleans(), st.integers(0, 99))
def test_eight_bits_of_a_distribution_still_sum_to_it(labels, truncated, seed):
    logits = 3 * np.random.default_rng(seed).normal(size=(labels, 20))
    p = 255 * softmax(logits)
    stored = (p if truncated else np.rint(p)).astype(np.uint8)
    unaries.logits_from_probabilities(stored)
    for dtype in (np.float16, np.float32):
        unaries.logits_from_probabilities((stored / 255).astype(dtype))


@pytest.mark.parametrize("labels", [150, 256, 1000])
def test_of_many_labels_too_the_sum_tells_what_is_no_distribution(labels):
    p = softmax(3 * np.random.default_rng(0).normal(size=(labels, 4, 5)))
    truncated = np.floor(255 * p) / np.float32(255)
    assert (truncated.sum(0) < 0.9).any()
    mask = truncated.sum(0) > 0
    unaries.logits_from_probabilities(truncated, mask=mask)
    for maps in (0.45 * p, np.zeros_like(p), np.where(mask & (np.arange(5) < 3), truncated, 0)):
        with pytest.raises(ValueError, match=r"sum to 0.* pass multilabel=True"):
            unaries.logits_from_probabilities(maps)
        unaries.logits_from_probabilities(maps, clip=True)


REFUSED = {
    "sigmoids": (SIGMOIDS, r"sum to 0\.\d+\.\.\d\.\d+ over the labels.*multilabel=True"),
    "a pixel without any": (np.where(np.arange(SIZE[1]) < 9, P, 0), r"sum to 0\.\.1 over"),
    "activation maps": (1.5 * P, r"holds 0\.\d+\.\.1\.\d+; they must lie in 0\.\.1"),
    "bicubic": (np.concatenate([P[:2] + 0.01, P[2:] - 0.02]), r"holds -0\.\d+\.\.\d"),
    "logits": (LOGITS, "holds -.*; logits need no conversion"),
    "NaN": (np.where(LOGITS > 2, np.nan, P), "holds NaN"),
    "infinity": (np.where(LOGITS > 2, np.inf, P), "holds infinity"),
    "int64": (P.astype(np.int64), "dtype int64; it must be floating point, uint8 or uint16"),
}


@pytest.mark.parametrize("function", [refine, refine_tiled])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_distribution_is_refused(function, case):
    maps, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=words):
        function(maps, IMAGE, PARAMS, kind="probabilities")


@pytest.mark.parametrize("case", ["sigmoids", "a pixel without any", "activation maps", "bicubic"])
def test_the_ways_out_lead_out(case):
    maps = REFUSED[case][0]
    logits = unaries.logits_from_probabilities(maps, clip=True)
    clipped = np.clip(maps, 0, 1)
    total = clipped.sum(0)
    share = np.where(total > 0, clipped / np.where(total > 0, total, 1), 1 / 3)
    np.testing.assert_allclose(softmax(logits), share, atol=3e-5)
    if case == "sigmoids":
        q = refine(maps, IMAGE, PARAMS, kind="probabilities", multilabel=True)
        one = refine(maps[1:2], IMAGE, PARAMS, kind="probabilities")
        np.testing.assert_allclose(q[1:2], one, atol=1e-6)


@pytest.mark.parametrize("function", [refine, refine_tiled])
def test_pixels_outside_a_mask_may_hold_anything(function):
    mask = np.arange(SIZE[1]) < 6 + np.zeros(SIZE, int)
    q = [
        function(np.where(mask, P, value), IMAGE, PARAMS, kind="probabilities", mask=mask)
        for value in (-9999, np.nan, 0)
    ]
    for other in q[1:]:
        np.testing.assert_array_equal(other[:, mask], q[0][:, mask])


@pytest.mark.parametrize("function", [refine, refine_tiled])
def test_another_kind_is_refused(function):
    with pytest.raises(ValueError, match="kind is 'scores'; choose from 'logits', 'probabilities'"):
        function(P, IMAGE, PARAMS, kind="scores")


def test_chunks_of_probabilities_are_refined_as_a_whole():
    da = pytest.importorskip("dask.array")
    from densecrf_rnn import refine_dask

    stored = np.rint(255 * P).astype(np.uint8)
    maps = da.from_array(stored, chunks=(3, 5, 5))
    image = da.from_array(IMAGE, chunks=(5, 5, 3))
    q = refine_dask(maps, image, PARAMS, kind="probabilities", halo="exact").compute()
    expected = refine(stored, IMAGE, PARAMS, kind="probabilities")
    np.testing.assert_allclose(q, expected, atol=1e-5)


def test_chunks_that_hold_probabilities_are_noticed_once():
    da = pytest.importorskip("dask.array")
    from densecrf_rnn import refine_dask

    maps, image = da.from_array(P, chunks=(3, 5, 5)), da.from_array(IMAGE, chunks=(5, 5, 3))
    with pytest.warns(UserWarning, match="as probabilities do") as found:
        refine_dask(maps, image, PARAMS).compute(scheduler="synchronous")
    assert len(found) == 1


@settings(max_examples=40)
@given(st.data())
def test_one_value_anywhere_tells_logits_from_maps_in_0_to_1(data):
    """Also where the corner that is read first says nothing."""
    shape = data.draw(st.sampled_from([(1, 1, 40, 41), (2, 3, 33, 5), (1, 2, 4, 35, 3)]))
    batched = data.draw(st.booleans())
    rest = data.draw(st.sampled_from([0, 0.5, 1]))
    maps = np.full(shape, rest, np.float32)
    maps = maps if batched else maps[0]
    place = tuple(data.draw(st.integers(0, n - 1)) for n in maps.shape)
    value = data.draw(st.sampled_from([-0.01, 0.25, 1.01]))
    maps[place] = value
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert checks.probabilities(maps, batched=batched)
    mask = value > 1 and rest == 0 and shape[1] == 1  # one map, nowhere negative
    assert len(found) == (value == 0.25 or mask)


# --- files ---------------------------------------------------------------------------------------


def run(folder, *options, logits="logits.npy"):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    from densecrf_rnn.cli import main

    np.save(folder / "image.npy", IMAGE)
    common = ["--theta-alpha", "4", "--theta-beta", "20", "--theta-gamma", "1", "--w-bilateral",
              "5", "--w-spatial", "2", "-o", str(folder / "out")]  # fmt: skip
    if "labels" not in options:
        common += ["--write", "marginals", "--dtype", "float32"]
    source = [str(folder / logits), str(folder / "image.npy")]
    return main(["refine", *source, *common, *options])


def written(folder, name="logits"):
    return np.load(folder / "out" / f"{name}.npz")["marginals"]


@pytest.fixture(autouse=True)
def no_limit(monkeypatch):
    pytest.importorskip("tqdm", reason="the commands need the extra cli")
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)


@pytest.mark.parametrize("case", SUSPICIOUS)
@pytest.mark.parametrize("tile", [[], ["--tile", "4"]])
def test_the_command_notices_probabilities(tmp_path, capsys, tile, case):
    np.save(tmp_path / "logits.npy", SUSPICIOUS[case][0])
    assert run(tmp_path, *tile) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "logits lie in 0..1" in line]
    assert len(said) == 1 and "add --kind" in said[0]


def test_coarse_probabilities_are_enlarged_as_probabilities(tmp_path):
    coarse = np.ascontiguousarray(P[:, ::2, ::2])
    np.save(tmp_path / "logits.npy", coarse)
    options = ["--upsample", "centers", "--iterations", "0"]
    assert run(tmp_path, "--kind", "probabilities", *options) == 0
    np.testing.assert_allclose(written(tmp_path), upsample(coarse, SIZE), atol=1e-5)
    np.save(tmp_path / "logits.npy", LOGITS[:, ::2, ::2])
    assert run(tmp_path, *options) == 0
    fine = upsample(np.ascontiguousarray(LOGITS[:, ::2, ::2]), SIZE)
    np.testing.assert_allclose(written(tmp_path), softmax(fine), atol=1e-5)


def test_the_temperature_divides_what_was_enlarged(tmp_path):
    coarse = np.ascontiguousarray(P[:, ::2, ::2])
    np.save(tmp_path / "logits.npy", coarse)
    options = ["--upsample", "corners", "--iterations", "0", "--temperature", "2"]
    assert run(tmp_path, "--kind", "probabilities", *options) == 0
    expected = softmax(np.log(upsample(coarse, SIZE, align_corners=True)) / 2)
    np.testing.assert_allclose(written(tmp_path), expected, atol=1e-5)


@pytest.mark.parametrize("tile", [[], ["--tile", "4", "--halo", "exact"]])
@pytest.mark.parametrize("case", ["sigmoids", "activation maps", "bicubic"])
def test_the_command_refuses_what_is_no_distribution_and_clips_it(tmp_path, capsys, case, tile):
    maps = REFUSED[case][0]
    np.save(tmp_path / "logits.npy", maps)
    options = ["--kind", "probabilities", "--iterations", "2", *tile]
    if tile:
        options += ["--write", "labels"]
    assert run(tmp_path, *options) == 1
    assert "with --clip" in capsys.readouterr().err
    assert run(tmp_path, *options, "--clip") == 0
    expected = refine(unaries.logits_from_probabilities(maps, clip=True), IMAGE, PARAMS,
                      iterations=2)  # fmt: skip
    if tile:
        found = np.load(tmp_path / "out" / "logits.npy")
        assert (found == expected.argmax(0)).mean() > 0.99
    else:
        np.testing.assert_allclose(written(tmp_path), expected, atol=1e-6)


def test_a_subset_of_the_labels_is_chosen_from_a_distribution(tmp_path):
    np.save(tmp_path / "logits.npy", P)
    assert run(tmp_path, "--kind", "probabilities", "--classes", "0,2", "--iterations", "0") == 0
    np.testing.assert_allclose(written(tmp_path), P[[0, 2]] / P[[0, 2]].sum(0), atol=1e-5)


def test_a_mask_excludes_what_is_no_probability(tmp_path):
    mask = np.arange(SIZE[1]) < 6 + np.zeros(SIZE, int)
    np.save(tmp_path / "logits.npy", np.where(mask, P, np.nan))
    np.save(tmp_path / "mask.npy", mask)
    for tile in ([], ["--tile", "4"]):
        options = ["--kind", "probabilities", "--mask", str(tmp_path / "mask.npy"), *tile]
        assert run(tmp_path, *options) == 0


def test_clip_belongs_to_probabilities(tmp_path, capsys):
    np.save(tmp_path / "logits.npy", LOGITS)
    assert run(tmp_path, "--clip") == 2
    assert "--clip changes probabilities; add --kind probabilities" in capsys.readouterr().err


def test_maps_are_read_as_they_are_stored(tmp_path):
    np.save(tmp_path / "p.npy", np.rint(255 * P).astype(np.uint8)[None])
    found = files.read_maps(tmp_path / "p.npy")
    assert found.dtype == np.uint8 and found.shape == P.shape


# --- values in other units -----------------------------------------------------------------------

SCALED = {
    "percentages": (100 * P, "sum to 100 over the labels"),
    "8-bit values as floats": (255 * P, "sum to 255 over the labels"),
    "percentages of a foreground": (100 * SIGMOIDS[:1] * (LOGITS[:1] > -1), "every pixel would"),
    "a mask of 0 and 255": (255 * MASK, r"lie in 0\.\.255, as masks .* every pixel would"),
    "a label map": (LOGITS.argmax(0)[None].astype(np.float32), "as masks and scaled"),
}


@pytest.mark.parametrize("function", [mean_field, refine, refine_tiled])
@pytest.mark.parametrize("case", SCALED)
def test_scaled_probabilities_and_masks_are_not_taken_for_logits_in_silence(function, case):
    maps, words = SCALED[case]
    with pytest.warns(UserWarning, match=words) as found:
        function(maps, IMAGE, PARAMS)
    assert len(found) == 1


def test_a_map_that_is_all_foreground_is_no_mask():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(abs(LOGITS[:1]) + 0.1, IMAGE, PARAMS)


@pytest.mark.parametrize("tile", [[], ["--tile", "8"]])
def test_a_temperature_does_not_hide_probabilities(tmp_path, capsys, tile):
    np.save(tmp_path / "logits.npy", P)
    assert run(tmp_path, "--temperature", "0.1", *tile) == 0
    assert capsys.readouterr().err.count("add --kind probabilities") == 1


@pytest.mark.parametrize("tile", [[], ["--tile", "8"]])
@pytest.mark.parametrize("scale", [100, 255])
def test_clipping_is_no_division(tmp_path, capsys, scale, tile):
    np.save(tmp_path / "logits.npy", scale * P)
    options = ["--kind", "probabilities", *tile]
    assert run(tmp_path, *options) == 1
    found = capsys.readouterr().err
    assert "8-bit values by 255" in found and "--clip" not in found
    assert run(tmp_path, *options, "--clip") == 0
    assert capsys.readouterr().err.count("cuts off more than an overshoot") == 1


# Integer maps of a foreground, and what stands for the probability 1 in them; None: the maximum.
_BLURRED = SIGMOIDS[:1] / SIGMOIDS[:1].max()
INTEGER_SCALES = {
    "percentages": ((97 * _BLURRED).astype(np.uint8), 100),
    "12 bits": ((4000 * _BLURRED).astype(np.uint16), 4095),
    "8 bits in 16": ((255 * _BLURRED).astype(np.uint16), 255),
    "a mask of 0 and 1": (MASK.astype(np.uint8), 1),
    "a mask of 0 and 7": (7 * MASK.astype(np.uint8), 7),
    "8 bits": ((255 * _BLURRED).astype(np.uint8), None),
    "a network that is unsure": ((60 * _BLURRED).astype(np.uint8), None),
    "nothing": (np.zeros_like(MASK, np.uint8), None),
}


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("case", INTEGER_SCALES)
def test_integers_of_another_scale_are_noticed_in_python(case, multilabel):
    maps, scale = INTEGER_SCALES[case]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        refine(maps, IMAGE, PARAMS, kind="probabilities", multilabel=multilabel)
    words = [f"if {scale} stands for 1 here, divide them by {scale} as"] * (scale is not None)
    assert len(found) == len(words)
    for one, word in zip(found, words, strict=True):
        assert word in str(one.message) and one.filename == __file__


@pytest.mark.parametrize("tile", [[], ["--tile", "4"]])
@pytest.mark.parametrize("case", INTEGER_SCALES)
def test_integers_of_another_scale_are_noticed_once_per_file(tmp_path, capsys, case, tile):
    """A tile that is dark is not judged by itself; the way out is followed without a warning."""
    maps, scale = INTEGER_SCALES[case]
    np.save(tmp_path / "logits.npy", maps)
    options = ["--kind", "probabilities", *tile]
    assert run(tmp_path, *options) == 0
    said = capsys.readouterr().err
    assert said.count("warning") == (scale is not None)
    if scale is not None:
        way_out = "" if scale == 1 else f"divided by {scale} "
        assert f"if {scale} stands for 1 here, save them {way_out}as floating point" in said
        assert "for a mask or a label map add --kind labels" in said
        np.save(tmp_path / "logits.npy", maps / np.float32(scale))
        assert run(tmp_path, *options) == 0
        assert "warning" not in capsys.readouterr().err


def test_one_map_without_an_axis_of_labels_is_told_what_to_do(tmp_path, capsys):
    np.save(tmp_path / "logits.npy", MASK[0])
    assert run(tmp_path) == 1
    found = capsys.readouterr().err
    assert "saved as [1, H, W]; for label maps add --kind labels" in found
    assert run(tmp_path, "--kind", "labels", "--num-labels", "2") == 0
