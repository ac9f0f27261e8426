"""docs/knobs.md has every parameter, and its figures are those that its script computes."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest

from densecrf_rnn import CRFParams, available_backends, samples

DOCS = Path(__file__).parents[1] / "docs"
if not (DOCS / "make_knobs.py").is_file():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
pytest.importorskip("skimage")
spec = importlib.util.spec_from_file_location("make_knobs", DOCS / "make_knobs.py")
make_knobs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_knobs)
PAGE = (DOCS / "knobs.md").read_text(encoding="utf-8")


def test_every_parameter_has_a_strip():
    names = {field.name for field in fields(CRFParams)} | {"iterations", "temperature"}
    assert names <= set(make_knobs.KNOBS)
    for name, knob in make_knobs.KNOBS.items():
        assert f"## {knob.title}\n\n{knob.text}\n" in PAGE
        found = re.findall(rf"!\[[^]]+\]\(images/knobs/{name}_\d.webp\)", PAGE)
        assert len(found) == len(knob.shown)


@pytest.mark.skipif("cpu" not in available_backends(), reason="figures are of the native engine")
@pytest.mark.parametrize("name", ["theta_alpha", "temperature"])
@pytest.mark.filterwarnings("ignore:neighbouring pixels of image differ:UserWarning")
def test_the_figures_of_a_strip_are_computed(name):
    sample = samples.load(make_knobs.NAME)
    row = [make_knobs.score(sample, make_knobs.labels(sample, **setting))
           for _, setting in make_knobs.KNOBS[name].shown]  # fmt: skip
    section = PAGE.partition(f"## {make_knobs.KNOBS[name].title}")[2].partition("\n## ")[0]
    assert f"| IU | {' | '.join(row)} |" in section


def test_the_images_are_small():
    sizes = [path.stat().st_size for path in (DOCS / "images" / "knobs").iterdir()]
    assert len(sizes) > 50 and sum(sizes) < 1_000_000
