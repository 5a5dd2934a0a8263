"""One candidate's upstream: its limits, its breaker, and one request to it over pooled HTTP."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from aiohttp.http_exceptions import HttpProcessingError
from limits import RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter
from yarl import URL

from models.catalog import Upstream
from serving.gateway.breaker import Breaker
from serving.gateway.completion import Body
from serving.gateway.errors import UpstreamError, retry_after
from serving.gateway.events import BOM, DONE, EventParser, ServerEvent
from serving.gateway.redaction import Redactor
from serving.gateway.upstream_answers import (
    NOTHING,
    as_chunk,
    parse_json,
    read_chunk,
    read_completion,
    says_something,
)
from serving.gateway.upstream_errors import ErrorWords, kind_of, read_error, read_error_body
from serving.proxies import UnusableProxy, proxy_of

MAX_PLAIN_BYTES: Final = 16 * 2**20
MAX_STREAM_BYTES: Final = 64 * 2**20
MAX_ERROR_BYTES: Final = 64 * 2**10
# Events kept until one says something: the role, the filter's verdict on the prompt.
MAX_OPENING: Final = 100
# Parsed at once; others have their turn after so many bytes.
PIECE_BYTES: Final = 16 * 2**10
ERROR_BODY_SECONDS: Final = 5.0
# What comes after an answer's finish reason, its usage, is waited for so long.
AFTER_FINISH_SECONDS: Final = 5.0
PATH: Final = "/chat/completions"
SECRET_NAMES: Final = re.compile(
    r"auth|key|token|secret|passw|cookie|credential|sig", re.IGNORECASE
)
# What reading a response may raise that is the upstream's doing.
READ_ERRORS: Final = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, zlib.error)
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


@dataclass
class Attempt:
    """One request to a candidate.

    alone: whether no other candidate is left, so that it is asked though its breaker is open.
    sent: whether its head has gone out.
    """

    alone: bool = True
    sent: bool = False


async def note_sent(session: Any, context: Any, parameters: Any) -> None:
    """Told by the HTTP client when a request's head has gone out."""
    if isinstance(context.trace_request_ctx, Attempt):
        context.trace_request_ctx.sent = True


