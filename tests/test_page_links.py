"""What the pages link to and name exists: files, headings, tests."""

import re
from functools import cache

import pages
import pytest

ROOT = pages.ROOT
if len(pages.GUIDES) < 2:
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
FOLDERS = (".ci", ".github", "benchmarks", "cpp", "densecrf_rnn", "docs", "examples", "tests")
SOURCES = r"\.(?:py|pyi|hpp|cpp|cu|sh|cmake|rst|cfg|toml|md)"
FOREIGN = {"gdal_edit.py", "NAME.md"}  # GDAL's, and a table that a command writes
every_page = pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)


def headings(page):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found = re.findall(r"^#+ (.+)$", pages.prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-") for text in found}


@every_page
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"`[^`]*`", "", pages.prose(page))
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            aim = (page.parent / target).resolve() if target else page
            assert aim.exists(), f"{page.name}: {target}"
            if anchor:
                aim = aim / "README.md" if aim.is_dir() else aim
                assert anchor in headings(aim), f"{page.name}: {target}#{anchor}"


@cache
def endings():
    """Return all ends of the paths of files and folders in the repository."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [ROOT / folder, *(ROOT / folder).rglob("*")]
    parts = [path.relative_to(ROOT).parts for path in found]
    return {"/".join(each[i:]) for each in parts for i in range(len(each))}


@every_page
def test_files_that_a_page_names_exist(page):
    tops = "|".join(map(re.escape, FOLDERS))
    text = " ".join(pages.spans(page))
    named = set(re.findall(rf"(?<![\w./<>*-])[\w./-]*\w{SOURCES}(?!\w)", text))
    text = re.sub(r"\]\([^)]*\)", "]", pages.prose(page))  # links have a test of their own
    named |= set(re.findall(rf"(?<![\w./-])(?:{tops})/[\w./*-]*[\w/*]", text))
    missing = {path for path in named - FOREIGN if path.strip("/") not in endings()}
    assert {path for path in missing if "*" not in path or not any(ROOT.glob(path))} == set()


def test_a_file_that_is_gone_is_noticed():
    assert {"nn/ops", "kernels.py", "densecrf_rnn/nn/ops/pruned.py", "README.md"} <= endings()
    assert "nn/ops/gone.py" not in endings()


@every_page
def test_tests_that_a_page_names_exist(page):
    text = " ".join(pages.spans(page))
    assert set(re.findall(r"\btest_\w+\b(?!\.)", text)) - defined() == set()


@cache
def defined():
    """Return the names of all functions of tests and benchmarks."""
    paths = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "benchmarks").glob("bench_*.py")]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
