"""Every command on a page can be typed: programs, subcommands, options, tests and extras exist.

Commands are the lines of shell blocks, and code within sentences that begins with a program or with
a subcommand. Words in capitals, such as FOLDER, stand for values; within sentences arguments may be
missing.
"""

import argparse
import ast
import configparser
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache

import pages
import pytest

from densecrf_rnn import cli

ROOT = pages.ROOT
if len(pages.GUIDES) < 2:
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
# Programs that are not ours; of a shell script the path is checked.
OTHERS = {"cd", "cmake", "ctest", "gdal_edit.py", "nnUNetv2_predict", "sha256sum", "sphinx-build",
          "twine"}  # fmt: skip
PROGRAMS = {"densecrf-rnn", "python", "python3", "pip", "pytest", "torchrun", "bash", *OTHERS}
STUDY = "examples/body_parts/study.py"
MODULES = {"fcn8s": "examples/fcn8s/__main__.py", "tests.fuzz": "tests/fuzz/__main__.py"}
PYTEST = {"-k", "-m", "-n", "-q", "-v", "-x", "--collect-only"}


class Found(Exception):
    """Carries the parser of a script that was about to parse its arguments."""


@cache
def parser_of(path):
    """Return the parser of a script of the repository, which is run up to that point."""
    if path == "densecrf-rnn":
        return cli._parser(list(cli._COMMANDS))
    folder = (ROOT / path).parent
    source = (ROOT / path).read_text(encoding="utf-8")
    assert "parse_args(" in source, f"{path} takes no arguments"

    def parse_args(self, args=None, namespace=None):
        raise Found(self)

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [path])
        patch.syspath_prepend(str(ROOT))
        patch.syspath_prepend(str(folder))
        try:
            if path in MODULES.values():
                (module,) = (name for name, of in MODULES.items() if of == path)
                runpy.run_module(module, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / path), run_name="__main__")
        except Found as found:
            return found.args[0]
        except ImportError as error:
            pytest.skip(f"could not import '{error.name}': {path} needs it")
        finally:  # two scripts may have modules of one name
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if file.startswith(str(folder)):
                    del sys.modules[name]
    raise AssertionError(f"{path} has parsed no arguments")


def subparsers(parser):
    """Return the parsers of a parser's subcommands by their names."""
    found = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return found[0].choices if found else {}


def options_of(parser):
    """Return the options of a parser and of its subcommands."""
    own = set(parser._option_string_actions)
    return own.union(*(options_of(one) for one in subparsers(parser).values()))


def check_arguments(path, words, complete):
    """Check the words that follow a program."""
    parser = parser_of(path)
    if words and words[0] in subparsers(parser):
        parser, words = subparsers(parser)[words[0]], words[1:]
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    assert given <= options_of(parser), f"there is no {given - options_of(parser)}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            parser.parse_args(words)
    except SystemExit as end:
        said = printed.getvalue()
        words_for_values = [word for word in words if re.fullmatch("[A-Z]+", word)]
        missing = not complete and re.search(r"are required|expected \w+ (\w+ )*argument", said)
        known = missing or any(f"'{word}'" in said for word in words_for_values)
        assert end.code == 0 or known, said


@cache
def extras():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    return set(metadata["options.extras_require"])


def check_pip(words):
    """Check the extras and files that pip is asked for."""
    for word in words:
        if found := re.search(r"^(?:\.|densecrf-rnn)\[([\w,-]+)\]$", word):
            assert set(found[1].split(",")) <= extras(), word
        assert not word.endswith(".txt") or (ROOT / word).is_file(), word


