"""`evaluate --kind regions`: maps that may overlap, each scored against its own true mask.

A source holds a file of maps [R, *S] per stem, or a mask file per region, STEM_0, STEM_1 and so on.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from .._typing import Array
from ..checks.wording import size as shown
from ..files import formats
from ..files.npy import is_of_regions
from ..files.pillow import is_saliency
from ..files.sources import by_stem, is_file
from . import UserError, progress, user_errors
from ._label_options import occurring
from ._messages import Messages
from ._options import given, option
from ._scores import aligned_rows, percent
from ._scoring import warn_missing

# Options of scores that are about one label per pixel.
_OF_LABELS = {
    "labels", "label_values", "colours", "mean_over", "classes", "plots", "trimap", "resamples",
    "seed",
}  # fmt: skip
_SCORES = {"iu": "IU", "dice": "Dice"}


def run(
    args: argparse.Namespace, names: Sequence[str], suffixes: Sequence[str], messages: Messages
) -> int:
    """Compute, print and write the scores of the regions."""
    for name in sorted(given(args) & _OF_LABELS):
        raise UserError(f"{option(name)} is about one label per pixel; leave it or --kind out")
    with user_errors(ImportError, TypeError, ValueError), messages.printed():
        found, missing = _matched(args, suffixes)
        counts = []
        for stem, (*predictions, truth) in progress(
            args.quiet, iterable=found.items(), desc="scoring", unit="image"
        ):
            messages.about(stem)
            counts.append(_counts(predictions, truth, args))
    warn_missing(missing, messages)
    facts = _facts(counts, names, args)
    text = json.dumps(facts, indent=1, allow_nan=False)
    to_stdout = args.json == Path("-")
    print(text if to_stdout else _table(facts))
    if args.json is not None and not to_stdout:
        with files.replaced(args.json) as partial_file:
            partial_file.write_text(text + "\n", encoding="utf-8")
    return 0


def _matched(
    args: argparse.Namespace, suffixes: Sequence[str]
) -> tuple[dict[str, list[list[Path]]], list[str]]:
    """Return the files of each source by stem, and a sentence for each stem that lacks some."""
    places = [*args.predictions, args.truth]
    if all(is_file(Path(place)) for place in places):
        return {Path(places[0]).stem: [[Path(place)] for place in places]}, []
    sources = [
        by_stem(place, suffix, args.recursive) for place, suffix in zip(places, suffixes)
    ]
    first = sources[0]
    found: dict[str, list[list[Path]]] = {}
    missing = []
    for name in dict.fromkeys(_stem(name, first, args.key) for name in sorted(first)):
        own = [_files(source, name) for source in sources]
        lacking = [str(place) for place, paths in zip(places, own) if not paths]
        if lacking:
            missing.append(f"{own[0][0]}: no file {name}.* or {name}_0.* in {', '.join(lacking)}")
        else:
            found[name] = own
    if not found:
        raise ValueError(
            f"{missing[0]}; matching files need equal stems (--predictions-suffix, --truth-suffix)"
        )
    return found, missing


def _stem(name: str, source: Mapping[str, Path], key: str | None) -> str:
    """Return the stem of a file: if it is one of several masks, without its number."""
    stem, _, number = name.rpartition("_")
    one_of_them = number.isdecimal() and f"{stem}_0" in source
    return stem if one_of_them and _is_mask(source[name], key) else name


def _is_mask(path: Path, key: str | None) -> bool:
    """Return whether a file holds one mask, not maps of probabilities."""
    if formats.kind(path) == "picture" and not formats.can(path, "scores"):
        return True
    array: Array = formats.read(path, "labels", None if path.suffix == ".npy" else key)
    return bool(array.dtype.kind in "biu" or np.isin(array, (0, 1)).all())


def _files(source: Mapping[str, Path], name: str) -> list[Path]:
    """Return the file of a stem, or its masks in the order of their numbers."""
    if name in source:
        return [source[name]]
    numbered = (source.get(f"{name}_{index}") for index in itertools.count())
    return [path for path in itertools.takewhile(lambda path: path is not None, numbered) if path]


def _counts(
    predictions: Sequence[Sequence[Path]], truth: Sequence[Path], args: argparse.Namespace
) -> Array:
    """Count true positives, false positives and false negatives. [P, 3, R]"""
    true, scored = _maps(truth, args, args.truth_key, of_truth=True)
    like = {"like": truth[0], "like_key": args.truth_key}
    found = []
    for paths in predictions:
        maps, valid = _maps(paths, args, args.key, of_truth=False)
        maps = files.aligned(maps, paths[0], key=args.key, **like)
        valid = files.aligned(valid, paths[0], key=args.key, **like)
        one_map = true[None] if true.shape == maps.shape[1:] else true
        one_valid = scored[None] if scored.shape == maps.shape[1:] else scored
        if maps.shape != one_map.shape:
            raise ValueError(
                f"{paths[0]}: {len(maps)} regions of {shown(maps.shape[1:])}, but {truth[0]} has "
                f"{len(true)} of {shown(true.shape[1:])}; both must hold the same regions"
            )
        found.append((maps, one_map, valid & one_valid))
    seen = np.logical_and.reduce([valid for _, _, valid in found])  # all columns alike
    return np.stack([
        [
            (both & seen).reshape(len(maps), -1).sum(1)
            for both in (maps & truth_maps, maps & ~truth_maps, ~maps & truth_maps)
        ]
        for maps, truth_maps, _ in found
    ])  # fmt: skip


def _maps(
    paths: Sequence[Path], args: argparse.Namespace, key: str | None, *, of_truth: bool
) -> tuple[Array, Array]:
    """Read the regions of one stem, and where they have data: bool [R, *S] both."""
    read = [_read(path, args, key, of_truth=of_truth) for path in paths]
    if len(read) == 1:
        return read[0]
    shapes = {shown(maps.shape) for maps, _ in read}
    if len(shapes) > 1:
        raise ValueError(f"{paths[0]}: the masks of its regions differ in size, {sorted(shapes)}")
    return np.concatenate([maps for maps, _ in read]), np.concatenate([v for _, v in read])


def _read(
    path: Path, args: argparse.Namespace, key: str | None, *, of_truth: bool
) -> tuple[Array, Array]:
    """Read the regions of one file, and where they have data: bool [R, *S] both."""
    picture = formats.kind(path) == "picture"
    if picture and not formats.can(path, "scores"):
        palette = files.read_palette(path) is not None
        array = files.read_labels(path, exif=args.exif)[None] if palette else files.read_maps(path)
    else:
        palette = False
        array = formats.read(path, "scores", None if path.suffix == ".npy" else key)
    array = array[None] if array.ndim == 2 else array
    valid = files.read_valid(path, "scores", exif="ignore")
    seen = np.broadcast_to(True if valid is None else valid, array.shape)
    if array.dtype.kind == "f":
        seen = seen & ~np.isnan(array)  # marginals of `refine` where there are no data
        return _above(path, array, seen, args.kind), seen
    if of_truth and args.ignore is not None or palette:
        seen = seen & (array != (255 if args.ignore is None else args.ignore))
    values = occurring(array[seen].astype(np.int64)) if seen.any() else []
    if len(set(values) - {0}) <= 1 and not (picture and is_saliency(path)):
        return array != 0, seen
    if of_truth or array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ValueError(
            f"{path}: holds the values {', '.join(map(str, values[:5]))}"
            f"{', ...' if len(values) > 5 else ''}; the mask of a region holds 0 and one other "
            "value (--ignore names the value of pixels that are not scored)"
        )
    return array > np.iinfo(array.dtype).max / 2, seen


def _above(path: Path, maps: Array, seen: Array, kind: str) -> Array:
    """Return where the foreground of maps is more probable than not."""
    if kind == "region-logits" and not is_of_regions(path):
        return maps > 0
    inside = maps[seen]
    if inside.size and (inside.min() < -1e-3 or inside.max() > 1 + 1e-3):
        raise ValueError(
            f"{path}: holds {inside.min():g}..{inside.max():g}, but probabilities of regions lie "
            "in 0..1; for their logits give --kind region-logits"
        )
    return maps > 0.5


def _facts(
    counts: Sequence[Array], names: Sequence[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Compute the scores of the regions over all images; None where a region never occurs."""
    most = max(one.shape[-1] for one in counts)
    total = sum(np.pad(one, [(0, 0), (0, 0), (0, most - one.shape[-1])]) for one in counts)
    columns = []
    for name, (both, extra, lost) in zip(names, np.asarray(total), strict=True):
        union, sizes = both + extra + lost, 2 * both + extra + lost
        scores = {
            "iu": [int(b) / int(u) if u else None for b, u in zip(both, union)],
            "dice": [2 * int(b) / int(s) if s else None for b, s in zip(both, sizes)],
        }
        means = {
            f"mean_{key}": float(np.mean(present)) if present else None
            for key, every in scores.items()
            for present in [[one for one in every if one is not None]]
        }
        columns.append({"name": name, **scores, **means})
    return {
        "images": len(counts), "regions": most, "ignore": args.ignore, "predictions": columns
    }


def _table(facts: dict[str, Any]) -> str:
    """Return the scores as text, in percent."""
    columns = facts["predictions"]
    rows: list[list[str]] = []
    for key, title in _SCORES.items():
        rows += [[]] if rows else []
        rows.append([f"{title}, %", *(column["name"] for column in columns)])
        for region in range(facts["regions"]):
            rows.append([f"region {region}", *(percent(column[key][region]) for column in columns)])
        rows.append([f"mean {title}", *(percent(column[f"mean_{key}"]) for column in columns)])
    rows = [row or [""] for row in rows]
    head = f"{facts['images']} image{'s' * (facts['images'] != 1)}, {facts['regions']} regions"
    return "\n".join([head, "", *aligned_rows(rows)])
