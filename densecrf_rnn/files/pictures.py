"""Pictures, as images or as label maps: Pillow decodes PNG, JPEG and the like, tifffile TIFF."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .arrays import reading, required
from .pairs import extension


_TIFF = (".tif", ".tiff")
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PGM = re.compile(rb"P[25]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)")


def read_picture(path: Path) -> Array:
    """[H, W, C], or [D, H, W, C] of a TIFF of several pages; uint8, or as a TIFF stores it.

    Palettes are resolved, an alpha channel is left out, the orientation in EXIF is not applied:
    what most training code sees.
    """
    if extension(path) in _TIFF:
        pixels, has_alpha, colours = _read_tiff(path)
        if colours is not None:
            return colours[pixels[..., 0]]
        return pixels[..., :-1] if has_alpha else pixels
    _refuse_deep_colour(path)
    image = _opened(path)
    with reading(path, "a picture"):
        if image.mode in ("P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        elif image.mode == "LA":
            image = image.convert("L")
        pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_label_picture(path: Path) -> Array:
    """[H, W], or [D, H, W] of a TIFF of several pages: palette indices or grey values."""
    if extension(path) in _TIFF:
        labels, _, _ = _read_tiff(path)
        if labels.shape[-1] == 1:
            return labels[..., 0]
        mode = f"{labels.shape[-1]} channels"
    else:
        _refuse_deep_colour(path)
        image = _opened(path)
        with reading(path, "a picture"):
            labels = np.asarray(image)
        if labels.dtype == bool:
            labels = labels.astype(np.uint8)
        if labels.ndim == 2:
            return _unstretched(path, labels)
        mode = image.mode
    raise ValueError(
        f"{path}: a label map has one channel, of palette indices or grey values; this is {mode}, "
        "which are colours"
    )


def read_maps(path: Path) -> Array:
    """[L, H, W] of a TIFF with a page, or a channel, per label."""
    if extension(path) not in _TIFF:
        raise ValueError(f"{path}: a picture; logits are an array, or a TIFF of a page per label")
    pixels, _, _ = _read_tiff(path)
    if pixels.ndim == 4 and pixels.shape[-1] > 1:
        raise ValueError(f"{path}: a TIFF of pages with channels; a page per label is wanted")
    return pixels[..., 0] if pixels.ndim == 4 else np.moveaxis(pixels, -1, 0)


def read_palette(path: Path | str) -> Array | None:
    """The colours of a palette picture, uint8 [256, 3]; None of any other file.

    Colours that the file does not define are black.
    """
    path = Path(path)
    if extension(path) != ".png":
        return None
    image = _opened(path)
    if image.mode != "P":
        return None
    stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(stored)] = stored
    return colours


def write_label_png(path: Path, labels: Array, palette: Array) -> None:
    """Labels up to 255 as palette indices, up to 65535 as 16-bit grey values."""
    pictures = required("PIL.Image", "pillow", "cli", path)
    if labels.max(initial=0) > 255:
        picture = pictures.fromarray(labels.astype(np.uint16))
    else:
        picture = pictures.fromarray(labels.astype(np.uint8), mode="P")
        picture.putpalette(palette.tobytes())
    encoded = io.BytesIO()  # Pillow, writing to a file itself, hides why it could not
    # zlib's fastest level: label maps are flat, so the others save little and take longer
    picture.save(encoded, format="png", compress_level=1)
    path.write_bytes(encoded.getbuffer())


def _opened(path: Path) -> Any:
    pictures = required("PIL.Image", "pillow", "cli", path)
    with reading(path, "a picture"):
        with pictures.open(path) as image:
            image.load()
        return image


def _refuse_deep_colour(path: Path) -> None:
    """Pillow would cut 16-bit colours to 8 bits in silence."""
    if extension(path) == ".png":
        with open(path, "rb") as file:
            head = file.read(26)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:25] == b"\x10" and head[25:] != b"\x00":
            raise ValueError(
                f"{path}: PNG with 16 bits per colour, of which the reader keeps 8; save it as "
                "TIFF or .npy"
            )


def _unstretched(path: Path, labels: Array) -> Array:
    """Grey values as the file has them: Pillow stretches shorter scales to 0..255 or 0..65535."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[25:26] == b"\x00":
        most = 2 ** head[24] - 1
    elif pgm := _PGM.match(head):
        most = int(pgm[1])
    else:
        return labels
    full = 255 if most < 256 else 65535
    if most in (1, full):  # 1 bit is not stretched
        return labels
    return np.rint(labels * (most / full)).astype(labels.dtype)


def _read_tiff(path: Path) -> tuple[Array, bool, Array | None]:
    """Pixels, channels last, of one page or several; whether the last channel is alpha; colours.

    Colours, uint8 [N, 3], are those that the pixels of a palette picture stand for.
    """
    tifffile = required("tifffile", "tifffile", "cli", path)
    with reading(path, "a TIFF that tifffile can decode"):
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
            f"{path}: a TIFF of axes {axes}; it must be a picture or a stack of pages of one size"
        )
    return np.ascontiguousarray(pixels), "S" in axes and alpha[-1:] == [True], colours
