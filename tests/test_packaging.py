"""What the files around the package say about one another: metadata, wheels, cross builds."""

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="the source tree is not here"
)


def text(*names):
    return ROOT.joinpath(*names).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read_string(text("setup.cfg"))
    return parser


def packages(setup, extra):
    """Names of the packages of an extra, and of the extras that it names."""
    found = set()
    for line in setup["options.extras_require"][extra].split():
        of_ours = re.fullmatch(r"densecrf-rnn\[(.*)\]", line)
        if of_ours:
            for other in of_ours[1].split(","):
                found |= packages(setup, other)
        else:
            found.add(re.match(r"[\w-]+", line)[0].lower())
    return found


def test_all_has_no_test_tools_and_dev_has_them(setup):
    tools = {"pytest", "pytest-xdist", "hypothesis", "flake8", "mypy"}
    assert not packages(setup, "all") & tools
    assert packages(setup, "all") | tools <= packages(setup, "dev")


def test_the_first_command_of_the_readme_installs_all_and_the_second_dev():
    commands = re.findall(r"pip install .*'\.\[(\w+)\]' && (\S+)", text("README.md"))
    assert [extra for extra, _ in commands] == ["all", "dev"]


def test_every_extra_is_named_in_the_readme(setup):
    extras = set(setup["options.extras_require"]) - {"bench", "fuzz", "lint", "docs", "test"}
    install = text("README.md").split("## Install")[1].split("## More")[0]
    named = set(re.findall(r"`(\w+)`", install)) | set(re.findall(r"'\.\[(\w+)\]'", install))
    assert extras <= named


def test_wheels_are_built_for_the_pythons_that_the_classifiers_name(setup):
    classified = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    built = re.findall(r'"cp3(\d+)-\*"', text("pyproject.toml"))
    assert classified == [f"3.{minor}" for minor in built]
    assert setup["options"]["python_requires"] == f">={classified[0]}"


def test_systems_that_the_classifiers_name_are_those_that_were_tried(setup):
    systems = re.findall(r"Operating System :: (.*)", setup["metadata"]["classifiers"])
    assert systems == ["POSIX :: Linux"]  # README.md, "Install", says what else was tried


def test_citation_has_the_version_of_the_package_and_papers_of_the_document(setup):
    citation = text("CITATION.cff")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == setup["metadata"]["version"]
    titles = re.findall(r"^    title: (.*)$", citation, re.MULTILINE)
    document = re.sub(r"\s+", " ", text("docs", "math.md"))
    assert len(titles) == 4
    assert [title for title in titles if f"*{title}*" not in document] == []


def test_metadata_names_the_licence_of_all_that_a_wheel_holds(setup):
    files = setup["metadata"]["license_files"].split()
    held = [path for path in ROOT.glob("densecrf_rnn/**/LICENSE*")]
    assert held and {path.relative_to(ROOT).as_posix() for path in held} < set(files)
    assert "densecrf_rnn/samples/README.md" in files  # the terms of the photographs
    names = setup["metadata"]["license_expression"].split(" AND ")
    assert names[:2] == ["MIT", "Apache-2.0"] and "MIT License" in text("LICENSE")
    assert "Apache License" in text("densecrf_rnn", "samples", "LICENSE.deeplabv3_mnv2")


def test_the_source_distribution_takes_what_the_documents_link_to():
    manifest = text("MANIFEST.in").split()
    for name in ("CITATION.cff", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci"):
        assert name in manifest and (ROOT / name).exists()


def test_tests_of_the_wheel_exist():
    source = text(".ci", "test_wheel.py")
    named = re.findall(r'"(test_\w+\.py)"', source.split("TESTS = [")[1].split("]")[0])
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


TARGETS = sorted(path.stem for path in (ROOT / ".ci" / "cross").glob("*.cmake"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_log_of_a_cross_build_says_that_all_tests_passed(target):
    log = text(".ci", "cross", f"{target}.txt")
    assert "compiled without a warning of -Wall -Wextra -Wpedantic" in log
    assert re.search(r"\b\d\d native tests passed$", log, re.MULTILINE)
    assert "100% tests passed" in log


def test_the_log_of_the_wheel_says_that_all_tests_passed():
    log = text(".ci", "wheel.txt")
    assert re.search(r"^repaired: densecrf_rnn-.*-manylinux_\d+_\d+_x86_64\.whl", log, re.MULTILINE)
    assert re.search(r"^\d+ passed", log, re.MULTILINE) and "failed" not in log


def test_the_log_of_the_integrations_has_every_file_that_the_script_runs():
    log = text(".ci", "integration.txt")
    named = re.findall(r"tests/\w+(?:\.py)?", text(".ci", "integration").split("tests=(")[1])
    files = set(named) - {"tests/integration"}
    files |= {f"tests/integration/{path.name}" for path in ROOT.glob("tests/integration/test_*.py")}
    assert len(files) > 10
    assert {name for name in files if f"\n{name}::" not in log} == set()
    assert re.search(r"^=+ \d+ passed", log, re.MULTILINE) and "FAILED" not in log


SCRIPTS = [".ci/run", ".ci/wheel", ".ci/integration", ".ci/cross/run", "tests/fuzz/sanitized.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_step_of_a_script_can_fail_unseen(script):
    """`set -e` ignores what fails inside `a && b`, `<(a)` and, without pipefail, `a | b`."""
    source = text(script)
    assert re.search("^set -euo pipefail$|^set -eu$", source, re.MULTILINE)
    lines = [line.split(" #")[0] for line in source.splitlines() if line.strip()[:1] != "#"]
    joined = re.sub(r"(&&|\||\\|{)\s*\n\s*", r"\1 ", "\n".join(lines))
    joined = re.sub(r"\n\}", "; }", joined)  # a list in braces and what follows it, in one line
    joined = re.sub(r"\$\([^()]*\)", "", joined)
    for line in map(str.strip, joined.splitlines()):
        assert "<(" not in line, line
        if "&&" in line and not re.match(r"(if|elif|while|\() ?", line):
            assert "||" in line.rsplit("&&", 1)[1], line


@pytest.mark.parametrize("left", [
    "study.cpython-311.pyc", "study.pyo", "depth_steps.sweep-25.py311.nbi",
    "depth_steps.sweep-25.py311.1.nbc", "_cpu.cpython-311-x86_64-linux-gnu.so", "_cpu.pyd",
])  # fmt: skip
def test_what_a_run_leaves_beside_the_source_stays_out_of_an_sdist(left):
    [patterns] = re.findall(r"^global-exclude (.*)$", text("MANIFEST.in"), re.MULTILINE)
    assert any(fnmatch(left, pattern) for pattern in patterns.split())
