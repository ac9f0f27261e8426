"""Hints of the commands at why files do not fit together, from their shapes and their values.

All causes that fit are named, each with what to do about it.
"""

import argparse
from collections.abc import Mapping

import numpy as np

from .._typing import Array
from .. import files
from ..checks.wording import size as shown
from ..files import exif, formats
from ..postprocess import most_probable
from ..samples import IGNORE
from ._axes import COLOURS
from ._label_options import MANY, occurring, ways_out

_CLEARLY = 1.3  # ratio of the agreement of the best candidate to that of the next
_COARSE = 1.9  # enlargement above which logits are rather coarse than those of a crop
_UPSAMPLE = "--upsample {corners,centers}"


def size_hint(args: argparse.Namespace, match: files.Match, logits: Array, image: Array) -> str:
    """Return why logits [L, *S] and image [*S, C] may differ in size, and the ways out."""
    found, size = logits.shape[1:], image.shape[:-1]
    if not (logits.size and image.size):
        return "one of them is empty"
    hints = [
        *_layout_hints(args, match, logits, image),
        *_order_hints(args, match, logits, image),
    ]
    if not hints:
        hints = _scale_hints(logits, image)
    if not hints:
        hints = [f"they differ by more than scale and padding ({shown(found)}, {shown(size)}): "
                 "do they belong to the same image?"]  # fmt: skip
    return "; or ".join(hints)


def _layout_hints(
    args: argparse.Namespace, match: files.Match, logits: Array, image: Array
) -> list[str]:
    """Return hints at axes of labels, channels or batches in another place than supposed."""
    found, size = logits.shape[1:], image.shape[:-1]
    hints: list[str] = []
    labels = _stored_labels(args, match, logits)
    if image.ndim == 3 and image.shape == logits.shape and len(image) > COLOURS:
        hints.append("if these are volumes of one logit per voxel, save the logits as [1, D, H, W]")
    if formats.kind(match.paths[1]) == "array" and image.shape[1:] == found:
        if len(image) < image.shape[-1]:
            hints.append("an image array must be [H, W, C]: save it with its channels last")
    if formats.kind(match.paths[0]) == "array" and args.kind != "labels":
        if args.labels_last and (*found[1:], labels) == size:
            hints.append("leave --labels-last out")
        if not args.labels_last and (labels, *found[:-1]) == size:
            hints.append("if the file holds [H, W, L], add --labels-last")
    return hints


def _order_hints(
    args: argparse.Namespace, match: files.Match, logits: Array, image: Array
) -> list[str]:
    """Return hints at spatial axes in another order."""
    found, size = logits.shape[1:], image.shape[:-1]
    if found == size or sorted(found) != sorted(size):
        return []
    if len(size) == 3:
        arrays = [formats.kind(path) == "array" for path in match.paths[:2]]
        if found == size[::-1] and sum(arrays) == 1:  # --axes turns arrays, both if both are such
            if args.axes == "xyz":
                return ["leave --axes xyz out"]
            return ["if the array file holds [x, y, z], add --axes xyz"]
        return ["the order of their axes differs: save the logits in the order of the image"]
    turned = [
        name
        for name, path in zip(("logits", "image"), match.paths)
        if formats.kind(path) == "picture" and exif.orientation(path) > 4
    ]
    if turned and args.exif == "auto":
        return [f"the EXIF orientation of the {turned[0]} was applied: add --exif ignore"]
    if turned:
        return [f"the {turned[0]} has an EXIF orientation: leave --exif {args.exif} out"]
    labels = _labels(logits)
    best = _best({
        "rows and columns of the logits exchanged": (labels.T, image),
        "the logits turned by 90 degrees clockwise": (np.rot90(labels, -1), image),
        "the logits turned by 90 degrees counterclockwise": (np.rot90(labels), image),
    })  # fmt: skip
    if best:
        return [f"their edges agree with {best}: save them so"]
    return [
        "one of them is stored with rows and columns exchanged, or turned by 90 degrees: compare "
        "them in a viewer, and save one of them anew"
    ]


