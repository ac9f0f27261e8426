"""The Markdown pages of the repository, and the code that they show."""

import ast
import importlib
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


def _below(folder: str) -> list[Path]:
    """Pages of a folder of the repository without copies and results that programs write there."""
    found = sorted((ROOT / folder).rglob("*.md"))
    return [page for page in found if not {"generated", "runs", "_static"} & set(page.parts)]


# The pages that explain something: each has an example that a test runs.
GUIDES = [page for page in (ROOT / "README.md", *_below("docs"), *_below("examples"))
          if page.is_file()]  # fmt: skip
# All pages: their commands can be typed, and what they link to and name exists.
PAGES = [*GUIDES, *sorted(page for page in ROOT.glob("*.md") if page.name != "README.md"),
         *_below("densecrf_rnn"), *_below("tests")]  # fmt: skip


def name(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A block of code between fences: its language, text, first line and number of headings."""

    language: str
    text: str
    line: int
    section: int


def _split(page: Path) -> tuple[list[Block], str]:
    """Return the blocks of a page, and its text without them."""
    blocks, prose = [], []
    language, start, section = None, 0, 0
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if language is None and line.startswith("```"):
            language, start = line[3:].strip(), number
        elif line.startswith("```"):
            text = "".join(f"{one}\n" for one in lines[start : number - 1])
            blocks.append(Block(language, text, start + 1, section))
            language = None
        elif language is None:
            section += line.startswith("#")
            prose.append(line)
    assert language is None, f"{name(page)}:{start}: the block does not end"
    return blocks, "\n".join(prose)


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in some languages."""
    return [block for block in _split(page)[0] if block.language in languages]


def prose(page: Path) -> str:
    """Return the text of a page without its blocks."""
    return _split(page)[1]


def spans(page: Path) -> list[str]:
    """Return the code within the sentences and tables of a page, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def lines(block: Block) -> list[str]:
    """Return the commands of a shell block; one that a backslash continues is one command."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def needs(code: str, comments: str | None = None) -> list[str]:
    """Return what code says that it needs in a comment `# needs A and B`, and what it imports."""
    said = re.findall(r"^# needs (.+)$", code if comments is None else comments, re.MULTILINE)
    found = [need for line in said for need in re.split(r", | and ", line)]
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "").split(".")[0])
    return list(dict.fromkeys(found))


def why_not(need: str) -> str | None:
    """Return why code with this need cannot run here, or None if it can."""
    if need == "a download":
        return "tests download nothing"
    try:
        if need == "a GPU":
            return None if importlib.import_module("torch").cuda.is_available() else "no GPU"
        importlib.import_module(need.replace("-", "_"))
    except Exception as error:  # also a package that is there but does not load
        return f"could not import '{need}': {error}"
    return None
