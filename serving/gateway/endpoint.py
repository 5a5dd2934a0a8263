"""One candidate's upstream: its limits, its breaker, and one request to it over pooled HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Final

import aiohttp
import orjson
from limits import RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter
from yarl import URL

from models.catalog import Upstream
from serving.gateway.attempt import Attempt
from serving.gateway.breaker import Breaker
from serving.gateway.completion import Body
from serving.gateway.errors import (
    BrokenOff,
    Busy,
    ConnectFailed,
    InvalidRequest,
    OutOfResources,
    RateLimited,
    TimedOut,
    Unreadable,
    UpstreamError,
    UpstreamRefused,
)
from serving.gateway.failures import READ_ERRORS, Failures
from serving.gateway.reply import Reply
from serving.proxies import UnusableProxy, proxy_of

PATH: Final = "/chat/completions"


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
        self._proxy: URL | None = None
        self._proxy_error: str | None = None
        try:
            self._proxy = proxy_of(self._url)
        except UnusableProxy as error:
            self._proxy_error = str(error)
        self.failures = Failures(name, spec, self._url, self._proxy)

    @property
    def available(self) -> bool:
        """Whether a request may go to it now."""
        if not self.breaker.lets_through(time.monotonic()):
            return False
        return self.spec.requests_per_minute is None or self._limiter.test(self._rate, self.name)

    def headers(self) -> dict[str, str]:
        """Raises UpstreamError where the key's variable is not set, or cannot be sent."""
        headers = {"content-type": "application/json", **self.spec.headers}
        variable = self.spec.key_variable
        if variable is not None:
            key = os.environ.get(variable, "").strip()
            if not key:
                raise UpstreamRefused(f"{variable}, the key of {self.name}, is not set")
            if not (key.isascii() and key.isprintable()):
                message = (
                    f"{variable}, the key of {self.name}, has characters that no header may have"
                )
                raise UpstreamRefused(message)
            bearer = self.spec.key_header.lower() == "authorization"
            headers[self.spec.key_header] = f"Bearer {key}" if bearer else key
        return headers

    async def open(
        self, body: Body, trace: Mapping[str, str], attempt: Attempt, *, stream: bool
    ) -> Reply:
        """Send a request; of a stream, wait for the first event that says something.

        The caller closes the reply. What fails is counted against the candidate. Raises
        UpstreamError.
        """
        if self.spec.requests_per_minute is not None and not self._limiter.hit(
            self._rate, self.name
        ):
            raise Busy(f"{self.name} is at its per-minute limit")
        headers = {**self.headers(), **trace}
        await self._enter()
        now = time.monotonic()
        if not attempt.alone and self.breaker.state(now) == "open":
            # It was not when this request was routed: others failed, or one is trying it now.
            self.leave()
            raise Busy(f"{self.name} is left alone after failures")
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
            await self._begin(reply, sent, headers, attempt, stream=stream)
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
            raise Busy(f"{self.name} has a queue that did not move") from error

    def leave(self) -> None:
        if self._gate is not None:
            self._gate.release()

    async def _begin(
        self,
        reply: Reply,
        body: Body,
        headers: dict[str, str],
        attempt: Attempt,
        *,
        stream: bool,
    ) -> None:
        # Causes are left out of what is raised: they may quote a header.
        if self._proxy_error is not None:
            raise self.failures.error(UpstreamRefused, f": {self._proxy_error}")
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
                    raise await self.failures.of_response(reply.response)
                if stream:
                    await reply.read_opening()
                else:
                    await reply.read_whole()
        except aiohttp.ConnectionTimeoutError:
            limit = self.spec.connect_timeout
            raise self.failures.error(TimedOut, f": connecting took over {limit:g} s") from None
        except TimeoutError:
            what = "its first token" if stream else "an answer"
            raise self.failures.error(TimedOut, f": {what} took over {limit:g} s") from None
        except aiohttp.ClientHttpProxyError as error:
            raise self.failures.error(
                ConnectFailed, f": its proxy answered {error.status}"
            ) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            kind = ConnectFailed if reply.response is None else BrokenOff
            raise self.failures.of_client(error, kind) from None
        except READ_ERRORS as error:
            raise self.failures.of_client(error, Unreadable) from None

    def count(self, error: UpstreamError, ticket: int) -> None:
        """Hold an error against the candidate, where it is the candidate's."""
        now = time.monotonic()
        if isinstance(error, RateLimited):
            seconds = 1.0 if error.retry_after is None else error.retry_after
            self.breaker.pause(seconds, now, ticket)
        elif not isinstance(error, InvalidRequest | OutOfResources):
            self.breaker.fail(now, ticket)


def chat_url(base_url: str) -> URL:
    """Where completions are asked for; a query such as ``?api-version=…`` stays."""
    url = URL(base_url)
    path = url.raw_path.rstrip("/").removesuffix(PATH)
    return url.with_path(path + PATH, encoded=True, keep_query=True)


def is_answer(status: int) -> bool:
    """Whether a status says that an answer follows: not none (204, 205), nor a part of one (206)."""
    return 200 <= status < 300 and status not in (204, 205, 206)
