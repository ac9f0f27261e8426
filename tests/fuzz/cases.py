"""Random problems: small, of awkward sizes, with every option."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densecrf_rnn import CRFParams, params as options

# Images above a few thousand pixels are cut into strips, which threads share.
LARGE = ((64, 130), (101, 53), (5, 30, 41))
SIZES = ((1, 1), (1, 7), (5, 1), (3, 4), (7, 9), (11, 13), (2, 3, 4), (1, 5, 1), (3, 1, 7))


@dataclass(frozen=True)
class Case:
    """Arguments of `refine` and `mean_field`."""

    logits: np.ndarray  # [L, *S]
    image: np.ndarray  # [*S, C]
    params: CRFParams
    iterations: int
    compatibility: np.ndarray | None
    mask: np.ndarray | None
    spacing: tuple[float, ...] | None
    threads: int
    multilabel: bool = False

    @property
    def size(self):
        return self.logits.shape[1:]

    @property
    def labels(self):
        """Number of labels, of which a single logit has two."""
        return max(2, len(self.logits))

    def scaled_params(self, name, factor):
        """Return the parameters with one bandwidth, or all of its parts, times a factor."""
        theta = getattr(self.params, name)
        new = tuple(factor * t for t in theta) if isinstance(theta, tuple) else factor * theta
        return replace(self.params, **{name: new})

    def keywords(self, **changed) -> dict[str, Any]:
        """Return the keyword arguments of `refine`, some of them changed."""
        given = {
            "compatibility": self.compatibility, "iterations": self.iterations,
            "mask": self.mask, "spacing": self.spacing, "threads": self.threads,
            "multilabel": self.multilabel,
        }  # fmt: skip
        return {**given, **changed}

    def with_params(self, **changed) -> "Case":
        return replace(self, params=replace(self.params, **changed))

    def tolerance(self, float32=2e-3, float64=1e-6):
        """How far marginals, float32, may differ when only the order of sums does."""
        return float32 if self.logits.dtype == np.float32 else float64


def one_of(rng, choices):
    return choices[rng.integers(len(choices))]


def log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_case(rng, threads=2, large=0.0):
    """Draw a problem; weights are moderate, so that rounding errors stay small.

    `threads` is the largest number of threads, `large` the probability of a large image.
    """
    size = one_of(rng, LARGE if rng.random() < large else SIZES)
    labels = int(rng.integers(1, 7))
    dtype = one_of(rng, (np.float32, np.float64))
    logits = (rng.normal(size=(labels, *size)) * one_of(rng, (0.1, 2.0, 30.0))).astype(dtype)
    if labels > 1 and rng.random() < 0.2:  # rule labels out, never all of a pixel
        ruled_out = rng.random(logits.shape) < 0.3
        ruled_out[0] = False
        logits[ruled_out] = -np.inf
    channels = int(rng.integers(1, 5))
    unit = log_uniform(rng, 1e-3, 1e3)
    image = rng.normal(size=(*size, channels)) * unit
    kind = one_of(rng, (np.float32, np.float64, np.uint8, np.int16))
    if np.dtype(kind).kind in "iu":
        unit, image = 50.0, rng.integers(0, 256, image.shape)
    quality = one_of(rng, options.QUALITIES)
    if channels + len(size) > 4:
        quality = one_of(rng, ("standard", "symmetric"))
    multilabel = bool(rng.random() < 0.2)
    count = labels if multilabel else max(2, labels)
    per_label = rng.random() < 0.3
    weights = [
        tuple(rng.uniform(-1, 3, count)) if per_label else float(rng.uniform(0, 3))
        for _ in range(2)
    ]

    def theta(number, parts):  # one, or one for each axis or channel
        if rng.random() < 0.7:
            return number
        return tuple(number * rng.uniform(0.5, 2, parts))

    params = CRFParams(
        theta_alpha=theta(log_uniform(rng, 0.5, 200), len(size)),
        theta_beta=theta(unit * log_uniform(rng, 0.1, 30), channels),
        theta_gamma=theta(log_uniform(rng, 0.3, 20), len(size)),
        w_bilateral=weights[0], w_spatial=weights[1],
        normalization=one_of(rng, ("after", "before", "symmetric")),
        self_term=bool(rng.random() < 0.7), feature_order=one_of(rng, options.FEATURE_ORDERS),
        spatial=one_of(rng, options.SPATIAL_FILTERS), quality=quality,
    )  # fmt: skip
    mask = None
    if rng.random() < 0.3:
        mask = rng.random(size) < one_of(rng, (0.1, 0.7, 1.1))
    return Case(
        logits, image.astype(kind), params, int(rng.integers(0, 4)),
        rng.normal(size=(count, count)) if rng.random() < 0.3 and not multilabel else None, mask,
        tuple(rng.uniform(0.3, 3, len(size))) if rng.random() < 0.3 else None,
        int(rng.integers(1, threads + 1)), multilabel,
    )  # fmt: skip


def random_features(rng, most=8):
    """Draw feature rows [N, D]: scattered, repeated, constant, far apart or on a grid.

    `most` is the largest number D of columns.
    """
    points, dims = int(one_of(rng, (1, 2, 3, 17, 31))), int(rng.integers(1, most + 1))
    rows = rng.normal(size=(points, dims)) * log_uniform(rng, 0.01, 100)
    kind = one_of(rng, ("scattered", "scattered", "repeated", "constant", "far", "grid"))
    if kind == "repeated":
        rows = rows[rng.integers(0, 1 + points // 4, points)]
    elif kind == "constant":
        rows[:] = rows[0]
    elif kind == "far":
        rows += rng.choice([-1000.0, 0.0, 1000.0], (points, 1))
    elif kind == "grid":
        rows = np.rint(rows)
    return rows.astype(one_of(rng, (np.float32, np.float64)))
