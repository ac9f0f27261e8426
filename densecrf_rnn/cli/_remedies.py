"""Python remedies in messages, replaced by the command-line options that do the same.

The library's messages tell a Python caller what to write. On the command line the way out is an
option, or another file. `tests/test_cli_messages.py` finds messages that are missing here.
"""

import re

# Pattern in a message of the library, and what the command line says instead.
REMEDIES = (
    (r"; pass their\s+logarithm \(np\.log.*?\)", "; if they are, add --kind probabilities"),
    (
        r"; pass image \* 255, or divide theta_beta by 255",
        "; give --theta-beta in the image's units (divided by 255)",
    ),
)
_COMPILED = [(re.compile(pattern), words) for pattern, words in REMEDIES]


def in_options(message: str) -> str:
    """Return a message with its Python remedies replaced by options.

    Examples
    --------
    >>> in_options("these may be probabilities; pass their logarithm (np.log(p))")
    'these may be probabilities; if they are, add --kind probabilities'
    """
    for pattern, words in _COMPILED:
        message = pattern.sub(words, message)
    return message
