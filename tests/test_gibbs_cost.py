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
