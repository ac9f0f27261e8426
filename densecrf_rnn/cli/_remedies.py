"""Python remedies in messages, replaced by what a user of the command line can do.

The library's messages tell a Python caller what to write. On the command line the remedy is an
option, or another file. `tests/test_cli_messages.py` finds messages that this table misses.
"""

import re
from collections.abc import Callable

_PYTHON_CALL = r"(?:\w+\.)*\w+\(.*\)"

# Pattern in a message of the library, and the replacement.
REMEDIES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (rf"pass their logarithm: {_PYTHON_CALL}", "if they are, add --kind probabilities"),
    (
        r"theta_beta is (\S+), (.*); pass image \* 255, or divide theta_beta by 255",
        lambda m: f"theta_beta is {m[1]}, {m[2]}; give --theta-beta {float(m[1]) / 255:.2g}",
    ),
    (
        r"so np\.clip rounding errors(.*?); logits need no conversion",
        r"so clip rounding errors before saving\1; for logits leave --kind probabilities out",
    ),
    (r"pass kind='probabilities'", "add --kind probabilities"),
    (r"for label maps use read_labels", "for label maps add --kind labels"),
    (r"choose one by `key`", "choose one by the option --key, --image-key or --truth-key"),
    (r" \(logits\.astype\(.*?\)\)", "; save it so, or add --kind probabilities if it holds such"),
    (r"pass image\.astype\(.*\)", "save it in native byte order"),
    (r"channels come last: np\.moveaxis\(.*?\)", "channels must come last in the file"),
    (r"labels come first: np\.moveaxis\(.*?\)", "labels must come first in the file"),
    (r"a binary map is logits\[None\]", "save a binary map as [1, H, W]"),
    (r"pass one image at a time: logits\[b\](, image\[b\])?", "save one file per image"),
    (r" or float64 input", ""),
)
_COMPILED = [(re.compile(pattern, re.DOTALL), words) for pattern, words in REMEDIES]


def in_options(message: str) -> str:
    """Return a message with its Python remedies replaced.

    Examples
    --------
    >>> in_options("these may be probabilities; pass their logarithm: np.log(p)")
    'these may be probabilities; if they are, add --kind probabilities'
    """
    for pattern, words in _COMPILED:
        message = pattern.sub(words, message)
    return message
