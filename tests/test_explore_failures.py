"""The page of `densecrf-rnn explore` when something fails or comes too late, without a browser."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the page's sample network needs torch")

from densecrf_rnn import engines  # noqa: E402
from densecrf_rnn.cli import main  # noqa: E402
from densecrf_rnn.explore import page  # noqa: E402

FAILURES = [
    engines.BackendUnavailableError("no engine"), OSError("no such file"),
    ImportError("no package"), MemoryError("no memory"), TypeError("wrong type"),
    ValueError("wrong value"),
]  # fmt: skip


class Run:
    """In place of NiceGUI's module `run`: everything in this thread."""

    @staticmethod
    async def io_bound(function, *arguments):
        return function(*arguments)


@pytest.fixture
def opened(tmp_path):
    """A page without the elements of a browser; it lists what it says and shows."""
    found = object.__new__(page._Page)
    found.said_, found.shown = [], []
    found.run, found.uploads, found.threads, found.network = Run, tmp_path, 1, None
    found.scene, found.settings, found.drawn, found.closed = "scene", "settings", None, False
    found.said = SimpleNamespace(set_text=found.said_.append)
    found.ui = SimpleNamespace(notify=lambda said, **how: found.said_.append(said))
    found.tabs = SimpleNamespace(value="code")
    found.upload = SimpleNamespace(reset=lambda: None)
    found.choice = SimpleNamespace(value="your own photograph")
    found._show = found.shown.append
    return found


def raising(error):
    def fail(*arguments):
        raise error

    return fail


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_refinement_that_fails_is_said_and_the_next_one_runs(opened, monkeypatch, error):
    monkeypatch.setattr(page, "_labels", raising(error))

    async def twice():
        opened.wanted = asyncio.Event()
        worker = asyncio.create_task(opened._worker())
        for count in (1, 2):
            opened.refresh()
            await asyncio.sleep(0.01)
            assert opened.said_ == [str(error)] * count and not worker.done()
        opened._close()
        await worker

    asyncio.run(twice())


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_scene_or_a_photograph_that_cannot_be_read_is_said(opened, monkeypatch, error):
    asyncio.run(opened._load(raising(error)))
    monkeypatch.setattr(page, "read_upload", raising(error))
    asyncio.run(opened._uploaded(upload()))
    assert opened.said_ == [str(error)] * 2 and opened.shown == []


def upload(then=lambda: None):
    async def save(path):
        then()

    return SimpleNamespace(file=SimpleNamespace(name="photo.png", save=save))


def test_an_upload_is_shown_only_if_nothing_else_was_chosen_meanwhile(opened, monkeypatch):
    monkeypatch.setattr(page, "read_upload", lambda path: np.zeros((4, 5, 3), np.uint8))
    opened.network = SimpleNamespace(scores=lambda image: np.zeros((21, 4, 5), np.float32))
    asyncio.run(opened._uploaded(upload()))
    assert [scene.name for scene in opened.shown] == ["photo"]
    asyncio.run(opened._uploaded(upload(lambda: setattr(opened.choice, "value", "2007_000033"))))
    assert len(opened.shown) == 1 and opened.said_ == []


def test_the_command_says_that_there_is_no_engine_before_it_serves(monkeypatch, capsys):
    pytest.importorskip("nicegui")
    monkeypatch.setattr(engines, "resolve", raising(FAILURES[0]))
    assert main(["explore", "--no-browser"]) == 2
    assert "no engine" in capsys.readouterr().err
