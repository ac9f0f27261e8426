"""What is measured on: photographs, a network's logits, a synthetic volume, and parameters.

A `Problem` is a name for its inputs, so it can be sent to another process, which makes them anew.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from densecrf_rnn import CRFParams, PermutohedralLattice, kernels, samples

# Smooth bandwidths, few vertices; and narrow ones, many. Both as pydensecrf normalises.
WIDE = CRFParams(80, 13, 3, 10, 3, normalization="symmetric")
TIGHT = CRFParams(160, 3, 3, 5, 3, normalization="symmetric")
# pydensecrf's helpers for volumes order the features by axis.
VOLUME = CRFParams(20, 20, 3, 5, 3, normalization="symmetric", feature_order="yx")

PERSON = "2007_001284"  # the sample whose logits serve: a person fills half of it


@dataclass(frozen=True)
class Problem:
    """A picture or volume of some size with logits of L labels, and the CRF that refines them."""

    picture: str = "astronaut"
    size: tuple[int, ...] = (500, 500)
    labels: int = 21
    params: CRFParams = WIDE

    @property
    def image(self) -> np.ndarray:
        """[*size, C] of uint8."""
        if self.picture == "volume":
            return _volume(self.size)
        return _photograph(self.picture, self.size)

    @property
    def logits(self) -> np.ndarray:
        """[L, *size] of float32."""
        if self.picture == "volume":
            return _volume_logits(self.size, self.labels)
        return _network_logits(self.size, self.labels)

    def features(self, kernel: int = 0) -> np.ndarray:
        """[N, d] of the bilateral (0) or the spatial (1) kernel."""
        spacing = (1.0,) * len(self.size)
        order = self.params.feature_order
        positions = kernels.positions(self.size, order, spacing, np.float32)
        return kernels.from_params(self.params)[kernel].features(positions, self.image)

    @property
    def vertices(self) -> int:
        """M of the bilateral lattice."""
        return _vertices(self)

    def tiny(self) -> "Problem":
        """The same kind of problem, small enough to warm up on."""
        return replace(self, size=(24,) * len(self.size))


@functools.cache
def _vertices(problem: Problem) -> int:
    return PermutohedralLattice(problem.features()).num_vertices


@functools.cache
def _photograph(name: str, size: tuple[int, ...]) -> np.ndarray:
    """A corner of scikit-image's picture; enlarged, with noise to make up for the smoothing."""
    image = getattr(pytest.importorskip("skimage.data"), name)()
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        transform = pytest.importorskip("skimage.transform")
        image = transform.resize(image, size, order=1, preserve_range=True)
        image += np.random.default_rng(0).normal(0, 2, image.shape)
        image = image.round().clip(0, 255)
    return np.ascontiguousarray(image[: size[0], : size[1]], dtype=np.uint8)


@functools.cache
def _network_logits(size: tuple[int, ...], labels: int) -> np.ndarray:
    """Scores of a real network for another photograph, stretched to the size.

    Fewer labels than its 21: the last one is the best of the rest. More: all again, one lower.
    """
    pytest.importorskip("skimage")
    scores = samples.upsample(samples.load(PERSON).logits, (size[0], size[1]))
    if labels < len(scores):
        return np.concatenate([scores[: labels - 1], scores[labels - 1 :].max(0, keepdims=True)])
    again, first = np.divmod(np.arange(labels), len(scores))
    return scores[first] - again[:, None, None].astype(np.float32)


@functools.cache
def _volume(size: tuple[int, ...]) -> np.ndarray:
    """Nested ellipsoids, each brighter than the one around it, and noise."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    clean = 40.0 + 50.0 * sum((radius < r).astype(float) for r in (0.9, 0.6, 0.3))
    noisy = clean + np.random.default_rng(0).normal(0, 15, size)
    return noisy.round().clip(0, 255).astype(np.uint8)[..., None]


@functools.cache
def _volume_logits(size: tuple[int, ...], labels: int) -> np.ndarray:
    """How well the intensity of a voxel fits each ellipsoid."""
    means = 40.0 + 50.0 * np.arange(labels).reshape(-1, *(1,) * len(size))
    return (-((_volume(size)[..., 0] - means) ** 2) / (2 * 30.0**2)).astype(np.float32)
