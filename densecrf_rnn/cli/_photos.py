"""Photographs of the user's own in `demo`: read, scored by the sample network, and refined."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import samples
from ..explore.photos import for_size, read_photo
from ..inference.refine import refine
from ..nn.sample_network import SampleNetwork
from ..params import CRFParams
from . import UserError


def read_photos(paths: Sequence[Path]) -> dict[str, Array]:
    """Read photographs; the keys are their stems, of which equal ones get numbers.

    Raises
    ------
    UserError
        A file cannot be read, or is no photograph of 8 bits.
    """
    photos: dict[str, Array] = {}
    for path in paths:
        if path.is_dir() and not path.suffix:
            raise UserError(f"{path} is a folder; name the photographs in it, as {path}/*.jpg")
        name, number = path.stem, 2
        while name in photos:
            name, number = f"{path.stem}_{number}", number + 1
        try:
            photos[name] = read_photo(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except (ValueError, ImportError) as error:
            said = str(error)
            raise UserError(said if str(path) in said else f"{path}: {said}") from error
    return photos


def check_out(photos: Mapping[str, Array], paths: Sequence[Path], out: Path) -> None:
    """Raise UserError if the image of one of `photos` would replace a photograph of `paths`."""
    for written in (out / f"{name}.png" for name in photos):
        if written.exists() and any(written.samefile(path) for path in paths):
            raise UserError(
                f"the image of the result would replace the photograph {written}; give another "
                "folder by --out"
            )


def refine_photos(
    photos: Mapping[str, Array], out: Path, params: CRFParams, iterations: int,
    threads: int | None,
) -> None:  # fmt: skip
    """Score, refine and draw photographs, and print a line for each."""
    from . import _panels
    from ._charts import save

    network = SampleNetwork()
    print(f"{'photograph':<20} {'size':>9} {'network':>8} {'CRF':>8}   classes")
    for name, image in photos.items():
        start = time.perf_counter()
        logits = network.scores(image)
        scored = time.perf_counter()
        q = refine(logits, image, for_size(params, image), iterations=iterations, threads=threads)
        refined = time.perf_counter()
        before, after = logits.argmax(0), q.argmax(0)
        sample = samples.Sample(name, image, logits, None)
        save(_panels.draw(sample, before, after), out / f"{name}.png")
        height, width = before.shape
        found = [samples.CLASS_NAMES[k] for k in np.unique(after) if k > 0]
        print(
            f"{name:<20} {f'{width}x{height}':>9} {1000 * (scored - start):>5.0f} ms "
            f"{1000 * (refined - scored):>5.0f} ms   {', '.join(found) or 'background alone'}; "
            f"{100 * (before != after).mean():.1f} % of pixels changed",
            flush=True,
        )
    print()
