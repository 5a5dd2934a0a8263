"""Raw bytes to a server with guarded connections, over loopback."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from processes import free_port
from serving.http import connections
from serving.http.connections import GuardedConnection

SEEN: list[tuple[str, bytes]] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Refuses /refused without reading its body; else answers with the body's length."""
    body = b""
    if scope["type"] != "http":
        return
    if scope["path"] != "/refused":
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    SEEN.append((scope["path"], body))
    text = str(len(body)).encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    chosen = free_port()
    config = uvicorn.Config(
        app, port=chosen, http=GuardedConnection, lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield chosen
    server.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    for name in ("HEAD_SECONDS", "REST_SECONDS"):
        monkeypatch.setattr(connections, name, 0.3)


def closes(opened: socket.socket) -> bytes:
    """Everything until the server closes."""
    opened.settimeout(5)
    parts = []
    while part := opened.recv(65536):
        parts.append(part)
    return b"".join(parts)


def sent(opened: socket.socket, piece: bytes) -> bool:
    """Whether the server still takes more."""
    try:
        opened.sendall(piece)
    except OSError:
        return False
    return True


def test_install_makes_it_uvicorns_own_choice() -> None:
    connections.install()
    config = uvicorn.Config(app)
    config.load()
    assert config.http_protocol_class is GuardedConnection


@pytest.mark.parametrize("piece", [b"", b"GET /", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: "])
def test_headers_that_do_not_end_do_not_hold_a_connection(port: int, piece: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(piece)
        assert closes(opened) == b""
    assert SEEN == []


def test_headers_that_drip_do_not_hold_a_connection(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(100):
            if not sent(opened, b"x-a: b\r\n"):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the connection is still open")
    assert SEEN == []


def test_headers_without_end_are_not_kept(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nx-a: ")
        assert not all(sent(opened, b"x" * 65536) for _ in range(1000))
    assert SEEN == []


def test_the_rest_of_a_refused_body_does_not_hold_a_connection(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        assert closes(opened).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n123456789")
        opened.sendall(b"GET /next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert closes(opened).count(b"HTTP/1.1 200 ") == 2
    assert [path for path, _ in SEEN] == ["/refused", "/refused", "/next"]


def test_a_slow_answer_is_not_cut_short(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1")
        time.sleep(0.7)  # the body's own deadline is the app's
        opened.sendall(b"2GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert closes(opened).count(b"HTTP/1.1 200 ") == 2
    assert SEEN == [("/a", b"12"), ("/b", b"")]


HOST = b"host: x\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: 5, 6\r\n",
        b"content-length: +5\r\n",
        b"content-length: -5\r\n",
        b"content-length: 0x5\r\n",
        b"content-length: 5 5\r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"content-length : 5\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: identity\r\ncontent-length: 5\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        b"x: a\rtransfer-encoding: chunked\r\n",
        b" content-length: 5\r\n",
        b"x\x00: a\r\n",
    ],
)
def test_a_request_of_two_lengths_is_refused(port: int, head: bytes) -> None:
    """Nothing behind it is taken for a request of its own."""
    body = b"0\r\n\r\n" + INNER
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"POST / HTTP/1.1\r\n" + HOST + head + b"\r\n" + body)
        answer = closes(opened)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert all(path != "/smuggled" for path, _ in SEEN)


@pytest.mark.parametrize(
    "body",
    [
        b"5;" + b"x" * 20 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nx: y\r\n\r\n",
    ],
)
def test_chunks_are_read_as_they_are_meant(port: int, body: bytes) -> None:
    head = HOST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"POST / HTTP/1.1\r\n" + head + body)
        assert closes(opened).endswith(b"\r\n\r\n5")
    assert SEEN == [("/", b"hello")]


@pytest.mark.parametrize(
    "body", [b"5\r\nhelloX0\r\n\r\n", b"-5\r\nhello", b"zz\r\n", b"5\nhello\n0\n\n"]
)
def test_odd_chunks_are_refused(port: int, body: bytes) -> None:
    head = HOST + b"transfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"POST / HTTP/1.1\r\n" + head + body + INNER)
        answer = closes(opened)
    assert b"400" in answer.split(b"\r\n")[0]
    assert all(path != "/smuggled" for path, _ in SEEN)
