"""Every page has an example, the code of the pages runs, and it prints what it says.

The Python blocks of a page share their names and a folder of their own, which is empty at first. A
comment after `print(...)` says what is printed; a number may be followed by words. A block that
needs more says so to its readers in a comment, `# needs A, B and C`: packages that it does not
import itself, `a GPU`, `a download`, or a file that is written here in miniature (FILES). A block
whose needs are not there is left out, with the rest of its section.
"""

import ast
import contextlib
import importlib
import re
import shlex
import sys
import warnings

import numpy as np
import pages
import pytest

from densecrf_rnn import cli

if len(pages.GUIDES) < 2:
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
pytest.importorskip("skimage")
HOW_TO = [page for page in pages.GUIDES if page.parent.name == "howto"]
# Pages without an example of their own.
CONTENTS = {"docs/howto/index.md", "docs/reference/index.md"}  # the pages that they list have some
# Pages whose code needs data, which the test named here makes.
ELSEWHERE = {
    "docs/refinement.md": "test_refinement_page.py",
    "examples/body_parts/README.md": "test_example_body_parts.py",
    "examples/body_parts/results/large/README.md": "test_example_body_parts.py",
}


def weights_of_crfasrnn_pytorch(path):
    """Write a state_dict of random weights with the names of crfasrnn_pytorch."""
    import torch

    names = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
    torch.save({f"crfrnn.{name}": torch.randn(21, 21) for name in names}, path)


FILES = {"crfasrnn_weights.pth": weights_of_crfasrnn_pytorch}


def run(page, folder):
    """Run the Python blocks of a page that can run; return the reasons why others cannot."""
    names, printed, reasons = {"__name__": "page"}, {}, {}

    def show(*values, **_):
        text = " ".join(map(str, values))
        printed.setdefault(sys._getframe(1).f_lineno, []).append(text)

    names["print"] = show
    for block in pages.blocks(page, "python"):
        missing = []
        for need in pages.needs(block.text):
            if need in FILES:
                FILES[need](folder / need)
            elif reason := pages.why_not(need):
                missing.append(reason)
        if block.section in reasons or missing:
            reasons.setdefault(block.section, next(iter(missing), None))
            check_imports(block, page)
            continue
        # The lines of a traceback, and those of `printed`, are the page's.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=UserWarning, module="page|densecrf_rnn")
            exec(code, names)
    check_prints(page, printed)
    return [reason for reason in reasons.values() if reason]


def check_imports(block, page):
    """Check that what a block that cannot run imports from this package exists."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("densecrf_rnn"):
            with contextlib.suppress(ImportError):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {node.module}.{alias.name}"


def check_prints(page, printed):
    """Compare what each line printed with the comment that follows it."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if number in printed and (comment := re.search(r"print\(.*\)  # (.*)$", line)):
            wanted = comment[1].split(", then ")
            found = printed[number]
            assert len(found) == len(wanted), f"{page.name}:{number}: {found}"
            for text, want in zip(found, wanted, strict=True):
                assert agrees(text, want), f"{page.name}:{number} prints {text}, not {want}"


def agrees(text, want):
    """Return whether a text is what a comment says: the same, or its first number as rounded."""
    number = re.match(r"-?\d+(?:\.(\d+))?(?= )", want)
    if text == want or number is None:
        return text == want
    with contextlib.suppress(ValueError):
        return f"{float(text):.{len(number[1] or '')}f}" == number[0]
    return False


@pytest.mark.parametrize("page", pages.GUIDES, ids=pages.name)
def test_every_page_has_an_example_that_runs(page):
    name = pages.name(page)
    if name in ELSEWHERE:
        text = (pages.ROOT / "tests" / ELSEWHERE[name]).read_text(encoding="utf-8")
        assert page.name in text and page.parent.name in text
    elif name not in CONTENTS:
        code = [block.text for block in pages.blocks(page, "python")]
        assert any("a download" not in pages.needs(text) for text in code)


def test_pages_without_an_example_of_their_own_are_pages():
    assert CONTENTS | set(ELSEWHERE) <= set(map(pages.name, pages.GUIDES))


@pytest.mark.parametrize(
    "page", [page for page in pages.GUIDES if pages.name(page) not in ELSEWHERE], ids=pages.name
)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    reasons = run(page, tmp_path)
    if page in HOW_TO and not reasons:
        shell = [line for block in pages.blocks(page, "sh") for line in pages.lines(block)]
        commands = [line for line in shell if line.startswith("densecrf-rnn ")]
        for line in commands:  # Python made the files
            assert cli.main(shlex.split(line)[1:]) == 0, line
        assert not commands or list(tmp_path.glob("refined*/*"))
    if reasons:
        pytest.skip("; ".join(sorted(set(reasons))))


@pytest.mark.parametrize("text, want, found", [
    ("0.9749", "0.975 of the pixels", True), ("0.9743", "0.975 of the pixels", False),
    ("True", "True", True), ("True", "True, always", False), ("(2, 3)", "(2, 3)", True),
    ("0.5", "0.50", False), ("3", "3 labels", True), ("x", "3 labels", False),
])  # fmt: skip
def test_what_is_printed_is_compared_with_what_is_said(text, want, found):
    assert agrees(text, want) == found
