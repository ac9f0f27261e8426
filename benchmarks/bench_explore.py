"""Measure the page of `densecrf-rnn explore`: from a click on a slider to the new picture.

    pytest benchmarks/bench_explore.py

Chromium and the server share the processors, as on a user's machine. Needs the extra `explore`,
playwright and Chromium.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from measure import ROWS, Row
from problems import TIGHT, WIDE, Problem

from densecrf_rnn import refine

CLICKS = 15
AFTER = 'img[alt="labels after the CRF"]'
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.parametrize("name, params", [("wide", WIDE), ("tight", TIGHT)])
def test_slider_to_picture(tmp_path, name, params):
    """500 x 500 pixels, 21 labels, 5 iterations: each click sets another w_spatial."""
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("nicegui")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    problem = Problem("astronaut", labels=21)
    np.save(tmp_path / "a.npy", problem.logits)
    np.save(tmp_path / "a.image.npy", problem.image)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["explore", "a.npy", "a.image.npy", "--image-suffix", ".image", "--no-browser",
             "--port", port, "--iterations", 5, "--theta-alpha", params.theta_alpha,
             "--theta-beta", params.theta_beta, "--theta-gamma", params.theta_gamma]  # fmt: skip
    root = str(Path(__file__).parents[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "densecrf_rnn", *map(str, words)], cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        | {"PYTHONPATH": root}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        seconds = _clicks(playwright, port)
    finally:
        server.terminate()
        server.wait()
    _, info = refine(
        problem.logits, problem.image, params, iterations=5, labels=True, return_info=True
    )
    case = f"explore, slider to picture, 500x500 {name} L=21 T=5"
    row = Row(case, "page", 2, info.vertices[0], [1e3 * s for s in seconds])
    row.note = f"slowest {1e3 * max(seconds):.0f} ms"
    ROWS.append(row)


def _clicks(playwright, port):
    """Return the seconds from each click to the new picture."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.3)
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector(AFTER + '[src^="data:"]')
        page.wait_for_timeout(2000)
        box = page.locator('[data-slider="w_spatial"]').bounding_box()
        found = []
        for click in range(CLICKS):
            before = page.get_attribute(AFTER, "src")
            start = time.perf_counter()
            at = box["x"] + (0.1 + 0.8 * click / CLICKS) * box["width"]
            page.mouse.click(at, box["y"] + box["height"] / 2)
            page.wait_for_function(
                f"before => document.querySelector('{AFTER}').src !== before", arg=before
            )
            found.append(time.perf_counter() - start)
        browser.close()
    return found
