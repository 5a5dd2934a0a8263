"""What is refused before anything reads it: bodies and headers that are too large or too slow."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metrics
from serving.http.problems import problem

MAX_HEADER_BYTES: Final = 32 * 1024
# A body may take so long, and longer by what of it has come: a client that sends a byte now and then
# must not hold a connection for ever.
BODY_SECONDS: Final = 20.0
BODY_RATE: Final = 16 * 1024  # bytes a second
# What is left of the body is not worth reading.
CLOSE: Final = {"connection": "close"}


class SizeLimits:
    """ASGI middleware. max_body: bytes."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self.app, self.max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            metrics.refused.labels("headers").inc()
            message = f"the headers are over {MAX_HEADER_BYTES} bytes"
            await problem(431, message)(scope, receive, send)
            return
        told = next((value for name, value in headers if name == b"content-length"), b"0")
        if told.isdigit() and int(told) > self.max_body:
            await problem(413, self._too_large())(scope, receive, send)
            return
        read = 0
        waited = 0.0
        whole = False

        async def counted() -> Message:
            nonlocal read, waited, whole
            if whole:
                return await receive()  # the client's leaving
            begun = time.monotonic()
            try:
                async with asyncio.timeout(BODY_SECONDS + read / BODY_RATE - waited):
                    message = await receive()
            except TimeoutError as error:
                metrics.refused.labels("slow").inc()
                sent = f"{read} bytes of the body came in {waited + time.monotonic() - begun:.0f} s"
                raise HTTPException(408, f"{sent}; send it faster", CLOSE) from error
            waited += time.monotonic() - begun
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if read > self.max_body:
                    raise HTTPException(413, self._too_large())
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> str:
        metrics.refused.labels("body").inc()
        return f"the body is over {self.max_body} bytes (MIXLLM_MAX_BODY_BYTES)"
