"""MONAI: networks, a pipeline from NIfTI to NIfTI, chains and their inverses, and its CRF layer."""

import numpy as np
import pytest

pytest.importorskip("monai", exc_type=Exception)

import nibabel  # noqa: E402
import torch  # noqa: E402
from monai import data, inferers, transforms as mt  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from monai.networks import blocks, nets  # noqa: E402
from monai.networks.layers import filtering  # noqa: E402

from segmentation import LABELS, check  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN, PermutohedralLattice, refine  # noqa: E402
from densecrf_rnn.compat.monai import CRF, CRFd  # noqa: E402
from densecrf_rnn.compat.monai.blocks import CRF as Layer  # noqa: E402

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 2], [0, 0, 0, 1]])
PARAMS = CRFParams(theta_alpha=6, theta_beta=0.2, theta_gamma=3)


@pytest.fixture
def volume(tmp_path):
    """A NIfTI file of a bright box with noise, turned and with anisotropic voxels."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 5, (24, 20, 12)).astype(np.float32)
    voxels[6:18, 5:15, 3:9] += 100
    path = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)
    return path


def unet(axes, channels=1, labels=2):
    torch.manual_seed(0)
    return nets.UNet(
        spatial_dims=axes, in_channels=channels, out_channels=labels, channels=(4, 8), strides=(2,)
    )


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 12)])
def test_wrap_takes_unets_of_monai(size):
    backbone = unet(len(size), 2, LABELS)
    # your code
    model = CRFRNN.wrap(backbone, LABELS, scale=1, params=CRFParams(theta_beta=0.5))
    # end
    check(model, torch.randn(2, 2, *size))


def chain():
    """MONAI's transforms of a volume before a network."""
    return mt.Compose([
        mt.LoadImaged("image"),
        mt.EnsureChannelFirstd("image"),
        mt.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        mt.Spacingd("image", pixdim=(1.5, 1.5, 3)),
        mt.ScaleIntensityd("image", 0, 1),
    ])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_pipeline_from_nifti_to_nifti(volume, tmp_path):
    before, network = chain(), unet(3)
    after = mt.Compose([
        # your code
        CRFd("pred", "image", CRFParams(theta_alpha=6, theta_beta=0.2, theta_gamma=3)),
        # end
        mt.Invertd("pred", before, "image", nearest_interp=False),
        mt.AsDiscreted("pred", argmax=True),
        mt.SaveImaged("pred", output_dir=tmp_path, output_postfix="seg", separate_folder=False,
                      output_dtype=np.uint8, print_log=False),
    ])  # fmt: skip
    loader = data.DataLoader(data.Dataset([{"image": str(volume)}], before))
    for batch in loader:
        with torch.no_grad():
            scores = inferers.sliding_window_inference(batch["image"], (16, 16, 8), 2, network)
            # random weights say little: a threshold of the intensity, with noise, says more
            noise = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
            hint = torch.cat([0.5 - batch["image"], batch["image"] - 0.5], 1)
            batch["pred"] = scores + 2 * hint + noise
        example, = data.decollate_batch(batch)
        found = after(example)
        image = example["image"].numpy()
        wanted = refine(
            example["pred"].numpy(), np.moveaxis(image, 0, -1), PARAMS, spacing=(1.5, 1.5, 3)
        )
        assert np.array_equal(CRFd("pred", "image", PARAMS)(example)["pred"].numpy(), wanted)
    written = nibabel.load(tmp_path / "image_seg.nii.gz")
    labels = np.asarray(written.dataobj)
    assert written.shape == (24, 20, 12) and np.allclose(written.affine, AFFINE)
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1}
    truth = np.zeros(labels.shape, bool)
    truth[6:18, 5:15, 3:9] = True
    assert np.array_equal(labels, np.asarray(found["pred"][0]))
    raw = mt.Compose(after.transforms[1:-1])(example)["pred"][0].numpy()
    assert (labels == truth).mean() > (raw == truth).mean() + 0.1


def test_the_result_keeps_metadata_device_and_the_operations_to_invert():
    flip = mt.Flipd(["image", "pred"], spatial_axis=0)
    crf = CRFd("pred", "image", PARAMS)
    steps = mt.Compose([flip, crf, mt.Flipd("pred", spatial_axis=1)])
    generator = torch.Generator().manual_seed(0)
    affine = torch.from_numpy(AFFINE)
    given = {
        "image": data.MetaTensor(torch.rand(1, 6, 5, 4, generator=generator), affine=affine),
        "pred": data.MetaTensor(torch.randn(2, 6, 5, 4, generator=generator), affine=affine),
    }
    there = steps(given)
    assert isinstance(there["pred"], data.MetaTensor)
    assert len(there["pred"].applied_operations) == 2
    back = steps.inverse(there)
    assert back["pred"].applied_operations == [] == back["image"].applied_operations
    assert torch.allclose(back["pred"].affine, affine)
    flipped = flip(given)
    wanted = crf(flipped)["pred"].as_tensor().flip(1)
    assert torch.equal(back["pred"].as_tensor(), wanted)
    assert torch.equal(back["image"].as_tensor(), given["image"].as_tensor())


