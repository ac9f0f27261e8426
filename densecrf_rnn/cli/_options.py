"""The options that a command records, to decide whether an earlier result can be kept.

Every option is recorded unless `UNRECORDED` names it. So an option that is added to a parser and
forgotten in this module is recorded, and a result made with another value of it is made again.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

# Per command: options that do not change what is written for a file, or are recorded elsewhere.
UNRECORDED = {
    "refine": {
        "logits", "images",  # recorded as input files, by their checksums
        "logits_suffix", "image_suffix", "mask_suffix", "recursive",  # only choose the input files
        "params",  # recorded as the values of the CRF's options
        "out", "workers", "threads", "backend", "dry_run", "max_bytes",
    },
    "tune": {
        "params", "iterations", "mean_over", "seed",  # recorded by `tuning`, with the ranges:
        "theta_alpha", "theta_beta", "theta_gamma", "w_bilateral", "w_spatial",
        "trials", "folds",  # may grow when a study is continued; a file holds a study per fold
        "gradient", "passes",  # used only after the search
        "out", "study", "plots", "threads", "backend", "max_bytes",
    },
}  # fmt: skip
# Entries of the namespace that are no options, or only say what is printed.
_INTERNAL = {"command", "parser", "quiet", "verbose"}
_SHOWN = 60  # characters of a value in a message


def recorded(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of all options that affect the results of `args.command`."""
    left_out = UNRECORDED[args.command] | _INTERNAL
    return {name: value for name, value in vars(args).items() if name not in left_out}


def given(args: argparse.Namespace) -> set[str]:
    """Return the names of the options whose value is not the parser's default."""
    default = args.parser.get_default
    return {n for n, value in vars(args).items() if n not in _INTERNAL and value != default(n)}


def option(name: str) -> str:
    """Return how an option is spelled on the command line.

    Examples
    --------
    >>> option("labels_last")
    '--labels-last'
    """
    return f"--{name.replace('_', '-')}"


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in which options two records differ: the values, or the names of missing options.

    Examples
    --------
    >>> difference({"temperature": 1.0, "key": None}, {"temperature": 2.5, "key": "a"})
    '--temperature was 1, is 2.5; --key was not given, is "a"'
    >>> difference({"temperature": 1.0}, {"temperature": 1.0, "key": None})
    'another version of densecrf-rnn wrote their record, which differs in the options --key'
    """
    if unlike := sorted(old.keys() ^ new.keys()):
        return (
            "another version of densecrf-rnn wrote their record, which differs in the options "
            f"{', '.join(map(option, unlike))}"
        )
    return "; ".join(
        f"{option(name)} was {_shown(old[name])}, is {_shown(value)}"
        for name, value in new.items()
        if value != old[name]
    )


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
