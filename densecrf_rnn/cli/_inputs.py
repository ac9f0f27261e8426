"""Read the inputs of a CRF from files (logits, image, mask, spacing), and declare their options.

Shared by the commands that read folders of saved logits.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._typing import Array
from .. import checks, files, unaries
from ..checks.wording import size as shown
from ..files import exif, formats, modalities, nnunet, tiff
from ..files.alignment import first_placed
from ..files.geometry import Geometry, enlarged_spacing
from ..files.label_values import positions
from ..files.reading import check_whole, stored_logits
from ..files.sizes import expecting
from ..upsampling import upsample
from ._messages import READ
from . import (
    UserError, _axes, _containers, _hints, _nodata, _regions, _sources, _types
)  # fmt: skip
from ._options import given, option
from ._label_options import add_label_options, label_values, warn_of_masks
from ._pairing import paired

_OF_LABELS = {"num_labels", "confidence", "unsure"}  # options of label maps in LOGITS


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs of `refine` for one image (file stem)."""

    logits: Array  # [L, *S], where S are the spatial axes
    image: Array  # [*S, C]
    mask: Array | None  # [*S]
    valid: Array | None  # [*S]: where logits and image have data; None if everywhere
    spacing: tuple[float, ...] | None


def add_input_options(parser: argparse.ArgumentParser, regions: bool = True) -> None:
    """Declare the arguments that name the input files, and the options of their content.

    `regions` says whether the command refines maps that overlap.
    """
    parser.add_argument(
        "logits", nargs="+", type=_types.place, metavar="LOGITS",
        help="folder, quoted pattern or file of logits: arrays, NIfTI, or TIFF with a page per "
        f"label ({' '.join(formats.extensions('scores'))}); or of label maps",
    )  # fmt: skip
    parser.add_argument(
        "images", nargs="+", type=_types.place, metavar="IMAGES",
        help="folder, quoted pattern or file of the images, one for each file of LOGITS, of the "
        f"same stem (name without extension): {' '.join(formats.extensions('image'))}",
    )  # fmt: skip
    add_content_options(parser, regions)


def add_content_options(parser: argparse.ArgumentParser, regions: bool = True) -> None:
    """Declare the options that describe the content of the input files."""
    group = parser.add_argument_group("content of the input files")
    add = group.add_argument
    kinds = ("logits", "probabilities", "labels")
    add("--kind", choices=(*kinds, *_regions.KINDS),  # without `regions`, an error explains them
        metavar=None if regions else f"{{{','.join(kinds)}}}",
        help="content of LOGITS (default: labels for image files other than TIFF, else logits)"
        + "; regions: probabilities of maps that may overlap; region-logits: their logits"
        * regions)
    add("--key", metavar="NAME", help="array to read if a LOGITS file holds several")
    add("--image-key", metavar="NAME", help="array to read if an IMAGES file holds several")
    add_label_options(group)
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
    add("--bands", type=_types.positives, metavar="N,N,...",
        help="bands of a TIFF image to use, counted from 1 (default: all but an alpha band)")
    add("--mask", type=_types.place, metavar="MASKS",
        help="folder, quoted pattern or file of masks; pixels where the mask is 0 are excluded")
    add("--spacing", type=_types.spacing, metavar="X,X[,X]",
        help="pixel size along each axis, [D,]H,W, in the unit of --theta-alpha and --theta-gamma "
        "(default for volumes: from a NIfTI header or OME-Zarr scale, the image's first, else 1)")
    add_exif_option(add)
    for name, more in (("logits", ""), ("image", "; several, as _0000,_0001, join the channels of "
                       "several files, such as the modalities of a scan"), ("mask", "")):
        add(f"--{name}-suffix", default="", metavar="TEXT[,TEXT]" if more else "TEXT",
            help=f"text between stem and extension in the names of {name} files, such as _0000"
            f"{more}")
    _sources.add_recursive(group)
    _containers.add_strict(group)
    _containers.add_max_bytes(group)
    add("--normalize", choices=files.NORMALIZE,
        help="rescale each channel of an image: its percentiles 0.5 to 99.5 to 0..255, or to mean "
        "0 and standard deviation 1 (zscore); inside the mask (default: values as stored)")
    add = parser.add_argument_group("confidence of the input").add_argument
    add("--temperature", type=float, default=1.0, metavar="T",
        help="divide the logits by T: above 1 for an overconfident network (default: 1)")
    add("--clip", action="store_true",
        help="clip probabilities to 0..1, then divide them by their sum over the labels")
    add("--classes", type=_types.labels, metavar="N,N-N,...",
        help="labels to keep; the others are excluded")
    add("--num-labels", type=_types.positive, metavar="L",
        help="label maps: number of labels, which are 0..L-1")
    add("--confidence", type=float, default=unaries.CONFIDENCE, metavar="P",
        help="label maps: probability that a label is right (default: %(default)s)")
    add("--unsure", type=int, metavar="N", help="label maps: value that means unknown, such as 255")


