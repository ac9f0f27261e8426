"""Options for what a CRF computes, shared by the commands that run one."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from .. import tuning
from ..files import Settings, read_settings
from ..files.arrays import read_array
from ..params import NORMALIZATIONS, QUALITIES, CRFParams
from . import UserError

# Where a search begins too (README, "Choosing parameters"). CRFParams' own defaults are the
# paper's, for training with the network.
START = Settings(tuning.START)


def add_crf_options(parser: argparse.ArgumentParser) -> None:
    """Declare an option for each field of CRFParams, the iterations and the compatibility."""
    group = parser.add_argument_group("the CRF")
    group.add_argument(
        "--params", type=Path, metavar="FILE",
        help="settings in JSON, as `tune` writes them; the options below go before them",
    )  # fmt: skip
    for name, unit in (
        ("alpha", "pixels: reach of the appearance kernel"),
        ("beta", "intensity units of the image, 0..255 for 8 bits: what counts as alike"),
        ("gamma", "pixels: reach of the smoothness kernel"),
    ):
        group.add_argument(
            f"--theta-{name}", type=float, metavar="X",
            help=f"{unit} (default: {getattr(START.params, f'theta_{name}'):g})",
        )  # fmt: skip
    for name in ("bilateral", "spatial"):
        group.add_argument(
            f"--w-{name}", type=numbers, metavar="X[,X...]",
            help="weight of that kernel, one or one per label (default: "
            f"{getattr(START.params, f'w_{name}'):g})",
        )  # fmt: skip
    group.add_argument(
        "--iterations", type=int, metavar="N", help=f"default: {START.iterations}"
    )
    group.add_argument(
        "--compatibility", type=Path, metavar="FILE",
        help="array file with the penalty [L, L] of a label (row) beside another (default: Potts)",
    )  # fmt: skip
    choices = {
        "normalization": NORMALIZATIONS,
        "feature-order": ("xy", "yx"),
        "spatial": ("grid", "lattice"),
        "quality": QUALITIES,
    }
    for option, words in choices.items():
        default = getattr(START.params, option.replace("-", "_"))
        group.add_argument(f"--{option}", choices=words, help=f"default: {default}")
    group.add_argument(
        "--no-self-term", dest="self_term", action="store_false", default=None,
        help="pixels send no message to themselves",
    )  # fmt: skip


def settings(args: argparse.Namespace) -> Settings:
    """What `--params` and the options say; a UserError where they cannot be."""
    try:
        base = START if args.params is None else read_settings(args.params)
        names = [field.name for field in fields(CRFParams)]
        given = {name: value for name in names if (value := getattr(args, name)) is not None}
        mu = base.compatibility
        if args.compatibility is not None:
            mu = read_array(args.compatibility)
        iterations = base.iterations if args.iterations is None else args.iterations
        return Settings(replace(base.params, **given), iterations, mu)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def numbers(text: str) -> float | tuple[float, ...]:
    """One number, or several between commas."""
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number or numbers between commas")
    return found[0] if len(found) == 1 else found
