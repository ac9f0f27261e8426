"""Write the page of the command line from its parsers, so that it lists every option."""

import argparse

from repository_pages import DOCS, write_if_changed
from sphinx.application import Sphinx

from densecrf_rnn import cli

INTRODUCTION = """# Command line

This page is made from the program's own help: `densecrf-rnn COMMAND --help` prints the same.
[Refining saved logits](../refinement.md) explains files, options and long runs with examples.
"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    names = list(cli._COMMANDS)
    for action in cli._parser(names)._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {name: action.choices[name] for name in names}
    raise RuntimeError("the command line has no commands")


def literal(text: str) -> str:
    """Escape what Markdown would read as markup in a help text."""
    for character in "\\`*_<>[]{}|$":
        text = text.replace(character, "\\" + character)
    return text


def option(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """Return the Markdown of one argument: its forms, and its help."""
    invocation = formatter._format_action_invocation(action)
    text = formatter._expand_help(action) if action.help else ""
    return f"`{invocation}`\n: {literal(' '.join(text.split()))}\n"


def section(name: str, parser: argparse.ArgumentParser) -> str:
    """Return the Markdown section of one command."""
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)
    parts = [f"## densecrf-rnn {name}", literal(parser.description or "")]
    positional = [parser.prog] + [
        formatter._format_args(action, formatter._get_default_metavar_for_positional(action))
        for action in parser._get_positional_actions()
    ]
    parts.append(f"```text\n{' '.join([positional[0], '[options]', *positional[1:]])}\n```")
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if actions:
            title = (group.title or "").capitalize()
            parts.append(f"**{title}**")
            if group.description:
                parts.append(literal(group.description))
            parts += [option(action, formatter) for action in actions]
    if parser.epilog:
        parts.append(literal(parser.epilog))
    return "\n\n".join(parts) + "\n"


def page() -> str:
    """Return the Markdown of the page."""
    return "\n".join([INTRODUCTION, *(section(name, one) for name, one in parsers().items())])


def write_page(app: Sphinx) -> None:
    """Write the page into docs/generated/."""
    write_if_changed(DOCS / "generated" / "commands.md", page())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