@cache
def benchmarks():
    """Return the ids of all benchmarks."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "benchmarks"], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    return [line for line in done.stdout.splitlines() if "::" in line]


def selects(expression, test):
    """Return whether `-k expression` takes a test, by parts of its id."""
    def present(word):
        return word[0] if word[0] in ("and", "or", "not") else str(word[0].lower() in test.lower())

    return eval(re.sub(r"[\w.-]+", present, expression))  # words became True and False


@cache
def pytest_options():
    """Return the options of pytest that pages use, and those that the benchmarks add."""
    conftest = (ROOT / "benchmarks" / "conftest.py").read_text(encoding="utf-8")
    return PYTEST | set(re.findall(r'addoption\("(--[\w-]+)"', conftest))


def check_pytest(words):
    """Check the files and options that pytest is given; return the files and the value of -k."""
    paths, expression, rest = [], None, iter(words)
    for word in rest:
        option, _, value = word.partition("=")
        if option.startswith("-"):
            assert option in pytest_options(), f"pytest has no {option}"
            if option not in ("-q", "-v", "-x", "--collect-only"):
                value = value or next(rest)
            expression = value if option == "-k" else expression
        else:
            assert (ROOT / word).exists(), word
            paths.append(word.rstrip("/"))
    return tuple(paths), expression


def check(words, complete=True):
    """Check a command that was split into words."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, *words = [word.removeprefix(".venv/bin/") for word in words]
    if program in ("python", "python3", "torchrun") and "-m" in words:
        module, *words = words[words.index("-m") + 1 :]
        if module == "pytest":
            check_pytest(words)
        if module in ("venv", "pytest"):
            return None
        path = ROOT.joinpath(*module.split("."))
        path = path if module not in MODULES else (ROOT / MODULES[module]).parent
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"there is no module {module}"
        return check_arguments(MODULES[module], words, complete) if module in MODULES else None
    if program in ("python", "python3"):
        path, *words = words
        assert (ROOT / path).is_file(), path
        return check_arguments(path, words, complete)
    if program == "densecrf-rnn":
        assert not words or words[0] in subparsers(parser_of(program)), words[0]
        return check_arguments(program, words, complete) if words else None
    if program == "study.py":
        return check_arguments(STUDY, words, complete)
    if program in ("pip", "pytest"):
        (check_pip if program == "pip" else check_pytest)(words)
        return None
    path = words[0] if program == "bash" else program
    assert path in OTHERS or (ROOT / path).is_file(), f"what is {path}?"
    if path.endswith("fuzz/sanitized.sh"):  # the rest is for tests.fuzz
        check_arguments(MODULES["tests.fuzz"], words[1:], complete)
    return None


def split(line):
    """Return the words of each command of a line, without redirections and brackets."""
    words = shlex.split(re.sub(r"(?<=\s)\[([^]]+)\](?=\s|$)", r"\1", line), comments=True)
    words = [word for word in words if word != "..."]
    found = [[]]
    for word in words:
        if word in ("&&", "|", ">"):
            found.append([])
        else:
            found[-1].append(word)
    # A file follows ">".
    files = {i for i, word in enumerate(w for w in words if w in ("&&", "|", ">")) if word == ">"}
    return [each for i, each in enumerate(found) if each and i - 1 not in files]


def begins(words):
    """Return whether words begin with a program, and not only with the name of a file."""
    name = words[0].removeprefix(".venv/bin/")
    return name in PROGRAMS or name == "study.py" or (name.endswith(".sh") and len(words) > 1)


def lines(page):
    """Return the commands of a page's blocks, of those that are indented, too."""
    shell = [line for block in pages.blocks(page, "sh") for line in pages.lines(block)]
    text = [line for block in pages.blocks(page, "text") for line in pages.lines(block)]
    text += re.findall(r"^ {4}(\S.*)", pages.prose(page).replace("\\\n", " "), re.MULTILINE)
    return shell + [line for line in text if line.split()[0] in PROGRAMS]


def inline(page):
    """Return the code within a page's sentences that may be a command."""
    found = []
    for code in pages.spans(page):
        with contextlib.suppress(ValueError):  # code with a single quote
            found.append(split(code))
    return [command for commands in found for command in commands]


