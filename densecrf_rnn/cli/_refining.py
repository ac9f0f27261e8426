"""The work of `densecrf-rnn refine` on one file: skip it if done, else read, refine, write, record.

Thread-safe; at most as many files are refined at once as there are workers.
"""

import argparse
import os
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._typing import Array
from .. import files, samples
from ..files.rasters import with_nodata
from ..files import formats, hashing
from ..files.hashing import checksum
from ..files.pillow import MAX_GREY
from ..files.record import Record
from ..inference.mean_field import marginals_of
from ..inference.refine import refine
from ..postprocess import most_probable
from . import UserError, _nodata, _regions, make_folder, user_errors
from ._crf_options import settings
from ._inputs import Inputs, Problem
from ._options import given, option, recorded
from ._vanished import Vanished, stride

_WRITTEN = {
    "labels": ("labels",), "marginals": ("marginals",), "both": ("labels", "marginals"),
    "saliency": ("saliency",),
}  # fmt: skip

# Options about one kind of output; a choice of --write without that kind refuses them.
_ABOUT = {
    "labels": ("label maps", {"palette", "remove_small", "regions_class_order"}),
    "marginals": ("marginals", {"dtype"}),
}


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
        _check_written(args)
        self.settings = settings(args)
        if inputs.regions:
            _regions.check_settings(self.settings)
        self.vanished = Vanished()
        self._threads = threads
        self._palette = _palette(args.palette)
        self._dtype: Literal["float16", "float32"] = args.dtype or self.default_dtype
        self._engine = threading.BoundedSemaphore(workers)
        read = {os.path.realpath(path) for match in inputs.found for path in match.paths}
        for match in inputs.found:
            for path in self.outputs(match):
                if os.path.realpath(path) in read:
                    raise UserError(f"{path} is one of the inputs; choose another folder for --out")
        suffixes = (args.logits_suffix, args.image_suffix, args.mask_suffix)
        for source, suffix in zip((args.logits, args.images, args.mask), suffixes, strict=True):
            same = source is not None and os.path.realpath(source) == os.path.realpath(args.out)
            ends = tuple(suffix.split(","))
            if same and any(match.stem.endswith(ends) for match in inputs.found):
                raise UserError(
                    f"--out is {source}, where the next run would take outputs for inputs; choose "
                    "another folder"
                )
            if source is not None and args.recursive and _is_inside(args.out, source):
                raise UserError(
                    f"--out {args.out} is inside {source}, where the next run with --recursive "
                    "would take outputs for inputs; choose another folder"
                )

    def options(self) -> dict[str, Any]:
        """Return all options that affect what is written, with the defaults filled in."""
        mu, values = self.settings.compatibility, self._inputs.values
        colours = None if values is None or values.colours is None else values.colours.tolist()
        palette = self._palette
        if palette is not None:
            palette = palette.palette() if isinstance(palette, files.LabelValues) else palette
            palette = np.asarray(palette).tolist()
        return {
            **recorded(self._args), **self.settings.params.to_dict(),
            "mask": self._args.mask is not None,  # its files are recorded as inputs
            "colours": colours, "palette": palette, "dtype": self._dtype,
            "iterations": self.settings.iterations,
            "compatibility": None if mu is None else mu.astype(float).tolist(),
        }  # fmt: skip

    def make_folders(self) -> None:
        """Create the subfolders of --out and remove what a killed run left in them."""
        outputs = (path for match in self._inputs.found for path in self.outputs(match))
        for folder in {path.parent for path in outputs} - {self._args.out}:
            make_folder(folder, "--out")
            files.remove_leftovers(folder)

    def outputs(
        self, match: files.Match, axes: int | None = None, maps: int | None = None
    ) -> list[Path]:
        """Return the output paths of one stem.

        `axes` is 2 or 3; None returns every path that may be written. `maps` is the number of
        regions; None returns the first one's path.
        """
        regions = self._inputs.regions
        return [
            self._args.out / f"{match.stem}{number}{end}"
            for what in _WRITTEN[self._args.write]
            for number in (_regions.numbers(self._args, what, maps) if regions else [""])
            for end in self._endings(what, match.paths[1], axes)
        ]

    def __call__(self, match: files.Match, record: Record) -> Literal["refined", "as before"]:
        """Refine one stem, unless it is done according to the record."""
        named = self._inputs.named(match)
        # Files are hashed before they are read, or while: if one changes, its checksum is that of
        # what was read, or of what was there before.
        ahead = record.may_be_done(match.stem)
        found = {p: checksum(p) for p in named.values() if ahead or not self._hashed_in_read(p)}
        if ahead and record.is_done(match.stem, {n: found[p] for n, p in named.items()}):
            return "as before"
        record.forget(match.stem)
        with hashing.noted() as noted:
            outputs, shape = self._refined(match)
        found = noted | found
        inputs = {n: (path, found.get(path) or checksum(path)) for n, path in named.items()}
        names = [path.relative_to(self._args.out).as_posix() for path in outputs]
        lacking = self._inputs.lacking(match)
        more = {"missing_chunks": lacking} if lacking else {}
        record.add(match.stem, inputs, names, shape=shape, **more)
        return "refined"

    def _hashed_in_read(self, path: Path) -> bool:
        """Return whether `files.hashing` hashes a file while it is read as a whole."""
        return files.extension(path) == ".npy"

    def _refined(self, match: files.Match) -> tuple[list[Path], tuple[int, ...]]:
        """Read, refine and write one stem; return the outputs and the shape of the logits."""
        problem = self._inputs.read(match)
        regions = self._inputs.regions
        only_labels = self._args.write == "labels" and not regions
        outputs = self.outputs(match, problem.logits.ndim - 1, len(problem.logits))
        seen = self._seen(problem, outputs[0])
        if formats.can(outputs[0], "palette") and "labels" in _WRITTEN[self._args.write]:
            self._check_labels(match, len(problem.logits), seen is not None)
        with self._engine:
            q = refine(
                problem.logits, problem.image, self.settings.params,
                compatibility=self.settings.compatibility, multilabel=regions, labels=only_labels,
                iterations=self.settings.iterations, mask=problem.mask, spacing=problem.spacing,
                prune=self._args.prune, backend=self._args.backend, threads=self._threads,
            )  # fmt: skip
        logits, mask = problem.logits, problem.mask
        del problem
        labels = q if only_labels else None if regions else most_probable(q)
        self._compare(logits, q, labels, mask)
        shape = logits.shape
        del logits
        self._write(match, q, labels, seen, shape, list(outputs))
        return outputs, shape

    def _seen(self, problem: Problem, output: Path) -> Array | None:
        """Return where the label map `output` has labels, bool [*S]; None if everywhere."""
        logits, mask = problem.logits, problem.mask
        seen = mask if formats.can(output, "valid") else problem.valid
        written = "labels" in _WRITTEN[self._args.write]
        if mask is None or not written or mask.shape != logits.shape[1:]:  # which is refused later
            return seen
        lacking = np.zeros(mask.shape, bool)  # without logits there is no label
        lacking[~mask] = np.isnan(marginals_of(logits[:, ~mask], self._inputs.regions)[0])
        if not lacking.any():
            return seen
        return ~lacking if seen is None else seen & ~lacking

    def _compare(self, logits: Array, q: Array, labels: Array | None, mask: Array | None) -> None:
        """Note which labels, or regions, the refinement of the pixels inside the mask removed.

        `labels` is the argmax of the marginals `q`; None for regions, of which alone `q` is used.
        """
        axes = logits.ndim - 1
        step = stride(logits.shape[1:])
        some = (slice(None, None, step),) * axes
        inside, some_inside = (..., ...) if mask is None else (mask, mask[some])
        share = step**-axes
        scores = logits[(slice(None), *some)]
        if labels is not None:
            names = self._inputs.label_names(max(2, len(logits)))
            before = most_probable(scores, 0)[some_inside]
            self.vanished.add(before, share, labels[inside], names)
            return
        for region, (x, p) in enumerate(zip(scores, q, strict=True)):
            names = np.array([-1, region])  # the ground may vanish
            before = (x > 0)[some_inside].astype(np.uint8)
            self.vanished.add(before, share, (p > 0.5)[inside], names)

    def _endings(self, what: str, image: Path, axes: int | None) -> list[str]:
        if what == "marginals":
            return [".npz"]
        if what == "saliency":
            return [".png"]
        if _is_nifti(image):
            return [".nii.gz"]
        if axes != 3 and _may_be_geotiff(image, known=axes is not None):
            end = files.extension(image)
            return [end] if axes == 2 else [end, ".npy"]
        if axes is None:  # a format without logits has no volumes
            return [".png", ".npy"] if formats.can(image, "scores") else [".png"]
        return [".png" if axes == 2 else ".npy"]

    def _write(
        self, match: files.Match, q: Array, labels: Array | None, seen: Array | None,
        shape: tuple[int, ...], outputs: list[Path],
    ) -> None:  # fmt: skip
        """Write the outputs of one stem; pixels outside the mask `seen` have no label.

        `labels` is the argmax of the marginals `q`; None for regions. `shape` is that of the
        logits. If labels alone are written, `q` is not used.
        """
        count = shape[0]
        names = None if self._args.classes is None else self._inputs.label_names(count)
        written = _WRITTEN[self._args.write]
        if "labels" in written:
            order = self._args.regions_class_order
            if labels is None:
                label_maps = _regions.label_maps(q, order, match.paths[0])
            else:
                label_maps = [labels]
            for one in label_maps:
                self._write_labels(match, one, names, seen, self._most(count), outputs.pop(0))
        if "marginals" in written:
            place = self._inputs.place(match, shape[1:])
            files.write_marginals(
                outputs.pop(0), q, dtype=self._dtype, classes=names, geometry=place,
                regions=self._inputs.regions,
            )  # fmt: skip
        if "saliency" in written:
            for maps in q[:, None] if self._inputs.regions else [q]:
                files.write_saliency(outputs.pop(0), _foreground(maps, names))

    def _check_labels(self, match: files.Match, count: int, masked: bool) -> None:
        """Raise ValueError if a PNG, or the file of --palette, lacks room for some of the labels.

        `count` is the number of logits per pixel; if `masked`, some pixels have no data.
        """
        values, most = self._inputs.values, self._most(count)
        room = MAX_GREY - masked  # pixels without data have a value of their own
        if most > room:
            named = "--regions-class-order" if self._inputs.regions else "--label-values"
            raise ValueError(
                f"{match.paths[0]}: {named} lists {most}, but its label map is written as PNG, "
                f"which holds values up to {room}{' and one for no data' * masked}; list "
                "smaller ones"
            )
        if not isinstance(self._palette, files.LabelValues):
            return
        labels = 1 + (most if values is None else max(self._inputs.label_names(max(2, count))))
        if labels > len(self._palette):
            raise ValueError(
                f"{match.paths[0]}: has {labels} labels, but --palette lists {len(self._palette)}; "
                "list a colour for each label, or leave --palette out"
            )

    def _palette_of(self, match: files.Match) -> Array | Literal["none"] | None:
        """Return the colours of the label map to be written; None for the default."""
        values = self._inputs.values
        if isinstance(self._palette, files.LabelValues):
            return _table(self._palette, values)
        if self._palette is not None:
            return self._palette
        if values is not None and values.colours is not None:
            return values.palette()
        stored = self._inputs.palette(match)
        return "none" if stored is None and values is not None else stored

    def _write_labels(
        self, match: files.Match, labels: Array, names: Array | None, seen: Array | None,
        most: int, path: Path,
    ) -> None:  # fmt: skip
        """Write a label map; outside the mask `seen` there are no labels, `most` is the largest."""
        if names is not None:
            labels = names.astype(np.min_scalar_type(names.max()))[labels]
        if self._args.remove_small is not None:
            labels = _nodata.cleaned(labels, self._args.remove_small, seen)
        if self._inputs.values is not None:
            labels = self._inputs.values.stored(labels)
        image, raster, nodata = match.paths[1], formats.can(path, "valid"), None
        if raster or seen is not None:
            labels, nodata = with_nodata(labels, most, seen)
        if raster:
            files.write_raster(path, labels, like=image, nodata=nodata)
            return
        files.write_labels(
            path, labels, palette=self._palette_of(match),
            like=image if _is_nifti(image) else None, nodata=nodata,
        )  # fmt: skip

    def _most(self, count: int) -> int:
        """Return the largest value in label maps of `count` logits per pixel."""
        values, order = self._inputs.values, self._args.regions_class_order
        if self._inputs.regions:
            return max(order or (1,))
        every = self._inputs.label_names(max(2, count))
        return int((every if values is None else values.stored(every)).max())


