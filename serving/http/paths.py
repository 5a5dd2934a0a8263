"""Which path was meant: hints for clients that ask for one that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What BentoML answers itself, after our own routes.
BENTOML: Final = ("/static_content", "/docs.json")
SHOWN_CHARACTERS: Final = 200
CHAT: Final = "/v1/chat/completions"
# Ends of paths of other interfaces, and what does their work here.
ELSEWHERE: Final = {
    "chat/completions": CHAT,
    "completions": CHAT,
    "responses": CHAT,
    "messages": CHAT,
    "generate": CHAT,
    "generatecontent": CHAT,
    "chat": CHAT,
    "models": "/v1/models",
    "tags": "/v1/models",
    "docs": "/v1/docs",
    "openapi.json": "/v1/openapi.json",
    "health": "/livez",
    "healthz": "/livez",
    "ready": "/readyz",
}


def missing(path: str, known: Iterable[str]) -> str:
    """What to say of a path that is not there. known: those that are."""
    message = f"no path {path[:SHOWN_CHARACTERS]}"
    meant = nearest_path(path, known)
    return f"{message}; did you mean {meant}?" if meant else message


def nearest_path(path: str, known: Iterable[str]) -> str | None:
    """The path that was probably meant."""
    parts = [part for part in path.lower()[:SHOWN_CHARACTERS].split("/") if part]
    while parts and parts[0] in ("v1", "v2", "api", "openai", "proxy"):
        parts = parts[1:]
    names = sorted(known)
    asked = "/".join(parts)
    for name in names:
        if name.removeprefix("/v1/") == asked:
            return name
    for end, meant in ELSEWHERE.items():
        if asked == end or asked.endswith(("/" + end, ":" + end)):
            return meant
    close = difflib.get_close_matches(f"/v1/{asked}", names, n=1, cutoff=0.75)
    return close[0] if close else None


class HeadAsGet:
    """ASGI middleware: a HEAD is answered as a GET would be, without its body (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


class OneLinePaths:
    """ASGI middleware: no path of ours has a line break, and routers match none: before the mounted
    app such a path was BentoML's, with an error in plain text. It is like any other unknown one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\n" in scope.get("path", ""):
            scope = {**scope, "path": scope["path"].replace("\n", "\ufffd")}
        await self.app(scope, receive, send)
