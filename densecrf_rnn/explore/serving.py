"""Serve the page to this machine alone: who may ask for what, and what is deleted at the end."""

import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import _platform, checks
from .page import build
from .photos import MOST_BYTES
from .scenes import Source
from .settings import Settings

_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost")  # a page of another name was brought here by DNS rebinding
_ROOM = 100_000  # bytes of a request around the file in it
_HEADERS = {
    # Nothing is loaded from other hosts, and no other page holds this one in a frame. NiceGUI needs
    # 'unsafe-eval': it evaluates code that the server sends.
    b"content-security-policy": b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware that rejects requests that are large or that other sites sent."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        status = refusal(headers)
        if status and scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008})
        if status:
            return await _answer(send, status)
        if scope["type"] == "websocket":
            return await self._app(scope, receive, send)
        left, started = MOST_BYTES + _ROOM, False

        async def received() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *_HEADERS.items()]
            await send(message)

        try:
            await self._app(scope, received, sent)
        except Exception:
            if left >= 0:
                raise
        if left < 0 and not started:
            await _answer(send, 413)


def refusal(headers: Mapping[bytes, bytes]) -> int:
    """Return the HTTP status that refuses a request, by its headers; 0 if it may pass."""
    host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin")
    try:
        if urlsplit(f"http://{host}").hostname not in _NAMES:
            return 403
        if origin is not None and origin.decode("latin-1") != f"http://{host}":
            return 403
        # A link of another site may lead here; its images and frames, without an origin, may not.
        other = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
        if other and headers.get(b"sec-fetch-dest") != b"document":
            return 403
        return 413 if int(headers.get(b"content-length", 0)) > MOST_BYTES + _ROOM else 0
    except ValueError:
        return 400


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"refused\n"})


@contextmanager
def _uploads() -> Iterator[Path]:
    """Make a folder for temporary files, which is deleted whichever way the program is ended."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="densecrf-explore-") as folder:
        tempfile.tempdir = folder  # NiceGUI keeps the parts of uploads in temporary files
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def _check_port(port: int) -> None:
    """Raise ValueError if the page cannot be served at this port."""
    if port > 65535:
        raise ValueError(f"--port is {port}; give one of 1024 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ValueError(f"--port {port}: {error.strerror}; give another port") from error


def serve(
    sources: Mapping[str, Source], start: Settings, *, port: int, browser: bool,
    threads: int | None, folder: Path,
) -> None:  # fmt: skip
    """Show the page on this machine alone until Ctrl-C; uploads are deleted then.

    Raises
    ------
    ImportError
        NiceGUI is not installed.
    ValueError
        The port cannot be used.
    """
    _check_port(port)
    nicegui = checks.package("nicegui", "explore", "'densecrf-rnn[explore]'")
    # The server ends at SIGTERM and then raises it again, which would end Python before clean-up.
    _platform.on_end(_end)
    with _uploads() as uploads:
        print(f"http://{_HOST}:{port} (Ctrl-C ends it)", flush=True)
        build(
            nicegui.ui, nicegui.run, sources, start, threads=threads, folder=folder,
            uploads=uploads,
        )  # fmt: skip
        nicegui.app.add_middleware(Guard)
        nicegui.ui.run(
            host=_HOST, port=port, show=browser, reload=False, title="densecrf_rnn: explore",
            show_welcome_message=False, favicon="🪄", ws_per_message_deflate=False,
        )  # fmt: skip