def test_the_transform_is_cached_and_runs_in_workers(volume):
    """A data set caches what comes before the first random transform, this one included."""
    steps = mt.Compose([
        *chain().transforms,
        mt.CopyItemsd("image", times=2, names=["dark", "bright"]),
        mt.ScaleIntensityd("dark", minv=1, maxv=-1),
        mt.ScaleIntensityd("bright", minv=-1, maxv=1),
        mt.ConcatItemsd(["dark", "bright"], "pred"),
        CRFd("pred", "image", PARAMS, iterations=2),
    ])
    cached = data.CacheDataset([{"image": str(volume)}], steps, progress=False)
    assert (cached._cache[0]["pred"].sum(0) - 1).abs().max() < 1e-5  # marginals
    loader = data.DataLoader(data.Dataset([{"image": str(volume)}] * 2, steps), num_workers=1)
    for batch in loader:
        assert torch.equal(batch["pred"][0].as_tensor(), cached[0]["pred"].as_tensor())


def test_a_configuration_of_a_bundle_describes_the_transform():
    config = ConfigParser({"post": {
        "_target_": "densecrf_rnn.compat.monai.CRFd",
        "keys": "pred",
        "image_key": "image",
        "params": {"_target_": "densecrf_rnn.CRFParams", "theta_alpha": 6, "theta_beta": [0.2]},
        "iterations": 3,
    }})  # fmt: skip
    crf = config.get_parsed_content("post")
    assert type(crf) is CRFd and crf.refine.options == {"iterations": 3}
    assert crf.refine.params == CRFParams(theta_alpha=6, theta_beta=[0.2])


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor, data.MetaTensor])
def test_the_array_transform_returns_the_kind_that_it_got(array):
    rng = np.random.default_rng(0)
    scores = array(rng.normal(size=(2, 7, 5)).astype(np.float32))
    found = CRF(PARAMS)(scores, rng.random((1, 7, 5), np.float32))
    assert type(found) is type(scores) and found.shape == scores.shape


def test_a_layer_of_metatensors_returns_a_metatensor():
    model = CRFRNN.wrap(unet(2), 2, scale=1, params=PARAMS)
    image = data.MetaTensor(torch.rand(2, 1, 16, 24), affine=torch.diag(torch.tensor([2., 2, 1])))
    found = model(image)
    assert isinstance(found, data.MetaTensor) and torch.equal(found.affine, image.affine)
    assert torch.equal(found.as_tensor(), model(image.as_tensor()))


# --- monai.networks.blocks.CRF -------------------------------------------------------------------


def lattice_filter(values, features):
    """What MONAI's C++ extension computes, by the lattice of this package."""
    found = torch.empty_like(values)
    for one, v, f in zip(found, values, features):
        rows = np.ascontiguousarray(torch.cat([v, torch.ones_like(v[:1])]).flatten(1).T.numpy())
        lattice = PermutohedralLattice(np.ascontiguousarray(f.flatten(1).T.numpy()))
        filtered = lattice.filter(rows)
        one.copy_(torch.from_numpy(filtered[:, :-1] / filtered[:, -1:]).T.reshape(v.shape))
    return found


@pytest.mark.parametrize("size", [(9, 11), (6, 7, 8)])
@pytest.mark.parametrize("matrix", [None, torch.linspace(-1, 2, 9).reshape(3, 3)])
def test_the_layer_replaces_that_of_monai(size, matrix, monkeypatch):
    torch.manual_seed(0)
    extension = type("Extension", (), {"phl_filter": staticmethod(lattice_filter)})
    monkeypatch.setattr(filtering, "_C", extension)
    names = {"bilateral_weight": 1.3, "gaussian_weight": 0.7, "bilateral_spatial_sigma": 4.0,
             "bilateral_color_sigma": 0.3, "gaussian_spatial_sigma": 2.0, "update_factor": 2.0,
             "iterations": 4, "compatibility_matrix": matrix}  # fmt: skip
    scores, reference = torch.randn(2, 3, *size), torch.rand(2, 1, *size)
    wanted = blocks.CRF(**names)(scores, reference)
    # your code
    crf = Layer(**names)
    # end
    torch.testing.assert_close(crf(scores, reference), wanted, atol=1e-5, rtol=0)
    assert set(vars(crf)) == set(vars(blocks.CRF(**names)))
    affine = torch.diag(torch.arange(1.0, len(size) + 2))
    found = crf(data.MetaTensor(scores, affine=affine), data.MetaTensor(reference, affine=affine))
    assert isinstance(found, data.MetaTensor) and torch.equal(found.affine, affine.double())
    torch.testing.assert_close(found.as_tensor(), wanted, atol=1e-5, rtol=0)
