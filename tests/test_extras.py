"""Each extra alone is enough for what README.md says that it is for.

The code runs in a process where only NumPy and the packages that pip would install with the extra
can be imported, so one environment with all of them tests each extra alone.
"""

import configparser
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.cfg").is_file(), reason="the source tree is not here"
)
requirements = pytest.importorskip("packaging.requirements")  # pytest needs it as well

ARRAYS = """
import os
from pathlib import Path
import numpy as np
import densecrf_rnn
rng = np.random.default_rng(0)
logits = rng.normal(size=(3, 20, 25)).astype(np.float32)
image = rng.integers(0, 255, (20, 25, 3), np.uint8)
labels = logits.argmax(0).astype(np.uint8)
def folders():
    for name, array in {"logits": logits, "images": image, "truth": labels}.items():
        os.mkdir(name)
        np.save(f"{name}/a.npy", array)
def command(*arguments):
    from densecrf_rnn.cli import main
    assert main(list(arguments)) == 0
"""

LAYER = """
import torch
head = densecrf_rnn.CRFRNN(3)
tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
assert head(torch.from_numpy(logits)[None], tensor).isfinite().all()
"""

COMMANDS = """
folders()
from PIL import Image
Image.fromarray(image).save("images/a.png")
os.remove("images/a.npy")
command("refine", "logits", "images", "--out", "out")
command("evaluate", "out", "truth", "--plots", "plots")
densecrf_rnn.samples.load("chelsea")
command("demo", "--no-train", "--out", "demo")
"""

FORMATS = """
from densecrf_rnn import files
import h5py, nibabel, safetensors.numpy, zarr
with h5py.File("a.h5", "w") as file:
    file["logits"] = logits
zarr.save("a.zarr", logits)
safetensors.numpy.save_file({"logits": logits}, "a.safetensors")
for name in ("a.h5", "a.zarr", "a.safetensors"):
    np.testing.assert_array_equal(files.read_logits(Path(name)), logits)
nibabel.save(nibabel.Nifti1Image(logits, np.eye(4)), "a.nii.gz")
assert files.read_image(Path("a.nii.gz")).size == logits.size
"""

HUB = LAYER + """
head.save_pretrained("model")
densecrf_rnn.CRFRNN.from_pretrained("model")
"""

RASTERS = """
import rasterio, warnings
from densecrf_rnn.files import refine_raster
for name, array in {"logits": logits, "image": image.transpose(2, 0, 1)}.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where no pixel lies
        with rasterio.open(
            f"{name}.tif", "w", driver="GTiff", count=3, height=20, width=25, dtype=array.dtype
        ) as file:
            file.write(array)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    refine_raster("logits.tif", "image.tif", "out.tif")
    assert rasterio.open("out.tif").shape == (20, 25)
"""

DASK = """
import dask.array, distributed
from densecrf_rnn.distributed import refine_dask
q = refine_dask(dask.array.from_array(logits), dask.array.from_array(image))
assert q.compute(scheduler="threads").shape == logits.shape
"""

SEARCH = "folders()\ncommand('tune', 'logits', 'images', 'truth', '--trials', '2')\n"

PAGE = LAYER + """
import densecrf_rnn.cli.explore, densecrf_rnn.explore.page, nicegui
"""

FCN8S = f"""
import sys
sys.path.insert(0, {str(ROOT / 'examples')!r})
import importlib, pkgutil, fcn8s
import pycocotools.mask, scipy.io
for module in pkgutil.iter_modules(fcn8s.__path__):
    if module.name != "__main__":
        importlib.import_module(f"fcn8s.{{module.name}}")
"""

USES = {
    "torch": LAYER,
    "numba": "densecrf_rnn.refine(logits, image, backend='numba')",
    "cli": COMMANDS,
    "files": FORMATS,
    "hub": HUB,
    "raster": RASTERS,
    "dask": DASK,
    "tune": SEARCH,
    "explore": PAGE,
    "experiments": FCN8S,
}
OTHERS = {"test", "bench", "fuzz", "lint", "docs", "all", "dev"}  # of other extras, or of tools


@pytest.fixture(scope="module")
def extras():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return {name: text.split("\n") for name, text in parser["options.extras_require"].items()}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(lines, extras):
    """Return the names of the packages that pip would install for lines of setup.cfg."""
    found, wanted = set(), [(line, "") for line in lines if line]
    while wanted:
        line, extra = wanted.pop()
        one = requirements.Requirement(line)
        name = canonical(one.name)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        if name == "densecrf-rnn":
            wanted += [(line, "") for of in one.extras for line in extras[of] if line]
            continue
        for of in ("", *one.extras):
            if (name, of) not in found:
                found.add((name, of))
                try:
                    wanted += [(line, of) for line in importlib.metadata.requires(name) or ()]
                except importlib.metadata.PackageNotFoundError:
                    pytest.skip(f"{name} is not installed")
    return {name for name, _ in found}


def test_every_extra_has_a_use(extras):
    assert set(extras) == set(USES) | OTHERS


@pytest.mark.parametrize("extra", USES)
def test_an_extra_alone_is_enough_for_what_it_is_for(extra, extras, tmp_path):
    allowed = with_dependencies(["numpy", *extras[extra]], extras)
    blocked = sorted(
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if not {canonical(name) for name in packages} & {*allowed, "densecrf-rnn"}
        and module.isidentifier()
        and not module.startswith("_")
    )
    assert "pytest" in blocked
    (tmp_path / "use.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n{ARRAYS}{USES[extra]}"
    )
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, env=environment(), capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
