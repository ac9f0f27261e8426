"""`densecrf-rnn explore`: sliders for the CRF's parameters, on a page of this machine alone."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import checks, engines, files, samples
from ..explore.scenes import Scene, Source, displayable, load, of_samples
from ..explore.settings import Settings
from ..files.sources import by_stem
from ..params import CRFParams
from . import UserError, _types, require, user_errors
from ._crf_options import add_crf_options, settings
from ._inputs import Inputs, Problem, add_content_options, channels_of
from ._label_options import Truths, occurring
from ._messages import reason_of
from ._options import given, option
from .demo import ITERATIONS, PARAMS

PORT = 8765
_DEFAULTS = files.Settings(PARAMS, ITERATIONS)  # of the sliders
_OF_PAGE = {"sources", "port", "no_browser", "out", "threads"}
# Options that say nothing of how a file is read: those of the page, those that its sliders replace,
# and those that choose the files, each of which the copied command names.
_NOT_OF_INPUT = {
    *_OF_PAGE, "params", "iterations", "temperature", "logits", "images",
    "truth", "mask", "recursive", *(field.name for field in fields(CRFParams)),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = (
        "Without files the page has the samples of the package. It also takes photographs, which "
        "the sample network scores, and strokes drawn on an image. It is served to this machine "
        "alone, sends nothing anywhere, and deletes uploads when it ends (Ctrl-C)."
    )
    parser.add_argument(
        "sources", nargs="*", type=_types.place, metavar="LOGITS IMAGES [TRUTH]",
        help="folder, quoted pattern or file of logits, of their images and of their true labels, "
        "as refine and evaluate read them",
    )  # fmt: skip
    add = parser.add_argument
    add("--port", **_types.COUNT, default=PORT, help="port of the page (default: %(default)s)")
    add("--no-browser", action="store_true", help="print the address, and open no browser")
    add("--out", **_types.FOLDER, default=Path("densecrf-explore"),
        help="folder for inputs that the page saves (default: %(default)s)")
    add("--threads", **_types.COUNT, help="maximum number of threads (default: one per processor)")
    add_content_options(parser, regions=False)
    add_crf_options(parser, _DEFAULTS, of_page=True)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    require("explore", "nicegui", "PIL", extra="explore")
    require("explore", "skimage", extra="cli")
    require("explore", "torch", extra="torch")
    from ..explore.serving import serve

    engines.resolve("auto")  # the page could say only at the first refinement that there is none
    start = _start(args)
    sources = _sources_of(args) if args.sources else of_samples()
    name, source = next(iter(sources.items()))  # which the page shows first
    with user_errors(OSError, ImportError, TypeError, ValueError):
        first = load(source)
    sources[name] = lambda: first
    with user_errors(ValueError):
        serve(
            sources, start, port=args.port, browser=not args.no_browser, threads=args.threads,
            folder=args.out,
        )  # fmt: skip
    return 0


def _start(args: argparse.Namespace) -> Settings:
    """Return what the sliders show first: the demo's, or what the options say."""
    chosen = settings(args, _DEFAULTS)
    if chosen.compatibility is not None:
        raise UserError(
            f"{args.params} holds a compatibility, which the page has no slider for; leave it out, "
            "or use refine"
        )
    with user_errors(ValueError):
        start = Settings.of(chosen.params, chosen.iterations)
    with user_errors(TypeError, ValueError):
        checks.count("--iterations", start.iterations, 0)
        checks.positive_number("--temperature", args.temperature)
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
    of_inputs.ignore = of_inputs.truth_key = None  # of the true labels, by default
    truths: dict[str, Path] = {}
    with user_errors(OSError, ValueError):
        inputs = Inputs(of_inputs)
        if len(args.sources) == 3:
            truths = by_stem(args.sources[2], "", args.recursive)
    for said in inputs.missing:
        print(f"densecrf-rnn explore: {said}", file=sys.stderr)
    if truths and not any(match.stem in truths for match in inputs.found):
        raise UserError(
            f"no file of {args.sources[2]} has the stem of a file of {args.sources[0]}, such as "
            f"{inputs.found[0].stem}; name the true labels so"
        )
    return {
        match.stem: partial(_scene, inputs, of_inputs, match, truths.get(match.stem), words)
        for match in inputs.found
    }


def _scene(
    inputs: Inputs, args: argparse.Namespace, match: files.Match, path: Path | None,
    words: Sequence[str],
) -> Scene:  # fmt: skip
    try:
        with files.allowing(args.max_bytes):  # a thread of the page has no context of the command
            problem = inputs.read(match)
            truth = None if path is None else _truth(inputs, args, match, path, problem)
    except (TypeError, ValueError) as error:
        raise ValueError(reason_of(match, error)) from error
    image = match.paths[1]
    if len(inputs.images(match)) > 1:  # which are found by their suffixes
        image = image.parent if args.recursive else args.images
    if args.mask is not None:  # the file, as those of logits and image
        words = [*words, option("mask"), str(match.paths[-1])]
    return Scene(
        name=Path(match.stem).name, image=problem.image,
        logits=problem.logits.astype(np.float32, copy=False), truth=truth,
        shown=displayable(problem.image), mask=problem.mask, spacing=problem.spacing,
        command=(str(match.paths[0]), str(image), *words),
    )  # fmt: skip


def _truth(
    inputs: Inputs, args: argparse.Namespace, match: files.Match, path: Path, problem: Problem
) -> Array:
    """Read true labels as channels of the logits; those that are not scored become IGNORE."""
    truths = Truths(args)
    truth = inputs.zyx(path, truths.read(path, size=problem.logits.shape[1:]))
    truth = files.aligned(truth, path, key=args.truth_key, **inputs.grid(match))
    if truths.values is None and occurring(truth) == [0, samples.IGNORE]:
        warnings.warn(
            f"{path}: holds only 0 and {samples.IGNORE}, of which {samples.IGNORE} is taken for "
            f"void, which is not scored; if it is the foreground, add --label-values "
            f"0,{samples.IGNORE}",
            stacklevel=2,
        )
    names = inputs.label_names(max(2, len(problem.logits)))
    channels, foreign = channels_of(truth, names, truth == truths.ignore)
    if foreign is not None and args.classes is None:
        raise ValueError(
            f"{path}: holds the label {foreign}, but the logits' labels are 0..{len(names) - 1}; "
            f"give true labels of these, or {samples.IGNORE} for pixels that are not scored"
        )
    unscored = (truth == truths.ignore) | ~np.isin(truth, names)
    if problem.valid is not None:
        unscored |= ~problem.valid
    return np.where(unscored, samples.IGNORE, channels)


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
