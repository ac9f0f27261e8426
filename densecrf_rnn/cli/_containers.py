"""Options for files from others: how much they may unpack to, and whether they may lack chunks."""

import argparse

from . import _types


def add_max_bytes(add: argparse._ActionsContainer) -> None:
    """Declare --max-bytes."""
    add.add_argument(
        "--max-bytes", type=_types.positive, metavar="N",
        help="let a file unpack to N bytes, although the image or its size on disk implies less "
        "(docs/refinement.md)",
    )  # fmt: skip


def add_strict(add: argparse._ActionsContainer) -> None:
    """Declare --strict."""
    add.add_argument(
        "--strict", action="store_true",
        help="refuse LOGITS that lack chunks (HDF5, zarr, sparse TIFF), which are read as one "
        "value; by default they cause a warning, and the record says how many",
    )  # fmt: skip
