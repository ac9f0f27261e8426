"""`refine --kind regions`: maps that overlap, from files to masks or to one label map."""

import numpy as np
import pytest

from densecrf_rnn import CRFParams, files, refine
from densecrf_rnn.cli import main
from densecrf_rnn.postprocess import labels_of_regions, region_masks

for _module in ("tqdm", "PIL"):
    pytest.importorskip(_module, reason="refine needs the extra cli")

PARAMS = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)


def nested(size=(9, 12), maps=3, seed=0):
    """Probabilities of regions inside one another, and an image in which they are seen."""
    rng = np.random.default_rng(seed)
    depth = sum(np.abs(axis - n / 2) for axis, n in zip(np.indices(size), size, strict=True))
    inside = np.stack([depth < 8 - 2 * index for index in range(maps)])
    p = np.clip(0.2 + 0.6 * inside + rng.normal(0, 0.15, inside.shape), 0, 1)
    image = (40 * inside.sum(0)[..., None] + rng.integers(0, 4, (*size, 3))).astype(np.uint8)
    return p.astype(np.float32), image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    for name in ("p", "images"):
        (tmp_path / name).mkdir()
    for seed, (stem, maps) in enumerate({"a": 3, "b": 2}.items()):  # as of instances
        p, image = nested(maps=maps, seed=seed)
        np.save(tmp_path / "p" / f"{stem}.npy", p)
        np.save(tmp_path / "images" / f"{stem}.npy", image)
    return tmp_path


def call(*options, maps="p", kind="regions"):
    kinds = ["--kind", kind] if kind else []
    return main(["refine", maps, "images", "-o", "out", *kinds, *options])


def refined(stem, params=PARAMS, **options):
    p, image = np.load(f"p/{stem}.npy"), np.load(f"images/{stem}.npy")
    return refine(p, image, params, kind="probabilities", multilabel=True, **options)


def test_regions_become_a_mask_each(folder, recwarn):
    assert call() == 0
    found = sorted(path.name for path in (folder / "out").glob("*.png"))
    assert found == ["a_0.png", "a_1.png", "a_2.png", "b_0.png", "b_1.png"]
    for stem, maps in {"a": 3, "b": 2}.items():
        masks = region_masks(refined(stem))
        assert 0 < masks.mean() < 1 and len(masks) == maps
        for index, mask in enumerate(masks):
            np.testing.assert_array_equal(files.read_labels(f"out/{stem}_{index}.png"), mask)
    assert not recwarn.list


def test_an_order_makes_one_label_map_in_which_later_regions_win(folder):
    (folder / "p" / "b.npy").unlink()
    assert call("--regions-class-order", "1,2,4", "--write", "both", "--dtype", "float32") == 0
    q = refined("a")
    labels = files.read_labels("out/a.png")
    np.testing.assert_array_equal(labels, labels_of_regions(q, (1, 2, 4)))
    assert np.unique(labels).tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(labels == 4, q[2] > 0.5)
    np.testing.assert_array_equal(np.load("out/a.npz")["marginals"], q)


def test_saliency_of_regions_is_an_image_each(folder):
    assert call("--write", "saliency") == 0
    for index, q in enumerate(refined("a")):
        stored = files.read_image(f"out/a_{index}.png")[..., 0]
        assert np.abs(stored / 255 - q).max() < 0.01


def test_logits_of_regions_give_the_same_as_their_probabilities(folder):
    (folder / "logits").mkdir()
    for stem in "ab":
        p = np.load(f"p/{stem}.npy").astype(np.float64)
        p = np.clip(p, 1e-5, 1 - 1e-5)
        np.save(folder / "logits" / f"{stem}.npy", np.log(p / (1 - p)).astype(np.float32))
    assert call(maps="logits", kind="region-logits") == 0
    for index, mask in enumerate(region_masks(refined("a"))):
        np.testing.assert_array_equal(files.read_labels(f"out/a_{index}.png"), mask)


