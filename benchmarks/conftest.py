"""Prints the table of all benchmarks that ran."""

import pytest
from measure import ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Runs last."""
    if ROWS:
        title = "benchmarks: median [quartiles], vertices, speed relative to the first"
        terminalreporter.section(title)
        for row in ROWS:
            terminalreporter.write_line(row)
