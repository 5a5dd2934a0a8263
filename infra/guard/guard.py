"""What stands before every server: it answers under its own names, to its own pages, and to who
logs in.

A web page can reach a server on this machine in two ways: by its address, and then the browser names
the page's origin, or under the page's own name, which it makes resolve to this machine (DNS
rebinding), and then ``Host`` is that name.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from infra.addresses import LOOPBACK, http_url
from infra.guard.credentials import Credentials

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(:[0-9]{1,5})?")
# A link with the login in it leads here, and from here to a page whose address is without: browsers
# let no page ask its server for anything while its own address shows a login.
LOGIN_PATH: Final = "/mixllm-login"
SAFE_METHODS: Final = ("GET", "HEAD")
WILDCARDS: Final = ("0.0.0.0", "::")
# For answers of parts that say nothing of their own.
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Names:
    """The names that a server answers under.

    bound: the address it listens on. more: other names, as a proxy in front has them; ``*.domain``
    for all below a domain, ``*`` for any.
    """

    bound: str = "127.0.0.1"
    more: tuple[str, ...] = ()

    def know(self, name: str) -> bool:
        """name: of a ``Host`` header, without its port."""
        if name in ("localhost", self.bound, *self.more) or "*" in self.more:
            return True
        if any(m.startswith("*.") and name.endswith(m[1:]) for m in self.more):
            return True
        address = ip_address(name)
        if address is not None:
            # An address is no name that could be made to point here; who listens on all has many.
            return is_loopback(address) or self.bound in WILDCARDS
        return self.bound in WILDCARDS and name == socket.gethostname().lower()


def ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def host_name(header: bytes) -> str | None:
    """The name in a ``Host`` header, lower case, without port and brackets; None for nonsense."""
    match = HOST.fullmatch(header.decode("latin-1").lower())
    return match[1].strip("[]") if match else None


class Refusal(Exception):
    """status: HTTP. code: for programs."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Guard:
    """ASGI middleware; put it outside everything else.

    names: what ``Host`` may be. origins: whose pages may ask besides the server's own; ``*`` for
    any. credentials: what every request must bring, but for GETs of the open paths; None where the
    server asks for them itself, or for none.
    """

    def __init__(
        self,
        app: App,
        names: Names,
        origins: Iterable[str] = (),
        credentials: Credentials | None = None,
        open_paths: Iterable[str] = (),
    ) -> None:
        self.app, self.names, self.credentials = app, names, credentials
        self.origins, self.open_paths = frozenset(origins), frozenset(open_paths)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            self.check(scope)
        except Refusal as refusal:
            await refuse(refusal, scope, receive, send)
            return
        if self.credentials is not None and scope["path"] == LOGIN_PATH:
            await lead_in(scope, send)
            return
        await self.app(scope, receive, with_headers(send))

    def check(self, scope: Message) -> None:
        """Raises Refusal."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        host = self._check_host([value for name, value in headers if name == b"host"])
        origins = [value for name, value in headers if name == b"origin"]
        for origin in origins:
            self._check_origin(origin.decode("latin-1").lower(), host)
        if not origins:
            self._check_site(scope, dict(headers))
        if self.credentials is not None:
            self._check_login(scope, self.credentials, dict(headers))

    def _check_host(self, hosts: list[bytes]) -> str:
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise Refusal(400, "the request needs one Host header, a name", "bad_host")
        if not self.names.know(name):
            raise Refusal(
                403,
                f"this server does not answer as {name}; "
                "if it should, add the name to MIXLLM_ALLOWED_HOSTS and start it again",
                "host_not_allowed",
            )
        return hosts[0].decode("latin-1").lower()

    def _check_origin(self, origin: str, host: str) -> None:
        if "*" in self.origins or origin in self.origins:
            return
        parts = urlsplit(origin)
        # A proxy in front may have taken TLS off, so either scheme is its own.
        if parts.scheme in ("http", "https") and parts.netloc == host:
            return
        raise Refusal(
            403,
            f"pages of {origin[:200]} may not use this server; "
            "if they should, add the origin to MIXLLM_ALLOWED_ORIGINS and start it again",
            "origin_not_allowed",
        )

    def _check_site(self, scope: Message, headers: dict[bytes, bytes]) -> None:
        """Requests for which browsers name no origin: links may lead here, nothing else."""
        if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
            return
        linked = (
            headers.get(b"sec-fetch-mode") == b"navigate"
            and headers.get(b"sec-fetch-dest") == b"document"
            and scope.get("method") in SAFE_METHODS
        )
        if not linked:
            message = "pages of another site may not use this server"
            raise Refusal(403, message, "origin_not_allowed")

    def _check_login(
        self, scope: Message, credentials: Credentials, headers: dict[bytes, bytes]
    ) -> None:
        if scope.get("method") in SAFE_METHODS and scope["path"] in self.open_paths:
            return
        if not credentials.fit(headers.get(b"authorization", b"")):
            message = f"log in as {credentials.user}; mixllm login shows the password"
            raise Refusal(401, message, "login_needed")


async def refuse(refusal: Refusal, scope: Message, receive: Receive, send: Send) -> None:
    """Answer a request, or close a websocket before it opens."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:120]})
        return
    kind = {400: "bad_request", 401: "unauthorized", 403: "forbidden"}[refusal.status]
    error = {"type": kind, "message": str(refusal), "param": None, "code": refusal.code}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *HEADERS,
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="MixLLM", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def login_link(credentials: Credentials, port: int) -> str:
    """Opens the pages of a server on this machine, without a question."""
    return http_url(LOOPBACK, port, LOGIN_PATH, (credentials.user, credentials.password))


async def lead_in(scope: Message, send: Send) -> None:
    """Redirect to the first page."""
    host = dict(scope["headers"])[b"host"]
    location = scope["scheme"].encode() + b"://" + host + b"/"
    headers = [(b"location", location), (b"content-length", b"0"), *HEADERS]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def with_headers(send: Send) -> Send:
    """Add what keeps other pages from showing a response in themselves."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            message["headers"] = [*headers, *(h for h in HEADERS if h[0] not in names)]
        await send(message)

    return sent
