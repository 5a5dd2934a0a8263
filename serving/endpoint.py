"""One candidate's upstream: its limits, its breaker, and one request to it over pooled HTTP."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from limits import RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter

from models.catalog import Upstream
from serving.breaker import Breaker
from serving.job import Body

MAX_ANSWER_BYTES: Final = 64 * 2**20
MAX_EVENT_BYTES: Final = 2**20
BACKOFF_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 8.0
# Longer than this nobody waits for a candidate that names a time; another one is asked.
MAX_RETRY_AFTER_SECONDS: Final = 5.0
DONE: Final = b"[DONE]"


class UpstreamError(Exception):
    """A candidate did not answer.

    kind: "connect", "timeout", "busy", "rate_limited", "server_error", "refused" (its key, address
    or model is wrong), "garbage", "broken", "invalid" (the client's own fault). status, body: of its
    response, where there was one. retry_after: seconds it asked for.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        status: int | None = None,
        body: Any = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.body, self.retry_after = kind, status, body, retry_after

    @property
    def again(self) -> bool:
        """Whether the same candidate may answer a second time."""
        if self.kind == "rate_limited":
            return self.retry_after is None or self.retry_after <= MAX_RETRY_AFTER_SECONDS
        return self.kind in ("connect", "server_error", "garbage", "broken")


@dataclass(frozen=True)
class Event:
    """One event of a stream. data: its JSON as sent; parsed: the same, empty at the stream's end."""

    data: bytes
    parsed: Body

    @property
    def ends(self) -> bool:
        return self.data == DONE


class Endpoint:
    """Asks one candidate. Use from one event loop."""

    def __init__(
        self,
        name: str,
        spec: Upstream,
        session: aiohttp.ClientSession,
        limiter: MovingWindowRateLimiter,
    ) -> None:
        self.name = name
        self.spec = spec
        self.breaker = Breaker()
        self._session = session
        self._url = f"{spec.base_url.rstrip('/')}/chat/completions"
        self._gate = asyncio.Semaphore(spec.concurrency) if spec.concurrency else None
        self._rate = RateLimitItemPerMinute(spec.requests_per_minute or 1)
        self._limiter = limiter
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=spec.connect_timeout)

    @property
    def available(self) -> bool:
        """Whether a request may go to it now."""
        if not self.breaker.lets_through(time.monotonic()):
            return False
        return self.spec.requests_per_minute is None or self._limiter.test(self._rate, self.name)

    def headers(self) -> dict[str, str]:
        """Raises UpstreamError where the key's variable is not set."""
        found = {"content-type": "application/json", **self.spec.headers}
        variable = self.spec.key_variable
        if variable is not None:
            key = os.environ.get(variable, "").strip()
            if not key:
                raise UpstreamError("refused", f"{variable}, the key of {self.name}, is not set")
            bearer = self.spec.key_header.lower() == "authorization"
            found[self.spec.key_header] = f"Bearer {key}" if bearer else key
        return found

    async def open(self, body: Body, stream: bool, trace: Mapping[str, str]) -> Reply:
        """Send a request; of a stream, wait for its first event. Raises UpstreamError.

        The caller closes the reply. What fails is counted against the candidate.
        """
        if self.spec.requests_per_minute is not None and not self._limiter.hit(
            self._rate, self.name
        ):
            raise UpstreamError("busy", f"{self.name} has had its requests of this minute")
        headers = {**self.headers(), **trace}
        await self._enter()
        self.breaker.enter(time.monotonic())
        reply = Reply(self)
        try:
            sent = {**body, "model": self.spec.model or self.name}
            if stream and self.spec.stream_usage:
                wanted = body.get("stream_options")
                sent["stream_options"] = {
                    **(wanted if isinstance(wanted, dict) else {}),
                    "include_usage": True,
                }
            await self._begin(reply, sent, stream, headers)
        except BaseException as error:
            if isinstance(error, UpstreamError):
                self._count(error)
            reply.close()
            raise
        return reply

    async def _enter(self) -> None:
        if self._gate is None:
            return
        try:
            async with asyncio.timeout(self.spec.first_token_timeout):
                await self._gate.acquire()
        except TimeoutError as error:
            raise UpstreamError("busy", f"{self.name} has a queue that did not move") from error

    def leave(self) -> None:
        if self._gate is not None:
            self._gate.release()

    async def _begin(self, reply: Reply, body: Body, stream: bool, headers: dict[str, str]) -> None:
        spec = self.spec
        limit = spec.first_token_timeout if stream else spec.total_timeout
        try:
            async with asyncio.timeout(limit):
                reply.response = await self._session.post(
                    self._url, data=orjson.dumps(body), headers=headers, timeout=self._timeout
                )
                if reply.response.status != 200:
                    raise await refusal(self.name, reply.response)
                if stream:
                    await reply.read_first()
                else:
                    await reply.read_whole()
        except TimeoutError as error:
            what = "its first token" if stream else "an answer"
            raise UpstreamError("timeout", f"{self.name}: {what} took over {limit:g} s") from error
        except aiohttp.ClientConnectionError as error:
            kind = "connect" if reply.response is None else "broken"
            raise UpstreamError(kind, f"{self.name}: {describe(error)}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise UpstreamError("garbage", f"{self.name}: {describe(error)}") from error

    def _count(self, error: UpstreamError) -> None:
        now = time.monotonic()
        if error.kind == "rate_limited":
            self.breaker.pause(1.0 if error.retry_after is None else error.retry_after, now)
        elif error.kind != "invalid":
            self.breaker.fail(now)


class Reply:
    """An answer on its way. Close it when done."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.response: aiohttp.ClientResponse | None = None
        self.whole: Body = {}
        self._first: Event | None = None
        self._events: AsyncIterator[Event] | None = None
        self._ended = False  # a finish reason was seen
        self._closed = False

    def close(self) -> None:
        """Give its place up; a response that was not read to its end is cut off."""
        if not self._closed:
            self._closed = True
            if self.response is not None:
                self.response.close()
            self.endpoint.breaker.leave()
            self.endpoint.leave()

    async def read_whole(self) -> None:
        """A plain answer. Raises UpstreamError where it is none."""
        raw = await read_up_to(self._content(), MAX_ANSWER_BYTES)
        try:
            whole = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise self._garbage("its answer is not JSON") from error
        if not isinstance(whole, dict) or not isinstance(whole.get("choices"), list):
            raise self._garbage("its answer has no choices")
        self.whole = whole
        self.endpoint.breaker.succeed()

    async def read_first(self) -> None:
        """The stream's first event. Raises UpstreamError where there is none."""
        self._events = self._read_events()
        try:
            self._first = await anext(self._events)
        except StopAsyncIteration:
            raise self._garbage("its stream is empty") from None
        if self._first.ends:
            raise self._garbage("its stream ended before it began")

    async def events(self) -> AsyncIterator[Event]:
        """Every event, the end's included. Raises UpstreamError."""
        assert self._first is not None
        assert self._events is not None
        yield self._first
        pause, name = self.endpoint.spec.first_token_timeout, self.endpoint.name
        deadline = time.monotonic() + self.endpoint.spec.total_timeout
        try:
            while True:
                left = min(pause, deadline - time.monotonic())
                try:
                    async with asyncio.timeout(left):
                        event = await anext(self._events)
                except StopAsyncIteration:
                    if not self._ended:
                        raise UpstreamError("broken", f"{name}: its stream broke off") from None
                    event = Event(DONE, {})  # some say no more after the finish reason
                except TimeoutError as error:
                    raise UpstreamError("timeout", f"{name}: its stream stopped") from error
                except aiohttp.ClientError as error:
                    raise UpstreamError("broken", f"{name}: {describe(error)}") from error
                yield event
                if event.ends:
                    self.endpoint.breaker.succeed()
                    return
        except UpstreamError:
            self.endpoint.breaker.fail(time.monotonic())
            raise

    async def _read_events(self) -> AsyncIterator[Event]:
        """Server-sent events (WHATWG HTML, 9.2): of each only its data, comments left out."""
        data: list[bytes] = []
        rest = b""
        async for chunk in self._content().iter_any():
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > MAX_EVENT_BYTES:
                raise self._garbage("an event of its stream is too long")
            for line in lines:
                line = line.rstrip(b"\r")
                if line.startswith(b"data:"):
                    data.append(line[5:].strip())
                elif not line and data:
                    yield self._event(b"\n".join(data))
                    data = []
        if rest.startswith(b"data:"):
            data.append(rest[5:].strip())
        if data:
            yield self._event(b"\n".join(data))

    def _event(self, data: bytes) -> Event:
        if data == DONE:
            return Event(data, {})
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self._garbage("an event of its stream is not JSON") from error
        if isinstance(parsed, dict) and "error" in parsed:
            told = parsed["error"]
            message = told.get("message") if isinstance(told, dict) else told
            raise UpstreamError("broken", f"{self.endpoint.name}: {str(message)[:300]}")
        if not isinstance(parsed, dict) or not isinstance(parsed.get("choices"), list):
            raise self._garbage("an event of its stream has no choices")
        self._ended = self._ended or is_last(parsed)
        return Event(data, parsed)

    def _content(self) -> aiohttp.StreamReader:
        assert self.response is not None
        return self.response.content

    def _garbage(self, message: str) -> UpstreamError:
        return UpstreamError("garbage", f"{self.endpoint.name}: {message}")


def is_last(parsed: Body) -> bool:
    """Whether an event finishes a choice."""
    choices = parsed["choices"]
    return any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)


