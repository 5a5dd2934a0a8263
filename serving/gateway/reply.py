"""An answer on its way from an upstream: its body, its limits, its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import aiohttp

from serving.gateway.answer_reader import MAX_PLAIN_BYTES, AnswerReader
from serving.gateway.completion import Body
from serving.gateway.errors import BrokenOff, TimedOut, UpstreamError
from serving.gateway.failures import READ_ERRORS
from serving.gateway.upstream_answers import says_something

if TYPE_CHECKING:
    from serving.gateway.endpoint import Endpoint

MAX_STREAM_BYTES: Final = 64 * 2**20
# Events kept until one says something: the role, the filter's verdict on the prompt.
MAX_OPENING: Final = 100
# Parsed at once; others have their turn after so many bytes.
PIECE_BYTES: Final = 16 * 2**10
# What comes after an answer's finish reason, its usage, is waited for so long.
AFTER_FINISH_SECONDS: Final = 5.0


class Reply:
    """An answer on its way. Close it when done.

    ticket: the breaker's.
    choices: how many were asked for.
    whole: a plain answer.
    """

    def __init__(self, endpoint: Endpoint, ticket: int, choices: int = 1) -> None:
        self.endpoint, self.ticket = endpoint, ticket
        self.response: aiohttp.ClientResponse | None = None
        self.whole: Body = {}
        self._failures = endpoint.failures
        self._reader = AnswerReader(endpoint.failures, choices)
        self._deadline = time.monotonic() + endpoint.spec.total_timeout
        self._opening: list[Body] = []
        self._chunks: AsyncIterator[Body] | None = None
        self._closed = False

    def close(self) -> None:
        """Give its place up; a response that was not read to its end is cut off."""
        if not self._closed:
            self._closed = True
            if self.response is not None:
                self.response.close()
            self.endpoint.breaker.leave(self.ticket)
            self.endpoint.leave()

    @property
    def unfinished(self) -> set[int]:
        """The indexes of a stream's choices that have no finish reason yet."""
        return self._reader.unfinished

    async def read_whole(self) -> None:
        """A plain answer. Raises UpstreamError where it is none."""
        raw = bytearray()
        async for piece in self._pieces(MAX_PLAIN_BYTES):
            raw += piece
        self.whole = self._reader.completion(bytes(raw))
        self.endpoint.breaker.succeed()

    async def read_opening(self) -> None:
        """A stream's events up to the first that says something. Raises UpstreamError."""
        self._chunks = self._reader.chunks(self._pieces(MAX_STREAM_BYTES))
        async for chunk in self._chunks:
            self._opening.append(chunk)
            if says_something(chunk) or len(self._opening) >= MAX_OPENING:
                return
        raise self._failures.unreadable("its stream has no answer")

    async def chunks(self) -> AsyncIterator[Body]:
        """Every chunk. Raises UpstreamError where the answer is not whole."""
        assert self._chunks is not None
        for chunk in self._opening:
            yield chunk
        try:
            while (later := await self._next(self._chunks)) is not None:
                yield later
        except UpstreamError as error:
            self.endpoint.count(error, self.ticket)
            raise
        self.endpoint.breaker.succeed()

    async def _next(self, chunks: AsyncIterator[Body]) -> Body | None:
        """The next chunk; None at the end."""
        left = min(self.endpoint.spec.first_token_timeout, self._deadline - time.monotonic())
        try:
            if left <= 0:
                raise TimeoutError
            if self._reader.complete:
                left = min(left, AFTER_FINISH_SECONDS)
            async with asyncio.timeout(left):
                return await anext(chunks)
        except StopAsyncIteration:
            if self._reader.ended:
                return None
            error = self._failures.error(BrokenOff, ": its stream broke off")
        except TimeoutError:
            error = self._failures.error(TimedOut, ": its stream stopped")
        except READ_ERRORS as cause:
            error = self._failures.of_client(cause, BrokenOff)
        except UpstreamError as said:
            error = said
        if self._reader.complete:
            return None
        raise error from None

    async def _pieces(self, limit: int) -> AsyncIterator[bytes]:
        """The body in small pieces. Raises UpstreamError where it passes the limit (bytes)."""
        assert self.response is not None
        total = 0
        async for part in self.response.content.iter_any():
            total += len(part)
            if total > limit:
                raise self._failures.unreadable(f"its answer is over {limit} bytes")
            for start in range(0, len(part), PIECE_BYTES):
                if start:
                    await asyncio.sleep(0)
                yield part[start : start + PIECE_BYTES]
