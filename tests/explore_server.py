"""A server of `densecrf-rnn explore`, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import densecrf_rnn


def started(folder):
    """A server with the samples, whose temporary files are in `folder`; also its port."""
    for package in ("nicegui", "torch", "skimage"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(Path(densecrf_rnn.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
           "TMPDIR": str(folder)}  # fmt: skip
    env.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI would believe that it is tested by its own means
    server = subprocess.Popen(
        [sys.executable, "-m", "densecrf_rnn", "explore", "--no-browser", "--port", str(port),
         "--out", str(folder / "saved")],
        cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        assert server.poll() is None, server.stderr.read()
        time.sleep(0.1)
    raise AssertionError("the server does not answer")


def ended(server, number=signal.SIGINT):
    """End a server by a signal; return its exit status."""
    server.send_signal(number)
    try:
        return server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        raise