async def read_up_to(content: aiohttp.StreamReader, limit: int) -> bytes:
    """All there is; cut off, and so no JSON any more, where it passes the limit (bytes)."""
    raw = bytearray()
    async for part in content.iter_any():
        raw += part
        if len(raw) > limit:
            break
    return bytes(raw[:limit])


async def refusal(name: str, response: aiohttp.ClientResponse) -> UpstreamError:
    """What a response other than 200 means."""
    status = response.status
    raw = await read_up_to(response.content, MAX_EVENT_BYTES)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    told = body.get("error") if isinstance(body, dict) else None
    words = told.get("message") if isinstance(told, dict) else told
    message = f"{name} answered {status}" + (f": {str(words)[:300]}" if words else "")
    if status == 429:
        return UpstreamError("rate_limited", message, status, body, retry_after(response.headers))
    if status >= 500 or status == 408:
        return UpstreamError("server_error", message, status, body)
    if status in (400, 413, 415, 422):
        return UpstreamError("invalid", message, status, body)
    # 401, 403, 404 and whatever else: its configuration, not the client's request, is at fault.
    return UpstreamError("refused", message, status, body)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, where the header says them; its date form is left to the breaker's own time."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86400 else None


def backoff(attempt: int, error: UpstreamError) -> float:
    """Seconds before the next attempt: what was asked for, or exponential with full jitter."""
    if error.retry_after is not None:
        return error.retry_after
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**attempt))


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
