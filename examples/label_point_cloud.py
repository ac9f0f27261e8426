"""Clean the labels of a point cloud: points without a grid, refined by their own features.

The cloud is a floor with two balls on it, of other colours; scores are noisy. Features are
coordinates and colours, each divided by its bandwidth.
"""

import numpy as np

from densecrf_rnn import CRFParams, refine

rng = np.random.default_rng(0)
ball = rng.normal(size=(2, 1500, 3))
ball /= np.linalg.norm(ball, axis=-1, keepdims=True)  # of radius 1, in metres
ball += np.array([[-1.5, 0.0, 1.0], [1.5, 0.5, 1.0]])[:, None]
floor = np.column_stack([rng.uniform(-4, 4, (3000, 2)), np.zeros(3000)])
points = np.concatenate([floor, *ball])
truth = np.repeat([0, 1, 2], [3000, 1500, 1500])
palette = np.array([[90, 90, 90], [180, 60, 50], [60, 70, 190]])
colours = palette[truth] + rng.normal(0, 25, (6000, 3))
scores = (truth == np.arange(3)[:, None]) + rng.normal(0, 1, (3, 6000))  # [L, N]

features = np.column_stack([points / 0.3, colours / 40])  # [N, 6]: 0.3 m, 40 of 255
labels = refine(scores, features=features, params=CRFParams(w_bilateral=5), labels=True)
for name, found in (("scores alone", scores.argmax(0)), ("refined", labels)):
    print(f"{name}: {100 * (found == truth).mean():.1f} % of {len(points)} points correct")
