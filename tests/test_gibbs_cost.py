"""The plot of Gibbs sweeps is drawn from the committed rows, and they grow as the page says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "gibbs_axes.json"
if not RESULTS.is_file():
    pytest.skip("benchmarks/ is not here", allow_module_level=True)
pytest.importorskip("matplotlib")


def plot(results, image):
    command = [sys.executable, str(BENCHMARKS / "plot_gibbs.py"), str(results), str(image)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_plot_has_three_axes(tmp_path):
    done = plot(RESULTS, tmp_path / "deep" / "plot.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deep" / "plot.png").stat().st_size > 5000


def test_rows_that_are_missing_are_named(tmp_path):
    found = json.loads(RESULTS.read_text())
    found["rows"] = [row for row in found["rows"] if not row["case"].endswith("labels")]
    (tmp_path / "rows.json").write_text(json.dumps(found))
    done = plot(tmp_path / "rows.json", tmp_path / "plot.png")
    assert done.returncode == 1 and "lacks rows of labels" in done.stderr
    assert not (tmp_path / "plot.png").exists()


def test_the_page_says_what_was_measured():
    page = BENCHMARKS.parent / "docs" / "gibbs.md"
    if not page.is_file():
        pytest.skip("the documents are not installed with the package")
    found = json.loads(RESULTS.read_text())
    # Nanoseconds per pixel and sweep by axis and value.
    ns = {tuple(row["case"].split()[-2:][::-1]): float(row["note"].split()[0])
          for row in found["rows"]}  # fmt: skip
    first, most = ns["offsets", "4"], ns["offsets", "220"]
    text = " ".join(page.read_text(encoding="utf-8").split())
    for sentence in (
        f"{first:.0f} ns with the 4 offsets of distance 1, and {(most - first) / 216:.1f} ns more",
        f"From 32 to 64 labels it grows {ns['labels', '64'] / ns['labels', '32']:.0f} times, "
        "from 64 to 128 it doubles",
        f"two-core {found['machine']['processor'].split(',')[0]} virtual machine",
    ):
        assert sentence in text
    each_label = [ns["labels", value] / int(value) for value in ("64", "128")]
    assert each_label[0] == pytest.approx(each_label[1], rel=0.1)  # "doubles"


def test_the_table_of_sweeps_is_what_was_measured():
    page = BENCHMARKS.parent / "docs" / "gibbs.md"
    if not page.is_file():
        pytest.skip("the documents are not installed with the package")
    found = json.loads((BENCHMARKS / "results" / "gibbs_sweeps.json").read_text())
    speed, text = {}, page.read_text(encoding="utf-8")
    for row in found["rows"]:
        name = row["case"].removeprefix("50 Gibbs sweeps ").replace("x", " x ", 1)
        speed[name, row["who"], row["threads"]] = float(row["note"].split()[0])
    plain, ours = "a plain Numba sweep", "ours"
    for name in sorted({key[0] for key in speed if "Gibbs sweep" not in key[0]}):
        peer, one, two = (speed[name, *key] for key in ((plain, 1), (ours, 1), (ours, 2)))
        cells = f"{peer:.1f} | {one:.1f} ({one / peer:.1f} x) | {two:.1f} ({two / one:.1f} x"
        assert f"| {name} | {cells}" in text
        assert one / peer >= 5 and two / one >= 1.8  # the targets that performance.md names
    alone = "a Gibbs sweep 60 x 80, 20 labels, 12 classes"
    ratio = speed[alone, ours, 1] / speed[alone, "NumPy reference", 1]
    assert f"{ratio:.0f} times as fast as\nby the NumPy" in text
    assert speed[alone, ours, 1] / speed[alone, plain, 1] == pytest.approx(2, rel=0.1)
