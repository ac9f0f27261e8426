"""Photographs of the user's own in `demo`: read, scored by the sample network, and refined."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._typing import Array
from .. import samples
from ..explore.photos import for_size, read_whole, reduced
from ..inference.refine import refine
from ..params import CRFParams
from . import UserError

_LONGEST = 1500  # side of a photograph; longer ones are reduced, so that a try takes about a second


class Photo(NamedTuple):
    """A photograph [H, W, 3] as it is refined, and (height, width) of the file."""

    image: Array
    stored: tuple[int, ...]


def read_photos(paths: Sequence[Path]) -> dict[str, Photo]:
    """Read photographs; the keys are their stems, of which equal ones get numbers.

    Raises
    ------
    UserError
        A file cannot be read, or is no photograph of 8 bits.
    """
    photos: dict[str, Photo] = {}
    for path in paths:
        if path.is_dir() and not path.suffix:
            raise UserError(f"{path} is a folder; name the photographs in it, as {path}/*.jpg")
        name, number = path.stem, 2
        while name in photos:
            name, number = f"{path.stem}_{number}", number + 1
        try:
            whole = read_whole(path)
            photos[name] = Photo(reduced(whole, _LONGEST), whole.shape[:2])
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except (ValueError, ImportError) as error:
            said = str(error)
            raise UserError(said if str(path) in said else f"{path}: {said}") from error
    return photos


def check_out(photos: Mapping[str, Photo], paths: Sequence[Path], out: Path) -> None:
    """Raise UserError if the image of one of `photos` would replace a photograph of `paths`."""
    for written in (out / f"{name}.png" for name in photos):
        if written.exists() and any(written.samefile(path) for path in paths):
            raise UserError(
                f"the image of the result would replace the photograph {written}; give another "
                "folder by --out"
            )


def refine_photos(
    photos: Mapping[str, Photo], out: Path, params: CRFParams, iterations: int,
    threads: int | None,
) -> None:  # fmt: skip
    """Score, refine and draw photographs, and print a line for each."""
    from . import _panels
    from ._charts import save
    from ..nn.sample_network import SampleNetwork  # imports torch, which takes seconds

    network = SampleNetwork()
    print(f"{'photograph':<20} {'size':>9} {'network':>8} {'CRF':>8}   classes")
    for name, (image, stored) in photos.items():
        start = time.perf_counter()
        logits = network.scores(image)
        scored = time.perf_counter()
        suited = for_size(params, image)
        q = refine(logits, image, suited, iterations=iterations, threads=threads)
        refined = time.perf_counter()
        before, after = logits.argmax(0), q.argmax(0)
        sample = samples.Sample(name, image, logits, None)
        save(_panels.draw(sample, before, after), out / f"{name}.png")
        height, width = before.shape
        notes = ""
        if stored != before.shape:
            notes += f"; reduced from {stored[1]}x{stored[0]}"
        if suited != params:  # others than those printed above
            notes += f"; theta_alpha {suited.theta_alpha:g}, theta_gamma {suited.theta_gamma:g}"
        found = [samples.CLASS_NAMES[k] for k in np.unique(after) if k > 0]
        print(
            f"{name:<20} {f'{width}x{height}':>9} {1000 * (scored - start):>5.0f} ms "
            f"{1000 * (refined - scored):>5.0f} ms   {', '.join(found) or 'background alone'}; "
            f"{100 * (before != after).mean():.1f} % of pixels changed{notes}",
            flush=True,
        )
    print()
