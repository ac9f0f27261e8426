"""JSON from files that anyone may have written."""

import json
from typing import Any


def parsed(text: str) -> Any:
    """Parse JSON; raise ValueError for anything else, also for text that is nested too deeply.

    Examples
    --------
    >>> parsed('{"a": [1]}')
    {'a': [1]}
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
