"""CONTRIBUTING.md names files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "CONTRIBUTING.md"


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="the documents are not installed")
def test_files_that_contributing_names_exist():
    text = DOCUMENT.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])\.?[\w/]+\.(?:py|hpp|cpp|cu)\b", text)
    folders = [ROOT, ROOT / "densecrf_rnn", ROOT / "tests", ROOT / "cpp", ROOT / "cpp" / "cuda"]
    assert len(named) > 30
    for name in named:
        assert any((folder / name).is_file() for folder in folders), f"{name} does not exist"


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="the documents are not installed")
def test_sections_that_contributing_names_exist():
    text = re.sub(r"\s+", " ", DOCUMENT.read_text(encoding="utf-8"))
    named = re.findall(r'"([^"]+)" in ([\w./]+\.md)', text)
    named += [(title, name) for name, title in re.findall(r'([\w./]+\.md), "([^"]+)"', text)]
    assert len(named) >= 2
    for title, name in named:
        headings = re.findall("^#+ (.*)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert title in headings, f"{name} has no section {title!r}"