def test_masks_of_volumes_lie_where_the_image_does(folder):
    nibabel = pytest.importorskip("nibabel")
    p, image = nested((5, 7, 8))
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(image[..., 0].T, affine), folder / "images" / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(p.T, affine), folder / "p" / "v.nii.gz")
    for path in (*folder.glob("p/*.npy"), *folder.glob("images/*.npy")):
        path.unlink()
    assert call() == 0
    q = refine(
        p, image[..., :1], PARAMS, kind="probabilities", multilabel=True, spacing=(3, 2, 1)
    )
    for index, mask in enumerate(region_masks(q)):
        stored = nibabel.load(f"out/v_{index}.nii.gz")
        np.testing.assert_array_equal(np.asarray(stored.dataobj), mask.T)
        np.testing.assert_array_equal(stored.affine, affine)


@pytest.mark.parametrize("order", [[], ["--regions-class-order", "3,1,2"]])
def test_tiles_of_regions_are_those_of_the_whole_image(folder, order):
    (folder / "p" / "b.npy").unlink()
    bandwidths = ["--theta-alpha", "1", "--theta-beta", "60", "--theta-gamma", "1"]
    assert call(*bandwidths, *order, "--tile", "5", "--halo", "exact", "--iterations", "2") == 0
    q = refined("a", iterations=2, params=CRFParams(1, 60, 1, 3, 3))
    labels = labels_of_regions(q, (3, 1, 2)) if order else region_masks(q)
    tiled = np.load("out/a.npy")
    assert tiled.dtype == np.uint8
    np.testing.assert_array_equal(tiled, labels)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_rasters_of_regions_have_a_band_each_and_nodata_outside_the_mask(folder):
    rasterio = pytest.importorskip("rasterio")
    p, image = nested()
    p[:, :2] = np.nan
    with rasterio.open("p.tif", "w", driver="GTiff", count=3, height=9, width=12,
                       dtype=np.float32, nodata=np.nan) as file:  # fmt: skip
        file.write(p)
    np.save("image.npy", image)
    options = {"kind": "probabilities", "multilabel": True, "tile": 5, "halo": "exact"}
    params = CRFParams(1, 60, 1, 3, 3)
    files.refine_raster("p.tif", "image.npy", "masks.tif", params, **options)
    files.refine_raster("p.tif", "image.npy", "labels.npy", params, order=(1, 2, 3), **options)
    q = refine(p, image, params, mask=np.isfinite(p[0]), **dict(list(options.items())[:2]))
    with rasterio.open("masks.tif") as file:
        assert file.count == 3 and file.nodata == 255
        masks = file.read()
    assert (masks[:, :2] == 255).all()
    np.testing.assert_array_equal(masks[:, 2:], region_masks(q)[:, 2:])
    np.testing.assert_array_equal(np.load("labels.npy")[2:], labels_of_regions(q, (1, 2, 3))[2:])


@pytest.mark.parametrize("options, message", [
    ({"order": (1, 2, 3)}, "order is given but multilabel is False"),
    ({"multilabel": True, "order": (1, 2)}, "holds 2 labels but there are 3 regions"),
    ({"multilabel": True, "classes": (0, 1)}, "classes is given but multilabel is True"),
    ({"multilabel": True, "kind": "labels", "num_labels": 3}, "kind is 'labels' but multilabel"),
])  # fmt: skip
def test_options_that_contradict_rasters_of_regions_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        files.refine_raster("p/a.npy", "images/a.npy", "out.npy", PARAMS, **options)
    assert not (folder / "out.npy").exists()


def test_options_of_regions_are_recorded(folder, capsys):
    assert call() == 0
    capsys.readouterr()
    assert call() == 0
    assert "0 refined" in capsys.readouterr().out
    (folder / "out" / "a_2.png").unlink()
    assert call() == 0
    assert "1 refined" in capsys.readouterr().out
    (folder / "p" / "b.npy").unlink()
    assert call("--regions-class-order", "1,2,3") == 0
    reason = "--regions-class-order was not given, is [1, 2, 3]"
    assert reason in capsys.readouterr().out


