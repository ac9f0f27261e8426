"""Photographs of the user's own, for `demo` and `explore`: reading, scoring and refining them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .._typing import Array
from .. import files, samples
from ..inference.refine import refine
from ..kernels import leading
from ..nn.sample_network import SampleNetwork
from ..params import CRFParams
from . import UserError

LONGEST = 1500  # side of a photograph; longer ones are reduced, so that a try takes about a second
_USUAL = 500  # longest side of the photographs that the demo's bandwidths were chosen on


def read_photo(path: Path) -> Array:
    """Read a photograph as RGB [H, W, 3] of uint8, reduced to at most LONGEST pixels a side.

    Raises
    ------
    UserError
        The file cannot be read, or is no picture of 8 bits.
    """
    try:
        image = files.read_image(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, ImportError) as error:
        said = str(error)
        raise UserError(said if str(path) in said else f"{path}: {said}") from error
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[-1] not in (1, 2, 3, 4):
        raise UserError(
            f"{path}: is {image.dtype} of shape {image.shape}; give a photograph of 8 bits a "
            "channel, such as JPEG or PNG (for other data: densecrf-rnn refine)"
        )
    image = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    return reduced(image)


def reduced(image: Array) -> Array:
    """Return an image [H, W, 3] of uint8 of at most LONGEST pixels a side."""
    longest = max(image.shape[:2])
    if longest <= LONGEST:
        return np.ascontiguousarray(image)
    from skimage import transform

    size = [max(1, round(n * LONGEST / longest)) for n in image.shape[:2]]
    small = transform.resize(image, size, order=1, anti_aliasing=True, preserve_range=True)
    return small.round().clip(0, 255).astype(np.uint8)


def for_size(params: CRFParams, image: Array) -> CRFParams:
    """Return parameters whose bandwidths of position suit an image larger than _USUAL."""
    by = max(1.0, max(image.shape[:2]) / _USUAL)
    alpha, gamma = leading(params.theta_alpha), leading(params.theta_gamma)
    return replace(params, theta_alpha=round(by * alpha, 1), theta_gamma=round(by * gamma, 1))


def read_photos(paths: Sequence[Path]) -> dict[str, Array]:
    """Read photographs; the keys are their stems, of which equal ones get numbers."""
    photos: dict[str, Array] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in photos:
            name, number = f"{path.stem}_{number}", number + 1
        photos[name] = read_photo(path)
    return photos


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
