"""`densecrf-rnn refine --tile`: files that are larger than memory, read and written in parts."""

import argparse
import contextlib
from dataclasses import fields
from pathlib import Path

from .. import files
from ..files import formats
from ..files.windows import of_image
from ..params import CRFParams
from . import UserError, _nodata, _types, progress
from ._inputs import Inputs
from ._options import given, option, recorded
from ._refining import Refining

# The recorded options that --tile supports; giving another one with --tile is an error.
HEEDED = {
    "key", "image_key", "tile", "halo", "bands", "kind", "num_labels", "confidence",
    "unsure", "classes", "temperature", "clip", "mask", "spacing", "write", "dtype", "iterations",
    "prune", "compatibility", "regions_class_order", "strict",
    *(field.name for field in fields(CRFParams)),
}  # fmt: skip
_TILED_ONLY = {"halo"}


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


def refining(args: argparse.Namespace, inputs: Inputs, workers: int, threads: int) -> Refining:
    """Return the object that refines one file when called, as a whole or in tiles."""
    if args.tile is None:
        for name in sorted(given(args) & _TILED_ONLY):
            raise UserError(f"{option(name)} goes with --tile; give both, or neither")
        return Refining(args, inputs, workers, threads)
    if args.write == "saliency":
        raise UserError("--tile writes labels or marginals; for --write saliency leave it out")
    if len(inputs.images(inputs.found[0])) > 1:
        raise UserError(
            "--tile reads one file per image, but --image-suffix names several; leave --tile out, "
            "or save their channels in one file"
        )
    if args.write == "both":
        raise UserError("--tile writes labels or marginals, not both at once; run it twice")
    if args.write == "marginals" and args.classes is not None:
        raise UserError("--tile with --classes writes labels only; leave one of the options out")
    if args.dtype == "float16":
        raise UserError("--tile writes marginals in float32; leave --dtype float16 out")
    for name in sorted(given(args) & recorded(args).keys() - HEEDED):
        raise UserError(f"{option(name)} needs whole files; leave it or --tile out")
    return Tiling(args, inputs, workers, threads)


class Tiling(Refining):
    """A callable that refines one file in tiles and records it; parameters as in `Refining`."""

    default_dtype = "float32"

    def outputs(
        self, match: files.Match, axes: int | None = None, maps: int | None = None
    ) -> list[Path]:
        """Return the path of the one output, in the format of the image."""
        return [self._args.out / f"{match.stem}{files.extension(match.paths[1])}"]

    def _hashed_in_read(self, path: Path) -> bool:
        return False

    def _refined(self, match: files.Match) -> tuple[list[Path], tuple[int, ...]]:
        args, settings = self._args, self.settings
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._engine)
            of_labels = args.kind == "labels"
            source = formats.open_in_parts(match.paths[0], stack, args.key)
            guide = formats.open_in_parts(match.paths[1], stack, args.image_key)
            maps = source.labels() if of_labels else of_image(source, guide)
            if of_labels:
                largest = max(args.classes or [args.num_labels - 1])
                _nodata.warn_of_label(match.paths[0], largest)
            shape = tuple(maps.shape)
            bar = stack.enter_context(
                progress(args.quiet, unit="pixel", unit_scale=True, desc=match.stem)
            )

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            outputs = self.outputs(match)
            files.refine_raster(
                match.paths[0], match.paths[1], outputs[0], settings.params,
                key=args.key, image_key=args.image_key,
                kind=self._inputs.kind(match), clip=args.clip, num_labels=args.num_labels,
                confidence=args.confidence, unsure=args.unsure, classes=args.classes,
                temperature=args.temperature, bands=args.bands,
                multilabel=self._inputs.regions, order=args.regions_class_order,
                marginals=args.write == "marginals", tile=args.tile, halo=args.halo,
                compatibility=settings.compatibility,
                iterations=settings.iterations, mask=None if args.mask is None else match.paths[2],
                spacing=args.spacing, prune=args.prune, backend=args.backend,
                threads=self._threads, progress=show, strict=args.strict,
            )  # fmt: skip
        return outputs, shape
