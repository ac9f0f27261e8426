"""Measure the refinement of a folder: `densecrf-rnn refine`, its engine alone, and pydensecrf.

    pytest benchmarks/bench_refine.py --images 200

Scripts are timed from the start of a process to its end, with files in the page cache. The samples,
resized to 500 x 500 and repeated, are stored twice: "full", as float16 logits of that size
(10.5 MB each), and "coarse", as the network's output on a grid of 33 x 33 (46 kB). The time of the
engine alone is that of the same refinements on arrays in memory.
"""

import importlib.util
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from measure import ROWS, Row
from problems import WIDE

from densecrf_rnn import PermutohedralLattice, files, kernels, refine, samples
from densecrf_rnn.upsampling import upsample

SIZE, GRID = (500, 500), (33, 33)
OPTIONS = [
    "--theta-alpha", WIDE.theta_alpha, "--theta-beta", WIDE.theta_beta,
    "--theta-gamma", WIDE.theta_gamma, "--w-bilateral", WIDE.w_bilateral,
    "--w-spatial", WIDE.w_spatial, "--normalization", WIDE.normalization, "--iterations", 5,
]  # fmt: skip
PEER = ("pydensecrf script", 1)
OURS = "densecrf-rnn refine, "
TURNS = 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, request):
    """Make a folder with images/, full/ and coarse/; also return the arrays of its first files."""
    image_module = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("folder")
    for name in ("images", "full", "coarse"):
        (folder / name).mkdir()
    arrays = []
    count = request.config.getoption("--images")
    for i, (image, coarse) in enumerate(islice(_images(), count)):
        image_module.fromarray(image).save(folder / "images" / f"{i:03}.jpg", quality=95)
        full = upsample(coarse, SIZE, align_corners=True).astype(np.float16)
        np.save(folder / "full" / f"{i:03}.npy", full)
        np.save(folder / "coarse" / f"{i:03}.npy", coarse.astype(np.float16))
        image = files.read_image(folder / "images" / f"{i:03}.jpg")
        arrays.append((full.astype(np.float32), image))
    for i in range(len(arrays), count):
        for name, end in (("images", "jpg"), ("full", "npy"), ("coarse", "npy")):
            of = folder / name / f"{i % len(arrays):03}.{end}"
            shutil.copyfile(of, folder / name / f"{i:03}.{end}")
    yield folder, arrays, count
    shutil.rmtree(folder)


def _images():
    """Yield each sample's image [500, 500, 3] and coarse logits [21, 33, 33] that cover it."""
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(0)
    for name in samples.names():
        image = transform.resize(samples.load(name).image, SIZE, order=1, preserve_range=True)
        image += rng.normal(0, 2, image.shape)  # replaces the noise that resizing smoothed
        with np.load(Path(samples.__file__).parent / f"{name}.logits.npz") as stored:
            coarse = (stored["q"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
        yield image.round().clip(0, 255).astype(np.uint8), coarse.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["full", "coarse"])
def test_folder(inputs, stored):
    """Measure milliseconds per image with the start of the process, in turn (A B A B)."""
    folder, arrays, count = inputs
    case = f"folder of 500x500 wide L=21 T=5, {stored}"
    vertices = _vertices(arrays)
    works = _engine(arrays, count)
    in_a_row, at_once = works
    works |= _scripts(folder, stored)
    works |= _ours(folder, stored)
    seconds = {key: [] for key in works}
    for _ in range(TURNS):
        for key, work in works.items():
            begin = time.perf_counter()
            work()
            seconds[key].append(time.perf_counter() - begin)

    middle = {key: statistics.median(times) for key, times in seconds.items()}
    for key, times in seconds.items():
        row = Row(case, *key, vertices, [1e3 * s / count for s in times])
        row.note = f"{count / middle[key]:.2f} images/s"
        if PEER in works and key != PEER:
            row.against, row.ratio = PEER[0], middle[PEER] / middle[key]
        ROWS.append(row)
        spatial = key[0].removeprefix(OURS)
        if spatial == key[0]:
            continue
        row.note += f", {middle[in_a_row] / middle[key]:.0%} of {in_a_row[0]}"
        row.note += f", {middle[at_once] / middle[key]:.0%} of {at_once[0]}"
        out = folder / "out" / spatial
        assert len(list(out.glob("*.png"))) == count
        if PEER in works:
            agreement = _agreement(out, folder / "out" / PEER[0])
            row.note += f", labels of pydensecrf {agreement:.3%}"
            assert spatial == "grid" or agreement > 0.9999


def _ours(folder, stored):
    """Prepare `densecrf-rnn refine` with both spatial filters; "lattice" equals pydensecrf's."""
    works = {}
    for spatial in ("lattice", "grid"):
        out = folder / "out" / spatial
        command = [sys.executable, "-m", "densecrf_rnn", "refine", folder / stored,
                   folder / "images", "-o", out, "--spatial", spatial, *OPTIONS,
                   *(["--upsample", "corners"] if stored == "coarse" else [])]  # fmt: skip
        works[OURS + spatial, 2] = partial(_run_all, [command], out)
    return works


def _scripts(folder, stored):
    """Prepare pydensecrf in one process and in two, and with the unaries of its README."""
    if importlib.util.find_spec("pydensecrf") is None:
        return {}
    variants = {PEER: [], ("the same, 2 processes", 2): []}
    if stored == "full":
        variants["the same, README's softmax", 1] = ["--softmax"]
    works = {}
    for (who, processes), more in variants.items():
        out = folder / "out" / who
        script = [sys.executable, Path(__file__).with_name("pydensecrf_folder.py"),
                  folder / stored, folder / "images", out, *more]  # fmt: skip
        parts = [[*script, "--part", f"{i}/{processes}"] for i in range(processes)]
        works[who, processes] = partial(_run_all, parts, out)
    return works


def _engine(arrays, count):
    """Prepare the same refinements on arrays: one call at a time on two threads, or two calls."""

    def one(i, threads):
        logits, image = arrays[i % len(arrays)]
        refine(logits, image, WIDE, iterations=5, threads=threads)

    def in_a_row():
        for i in range(count):
            one(i, 2)

    def two_at_once():
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda i: one(i, 1), range(count)))

    one(0, 2)  # warm up
    return {("engine, 2 threads", 2): in_a_row, ("engine, 2 calls at once", 2): two_at_once}


def _vertices(arrays):
    """Return the mean number of vertices of the bilateral lattices."""
    kernel, _ = kernels.from_params(WIDE)
    positions = kernels.positions(SIZE, "xy", (1.0, 1.0), np.float32)
    found = [PermutohedralLattice(kernel.features(positions, i)).num_vertices for _, i in arrays]
    return int(np.mean(found))


def _agreement(ours, theirs):
    pairs = [(files.read_labels(path), files.read_labels(theirs / path.name))
             for path in ours.glob("*.png")]  # fmt: skip
    return np.mean([a == b for a, b in pairs])


def _run_all(commands, out):
    """Run all commands at the same time, with an empty output folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    running = [subprocess.Popen([*map(str, c)], stdout=subprocess.DEVNULL) for c in commands]
    assert [process.wait() for process in running] == [0] * len(running)
