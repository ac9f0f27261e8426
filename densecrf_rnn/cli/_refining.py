"""What `densecrf-rnn refine` does with one file: is it done, read it, refine it, write it, note it.

Safe to call from several threads; the engine is entered by as many as there are workers.
"""

import argparse
import os
import threading
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._typing import Array
from .. import files
from ..files.pairs import PICTURES, VOLUMES
from ..files.record import Record, checksum
from ..postprocess import remove_small
from ..inference.refine import refine
from ..tiles import likeliest
from . import UserError
from ._crf_options import settings
from ._inputs import Inputs

_SOURCES = ("logits", "image", "mask")


class Refining:
    """The command's work on one file, by its options.

    Parameters
    ----------
    args : argparse.Namespace
        Of the command.
    inputs : Inputs
    workers, threads : int
        How many files are refined at once, on how many threads each.

    Raises
    ------
    UserError
        Options that cannot be, or outputs that would replace inputs.
    """

    def __init__(
        self, args: argparse.Namespace, inputs: Inputs, workers: int, threads: int
    ) -> None:
        self._args, self._inputs = args, inputs
        self.settings = settings(args)
        self._threads = threads
        self._engine = threading.BoundedSemaphore(workers)
        self._units_given = args.theta_beta is not None or args.params is not None
        read = {os.path.realpath(path) for match in inputs.found for path in match.paths}
        for match in inputs.found:
            for path in self.outputs(match):
                if os.path.realpath(path) in read:
                    raise UserError(f"{path} is one of the inputs; choose another folder for --out")
        suffixes = (args.logits_suffix, args.image_suffix, args.mask_suffix)
        for source, suffix in zip((args.logits, args.images, args.mask), suffixes, strict=True):
            if source is None or os.path.realpath(source) != os.path.realpath(args.out):
                continue
            if any(match.stem.endswith(suffix) for match in inputs.found):
                raise UserError(
                    f"--out is {source}, where outputs would be taken for inputs the next time; "
                    "choose another folder"
                )

    def options(self) -> dict[str, Any]:
        """All that bears on what is written beside the files that are read."""
        names = ("write", "dtype", "remove_small")
        outputs = {name: getattr(self._args, name) for name in names}
        return {**self.settings.to_dict(), **self._inputs.options(), **outputs}

    def outputs(self, match: files.Match, axes: int | None = None) -> list[Path]:
        """What is written of a stem: of 2 or 3 axes, or all that may be."""
        return [
            self._args.out / f"{match.stem}{end}"
            for what in ("labels", "marginals")
            if self._args.write in (what, "both")
            for end in self._endings(what, match.paths[1], axes)
        ]

    def __call__(self, match: files.Match, record: Record) -> Literal["refined", "as before"]:
        """Refine one stem, unless the record says that it is done."""
        inputs = {name: (path, checksum(path)) for name, path in zip(_SOURCES, match.paths)}
        if record.is_done(match.stem, {name: found for name, (_, found) in inputs.items()}):
            return "as before"
        outputs, shape = self._refined(match)
        record.add(match.stem, inputs, [path.name for path in outputs], shape=shape)
        return "refined"

    def _refined(self, match: files.Match) -> tuple[list[Path], tuple[int, ...]]:
        """Read, refine and write; what was written, and of which shape the logits were."""
        problem = self._inputs.read(match)
        self._look_at_units(problem.image)
        with self._engine:
            q = refine(
                problem.logits, problem.image, self.settings.params,
                compatibility=self.settings.compatibility, iterations=self.settings.iterations,
                mask=problem.mask, spacing=problem.spacing, backend=self._args.backend,
                threads=self._threads,
            )  # fmt: skip
        del problem
        outputs = self.outputs(match, q.ndim - 1)
        self._write(match, q, list(outputs))
        return outputs, q.shape

    def _endings(self, what: str, image: Path, axes: int | None) -> list[str]:
        kind = files.extension(image)
        if what == "marginals":
            return [".npz"]
        if kind in VOLUMES:
            return [".nii.gz"]
        if axes is None:
            pages = kind not in PICTURES or kind in (".tif", ".tiff")
            return [".png", ".npy"] if pages else [".png"]
        return [".png" if axes == 2 else ".npy"]

    def _write(self, match: files.Match, q: Array, outputs: list[Path]) -> None:
        names = None if self._args.classes is None else self._inputs.label_names(len(q))
        if self._args.write != "marginals":
            labels = likeliest(q)
            if names is not None:
                labels = names.astype(np.min_scalar_type(names.max()))[labels]
            if self._args.remove_small is not None:
                labels = remove_small(labels, self._args.remove_small)
            image = match.paths[1]
            files.write_labels(
                outputs.pop(0), labels, palette=self._inputs.palette(match),
                like=image if files.extension(image) in VOLUMES else None,
            )  # fmt: skip
        if self._args.write != "labels":
            files.write_marginals(outputs.pop(0), q, dtype=self._args.dtype, classes=names)

    def _look_at_units(self, image: Array) -> None:
        """Warn where nobody chose theta_beta for an image that is not of 8 bits."""
        if self._units_given or image.dtype == np.uint8:
            return
        low, high = (float(of.reduce(image, axis=None)) for of in (np.fmin, np.fmax))  # masked: NaN
        if high > 255 or low < 0:
            warnings.warn(
                f"the image ({image.dtype}) goes beyond 0..255, for which theta_beta is left at "
                f"{self.settings.params.theta_beta:g}; give --theta-beta in the image's units",
                UserWarning,
                stacklevel=2,
            )
