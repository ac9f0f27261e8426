"""The examples that `tune` scores: images with logits and ground truth, read on demand."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._typing import Array
from .. import files
from ..checks.wording import size as shown
from . import UserError
from ._inputs import Inputs, Problem, channels_of
from ._label_options import Truths, ways_out
from ._messages import Messages, reason_of
from ._pairing import paired
from ._regions import ONE_BY_ONE
from ._scoring import warn_missing

_OVERLAPPING = f"if the maps may overlap {ONE_BY_ONE}"
IGNORED = -1  # replaces the label --ignore when true labels are renumbered to channels


@dataclass(frozen=True, eq=False)
class Example(Problem):
    """The inputs of `refine` for one image and its ground truth; implements `tuning.Example`."""

    name: str
    truth: Array


class Examples(Sequence[Example]):
    """The images that have logits and ground truth, read when they are indexed."""

    def __init__(self, inputs: Inputs, args: argparse.Namespace, messages: Messages) -> None:
        self._inputs, self._args, self._messages = inputs, args, messages
        true = paired(args, logits=args.logits, truth=args.truth)
        warn_missing([*inputs.missing, *true.missing], messages)
        self._truths = Truths(args)
        self._truth = {match.stem: match.paths[1] for match in true.found}
        self._found = [match for match in inputs.found if match.stem in self._truth]
        if not self._found:
            raise UserError(f"no file of {args.logits} has both an image and a true label map")

    def check_truth(self) -> None:
        """Read all true label maps once, and check that void is no label: see `Truths.check`."""
        for match in self._found:
            self._truths.read(self._truth[match.stem], exif="ignore")
        self._truths.check()

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        match = self._found[index]
        self._messages.about(match.stem)
        try:
            problem = self._inputs.read(match)
        except (TypeError, ValueError) as error:
            reason = reason_of(match, error)
            reason = reason.replace("add --kind regions if the maps may overlap", _OVERLAPPING)
            raise ValueError(reason) from error
        truth = self._true_channels(self._truth[match.stem], problem)
        truth = files.aligned(
            truth, self._truth[match.stem], key=self._args.truth_key, **self._inputs.grid(match)
        )  # fmt: skip
        size = problem.logits.shape[1:]
        for path, what, array in (
            (self._truth[match.stem], "truth", truth), (match.paths[-1], "mask", problem.mask),
        ):  # fmt: skip
            if array is not None and array.shape != size:
                raise ValueError(
                    f"{path}: the {what} is {shown(array.shape)}, but the logits are "
                    f"{shown(size)}; both must be of the image's size"
                )
        if problem.valid is not None:  # pixels without data are neither refined nor scored
            truth = np.where(problem.valid, truth, IGNORED)
            problem.logits[:, ~problem.valid] = 0
        return Example(**vars(problem), name=match.stem, truth=truth)

    def _true_channels(self, path: Path, problem: Problem) -> Array:
        """Read true labels, renumbered to the logits' channels; ignored pixels get IGNORED."""
        args = self._args
        truth = self._truths.read(path, size=problem.logits.shape[1:])
        truth = self._inputs.zyx(path, truth)
        names = self._inputs.label_names(max(2, len(problem.logits)))
        channels, foreign = channels_of(truth, names, truth == self._truths.ignore)
        if foreign is not None:
            kept = f"0..{len(names) - 1}" if args.classes is None else "those of --classes"
            raise ValueError(
                f"{path}: holds the label {foreign}, but the logits' labels are {kept}; "
                + (
                    ways_out(foreign)
                    if self._truths.values is None and np.isin(truth, (0, foreign)).all()
                    else f"--ignore {foreign} excludes its pixels"
                )
            )
        return channels
