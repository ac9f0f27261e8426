"""Every format that `refine` reads shows the labels on the page that the copied command writes."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from explore_server import explored, labels_of_command, labels_of_python

from densecrf_rnn.explore import scenes, settings
from densecrf_rnn.files import formats

for _package in ("PIL", "skimage", "tqdm", "tifffile", "h5py", "zarr", "safetensors", "nibabel"):
    pytest.importorskip(_package)
torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
IMAGE = np.kron(RNG.integers(0, 255, (5, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)
LOGITS = RNG.normal(0, 2, (3, 20, 24)).astype(np.float32)
LABELS = LOGITS.argmax(0).astype(np.uint8)
FOREGROUND = np.rint(255 / (1 + np.exp(-LOGITS[0]))).astype(np.uint8)


def _module(name):
    return importlib.import_module(name)


def _hdf5(path, array):
    with _module("h5py").File(path, "w") as file:
        file["a"] = array


def _zarr(path, array):
    zarr = _module("zarr")
    stored = zarr.open_array(str(path), mode="w", shape=array.shape, dtype=array.dtype)
    stored[...] = array


def _nifti(path, array):
    """Save [..., H, W] or [H, W, 3], x first, as a volume of one slice."""
    if array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 0)
    volume = array.T[:, :, None] if array.ndim == 3 else array.T
    nibabel = _module("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


def _picture(path, array):
    more = {"lossless": True} if path.suffix == ".webp" else {}
    _module("PIL.Image").fromarray(array).save(path, **more)


def _tiff(path, array):
    photometric = "rgb" if array.shape[-1] == 3 else "minisblack"
    _module("tifffile").imwrite(path, array, photometric=photometric)


WRITERS = {
    ".npy": lambda path, array: np.save(path, array),
    ".npz": lambda path, array: np.savez_compressed(path, a=array),
    ".safetensors": lambda path, array: _module("safetensors.numpy").save_file({"a": array}, path),
    **dict.fromkeys((".pt", ".pth"), lambda path, array: torch.save(torch.from_numpy(array), path)),
    **dict.fromkeys((".h5", ".hdf5"), _hdf5), ".zarr": _zarr,
    **dict.fromkeys((".tif", ".tiff"), _tiff), **dict.fromkeys((".nii", ".nii.gz"), _nifti),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"), _picture),
    ".pgm": _picture,
}  # fmt: skip
VOLUMES = (".nii", ".nii.gz")
LOSSY = (".jpg", ".jpeg")  # of label maps
START = ("--iterations", "3", "--theta-alpha", "9", "--theta-beta", "20", "--theta-gamma", "2")


def write(path, array):
    WRITERS["." + path.name.split(".", 1)[1]](path, array)
    return path


def test_each_format_has_a_writer_here():
    assert WRITERS.keys() == formats.FORMATS.keys()


def compared(monkeypatch, tmp_path, logits, image, *more):
    """Compare the page with the command and the Python, at a temperature of its own."""
    found = explored(monkeypatch, logits, image, *START, *more)
    assert found is not None
    ((source,), start) = found[0].values(), found[1]
    scene, of = source(), replace(start, temperature=0.6)
    wanted = settings.view(scene, of).after
    assert 0.01 < np.mean(scene.before != wanted) < 0.9  # the CRF has some effect
    np.testing.assert_array_equal(labels_of_command(scene, of, tmp_path / "out"), wanted)
    kept = scenes.saved(scene, tmp_path / "saved")
    np.testing.assert_array_equal(labels_of_python(kept, of), wanted)
    np.testing.assert_array_equal(labels_of_command(kept, of, tmp_path / "again"), wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("end", sorted(set(formats.extensions("scores")) - set(VOLUMES)))
def test_logits_of_every_format(monkeypatch, tmp_path, end, dtype):
    image = write(tmp_path / "images.png", IMAGE)
    logits = write(tmp_path / f"images_l{end}", LOGITS.astype(dtype))
    compared(monkeypatch, tmp_path, logits, image, "--logits-suffix", "_l")


@pytest.mark.parametrize("end", sorted(set(formats.extensions("image")) - {*VOLUMES, ".pgm"}))
def test_images_of_every_format(monkeypatch, tmp_path, end):
    image = write(tmp_path / f"a_i{end}", IMAGE)
    logits = write(tmp_path / "a.npy", LOGITS)
    compared(monkeypatch, tmp_path, logits, image, "--image-suffix", "_i")


def test_a_grey_image(monkeypatch, tmp_path):
    image = write(tmp_path / "a.pgm", IMAGE[..., 0])
    compared(monkeypatch, tmp_path, write(tmp_path / "a.npy", LOGITS), image)


@pytest.mark.parametrize("end", sorted(set(formats.extensions("labels")) - {*VOLUMES, *LOSSY}))
def test_label_maps_of_every_format(monkeypatch, tmp_path, end):
    image = write(tmp_path / "a_i.png", IMAGE)
    labels = write(tmp_path / f"a{end}", LABELS)
    compared(monkeypatch, tmp_path, labels, image, "--image-suffix", "_i", "--kind", "labels",
             "--num-labels", "3", "--confidence", "0.6")  # fmt: skip


@pytest.mark.parametrize("end", sorted(formats.extensions("grey_maps")))
def test_grey_maps_of_every_format(monkeypatch, tmp_path, end):
    image = write(tmp_path / "a_i.png", IMAGE)
    maps = write(tmp_path / f"a{end}", FOREGROUND)
    compared(monkeypatch, tmp_path, maps, image, "--image-suffix", "_i", "--kind",
             "probabilities")  # fmt: skip


@pytest.mark.parametrize("end", VOLUMES)
def test_a_volume_is_refused(monkeypatch, tmp_path, end, capsys):
    image = write(tmp_path / f"a_i{end}", IMAGE)
    logits = write(tmp_path / f"a{end}", LOGITS)
    assert explored(monkeypatch, logits, image, "--image-suffix", "_i") is None
    assert "pass one slice of it" in capsys.readouterr().err


@pytest.mark.parametrize("more", [
    ("--upsample", "corners"), ("--upsample", "centers", "--covers", "24,28"),
    ("--normalize", "zscore", "--theta-beta", "0.5"), ("--normalize", "percentile"),
    ("--spacing", "2,0.5"),
], ids=" ".join)  # fmt: skip
def test_options_that_change_what_is_read(monkeypatch, tmp_path, more):
    logits = LOGITS[:, ::2, ::2] if more[0] == "--upsample" else LOGITS
    image = write(tmp_path / "a.png", IMAGE)
    compared(monkeypatch, tmp_path, write(tmp_path / "a.npy", logits), image, *more)


def test_pixels_without_data_of_a_geotiff(monkeypatch, tmp_path):
    image = IMAGE.copy()
    image[3:9, 5:12] = 0
    _module("tifffile").imwrite(
        tmp_path / "a.tif", image, photometric="rgb", extratags=[(42113, "s", 0, "0", True)]
    )
    logits = write(tmp_path / "a.npy", LOGITS)
    (sources, start) = explored(monkeypatch, logits, tmp_path / "a.tif", *START)
    scene = sources["a"]()
    inside = scene.mask
    assert 0.5 < inside.mean() < 1
    wanted = settings.view(scene, start).after[inside]
    written = labels_of_command(scene, start, tmp_path / "out")
    np.testing.assert_array_equal(written[inside], wanted)
    kept = scenes.saved(scene, tmp_path / "saved")
    np.testing.assert_array_equal(labels_of_python(kept, start)[inside], wanted)
    again = labels_of_command(kept, start, tmp_path / "again")
    np.testing.assert_array_equal(again[inside], wanted)


def test_the_command_finds_the_mask_and_the_channels_of_a_file_in_a_subfolder(
    monkeypatch, tmp_path
):  # fmt: skip
    mask = np.zeros(LABELS.shape, np.uint8)
    mask[2:15, 3:20] = 255
    for folder, name, array in (
        ("logits", "a.npy", LOGITS), ("images", "a_0000.png", IMAGE[..., 0]),
        ("images", "a_0001.png", IMAGE[..., 1]), ("masks", "a.png", mask),
    ):  # fmt: skip
        (tmp_path / folder / "sub").mkdir(parents=True, exist_ok=True)
        write(tmp_path / folder / "sub" / name, array)
    (sources, start) = explored(
        monkeypatch, tmp_path / "logits", tmp_path / "images", "--recursive", "--image-suffix",
        "_0000,_0001", "--mask", tmp_path / "masks", *START,
    )  # fmt: skip
    ((name, source),) = sources.items()
    scene = source()
    assert Path(name) == Path("sub", "a") and scene.image.shape[-1] == 2
    written = labels_of_command(scene, start, tmp_path / "out")
    inside = mask > 0
    np.testing.assert_array_equal(written[inside], settings.view(scene, start).after[inside])
