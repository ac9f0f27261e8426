"""Pictures of the page: labels over the image, what changed, and the entropy of the marginals."""

import base64
import io

import numpy as np

from .._typing import Array
from .. import checks, samples


_CHANGED, _FIXED, _BROKEN = (250, 194, 46), (26, 184, 77), (230, 41, 46)
# Colours of an entropy of 0, 1/3, 2/3 and 1.
_ENTROPY = np.array([(13, 8, 35), (120, 28, 109), (237, 105, 37), (252, 255, 164)], np.float32)


def _grey(image: Array) -> Array:
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(luma[..., None], 3, axis=-1)


def labels(image: Array, found: Array) -> Array:
    """Draw labels over an image [H, W, 3]: tinted objects with outlines, a pale background."""
    grey = _grey(image)
    colours = samples.palette()[found.astype(np.intp) % 256].astype(np.float32)
    tinted = 0.15 * image + 0.25 * grey + 0.6 * colours
    out = np.where((found > 0)[..., None], tinted, 64 + 0.7 * grey)
    edge = np.zeros(found.shape, bool)
    edge[:, 1:] |= found[:, 1:] != found[:, :-1]
    edge[1:] |= found[1:] != found[:-1]
    out[edge] = 255
    return out.clip(0, 255).astype(np.uint8)


def difference(image: Array, before: Array, after: Array, truth: Array | None) -> Array:
    """Draw which pixels changed; with the truth, green where right now, red where right before."""
    out = 140 + 0.4 * _grey(image)
    changed = before != after
    out[changed] = _CHANGED
    if truth is not None:
        known = changed & (truth != samples.IGNORE)
        out[known & (after == truth)] = _FIXED
        out[known & (before == truth)] = _BROKEN
    return out.clip(0, 255).astype(np.uint8)


def entropy(values: Array) -> Array:
    """Draw entropies [H, W] in 0..1, from dark (certain) to light."""
    at = values.clip(0, 1) * (len(_ENTROPY) - 1)
    low = np.minimum(at.astype(np.int64), len(_ENTROPY) - 2)
    part = (at - low)[..., None]
    return ((1 - part) * _ENTROPY[low] + part * _ENTROPY[low + 1]).astype(np.uint8)


def uri(picture: Array) -> str:
    """Return a picture as the address of an image in a page."""
    image_module = checks.package("PIL.Image", "explore", "'densecrf-rnn[explore]'")
    room = io.BytesIO()
    image_module.fromarray(picture).save(room, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(room.getvalue()).decode()
