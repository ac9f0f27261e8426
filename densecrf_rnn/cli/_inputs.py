"""Read the inputs of a CRF from files (logits, image, mask, spacing), and declare their options.

Shared by the commands that read folders of saved logits.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .._typing import Array
from .. import files, unaries
from ..checks.wording import size as shown
from ..files import formats
from ..upsampling import upsample
from . import UserError, _types, user_errors


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs of `refine` for one image (file stem)."""

    logits: Array  # [L, *S], where S are the spatial axes
    image: Array  # [*S, C]
    mask: Array | None  # [*S]
    spacing: tuple[float, ...] | None


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name the input files and describe their content."""
    parser.add_argument(
        "logits", metavar="LOGITS",
        help="folder, quoted pattern or file of logits: arrays, NIfTI, or TIFF with a page per "
        f"label ({' '.join(formats.extensions('scores'))}); or of label maps",
    )  # fmt: skip
    parser.add_argument(
        "images", metavar="IMAGES",
        help="folder, quoted pattern or file of the images, one for each file of LOGITS, of the "
        f"same stem (name without extension): {' '.join(formats.extensions('image'))}",
    )  # fmt: skip
    add = parser.add_argument_group("content of the input files").add_argument
    add("--kind", choices=("logits", "probabilities", "labels"),
        help="content of LOGITS (default: labels for image files other than TIFF, else logits)")
    add("--key", metavar="NAME", help="array to read if a LOGITS file holds several")
    add("--image-key", metavar="NAME", help="array to read if an IMAGES file holds several")
    add("--labels-last", action="store_true",
        help="array files of LOGITS are [H, W, L] or [D, H, W, L] (default: L first)")
    add("--axes", choices=("zyx", "xyz"), default="zyx",
        help="order of a volume's spatial axes in array files (default: %(default)s, that is "
        "[D, H, W], the order in which NIfTI files are read)")
    add("--upsample", choices=("corners", "centers"),
        help="enlarge low-resolution logits by linear interpolation: corners as with "
        "align_corners=True, centers as with align_corners=False")
    add("--covers", type=_types.size, metavar="H,W",
        help="with --upsample: size of the padded network input, whose top-left corner is the "
        "image (default: the size of the image)")
    add("--mask", metavar="MASKS",
        help="folder, quoted pattern or file of masks; pixels where the mask is 0 are excluded")
    add("--spacing", type=_types.spacing, metavar="X,X[,X]",
        help="pixel size along each axis, [D,]H,W, in the unit of --theta-alpha and --theta-gamma "
        "(default: from the NIfTI header, else 1)")
    for name in ("logits", "image", "mask"):
        add(f"--{name}-suffix", default="", metavar="TEXT",
            help=f"text between stem and extension in the names of {name} files, such as _0000")
    add = parser.add_argument_group("confidence of the input").add_argument
    add("--temperature", type=float, default=1.0, metavar="T",
        help="divide the logits by T: above 1 for an overconfident network (default: 1)")
    add("--classes", type=_types.labels, metavar="N,N-N,...",
        help="labels to keep; the others are excluded")
    add("--num-labels", type=_types.positive, metavar="L",
        help="label maps: number of labels, which are 0..L-1")
    add("--confidence", type=float, default=0.7, metavar="P",
        help="label maps: probability that a label is right (default: %(default)s)")
    add("--unsure", type=int, metavar="N", help="label maps: value that means unknown, such as 255")


class Inputs:
    """The matching input files, and how they are read.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options of `add_input_options`.

    Attributes
    ----------
    found : list of files.Match
    missing : list of str
        A sentence for each file of LOGITS without an image or a mask.

    Raises
    ------
    UserError
        No files match, or options contradict each other.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        if args.covers is not None and args.upsample is None:
            raise UserError("--covers needs --upsample, which enlarges the logits to that size")
        sources = {"logits": args.logits, "image": args.images, "mask": args.mask}
        self.found, self.missing = paired(args, **sources)
        kinds = {self._kind(match) for match in self.found}
        if "labels" in kinds and args.num_labels is None and args.classes is None:
            raise UserError(
                "label maps do not contain the number of labels; give --num-labels L, or --classes"
            )

    def label_names(self, labels: int) -> Array:
        """Return the label of each channel of the logits, [L]; `labels` is their number L."""
        chosen = self._args.classes
        return np.arange(labels) if chosen is None else np.asarray(chosen)

    def palette(self, match: files.Match) -> Array | None:
        """Return the palette of a label map, or None for other inputs."""
        return files.read_palette(match.paths[0]) if self._kind(match) == "labels" else None

    def zyx(self, path: Path, array: Array, first: int = 0, channels: int = 0) -> Array:
        """Reverse the spatial axes of a volume from an array file if --axes is xyz.

        The spatial axes begin at the axis `first` and are followed by `channels` axes.
        """
        volume = formats.kind(path) == "array" and array.ndim == first + 3 + channels
        if self._args.axes == "zyx" or not volume:
            return array
        return np.ascontiguousarray(np.swapaxes(array, first, first + 2))

    def read(self, match: files.Match) -> Problem:
        """Read the files of one stem.

        Raises
        ------
        OSError, ImportError, TypeError, ValueError
            A file cannot be read or used; the message names it.
        """
        args = self._args
        logits = self.zyx(match.paths[0], self._logits(match), first=1)
        axes = logits.ndim - 1
        image = files.read_image(match.paths[1], key=args.image_key, axes=axes)
        image = self.zyx(match.paths[1], image, channels=1)
        if image.ndim != axes + 1:
            layout = "[H, W, C]" if image.ndim == 3 else "a volume [D, H, W, C]"
            raise ValueError(
                f"{match.paths[1]}: image is {layout} of shape {image.shape}; logits were read as "
                f"{'[L, H, W]' if axes == 2 else '[L, D, H, W]'} of shape {logits.shape}"
                f"{self._batch_hint(match, logits)}"
            )
        mask = None
        if args.mask is not None:
            mask = self.zyx(match.paths[2], files.read_mask(match.paths[2]))
        spacing = args.spacing
        if spacing is None and axes == 3:
            spacing = files.read_spacing(match.paths[1])
        logits = self._resized(match, logits, image)
        if args.temperature != 1:
            logits = unaries.scale_temperature(logits, args.temperature)
        return Problem(logits, image, mask, spacing)

    def _kind(self, match: files.Match) -> Literal["logits", "probabilities", "labels"]:
        if self._args.kind is not None:
            return self._args.kind
        return "logits" if formats.can(match.paths[0], "scores") else "labels"

    def _logits(self, match: files.Match) -> Array:
        args, path, kind = self._args, match.paths[0], self._kind(match)
        if kind != "labels":
            axes = 3 if formats.kind(match.paths[1]) == "volume" else None
            logits = files.read_logits(
                path, key=args.key, kind=kind, labels_last=args.labels_last, axes=axes
            )
            return logits if args.classes is None else unaries.select_classes(logits, args.classes)
        labels = files.read_labels(path, key=args.key)
        names = self.label_names(args.num_labels)
        unknown = np.zeros(labels.shape, bool) if args.unsure is None else labels == args.unsure
        channels, foreign = channels_of(labels, names, unknown)
        if foreign is not None:
            raise ValueError(
                f"{path}: holds the label {foreign}, not among those to keep (--classes or "
                f"--num-labels); add --unsure {foreign} if it means unknown"
            )
        return unaries.logits_from_labels(channels, len(names), args.confidence, unsure=-1)

    def _resized(self, match: files.Match, logits: Array, image: Array) -> Array:
        """Return logits of the size of the image, enlarged if --upsample is given."""
        args, found, size = self._args, logits.shape[1:], image.shape[:-1]
        if found == size and (args.upsample is None or args.covers is None):
            return logits
        if args.upsample is None:
            hint = self._size_hint(match, logits, image)
            raise ValueError(f"logits are {shown(found)} but the image is {shown(size)}; {hint}")
        covers = size if args.covers is None else args.covers
        if len(covers) != len(size) or any(c < s for c, s in zip(covers, size)):
            raise ValueError(
                f"--covers is {shown(covers)} but the image is {shown(size)}; it must be at least "
                "as large"
            )
        if any(f > c for f, c in zip(found, covers)):
            raise ValueError(
                f"logits are {shown(found)}, but the area they cover ({shown(covers)}, --covers or "
                "the image's size) is smaller; --upsample only enlarges"
            )
        if not np.isfinite(logits).all():
            raise ValueError("logits contain NaN or infinity, so they cannot be interpolated")
        if not args.labels_last and _anisotropy(found, covers) > 1.5 > 1.2 > _anisotropy(
            logits.shape[:-1], covers
        ):
            warnings.warn(
                f"--upsample enlarges {shown(found)} to {shown(covers)}, by different factors "
                "along the axes; if the file holds [H, W, L], add --labels-last",
                stacklevel=2,
            )
        return upsample(logits, covers, align_corners=args.upsample == "corners", crop=size)

    def _size_hint(self, match: files.Match, logits: Array, image: Array) -> str:
        """Return a hint at why logits and image differ in size."""
        found, size = logits.shape[1:], image.shape[:-1]
        # With a first axis of at most 4, the image may rather be [C, H, W].
        volumes = logits.shape == image.shape and len(logits) > 4
        if volumes and (hint := self._batch_hint(match, logits)):
            return hint.removeprefix("; ")
        if image.shape[1:] == found and len(image) < image.shape[-1]:
            return "an image array must be [H, W, C]: save it with its channels last"
        if self._args.labels_last and (*found[1:], len(logits)) == size:
            return "leave --labels-last out"
        if not self._args.labels_last and logits.shape[:-1] == size:
            return "if the file holds [H, W, L], add --labels-last"
        if found == size[::-1]:
            if len(size) == 3:
                return "if array files hold [x, y, z], add --axes xyz"
            return "exchange rows and columns of one of them"
        return "resize one of them, or enlarge coarse logits by --upsample {corners,centers}"

    def _batch_hint(self, match: files.Match, logits: Array) -> str:
        """Return a note if the array has four axes and the first was read as a batch of one."""
        path = match.paths[0]
        if logits.ndim != 3 or formats.kind(path) != "array" or self._args.labels_last:
            return ""
        if files.read_array(path, self._args.key).ndim != 4:
            return ""
        return (
            "; the array of four axes was read as a batch of one, [1, L, H, W]; for a volume of "
            "one logit save [1, 1, D, H, W], or the image as NIfTI"
        )