SCRIPTS = sorted(path for folder in ("benchmarks", "docs", "examples") for path in
                 (ROOT / folder).rglob("*.py"))  # fmt: skip
WITH_COMMANDS = [page for page in pages.PAGES if lines(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=pages.name)
def test_the_commands_of_a_page_can_be_typed(page):
    for line in lines(page):
        for words in split(line):
            check(words)


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_commands_within_the_sentences_of_a_page_can_be_typed(page):
    for words in filter(begins, inline(page)):
        check(words, complete=False)


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_subcommands_and_options_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    programs = ["densecrf-rnn", STUDY, *(p for name, p in MODULES.items() if f"-m {name}" in text)]
    programs += [path for path in sorted(set(re.findall(r"(?:benchmarks|examples)/\w+\.py", text)))
                 if "parse_args(" in (ROOT / path).read_text(encoding="utf-8")]  # fmt: skip
    for words in inline(page):
        named = {word.split("=")[0] for word in words if word.startswith("--")}
        if begins(words) or not named:
            continue
        every = [parser_of(path) for path in programs]
        takers = [subparsers(one)[words[0]] for one in every if words[0] in subparsers(one)]
        known = [options_of(one) for one in takers or every] + [pytest_options()] * (not takers)
        assert any(named <= options for options in known), " ".join(words)


@pytest.mark.parametrize("path", SCRIPTS, ids=pages.name)
def test_commands_in_the_docstring_of_a_script_can_be_typed(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    for line in re.findall(r"^ {4}(\S.*)", text.replace("\\\n", " "), re.MULTILINE):
        for words in split(line):
            if begins(words):
                check(words)


def test_expressions_of_pytest_select_benchmarks():
    found = 0
    for page in pages.PAGES:
        for words in filter(begins, [*inline(page), *sum(map(split, lines(page)), [])]):
            paths, expression = check_pytest(words[1:]) if words[0] == "pytest" else ((), None)
            if expression:
                found += 1
                taken = [t for t in benchmarks() if t.startswith(paths) and selects(expression, t)]
                assert taken, f"{pages.name(page)}: {' '.join(words)}"
    assert found > 8 and not selects("large or (150 and wide)", "bench.py::test[150-tight]")


def test_names_for_the_build_and_the_environment_exist():
    folders = [ROOT / folder for folder in ("densecrf_rnn", "cpp", "tests", "benchmarks")]
    sources = [path for folder in folders for path in folder.rglob("*")
               if path.suffix in (".py", ".cpp", ".hpp", ".sh") and path.is_file()]  # fmt: skip
    sources.append(ROOT / "CMakeLists.txt")
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sources)
    for page in pages.PAGES:
        for name in re.findall(r"\bDENSECRF_\w+", page.read_text(encoding="utf-8")):
            assert name in text, f"{pages.name(page)}: {name}"


@pytest.mark.parametrize("line, message", [
    ("densecrf-rnn refin a b --out c", "refin"),
    ("densecrf-rnn refine a b --output c", "there is no {'--output'}"),
    ("densecrf-rnn refine a --out c", "required"),
    ("python -m fcn8s table1 --recipe tiny --data D --out O", "invalid choice: 'tiny'"),
    ("python benchmarks/gone.py", "gone.py"),
    ("pip install '.[everything]'", "everything"),
    ("pytest benchmarks/bench_gone.py", "bench_gone.py"),
    ("pytest benchmarks/ --result a.json", "pytest has no --result"),
    ("bash .ci/gone", "what is .ci/gone?"),
    ("frobnicate", "what is frobnicate?"),
])  # fmt: skip
def test_a_command_that_cannot_be_typed_is_noticed(line, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check(split(line)[0])


def test_pages_with_commands_are_found():
    assert len(WITH_COMMANDS) > 10
    assert importlib.util.find_spec("fcn8s")