def _check_written(args: argparse.Namespace) -> None:
    """Raise UserError if an option is about outputs of a kind that --write does not name."""
    for kind, (outputs, names) in _ABOUT.items():
        if kind in _WRITTEN[args.write]:
            continue
        for name in sorted(given(args) & names):
            raise UserError(
                f"{option(name)} is about {outputs}, of which --write {args.write} writes none; "
                f"leave {option(name)} out, or choose --write {kind} or both"
            )


def _may_be_geotiff(image: Path, known: bool) -> bool:
    """Return whether an image is a GeoTIFF; of one that the disk does not return, unless `known`.
    """
    try:
        return files.is_geotiff(image)
    except OSError:  # refining it fails, and says so
        if known:
            raise
        return True


def _is_inside(folder: Path, source: str) -> bool:
    """Return whether a folder is one of the subfolders that --recursive searches."""
    above = os.path.realpath(source.partition("**")[0])
    return os.path.isdir(above) and os.path.realpath(folder).startswith(os.path.join(above, ""))


def _is_nifti(image: Path) -> bool:
    """Return whether label maps are written as volumes in the format of the image."""
    return formats.kind(image) == "volume" and formats.can(image, "write_labels")


def _palette(name: str | None) -> files.LabelValues | Array | Literal["none"] | None:
    """Return what --palette names: the colours of the labels, or a table; None if not given."""
    if name is None or name == "none":
        return "none" if name else None
    if name == "voc":
        return samples.palette()
    with user_errors(ValueError):
        return files.read_label_colours(name)


def _table(colours: files.LabelValues, values: files.LabelValues | None) -> Array:
    """Return the colours of labels as a palette of the values by which a file stores the labels."""
    table = np.zeros((256, 3), np.uint8)
    listed = np.arange(min(len(colours), len(table) if values is None else len(values)))
    stored = listed if values is None else values.stored(listed)
    listed, stored = listed[stored < len(table)], stored[stored < len(table)]
    table[stored] = np.asarray(colours.colours)[listed]
    return table


def _foreground(q: Array, names: Array | None) -> Array:
    """Return the marginals [*S] of the only foreground; `names` are the labels of the maps `q`."""
    labels = list(range(len(q))) if names is None else names.tolist()
    if q.ndim != 3 or sorted(labels) not in ([0], [0, 1]):
        raise ValueError(
            f"--write saliency writes images of one foreground, label 1, but the marginals have "
            f"{len(q)} labels and {q.ndim - 1} spatial axes; use --write marginals"
        )
    return q[labels.index(1)] if 1 in labels else q[0]
