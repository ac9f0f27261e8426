"""docs/integration.md: the tests that its tables name exist, and lines of user code are counted."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "integration.md"
if not PAGE.is_file():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
NAMED = [row for row in ROWS if re.search(r"`test_\w+`", row)]


def functions():
    """Path and source of every test function by its name, with the classes that it uses."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        nodes = ast.parse(source).body
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = ast.get_source_segment(source, node)
                used = [n for n in nodes if isinstance(n, ast.ClassDef) and f"{n.name}(" in text]
                parts = [text, *(ast.get_source_segment(source, n) for n in used)]
                found[node.name] = (path, "\n".join(parts))
    return found


TESTS = functions()


def user_code(source):
    """Lines between the comments "your code" and "end"."""
    blocks = re.findall(r"# your code\n(.*?)# end", source, re.DOTALL)
    return [x for block in blocks for x in textwrap.dedent(block).splitlines() if x.strip()]


def test_rows_are_found():
    assert len(NAMED) > 30 and sum(row.split("|")[2].strip().isdigit() for row in NAMED) > 15


@pytest.mark.parametrize("row", NAMED, ids=lambda row: row.split("|")[1].strip()[:40])
def test_the_tests_of_a_row_exist_and_its_lines_are_those_of_the_first(row):
    names = re.findall(r"`(test_\w+)`", row)
    assert [name for name in names if name not in TESTS] == []
    count = row.split("|")[2].strip()
    if not count.isdigit():
        return
    path, source = TESTS[names[0]]
    if path.parent.name == "integration":
        assert len(user_code(source)) == int(count)


def test_every_test_of_a_real_package_with_user_code_is_in_a_row():
    shown = {path for path, _ in (TESTS[name] for row in NAMED for name in re.findall(
        r"`(test_\w+)`", row))}  # fmt: skip
    assert set((ROOT / "tests" / "integration").glob("test_*.py")) <= shown
    for name, (path, source) in TESTS.items():
        if path.parent.name == "integration" and user_code(source):
            assert any(f"`{name}`" in row for row in NAMED), name
