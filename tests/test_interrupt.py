"""Ctrl-C during a long native call: it ends soon, and the library works on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from densecrf_rnn._backends import why_unavailable

CODE = """
import numpy as np
from densecrf_rnn import CRFParams, mean_field

logits = np.zeros((4, 600, 700), np.float32)
image = np.random.default_rng(0).integers(0, 256, (600, 700, 3)).astype(np.uint8)
print("ready", flush=True)
try:
    mean_field(logits, image, iterations=100_000, threads={threads})
except KeyboardInterrupt:
    print("interrupted", flush=True)
small = mean_field(logits[:, :9, :9], image[:9, :9], threads={threads})
print("works" if np.isfinite(small).all() else "broken", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupted_call_ends_within_a_second_and_the_next_one_works(threads):
    if why_unavailable("cpu") is not None:
        pytest.skip(why_unavailable("cpu"))
    code = CODE.format(threads=threads)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.5)  # by now in the middle of it
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=20)  # a call that does not notice would run for hours
        assert rest == "interrupted\nworks\n"
        assert time.monotonic() - sent < 2.0  # one for the interruption, one for the rest
        assert child.returncode == 0
    finally:
        child.kill()
