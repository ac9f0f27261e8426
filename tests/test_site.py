"""The documentation site is built without a warning and has every public name and option.

`.ci/run` installs the extra `docs`; where Sphinx is not installed these tests are skipped.
"""

import argparse
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from densecrf_rnn import cli

ROOT = Path(__file__).parents[1]
# The modules whose `__all__` are the public names; those that only collect modules are not listed.
MODULES = [
    "densecrf_rnn", "densecrf_rnn.compat", "densecrf_rnn.compat.monai",
    "densecrf_rnn.compat.pydensecrf", "densecrf_rnn.energy", "densecrf_rnn.files",
    "densecrf_rnn.gibbs", "densecrf_rnn.kernels", "densecrf_rnn.metrics", "densecrf_rnn.nn",
    "densecrf_rnn.nn.functional", "densecrf_rnn.nn.losses", "densecrf_rnn.nn.sample_network",
    "densecrf_rnn.nn.tuning",
    "densecrf_rnn.onnx_runtime", "densecrf_rnn.postprocess", "densecrf_rnn.samples",
    "densecrf_rnn.tiles", "densecrf_rnn.tuning", "densecrf_rnn.unaries", "densecrf_rnn.upsampling",
]  # fmt: skip
# Names in `__all__` that are modules, and names that the reference has elsewhere.
ELSEWHERE = {
    "densecrf_rnn.nn.functional", "densecrf_rnn.nn.losses", "densecrf_rnn.compat.pydensecrf.utils",
    "densecrf_rnn.compat.pydensecrf.densecrf",
}  # fmt: skip
SAME = {
    "densecrf_rnn.CRFRNN": "densecrf_rnn.nn.CRFRNN",
    "densecrf_rnn.GibbsCRF": "densecrf_rnn.nn.GibbsCRF",
    "densecrf_rnn.tiles.refine_tiled": "densecrf_rnn.refine_tiled",
}


def public_names(module):
    """Full names that a module lists in `__all__`, read from its source, as it may not import."""
    path = ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    lists = re.findall(r"^\s*__all__ \+?= (\[.*?\])", source, re.DOTALL | re.MULTILINE)
    assert lists, f"{module} has no __all__"
    return [f"{module}.{name}" for found in lists for name in re.findall(r'"(\w+)"', found)]


class Page(HTMLParser):
    """What a built page holds: anchors, links, and images with their texts."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.images = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img":
            self.images.append((found["src"], found.get("alt") or ""))
            self.links.append(found["src"])


@pytest.fixture(scope="module")
def site():
    """The folder of the built site; a warning of Sphinx, such as a broken link, is an error."""
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    if not (ROOT / "docs" / "conf.py").is_file():
        pytest.skip("the documents are not installed with the package")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # they must not write one site
    folder, trees = (ROOT / "build" / f"{name}{worker}" for name in ("site", "doctrees"))
    # All pages are read again: Sphinx says nothing of a page that it has kept from an earlier call.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "--fresh-env"]
    done = subprocess.run(
        [*command, "-d", str(trees), str(ROOT / "docs"), str(folder)],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def reference(site):
    """Every name that the reference explains."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def test_every_public_name_is_in_the_reference(reference):
    names = {SAME.get(name, name) for module in MODULES for name in public_names(module)}
    assert len(names) > 150 and sorted(names - ELSEWHERE - reference) == []


def test_every_module_with_public_names_is_listed():
    found = set()
    for path in (ROOT / "densecrf_rnn").rglob("*.py"):
        if re.search(r"^\s*__all__ ", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    # Inside: engines and checks. At the root: what these modules have is in densecrf_rnn.__all__.
    inside = {"checks", "engines", "nn.gibbs", "nn.torch_engine"}
    at_the_root = {"distributed", "lattice", "params"}
    assert found - set(MODULES) == {f"densecrf_rnn.{name}" for name in inside | at_the_root}


def test_every_option_of_the_command_line_is_documented(site):
    text = (site / "generated" / "commands.html").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    names = list(cli._COMMANDS)
    (commands,) = (
        a for a in cli._parser(names)._actions if isinstance(a, argparse._SubParsersAction)
    )
    for name in names:
        assert f"densecrf-rnn {name}" in text
        for action in commands.choices[name]._actions:
            assert action.help is argparse.SUPPRESS or set(action.option_strings) <= shown
            assert action.help, f"{name} {action.option_strings} has no help"


def test_links_lead_somewhere_and_images_have_a_text(site):
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 25
    for path, page in pages.items():
        if "_modules" in path.parts or path.name == "py-modindex.html":  # Sphinx's own
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert aim.exists(), f"{path.name}: {link}"
            if parts.fragment and aim in pages and "_modules" not in aim.parts:
                assert unquote(parts.fragment) in pages[aim].anchors, f"{path.name}: {link}"
        assert [src for src, alt in page.images if len(alt) < 10] == [], path.name
