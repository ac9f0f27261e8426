"""Measure seams between tiles by the width of the halo, and rasters up to 20,000 x 20,000 x 4.

docs/refinement.md, "Huge images", shows the results.
"""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from measure import ROWS, Row

from densecrf_rnn import CRFParams, refine, refine_tiled, samples, tiles

IMAGES = ("2007_000033", "2007_000129", "2007_001288")
ITERATIONS = 5
REACHES = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1, 1.5)
CRFS = {
    "30 / 5, w 3": CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3),
    "30 / 5, w 3, symmetric": CRFParams(30, 5, 3, 3, 3, normalization="symmetric"),
    "80 / 13, w 10": CRFParams(theta_alpha=80, theta_beta=13, w_bilateral=10),
}


def mirrored(array, first):
    """Return the array at twice its size, mirrored along the axes `first` and `first + 1`."""
    pad = [(0, 0)] * array.ndim
    for axis in (first, first + 1):
        pad[axis] = (0, array.shape[axis])
    return np.pad(array, pad, mode="symmetric")


@pytest.mark.slow
@pytest.mark.parametrize("name", CRFS)
def test_seams(name):
    """Compare tiles of 128 pixels with the whole image: marginals and changed labels."""
    params = CRFS[name]
    largest = dict.fromkeys(REACHES, 0.0)
    wrong = {part: [] for part in REACHES}
    changed = {part: [] for part in REACHES}
    for name_of_image in IMAGES:
        sample = samples.load(name_of_image)
        logits, image = mirrored(sample.logits, 1), mirrored(sample.image, 0)
        whole = refine(logits, image, params, iterations=ITERATIONS)
        reach = tiles.reach(params, image.shape[:2])
        for part in REACHES:
            halo = tuple(math.ceil(part * r) for r in reach)
            q = refine_tiled(logits, image, params, tile=128, halo=halo, iterations=ITERATIONS)
            error = np.abs(q - whole).max(0)
            largest[part] = max(largest[part], float(error.max()))
            wrong[part].append((error > 0.01).mean())
            changed[part].append((q.argmax(0) != whole.argmax(0)).mean())
    for part in REACHES:
        note = f"labels changed {100 * np.mean(changed[part]):.4f} %, "
        note += f"marginals wrong by more than 0.01 {100 * np.mean(wrong[part]):.3f} %, "
        note += f"largest error {largest[part]:.1e}"
        ROWS.append(Row(f"seams {name}", f"halo of {part:g} support radii", note=note))
    assert list(largest.values()) == sorted(largest.values(), reverse=True)


# --- a large raster ------------------------------------------------------------------------------

RUN = """
import sys
from densecrf_rnn import CRFParams
from densecrf_rnn.files.rasters import refine_raster
logits, image, out = sys.argv[1:4]
refine_raster(
    logits, image, out, CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3), iterations=5,
    threads=int(sys.argv[4]), bands=(1, 2, 3, 4),
)
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(
    "side", [2500, *(pytest.param(n, marks=pytest.mark.slow) for n in (5000, 20_000))], ids=str
)
def test_raster(side, tmp_path):
    """Refine a GeoTIFF of four 8-bit bands with zarr logits of three labels into a GeoTIFF.

    20,000 x 20,000 pixels take 4.4 GB of disk and some minutes.
    """
    logits, image, out = tmp_path / "logits.zarr", tmp_path / "image.tif", tmp_path / "out.tif"
    make(logits, image, side)
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", RUN, logits, image, out, "2"], capture_output=True, text=True
    )
    seconds = time.perf_counter() - begin
    assert result.returncode == 0, result.stderr
    megabytes = float(result.stdout)
    note = f"{seconds / 60:.1f} minutes, {1e6 * seconds / side**2:.2f} us per pixel; peak in all"
    ROWS.append(
        Row(f"raster {side}x{side}x4 L=3 T=5", "refine_raster", 2, memory=megabytes, note=note)
    )
    assert megabytes < 4000


def make(logits, image, side):
    """Write a photograph, mirrored repeatedly, with its grey as a fourth band, and its logits."""
    rasterio, zarr = pytest.importorskip("rasterio"), pytest.importorskip("zarr")
    sample = samples.load(IMAGES[0])
    grey = sample.image.mean(-1, keepdims=True).astype(np.uint8)
    bands = np.concatenate([sample.image, grey], axis=-1)
    order = np.argsort(-sample.logits.mean((1, 2)))[:3]
    scores = sample.logits[order].astype(np.float16)
    block = 1024

    def there(axis, start):
        n = bands.shape[axis]
        at = np.arange(start, min(start + block, side)) % (2 * n)
        return np.minimum(at, 2 * n - 1 - at)

    array = zarr.open_array(
        str(logits), mode="w", shape=(3, side, side), chunks=(3, block, block), dtype="f2"
    )
    where = {
        "crs": "EPSG:32632", "transform": rasterio.transform.from_origin(691000, 5335000, 0.5, 0.5)
    }  # fmt: skip
    with rasterio.open(
        image, "w", driver="GTiff", count=4, width=side, height=side, dtype="uint8",
        tiled=True, blockxsize=256, blockysize=256, **where,
    ) as file:  # fmt: skip
        for top in range(0, side, block):
            for left in range(0, side, block):
                rows, columns = there(0, top), there(1, left)
                part = bands[np.ix_(rows, columns)]
                window = ((top, top + len(rows)), (left, left + len(columns)))
                file.write(np.moveaxis(part, -1, 0), window=window)
                here = (slice(None), slice(*window[0]), slice(*window[1]))
                array[here] = scores[:, rows[:, None], columns]
