"""Options of the CRF and of the engine that computes it, shared by the commands that run one."""

import argparse
from dataclasses import fields, replace
from typing import get_args

from .. import tuning
from ..engines.registry import ARRAY_ENGINES
from ..files import Settings, read_array, read_settings
from ..params import CRFParams, FeatureOrder, Normalization, Quality, SpatialFilter
from . import _types, user_errors
from ._options import option

# The defaults of the options, and the first setting that a search tries (docs/usage.md, "Choosing
# parameters"). The defaults of CRFParams are the paper's, meant for training with the network.
START = Settings(tuning.START)
# What `refine` prunes where it writes labels alone: on all pictures of docs/performance.md this
# changed less than one label in a million.
PRUNE_LABELS = 1e-4
# Meaning of the parameters that a search can find.
MEANING = {
    "theta_alpha": "standard deviation of the appearance kernel in position, in pixels",
    "theta_beta": "standard deviation of the appearance kernel in intensity, in the image's units "
    "(0..255 for 8 bits)",
    "theta_gamma": "standard deviation of the smoothness kernel, in pixels",
    "w_bilateral": "weight of the appearance kernel",
    "w_spatial": "weight of the smoothness kernel",
}

_AXES = "axes, or one per axis ([D,]H,W)"
_LABELS = "labels, or one per label"
_EACH = {
    "theta_alpha": _AXES, "theta_beta": "channels, or one per channel", "theta_gamma": _AXES,
    "w_bilateral": _LABELS, "w_spatial": _LABELS,
}  # fmt: skip


def add_crf_options(
    parser: argparse.ArgumentParser, start: Settings = START, *, of_page: bool = False
) -> None:
    """Declare an option for each field of CRFParams, the iterations and the compatibility.

    `start` has the defaults; the page of `explore` has no pruning and no compatibility.
    """
    add = parser.add_argument_group("CRF").add_argument
    add("--params", **_types.FILE,
        help="settings in JSON, as written by `tune`; command-line options override the file")
    for name, meaning in MEANING.items():
        add(option(name), type=_types.numbers, metavar="X[,X...]",
            help=f"{meaning}; one for all {_EACH[name]} (default: {getattr(start.params, name):g})")
    add("--iterations", type=int, metavar="N",
        help=f"mean-field updates (default: {start.iterations})")
    if of_page:
        parser.set_defaults(compatibility=None)
    else:
        add("--prune", type=float, metavar="X",
            help="save time by leaving labels out: no pixel loses more than X of a label's "
            f"marginal in an iteration; 0 is exact (default: {PRUNE_LABELS:g} where engine cpu "
            "writes labels alone, else 0)")
        add("--compatibility", **_types.FILE,
            help="array file [L, L]: penalty for a label (row) next to another (column) (default: "
            "Potts, 1 for different labels)")
    for name, choices, meaning in (
        ("normalization", Normalization,
         "normalise before or after filtering, or half each (symmetric)"),
        ("feature_order", FeatureOrder, "order of the position features; affects the lattice only"),
        ("spatial", SpatialFilter, "filter the smoothness kernel on a regular grid or a lattice"),
        ("quality", Quality, "accuracy of the lattice (docs/accuracy.md)"),
    ):
        add(option(name), choices=get_args(choices),
            help=f"{meaning} (default: {getattr(start.params, name)})")
    add("--self-term", action=argparse.BooleanOptionalAction, default=None,
        help="include the diagonal term (i = j): pixels send messages to themselves (default: "
        "included)")


def add_engine_options(group: argparse._ActionsContainer, threads: str) -> None:
    """Declare --threads, with the help text `threads`, and --backend."""
    group.add_argument("--threads", **_types.COUNT, help=threads)
    group.add_argument(
        "--backend", choices=("auto", *ARRAY_ENGINES), default="auto",
        help="engine; `densecrf-rnn info` lists those that can run here (default: %(default)s)",
    )  # fmt: skip


@user_errors(ImportError, TypeError, ValueError)
def settings(args: argparse.Namespace, start: Settings = START) -> Settings:
    """Return the settings of `--params`, else `start`, overridden by the options.

    Raises
    ------
    UserError
        They are invalid.
    """
    base = start if args.params is None else read_settings(args.params)
    names = [field.name for field in fields(CRFParams)]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    mu = base.compatibility if args.compatibility is None else read_array(args.compatibility)
    iterations = base.iterations if args.iterations is None else args.iterations
    tuned = "" if "theta_beta" in given else base.tuned
    return Settings(replace(base.params, **given), iterations, mu, tuned)