def _scale_hints(logits: Array, image: Array) -> list[str]:
    """Return hints at coarse logits, and at networks that saw a padded or cropped image."""
    found, size = logits.shape[1:], image.shape[:-1]
    larger = [f >= s for f, s in zip(found, size, strict=True)]
    if all(larger):
        covers = ",".join(map(str, found))
        return [
            "if the image was padded at its bottom and right for the network, add --upsample "
            f"corners --covers {covers}",
            "if it was enlarged, save the logits in the size of the image",
        ]
    if any(larger):
        return []
    strides = list(zip(found, size, strict=True))
    # from the shortest to the longest that a length may have been rounded from
    low, high = max(s / (f + 1) for f, s in strides), min(s / max(f - 1, 1e-9) for f, s in strides)
    crop = "if the network saw a part of the image, crop the image to that part"
    if low > high:
        hints = [
            f"if the image was padded at its bottom and right for the network, add {_UPSAMPLE} "
            "--covers H,W, the padded size",
            crop,
        ]
        if len(set(found)) == 1:
            hints.append(f"if it was squeezed into a square, add {_UPSAMPLE}")
        return hints
    coarse = f"if the logits are coarse, add {_UPSAMPLE}"
    if max(s / f for f, s in strides) >= _COARSE:
        return [coarse]
    labels, start = _labels(logits), [(s - f) // 2 for f, s in zip(found, size, strict=True)]
    grid = np.ix_(*(np.arange(s) * f // s for f, s in zip(found, size, strict=True)))
    corners = {"centre": start, "first corner": [0] * len(size)}
    others = {  # if one of these is better, the network saw some other part
        f"near {name} {axis} {step}": [*corner[:axis], corner[axis] + step, *corner[axis + 1 :]]
        for name, corner in corners.items() for axis in range(len(size)) for step in (-2, 2)
    }  # fmt: skip
    parts = {
        name: tuple(slice(a, a + f) for a, f in zip(corner, found, strict=True))
        for name, corner in (corners | others).items()
        if all(0 <= a <= s - f for a, f, s in zip(corner, found, size, strict=True))
    }
    best = _best({"": (labels[grid], image)} | {n: (labels, image[p]) for n, p in parts.items()})
    if best in corners:
        kept = "[" + ", ".join(f"{part.start}:{part.stop}" for part in parts[best]) + "]"
        return [f"their edges agree if the network saw the {best} of the image: crop it to {kept}"]
    return [coarse] if best == "" else [coarse, crop]


def foreign_hint(labels: Array, foreign: int, names: Array, mapped: bool) -> str:
    """Return what to do about a label map that holds the label `foreign`, which is not in `names`.

    `mapped` says whether options say already which values stand for the labels.
    """
    values = occurring(labels)
    if not mapped and set(values) <= {0, foreign} and (0 in values or foreign == IGNORE):
        return ways_out(foreign, "--unsure", "means unknown")
    if len(values) > MANY:
        return "if these are probabilities of the foreground, add --kind probabilities"
    lists = {len(values): _label_values(values)}
    if values[-1] == IGNORE:
        lists[len(values) - 1] = f"{_label_values(values[:-1])} --unsure {IGNORE}"
    if not mapped and len(values) > 2 and not set(values[1:]) & set(names.tolist()):
        listed = lists.get(len(names), f"--label-values and the values of all {len(names)} labels")
        return f"if its values are the labels in order, add {listed}"
    return f"add --unsure {foreign} if it means unknown"


def _label_values(values: list[int]) -> str:
    return f"--label-values {','.join(map(str, values))}"


def volume_hint(logits: Array, image: Array) -> str:
    """Return a note if logits [L, H, W] have the size of a volume."""
    if logits.shape != image.shape[:-1]:
        return ""
    return "; a volume of one logit per voxel is stored as [1, D, H, W]"


def stretch_hint(
    args: argparse.Namespace, shape: tuple[int, ...], covers: tuple[int, ...]
) -> str | None:
    """Return a doubt about --upsample of logits of `shape`, [L, *S], to `covers`, or None."""
    if args.labels_last or not _anisotropy(shape[1:], covers) > 1.5 > 1.2 > _anisotropy(
        shape[:-1], covers
    ):
        return None
    return (
        f"--upsample enlarges {shown(shape[1:])} to {shown(covers)}, by different factors "
        "along the axes; if the file holds [H, W, L], add --labels-last"
    )


def _stored_labels(args: argparse.Namespace, match: files.Match, logits: Array) -> int:
    """Return the length of the axis of labels as stored, before --classes."""
    if args.classes is None or formats.kind(match.paths[0]) != "array" or args.kind == "labels":
        return len(logits)
    shape = files.read_array(match.paths[0], args.key).shape
    return shape[-1 if args.labels_last else -logits.ndim]


def _labels(logits: Array) -> Array:
    return most_probable(logits) if len(logits) > 1 else (logits[0] > logits.mean())


def _anisotropy(coarse: tuple[int, ...], fine: tuple[int, ...]) -> float:
    """Return the ratio of the largest to the smallest enlargement factor of the axes."""
    factors = [f / max(1, c) for c, f in zip(coarse, fine, strict=True)]
    return max(factors) / min(factors)


def _best(candidates: Mapping[str, tuple[Array, Array]]) -> str | None:
    """Return the name of the labels and image that agree clearly best, or None."""
    scores = {name: _agreement(*pair) for name, pair in candidates.items()}
    first, second, *_ = sorted(scores, key=lambda name: scores[name], reverse=True)
    return first if scores[first] > _CLEARLY * max(scores[second], 1) else None


def _agreement(labels: Array, image: Array) -> float:
    """Return the mean difference of pixels [*S, C] across borders of `labels`, over all others'."""
    borders, steps = [], []
    pixels = image.astype(np.float32)
    for axis in range(labels.ndim):
        borders.append(np.diff(labels.astype(np.int64), axis=axis).ravel() != 0)
        steps.append(np.abs(np.diff(pixels, axis=axis)).sum(-1).ravel())
    border, step = np.concatenate(borders), np.concatenate(steps)
    if not border.any() or not step.any():
        return 0.0
    return float(step[border].mean() / step.mean())
