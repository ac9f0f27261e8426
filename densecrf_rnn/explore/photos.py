"""Photographs of the user's own: read, and made small enough to refine while one waits."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import checks, files
from ..files import formats
from ..kernels import leading
from ..params import CRFParams

MOST_BYTES = 50_000_000  # of an uploaded file
_MOST_PIXELS = 100_000_000  # of an uploaded photograph, which takes some 10 bytes for each
_UPLOADS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LONGEST = 1000  # side of an uploaded photograph; longer ones are reduced
_USUAL = 500  # longest side of the photographs that the demo's bandwidths were chosen on


def read_whole(path: Path) -> Array:
    """Read a photograph as RGB [H, W, 3] of uint8, of its own size.

    Raises
    ------
    OSError, ImportError, ValueError
        The file cannot be read, or is no picture of 8 bits; the message names it.
    """
    image = files.read_image(path, exif="apply")  # as viewers do
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"{path}: is {image.dtype} of shape {image.shape}; give a photograph of 8 bits a "
            "channel, such as JPEG or PNG (for other data: densecrf-rnn refine)"
        )
    return rgb(image)


def read_upload(path: Path) -> Array:
    """Read an uploaded photograph of bounded size as RGB [H, W, 3] of uint8, reduced if large.

    Raises
    ------
    OSError, ImportError, ValueError
        As `read_whole`; also for a file of another kind, or of too many pixels, by its header.
    """
    if path.suffix.lower() not in _UPLOADS:
        raise ValueError(f"{path}: is no photograph; give JPEG, PNG, WebP or BMP")
    height, width = formats.read(path, "shape")
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"{path}: has {width} x {height} pixels; the page takes at most "
            f"{_MOST_PIXELS // 10**6} million, so reduce it first"
        )
    return reduced(read_whole(path), _LONGEST)


def rgb(image: Array) -> Array:
    """Return an image [H, W, C] with three channels: the first three, or the first repeated."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def reduced(image: Array, longest: int) -> Array:
    """Return an image [H, W, 3] of uint8 of at most `longest` pixels a side."""
    side = max(image.shape[:2])
    if side <= longest:
        return np.ascontiguousarray(image)
    pillow = checks.package("PIL.Image", "reducing a picture", "'densecrf-rnn[cli]'")
    height, width = (max(1, round(n * longest / side)) for n in image.shape[:2])
    small = pillow.fromarray(np.ascontiguousarray(image)).resize(  # in 8 bits: it may be large
        (width, height), pillow.Resampling.BILINEAR, reducing_gap=3
    )
    return np.asarray(small)


def for_size(params: CRFParams, image: Array) -> CRFParams:
    """Return parameters whose bandwidths of position suit an image larger than _USUAL."""
    by = max(1.0, max(image.shape[:2]) / _USUAL)
    alpha, gamma = leading(params.theta_alpha), leading(params.theta_gamma)
    return replace(params, theta_alpha=round(by * alpha, 1), theta_gamma=round(by * gamma, 1))