def add_exif_option(add: Callable[..., object]) -> None:
    """Declare --exif; `add` is `add_argument` of a parser or group."""
    add("--exif", choices=exif.CHOICES, default="auto",
        help="orientation that a picture stores: apply it, as viewers do; ignore it, as Pillow "
        "does; or auto: apply it unless only the stored rows and columns fit the other files "
        "(default: %(default)s)")


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
    regions : bool
        Whether the maps may overlap, so that each is refined by a binary CRF.
    values : files.LabelValues or None
        What the values or colours of label maps stand for, in the files read and written.

    Raises
    ------
    UserError
        No files match, or options contradict each other.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._nnunet_arrays: dict[Path, str | None] = {}  # by file, which need not be opened again
        _sources.gather(args, "logits", "images", *(["truth"] if "truth" in args else []))
        if args.covers is not None and args.upsample is None:
            raise UserError("--covers needs --upsample, which enlarges the logits to that size")
        if args.clip and args.kind not in ("probabilities", "regions"):
            raise UserError("--clip changes probabilities; add --kind probabilities, or leave it")
        if args.mask_suffix and args.mask is None:
            raise UserError("--mask-suffix goes with --mask; give both, or neither")
        self.regions = _regions.are_given(args)
        sources = {"logits": args.logits, "image": args.images, "mask": args.mask}
        self.found, self.missing = paired(args, **sources)
        self.values = label_values(args, args.unsure, "unsure")
        self._num_labels = self._count_labels()
        kinds = {self.kind(match) for match in self.found}
        if "labels" in kinds and self._num_labels is None and args.classes is None:
            raise UserError(
                "label maps do not contain the number of labels; give --num-labels L, or --classes"
                + ("" if args.kind else "; grey images of probabilities: add --kind probabilities")
            )
        for name in sorted(given(args) & _OF_LABELS if "labels" not in kinds else ()):
            raise UserError(
                f"{option(name)} is about label maps; add --kind labels if LOGITS are such, or "
                f"leave {option(name)} out"
            )

    def _count_labels(self) -> int | None:
        """Return the number of labels of label maps, if options say it."""
        args, values = self._args, self.values
        if values is None:
            return args.num_labels
        option, listed = _listing(values), len(values)
        if args.classes is not None and max(args.classes) >= listed:
            raise UserError(
                f"--classes names the label {max(args.classes)}, but {option} lists {listed} "
                "labels, from 0"
            )
        if values.colours is not None:
            if (args.num_labels or 0) > listed:
                raise UserError(
                    f"--num-labels is {args.num_labels}, but --colours lists {listed} labels; list "
                    "a colour for each"
                )
            return args.num_labels or (None if args.colours == "voc" else listed)
        if args.num_labels not in (None, listed):
            raise UserError(
                f"--label-values lists {listed} labels, but --num-labels is {args.num_labels}; "
                "leave --num-labels out"
            )
        return listed

    def images(self, match: files.Match) -> tuple[Path, ...]:
        """Return the files of the image: one, or one for each suffix of --image-suffix."""
        return match.paths[1:] if self._args.mask is None else match.paths[1:-1]

    def named(self, match: files.Match) -> dict[str, Path]:
        """Return every file that is read for one stem, by a name for the record."""
        first, *others = self.images(match)
        named = {"logits": match.paths[0], "image": first}
        named |= {f"image {number}": path for number, path in enumerate(others, start=2)}
        if self._args.mask is not None:
            named["mask"] = match.paths[-1]
        if self._nnunet_array(match.paths[0]) is not None:
            properties = nnunet.properties_path(match.paths[0])
            named |= {} if properties is None else {"properties": properties}
        rasters = {n: path for n, path in named.items() if formats.can(path, "valid")}
        for name, path in rasters.items():
            named |= {f"{name}{file.suffix}": file for file in tiff.companions(path)}
        return named

    def lacking(self, match: files.Match) -> dict[str, int]:
        """Return how many chunks each file of one stem lacks, by the names of `named`."""
        keys = {"logits": self._args.key, "mask": None, "properties": None}
        lacking = {
            name: formats.missing(path, keys.get(name, self._args.image_key)).lacking
            for name, path in self.named(match).items()
            if formats.format_of(path) is not None
        }
        return {name: count for name, count in lacking.items() if count}

    def label_names(self, labels: int) -> Array:
        """Return the label of each channel of the logits, [L]; `labels` is their number L."""
        chosen = self._args.classes
        return np.arange(labels) if chosen is None else np.asarray(chosen)

    def palette(self, match: files.Match) -> Array | None:
        """Return the palette of a label map, or None for other inputs."""
        return files.read_palette(match.paths[0]) if self.kind(match) == "labels" else None

    def zyx(self, path: Path, array: Array, first: int = 0, channels: int = 0) -> Array:
        """Reverse the spatial axes of a volume from an array file if --axes is xyz.

        The spatial axes begin at the axis `first` and are followed by `channels` axes.
        """
        volume = formats.kind(path) == "array" and array.ndim == first + 3 + channels
        if self._args.axes == "zyx" or not volume:
            return array
        return np.ascontiguousarray(np.swapaxes(array, first, first + 2))

    def grid(self, match: files.Match) -> dict[str, Any]:
        """Return the arguments of `files.aligned` that name the grid of one stem.

        It is that of the image or, if the image does not say where it is, that of the logits.
        """
        args, (logits, image, *_) = self._args, match.paths
        others = [] if args.upsample is not None else [(logits, args.key)]
        return first_placed((image, args.image_key), *others)

    def place(self, match: files.Match, size: tuple[int, ...]) -> Geometry | None:
        """Return where the pixels of one stem of this `size` are; None if no file says so."""
        grid = self.grid(match)
        found = files.read_geometry(grid["like"], key=grid["like_key"])
        return None if found is None or not found.placed or found.size != size else found

    def read(self, match: files.Match) -> Problem:
        """Read the files of one stem.

        Raises
        ------
        OSError, ImportError, TypeError, ValueError
            A file cannot be read or used; the message names it.
        """
        args = self._args
        first, *others = self.images(match)
        pixels = formats.pixels(first, args.image_key)
        if pixels is not None and args.covers is not None:
            pixels = max(pixels, math.prod(args.covers))
        with expecting(pixels, labels_last=args.labels_last):
            logits, image = _axes.read_together(
                args, first, partial(self._maps, match), partial(self._image, first)
            )
        axes = logits.ndim - 1
        more = [self._image(path, axes, logits) for path in others]
        image = modalities.stacked([first, *others], [image, *more], args.image_key)
        if image.ndim != axes + 1:
            layout = "[H, W, C]" if image.ndim == 3 else "a volume [D, H, W, C]"
            raise ValueError(
                f"{match.paths[1]}: image is {layout} of shape {image.shape}; logits were read as "
                f"{'[L, H, W]' if axes == 2 else '[L, D, H, W]'} of shape {logits.shape}"
                f"{_hints.volume_hint(logits, image)}"
            )
        logits = files.aligned(
            logits, match.paths[0], match.paths[1], key=args.key, like_key=args.image_key,
            upsample=args.upsample, covers=args.covers,
        )  # fmt: skip
        mask = None
        if args.mask is not None:
            with expecting(pixels):
                mask = _mask(match.paths[-1], args.exif, image.shape[:-1])
            mask = self.zyx(match.paths[-1], mask)
            mask = files.aligned(mask, match.paths[-1], **self.grid(match))
        has_scores = _nodata.of_logits(match.paths[0], self.kind(match) == "labels", args)
        if has_scores is not None:
            has_scores = files.aligned(has_scores, match.paths[0], **self.grid(match))
        fit = {"exif": args.exif, "size": args.covers or logits.shape[1:]}
        has_image = _nodata.of_images([first, *others], image.shape[:-1], args, fit)
        valid = _nodata.both(has_scores, has_image)
        if valid is not None:
            mask = _nodata.both(mask, valid)
        if has_image is not None:
            image = np.where(has_image[..., None], image, image.dtype.type(0))
        spacing = args.spacing
        if spacing is None and axes == 3:
            spacing = self._spacing(match, logits, image)
        logits = self._as_logits(match, logits, image, mask)
        if args.temperature != 1:
            if self.kind(match) == "logits" and args.temperature < 1:  # then they may exceed 1
                inside = logits if mask is None else logits[:, mask]
                checks.probabilities(inside, batched=False, multilabel=self.regions)
            logits = unaries.scale_temperature(logits, args.temperature)
        if args.normalize is not None:
            image = files.normalized(image, args.normalize, mask=mask)
        if has_scores is not None:
            logits[:, ~has_scores] = np.nan
        READ.debug(
            "%s %s as %s; image %s %s %s%s; spacing %s", match.paths[0], logits.shape,
            self.kind(match), match.paths[1], image.shape, image.dtype,
            "" if mask is None else f"; {100 * mask.mean():.3g} % are in the mask and have data",
            "1" if spacing is None else ",".join(f"{s:g}" for s in spacing),
        )  # fmt: skip
        return Problem(logits, image, mask, valid, spacing)

    def _spacing(self, match: files.Match, maps: Array, image: Array) -> tuple[float, ...] | None:
        """Return the voxel size that the image states or, if it states none, the logits do."""
        args = self._args
        own = files.read_spacing(match.paths[1], key=args.image_key)
        spacing = files.read_spacing(match.paths[0], key=args.key) if own is None else own
        if own is not None or spacing is None or args.upsample is None:
            return spacing
        fine = args.covers or image.shape[:-1]
        return enlarged_spacing(spacing, maps.shape[1:], fine, args.upsample)

    def kind(self, match: files.Match) -> Literal["logits", "probabilities", "labels"]:
        """Return what the maps of a file hold; those of regions, one of the first two."""
        if self.regions:
            return "logits" if self._args.kind == "region-logits" else "probabilities"
        if self._args.kind is not None:
            return self._args.kind
        if self._nnunet_array(match.paths[0]) is not None:
            return "probabilities"
        return "logits" if formats.can(match.paths[0], "scores") else "labels"

    def _nnunet_array(self, path: Path) -> str | None:
        """Return the name of the array that nnU-Net wrote into a file of LOGITS, or None."""
        if path not in self._nnunet_arrays:
            self._nnunet_arrays[path] = nnunet.array_name(path, self._args.key)
        return self._nnunet_arrays[path]

    def _image(self, path: Path, axes: int, logits: Array) -> Array:
        """Read an image with `axes` spatial axes; `logits` [L, *S] tell how a picture is turned."""
        args = self._args
        fit: Any = {"exif": args.exif, "size": args.covers or logits.shape[-axes:]}
        with expecting(None):  # nothing says how large an image is
            image = files.read_image(path, key=args.image_key, axes=axes, bands=args.bands, **fit)
        return self.zyx(path, image, channels=1)

    def _maps(self, match: files.Match, axes: int | None) -> Array:
        """Read logits, probabilities as they are stored, or the logits of a label map."""
        args, path, kind = self._args, match.paths[0], self.kind(match)
        if kind != "labels":
            read = self._read_logits if kind == "logits" else files.read_maps
            how: Any = {"labels_last": args.labels_last, "axes": axes, "strict": args.strict}
            maps = read(path, key=args.key, **how)
            self._check_count(path, max(2, len(maps)))
            if formats.kind(path) == "picture":
                warn_of_masks(kind, maps)
            return self.zyx(path, maps, first=1)
        check_whole(path, args.key, args.strict, warn=False)
        labels = files.read_labels(
            path, key=args.key, values=self.values, exif=args.exif, nodata=_nodata.NO_DATA
        )
        lacking = labels == _nodata.NO_DATA
        _nodata.warn_of_label(path, int(labels.max()), lacking)
        if self.values is None:
            warn_of_masks(kind, labels[~lacking], args.unsure)
        names = self.label_names(self._num_labels or 0)
        void = args.unsure if self.values is None else self.values.void_label
        unknown = lacking | (False if void is None else labels == void)
        channels, foreign = channels_of(labels, names, unknown)
        if foreign is not None:
            raise ValueError(
                f"{path}: holds the label {foreign}, not among those to keep (--classes or "
                f"--num-labels); "
                f"{_hints.foreign_hint(labels, foreign, names, self.values is not None)}"
            )
        logits = unaries.logits_from_labels(channels, len(names), args.confidence, unsure=-1)
        return self.zyx(path, logits, first=1)

    def _as_logits(
        self, match: files.Match, maps: Array, image: Array, mask: Array | None
    ) -> Array:
        """Return maps as the logits of the labels to keep, of the size of the image.

        Probabilities are enlarged as such, before their logarithm is taken.
        """
        args, kind = self._args, self.kind(match)
        if kind == "probabilities":
            inside = mask if mask is not None and mask.shape == maps.shape[1:] else None
            maps = unaries.checked_probabilities(
                maps, multilabel=self.regions, clip=args.clip, mask=inside
            )
        if kind != "labels" and args.classes is not None:
            maps = unaries.select_classes(maps, args.classes)
        maps = self._resized(match, maps, image)
        if kind == "probabilities":
            return unaries.log_probabilities(maps, multilabel=self.regions)
        return maps

    def _read_logits(self, path: Path, **how: Any) -> Array:
        """Read logits, float16 as it is stored unless they are to be computed with here."""
        args = self._args
        if args.upsample is None and args.temperature == 1 and not self.regions:
            return stored_logits(path, **how)
        return files.read_logits(path, **how)

    def _check_count(self, path: Path, labels: int) -> None:
        """Raise ValueError if an option does not list a value or colour for each label.

        `labels` is the number of labels of the logits. More colours than labels may be listed, as
        those of a palette.
        """
        values = self.values
        if values is None:
            return
        listed, classes = len(values), self._args.classes
        if values.colours is not None and listed >= (max(classes) + 1 if classes else labels):
            return
        if listed != labels:
            raise ValueError(
                f"{path}: has {labels} labels, but {_listing(values)} lists {listed}; list "
                f"{'a value' if values.colours is None else 'a colour'} for each label"
            )

    def _resized(self, match: files.Match, logits: Array, image: Array) -> Array:
        """Return maps of the size of the image, enlarged if --upsample is given."""
        args, found, size = self._args, logits.shape[1:], image.shape[:-1]
        if found == size and (args.upsample is None or args.covers is None):
            return logits
        if args.upsample is None:
            hint = _hints.size_hint(args, match, logits, image)
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
        if doubt := _hints.stretch_hint(args, logits.shape, covers):
            warnings.warn(doubt, stacklevel=2)
        return upsample(logits, covers, align_corners=args.upsample == "corners", crop=size)


def _mask(path: Path, turn: exif.Exif, size: tuple[int, ...]) -> Array:
    """Read a mask; no option names one of several arrays in its file."""
    try:
        return files.read_mask(path, exif=turn, size=size)
    except ValueError as error:
        message = str(error).replace("choose one by `key`", "save the mask in a file of its own")
        raise ValueError(message) from error


def _listing(values: files.LabelValues) -> str:
    """Return the option that lists the values or the colours of the labels."""
    return "--label-values" if values.colours is None else "--colours"


def channels_of(labels: Array, names: Array, unknown: Array) -> tuple[Array, int | None]:
    """Replace each label by its position in `names`, and by -1 where `unknown` is True.

    Returns
    -------
    ndarray of int, shape of `labels`
    int or None
        A label that is neither in `names` nor unknown, or None if there is no such label.
    """
    channels, absent = positions(labels, names)
    foreign = labels[~unknown & absent]
    channels[unknown] = -1
    return channels, foreign[0] if foreign.size else None
