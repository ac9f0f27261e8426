"""TIFF files as images, label maps or logits, decoded by tifffile."""

from pathlib import Path

import numpy as np

from .._typing import Array
from .paths import required


def read_image(path: Path) -> Array:
    """Read an image [H, W, C], or [D, H, W, C] from several pages, in the stored dtype.

    Palette indices are replaced by their colours; an alpha channel is dropped.
    """
    pixels, has_alpha, colours = _read(path)
    if colours is not None:
        return colours[pixels[..., 0]]
    return pixels[..., :-1] if has_alpha else pixels


def read_labels(path: Path) -> Array:
    """Read a label map [H, W], or [D, H, W] from several pages: palette indices or grey values."""
    labels, _, _ = _read(path)
    if labels.shape[-1] != 1:
        raise ValueError(
            f"{path}: has {labels.shape[-1]} channels, which are colours; a label map has one "
            "channel, of palette indices or grey values"
        )
    return labels[..., 0]


def read_scores(path: Path) -> Array:
    """Read logits or probabilities [L, H, W] from a file with a page, or a channel, per label."""
    pixels, _, _ = _read(path)
    if pixels.ndim == 4 and pixels.shape[-1] > 1:
        raise ValueError(f"{path}: has several pages with channels; save one page per label")
    return pixels[..., 0] if pixels.ndim == 4 else np.moveaxis(pixels, -1, 0)


def _read(path: Path) -> tuple[Array, bool, Array | None]:
    """Return pixels with channels last, whether the last channel is alpha, and the palette.

    The palette, uint8 [N, 3], is None unless the pixels are palette indices.
    """
    tifffile = required("tifffile", "cli", path)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        page = series.pages[0]
        pixels, axes = series.asarray(), series.axes
        alpha = [int(kind) in (1, 2) for kind in page.extrasamples]
        colours = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            colours = (page.colormap >> 8).astype(np.uint8).T
    if "S" in axes:
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
    else:
        pixels = pixels[..., None]
    if pixels.ndim not in (3, 4):
        raise ValueError(
            f"{path}: a TIFF with axes {axes}; it must be one image, or pages of one size"
        )
    return np.ascontiguousarray(pixels), "S" in axes and alpha[-1:] == [True], colours