def test_coarse_regions_are_enlarged_as_probabilities(folder):
    p, image = nested()
    np.save(folder / "p" / "a.npy", p[:, ::2, ::2])
    (folder / "p" / "b.npy").unlink()
    assert call("--upsample", "corners", "--write", "marginals", "--dtype", "float32") == 0
    from densecrf_rnn.upsampling import upsample

    large = upsample(p[:, ::2, ::2], p.shape[1:], align_corners=True)
    q = refine(large, image, PARAMS, kind="probabilities", multilabel=True)
    np.testing.assert_allclose(np.load("out/a.npz")["marginals"], q, atol=1e-6)


@pytest.mark.parametrize("options, message", [
    (["--classes", "0,1"], "--classes is about one label per pixel, but --kind regions refines"),
    (["--label-values", "0,255"], "--label-values is about one label per pixel"),
    (["--compatibility", "mu.npy"], "leave --compatibility out"),
    (["--regions-class-order", "1,-2"], "is not integers of at least 0 separated by commas"),
])  # fmt: skip
def test_options_that_contradict_regions_are_refused(folder, capsys, options, message):
    np.save("mu.npy", 1 - np.eye(3))
    try:
        status = call(*options)
    except SystemExit as error:  # argparse's
        status = error.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_an_order_needs_regions_and_a_label_for_each(folder, capsys):
    assert call("--regions-class-order", "1,2,3", kind="probabilities") == 2
    assert "--regions-class-order needs --kind regions" in capsys.readouterr().err
    assert call("--regions-class-order", "1,2,3") == 1  # b has two regions
    err = capsys.readouterr().err
    assert "b.npy: has 2 regions, but --regions-class-order lists 3 labels" in err
    assert [path.name for path in (folder / "out").glob("*.png")] == ["a.png"]


def test_regions_are_not_tuned(folder, capsys):
    pytest.importorskip("optuna")
    assert main(["tune", "p", "images", "p", "--kind", "regions"]) == 2
    assert "tune one region at a time" in capsys.readouterr().err


def test_logits_called_regions_are_refused_and_the_advice_works(folder, capsys):
    for stem in "ab":
        np.save(f"p/{stem}.npy", 8 * np.load(f"p/{stem}.npy") - 4)
    assert call() == 1
    err = capsys.readouterr().err
    assert "must lie in 0..1" in err and "for their logits give --kind region-logits" in err
    assert call(kind="region-logits") == 0


def test_probabilities_called_logits_of_regions_warn_and_the_advice_works(folder, capsys):
    assert call(kind="region-logits") == 0
    assert "if they are, give --kind regions" in capsys.readouterr().err
    assert call() == 0
    assert "warning" not in capsys.readouterr().err


def test_scores_of_regions_that_overshoot_are_clipped_and_not_divided(folder, capsys):
    p = np.load("p/a.npy")
    np.save("p/a.npy", 1.2 * p)
    assert call() == 1
    assert "scores that overshoot are clipped with --clip" in capsys.readouterr().err
    assert call("--clip", "--write", "marginals", "--dtype", "float32") == 0
    q = refine(
        np.clip(1.2 * p, 0, 1), np.load("images/a.npy"), PARAMS, kind="probabilities",
        multilabel=True,
    )
    np.testing.assert_allclose(np.load("out/a.npz")["marginals"], q, atol=1e-6)


@pytest.mark.parametrize("order", [(1, 2), (1, 2, 3, 4), (1, 2, -3), (1, 2, 2.5)])
def test_orders_that_do_not_fit_the_regions_are_refused(order):
    with pytest.raises((TypeError, ValueError), match="order"):
        labels_of_regions(nested()[0], order)
