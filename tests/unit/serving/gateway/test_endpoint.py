"""One candidate's endpoint: each way to fail has its class, its words and its consequences."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import pytest
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from models.catalog import Upstream
from serving.gateway.attempt import Attempt, tracing
from serving.gateway.endpoint import Endpoint, chat_url
from serving.gateway.errors import (
    BrokenOff,
    Busy,
    ConnectFailed,
    InvalidRequest,
    RateLimited,
    ServerError,
    TimedOut,
    Unreadable,
    UpstreamError,
    UpstreamRefused,
)
from upstreams import LIMITS, Speak, completion, raw_server, response, says

BODY = {"model": "mixllm", "messages": [{"role": "user", "content": "hello"}]}
Use = Callable[[Endpoint], Awaitable[Any]]


def with_endpoint(speak: Speak, use: Use, **limits: Any) -> tuple[Any, list[tuple[bytes, bytes]]]:
    """What ``use`` makes of an endpoint whose server speaks so, and the requests that came."""

    async def run() -> tuple[Any, list[tuple[bytes, bytes]]]:
        async with (
            raw_server(speak) as server,
            aiohttp.ClientSession(trace_configs=[tracing()]) as session,
        ):
            spec = Upstream(base_url=f"{server.address}/v1", **{**LIMITS, **limits})
            limiter = MovingWindowRateLimiter(MemoryStorage())
            return await use(Endpoint("first", spec, session, limiter)), server.requests

    return asyncio.run(run())


async def failure(endpoint: Endpoint, attempt: Attempt | None = None) -> UpstreamError:
    with pytest.raises(UpstreamError) as failed:
        await endpoint.open(BODY, {}, attempt or Attempt(), stream=False)
    return failed.value


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"
REFUSED = {"error": {"message": "this model's context length is 4096 tokens"}}


@pytest.mark.parametrize(
    ("speak", "kind", "again", "may_cost", "counted"),
    [
        (says(response({}, 500)), ServerError, True, False, 1),
        (says(response({}, 504)), ServerError, True, True, 1),
        (says(response({}, 429, more="retry-after: 1\r\n")), RateLimited, True, False, 0),
        (says(response({}, 429, more="retry-after: 60\r\n")), RateLimited, False, False, 0),
        (says(response(REFUSED, 400)), InvalidRequest, False, False, 0),
        (says(response({}, 401)), UpstreamRefused, False, False, 1),
        (says(response(b"", 307, more="location: /x\r\n")), UpstreamRefused, False, False, 1),
        (says(response(b"<html>busy</html>")), Unreadable, True, True, 1),
        (says(CUT), BrokenOff, True, True, 1),
        (hang, TimedOut, False, True, 1),
    ],
)
def test_each_failure_has_its_class_and_its_consequences(
    speak: Speak, kind: type[UpstreamError], again: bool, may_cost: bool, counted: int
) -> None:
    async def use(endpoint: Endpoint) -> tuple[UpstreamError, int]:
        return await failure(endpoint), endpoint.breaker.failures

    (error, failures), requests = with_endpoint(speak, use, total_timeout=0.3)
    assert len(requests) == 1
    assert type(error) is kind
    assert (error.again, error.may_cost, failures) == (again, may_cost, counted)
    assert str(error).startswith("first")


def test_no_connection_is_an_error_that_nobody_charges_for() -> None:
    async def use(endpoint: Endpoint) -> tuple[UpstreamError, Attempt]:
        endpoint._url = endpoint._url.with_port(1)
        attempt = Attempt()
        return await failure(endpoint, attempt), attempt

    (error, attempt), requests = with_endpoint(hang, use)
    assert (type(error), error.may_cost, attempt.sent, requests) == (
        ConnectFailed,
        False,
        False,
        [],
    )


def test_the_body_is_sent_with_the_upstream_s_name_for_the_model() -> None:
    async def use(endpoint: Endpoint) -> Any:
        reply = await endpoint.open(
            BODY, {"traceparent": "00-1"}, attempt := Attempt(), stream=False
        )
        reply.close()
        reply.close()  # a second time does nothing
        return reply.whole, attempt.sent

    (whole, sent), ((head, body),) = with_endpoint(
        says(response(completion("fine"))), use, model="the-model"
    )
    assert sent
    assert whole["choices"][0]["message"]["content"] == "fine"
    assert orjson.loads(body) == {**BODY, "model": "the-model"}
    assert b"traceparent: 00-1" in head


def test_the_key_is_sent_and_stays_out_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "s3cret-of-mine")
    echoed = response({"error": {"message": "no such key: s3cret-of-mine"}}, 401)
    (error, ((head, _),)) = with_endpoint(says(echoed), failure, key_variable="A_KEY")
    assert b"authorization: bearer s3cret-of-mine" in head.lower()
    assert "no such key" in str(error)
    assert "s3cret" not in f"{error}{error.words}"
    monkeypatch.delenv("A_KEY")
    error, requests = with_endpoint(says(echoed), failure, key_variable="A_KEY")
    assert (str(error), requests) == ("A_KEY, the key of first, is not set", [])


def test_beyond_its_limits_it_is_not_asked() -> None:
    async def per_minute(endpoint: Endpoint) -> tuple[UpstreamError, bool]:
        (await endpoint.open(BODY, {}, Attempt(), stream=False)).close()
        return await failure(endpoint), endpoint.available

    (error, available), requests = with_endpoint(
        says(response(completion())), per_minute, requests_per_minute=1
    )
    assert (type(error), str(error)) == (Busy, "first is at its per-minute limit")
    assert (available, len(requests)) == (False, 1)

    async def at_once(endpoint: Endpoint) -> tuple[UpstreamError, bool]:
        reply = await endpoint.open(BODY, {}, Attempt(), stream=False)
        error = await failure(endpoint)
        reply.close()
        (await endpoint.open(BODY, {}, Attempt(), stream=False)).close()
        return error, endpoint.available

    (error, available), requests = with_endpoint(
        says(response(completion())), at_once, concurrency=1, first_token_timeout=0.1
    )
    assert (type(error), available, len(requests)) == (Busy, True, 2)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://host/v1", "http://host/v1/chat/completions"),
        ("http://host/v1/", "http://host/v1/chat/completions"),
        ("http://host/v1/chat/completions", "http://host/v1/chat/completions"),
        ("http://host/a%2Fb?api-version=1", "http://host/a%2Fb/chat/completions?api-version=1"),
    ],
)
def test_completions_are_asked_for_under_the_base_url(base: str, url: str) -> None:
    assert str(chat_url(base)) == url