def tracing() -> aiohttp.TraceConfig:
    """Lets a session tell an ``Attempt`` that it was sent."""
    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(note_sent)
    return config


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
        self._url = chat_url(spec.base_url)
        self._gate = asyncio.Semaphore(spec.concurrency) if spec.concurrency else None
        self._rate = RateLimitItemPerMinute(spec.requests_per_minute or 1)
        self._limiter = limiter
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=spec.connect_timeout)
        self._redactor: tuple[tuple[str, ...], Redactor] | None = None
        self._proxy: URL | None = None
        self._proxy_error: str | None = None
        try:
            self._proxy = proxy_of(self._url)
        except UnusableProxy as error:
            self._proxy_error = str(error)

    @property
    def available(self) -> bool:
        """Whether a request may go to it now."""
        if not self.breaker.lets_through(time.monotonic()):
            return False
        return self.spec.requests_per_minute is None or self._limiter.test(self._rate, self.name)

    @property
    def redactor(self) -> Redactor:
        """Knows every secret that is sent to the upstream, or to the proxy before it."""
        spec = self.spec
        secrets = [os.environ.get(spec.key_variable, "").strip() if spec.key_variable else ""]
        secrets += [value for name, value in spec.headers.items() if SECRET_NAMES.search(name)]
        secrets += [value for name, value in self._url.query.items() if SECRET_NAMES.search(name)]
        secrets += [self._proxy.password] if self._proxy and self._proxy.password else []
        words = tuple(word for secret in secrets for word in {secret, *secret.split()})
        if self._redactor is None or self._redactor[0] != words:
            self._redactor = words, Redactor(words)
        return self._redactor[1]

    def error(
        self,
        kind: str,
        message: str,
        status: int | None = None,
        words: ErrorWords | None = None,
        retry_after: float | None = None,
    ) -> UpstreamError:
        """An error of this candidate, its message cleaned of secrets."""
        message = f"{self.name}{self.redactor.clean(message)}"
        return UpstreamError(kind, message, status, words, retry_after)

    def read_failure(self, error: BaseException, kind: str) -> UpstreamError:
        """What an exception of the HTTP client means."""
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, OSError) and inner.errno in EXHAUSTED:
                return self.error(
                    "exhausted",
                    f" was not asked: this service is out of resources ({inner.strerror})",
                )
            inner = inner.__cause__ or getattr(inner, "os_error", None)
        return self.error(kind, f": {describe(error)}")

    def headers(self) -> dict[str, str]:
        """Raises UpstreamError where the key's variable is not set, or cannot be sent."""
        headers = {"content-type": "application/json", **self.spec.headers}
        variable = self.spec.key_variable
        if variable is not None:
            key = os.environ.get(variable, "").strip()
            if not key:
                raise UpstreamError("refused", f"{variable}, the key of {self.name}, is not set")
            if not (key.isascii() and key.isprintable()):
                message = (
                    f"{variable}, the key of {self.name}, has characters that no header may have"
                )
                raise UpstreamError("refused", message)
            bearer = self.spec.key_header.lower() == "authorization"
            headers[self.spec.key_header] = f"Bearer {key}" if bearer else key
        return headers

    async def open(
        self, body: Body, stream: bool, trace: Mapping[str, str], attempt: Attempt
    ) -> Reply:
        """Send a request; of a stream, wait for the first event that says something.

        The caller closes the reply. What fails is counted against the candidate. Raises
        UpstreamError.
        """
        if self.spec.requests_per_minute is not None and not self._limiter.hit(
            self._rate, self.name
        ):
            raise UpstreamError("busy", f"{self.name} is at its per-minute limit")
        headers = {**self.headers(), **trace}
        await self._enter()
        now = time.monotonic()
        if not attempt.alone and self.breaker.state(now) == "open":
            # It was not when this request was routed: others failed, or one is trying it now.
            self.leave()
            raise UpstreamError("busy", f"{self.name} is left alone after failures")
        choices = body.get("n")
        reply = Reply(self, self.breaker.enter(now), choices if isinstance(choices, int) else 1)
        try:
            sent = {**body, "model": self.spec.model or self.name}
            if stream and self.spec.stream_usage:
                wanted = body.get("stream_options")
                sent["stream_options"] = {
                    **(wanted if isinstance(wanted, dict) else {}),
                    "include_usage": True,
                }
            await self._begin(reply, sent, stream, headers, attempt)
        except BaseException as error:
            if isinstance(error, UpstreamError):
                self.count(error, reply.ticket)
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

    async def _begin(
        self,
        reply: Reply,
        body: Body,
        stream: bool,
        headers: dict[str, str],
        attempt: Attempt,
    ) -> None:
        # Causes are left out of what is raised: they may quote a header.
        if self._proxy_error is not None:
            raise self.error("refused", f": {self._proxy_error}")
        limit = self.spec.first_token_timeout if stream else self.spec.total_timeout
        try:
            async with asyncio.timeout(limit):
                reply.response = await self._session.post(
                    self._url,
                    data=orjson.dumps(body),
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                    proxy=self._proxy,
                    trace_request_ctx=attempt,
                )
                if not is_answer(reply.response.status):
                    raise await self._refusal(reply.response)
                if stream:
                    await reply.read_opening()
                else:
                    await reply.read_whole()
        except aiohttp.ConnectionTimeoutError:
            limit = self.spec.connect_timeout
            raise self.error("timeout", f": connecting took over {limit:g} s") from None
        except TimeoutError:
            what = "its first token" if stream else "an answer"
            raise self.error("timeout", f": {what} took over {limit:g} s") from None
        except aiohttp.ClientHttpProxyError as error:
            raise self.error("connect", f": its proxy answered {error.status}") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            kind = "connect" if reply.response is None else "broken"
            raise self.read_failure(error, kind) from None
        except READ_ERRORS as error:
            raise self.read_failure(error, "garbage") from None

    async def _refusal(self, response: aiohttp.ClientResponse) -> UpstreamError:
        """What a response that is no answer means."""
        status = response.status
        if 300 <= status < 400:
            message = " redirects; nobody follows it: give base_url the address it leads to"
            return self.error("refused", f" answered {status}:{message}", status)
        raw = await read_error_bytes(response)
        words = read_error_body(raw, self.redactor)
        message = f" answered {status}" + (f": {words.message}" if words.message else "")
        if status in (404, 405) and self._url.path == PATH:
            message += " (its base_url has no path; most servers answer under /v1)"
        kind = kind_of(status, words)
        wait = retry_after(response.headers) if kind in ("rate_limited", "server_error") else None
        return self.error(kind, message, status, words, wait)

    def count(self, error: UpstreamError, ticket: int) -> None:
        """Hold an error against the candidate, where it is the candidate's."""
        now = time.monotonic()
        if error.kind == "rate_limited":
            seconds = 1.0 if error.retry_after is None else error.retry_after
            self.breaker.pause(seconds, now, ticket)
        elif error.kind not in ("invalid", "exhausted"):
            self.breaker.fail(now, ticket)


