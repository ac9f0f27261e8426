"""`--kind regions`: maps that may overlap, each with a binary CRF, and the files of each."""

import argparse
from pathlib import Path

from .. import postprocess
from .._typing import Array
from ..files import Settings
from . import UserError, _types
from ._options import option

# What --kind calls such maps: probabilities of a sigmoid each, or its logits.
KINDS = ("regions", "region-logits")
# How `tune`, which scores one label per pixel, is used for maps that overlap.
ONE_BY_ONE = (
    "tune one region at a time: save its maps [1, H, W] in a folder, its masks of 0 and 1 in "
    "another as TRUTH, and give --kind probabilities"
)
# Options that are about one label per pixel.
_OF_LABELS = ("classes", "label_values", "colours")


def add_region_options(add: argparse._ActionsContainer) -> None:
    """Declare --regions-class-order."""
    add.add_argument(
        "--regions-class-order", type=_types.naturals, metavar="N,N,...",
        help="with --kind regions: write one label map, in which each region in turn writes its "
        "label N over the ones before it, as nnU-Net does (default: a mask per region)",
    )  # fmt: skip


def are_given(args: argparse.Namespace) -> bool:
    """Return whether the maps are regions.

    Raises
    ------
    UserError
        Options contradict each other.
    """
    regions = args.kind in KINDS
    order = getattr(args, "regions_class_order", None)
    if order is not None and not regions:
        raise UserError("--regions-class-order needs --kind regions")
    if not regions:
        return False
    if args.command != "refine":
        raise UserError(
            f"--kind {args.kind} goes with refine and evaluate; "
            f"{ONE_BY_ONE.replace('tune', args.command, 1)}"
        )
    for name in _OF_LABELS:
        if getattr(args, name) is not None:
            raise UserError(
                f"{option(name)} is about one label per pixel, but --kind {args.kind} refines maps "
                f"that may overlap; leave {option(name)} out"
            )
    return True


def check_settings(settings: Settings) -> None:
    """Raise UserError if settings hold a compatibility, which binary CRFs do not have."""
    if settings.compatibility is not None:
        raise UserError(
            "--kind regions refines each map by a binary CRF of its own, with Potts; leave "
            "--compatibility out, and the compatibility in the file of --params"
        )


def numbers(args: argparse.Namespace, what: str, maps: int | None) -> list[str]:
    """Return what follows the stem in the names of the files of kind `what`: a number, or nothing.

    Marginals, and label maps in an order, are one file; else each region has one. `maps` is the
    number of regions; None: it is not known yet.
    """
    if what == "marginals" or (what == "labels" and args.regions_class_order is not None):
        return [""]
    return [f"_{index}" for index in range(maps or 1)]


def label_maps(q: Array, order: tuple[int, ...] | None, logits: Path) -> list[Array]:
    """Return the label maps to write of the marginals q [L, *S], which were read from `logits`."""
    if order is None:
        return list(postprocess.region_masks(q))
    if len(order) != len(q):
        raise ValueError(
            f"{logits}: has {len(q)} regions, but --regions-class-order lists {len(order)} labels; "
            "give one for each"
        )
    return [postprocess.labels_of_regions(q, order)]
