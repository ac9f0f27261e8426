"""Measure the page of `densecrf-rnn explore`: from a slider's event to the new picture.

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

STEPS = 15
AFTER = 'img[alt="labels after the CRF"]'
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# The picture has come when it is decoded and the next frame is drawn.
WATCH = """([after, name]) => {
    const slider = document.querySelector(`[data-slider="${name}"]`);
    window.seconds = [];
    let start = null;
    slider.addEventListener("input", () => { start = performance.now(); });
    document.querySelector(after).addEventListener("load", () => requestAnimationFrame(() => {
        if (start === null) return;
        window.seconds.push((performance.now() - start) / 1000);
        start = null;
    }));
    slider.focus();
}"""


@pytest.mark.parametrize("name, params", [("wide", WIDE), ("tight", TIGHT)])
@pytest.mark.parametrize("slider, key", [("w_spatial", "ArrowRight"), ("theta_beta", "ArrowLeft")])
def test_slider_to_picture(tmp_path, name, params, slider, key):
    """500 x 500 pixels, 21 labels, 5 iterations: each step sets another value.

    With another weight the lattices are kept, with another theta_beta one is built. It falls by a
    third, half of it above the bandwidth of the case and half below.
    """
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
    theta_beta = params.theta_beta * (1.023 ** (STEPS // 2) if slider == "theta_beta" else 1)
    words = ["explore", "a.npy", "a.image.npy", "--image-suffix", ".image", "--no-browser",
             "--port", port, "--iterations", 5, "--theta-alpha", params.theta_alpha,
             "--theta-beta", theta_beta, "--theta-gamma", params.theta_gamma]  # fmt: skip
    root = str(Path(__file__).parents[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "densecrf_rnn", *map(str, words)], cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        | {"PYTHONPATH": root}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        seconds = _steps(playwright, port, slider, key)
    finally:
        server.terminate()
        server.wait()
    _, info = refine(
        problem.logits, problem.image, params, iterations=5, labels=True, return_info=True
    )
    case = f"explore, {slider} to picture, 500x500 {name} L=21 T=5"
    row = Row(case, "page", 2, info.vertices[0], [1e3 * s for s in seconds])
    row.note = f"slowest {1e3 * max(seconds):.0f} ms"
    ROWS.append(row)


def _steps(playwright, port, slider, key):
    """Return the seconds from each step of a slider to the new picture."""
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
        page.evaluate(WATCH, [AFTER, slider])
        for step in range(STEPS):
            page.keyboard.press(key)
            page.wait_for_function("n => window.seconds.length > n", arg=step, polling=50)
        found = page.evaluate("window.seconds")
        browser.close()
    return found
