"""The guard: own names, own pages, login."""

import asyncio
import base64
import socket
from typing import Any

import httpx
import pytest

from infra.guard.credentials import Credentials
from infra.guard.guard import LOGIN_PATH, Guard, Message, Names, host_name, login_link

LOGIN = Credentials("mixllm", "secret")
BASIC = {"authorization": "Basic " + base64.b64encode(b"mixllm:secret").decode()}
OWN = "127.0.0.1:4200"


async def answer(scope: Message, receive: Any, send: Any) -> None:
    """A server that does whatever it is asked."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def ask(
    guard: Guard, method: str = "GET", host: str | None = OWN, path: str = "/", **headers: str
) -> httpx.Response:
    async def go() -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if host is not None:
            sent["host"] = host
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{OWN}") as client:
            return await client.request(method, path, headers=sent)

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"127.0.0.1:4200", "127.0.0.1"),
        (b"LocalHost", "localhost"),
        (b"localhost.:80", "localhost"),
        (b"[::1]:4200", "::1"),
        (b"a.example", "a.example"),
        (b"evil.example:80@localhost", None),
        (b"localhost/evil", None),
        (b"localhost evil", None),
        (b"localhost:port", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_host_header_is_a_name_or_nonsense(header: bytes, name: str | None) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("names", "known", "unknown"),
    [
        (
            Names(),
            ["localhost", "127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"],
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0",
             "10.0.0.1", "2130706433", "127.1", socket.gethostname().lower() + "x"],
        ),
        (
            Names("0.0.0.0"),
            ["localhost", "10.0.0.1", "fe80::1", socket.gethostname().lower()],
            ["evil.example"],
        ),
        (Names("10.1.2.3"), ["10.1.2.3", "localhost"], ["10.1.2.4", "evil.example"]),
        (
            Names(more=("gate.example", "*.corp.example")),
            ["gate.example", "a.corp.example", "a.b.corp.example", "localhost"],
            ["corp.example", "evilcorp.example", "x.gate.example"],
        ),
        (Names(more=("*",)), ["anything.example"], []),
    ],
)  # fmt: skip
def test_a_server_knows_its_names(names: Names, known: list[str], unknown: list[str]) -> None:
    assert [name for name in known if not names.know(name)] == []
    assert [name for name in unknown if names.know(name)] == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:4200", "origin": "http://evil.example:4200"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:4200.evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "cross-site"},
    ],
    ids=str,
)
def test_other_pages_and_names_are_refused(method: str, headers: dict[str, str]) -> None:
    refused = ask(Guard(answer, Names()), method, **headers)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert refused.json()["error"]["code"] in ("host_not_allowed", "origin_not_allowed")


def test_a_request_names_one_host() -> None:
    guard = Guard(answer, Names())
    assert ask(guard, host="a b").status_code == 400

    async def twice() -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"host", b"evil.example")]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        await guard(scope, answer, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])

    assert asyncio.run(twice()) == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": f"http://{OWN}"},
        {"origin": f"https://{OWN}"},
        {"host": "localhost:4200", "origin": "http://localhost:4200"},
        {"host": "[::1]:4200", "origin": "http://[::1]:4200"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"},
    ],
    ids=str,
)
def test_its_own_pages_and_programs_are_let_in(headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        assert ask(Guard(answer, Names()), method, **headers).status_code == 200


def test_a_link_from_elsewhere_leads_to_a_page_and_posts_nothing() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    link["sec_fetch_dest"] = "document"
    assert ask(Guard(answer, Names()), "GET", **link).status_code == 200
    assert ask(Guard(answer, Names()), "POST", **link).status_code == 403


def test_allowed_origins_may_ask() -> None:
    guard = Guard(answer, Names(), origins=("https://app.example", "app://notes"))
    site = {"sec_fetch_site": "cross-site"}
    assert ask(guard, "POST", origin="https://app.example", **site).status_code == 200
    assert ask(guard, "POST", origin="app://notes").status_code == 200
    assert ask(guard, "POST", origin="http://app.example").status_code == 403
    assert ask(guard, "POST", origin="https://app.example.evil").status_code == 403
    assert ask(Guard(answer, Names(), origins=("*",)), origin="http://x.example").is_success


def test_a_login_is_needed_for_all_but_the_open_paths() -> None:
    guard = Guard(answer, Names(), credentials=LOGIN, open_paths=("/health",))
    for method in ("GET", "POST"):
        refused = ask(guard, method)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
        assert ask(guard, method, **BASIC).status_code == 200
    assert ask(guard, path="/health").status_code == 200
    assert ask(guard, "POST", path="/health").status_code == 401
    assert ask(guard, path="/health/../secret").status_code == 401
    assert ask(guard, path="/health", host="evil.example").status_code == 403
    for wrong in (
        "Basic " + base64.b64encode(b"mixllm:wrong").decode(),
        "Bearer " + BASIC["authorization"].split()[1],
        "Basic", "", BASIC["authorization"] + "=",
    ):  # fmt: skip
        assert ask(guard, authorization=wrong).status_code == 401
    assert ask(guard, "POST", origin="http://evil.example", **BASIC).status_code == 403


def test_a_login_link_leads_to_a_page_without_the_login_in_its_address() -> None:
    guard = Guard(answer, Names(), credentials=LOGIN)
    led = ask(guard, path=LOGIN_PATH, **BASIC)
    assert (led.status_code, led.headers["location"]) == (303, f"http://{OWN}/")
    assert ask(guard, path=LOGIN_PATH).status_code == 401
    assert ask(guard, path=LOGIN_PATH, host="evil.example", **BASIC).status_code == 403
    assert login_link(LOGIN, 5000) == f"http://mixllm:secret@127.0.0.1:5000{LOGIN_PATH}"


@pytest.mark.parametrize("headers", [{b"host": b"evil.example"}, {b"origin": b"http://x.example"}])
def test_a_websocket_of_another_page_is_closed_before_it_opens(headers: dict[bytes, bytes]) -> None:
    sent: list[Message] = []

    async def go() -> None:
        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        given = {b"host": OWN.encode(), **headers}
        scope = {"type": "websocket", "path": "/", "headers": list(given.items())}
        await Guard(answer, Names())(scope, receive, send)

    asyncio.run(go())
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_pages_are_not_shown_inside_others() -> None:
    headers = ask(Guard(answer, Names())).headers
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["x-content-type-options"] == "nosniff"
