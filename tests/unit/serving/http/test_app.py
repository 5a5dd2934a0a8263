"""The app by itself, without a server: what it does before it reads a body."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import SecretStr

from infra.settings import Settings
from serving.access.keys import KeyRing

# The service takes its metrics from BentoML, whose module warns.
pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")
KEY = "s3cret"


def away() -> Any:
    raise OSError("no database in this test")


def app_of(home: Path) -> Any:
    from serving.http.app import create_app

    ring = KeyRing(Settings(home=home, api_key=SecretStr(KEY)), away)
    state: Any = SimpleNamespace(keys=ring)
    return create_app(lambda: state, max_body=10_000)


def operations(app: Any) -> list[tuple[str, str]]:
    described = app.openapi()["paths"]
    return [(method.upper(), path) for path, ways in described.items() for method in ways]


def call(app: Any, method: str, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """A request's status, and how often its body was asked for."""
    read = 0
    status = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"{" * 5000, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    asyncio.run(app(scope_of(method, path, headers), receive, send))
    return status, read


def scope_of(method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path.replace("{decision_id}", "0" * 32),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 3000),
        "client": ("127.0.0.1", 1),
    }


def test_the_key_is_checked_before_the_body_is_read(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    known = operations(app)
    assert len(known) >= 11
    kind = {"content-type": "application/json"}
    for method, path in known:
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}):
            status, read = call(app, method, path, {**kind, **headers})
            assert status in (401, 503), path
            assert read == 0, path
    status, read = call(app, "POST", "/v1/route", {**kind, "x-api-key": KEY})
    assert (status, read > 0) == (422, True)


def test_a_body_that_comes_too_slowly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.http import size_limits as limits

    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    app = app_of(tmp_path)
    sent: list[dict[str, Any]] = []
    pieces = iter([b'{"query": ', b'"x'])

    async def receive() -> dict[str, Any]:
        if (piece := next(pieces, None)) is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope_of("POST", "/v1/route", {"x-api-key": KEY}), receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"12 bytes of the body came" in sent[1]["body"]


def test_a_route_that_names_no_caller_cannot_be_made() -> None:
    from serving.http.guarded_routes import GuardedRoute

    routes = APIRouter(route_class=GuardedRoute)
    with pytest.raises(ValueError, match="unpack"):
        routes.add_api_route("/open", lambda: None)
