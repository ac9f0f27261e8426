"""The examples that `tune` scores: images with logits and ground truth, read on demand."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._typing import Array
from .. import files
from . import UserError
from ._inputs import Inputs, Problem, channels_of, paired
from ._scoring import warn_missing

IGNORED = -1  # replaces the label --ignore when true labels are renumbered to channels


@dataclass(frozen=True, eq=False)
class Example(Problem):
    """The inputs of `refine` for one image and its ground truth; implements `tuning.Example`."""

    name: str
    truth: Array


class Examples(Sequence[Example]):
    """The images that have logits and ground truth, read when they are indexed."""

    def __init__(self, inputs: Inputs, args: argparse.Namespace) -> None:
        self._inputs, self._args = inputs, args
        true = paired(args, logits=args.logits, truth=args.truth)
        warn_missing([*inputs.missing, *true.missing])
        self._truth = {match.stem: match.paths[1] for match in true.found}
        self._found = [match for match in inputs.found if match.stem in self._truth]
        if not self._found:
            raise UserError(f"no file of {args.logits} has both an image and a true label map")

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        match = self._found[index]
        problem = self._inputs.read(match)
        truth = self._true_channels(self._truth[match.stem], problem)
        return Example(**vars(problem), name=match.stem, truth=truth)

    def _true_channels(self, path: Path, problem: Problem) -> Array:
        """Read true labels, renumbered to the logits' channels; ignored pixels get IGNORED."""
        args = self._args
        truth = self._inputs.zyx(path, files.read_labels(path, key=args.truth_key))
        names = self._inputs.label_names(max(2, len(problem.logits)))
        channels, foreign = channels_of(truth, names, truth == args.ignore)
        if foreign is not None:
            kept = f"0..{len(names) - 1}" if args.classes is None else "those of --classes"
            raise ValueError(
                f"{path}: holds the label {foreign}, but the logits' labels are {kept}; "
                f"--ignore {foreign} excludes its pixels"
            )
        return channels
