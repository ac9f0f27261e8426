"""Scripts for pydensecrf, as functions of the modules that they import, and how to store results.

With the real package installed (pip install pydensecrf2), `python tests/pydensecrf_scripts.py`
writes what it answers to tests/data/pydensecrf/results.npz.
"""

import importlib
import itertools
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "data" / "pydensecrf"
RESULTS = FOLDER / "results.npz"
PICTURES = (("im1", "anno1"), ("im1", "anno1-b"), ("im3", "anno3"))


def picture(name):
    import skimage.io

    return skimage.io.imread(FOLDER / f"{name}.png")


def coded(colours):
    """One number per pixel from an RGB picture."""
    r, g, b = np.moveaxis(colours[..., :3].astype(np.int64), -1, 0)
    return r + 256 * g + 65536 * b


# --- the published examples ----------------------------------------------------------------------


def inference_example(dcrf, utils, image, annotation, use_2d):
    """The steps of examples/inference.py: marginals, those by steps, and the figure on the way."""
    colours, labels = np.unique(coded(annotation), return_inverse=True)
    unknown = 0 in colours
    count = len(colours) - unknown
    height, width = image.shape[:2]
    unary = utils.unary_from_labels(labels, count, gt_prob=0.7, zero_unsure=unknown)
    options = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NORMALIZE_SYMMETRIC}
    if use_2d:
        d = dcrf.DenseCRF2D(width, height, count)
        d.setUnaryEnergy(unary)
        d.addPairwiseGaussian(sxy=(3, 3), compat=3, **options)
        d.addPairwiseBilateral(
            sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10, **options
        )
    else:
        d = dcrf.DenseCRF(width * height, count)
        d.setUnaryEnergy(unary)
        features = utils.create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2])
        d.addPairwiseEnergy(features, compat=3, **options)
        features = utils.create_pairwise_bilateral(
            sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2
        )
        d.addPairwiseEnergy(features, compat=10, **options)
    whole = np.array(d.inference(5))
    Q, tmp1, tmp2 = d.startInference()
    figures = []
    for _ in range(5):
        figures.append(d.klDivergence(Q))
        d.stepInference(Q, tmp1, tmp2)
    found = colours[unknown:][np.argmax(whole, axis=0)].reshape(height, width)
    return {"marginals": whole, "by steps": np.array(Q), "kl": np.array(figures), "codes": found}


def box_example(dcrf, utils, height=400, width=512):
    """The steps of the notebook on images that are not RGB: a blob, and a box of one channel."""
    y, x = np.mgrid[:height, :width]
    square = (y - height // 2) ** 2 + (x - width // 2) ** 2
    blob = np.exp(-0.5 * square / ((height // 4) * (width // 4)))
    blob = 0.5 + 0.2 * ((blob - blob.min()) / (blob.max() - blob.min()) - 0.5)
    unary = utils.unary_from_softmax(np.stack([blob, 1 - blob]))
    image = np.zeros((height, width, 1), np.uint8)
    image[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4] = 1
    d = dcrf.DenseCRF2D(width, height, 2)
    d.setUnaryEnergy(unary)
    found = {"alone": np.array(d.inference(10))}
    features = utils.create_pairwise_bilateral(
        sdims=(10, 10), schan=(0.01,), img=image, chdim=2
    )
    d.addPairwiseEnergy(features, compat=10)
    Q, tmp1, tmp2 = d.startInference()
    for steps in (5, 20):
        for _ in range(steps):
            d.stepInference(Q, tmp1, tmp2)
        found[f"after {steps}"] = np.array(Q)
    return found


def volume_example(dcrf, utils):
    """The helpers on a volume of one channel, whose voxels lie at round multiples of sdims."""
    volume = np.random.default_rng(0).random((9, 21, 23))
    volume = (volume + np.roll(volume, 1, 0) + np.roll(volume, 1, 1)) / 3
    d = dcrf.DenseCRF(volume.size, 2)
    d.setUnaryEnergy(utils.unary_from_softmax(np.stack([volume, 1 - volume])))
    features = utils.create_pairwise_gaussian((1, 2, 3), volume.shape)
    d.addPairwiseEnergy(features, compat=2, normalization=dcrf.NORMALIZE_AFTER)
    features = utils.create_pairwise_bilateral((3, 5, 5), (0.2,), volume, chdim=-1)
    d.addPairwiseEnergy(features, compat=3)
    return np.array(d.inference(5))


# --- small problems, one option each -------------------------------------------------------------

# Numbers of variables with each remainder of 4: pydensecrf fills up groups of four.
SIZES = (1, 41, 42, 43, 44)
COMPATS = ("number", "vector", "matrix")
NORMALIZATIONS = (
    "NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC",
)  # fmt: skip


def compat_of(form, labels, rng):
    if form == "number":
        return 1.7
    shape = (labels,) if form == "vector" else (labels, labels)
    return rng.normal(size=shape).astype(np.float32)


def small_problem(dcrf, utils, size, form, normalization, labels=3, dims=5):
    """Variables whose lattice reaches the origin, where filling up matters."""
    rng = np.random.default_rng(size)
    features = (0.5 + 0.8 * rng.normal(size=(dims, size))).astype(np.float32)
    d = dcrf.DenseCRF(size, labels)
    d.setUnaryEnergy(rng.normal(size=(labels, size)).astype(np.float32))
    compat = compat_of(form, labels, rng)
    d.addPairwiseEnergy(features, compat, normalization=getattr(dcrf, normalization))
    features = features[:2].copy()
    d.addPairwiseEnergy(features, 0.9, dcrf.FULL_KERNEL, dcrf.NORMALIZE_AFTER)
    return np.array(d.inference(4)), d.klDivergence(d.startInference()[0])


def small_problems(dcrf, utils):
    found = {}
    for case in itertools.product(SIZES, COMPATS, NORMALIZATIONS):
        found["small " + " ".join(map(str, case))], _ = small_problem(dcrf, utils, *case)
    return found


# --- what the real package answers ---------------------------------------------------------------


def write_results():
    dcrf = importlib.import_module("pydensecrf.densecrf")
    utils = importlib.import_module("pydensecrf.utils")
    found = small_problems(dcrf, utils)
    for image, annotation in PICTURES:
        for use_2d in (False, True):
            got = inference_example(dcrf, utils, picture(image), picture(annotation), use_2d)
            labels = got["marginals"].argmax(0).astype(np.uint8)
            found[f"{annotation} {'2d' if use_2d else 'generic'}"] = labels
            found[f"{annotation} {'2d' if use_2d else 'generic'} kl"] = got["kl"]
    found["volume"] = volume_example(dcrf, utils)[0]
    for name, q in box_example(dcrf, utils).items():
        found[f"box {name}"] = q.argmax(0).astype(np.uint8)
    np.savez_compressed(RESULTS, **found)
    print(f"{RESULTS}: {len(found)} results, {RESULTS.stat().st_size} bytes")


if __name__ == "__main__":
    write_results()
