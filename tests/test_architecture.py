"""docs/architecture.md is complete: every module is in its tree, and what it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "densecrf_rnn"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE = TEXT.split("```text\n")[1].split("```")[0]
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def listed():
    """Paths of the modules in the tree; a line's files are in the folder it names or is under."""
    found, folders = set(), {}
    for line in TREE.splitlines():
        indent, words = len(line) - len(line.lstrip()), line.split()
        folders = {i: folder for i, folder in folders.items() if i < indent}
        here = folders[max(folders)] if folders else ROOT
        if words and words[0].endswith("/"):
            here = folders[indent] = here / words[0]
        found |= {here / word for word in words if re.fullmatch(r"[\w/]+\.pyi?", word)}
    return {path.relative_to(PACKAGE) for path in found if PACKAGE in path.parents}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_the_tree_lists_every_module(path):
    assert path in listed()


def test_the_tree_lists_no_module_that_is_gone():
    assert not [path for path in listed() if not (PACKAGE / path).is_file()]


REFERENCES = re.findall(r"`([\w/]+\.(?:py|hpp|cpp|cu|md))`: ((?:`\w+`(?:, )?)+)", TEXT)


@pytest.mark.parametrize("path, names", REFERENCES, ids=lambda value: str(value)[:40])
def test_files_and_names_that_the_tables_mention_exist(path, names):
    file = next(f for f in (PACKAGE / path, ROOT / path) if f.is_file())
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+)`", names):
        defined = rf"^\s*(?:def|class|struct|using) {name}\b|^{name}\b"
        assert re.search(defined, text, re.MULTILINE)


def test_references_are_found():
    assert len(REFERENCES) >= 15


def test_the_table_names_files_of_the_tests_that_exist():
    named = set(re.findall(r"\btest_\w+\.(?:py|cpp)", TEXT))
    here = {p.name for p in [*(ROOT / "tests").glob("*.py"), *(ROOT / "cpp").rglob("*.cpp")]}
    assert named and named <= here
