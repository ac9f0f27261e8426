"""The command line, `densecrf-rnn COMMAND`: finds the command and words its errors.

Each command is a module of this folder with `add_arguments(parser)` and `run(args)`. A module is
imported when its command is called, and imports torch or matplotlib only inside `run`, so that
help costs nothing and needs no extra.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

_COMMANDS = {
    "demo": "refine the sample photographs, draw what changed, train a head on them",
    "refine": "refine a folder of saved logits with their images",
    "evaluate": "score label maps against the truth, several side by side",
    "tune": "search for the parameters that score best on some images with ground truth",
    "info": "show versions and which engines can run here",
}


class UserError(Exception):
    """What the user can put right; printed as one sentence, without a traceback."""


def require(command: str, *modules: str, extra: str = "cli") -> None:
    """Raise a UserError that names the extra if one of `modules` is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{command} needs {' and '.join(missing)}, not installed here; "
            f"pip install 'densecrf-rnn[{extra}]'"
        )


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def progress(**options: Any) -> Any:
    """A progress bar on stderr that leaves no trace, and is absent where there is no terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(**options, disable=None, leave=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status: 0, 1 where a file of several failed, 2 for a user's error, 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        argparse's: status 0 after --help and --version, 2 for arguments it cannot read.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(arguments)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print(f"\ndensecrf-rnn {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader went away, as in `densecrf-rnn info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(args: argparse.Namespace) -> int:
    from ..engines import BackendUnavailableError

    try:
        return int(importlib.import_module(f".{args.command}", __name__).run(args))
    except BrokenPipeError:
        raise
    except (UserError, BackendUnavailableError) as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"densecrf-rnn {args.command}: {problem}", file=sys.stderr)
    return 2


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the commands that `arguments` name are imported."""
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="densecrf-rnn",
        description="Dense-CRF refinement of segmentations, and a trainable CRF-RNN head.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        if name in arguments:
            importlib.import_module(f".{name}", __name__).add_arguments(command)
    return parser
