"""Connections that cost nothing for long: a deadline and a bound on what comes before a request.

uvicorn waits for ever for a request's headers, and for what is left of a body that was refused
unread, and keeps whatever comes. BentoML starts uvicorn with the protocol that it chooses by itself,
so ``install`` puts this one in its place.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# From a connection, or a request's first byte, to the end of its headers.
HEAD_SECONDS: Final = 20.0
# What is left of a body after the response has been sent.
REST_SECONDS: Final = 20.0
# Far above what ``SizeLimits`` takes, which answers in the service's form.
MAX_HEAD_BYTES: Final = 256 * 1024


class GuardedConnection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # The rest of the piece may be a body: counted only where the headers go on.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._arm(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._disarm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and self.cycle.response_complete and self.cycle.more_body:
            self._arm(REST_SECONDS)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire, seconds)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self, seconds: float) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._arm(seconds)  # an earlier request of this connection is being answered
        elif not self.transport.is_closing():
            self.transport.close()


def install() -> None:
    """Make uvicorn use it, where it is not told which protocol to use."""
    auto.AutoHTTPProtocol = GuardedConnection
