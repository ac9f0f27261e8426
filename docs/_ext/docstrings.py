"""Read docstrings as people write them, in Markdown more than in reStructuredText.

Backticks are code, * and | are characters, an indented block is code, and docs/NAME.md is a link.
"""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

from densecrf_rnn import CRFParams

# Code: in backticks, which may span lines; an example up to the next empty line; a block that is
# indented below a line that is not. Then a page of docs/, and what to escape.
_PARTS = re.compile(
    r"(?P<kept>`[^`]*`|^ *>>> (?:.+\n?)+)"
    r"|(?<=^)(?P<above>[^\s-].*)\n\n(?P<block>(?: {4}.*(?:\n|\Z))+)"
    r"|docs/(?P<page>\w+)\.md|(?P<special>[*|])",
    re.MULTILINE,
)


def escaped(text: str) -> str:
    """Return a docstring's text as reStructuredText that means the same."""

    def part(found: re.Match[str]) -> str:
        if found["block"]:
            return f"{escaped(found['above'])}\n\n::\n\n{found['block']}"
        if found["page"]:
            return f":doc:`docs/{found['page']}.md </{found['page']}>`"
        return found["kept"] or "\\" + found["special"]

    return _PARTS.sub(part, text)


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape the prose of a docstring."""
    lines[:] = escaped("\n".join(lines)).split("\n")


def signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, args: str | None,
    returned: str | None,
) -> tuple[str | None, str | None] | None:  # fmt: skip
    """Show the arguments of __init__ for a class whose base hides them behind *args."""
    if what != "class" or args != "(*args, **kwargs)":
        return None
    found = list(inspect.signature(thing.__init__).parameters.values())[1:]
    found = [
        one.replace(annotation=one.empty, default=_Written(one.default))
        if isinstance(one.default, CRFParams) else one.replace(annotation=one.empty)
        for one in found
    ]  # fmt: skip
    return str(inspect.Signature(found)), returned


class _Written:
    """A default that is shown as it is written in the source: CRFParams(), not all its fields."""

    def __init__(self, params: CRFParams) -> None:
        self._params = params

    def __repr__(self) -> str:
        return str(self._params)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, before napoleon."""
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
