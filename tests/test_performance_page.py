"""The tables of docs/performance.md and the one of README are those of their results files."""

import importlib
import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "results"
if not PAGE.is_file() or not RESULTS.is_dir():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")
WHO = {"before": "before", "exact": "now, exact", "prune 1e-3": "now, prune 0.001",
       "prune 1e-4": "now, prune 0.0001", "pydensecrf": "pydensecrf"}  # fmt: skip


@pytest.fixture
def table(monkeypatch):
    """The script that writes the tables."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("table")


@pytest.fixture(scope="module")
def medians():
    """Median milliseconds of speed.json by case, program and threads."""
    rows = json.loads((RESULTS / "speed.json").read_text())["rows"]
    return {
        (row["case"], row["who"], row["threads"]): statistics.median(row["milliseconds"])
        for row in rows
    }


def case_of(data, theta, labels):
    name = {"80/13": "wide", "160/3": "tight"}.get(theta, theta)
    return f"{data} {name} L={labels} T=5"


def test_tables_are_those_of_the_results(table):
    results = json.loads((RESULTS / "benchmarks.json").read_text())
    between = TEXT.split(table.BEGIN)[1].split(table.END)[0]
    assert between.strip() == table.tables(results)


def test_each_target_names_a_case_that_is_measured(table):
    """But for those of the folder, which the full command alone measures."""
    rows = json.loads((RESULTS / "benchmarks.json").read_text())["rows"]
    cases = {row["case"] for row in rows}
    named = {target.case for target in table.TARGETS}
    assert {case for case in named - cases if not case.startswith("folder")} == set()


def test_milliseconds_per_picture_are_those_that_were_measured(medians):
    part = next(p for p in TEXT.split("\n\n") if p.startswith("| | before | exact |"))
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")]
                       for line in part.splitlines())  # fmt: skip
    assert len(lines) == 12
    for name, *cells in lines:
        data, labels, theta = re.fullmatch(r"(\w+), L = (\d+), (.*)", name).groups()
        for column, cell in zip(head[1:], cells, strict=True):
            if cell != "-":
                measured = medians[case_of(data, theta, labels), WHO[column], 1]
                assert float(cell) == pytest.approx(measured, abs=1), (name, column)


def test_table_of_the_readme_is_what_was_measured(medians):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"\| theta_alpha (\d+), theta_beta (\d+) .*", readme)
    assert len(lines) == 2
    for alpha, beta in lines:
        line = next(x for x in readme.splitlines() if x.startswith(f"| theta_alpha {alpha}, "))
        shown = [float(cell) for cell in re.findall(r"(\d+) ms", line)]
        case = case_of("photographs", f"{alpha}/{beta}", 21)
        measured = [
            medians[case, "pydensecrf", 1], medians[case, "now, exact", 1],
            medians[f"{case}, two threads", "now, two threads", 2],
            medians[case, "now, prune 0.001", 1],
        ]  # fmt: skip
        assert shown == pytest.approx(measured, abs=1)
