"""Ctrl-C and the end of the interpreter during native calls."""

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


HANDLER = """
def handler(number, frame):
    # float() lest it be computed when this is compiled
    print("handled" if float("5e-324") * 1.0 > 0 else "handled without subnormals", flush=True)
    mean_field(np.zeros((4, 9, 9), np.float32), np.zeros((9, 9, 3), np.uint8), threads=threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGINT, handler)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_of_ctrl_c_that_refines_leaves_ctrl_c_to_the_outer_call(threads):
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    code = SETUP.format(threads=threads) + HANDLER + MAIN.format(call=CALLS["mean_field"][1])
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(90, child.kill)
    killer.start()
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.0)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "handled\n"
        time.sleep(0.5)  # the outer call goes on
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "interrupted\nworks\n"
        assert child.wait() == 0
    finally:
        killer.cancel()
        child.kill()


DAEMONS = """
import threading, time
def work():
    features = rng.normal(size=(2000, 5)) * 10
    labels, tables = logits.argmax(0), np.zeros((2, 4, 4), np.float32)
    while True:
        {call}
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep({seconds})
"""
SHORT_CALLS = {
    "build": "PermutohedralLattice(features, threads=threads)",
    "filter": "PermutohedralLattice(features, threads=threads).filter(features)",
    "mean_field": "mean_field(logits[:, :90, :80], image[:90, :80], threads=threads)",
    "gibbs": "gibbs.sweep(logits, labels, tables, [(0, 1), (1, 0)], sweeps=1, threads=threads)",
}


@pytest.mark.parametrize("case", SHORT_CALLS)
def test_the_interpreter_exits_while_daemon_threads_are_in_native_calls(case):
    """Python ends such threads; before, the process aborted with "terminate called"."""
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    code = SETUP.format(threads=2) + "from densecrf_rnn import gibbs\n"
    for seconds in (0.2, 0.31):
        run = code + DAEMONS.format(call=SHORT_CALLS[case], seconds=seconds)
        child = subprocess.run([sys.executable, "-c", run], capture_output=True, timeout=90)
        assert (child.returncode, child.stderr) == (0, b"")
