"""What is refined on the page: an image with its logits, and where both come from."""

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from .._typing import Array
from .. import checks, samples
from .._atomic import replaced
from ..inference.build import Lattices
from ..postprocess import most_probable
from .photos import rgb

_T = TypeVar("_T")
_ONE_AT_A_TIME = threading.RLock()  # Python's list of recorded warnings is one for all threads


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and the logits of its labels.

    Attributes
    ----------
    name : str
        Stem of the files that it is saved to.
    image : ndarray [H, W, C]
        As the CRF sees it.
    logits : ndarray [L, H, W] of float32
    truth : ndarray [H, W] of integers, or None
        The true labels, where they are known; `samples.IGNORE` (255) marks pixels without one.
    shown : ndarray [H, W, 3] of uint8
        The image as it is drawn.
    python : tuple of str
        Lines of Python that set `logits` and `image`; none if they are only in memory.
    command : tuple of str
        The words of `densecrf-rnn refine` that name the files and how they are read; none if
        there are no files.
    mask : ndarray [H, W] of bool, or None
        The pixels to refine; None: all.
    spacing : tuple of float, or None
        Pixel size along each axis; None: 1.
    doubts : tuple of str
        What reading the files warned of.
    lattices : dict
        Cache of `infer`, for this image, mask and spacing; `replace` makes a new one.
    """

    name: str
    image: Array
    logits: Array
    truth: Array | None
    shown: Array
    python: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    mask: Array | None = None
    spacing: tuple[float, ...] | None = None
    doubts: tuple[str, ...] = ()
    lattices: Lattices = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def before(self) -> Array:
        """The labels [H, W] without the CRF."""
        return most_probable(self.logits, 0)


# Loads a scene when it is chosen.
Source = Callable[[], Scene]


def noted(call: Callable[[], _T]) -> tuple[_T, tuple[str, ...]]:
    """Return what a call returns, and the warnings that it gave, which the page shows."""
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        found = call()
    return found, tuple(dict.fromkeys(str(one.message) for one in given))


def load(source: Source) -> Scene:
    """Load a scene, with the warnings of reading it.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError
        A file cannot be read, or `checked` rejects the scene.
    """
    scene, doubts = noted(source)
    return replace(checked(scene), doubts=(*scene.doubts, *doubts))


def of_samples() -> dict[str, Source]:
    """Return the samples of the package, by name."""

    def source(name: str) -> Source:
        def load() -> Scene:
            sample = samples.load(name)
            lines = (
                "from densecrf_rnn import samples", "", f"sample = samples.load({name!r})",
                "logits, image = sample.logits, sample.image",
            )  # fmt: skip
            return Scene(name, sample.image, sample.logits, sample.truth, sample.image, lines)

        return load

    return {name: source(name) for name in samples.names()}


def saved(scene: Scene, folder: Path) -> Scene:
    """Write the logits, image and mask of a scene; return it with the code that reads them.

    No file is replaced: where one of the names is taken, a number is added to the stem.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, number = scene.name, 2
    while any((folder / f"{name}{end}.npy").exists() for end in ("", ".image", ".mask")):
        name, number = f"{scene.name}_{number}", number + 1
    paths = {"logits": folder / f"{name}.npy", "image": folder / f"{name}.image.npy"}
    arrays: dict[str, Array] = {"logits": scene.logits, "image": scene.image}
    words = [str(paths["logits"]), str(paths["image"]), "--image-suffix", ".image"]
    if scene.mask is not None:
        paths["mask"], arrays["mask"] = folder / f"{name}.mask.npy", scene.mask
        words += ["--mask", str(paths["mask"]), "--mask-suffix", ".mask"]
    if scene.spacing is not None:
        words += ["--spacing", ",".join(map(str, scene.spacing))]
    for what, path in paths.items():
        with replaced(path) as part:
            np.save(part, arrays[what])
    lines = (
        "import numpy as np", "",
        *(f"{what} = np.load({str(path)!r})" for what, path in paths.items()),
    )  # fmt: skip
    return replace(scene, python=lines, command=tuple(words))


def displayable(image: Array) -> Array:
    """Return an image [H, W, C] as RGB of uint8: other dtypes are stretched to their range."""
    three = rgb(image)
    if three.dtype == np.uint8:
        return np.ascontiguousarray(three)
    low, high = np.nanpercentile(three, (0.5, 99.5))
    scaled = (three.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.nan_to_num(255 * scaled.clip(0, 1)).astype(np.uint8)


def checked(scene: Scene) -> Scene:
    """Return the scene, if the page can show it.

    Raises
    ------
    TypeError, ValueError
        It is a volume, the truth has another size, or `refine` would reject the logits.
    """
    if scene.logits.ndim != 3:
        raise ValueError(
            f"{scene.name}: logits of shape {scene.logits.shape} are a volume, but the page shows "
            "pictures; pass one slice of it, as logits [L, H, W]"
        )
    size = scene.logits.shape[1:]
    if scene.truth is not None and scene.truth.shape != size:
        raise ValueError(
            f"{scene.name}: the true labels are {scene.truth.shape} but the logits {size}; give "
            "those of the same image"
        )
    checks.logits(scene.logits.astype(np.float32, copy=False), batched=False)
    return scene
