"""Open one TIFF: the file itself, and no other files that its metadata name."""

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import sizes
from .paths import required

# Kinds of files for which tifffile looks for others in the folder.
_SEVERAL = ("is_mmstack", "is_ndtiff")


def open_tiff(path: Path) -> Any:
    """Open a TIFF by tifffile; a context manager.

    Raises
    ------
    ValueError
        The file is one of several that belong together, or damaged.
    """
    tifffile = required("tifffile", "cli", path)
    alone = {name: False for name in _SEVERAL if hasattr(tifffile.TiffFile, name)}
    file = tifffile.TiffFile(path, _multifile=False, **alone)
    try:
        if others := _others(path, file):
            raise ValueError(
                f"{path}: one of several files of an OME-TIFF, the others are "
                f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}; save it as one file"
            )
    except BaseException:
        file.close()
        raise
    return file


def check_page(path: Path, page: Any, count: int | None) -> None:
    """Raise ValueError if a file is out of all proportion: `count` pages like `page`, or a block.

    With the count None, pages are not unpacked as a whole.
    """
    if count is not None:
        labels = count * page.samplesperpixel
        sizes.check(path, (count, *page.shape), page.dtype, labels=labels)
    sizes.check(path, page.chunks, page.dtype, what="one of its blocks")
    if page.compression != 1:
        sizes.check_blocks(math.prod(page.chunks) * page.dtype.itemsize, page.databytecounts)


def _others(path: Path, file: Any) -> list[str]:
    """Return the names of other files that the metadata of an OME-TIFF name."""
    if not file.is_ome:
        return []
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except ElementTree.ParseError:  # tifffile ignores such metadata, too
        return []
    own, names = root.get("UUID"), []
    for element in root.iter():
        name = element.get("FileName")
        if element.tag.endswith("UUID") and name is not None and element.text != own:
            if name.lower() != path.name.lower() and name not in names:
                names.append(name)
    return names
