"""PNG, JPEG and other 2-D images as images or label maps, decoded by Pillow."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import samples
from .._atomic import replaced
from .._typing import Array
from . import netpbm, sizes
from .label_values import check_opaque, grey
from .paths import required

Palette = Array | Literal["none"] | None

_PNG = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _COLOUR_TYPE = slice(24, 25), slice(25, 26)  # where a PNG file stores them
_GREY = b"\0"  # colour type of a PNG without colours
_SALIENCY = ("Content", "probability of the foreground")  # text in PNG files of probabilities
_NO_DATA = "NoData"  # text in PNG files of labels: the value of pixels without data
_ONE_CHANNEL = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes of Pillow
_DECODERS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")  # Pillow's names; others may run programs
_MAX_INDEX, MAX_GREY = 255, 65535  # the largest palette index and grey value of a PNG


def read_image(path: Path) -> Array:
    """Read an image [H, W, C]: uint8, or 16-bit grey values.

    As in most training code, palette indices are replaced by their colours and an alpha channel is
    dropped. The pixels are as stored; `exif.upright` turns them.
    """
    image = _open(path)
    pixels = _samples(path, image)
    pixels = _full_range(image) if pixels is None else pixels
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _full_range(image: Any) -> Array:
    """Return an image's grey values or colours, which Pillow stretches to 8 or 16 bits."""
    if image.mode in ("P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "LA":
        image = image.convert("L")
    pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels


def _samples(path: Path, image: Any) -> Array | None:
    """Return the pixels of a PGM or PPM as they are stored; None for other files."""
    return netpbm.read_samples(path) if image.format == "PPM" else None


def read_labels(path: Path) -> Array:
    """Read a label map [H, W]: palette indices, or grey values, also of a file of colours."""
    image = _open(path)
    if image.info.get(_SALIENCY[0]) == _SALIENCY[1]:
        raise ValueError(
            f"{path}: holds probabilities of the foreground, not labels; pass kind='probabilities'"
        )
    one = image.mode in _ONE_CHANNEL
    stored = _samples(path, image)
    if stored is None:
        stored = np.asarray(image) if one else _with_alpha(image)
    labels = stored if one else grey(path, stored)
    lossy = _lossy_format(path, image)
    if lossy is not None and not _is_clear(found := np.unique(labels)):
        raise ValueError(
            f"{path}: holds {len(found)} values, but {lossy} changes labels where they meet; save "
            f"label maps and masks as PNG, from before they became {lossy} or with a threshold. "
            "For probabilities of the foreground, pass kind='probabilities'"
        )
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    return _unscaled(path, labels) if one else labels


def _is_clear(values: Array) -> bool:
    """Return whether a lossy file with these values can hold what was saved: black and white."""
    return len(values) < 2 or (len(values) == 2 and values[0] == 0 and values[1] > _MAX_INDEX // 2)


def _lossy_format(path: Path, image: Any) -> str | None:
    """Return the name of the format if it stores other pixels than those saved, else None."""
    if image.format == "WEBP":
        return "lossy WebP" if _is_lossy_webp(path.read_bytes()) else None
    return "JPEG" if image.format == "JPEG" else None


def _is_lossy_webp(content: bytes) -> bool:
    """Return whether the first image of a WebP, alone or of an animation, is compressed lossily."""
    at = 12  # chunks follow "RIFF", the size and "WEBP": a name, a size, and the data
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
        # a frame of an animation holds chunks itself, after 16 bytes; data end at an even byte
        at += 8 + (16 if name == b"ANMF" else size + size % 2)
    return False


def read_colours(path: Path) -> Array | None:
    """Read the colours of a label map, uint8 [H, W, 3]; None if its values are labels.

    The values of a file of one channel are labels, as are palette indices if the palette is Pascal
    VOC's, with which label maps are written by default; other palettes say which colour is meant.
    """
    image = _open(path)
    if image.mode == "P":
        if np.array_equal(_palette(image), samples.palette()):
            return None
    elif image.mode in _ONE_CHANNEL or image.mode == "LA":
        return None
    pixels = _with_alpha(image)
    check_opaque(path, pixels)
    return pixels[..., :3]


def read_nodata(path: Path) -> int | None:
    """Read the value of pixels without data in a label map; None if it is not marked."""
    with opened(path) as image:
        image.load()  # a text may follow the pixels
        found = str(image.info.get(_NO_DATA, ""))
    return int(found) if found.isdecimal() else None


def is_saliency(path: Path) -> bool:
    """Return whether a text in a PNG file says that it holds probabilities, as `write_saliency`."""
    if path.suffix.lower() != ".png":
        return False
    with opened(path) as image:
        image.load()  # a text may follow the pixels
        return bool(image.info.get(_SALIENCY[0]) == _SALIENCY[1])


def read_palette(path: Path) -> Array | None:
    """Read the colours of a palette image, uint8 [256, 3]; None for other images.

    Colours that the file does not define are black.
    """
    image = _open(path)
    return _palette(image) if image.mode == "P" else None


def _palette(image: Any) -> Array:
    stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(stored)] = stored
    return colours


def read_maps(path: Path) -> Array:
    """Read grey values as one map of probabilities [1, H, W], uint8 or uint16."""
    pixels = np.atleast_3d(_full_range(_open(path)))  # of which the largest value stands for 1
    if (pixels != pixels[..., :1]).any():
        raise ValueError(f"{path}: holds colours; probabilities of the foreground are grey values")
    if pixels.dtype == np.int32:  # Pillow's mode for some files of 16 bits
        pixels = pixels.astype(np.uint16)
    return np.ascontiguousarray(pixels[..., 0])[None]


def write_labels(
    path: Path, labels: Array, palette: Palette, like: Path | None, nodata: int | None = None
) -> None:
    """Write labels [H, W] to a PNG; the default palette is that of Pascal VOC."""
    most = labels.max(initial=0)
    if labels.ndim != 2 or most > MAX_GREY:
        raise ValueError(
            f"{path}: PNG holds labels 0..{MAX_GREY} in two axes, not {most} in {labels.ndim}; "
            "write .npz or .nii.gz"
        )
    with replaced(path) as partial:
        colours = samples.palette() if palette is None else palette
        write_label_png(partial, labels, colours, nodata)


def write_label_png(
    path: Path, labels: Array, palette: Array | Literal["none"], nodata: int | None = None
) -> None:
    """Write labels up to 255 as palette indices or 8-bit, up to 65535 as 16-bit grey values.

    A text in the file says that `nodata` marks pixels without data.
    """
    pillow = required("PIL.Image", "cli", path)
    more = {}
    if nodata is not None:
        more["pnginfo"] = required("PIL.PngImagePlugin", "cli", path).PngInfo()
        more["pnginfo"].add_text(_NO_DATA, str(nodata))
    if labels.max(initial=0) > _MAX_INDEX:
        image = pillow.fromarray(labels.astype(np.uint16))
    elif isinstance(palette, str):
        image = pillow.fromarray(labels.astype(np.uint8))
    else:
        image = pillow.fromarray(labels.astype(np.uint8), mode="P")
        image.putpalette(palette.tobytes())
    # zlib's fastest level: higher levels take longer and save little space on label maps
    _save(path, image, compress_level=1, **more)


def write_saliency(path: Path, p: Array) -> None:
    """Write probabilities [H, W] to a PNG of 8-bit grey values, marked as no label map."""
    pillow = required("PIL.Image", "cli", path)
    mark = required("PIL.PngImagePlugin", "cli", path).PngInfo()
    mark.add_text(*_SALIENCY)
    image = pillow.fromarray(np.rint(p * _MAX_INDEX).astype(np.uint8))
    with replaced(path) as partial:
        _save(partial, image, compress_level=1, pnginfo=mark)


def _save(path: Path, image: Any, **options: Any) -> None:
    encoded = io.BytesIO()  # if Pillow itself writes the file, it hides why a write failed
    image.save(encoded, format="png", **options)
    path.write_bytes(encoded.getbuffer())


def _with_alpha(image: Any) -> Array:
    """Return the pixels [H, W, C] of an image of colours, with alpha as a last channel if any."""
    if image.mode == "LA":
        return np.asarray(image)
    transparent = image.mode in ("RGBA", "PA") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _open(path: Path) -> Any:
    with open(path, "rb") as file:
        head = file.read(26)
    deep = head.startswith(_PNG) and head[_BIT_DEPTH] == b"\x10"
    if deep and head[_COLOUR_TYPE] != _GREY:
        raise ValueError(
            f"{path}: PNG with 16 bits per colour, of which Pillow keeps only 8; save it as TIFF "
            "or .npy"
        )
    with opened(path) as image:
        shape = (image.height, image.width, len(image.getbands()))
        sizes.check(path, shape, _dtype(image), picture=True)
        image.load()
    return image


def read_shape(path: Path) -> tuple[int, ...]:
    """Return height and width."""
    with opened(path) as image:
        return image.height, image.width


def opened(path: Path) -> Any:
    """Open an image file by one of the formats of pictures, whatever its extension says of them.

    Pillow's own limit on pixels is not applied: it is one for all files, of any size on disk.
    """
    pillow = required("PIL.Image", "cli", path)
    pillow.preinit()
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        raise ValueError("it is empty")
    for name in _DECODERS:
        if name not in pillow.OPEN:
            pillow.init()  # imports every format: slow, so only where none before fits
        decoder, accept = pillow.OPEN.get(name, (None, None))
        if decoder is not None and accept(start):
            return decoder(str(path))
    raise ValueError(f"it is none of {', '.join(_DECODERS)}")


def _dtype(image: Any) -> str:
    return {"I": "i4", "F": "f4"}.get(image.mode, "u2" if image.mode.startswith("I;16") else "u1")


def _unscaled(path: Path, labels: Array) -> Array:
    """Undo Pillow's scaling of a PNG: it maps the grey values of 2 or 4 bits to 0..255."""
    with open(path, "rb") as file:
        head = file.read(26)
    if not head.startswith(_PNG) or head[_COLOUR_TYPE] != _GREY:
        return labels
    most = 2 ** head[_BIT_DEPTH][0] - 1
    if most in (1, _MAX_INDEX, MAX_GREY):  # 1 bit is not scaled
        return labels
    return np.rint(labels * (most / _MAX_INDEX)).astype(labels.dtype)
