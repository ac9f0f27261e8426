"""The code of the pages runs, says what it promises, and each page has some.

A page's blocks share their names and a folder of their own. Python runs first, as it makes the
files that commands read; then each line of a shell block that calls densecrf-rnn.
"""

import contextlib
import io
import re
import shlex
import warnings
from pathlib import Path

import pytest

from densecrf_rnn import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
PAGES = [page for page in PAGES if page.is_file() and page != ROOT / "docs" / "howto" / "index.md"]
if not PAGES:
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
MODULES = [
    "dask", "distributed", "monai", "nibabel", "rasterio", "segmentation_models_pytorch", "torch",
    "transformers",
]  # fmt: skip


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    code = "\n".join(blocks(page, "python"))
    assert code, f"{page.name} has no example"
    for module in MODULES:
        if re.search(rf"^(import|from) {module}\b", code, re.MULTILINE):
            pytest.importorskip(module, exc_type=Exception)
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.filterwarnings("error", category=UserWarning, module="page")
        exec(compile(code, str(page), "exec"), {"__name__": "page"})
    comments = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    promised = [value for comment in comments for value in comment.split(", then ")]
    found = printed.getvalue().splitlines()
    assert len(promised) == len(found)
    for line, wanted in zip(found, promised):
        # The home page says of a figure what it is.
        assert line == wanted or wanted.startswith(f"{float(line):.3f} of "), found


def commands(page):
    shell = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in shell.splitlines() if line.startswith("densecrf-rnn ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, tmp_path, monkeypatch):
    test_the_code_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch)
    for line in commands(page):
        assert cli.main(shlex.split(line)[1:]) == 0, line
    assert list(tmp_path.glob("refined*/*"))