@user_errors(ValueError)
def paired(args: argparse.Namespace, **sources: str | None) -> files.Pairs:
    """Match the files of several sources by stem; `sources` maps their names, None to be left out.

    For a source "image", the option --image-suffix says how the names of its files end.

    Raises
    ------
    UserError
        No files match.
    """
    given = {name: source for name, source in sources.items() if source is not None}
    return files.pair(
        *given.values(),
        suffixes=[getattr(args, f"{name}_suffix") for name in given],
        suffix_options=[f"--{name}-suffix" for name in given],
    )


def channels_of(labels: Array, names: Array, unknown: Array) -> tuple[Array, int | None]:
    """Replace each label by its position in `names`, and by -1 where `unknown` is True.

    Returns
    -------
    ndarray of int, shape of `labels`
    int or None
        A label that is neither in `names` nor unknown, or None if there is no such label.
    """
    order = np.argsort(names)
    channels = order[np.searchsorted(names, labels, sorter=order).clip(max=len(names) - 1)]
    foreign = labels[~unknown & (names[channels] != labels)]
    channels[unknown] = -1
    return channels, foreign[0] if foreign.size else None


def _anisotropy(coarse: tuple[int, ...], fine: tuple[int, ...]) -> float:
    """Return the ratio of the largest to the smallest enlargement factor of the axes."""
    factors = [f / max(1, c) for c, f in zip(coarse, fine, strict=True)]
    return max(factors) / min(factors)
