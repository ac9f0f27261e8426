"""Refine class scores that a network saved earlier; neither torch nor the network is needed.

Save the scores of a sample image as .npy, as your network would, read them back, refine them with
the image, and write the label map as an image in the colours of Pascal VOC.
"""

import tempfile
from pathlib import Path

import numpy as np
from skimage import io

from densecrf_rnn import CRFParams, metrics, refine, samples

sample = samples.load("2007_000033")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "logits.npy"
    np.save(path, sample.logits)
    logits = np.load(path)  # [21, H, W], float32, before the softmax

params = CRFParams(theta_alpha=30, theta_beta=5, normalization="symmetric")
marginals = refine(logits, sample.image, params, iterations=5)  # [21, H, W]

for name, scores in (("before", logits), ("after", marginals)):
    confusion = metrics.confusion_matrix(sample.truth, scores.argmax(0), labels=21)
    print(f"{name}: {100 * metrics.pixel_accuracy(confusion):.1f} % of pixels correct")

labels = marginals.argmax(0)
io.imsave("labels.png", samples.palette()[labels], check_contrast=False)
print("wrote labels.png")
