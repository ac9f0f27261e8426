"""`densecrf-rnn explore`: sliders for the CRF's parameters, on a page of this machine alone."""

import argparse
from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from .. import files, samples
from ..explore.scenes import Scene, Source, displayable, of_samples
from ..explore.settings import Settings
from ..files.sources import by_stem
from . import UserError, _types, require, user_errors
from ._crf_options import add_crf_options, settings
from ._inputs import Inputs, add_content_options
from ._options import given, option
from .demo import ITERATIONS, PARAMS

PORT = 8765
# Options that a page has no use for, or that its sliders replace.
_NOT_OF_INPUT = {
    "sources", "port", "no_browser", "out", "threads", "params", "iterations", "prune",
    "compatibility", "theta_alpha", "theta_beta", "theta_gamma", "w_bilateral", "w_spatial",
    "normalization", "feature_order", "spatial", "quality", "temperature", "logits", "images",
    "truth",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = (
        "Without files the page has the samples of the package. It also takes photographs, which "
        "the sample network scores, and strokes drawn on an image. It is served to this machine "
        "alone, sends nothing anywhere, and deletes uploads when it ends (Ctrl-C)."
    )
    parser.add_argument(
        "sources", nargs="*", metavar="LOGITS IMAGES [TRUTH]",
        help="folder, quoted pattern or file of logits, of their images and of their true labels, "
        "as refine and evaluate read them",
    )  # fmt: skip
    add = parser.add_argument
    add("--port", **_types.COUNT, default=PORT, help="port of the page (default: %(default)s)")
    add("--no-browser", action="store_true", help="print the address, and open no browser")
    add("--out", **_types.FOLDER, default=Path("densecrf-explore"),
        help="folder for inputs that the page saves (default: %(default)s)")
    add("--threads", **_types.COUNT, help="maximum number of threads (default: one per processor)")
    add_content_options(parser)
    add_crf_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    require("explore", "nicegui", "PIL", extra="explore")
    require("explore", "skimage", extra="cli")
    require("explore", "torch", extra="torch")
    from ..explore.page import serve

    start = _start(args)
    sources = _sources_of(args) if args.sources else of_samples()
    print(f"http://127.0.0.1:{args.port} (Ctrl-C ends it)", flush=True)
    serve(
        sources, start, port=args.port, browser=not args.no_browser, threads=args.threads,
        folder=args.out,
    )  # fmt: skip
    return 0


def _start(args: argparse.Namespace) -> Settings:
    """Return what the sliders show first: the demo's, or what the options say."""
    if not given(args) - {"sources", "port", "no_browser", "out", "threads"}:
        return Settings.of(PARAMS, ITERATIONS)
    chosen = settings(args)
    if chosen.compatibility is not None:
        raise UserError("the page has no --compatibility; leave it out, or use refine")
    if args.prune:
        raise UserError("the page refines exactly; leave --prune out, or use refine")
    with user_errors(ValueError):
        start = Settings.of(chosen.params, chosen.iterations)
    return start.with_value("temperature", args.temperature)


def _sources_of(args: argparse.Namespace) -> dict[str, Source]:
    """Return a source for each stem of LOGITS and IMAGES."""
    if len(args.sources) not in (2, 3):
        raise UserError(
            f"explore got {len(args.sources)} sources; give LOGITS and IMAGES, and perhaps TRUTH, "
            "as folders, files or quoted patterns; or none, for the samples"
        )
    words = _words(args)
    of_inputs = copy(args)
    of_inputs.temperature = 1.0  # the page's slider divides the logits
    of_inputs.logits, of_inputs.images = [args.sources[0]], [args.sources[1]]
    truths: dict[str, Path] = {}
    with user_errors(OSError, ValueError):
        inputs = Inputs(of_inputs)
        if len(args.sources) == 3:
            truths = by_stem(args.sources[2], "", args.recursive)
    return {
        match.stem: partial(_scene, inputs, match, truths.get(match.stem), words)
        for match in inputs.found
    }


def _scene(inputs: Inputs, match: files.Match, truth: Path | None, words: Sequence[str]) -> Scene:
    problem = inputs.read(match)
    count = max(2, len(problem.logits))
    voc = samples.CLASS_NAMES if count == len(samples.CLASS_NAMES) else None
    names = voc or tuple(f"label {k}" for k in inputs.label_names(count))
    return Scene(
        name=Path(match.stem).name, image=problem.image, logits=problem.logits,
        truth=None if truth is None else files.read_labels(truth), classes=names,
        shown=displayable(problem.image), mask=problem.mask,
        command=(*map(str, match.paths[:2]), *words),
    )  # fmt: skip


def _words(args: argparse.Namespace) -> list[str]:
    """Return the options that say how the inputs are read, as words of a command line."""
    words: list[str] = []
    for name in sorted(given(args) - _NOT_OF_INPUT):
        value: Any = getattr(args, name)
        if value is True:
            words.append(option(name))
        elif isinstance(value, (list, tuple)):
            words += [option(name), ",".join(map(str, value))]
        else:
            words += [option(name), str(value)]
    return words
