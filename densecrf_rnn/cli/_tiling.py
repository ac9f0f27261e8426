"""`densecrf-rnn refine --tile`: files that are larger than memory, read and written in parts."""

import argparse
import contextlib
from dataclasses import fields
from pathlib import Path

from .. import files
from ..files import formats
from ..params import CRFParams
from . import UserError, _types, progress
from ._inputs import Inputs
from ._options import given, option, recorded
from ._refining import Refining

# The recorded options that --tile supports; giving another one with --tile is an error.
HEEDED = {
    "tile", "halo", "bands", "kind", "mask", "spacing", "write", "dtype", "iterations",
    "compatibility",
    *(field.name for field in fields(CRFParams)),
}  # fmt: skip
_TILED_ONLY = {"halo", "bands"}
_CROP = 512  # side, in pixels, of the central crop whose units are checked


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of tiled refinement."""
    add = parser.add_argument_group("files larger than memory").add_argument
    add("--tile", **_types.COUNT,
        help="read, refine and write tiles of N x N pixels; files must be "
        f"{' '.join(formats.extensions('open'))}, and outputs have the format of the images (a "
        "GeoTIFF with its georeference; marginals in float32)")
    add("--halo", type=_types.halo, metavar="N",
        help="pixels read around each tile, or `exact` for the result without tiles (default: the "
        "support radius of the kernels; docs/refinement.md)")
    add("--bands", type=_types.positives, metavar="N,N,...",
        help="bands of a GeoTIFF image to use, counted from 1 (default: all but an alpha band)")


def refining(args: argparse.Namespace, inputs: Inputs, workers: int, threads: int) -> Refining:
    """Return the object that refines one file when called, as a whole or in tiles."""
    if args.tile is None:
        for name in sorted(given(args) & _TILED_ONLY):
            raise UserError(f"{option(name)} goes with --tile; give both, or neither")
        return Refining(args, inputs, workers, threads)
    if args.write == "both":
        raise UserError("--tile writes labels or marginals, not both at once; run it twice")
    if args.kind == "labels":
        raise UserError("--tile takes logits or probabilities, not labels")
    if args.dtype == "float16":
        raise UserError("--tile writes marginals in float32; leave --dtype float16 out")
    for name in sorted(given(args) & recorded(args).keys() - HEEDED):
        raise UserError(f"{option(name)} needs whole files; leave it or --tile out")
    return Tiling(args, inputs, workers, threads)


class Tiling(Refining):
    """A callable that refines one file in tiles and records it; parameters as in `Refining`."""

    default_dtype = "float32"

    def outputs(self, match: files.Match, axes: int | None = None) -> list[Path]:
        """Return the path of the one output, in the format of the image."""
        return [self._args.out / f"{match.stem}{files.extension(match.paths[1])}"]

    def _refined(self, match: files.Match) -> tuple[list[Path], tuple[int, ...]]:
        args, settings = self._args, self.settings
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._engine)
            shape = tuple(formats.open_in_parts(match.paths[0], stack).maps().shape)
            self._check_central_units(match.paths[1], len(shape) - 1)
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

    def _check_central_units(self, image: Path, axes: int) -> None:
        """Call `_check_units` on a central crop, because the whole image may exceed memory."""
        with contextlib.ExitStack() as stack:
            array = formats.open_in_parts(image, stack).image(axes, self._args.bands)
            middle = tuple(
                slice(max(0, n // 2 - _CROP // 2), min(n, n // 2 + _CROP // 2))
                for n in array.shape[:-1]
            )
            self._check_units(array[(*middle, slice(None))])
