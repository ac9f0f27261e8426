"""`densecrf-rnn explore`: a server in a process of its own, or what would be served."""

import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import environment

from densecrf_rnn import files
from densecrf_rnn.cli import main
from densecrf_rnn.explore.settings import command_of, python_of


def started(folder):
    """A server with the samples, whose temporary files are in `folder`; also its port."""
    for package in ("nicegui", "torch", "skimage"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**environment(), "TMPDIR": str(folder)}
    env.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI would believe that it is tested by its own means
    server = subprocess.Popen(
        [sys.executable, "-m", "densecrf_rnn", "explore", "--no-browser", "--port", str(port),
         "--out", str(folder / "saved")],
        cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )  # fmt: skip
    for _ in range(1800):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        assert server.poll() is None, server.stderr.read()
        time.sleep(0.1)
    server.kill()
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


def explored(monkeypatch, *words):
    """What `explore` would serve, without a server: the sources by stem and the settings.

    None if the command fails.
    """
    pytest.importorskip("torch")
    from densecrf_rnn.cli import explore
    from densecrf_rnn.explore import serving

    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(explore, "require", lambda *args, **more: None)
        patched.setattr(serving, "serve", lambda sources, start, **more: seen.extend(
            [sources, start]))  # fmt: skip
        status = main(["explore", *map(str, words)])
    return None if status else tuple(seen)


def labels_of_command(scene, settings, out):
    """The labels that the command of the page writes for a scene."""
    words = shlex.split(command_of(scene, settings, str(out)))
    assert words[0] == "densecrf-rnn" and main(words[1:]) == 0
    (written,) = (path for path in Path(out).rglob("*") if path.suffix in (".png", ".tif"))
    return files.read_labels(written)


def labels_of_python(scene, settings):
    """The labels that the Python of the page computes for a scene."""
    return labels_of(python_of(scene, settings))


def labels_of(code):
    """The labels that Python from the page computes."""
    names = {}
    exec(code, names)
    return names["labels"]
