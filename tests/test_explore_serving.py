"""The server of `densecrf-rnn explore`: whom it answers, how much it takes, what it leaves."""

import asyncio
import http.client
import os
import signal
from pathlib import Path

import pytest
from explore_server import ended, started


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of a server."""
    server, found = started(tmp_path_factory.mktemp("explore"))
    yield found
    ended(server)


def test_the_server_listens_to_this_machine_alone(port):
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    at = [line.split()[1] for line in listening if line.split()[3] == "0A"]
    assert [a.split(":")[0] for a in at if int(a.split(":")[1], 16) == port] == ["0100007F"]


def asked(port, path="/", method="GET", body=None, **headers):
    """The status of an answer of the server."""
    ask = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    ask.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        return ask.getresponse().status
    finally:
        ask.close()


WEBSOCKET = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}  # fmt: skip


@pytest.mark.parametrize("path, more, passed", [
    ("/", {}, 200), ("/_nicegui_ws/socket.io/?EIO=4&transport=polling", {}, 200),
    ("/_nicegui_ws/socket.io/?EIO=4&transport=websocket", WEBSOCKET, 101),
])  # fmt: skip
def test_only_the_page_itself_is_answered(port, path, more, passed):
    mine = f"127.0.0.1:{port}"
    for host, origin in ((mine, None), (mine, f"http://{mine}"), (f"localhost:{port}", None),
                         ("localhost:9999", "http://localhost:9999")):  # an SSH tunnel
        of_origin = {} if origin is None else {"Origin": origin}
        assert asked(port, path, Host=host, **of_origin, **more) == passed
    for host, origin in (
        ("evil.example", None), (f"evil.example:{port}", f"http://evil.example:{port}"),
        (f"127.0.0.1.evil.example:{port}", None), (mine, "http://evil.example"),
        (mine, "http://127.0.0.1:1"), (mine, "null"), (mine, f"https://{mine}"),
        (f"evil.example@{mine}", "http://evil.example"),
    ):  # fmt: skip
        of_origin = {} if origin is None else {"Origin": origin}
        assert asked(port, path, Host=host, **of_origin, **more) == 403, (host, origin)


def test_images_and_frames_of_other_sites_get_nothing_but_their_links_lead_here(port):
    for site, kind, status in (
        ("none", "document", 200), ("same-origin", "script", 200), ("cross-site", "document", 200),
        ("cross-site", "image", 403), ("same-site", "iframe", 403), ("cross-site", "empty", 403),
    ):  # fmt: skip
        assert asked(port, Sec_Fetch_Site=site, Sec_Fetch_Dest=kind) == status


def test_a_request_that_is_too_large_is_refused_whatever_it_says_of_its_size():
    pytest.importorskip("torch")
    from densecrf_rnn.explore import serving

    limit = serving.MOST_BYTES + serving._ROOM
    host = (b"host", b"127.0.0.1:1")
    assert serving.refusal(dict([host, (b"content-length", b"%d" % limit)])) == 0
    assert serving.refusal(dict([host, (b"content-length", b"%d" % (limit + 1))])) == 413
    assert serving.refusal(dict([host, (b"content-length", b"many")])) == 400

    async def reads_all(scope, receive, send):
        while True:
            message = await receive()
            seen.append(message["type"])
            if message["type"] == "http.disconnect":
                raise ConnectionError
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                return

    async def status_of(sizes):
        parts = [{"type": "http.request", "body": bytes(size), "more_body": size != sizes[-1]}
                 for size in sizes]  # fmt: skip
        answers = []

        async def receive():
            return parts.pop(0)

        async def send(message):
            answers.append(message.get("status"))

        await serving.Guard(reads_all)({"type": "http", "headers": [host]}, receive, send)
        return answers[0]

    seen = []
    assert asyncio.run(status_of([10, 20])) == 200
    assert asyncio.run(status_of([limit // 2, limit // 2 + 1, 2, 3])) == 413
    assert seen[-1] == "http.disconnect"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", 130)])
def test_however_the_command_ends_its_temporary_files_are_deleted(tmp_path, name, status):
    server, _ = started(tmp_path)
    (uploads,) = tmp_path.glob("densecrf-explore-*")
    (uploads / "part").write_bytes(b"of an upload")
    assert ended(server, getattr(signal, name)) == status
    assert not uploads.exists()
