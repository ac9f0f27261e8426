"""Read docstrings as people write them: backticks are code, and * and | are characters."""

import re
from typing import Any

from sphinx.application import Sphinx

# Code in backticks, which may span lines; an example up to the next empty line; what to escape.
_PARTS = re.compile(r"(`[^`]*`|^ *>>> (?:.+\n?)+)|([*|])", re.MULTILINE)


def escaped(text: str) -> str:
    """Escape * and | outside of code; reStructuredText would read them as markup."""
    return _PARTS.sub(lambda found: found[1] or "\\" + found[2], text)


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape the prose of a docstring."""
    lines[:] = escaped("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, before napoleon."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
