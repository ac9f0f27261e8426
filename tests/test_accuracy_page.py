"""The tables of docs/accuracy.md are those of its results, of which a part is measured again."""

import importlib
import json
import re
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "accuracy.md", ROOT / "benchmarks" / "results"
if not PAGE.is_file() or not RESULTS.is_dir():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")
QUALITIES = ("standard", "symmetric", "filled")


def rows(file):
    """Return the vertices and the numbers of the note of each row, by its case and program."""
    return {
        (row["case"], row["who"]): (row["vertices"], re.findall(r"\d+\.\d+", row["note"] or ""))
        for row in json.loads((RESULTS / file).read_text())["rows"]
    }


def cells(head):
    """Return the table with a row that begins with `head`: other cells by the first of each row."""
    table = next(part for part in TEXT.split("\n\n") if f"\n| {head}" in part and "|---" in part)
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {name.strip(): each for name, *each in lines}


def agree(shown, *measured):
    """Check the numbers of a cell against measured ones; both were rounded."""
    found = re.findall(r"\d+\.\d+", shown)
    assert len(found) == len(measured), shown
    for text, value in zip(found, measured, strict=True):
        ends = sum(0.5 * 10.0 ** -len(number.partition(".")[2]) for number in (text, value))
        assert abs(float(text) - float(value)) <= ends + 1e-12, f"{shown}: measured {value}"


def test_errors_of_the_filter_are_those_that_were_measured():
    found = rows("accuracy.json")
    table = cells("bilateral 160/3")
    assert len(table) == 5
    for name, row in table.items():
        kernel = name.removesuffix(", lattice")
        notes = [found[f"filter error, {kernel}", quality][1] for quality in QUALITIES]
        for cell, (error, worst, _) in zip(row, notes):
            agree(cell, error, *([worst] if "bilateral" in kernel else []))
        agree(row[3], notes[0][2])
        agree(row[4], notes[2][2])


def test_errors_of_the_grid_are_those_that_were_measured():
    found = rows("accuracy.json")
    table = cells("spatial 6")
    assert len(table) == 3
    for name, (error, mass, count) in table.items():
        vertices, note = found[f"filter error, {name}", "grid"]
        agree(error, note[0])
        agree(mass, note[1])
        assert count.replace(",", "").startswith(str(vertices))


def test_vertices_are_those_that_were_measured():
    found = rows("accuracy.json")
    table = cells("a crop")
    assert len(table) == 3
    for name, row in table.items():
        kernel = f"bilateral {name.rsplit(', ', 1)[1]}"
        crop = name.startswith("a crop")
        case = f"filter error, {kernel}" if crop else f"astronaut 500x500, float32, {kernel}"
        counts = [found[case, quality][0] for quality in QUALITIES[::2]]
        assert [int(cell.strip().replace(",", "")) for cell in row] == counts


def test_error_of_larger_cells_is_what_was_measured():
    found = rows("accuracy.json")
    (fewer, (error, _)), (cells_now, _) = (
        found["filter error, spatial 3", who] for who in ("grid, cells of 1 bandwidths", "grid"))
    assert f"grid's error (to {error} for theta 3) and need a third fewer cells" in " ".join(
        TEXT.split())  # fmt: skip
    assert fewer / cells_now == pytest.approx(2 / 3, rel=0.1)


def test_times_of_the_exact_method_are_those_that_were_measured():
    results = json.loads((RESULTS / "accuracy_exact.json").read_text())
    seconds = [f"{statistics.median(row['milliseconds']) / 1e3:.1f} s" for row in results["rows"]
               if row["case"] == "exact mean field 94x125, 160/3, L=21 T=5"]  # fmt: skip
    text = " ".join(TEXT.split())
    assert f"a forward pass took {seconds[0]}" in text
    assert f"with respect to the image, another {seconds[1]}" in text
    assert results["machine"]["processor"].split(",")[0] in text


def test_errors_of_mean_fields_are_those_that_were_measured():
    found = rows("accuracy.json")
    table = cells('160/3, "after"')
    assert len(table) == 4
    filters = ["lattice, standard", *(f"grid, {quality}" for quality in QUALITIES)]
    for name, row in table.items():
        bandwidths, normalization = name.replace('"', "").split(", ")
        for cell, who in zip(row, filters, strict=True):
            _, (differ, distance) = found[f"label error, {bandwidths}, {normalization}", who]
            agree(cell, differ, distance)


def test_errors_of_gradients_are_those_that_were_measured():
    found = rows("accuracy_exact.json")
    table = cells("30/5, w_bilateral 3")
    assert len(table) == 3
    for name, row in table.items():
        for cell, quality in zip(row, QUALITIES, strict=True):
            _, note = found[f"photograph, {name.split(',')[0]}", f"grid, {quality}"]
            agree(cell, *note)


def test_results_are_what_the_benchmark_measures_now(monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = importlib.import_module("bench_accuracy")
    measure = sys.modules["measure"]
    found = rows("accuracy.json")
    before = len(measure.ROWS)
    with pytest.MonkeyPatch.context() as cells_of_one_bandwidth:
        bench.test_grid_error(3.0, 1.0, cells_of_one_bandwidth)
    bench.test_grid_error(3.0, None, None)
    bench.test_vertices_of_a_photograph("bilateral 80/13", "standard")
    bench.test_filter_error("bilateral 20/13", "standard")
    measured = measure.ROWS[before:]
    del measure.ROWS[before:]
    assert len(measured) == 4
    for row in measured:
        vertices, note = found[row.case, row.who]
        assert row.vertices == vertices
        numbers = map(float, re.findall(r"\d+\.\d+", row.note or ""))
        assert list(numbers) == pytest.approx(list(map(float, note)), rel=0.01)


def test_a_figure_that_was_not_measured_is_noticed():
    agree("0.053 (0.062)", "0.0534", "0.0619")
    for shown, measured in (("0.053", ["0.0541"]), ("0.053", ["0.053", "0.06"])):
        with pytest.raises(AssertionError):
            agree(shown, *measured)
