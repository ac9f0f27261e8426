"""Remove flicker from the labels of a video: time is the first axis of a volume [T, H, W].

The clip is made here: a ball flies over a wall, and scores are noisy, differently in each frame. A
CRF per frame cannot tell which frame errs; a CRF over the volume can. `spacing` says how many
pixels one step in time counts as: less for a slow scene, more for a fast one.

Flicker is the share of pixels that change their label from one frame to the next although their
true label does not.
"""

import numpy as np

from densecrf_rnn import CRFParams, refine

FRAMES, HEIGHT, WIDTH = 24, 60, 80
rng = np.random.default_rng(0)
time, row, column = np.ogrid[:FRAMES, :HEIGHT, :WIDTH]
truth = ((row - 20 - time / 2) ** 2 + (column - 15 - 2 * time) ** 2 < 14**2).astype(int)
image = np.where(truth[..., None], [200, 90, 60], [90, 110, 120])
image = image + rng.normal(0, 20, image.shape)  # [T, H, W, C]
# A network's errors cover patches, which are others in the next frame.
errors = np.kron(rng.normal(size=(FRAMES, HEIGHT // 10, WIDTH // 10)), np.ones((1, 10, 10)))
foreground = 2 * truth - 1 + 1.3 * errors
scores = np.stack([np.zeros_like(foreground), foreground])  # [L, T, H, W]


def report(name, labels):
    still = truth[1:] == truth[:-1]
    flicker = 100 * (labels[1:] != labels[:-1])[still].mean()
    print(f"{name}: flicker {flicker:.2f} %, {100 * (labels == truth).mean():.1f} % correct")


params = CRFParams(theta_alpha=10, theta_beta=30, theta_gamma=3, w_bilateral=5, w_spatial=1)
report("scores alone", scores.argmax(0))
frames = [refine(scores[:, t], image[t], params, labels=True) for t in range(FRAMES)]
report("each frame by itself", np.stack(frames))
report("frames as a volume", refine(scores, image, params, spacing=(2, 1, 1), labels=True))