class Reply:
    """An answer on its way. Close it when done.

    ticket: the breaker's. choices: how many were asked for. whole: a plain answer. unfinished: the
    indexes of a stream's choices that have no finish reason yet.
    """

    def __init__(self, endpoint: Endpoint, ticket: int, choices: int = 1) -> None:
        self.endpoint, self.ticket = endpoint, ticket
        self.response: aiohttp.ClientResponse | None = None
        self.whole: Body = {}
        self.unfinished: set[int] = set()
        self._wanted = choices
        self._redactor = endpoint.redactor
        self._finished: set[int] = set()
        self._deadline = time.monotonic() + endpoint.spec.total_timeout
        self._opening: list[Body] = []
        self._chunks: AsyncIterator[Body] | None = None
        self._done = False  # the end was said
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
    def ended(self) -> bool:
        """Whether the end was said, or every choice that began is finished."""
        return self._done or bool(self._finished and not self.unfinished)

    @property
    def complete(self) -> bool:
        """Whether nothing of the answer is missing, so that what fails now takes nothing from it."""
        return self._done or (self.ended and len(self._finished) >= self._wanted)

    async def read_whole(self) -> None:
        """A plain answer. Raises UpstreamError where it is none."""
        raw = bytearray()
        async for piece in self._pieces(MAX_PLAIN_BYTES):
            raw += piece
        self.whole = self._completion(bytes(raw))
        self.endpoint.breaker.succeed()

    async def read_opening(self) -> None:
        """A stream's events up to the first that says something. Raises UpstreamError."""
        self._chunks = self._read_chunks()
        async for chunk in self._chunks:
            self._opening.append(chunk)
            if says_something(chunk) or len(self._opening) >= MAX_OPENING:
                return
        raise self._garbage("its stream has no answer")

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
            async with asyncio.timeout(min(left, AFTER_FINISH_SECONDS) if self.complete else left):
                return await anext(chunks)
        except StopAsyncIteration:
            if self.ended:
                return None
            error = self.endpoint.error("broken", ": its stream broke off")
        except TimeoutError:
            error = self.endpoint.error("timeout", ": its stream stopped")
        except READ_ERRORS as cause:
            error = self.endpoint.read_failure(cause, "broken")
        except UpstreamError as said:
            error = said
        if self.complete:
            return None
        raise error from None

    async def _pieces(self, limit: int) -> AsyncIterator[bytes]:
        """The body in small pieces. Raises UpstreamError where it passes the limit (bytes)."""
        assert self.response is not None
        total = 0
        async for part in self.response.content.iter_any():
            total += len(part)
            if total > limit:
                raise self._garbage(f"its answer is over {limit} bytes")
            for start in range(0, len(part), PIECE_BYTES):
                if start:
                    await asyncio.sleep(0)
                yield part[start : start + PIECE_BYTES]

    async def _read_chunks(self) -> AsyncIterator[Body]:
        """A stream's chunks; of a server that does not stream, its answer as one."""
        parser = EventParser()
        plain = bytearray()
        begun = seen = False
        head = b""
        async for piece in self._pieces(MAX_STREAM_BYTES):
            head = head or piece
            if not begun:
                piece = piece.lstrip(BOM + b" \t\r\n")
                begun = bool(piece)
                if piece[:1] in (b"{", b"[", b"<"):
                    plain += piece
                    continue
            if plain:
                plain += piece
                if len(plain) > MAX_PLAIN_BYTES:
                    raise self._garbage(f"its answer is over {MAX_PLAIN_BYTES} bytes")
                continue
            for event in parser.feed(piece):
                seen = True
                for chunk in self._read_event(event):
                    yield chunk
                if self._done:
                    return
        if plain:
            yield self._note(as_chunk(self._completion(bytes(plain))))
        for event in parser.end():
            seen = True
            for chunk in self._read_event(event):
                yield chunk
        if head and not plain and not seen:
            raise self._garbage(f"its stream has no events{self._quoted(head)}")

    def _read_event(self, event: ServerEvent) -> Iterator[Body]:
        """The chunks of one event: one, or none of a ping. Raises UpstreamError."""
        redactor = self._redactor
        data = redactor.clean_answer(event.data).strip()
        if data == DONE:
            self._done = True
            return
        parsed = parse_json(data)
        if parsed is NOTHING:
            yield from self._read_lines(event, data)
            return
        words = read_error(parsed, redactor, named=event.name == "error")
        if words is not None:
            if isinstance(parsed, dict):
                chunk = without_error(parsed)
                if says_something(chunk) or isinstance(chunk.get("usage"), dict):
                    yield self._note(chunk)
            raise self._failed(words)
        if isinstance(parsed, dict):
            chunk = read_chunk(parsed)
            if chunk["choices"] or isinstance(chunk.get("usage"), dict):
                yield self._note(chunk)

    def _read_lines(self, event: ServerEvent, data: bytes) -> Iterator[Body]:
        """Of an event that is no JSON: events without blank lines between them, a ping in words."""
        if event.name == "error":
            raise self._failed(read_error_body(data, self._redactor))
        if b"\n" in data:
            for line in data.split(b"\n"):
                if not self._done:
                    yield from self._read_event(ServerEvent(event.name, line))
            return
        inner = re.sub(rb"^(?:data:\s*)+", b"", data)
        if inner != data:
            yield from self._read_event(ServerEvent(event.name, inner))
        elif data[:1] in (b"{", b"["):
            raise self._garbage("an event of its stream is not JSON")

    def _note(self, chunk: Body) -> Body:
        """Keep which choices have begun, and which are finished."""
        for choice in chunk["choices"]:
            if choice.get("finish_reason"):
                self._finished.add(choice["index"])
            elif choice["index"] not in self._finished:
                self.unfinished.add(choice["index"])
        self.unfinished -= self._finished
        return chunk

    def _completion(self, raw: bytes) -> Body:
        """A plain answer's JSON. Raises UpstreamError where it is none."""
        redactor = self._redactor
        parsed = parse_json(redactor.clean_answer(raw))
        if parsed is not NOTHING and (words := read_error(parsed, redactor)) is not None:
            raise self._failed(words)
        whole = read_completion(parsed)
        if whole is not None:
            return whole
        if isinstance(parsed, dict) and "choices" in parsed:
            raise self._garbage("its answer has no choices")
        raise self._garbage(f"its answer is no chat completion{self._quoted(raw)}")

    def _quoted(self, raw: bytes) -> str:
        """The words of what is no answer."""
        words = read_error_body(raw[:MAX_ERROR_BYTES], self._redactor)
        return f": {words.message}" if words.message else ""

    def _failed(self, words: ErrorWords) -> UpstreamError:
        """An error that came where an answer should."""
        kind = kind_of(words.status or 500, words)
        status = words.status if words.status is not None and words.status < 500 else None
        message = f": {words.message or words.code or words.type or 'an error without words'}"
        return self.endpoint.error(kind, message, status, words)

    def _garbage(self, message: str) -> UpstreamError:
        return self.endpoint.error("garbage", f": {message}")


def chat_url(base_url: str) -> URL:
    """Where completions are asked for; a query such as ``?api-version=…`` stays."""
    url = URL(base_url)
    path = url.raw_path.rstrip("/").removesuffix(PATH)
    return url.with_path(path + PATH, encoded=True, keep_query=True)


def is_answer(status: int) -> bool:
    """Whether a status says that an answer follows: not none (204, 205), nor a part of one (206)."""
    return 200 <= status < 300 and status not in (204, 205, 206)


def without_error(parsed: Body) -> Body:
    """What an event with an error has of the answer."""
    chunk = read_chunk({key: value for key, value in parsed.items() if key != "error"})
    choices = [{k: v for k, v in c.items() if k != "error"} for c in chunk["choices"]]
    return {**chunk, "choices": [{**choice, "finish_reason": None} for choice in choices]}


async def read_error_bytes(response: aiohttp.ClientResponse) -> bytes:
    """What an error says, as far as it comes soon and is readable."""
    raw = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            async for part in response.content.iter_any():
                raw += part
                if len(raw) > MAX_ERROR_BYTES:
                    break
    except READ_ERRORS:  # the status says enough
        pass
    return bytes(raw[:MAX_ERROR_BYTES])


def describe(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
