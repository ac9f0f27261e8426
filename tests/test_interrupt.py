"""Ctrl-C during a long native call: it ends soon, and the library works on."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from densecrf_rnn.engines import why_unavailable

SETUP = """
import signal
import numpy as np
from densecrf_rnn import CRFParams, PermutohedralLattice, mean_field
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
threads = {threads}
rng = np.random.default_rng(0)
logits = np.zeros((4, 600, 700), np.float32)
image = rng.integers(0, 256, (600, 700, 3)).astype(np.uint8)
"""
TORCH_SETUP = """
import torch
from densecrf_rnn.nn import CRFRNN
torch.set_num_threads(threads)
layer = CRFRNN(21)
logits = torch.zeros(2 * threads, 21, 200, 300, requires_grad=True)
image = torch.rand(2 * threads, 3, 200, 300) * 255
"""
MAIN = """
print("ready", flush=True)
try:
    while True:
        {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
small = mean_field(np.zeros((4, 9, 9), np.float32), np.zeros((9, 9, 3), np.uint8), threads=threads)
print("works" if np.isfinite(small).all() else "broken", flush=True)
"""
# What is set up, and a call that takes long.
CALLS = {
    "build": (
        "features = rng.normal(size=(4_000_000, 5)) * 100",
        "PermutohedralLattice(features, threads=threads)",
    ),
    "mean_field": ("", "mean_field(logits, image, iterations=100_000, threads=threads)"),
    "gibbs": (
        "from densecrf_rnn import gibbs\n"
        "labels, tables = logits.argmax(0), np.zeros((2, 4, 4), np.float32)",
        "gibbs.sweep(logits, labels, tables, [(0, 1), (1, 0)], sweeps=10**6, threads=threads)",
    ),
    "batch": (TORCH_SETUP + "layer.iterations = 100_000", "layer(logits.detach(), image)"),
    "backward": (
        TORCH_SETUP + "layer.iterations = 30; total = layer(logits, image).sum()",
        "total.backward(retain_graph=True)",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CALLS)
def test_interrupted_call_ends_within_a_second_and_the_next_one_works(case, threads):
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    setup, call = CALLS[case]
    if "torch" in setup and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code = SETUP.format(threads=threads) + setup + MAIN.format(call=call)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(90, child.kill)  # a call that does not notice would run for longer
    killer.start()
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.5)  # by now in the middle of it
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        # Not to the child's end: leaving an interpreter with torch in it takes most of a second.
        assert child.stdout.readline() == "interrupted\n"
        assert time.monotonic() - sent < 1.0
        rest = child.stdout.read()
        assert rest == "works\n"
        assert child.wait() == 0
    finally:
        killer.cancel()
        child.kill()
