"""From files to what a CRF starts from: logits, image, mask and spacing, by the options for them.

Shared by the commands that read folders of saved logits.
"""

import argparse
import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .._typing import Array
from .. import files, unaries
from ..files.pairs import ARRAYS, PICTURES, VOLUMES
from ..upsampling import upsample
from . import UserError, positive


@dataclass(frozen=True, eq=False)
class Problem:
    """What `refine` takes, for one stem."""

    logits: Array  # [L, *S]
    image: Array  # [*S, C]
    mask: Array | None  # [*S]
    spacing: tuple[float, ...] | None


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Declare where the files are and what they hold."""
    parser.add_argument(
        "logits", metavar="LOGITS",
        help="folder, 'pattern' or file: .npy .npz .pt .safetensors .h5 .zarr .nii, label pictures",
    )  # fmt: skip
    parser.add_argument(
        "images", metavar="IMAGES",
        help="folder, 'pattern' or file with an image of each stem: pictures, .nii, arrays",
    )  # fmt: skip
    group = parser.add_argument_group("what the files hold")
    group.add_argument(
        "--kind", choices=("logits", "probabilities", "labels"),
        help="what LOGITS holds (default: labels in pictures but TIFF, logits in all else)",
    )  # fmt: skip
    group.add_argument("--key", metavar="NAME", help="array to take from a file of several")
    group.add_argument("--image-key", metavar="NAME", help="the same for IMAGES")
    group.add_argument(
        "--labels-last", action="store_true", help="arrays are [H, W, L], not [L, H, W]"
    )
    group.add_argument(
        "--axes", choices=("zyx", "xyz"), default="zyx",
        help="order of a volume's axes in array files (default: %(default)s, as NIfTI is read)",
    )  # fmt: skip
    group.add_argument(
        "--upsample", choices=("corners", "centers"),
        help="enlarge coarse logits linearly: centres of corner pixels meet, or outer edges do",
    )  # fmt: skip
    group.add_argument(
        "--covers", type=sizes, metavar="H,W",
        help="with --upsample: what the logits cover, the image's size and padding after it",
    )  # fmt: skip
    group.add_argument(
        "--mask", metavar="MASKS", help="folder, 'pattern' or file of masks; 0 takes no part"
    )
    group.add_argument(
        "--spacing", type=spacings, metavar="X,X[,X]",
        help="pixel size along each axis, in the unit of theta (default: the NIfTI header's, or 1)",
    )  # fmt: skip
    for name in ("logits", "image", "mask"):
        group.add_argument(
            f"--{name}-suffix", default="", metavar="TEXT",
            help=f"how names of {name} files end after the stem",
        )  # fmt: skip
    group = parser.add_argument_group("how far they are trusted")
    group.add_argument(
        "--temperature", type=float, default=1.0, metavar="T",
        help="divide logits by T; above 1 for a network that is too sure (default: 1)",
    )  # fmt: skip
    group.add_argument(
        "--classes", type=classes, metavar="N,N-N,...", help="labels to keep; others are ruled out"
    )
    group.add_argument(
        "--num-labels", type=positive, metavar="L", help="of label maps: their labels are 0..L-1"
    )
    group.add_argument(
        "--confidence", type=float, default=0.7, metavar="P",
        help="of label maps: probability that a label is right (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--unsure", type=int, metavar="N", help="of label maps: the value that says `not known`"
    )


class Inputs:
    """The files that belong together, and how they are read.

    Parameters
    ----------
    args : argparse.Namespace
        Of `add_input_options`.

    Raises
    ------
    UserError
        Nothing to be found there, or options that contradict each other.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        if args.covers is not None and args.upsample is None:
            raise UserError("--covers says what --upsample enlarges to; give both")
        sources = [args.logits, args.images]
        suffixes = [args.logits_suffix, args.image_suffix]
        if args.mask is not None:
            sources.append(args.mask)
            suffixes.append(args.mask_suffix)
        try:
            self.found, self.missing = files.pair(*sources, suffixes=suffixes)
        except ValueError as error:
            raise UserError(str(error)) from error
        kinds = {self._kind(match) for match in self.found}
        if "labels" in kinds and args.num_labels is None and args.classes is None:
            raise UserError(
                "label maps do not say how many labels there are; give --num-labels L, or --classes"
            )

    def options(self) -> dict[str, Any]:
        """All that bears on what `read` returns beside the files, as JSON can hold it."""
        names = (
            "kind", "key", "image_key", "labels_last", "axes", "upsample", "covers", "spacing",
            "temperature", "classes", "num_labels", "confidence", "unsure",
        )  # fmt: skip
        return {name: getattr(self._args, name) for name in names}

    def label_names(self, labels: int) -> Array:
        """The label that each row of the logits stands for. [L]"""
        chosen = self._args.classes
        return np.arange(labels) if chosen is None else np.asarray(chosen)

    def palette(self, match: files.Match) -> Array | None:
        """The colours that go with the labels of a file, where it has colours."""
        return files.read_palette(match.paths[0]) if self._kind(match) == "labels" else None

    def read(self, match: files.Match) -> Problem:
        """The problem of one stem.

        Raises
        ------
        OSError, ImportError, TypeError, ValueError
            What is the matter with one of its files, which the message names.
        """
        args = self._args
        logits = self._turned(match, 0, self._logits(match), first=1)
        axes = logits.ndim - 1
        image = files.read_image(match.paths[1], key=args.image_key, axes=axes)
        image = self._turned(match, 1, image, first=0)
        if image.ndim != axes + 1:
            raise ValueError(
                f"{match.paths[1]}: an image of {image.ndim - 1} axes and channels, but the logits "
                f"have {axes}"
            )
        mask = None
        if args.mask is not None:
            mask = self._turned(match, 2, files.read_mask(match.paths[2]), first=0)
        spacing = args.spacing
        if spacing is None and axes == 3:
            spacing = files.read_spacing(match.paths[1])
        logits = self._sized(logits, image)
        if args.temperature != 1:
            logits = unaries.softened(logits, args.temperature)
        return Problem(logits, image, mask, spacing)

    def _kind(self, match: files.Match) -> Literal["logits", "probabilities", "labels"]:
        end = files.extension(match.paths[0])
        if self._args.kind is not None:
            return self._args.kind
        return "labels" if end in PICTURES and end not in (".tif", ".tiff") else "logits"

    def _logits(self, match: files.Match) -> Array:
        args, path, kind = self._args, match.paths[0], self._kind(match)
        if kind != "labels":
            axes = 3 if files.extension(match.paths[1]) in VOLUMES else None
            logits = files.read_logits(
                path, key=args.key, kind=kind, labels_last=args.labels_last, axes=axes
            )
            return logits if args.classes is None else unaries.of_classes(logits, args.classes)
        labels = files.read_labels(path, key=args.key)
        names = self.label_names(args.num_labels)
        order = np.argsort(names)
        ranks = order[np.searchsorted(names, labels, sorter=order).clip(max=len(names) - 1)]
        known = np.ones(labels.shape, bool) if args.unsure is None else labels != args.unsure
        foreign = labels[known & (names[ranks] != labels)]
        if foreign.size:
            raise ValueError(
                f"{path}: holds the label {foreign[0]}, which is none of those to keep (--unsure "
                f"{foreign[0]} makes it mean: not known)"
            )
        ranks[~known] = -1
        return unaries.logits_from_labels(ranks, len(names), args.confidence, unsure=-1)

    def _turned(self, match: files.Match, source: int, array: Array, first: int) -> Array:
        """A volume of an array file that stores x, y, z, as z, y, x; axes from `first` on."""
        stored = files.extension(match.paths[source]) in ARRAYS
        axes = array.ndim - first - (source == 1)
        if self._args.axes == "zyx" or not stored or axes != 3:
            return array
        return np.ascontiguousarray(np.swapaxes(array, first, first + 2))

    def _sized(self, logits: Array, image: Array) -> Array:
        """The logits on the grid of the image."""
        args, found, size = self._args, logits.shape[1:], image.shape[:-1]
        if args.upsample is None or (found == size and args.covers is None):
            if found == size:
                return logits
            way_out = self._way_out(logits, image)
            raise ValueError(f"logits are {_by(found)} but the image is {_by(size)}; {way_out}")
        covers = size if args.covers is None else args.covers
        if len(covers) != len(size) or any(c < s for c, s in zip(covers, size)):
            raise ValueError(
                f"--covers is {_by(covers)} but the image is {_by(size)}; the logits must cover it"
            )
        if any(f > c for f, c in zip(found, covers)):
            raise ValueError(
                f"logits are {_by(found)}, larger than the {_by(covers)} that they cover; "
                "--upsample enlarges only"
            )
        if not np.isfinite(logits).all():
            raise ValueError("logits contain NaN or infinity, so they cannot be interpolated")
        if not args.labels_last and _uneven(found, covers) > 1.5 > 1.2 > _uneven(
            logits.shape[:-1], covers
        ):
            warnings.warn(
                f"enlarges {_by(found)} to {_by(covers)}, more along one axis than the other; if "
                "the file holds [H, W, L], --labels-last reads it",
                UserWarning,
                stacklevel=2,
            )
        return upsample(logits, covers, align_corners=args.upsample == "corners", crop=size)

    def _way_out(self, logits: Array, image: Array) -> str:
        """What may be wrong where sizes differ."""
        found, size = logits.shape[1:], image.shape[:-1]
        if self._args.labels_last and (*found[1:], len(logits)) == size:
            return "leave --labels-last out"
        if not self._args.labels_last and logits.shape[:-1] == size:
            return "--labels-last reads [H, W, L]"
        if image.shape[1:] == found:
            return "an image array is [H, W, C], so move its channels to the end"
        if found == size[::-1]:
            if len(size) == 3:
                return "--axes xyz reads array files that store x, y, z"
            return "exchange rows and columns of one"
        return "resize one, or enlarge coarse logits by --upsample {corners,centers}"


def sizes(text: str) -> tuple[int, ...]:
    """Two or three whole numbers between commas."""
    found = text.split(",")
    if len(found) not in (2, 3) or not all(n.isdecimal() and int(n) for n in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not H,W or D,H,W")
    return tuple(map(int, found))


def spacings(text: str) -> tuple[float, ...]:
    """Two or three numbers between commas."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if len(found) not in (2, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or three numbers between commas")
    return found


def classes(text: str) -> list[int]:
    """Labels and ranges of labels between commas: "0,8-12"."""
    found: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of labels such as 0,8-12,15")
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1)
    if len(found) < 2 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} must name at least two labels, each once")
    return found


def _uneven(coarse: tuple[int, ...], fine: tuple[int, ...]) -> float:
    """How much more one axis is enlarged than another."""
    factors = [f / max(1, c) for c, f in zip(coarse, fine, strict=True)]
    return max(factors) / min(factors)


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
