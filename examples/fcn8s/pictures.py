"""Images with their labels, and the reading of images, masks and lists of names."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from densecrf_rnn.files import read_labels

IGNORE = 255
# Extensions of images that a list names without one; the first is VOC's.
ENDS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
PATH = re.compile(rf"\s*(\S.*?(?:{'|'.join(map(re.escape, ENDS))}))(?=\s|$)")
LAYOUT = "see examples/fcn8s/README.md for the layout"
# What Pillow raises for damaged files. (UnidentifiedImageError is an OSError.)
DAMAGED = (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError)

Item = tuple[Path, object]  # an image, and the source of its labels


@dataclass(frozen=True)
class Pictures:
    """Images and their labels, read on access.

    Attributes
    ----------
    classes : tuple of str
    items : tuple
        The file of each picture, and what `read` makes its labels of.
    read : function
        To uint8 [H, W]; 255 is not scored and teaches nothing.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    read: Callable[[object], np.ndarray]

    def __len__(self):
        return len(self.items)

    def image(self, i) -> np.ndarray:
        """Return an RGB image, uint8 [H, W, 3]."""
        return read_image(self.items[i][0])

    def labels(self, i) -> np.ndarray:
        """Return labels, uint8 [H, W]."""
        path, source = self.items[i]
        labels = self.read(source)
        wrong = labels[(labels != IGNORE) & (labels >= len(self.classes))]
        if wrong.size:
            raise ValueError(
                f"the labels of {path} hold {wrong[0]}, but {self.name} has the classes "
                f"0..{len(self.classes) - 1} and 255 for none; check the mask"
            )
        return labels

    def part(self, items, name) -> "Pictures":
        """Return a subset of the images."""
        return replace(self, items=tuple(items), name=f"{self.name} ({name})")


def check_masks(pictures: Pictures) -> None:
    """Check that each image can be read and has a mask of its size whose values are labels.

    Masks that are not files (COCO's polygons) and their images are not checked.

    Raises
    ------
    ValueError
        Some images or masks fail; the message counts them and shows the first.
    """
    faults = []
    for i in tqdm(range(len(pictures)), f"masks of {pictures.name}", leave=False, disable=None):
        mask = pictures.items[i][1]
        if not isinstance(mask, Path):
            continue
        try:
            labels, image = pictures.labels(i), pictures.image(i)
        except (OSError, ValueError) as error:
            faults.append(str(error))
            continue
        if labels.shape != image.shape[:2]:
            faults.append(f"{mask} has {' x '.join(map(str, labels.shape))} pixels, but its "
                          f"image {' x '.join(map(str, image.shape[:2]))}")
    if faults:
        raise ValueError(
            f"{len(faults)} of the {len(pictures)} images of {pictures.name} or their masks cannot "
            f"be used; the first: {faults[0]}"
        )


# --- files ---------------------------------------------------------------------------------------


def read_image(path: str | Path, upright: bool = False) -> np.ndarray:
    """Return an RGB image, uint8 [H, W, 3].

    Parameters
    ----------
    path : str or Path
    upright : bool
        Turn it as its EXIF data say, as viewers do. Masks of datasets fit the stored rows.

    Raises
    ------
    FileNotFoundError, ValueError
        The file does not exist; it is damaged, or is no image of 8 bits.
    """
    try:
        with Image.open(path) as file:
            mode, deep = file.mode, bits_of(file) > 8
            turned = ImageOps.exif_transpose(file) if upright else file
            pixels = np.asarray(turned.convert("RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except DAMAGED as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); remove it or replace it"
        ) from error
    if deep or mode.startswith(("I", "F")):
        raise ValueError(
            f"{path} holds numbers of more than 8 bits (mode {mode}); the networks take 0..255, so "
            "convert it"
        )
    return pixels


def bits_of(file: Image.Image) -> int:
    """Return the bits of a PNG or TIFF file's numbers; Pillow drops the low ones of colours."""
    if file.format == "TIFF":
        return max(file.tag_v2.get(258, (8,)))  # BitsPerSample
    if file.format == "PNG":
        with open(file.filename, "rb") as header:
            return header.read(25)[24]  # the depth in IHDR
    return 8


def read_mask(path: str | Path) -> np.ndarray:
    """Read an image whose pixel values (or palette indices) are labels."""
    try:
        with Image.open(path) as file:
            mode, bits = file.mode, bits_of(file)
            values = np.asarray(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read ({error}); unpack it once more") from error
    if mode == "LA":
        raise ValueError(f"{path} has a channel of transparency; save it without")
    if mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
        raise ValueError(
            f"{path} is of mode {mode}: its values are colours, not labels; use masks "
            "whose pixel values are the labels"
        )
    if values.max(initial=0) > IGNORE or values.min(initial=0) < 0:
        raise ValueError(f"{path} holds {values.min()} to {values.max()}; labels must be 0 to 255")
    if mode == "L" and bits < 8:  # Pillow stretches grey values to 0..255
        values = read_labels(path)
    return values.astype(np.uint8)


def read_mat(path: str | Path, key: str) -> np.ndarray:
    """Read an array, or a structure, of a .mat file."""
    from scipy.io import loadmat

    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return loadmat(path)[key]
    except Exception as error:  # SciPy's errors for damaged files are of many types
        raise ValueError(
            f"{path} cannot be read as a .mat file with {key} ({type(error).__name__}: {error}); "
            "unpack it once more"
        ) from error


def read_names(path: Path) -> list[str]:
    """Return the names in a list file, one per line; of paths, the name without its extension.

    Some lists have more columns (the mask's path, whether an object is there): the first counts.
    It may have spaces if it has an extension, see `first_column`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the list {path} does not exist; {LAYOUT}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8; save it so, with a name per line") from error
    columns = (first_column(line) for line in text.splitlines() if line.strip())
    names = (PurePosixPath(column.replace("\\", "/")).name for column in columns)
    return [name.removesuffix(next((e for e in ENDS if name.endswith(e)), "")) for name in names]


def first_column(line: str) -> str:
    """Return the first column of a line of a list, which may hold spaces.

    `a b.png m.png` begins with a path with spaces: its first word has no extension. In
    `a masks/a.png` the first word is a name, because what follows is a path of its own.
    """
    first = line.split()[0]
    path = PATH.match(line)
    if first.endswith(ENDS) or path is None:
        return first
    folders = "/" in first or "\\" in first
    return first if not folders and re.search(r"[/\\]", path[1]) else path[1]


def image_of(folder: Path, name: str) -> Path:
    """Return the image of a name: of the first extension that exists, else NAME.jpg."""
    found = (folder / f"{name}{end}" for end in ENDS)
    return next((path for path in found if path.exists()), folder / f"{name}{ENDS[0]}")


def existing(items: list[Item], what: str) -> list[Item]:
    """Return the entries whose image exists; print how many images do not.

    Raises
    ------
    FileNotFoundError
        None does.
    """
    there = [item for item in items if item[0].exists()]
    if len(there) < len(items):
        first = next(path for path, _ in items if not path.exists())
        if not there:
            raise FileNotFoundError(
                f"none of the {len(items)} images of {what} exists; the first would be {first}; "
                f"{LAYOUT}"
            )
        print(f"{len(items) - len(there)} of the {len(items)} images of {what} do not exist and "
              f"are left out; the first is {first}")
    return there


def find(root: Path, *candidates: str) -> Path:
    """Return the first of some paths below a folder that exists."""
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise FileNotFoundError(f"{root} has none of {', '.join(candidates)}; {LAYOUT}")
