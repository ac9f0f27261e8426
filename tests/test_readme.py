"""The README's promises that a machine can check."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
USAGE = (ROOT / "docs" / "usage.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_has_exactly_two_commands_to_set_up_and_run():
    ends = [block.strip().rsplit("/", 1)[1] for block in blocks("sh")]
    assert ends == ["densecrf-rnn demo", "python -m pytest -n auto"]


def test_ci_calls_the_test_command_of_the_readme():
    assert blocks("sh")[1].strip() in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("block", blocks("python") + blocks("python", USAGE))
def test_python_in_the_readme_and_the_guide_runs_and_prints_what_it_says(block, capsys):
    if "import torch" in block:
        pytest.importorskip("torch")
    if "samples" in block:
        pytest.importorskip("skimage")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # which this package's warnings are
        exec(compile(block, "README.md", "exec"), {})
    promised = re.findall(r"print\(.*\)  # (0\.\d+)", block)
    printed = [f"{float(line):.3f}" for line in capsys.readouterr().out.split()]
    assert printed == promised


def test_files_that_the_documents_link_to_exist():
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "generated"]
    for document in [ROOT / "README.md", *pages]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_tests_that_the_documents_name_exist():
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    for document in (ROOT / "docs").glob("*.md"):
        named = set(re.findall(r"`(test_\w+)`", document.read_text()))
        assert named <= defined, f"{document.name}: {named - defined}"
