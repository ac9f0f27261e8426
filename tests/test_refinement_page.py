"""The code and the commands of docs/refinement.md run, on files of the names that it uses."""

import re
import shlex
from pathlib import Path

import numpy as np
import pages
import pytest

from densecrf_rnn import CRFParams, cli

PAGE = Path(__file__).parents[1] / "docs" / "refinement.md"
if not PAGE.is_file():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
PARAMS = CRFParams(theta_alpha=8, theta_beta=20, w_bilateral=3)
BLOCKS = pages.blocks(PAGE, "python", "sh")
# What tells the blocks apart; each of them is run below.
WORDS = ["in pair(", "aligned(", "refine_tiled(", "tcp://", "cli,files", "class-order", "evaluate",
         "--tile"]  # fmt: skip


def block(language, word):
    """Return the one block of the page in a language that contains a word."""
    assert word in WORDS
    (found,) = (one.text for one in BLOCKS if one.language == language and word in one.text)
    return found


def run(command):
    assert cli.main(shlex.split(command, comments=True)[1:]) == 0, command


@pytest.fixture
def maps(tmp_path, monkeypatch):
    """Logits [3, 40, 50] and an image [40, 50, 3] of 8 bits, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 3, (4, 5)), np.ones((10, 10), int))
    logits = (truth == np.arange(3)[:, None, None]) + rng.normal(0, 0.5, (3, 40, 50))
    image = 80 * truth[..., None] + rng.integers(0, 20, (40, 50, 3))
    return logits.astype(np.float32), image.astype(np.uint8), truth


def folders(maps, name="a"):
    """Write the folders that the commands name, with one file each."""
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    logits, image, truth = maps
    for folder in ("logits", "images", "probabilities", "refined"):
        Path(folder).mkdir()
    np.save(f"logits/{name}.npy", logits)
    np.save(f"probabilities/{name}.npy", 1 / (1 + np.exp(-logits)))
    Image.fromarray(image).save(f"images/{name}.png")
    return truth


def test_every_block_of_the_page_is_run_here():
    assert len(BLOCKS) == len(WORDS)
    used = Path(__file__).read_text(encoding="utf-8")
    for word in WORDS:
        assert re.search(rf'block\("\w+", "{re.escape(word)}"\)', used), word


def test_a_folder_is_refined_by_the_command_and_from_python(maps):
    pytest.importorskip("tqdm")
    folders(maps)
    run(block("sh", "cli,files").splitlines()[1])
    first = Path("refined/a.png").read_bytes()
    exec(compile(block("python", "in pair("), PAGE.name, "exec"), {})
    assert first[:4] == Path("refined/a.png").read_bytes()[:4] == b"\x89PNG"


def test_files_of_one_grid_are_aligned(maps):
    nibabel = pytest.importorskip("nibabel")
    logits, image, _ = maps
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    volume = np.repeat(logits[:, None], 4, 1)
    nibabel.save(nibabel.Nifti1Image(volume.T, affine), "logits.nii.gz")
    guide = np.repeat(image[None, ..., 0], 4, 0)
    nibabel.save(nibabel.Nifti1Image(guide.T, affine), "image.nii.gz")
    names = {}
    code = "from densecrf_rnn import refine\n" + block("python", "aligned(")
    exec(compile(code, PAGE.name, "exec"), names)
    assert names["q"].shape == volume.shape


def test_regions_are_refined_and_scored(maps):
    pytest.importorskip("tqdm")
    Image = pytest.importorskip("PIL.Image")
    truth = folders(maps, "case")
    Path("truth").mkdir()
    for region in range(3):
        Image.fromarray(np.uint8(truth == region)).save(f"truth/case_{region}.png")
    for line in [*block("sh", "class-order").splitlines(), *block("sh", "evaluate").splitlines()]:
        run(line)


def test_huge_images_are_refined_from_files_and_from_python(maps):
    da = pytest.importorskip("dask.array")
    zarr, rasterio = pytest.importorskip("zarr"), pytest.importorskip("rasterio")
    pytest.importorskip("tqdm")
    logits, image, _ = maps
    folders(maps)
    Path("images/a.png").unlink()
    np.save("images/a.npy", image)
    run(block("sh", "--tile").splitlines()[1])
    zarr.save("logits.zarr", logits)
    zarr.save("image.zarr", image)
    where = {"driver": "GTiff", "width": 50, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open("image.tif", "w", crs="EPSG:32633",
                       transform=rasterio.transform.from_origin(0, 0, 10, 10), **where) as file:
        file.write(np.moveaxis(image, -1, 0))  # fmt: skip
    names = {
        "params": PARAMS, "labels": np.zeros((40, 50), np.uint8),
        "logits": da.from_array(logits, chunks=(3, 20, 50)),
        "image": da.from_array(image, chunks=(20, 50, 3)),
    }  # fmt: skip
    exec(compile(block("python", "refine_tiled("), PAGE.name, "exec"), names)
    with rasterio.open("labels.tif") as file:
        assert np.array_equal(file.read(1), names["labels"])
    tiled = np.asarray(names["q"]).argmax(0)
    assert (tiled == names["labels"]).mean() > 0.99

    pytest.importorskip("distributed")
    code = block("python", "tcp://").replace('"tcp://scheduler:8786"', "processes=False")
    try:
        exec(compile(code, PAGE.name, "exec"), names)
    finally:
        names["client"].close()
    assert (zarr.load("labels.zarr") == names["labels"]).mean() > 0.99
