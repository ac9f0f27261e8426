"""The orientation that cameras store with a picture: in EXIF data, or in a tag of a TIFF.

Orientations 2 to 8 say that the stored rows and columns must be flipped or exchanged before the
picture is shown. Viewers and OpenCV do so; Pillow, and with it most training code, does not.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .._typing import Array
from .geometry import Turn
from .notes import FileNote
from .paths import extension, reading
from .pillow import opened
from .tiff_file import open_tiff

Exif = Literal["auto", "apply", "ignore"]
CHOICES = ("auto", "apply", "ignore")

_TAG = 274  # of the orientation, in EXIF and TIFF
_GEOREFERENCE = (33550, 33922, 34264)  # TIFF tags that place the stored rows and columns
_TURNS = {
    2: Turn((0, 1), (False, True)), 3: Turn((0, 1), (True, True)), 4: Turn((0, 1), (True, False)),
    5: Turn((1, 0), (False, False)), 6: Turn((1, 0), (False, True)),
    7: Turn((1, 0), (True, True)), 8: Turn((1, 0), (True, False)),
}  # fmt: skip
# Pillow decodes a whole PNG to look for EXIF data after the pixels; these words are in such files.
_PNG_EXIF = re.compile(rb"eXIf|Raw profile type|tiff:Orientation")


def orientation(path: Path) -> int:
    """Return the orientation that an image file stores, 1..8; 1 is upright, as is a GeoTIFF."""
    if extension(path) in (".tif", ".tiff"):
        with reading(path, "a TIFF"), open_tiff(path) as file:
            tags = file.pages[0].tags
            placed = any(tag in tags for tag in _GEOREFERENCE)
            found = 1 if placed or _TAG not in tags else int(tags[_TAG].value)
    else:
        with reading(path, "an image"):
            if extension(path) == ".png" and not _PNG_EXIF.search(path.read_bytes()):
                return 1
            with opened(path) as image:
                found = image.getexif().get(_TAG, 1)
    return found if found in _TURNS else 1


def upright(
    path: Path, stored: Array, exif: Exif, size: Sequence[int] | None = None, channels: int = 0
) -> Array:
    """Turn an image as its file says, unless only the stored orientation has the wanted size.

    Parameters
    ----------
    path : path
        The file that the image was read from.
    stored : ndarray [..., H, W] or, with `channels` = 1, [..., H, W, C]
    exif : {"auto", "apply", "ignore"}
        "auto" turns the image unless `size` has the stored orientation alone, and warns.
    size : sequence of int, optional
        Wanted size; may be that of coarse logits, as only which of H and W is larger matters.

    Raises
    ------
    ValueError
        `exif` is none of the three.
    """
    if exif not in CHOICES:
        raise ValueError(f"exif is {exif!r}; choose from {', '.join(CHOICES)}")
    if exif == "ignore" or (found := orientation(path)) == 1:
        return stored
    turn = _TURNS[found]
    axis = stored.ndim - channels - 2
    if exif == "auto":
        height, width = stored.shape[axis : axis + 2]
        if size is not None and turn.order == (1, 0) and _is_like(size[-2:], (height, width)):
            warnings.warn(
                "the EXIF orientation of the picture was not applied, because only as stored it "
                "has the size of the logits; the result is as stored, too",
                FileNote,
                stacklevel=3,
            )
            return stored
        warnings.warn(
            "the EXIF orientation of the picture was applied, as viewers do; if the logits are of "
            "the stored pixels (Pillow reads those), pass exif='ignore'",
            FileNote,
            stacklevel=3,
        )
    return turn(stored, channels)


def check_upright(path: Path) -> None:
    """Raise ValueError if a file whose stored pixels are used has another orientation."""
    if orientation(path) != 1:
        raise ValueError(
            f"{path}: has an orientation tag, by which its pixels are turned when it is shown; "
            "save it upright, without the tag"
        )


def _is_like(wanted: Sequence[int], size: tuple[int, int]) -> bool:
    """Return whether a size is rather that of an image [H, W] than of [W, H]."""
    return (wanted[0] - wanted[1]) * (size[0] - size[1]) > 0
