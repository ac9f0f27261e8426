"""The work of `densecrf-rnn refine` on one file: skip it if done, else read, refine, write, record.

Thread-safe; at most as many files are refined at once as there are workers.
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
from ..files import formats
from ..files.record import Record, checksum
from ..inference.refine import refine
from ..postprocess import most_probable, remove_small
from . import UserError
from ._crf_options import settings
from ._inputs import Inputs
from ._options import recorded

_SOURCES = ("logits", "image", "mask")


class Refining:
    """A callable that refines one file and records the result.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options of the command.
    inputs : Inputs
    workers, threads : int
        Number of files refined at once, and of threads for each.

    Raises
    ------
    UserError
        Options contradict each other, or outputs would replace inputs.
    """

    default_dtype: Literal["float16", "float32"] = "float16"

    def __init__(
        self, args: argparse.Namespace, inputs: Inputs, workers: int, threads: int
    ) -> None:
        self._args, self._inputs = args, inputs
        self.settings = settings(args)
        self._threads = threads
        self._dtype: Literal["float16", "float32"] = args.dtype or self.default_dtype
        self._engine = threading.BoundedSemaphore(workers)
        self._units_given = args.theta_beta is not None or args.params is not None
        read = {os.path.realpath(path) for match in inputs.found for path in match.paths}
        for match in inputs.found:
            for path in self.outputs(match):
                if os.path.realpath(path) in read:
                    raise UserError(f"{path} is one of the inputs; choose another folder for --out")
        suffixes = (args.logits_suffix, args.image_suffix, args.mask_suffix)
        for source, suffix in zip((args.logits, args.images, args.mask), suffixes, strict=True):
            same = source is not None and os.path.realpath(source) == os.path.realpath(args.out)
            if same and any(match.stem.endswith(suffix) for match in inputs.found):
                raise UserError(
                    f"--out is {source}, where the next run would take outputs for inputs; choose "
                    "another folder"
                )

    def options(self) -> dict[str, Any]:
        """Return all options that affect what is written, with the defaults filled in."""
        mu = self.settings.compatibility
        return {
            **recorded(self._args), **self.settings.params.to_dict(),
            "mask": self._args.mask is not None,  # its files are recorded as inputs
            "iterations": self.settings.iterations, "dtype": self._dtype,
            "compatibility": None if mu is None else mu.astype(float).tolist(),
        }  # fmt: skip

    def outputs(self, match: files.Match, axes: int | None = None) -> list[Path]:
        """Return the output paths of one stem.

        `axes` is 2 or 3; None returns every path that may be written.
        """
        return [
            self._args.out / f"{match.stem}{end}"
            for what in ("labels", "marginals")
            if self._args.write in (what, "both")
            for end in self._endings(what, match.paths[1], axes)
        ]

    def __call__(self, match: files.Match, record: Record) -> Literal["refined", "as before"]:
        """Refine one stem, unless it is done according to the record."""
        inputs = {name: (path, checksum(path)) for name, path in zip(_SOURCES, match.paths)}
        if record.is_done(match.stem, {name: found for name, (_, found) in inputs.items()}):
            return "as before"
        outputs, shape = self._refined(match)
        record.add(match.stem, inputs, [path.name for path in outputs], shape=shape)
        return "refined"

    def _refined(self, match: files.Match) -> tuple[list[Path], tuple[int, ...]]:
        """Read, refine and write one stem; return the outputs and the shape of the logits."""
        problem = self._inputs.read(match)
        self._check_units(problem.image)
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
        if what == "marginals":
            return [".npz"]
        if formats.kind(image) == "volume":
            return [".nii.gz"]
        if axes is None:  # a format without logits has no volumes
            return [".png", ".npy"] if formats.can(image, "scores") else [".png"]
        return [".png" if axes == 2 else ".npy"]

    def _write(self, match: files.Match, q: Array, outputs: list[Path]) -> None:
        names = None if self._args.classes is None else self._inputs.label_names(len(q))
        if self._args.write != "marginals":
            labels = most_probable(q)
            if names is not None:
                labels = names.astype(np.min_scalar_type(names.max()))[labels]
            if self._args.remove_small is not None:
                labels = remove_small(labels, self._args.remove_small)
            image = match.paths[1]
            files.write_labels(
                outputs.pop(0), labels, palette=self._inputs.palette(match),
                like=image if formats.kind(image) == "volume" else None,
            )  # fmt: skip
        if self._args.write != "labels":
            files.write_marginals(outputs.pop(0), q, dtype=self._dtype, classes=names)

    def _check_units(self, image: Array) -> None:
        """Warn if theta_beta has its default although the image's values exceed 0..255."""
        if self._units_given or image.dtype == np.uint8:
            return
        low, high = (float(of.reduce(image, axis=None)) for of in (np.fmin, np.fmax))  # ignore NaN
        if high > 255 or low < 0:
            warnings.warn(
                f"image ({image.dtype}) exceeds 0..255, the range that the default theta_beta of "
                f"{self.settings.params.theta_beta:g} is meant for; give --theta-beta in the "
                "image's units",
                stacklevel=2,
            )
