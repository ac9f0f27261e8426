"""Refine a folder of logits with pydensecrf, as users do it; run by bench_refine.py.

    python benchmarks/pydensecrf_folder.py LOGITS IMAGES OUT [--softmax] [--part I/N]

Inputs and outputs are those of `densecrf-rnn refine`; parameters problems.WIDE, 5 iterations.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from problems import WIDE
from pydensecrf import densecrf
from pydensecrf.utils import unary_from_softmax

from densecrf_rnn import samples
from densecrf_rnn.upsampling import upsample

parser = argparse.ArgumentParser()
parser.add_argument("folders", nargs=3, type=Path)
parser.add_argument("--softmax", action="store_true", help="unaries as in pydensecrf's README")
parser.add_argument("--part", default="0/1", help="every Nth file, beginning with the Ith")
args = parser.parse_args()
logits_folder, images, out = args.folders
part, parts = map(int, args.part.split("/"))
palette = samples.palette().tobytes()

for path in sorted(logits_folder.glob("*.npy"))[part::parts]:
    image = np.array(Image.open(images / f"{path.stem}.jpg"))
    logits = np.load(path).astype(np.float32)
    height, width = image.shape[:2]
    if logits.shape[1:] != (height, width):
        logits = upsample(logits, (height, width), align_corners=True)
    if args.softmax:
        p = np.exp(logits - logits.max(0))
        unary = unary_from_softmax(p / p.sum(0))
    else:
        unary = -logits.reshape(len(logits), -1)
    crf = densecrf.DenseCRF2D(width, height, len(logits))
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=WIDE.theta_gamma, compat=WIDE.w_spatial)
    crf.addPairwiseBilateral(
        sxy=WIDE.theta_alpha, srgb=WIDE.theta_beta, rgbim=image,
        compat=WIDE.w_bilateral,
    )  # fmt: skip
    q = np.array(crf.inference(5))
    picture = Image.fromarray(q.argmax(0).reshape(height, width).astype(np.uint8), mode="P")
    picture.putpalette(palette)
    picture.save(out / f"{path.stem}.png")
