"""Inputs of the benchmarks: photographs, a network's logits, a synthetic volume, and parameters.

A `Problem` only names its inputs, so another process can receive it and make them again.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from densecrf_rnn import CRFParams, PermutohedralLattice, kernels, samples

# Wide bandwidths give few vertices, tight ones many. Both normalise as pydensecrf does.
WIDE = CRFParams(80, 13, 3, 10, 3, normalization="symmetric")
TIGHT = CRFParams(160, 3, 3, 5, 3, normalization="symmetric")
# pydensecrf's helpers for volumes order the features by axis.
VOLUME = CRFParams(20, 20, 3, 5, 3, normalization="symmetric", feature_order="yx")

PERSON = "2007_001284"  # the sample that provides the logits: a person fills half of it


@dataclass(frozen=True)
class Problem:
    """An image or volume of some size with logits of L labels, and the CRF that refines them."""

    source: str = "astronaut"
    size: tuple[int, ...] = (500, 500)
    labels: int = 21
    params: CRFParams = WIDE

    @property
    def image(self) -> np.ndarray:
        """Image [*size, C] of uint8."""
        if self.source == "volume":
            return _volume(self.size)
        return _photograph(self.source, self.size)

    @property
    def logits(self) -> np.ndarray:
        """Logits [L, *size] of float32."""
        if self.source == "volume":
            return _volume_logits(self.size, self.labels)
        return _network_logits(self.size, self.labels)

    def features(self, kernel: int = 0) -> np.ndarray:
        """Return the features [N, d] of the bilateral (0) or the spatial (1) kernel."""
        spacing = (1.0,) * len(self.size)
        order = self.params.feature_order
        positions = kernels.positions(self.size, order, spacing, np.float32)
        return kernels.from_params(self.params)[kernel].features(positions, self.image)

    @property
    def vertices(self) -> int:
        """Number of vertices M of the bilateral lattice."""
        return _vertices(self)

    def tiny(self) -> "Problem":
        """Return a problem of the same kind that is small enough to warm up on."""
        return replace(self, size=(24,) * len(self.size))


@functools.cache
def _vertices(problem: Problem) -> int:
    return PermutohedralLattice(problem.features()).num_vertices


@functools.cache
def _photograph(name: str, size: tuple[int, ...]) -> np.ndarray:
    """Return a corner of an image of scikit-image, resized with added noise if it is too small."""
    image = getattr(pytest.importorskip("skimage.data"), name)()
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        transform = pytest.importorskip("skimage.transform")
        image = transform.resize(image, size, order=1, preserve_range=True)
        image += np.random.default_rng(0).normal(0, 2, image.shape)
        image = image.round().clip(0, 255)
    return np.ascontiguousarray(image[: size[0], : size[1]], dtype=np.uint8)


@functools.cache
def _network_logits(size: tuple[int, ...], labels: int) -> np.ndarray:
    """Return a real network's logits for another photograph, resized.

    The network has 21 labels. With fewer, the last one is the maximum of the rest; with more, the
    logits are repeated, lower by 1 each time.
    """
    pytest.importorskip("skimage")
    scores = samples.upsample(samples.load(PERSON).logits, (size[0], size[1]))
    if labels < len(scores):
        return np.concatenate([scores[: labels - 1], scores[labels - 1 :].max(0, keepdims=True)])
    again, first = np.divmod(np.arange(labels), len(scores))
    return scores[first] - again[:, None, None].astype(np.float32)


@functools.cache
def _volume(size: tuple[int, ...]) -> np.ndarray:
    """Return nested ellipsoids, each brighter than the one around it, with noise."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    clean = 40.0 + 50.0 * sum((radius < r).astype(float) for r in (0.9, 0.6, 0.3))
    noisy = clean + np.random.default_rng(0).normal(0, 15, size)
    return noisy.round().clip(0, 255).astype(np.uint8)[..., None]


@functools.cache
def _volume_logits(size: tuple[int, ...], labels: int) -> np.ndarray:
    """Return the log-likelihood of each voxel's intensity under each ellipsoid's."""
    means = 40.0 + 50.0 * np.arange(labels).reshape(-1, *(1,) * len(size))
    return (-((_volume(size)[..., 0] - means) ** 2) / (2 * 30.0**2)).astype(np.float32)
