"""The command line, `densecrf-rnn COMMAND`: select the command and print its errors.

Each command is a module of this folder with `add_arguments(parser)` and `run(args)`. A module is
imported when its command is called, and imports torch or matplotlib only inside `run`, so that
`--help` is fast and needs no optional package.
"""

import argparse
import contextlib
import io
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import _platform

_COMMANDS = {
    "demo": "refine the sample photographs, draw the changed pixels, and train a CRF-RNN on them",
    "refine": "refine a folder of saved logits with their images",
    "evaluate": "score label maps or logits against the ground truth, several side by side",
    "tune": "search for the CRF parameters that score best on images with ground truth",
    "explore": "show what each parameter does, with sliders, on a page of this machine alone",
    "info": "show versions and the engines that can run here",
}


STATUS = (
    "Exit status: 0 for success; 1 if some of the files failed or, for refine, have no partner; 2"
    " if an error, which is printed, kept the command from starting or stopped it; 130 after"
    " Ctrl-C; 141 if the program that reads the output has ended."
)


class UserError(Exception):
    """An error that the user can correct; printed as one sentence, without a traceback."""


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a UserError with the same message."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error


def require(command: str, *modules: str, extra: str = "cli") -> None:
    """Raise a UserError that names the extra if one of `modules` is not installed."""
    from ..checks import name_for_pip

    missing = [name_for_pip(name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        *others, last = missing
        named = f"{', '.join(others)} and {last}" if others else last
        raise UserError(
            f"{command} needs {named}, which {'are' if others else 'is'} not installed; "
            f"pip install 'densecrf-rnn[{extra}]'"
        )


def make_folder(folder: Path, option: str) -> None:
    """Create `folder`, given by `option`, with its parents; raise UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{option} {folder} is a file; name a folder") from error
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error


def check_file(option: str, file: Path | None) -> None:
    """Raise a UserError if `file`, given by `option`, is a folder or its folder does not exist."""
    if file is not None and not file.parent.is_dir():
        raise UserError(f"{option} {file}: there is no folder {file.parent}")
    if file is not None and file.is_dir():
        raise UserError(f"{option} {file} is a folder; name a file")


def prepare_plots(command: str, folder: Path | None) -> None:
    """If --plots FOLDER is given, check that matplotlib is installed and create the folder."""
    if folder is not None:
        require(f"{command} --plots", "matplotlib")
        make_folder(folder, "--plots")


def progress(hidden: bool = False, **options: Any) -> Any:
    """Create a progress bar on stderr, which is erased when it ends.

    It is also hidden if stderr is no terminal.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(**options, disable=hidden or None, leave=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the name of the program; default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status: 0 for success, 1 if some of the files failed, 2 for an error of the user or a
        full disk, 130 after Ctrl-C, 141 if the reader of stdout has ended.

    Raises
    ------
    SystemExit
        By argparse: status 0 after --help and --version, 2 for invalid arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files may be any bytes
    try:
        try:
            args, unknown = parser.parse_known_args(arguments)
            if unknown:
                args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            return _run(args)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\ndensecrf-rnn {arguments[0]}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has ended, as in `densecrf-rnn info | head -1`
        _drop_stdout()
        return 128 + _platform.SIGPIPE  # as a shell reports it
    except OSError as error:  # such as a full disk
        _drop_stdout()
        print(f"densecrf-rnn {arguments[0]}: cannot print: {error.strerror}", file=sys.stderr)
        return 2


def _drop_stdout() -> None:
    """Print nothing more: Python writes the rest of its buffer when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence; argparse would print all options before it.

    Lists such as -1,2 are values, as single negative numbers are for argparse.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += " (one that begins with - is given as --option=-value)"
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _run(args: argparse.Namespace) -> int:
    from ..engines import BackendUnavailableError
    from ..files import allowing
    from ._remedies import in_options

    try:
        with allowing(getattr(args, "max_bytes", None)):
            return int(importlib.import_module(f".{args.command}", __name__).run(args))
    except BrokenPipeError:
        raise
    except (UserError, BackendUnavailableError) as error:
        problem = str(error)
    except OSError as error:
        problem = error.strerror or str(error)
        if error.filename:
            problem = f"{error.filename}: {problem}"
    print(f"densecrf-rnn {args.command}: {in_options(problem)}", file=sys.stderr)
    return 2


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; import only the commands that occur in `arguments`."""
    from .. import __version__

    parser = _Parser(
        prog="densecrf-rnn",
        description="Dense-CRF refinement of segmentations, and a trainable CRF-RNN head.",
        epilog=STATUS,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        if name in arguments:
            importlib.import_module(f".{name}", __name__).add_arguments(command)
            command.epilog = f"{command.epilog} {STATUS}" if command.epilog else STATUS
            command.set_defaults(parser=command)  # `_options` reads the defaults from it
    return parser
