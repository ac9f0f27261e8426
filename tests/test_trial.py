"""What a first user tried: one foreground and regions, before and after, in one `evaluate`."""

import json
import re

import numpy as np
import pytest

from densecrf_rnn import files
from densecrf_rnn.cli import main

for _module in ("tqdm", "PIL"):
    pytest.importorskip(_module, reason="the commands need the extra cli")

SIZE = (20, 24)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    return tmp_path


def disc(radius, seed=0):
    """A mask, an image in which it is seen, and probabilities of it."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SIZE)
    mask = (rows - 9) ** 2 + (columns - 11) ** 2 < radius**2
    image = (60 + 120 * mask[..., None] + rng.integers(0, 4, (*SIZE, 3))).astype(np.uint8)
    p = np.clip(0.25 + 0.5 * mask + rng.normal(0, 0.2, SIZE), 0.01, 0.99)
    return mask, image, p.astype(np.float32)


def save(folder, stem, array, here):
    (here / folder).mkdir(exist_ok=True)
    if array.dtype == np.uint8:
        from PIL import Image

        Image.fromarray(array).save(here / folder / f"{stem}.png")
    else:
        np.save(here / folder / f"{stem}.npy", array)


def evaluate(capsys, *words, code=0):
    """The JSON of `evaluate` or, if it fails, what it says."""
    assert main(["evaluate", *words, "--json", "-"]) == code
    said = capsys.readouterr()
    return said.err if code else json.loads(said.out)


def iu(a, b):
    return (a & b).sum() / (a | b).sum()


# --- one foreground ------------------------------------------------------------------------------


@pytest.fixture
def foreground(here):
    mask, image, p = disc(6)
    save("images", "a", image, here)
    save("sig", "a", p[None], here)
    save("flat", "a", p, here)
    save("grey", "a", (255 * p).astype(np.uint8), here)
    save("truth", "a", 255 * mask.astype(np.uint8), here)
    return mask, p


@pytest.mark.parametrize("sigmoids", ["sig", "flat", "grey"])
@pytest.mark.parametrize(
    "written", [(), ("--palette", "none"), ("--label-values", "0,255")], ids=lambda w: w[-1:]
)
def test_probabilities_and_label_maps_stand_side_by_side(foreground, capsys, sigmoids, written):
    mask, p = foreground
    words = ["refine", sigmoids, "images", "--kind", "probabilities", "-o", "out"]
    assert main([*words, "--theta-alpha", "4", *written]) == 0
    capsys.readouterr()
    end = ["truth", "--label-values", "0,255", "--kind", "probabilities"]
    before, after = evaluate(capsys, sigmoids, "out", *end)["predictions"]
    values = files.LabelValues((0, 255))
    refined = files.read_labels("out/a.png", values=values) == 1
    stored = (255 * p).astype(np.uint8) > 127 if sigmoids == "grey" else p > 0.5
    assert before["class_iu"][1] == pytest.approx(iu(mask, stored))
    assert after["class_iu"][1] == pytest.approx(iu(mask, refined))
    assert after["class_iu"][1] > before["class_iu"][1] > 0.4
    alone = evaluate(capsys, "out", "truth", "--label-values", "0,255")["predictions"]
    assert alone[0]["class_iu"] == after["class_iu"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, bool])
def test_label_maps_in_arrays_are_scored_beside_probabilities(foreground, here, capsys, dtype):
    mask, p = foreground
    for folder, shape in (("maps", SIZE), ("one", (1, *SIZE))):
        (here / folder).mkdir()
        np.save(here / folder / "a.npy", mask.astype(dtype).reshape(shape))
    words = ("sig", "maps", "one", "truth", "--label-values", "0,255", "--kind", "probabilities")
    _, *after = evaluate(capsys, *words)["predictions"]
    assert [one["class_iu"] for one in after] == [[1, 1], [1, 1]]


# --- regions -------------------------------------------------------------------------------------


@pytest.fixture
def regions(here):
    masks, images, maps = zip(*(disc(radius, radius) for radius in (8, 6, 4)))
    image = np.mean(images, 0).astype(np.uint8)
    for stem in ("case_0", "case_1"):
        save("images", stem, image, here)
        save("prob", stem, np.stack(maps), here)
        save("stacked", stem, np.stack(masks).astype(np.int32), here)
        for index, mask in enumerate(masks):
            save("truth", f"{stem}_{index}", (1 + 254 * index % 3) * mask.astype(np.uint8), here)
    save("labels", "case_0", sum(mask.astype(np.uint8) for mask in masks), here)
    return np.stack(masks), np.stack(maps)


def test_maps_that_overlap_are_never_scored_by_their_argmax(regions, capsys):
    for kind in ((), ("--kind", "probabilities")):
        said = evaluate(capsys, "prob", "labels", *kind, code=2)
        assert "sum to" in said and "add --kind regions" in said
    words = ["refine", "prob", "images", "--kind", "regions", "-o", "out", "--write", "both"]
    assert main(words) == 0
    capsys.readouterr()
    (said,) = evaluate(capsys, "out/*.npz", "labels", code=2).splitlines()
    assert "out/case_0.npz: holds marginals of regions" in said and "add --kind regions" in said


def test_marginals_of_regions_that_happen_to_sum_to_one_are_not_a_distribution(here, capsys):
    mask, _, p = disc(6)
    save("truth", "a", mask.astype(np.uint8), here)
    (here / "q").mkdir()
    files.write_marginals("q/a.npz", np.stack([p, 1 - p]), regions=True)
    assert "add --kind regions" in evaluate(capsys, "q", "truth", "--key", "marginals", code=2)


@pytest.mark.parametrize("truth", ["truth", "stacked"])
def test_each_region_is_scored_against_its_own_mask(regions, capsys, truth):
    masks, maps = regions
    words = ["refine", "prob", "images", "--kind", "regions", "--theta-alpha", "4", "-o", "out"]
    assert main([*words, "--write", "both"]) == 0
    capsys.readouterr()
    found = evaluate(
        capsys, "prob", "out/*.npz", "out/*.png", truth, "--kind", "regions", "--names", "p,q,m"
    )
    before, marginals, written = found["predictions"]
    assert found["images"] == 2 and found["regions"] == 3
    for index, mask in enumerate(masks):
        assert before["iu"][index] == pytest.approx(iu(mask, maps[index] > 0.5))
        expected = files.read_labels(f"out/case_0_{index}.png") == 1
        assert written["iu"][index] == pytest.approx(iu(mask, expected))
        assert written["dice"][index] == pytest.approx(
            2 * (mask & expected).sum() / (mask.sum() + expected.sum())
        )
    assert marginals["iu"] == written["iu"] and written["mean_dice"] > before["mean_dice"]
    assert main(["evaluate", "prob", truth, "--kind", "regions"]) == 0
    assert "region 2" in capsys.readouterr().out


def test_logits_of_regions_stand_beside_their_marginals(regions, here, capsys):
    masks, maps = regions
    for stem in ("case_0", "case_1"):
        save("x", stem, np.log(maps / (1 - maps)), here)
    (before,) = evaluate(capsys, "prob", "truth", "--kind", "regions")["predictions"]
    words = ["refine", "x", "images", "--kind", "region-logits", "-o", "out", "--theta-alpha", "4"]
    assert main([*words, "--write", "marginals"]) == 0
    capsys.readouterr()
    assert "--kind region-logits" in evaluate(capsys, "x", "truth", "--kind", "regions", code=2)
    found = evaluate(capsys, "x", "out/*.npz", "truth", "--kind", "region-logits")
    same, after = found["predictions"]
    assert same["iu"] == before["iu"] and after["mean_iu"] > same["mean_iu"] > 0.3


def test_the_suffix_that_a_message_of_evaluate_names_works(regions, here, capsys):
    mask, _, p = disc(6)
    save("p2", "a", np.stack([1 - p, p]), here)
    save("t2", "a_mask", mask.astype(np.uint8), here)
    said = evaluate(capsys, "p2", "t2", code=2)
    assert "try --truth-suffix _mask" in said
    before = evaluate(capsys, "p2", "t2", "--truth-suffix", "_mask")["predictions"]
    save("r2", "a_refined", mask.astype(np.uint8), here)
    save("t3", "a", mask.astype(np.uint8), here)
    said = evaluate(capsys, "p2", "r2", "t3", code=2)
    assert "try --predictions-suffix=,_refined" in said
    found = evaluate(capsys, "p2", "r2", "t3", "--predictions-suffix=,_refined")["predictions"]
    assert found[0]["class_iu"] == before[0]["class_iu"] and found[1]["class_iu"] == [1, 1]


# --- one map [H, W] ------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--tile", "16", "--halo", "exact")], ids=["whole", "tiles"])
@pytest.mark.parametrize("kind", ["probabilities", "regions", "logits"])
def test_a_map_without_an_axis_of_labels_is_one_map(foreground, here, more, kind):
    if more and kind == "logits":
        pytest.skip("tiles of logits are read with their axis of labels")
    _, p = foreground
    np.save(here / "images" / "a.npy", files.read_image("images/a.png"))
    (here / "images" / "a.png").unlink()
    for folder in ("flat", "sig"):
        if kind == "logits":
            stored = np.load(here / folder / "a.npy")
            np.save(here / folder / "a.npy", np.log(stored / (1 - stored)))
        words = ["refine", folder, "images", "--kind", kind, "-o", f"of_{folder}"]
        words += ["--theta-alpha", "2", "--write", "marginals", "--iterations", "2"]
        assert main([*words, *more]) == 0
    found = [np.load(next((here / f"of_{name}").glob("a.np*"))) for name in ("flat", "sig")]
    np.testing.assert_array_equal(*(q if more else q["marginals"] for q in found))
    content = "logits" if kind == "logits" else "probabilities"
    flat = files.read_logits("flat/a.npy", axes=2, kind=content)
    assert flat.shape == (1, *p.shape)


def test_a_label_map_stored_as_floats_is_no_map_of_logits(here):
    np.save("labels.npy", np.arange(20.0).reshape(4, 5))
    with pytest.raises(ValueError, match="for label maps use read_labels"):
        files.read_logits("labels.npy", axes=2)


# --- tune ----------------------------------------------------------------------------------------


def test_tune_says_how_overlapping_maps_are_tuned_and_it_works(regions, here, capsys):
    pytest.importorskip("optuna")
    masks, maps = regions
    words = ["--trials", "1", "--iterations", "1", "-q"]
    for kind in ("probabilities", "regions"):
        assert main(["tune", "prob", "images", "labels", "--kind", kind, *words]) == 2
        said = capsys.readouterr().err
        assert "tune one region at a time" in said and "add --kind regions" not in said
    assert "[1, H, W]" in said and "TRUTH" in said and "--kind probabilities" in said
    save("one", "case_0", maps[1:2], here)
    save("masks", "case_0", masks[1].astype(np.uint8), here)
    assert main(["tune", "one", "images", "masks", "--kind", "probabilities", *words]) == 0
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    assert "region-logits" not in capsys.readouterr().out


@pytest.fixture
def tuned(foreground, here, capsys):
    """`tune` on an image in 16 bits, whose theta_beta is far from the default."""
    pytest.importorskip("optuna")
    image = files.read_image("images/a.png")
    (here / "images" / "a.png").unlink()
    np.save(here / "images" / "a.npy", image.astype(np.uint16) * np.uint16(257))
    inputs = ["sig", "images", "truth", "--label-values", "0,255", "--kind", "probabilities"]
    words = ["--theta-beta", "1", "--theta-alpha", "2,5", "--trials", "2", "-q"]
    assert main(["tune", *inputs, *words]) == 0
    return capsys.readouterr().out, [*inputs, *words]


def test_values_that_tune_found_cause_no_warning_of_units(tuned, capsys):
    refine = ["refine", "sig", "images", "--kind", "probabilities", "-o", "out"]
    assert main([*refine, "--params", "params.json"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*refine, "--params", "params.json", "--theta-beta", "2"]) == 0
    assert "give --theta-beta" in capsys.readouterr().err


def test_a_quiet_search_prints_its_result_and_keeps_that_of_another_search(tuned, here, capsys):
    out, words = tuned
    assert re.fullmatch(r"params\.json: CRFParams\(.*\)\n", out)
    first = (here / "params.json").read_text()
    assert main(["tune", *words]) == 0  # the same search
    assert not (here / "params.1.json").exists() and capsys.readouterr().err == ""
    for other in (["--theta-beta", "7"], ["--theta-beta", "9"]):
        assert main(["tune", *words, *other]) == 0
        assert "params.json held other settings, which are now params." in capsys.readouterr().err
    assert (here / "params.1.json").read_text() == first
    assert files.read_settings("params.2.json").params.theta_beta == 7
    assert files.read_settings("params.json").params.theta_beta == 9


# --- messages ------------------------------------------------------------------------------------


def test_a_warning_of_many_files_is_counted_without_a_copy_that_is_cut(foreground, here, capsys):
    _, p = foreground
    image = files.read_image("images/a.png")
    for stem in "bcd":
        save("sig", stem, p[None], here)
        save("images", stem, image, here)
    assert main(["refine", "sig", "images", "-o", "out", "--iterations", "0"]) == 0
    said = capsys.readouterr().err
    assert said.count("logits lie in 0..1") == 1 and "..." not in said.replace("0..1", "")
    total = r"^densecrf-rnn refine: the same warning: 3 more files: \w, \w, \w$"
    assert re.search(total, said, re.M)
    main(["refine", "sig", "images", "-o", "out", "--iterations", "0", "--theta-beta", "3000"])
    said = capsys.readouterr().err
    assert "the same warning (logits lie in 0..1): 3 more files" in said
    assert "the same warning (image spans" in said


def test_a_native_module_of_another_version_is_told_apart(monkeypatch):
    from densecrf_rnn import _limits, engines
    from densecrf_rnn.engines import registry

    if engines.why_unavailable("cpu") is not None:
        pytest.skip("needs the native module")
    monkeypatch.setattr(registry, "_can_run", set())
    monkeypatch.setattr(_limits, "MAX_KERNELS", _limits.MAX_KERNELS + 1)
    assert "is of another version of this package; " in engines.why_unavailable("cpu")


def test_a_tensor_with_a_gradient_is_told_apart_from_other_arrays():
    torch = pytest.importorskip("torch")
    from densecrf_rnn import refine

    logits, image = torch.zeros(2, 4, 5, requires_grad=True), np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(TypeError, match=r"^logits requires grad; pass logits\.detach\(\)$"):
        refine(logits, image)
    assert refine(logits.detach(), image).shape == (2, 4, 5)


def test_wrap_around_images_in_0_to_255_is_told_about_scale():
    torch = pytest.importorskip("torch")
    from densecrf_rnn import CRFRNN

    _, image, _ = disc(6)
    image = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    backbone = torch.nn.Conv2d(3, 2, 1)
    with pytest.warns(UserWarning, match="pass scale=1 if CRFRNN.wrap was given images in 0..255"):
        CRFRNN.wrap(backbone, 2)(image)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CRFRNN.wrap(backbone, 2, scale=1)(image)


def test_a_label_that_vanishes_is_said_once_with_the_number_of_files(here, capsys):
    mask, image, p = disc(5)
    for stem in "ab":
        save("prob", stem, np.stack([1 - p, p]), here)
        save("images", stem, image, here)
    words = ["refine", "prob", "images", "--kind", "probabilities", "-o", "out", "--theta-alpha"]
    assert main([*words, "4"]) == 0
    assert "absent" not in capsys.readouterr().err
    strong = ["4", "--theta-gamma", "20", "--w-spatial", "50"]
    assert main([*words, *strong, "--iterations", "20"]) == 0
    said = capsys.readouterr().err
    assert said.count("label 1 is absent after refinement in 2 of 2 files that held it; lower") == 1
    assert main([*words, *strong, "--iterations", "21", "-q"]) == 0
    assert capsys.readouterr().err == ""
