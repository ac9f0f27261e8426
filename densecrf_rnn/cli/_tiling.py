"""`densecrf-rnn refine --tile`: files that are larger than memory, read and written in parts."""

import argparse
import contextlib
from pathlib import Path

from .. import files
from ..files.windows import KINDS, Source
from . import UserError, positive, progress
from ._inputs import Inputs
from ._refining import Refining

# What needs a whole file, by the value that asks for nothing.
_WHOLE = {
    "key": None, "image_key": None, "labels_last": False, "axes": "zyx", "upsample": None,
    "temperature": 1.0, "classes": None, "remove_small": None,
}  # fmt: skip
_GLANCE = 512  # pixels a side, of the image's middle


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Declare what has to do with tiles."""
    group = parser.add_argument_group("files larger than memory")
    group.add_argument(
        "--tile", type=positive, metavar="N",
        help=f"read, refine and write tiles of N pixels a side; all files are {' '.join(KINDS)}, "
        "the outputs as the images (GeoTIFF with its georeference, marginals in float32)",
    )  # fmt: skip
    group.add_argument(
        "--halo", type=halo, metavar="N",
        help="pixels read around a tile, or `exact` for no seams at all (default: as far as one "
        "message carries; docs/refinement.md)",
    )  # fmt: skip
    group.add_argument(
        "--bands", type=bands, metavar="N,N,...",
        help="bands of a GeoTIFF image to use, from 1 (default: all but one marked as alpha)",
    )  # fmt: skip


def refining(args: argparse.Namespace, inputs: Inputs, workers: int, threads: int) -> Refining:
    """The command's work on one file, whole or in tiles."""
    if args.tile is not None:
        return Tiling(args, inputs, workers, threads)
    for name in ("halo", "bands"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} goes with --tile; give both, or neither")
    return Refining(args, inputs, workers, threads)


class Tiling(Refining):
    """The command's work on one file in tiles; parameters as of `Refining`."""

    def __init__(
        self, args: argparse.Namespace, inputs: Inputs, workers: int, threads: int
    ) -> None:
        for name, nothing in _WHOLE.items():
            if getattr(args, name) != nothing:
                option = name.replace("_", "-")
                raise UserError(f"--{option} needs whole files; leave it or --tile out")
        if args.write == "both":
            raise UserError("--tile writes labels or marginals, not both at once; run it twice")
        if args.kind == "labels":
            raise UserError("--tile takes logits or probabilities, not labels")
        super().__init__(args, inputs, workers, threads)

    def options(self) -> dict[str, object]:
        """All that bears on what is written beside the files that are read."""
        names = ("tile", "halo", "bands")
        return {**super().options(), **{name: getattr(self._args, name) for name in names}}

    def outputs(self, match: files.Match, axes: int | None = None) -> list[Path]:
        """One file, of the kind of the image."""
        return [self._args.out / f"{match.stem}{files.extension(match.paths[1])}"]

    def _refined(self, match: files.Match) -> tuple[list[Path], tuple[int, ...]]:
        args, settings = self._args, self.settings
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._engine)
            shape = tuple(Source(match.paths[0], stack).maps().shape)
            self._glance(match.paths[1], len(shape) - 1)
            bar = stack.enter_context(progress(unit="pixel", unit_scale=True, desc=match.stem))

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            outputs = self.outputs(match)
            files.refine_raster(
                match.paths[0], match.paths[1], outputs[0], settings.params,
                kind=args.kind or "logits", bands=args.bands, marginals=args.write == "marginals",
                tile=args.tile, halo=args.halo, compatibility=settings.compatibility,
                iterations=settings.iterations, mask=None if args.mask is None else match.paths[2],
                spacing=args.spacing, backend=args.backend, threads=self._threads, progress=show,
            )  # fmt: skip
        return outputs, shape

    def _glance(self, image: Path, axes: int) -> None:
        """Look at the units of the image in its middle."""
        with contextlib.ExitStack() as stack:
            array = Source(image, stack).image(axes, self._args.bands)
            middle = tuple(
                slice(max(0, n // 2 - _GLANCE // 2), min(n, n // 2 + _GLANCE // 2))
                for n in array.shape[:-1]
            )
            self._look_at_units(array[(*middle, slice(None))])


def halo(text: str) -> int | str:
    """A whole number of pixels, or "exact"."""
    if text != "exact" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pixels, nor `exact`")
    return text if text == "exact" else int(text)


def bands(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [positive(word) for word in text.split(",")]
