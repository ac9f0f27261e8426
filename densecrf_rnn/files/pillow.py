"""PNG, JPEG and other 2-D images as images or label maps, decoded by Pillow."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import samples
from .._atomic import replaced
from .._typing import Array
from .paths import required

_GAP = rb"(?:\s|#[^\n]*\n)+"
_PGM = re.compile(rb"P[25]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)")
_PNG = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _COLOUR_TYPE = slice(24, 25), slice(25, 26)  # where a PNG file stores them
_GREY = b"\0"  # colour type of a PNG without colours
_MAX_INDEX, _MAX_GREY = 255, 65535  # the largest palette index and grey value of a PNG


def read_image(path: Path) -> Array:
    """Read an image [H, W, C]: uint8, or 16-bit grey values.

    As in most training code, palette indices are replaced by their colours, an alpha channel is
    dropped, and the orientation in EXIF is ignored.
    """
    image = _open(path)
    if image.mode in ("P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "LA":
        image = image.convert("L")
    pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_labels(path: Path) -> Array:
    """Read a label map [H, W]: palette indices or grey values."""
    image = _open(path)
    labels = np.asarray(image)
    if labels.ndim != 2:
        raise ValueError(
            f"{path}: has the colours of {image.mode}; a label map has one channel, of palette "
            "indices or grey values"
        )
    return _unscaled(path, labels.astype(np.uint8) if labels.dtype == bool else labels)


def read_palette(path: Path) -> Array | None:
    """Read the colours of a palette image, uint8 [256, 3]; None for other images.

    Colours that the file does not define are black.
    """
    image = _open(path)
    if image.mode != "P":
        return None
    stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(stored)] = stored
    return colours


def write_labels(path: Path, labels: Array, palette: Array | None, like: Path | None) -> None:
    """Write labels [H, W] to a PNG; the default palette is that of Pascal VOC."""
    most = labels.max(initial=0)
    if labels.ndim != 2 or most > _MAX_GREY:
        raise ValueError(
            f"{path}: PNG holds labels 0..{_MAX_GREY} in two axes, not {most} in {labels.ndim}; "
            "write .npz or .nii.gz"
        )
    with replaced(path) as partial:
        write_label_png(partial, labels, samples.palette() if palette is None else palette)


def write_label_png(path: Path, labels: Array, palette: Array) -> None:
    """Write labels up to 255 as palette indices, up to 65535 as 16-bit grey values."""
    pillow = required("PIL.Image", "cli", path)
    if labels.max(initial=0) > _MAX_INDEX:
        image = pillow.fromarray(labels.astype(np.uint16))
    else:
        image = pillow.fromarray(labels.astype(np.uint8), mode="P")
        image.putpalette(palette.tobytes())
    encoded = io.BytesIO()  # if Pillow itself writes the file, it hides why a write failed
    # zlib's fastest level: higher levels take longer and save little space on label maps
    image.save(encoded, format="png", compress_level=1)
    path.write_bytes(encoded.getbuffer())


def _open(path: Path) -> Any:
    pillow = required("PIL.Image", "cli", path)
    with open(path, "rb") as file:
        head = file.read(26)
    deep = head.startswith(_PNG) and head[_BIT_DEPTH] == b"\x10"
    if deep and head[_COLOUR_TYPE] != _GREY:
        raise ValueError(
            f"{path}: PNG with 16 bits per colour, of which Pillow keeps only 8; save it as TIFF "
            "or .npy"
        )
    with pillow.open(path) as image:
        image.load()
    return image


def _unscaled(path: Path, labels: Array) -> Array:
    """Undo Pillow's scaling: it maps grey ranges such as 0..15 to 0..255 or 0..65535."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(_PNG) and head[_COLOUR_TYPE] == _GREY:
        most = 2 ** head[_BIT_DEPTH][0] - 1
    elif pgm := _PGM.match(head):
        most = int(pgm[1])
    else:
        return labels
    full = _MAX_INDEX if most <= _MAX_INDEX else _MAX_GREY
    if most in (1, full):  # 1 bit is not scaled
        return labels
    return np.rint(labels * (most / full)).astype(labels.dtype)
