"""What upstreams answer instead of a chat completion, and what comes of it, over HTTP on loopback."""

import asyncio
import contextlib
import functools
import gzip
import resource
import socket
import zlib
from typing import Any

import orjson
import pytest

from models.catalog import Upstream
from models.decision.waiting import WaitingTracker
from serving.gateway.breaker import FAILURES, OPEN_SECONDS
from serving.gateway.completion import Job
from upstreams import (
    LIMITS,
    Gateway,
    Outcome,
    ask,
    ask_raw,
    ask_two,
    completion,
    entry_of,
    raw_server,
    response,
    says,
    streamed,
)

KEY = "sk-upstream-Zq7wLm2Kd0Pt5xY9aB3"
CONTEXT = {
    "message": "maximum context length is 8192",
    "type": "invalid_request_error",
    "code": "context_length_exceeded",
    "param": "messages",
}


def shown(outcome: Outcome) -> str:
    """Everything of an outcome that a client, a log, a trace or the database may get."""
    assert outcome.job is not None
    parts: list[Any] = [outcome.raw, outcome.answer, outcome.job.attempts, outcome.job.told]
    error: BaseException | None = outcome.error
    while error is not None:
        parts += [repr(error), vars(error), [vars(e) for e in getattr(error, "errors", ())]]
        parts += [vars(e.words) for e in getattr(error, "errors", ())]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return repr(parts)


NO_ANSWER = {
    "200 with an error": response({"error": {"message": "upstream exploded", "code": 500}}),
    "200 with an error as text": response({"error": "upstream exploded"}),
    "200 with details": response({"detail": "upstream exploded"}),
    "an error beside choices": response(completion(error={"message": "upstream exploded"})),
    "an error in a choice": response(
        {"choices": [{"finish_reason": "error", "error": {"message": "upstream exploded"}}]}
    ),
    "a page": response(b"<html><body>upstream exploded</body></html>", kind="text/html"),
    "words": response(b"upstream exploded", kind="text/plain"),
    "no choice": response({"choices": []}),
    "choices: null": response({"choices": None}),
    "a choice without a message": response({"choices": [None, {"message": None}]}),
    "null": response(b"null"),
    "nothing": response(b""),
    "half of it": response(orjson.dumps(completion())[:-9]),
    "no content": response(b"", 204),
    "a part of it": response(completion(), 206),
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "cut in a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{",
    "less than its length": b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a header of 1 MB": response(completion(), more=f"x-large: {'y' * 2**20}\r\n"),
    "100,000 headers": response(completion(), more="x: y\r\n" * 100_000),
    "an encoding that it has not": response(completion(), more="content-encoding: gzip\r\n"),
    "an encoding of nobody": response(completion(), more="content-encoding: br\r\n"),
    "too deep": response(b'{"choices": [{"message": {"content": ' + b"[" * 600 + b"]" * 600 + b"}}]}"),
    "400": response({"error": CONTEXT}, 400),
    "a key error as 400": response({"error": {"message": "invalid api key"}}, 400),
    "401": response({"error": {"message": "who?"}}, 401),
    "403": response(b"", 403),
    "404": response(b"404 page not found", 404),
    "422": response({"detail": [{"loc": ["body", "n"], "msg": "too large"}]}, 422),
    "418": response({}, 418),
    "500": response(b"", 500),
    "529": response({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, 529),
    "999": response(b"", 999),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ANSWER)
@pytest.mark.parametrize("stream", [False, True])
def test_another_answers(name: str, stream: bool) -> None:
    outcome = ask_two(NO_ANSWER[name], stream)
    assert (outcome.error, outcome.text) == (None, "second")
    assert outcome.job is not None
    said = outcome.job.attempts[0]["error"]
    assert ("upstream exploded" in said) == (b"upstream exploded" in NO_ANSWER[name])
    at_fault = name in ("400", "422")
    assert outcome.failures["first"] == (0 if at_fault else 1), "is it the request or the LLM?"


ANSWERS = {
    "plain": response(completion()),
    "error: null": response(completion(error=None)),
    "a byte order mark": response(b"\xef\xbb\xbf" + orjson.dumps(completion())),
    "white space first": response(b"\n \n" * 1000 + orjson.dumps(completion())),
    "NaN": response(orjson.dumps(completion(score=0)).replace(b'"score":0', b'"score":NaN')),
    "text/plain": response(completion(), kind="text/plain"),
    "201": response(completion(), 201),
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n\r\n" + orjson.dumps(completion()),
    "after 100 and 103": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
    + response(completion()),
    "chunked, with trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n"
    b"x-trailer: y\r\n\r\n" % (len(orjson.dumps(completion())), orjson.dumps(completion())),
    "gzip": response(
        gzip.compress(orjson.dumps(completion()), mtime=0), more="content-encoding: gzip\r\n"
    ),
    "deflate": response(
        zlib.compress(orjson.dumps(completion())), more="content-encoding: deflate\r\n"
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_one_in_any_wrapping(name: str) -> None:
    outcome = ask_raw(ANSWERS[name])
    assert (outcome.error, outcome.text) == (None, "fine")
    orjson.dumps(outcome.answer)


def test_where_all_say_the_request_is_at_fault_the_first_ones_words_are_kept() -> None:
    async def run() -> Outcome:
        bad, worse = response({"error": CONTEXT}, 400), response({"detail": "no"}, 422)
        async with raw_server(says(bad)) as first, raw_server(says(worse)) as second:
            specs = {
                name: Upstream(base_url=f"{server.address}/v1", **LIMITS)
                for name, server in (("first", first), ("second", second))
            }
            return await ask(specs, times=6)

    outcome = asyncio.run(run())
    best: Any = outcome.error.best  # type: ignore[union-attr]
    assert (best.code, best.status) == ("invalid", 400)
    words = best.words
    assert {"message": words.message, "type": words.type, "code": words.code,
            "param": words.param} == CONTEXT  # fmt: skip
    assert outcome.failures == {"first": 0, "second": 0}, "no breaker is moved"
    assert outcome.job is not None
    assert [a["outcome"] for a in outcome.job.attempts] == ["invalid", "invalid"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_redirects_are_not_followed(status: int, stream: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv("KEY_OF_FIRST", KEY)

    async def run() -> tuple[Outcome, int]:
        async with raw_server(says(response(completion("metadata")))) as other:
            where = f"location: {other.address}/latest/meta-data\r\n"
            async with raw_server(says(response(b"", status, more=where))) as first:
                spec = Upstream(
                    base_url=f"{first.address}/v1", key_variable="KEY_OF_FIRST", **LIMITS
                )
                return await ask({"first": spec}, stream), len(other.requests)

    outcome, elsewhere = asyncio.run(run())
    assert elsewhere == 0
    assert f"answered {status}: redirects" in str(outcome.error)
    assert "meta-data" not in shown(outcome)


ECHOES = {
    "401": response({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401),
    "401 in part": response({"error": {"message": f"bad key sk-...{KEY[-4:]}", "code": KEY}}, 401),
    "401 in words": response(f"authorization: Bearer {KEY}".encode(), 401),
    "400 with a header": response({"detail": {"headers": {"authorization": f"Bearer {KEY}"}}}, 400),
    "422": response({"detail": [{"loc": ["header", KEY], "msg": "bad", "input": KEY}]}, 422),
    "200": response({"error": {"message": KEY, "type": KEY, "param": KEY}}),
    "a bad header": response(completion(), more=f"x{KEY}\r\n"),
    "a bad header value": response(completion(), more=f"x: \x01{KEY}\r\n"),
    "a bad status line": f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    "a bad length": f"HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n".encode(),
    "a bad chunk": f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
    "an encoding": response(completion(), more=f"content-encoding: {KEY}\r\n"),
    "an answer": response(completion(f"your key is {KEY}")),
    "a stream": streamed(
        b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n'
        b'data: {"error": {"message": "bad key %b"}}\n\n' % (KEY.encode(), KEY.encode())
    ),
    "a redirect": response(b"", 302, more=f"location: http://127.0.0.1:1/{KEY}\r\n"),
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("stream", [False, True])
def test_no_key_is_shown_to_anybody(name: str, stream: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv("KEY_OF_FIRST", KEY)
    monkeypatch.delenv("NO_KEY", raising=False)

    async def run() -> Outcome:
        async with raw_server(says(ECHOES[name])) as server:
            spec = Upstream(
                base_url=f"{server.address}/v1",
                key_variable="KEY_OF_FIRST",
                headers={"x-api-key": f"{KEY[::-1]}"},
                **LIMITS,
            )
            outcome = await ask({"first": spec}, stream)
            assert f"authorization: bearer {KEY}".encode().lower() in server.requests[0][0].lower()
            return outcome

    text = shown(asyncio.run(run()))
    assert KEY not in text
    assert KEY[::-1] not in text
    assert KEY[-8:] not in text
    assert f"...{KEY[-4:]}" not in text


@functools.cache
def bomb(encoding: str) -> tuple[bytes, bytes]:
    """The head of a response, and little that becomes 200 MiB."""
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\n\r\n".encode()
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    zeros = b" " * 2**20
    return head, b"".join(packer.compress(zeros) for _ in range(200)) + packer.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("status", [b"200", b"500"])
def test_what_unpacks_to_more_is_bounded(encoding: str, status: bytes) -> None:
    head, packed = bomb(encoding)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = ask_raw(head.replace(b"200", status) + packed, total_timeout=20)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    said = "over 16777216 bytes" if status == b"200" else "answered 500"
    assert said in str(outcome.error)
    assert grown < 150 * 1024, "KiB"


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("/v1", "POST /v1/chat/completions "),
        ("/v1/", "POST /v1/chat/completions "),
        ("", "POST /chat/completions "),
        ("/v1/chat/completions", "POST /v1/chat/completions "),
        ("/v1/chat/completions/", "POST /v1/chat/completions "),
        ("/openai/deployments/a%2Fb?api-version=2024-10-21",
         "POST /openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21 "),
        ("/v1/chat/completions?a=1&b=%20", "POST /v1/chat/completions?a=1&b=%20 "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_base_urls_lead_to_completions(base: str, line: str, host: str) -> None:
    async def run() -> str:
        async with raw_server(says(response(completion()))) as server:
            listener = None
            if host == "[::1]":
                listener = await asyncio.start_server(server.serve, "::1", server.port)
            spec = Upstream(base_url=f"http://{host}:{server.port}{base}", **LIMITS)
            assert (await ask({"first": spec})).text == "fine"
            if listener is not None:
                listener.close()
            return server.requests[0][0].decode()

    assert asyncio.run(run()).startswith(line)


def test_a_base_url_without_a_path_gets_a_hint() -> None:
    async def run() -> Outcome:
        async with raw_server(says(response(b"404 page not found", 404))) as server:
            return await ask({"first": Upstream(base_url=server.address, **LIMITS)})

    assert "most servers answer under /v1" in str(asyncio.run(run()).error)


def test_cookies_do_not_go_from_one_llm_to_another() -> None:
    async def run() -> bytes:
        answer = response(completion(), more="set-cookie: session=secret; path=/\r\n")
        async with raw_server(says(answer)) as server:
            spec = Upstream(base_url=f"{server.address}/v1", **LIMITS)
            await ask({"first": spec}, times=2)
            return server.requests[1][0]

    assert b"cookie" not in asyncio.run(run()).lower()


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_is_reached_by_the_proxy(stream: bool, monkeypatch: Any) -> None:
    async def run() -> tuple[Outcome, bytes]:
        async with raw_server(says(response(completion()))) as proxy:
            address = f"127.0.0.1:{proxy.port}"
            monkeypatch.setenv("HTTP_PROXY", f"http://me:{KEY}@{address}")
            spec = Upstream(base_url="http://llm.invalid/v1", **LIMITS)
            return await ask({"first": spec}, stream), proxy.requests[0][0]

    outcome, head = asyncio.run(run())
    assert outcome.text == "fine"
    assert head.startswith(b"POST http://llm.invalid/v1/chat/completions ")
    assert b"proxy-authorization: basic " in head.lower()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_no_answer(scheme: str, monkeypatch: Any) -> None:
    async def run() -> Outcome:
        async with raw_server(says(response(b"denied", 407))) as proxy:
            value = f"http://me:{KEY}@127.0.0.1:{proxy.port}"
            monkeypatch.setenv(f"{scheme.upper()}_PROXY", value)
            return await ask({"first": Upstream(base_url=f"{scheme}://llm.invalid/v1", **LIMITS)})

    outcome = asyncio.run(run())
    assert "407" in str(outcome.error)
    assert KEY not in shown(outcome)


def test_loopback_needs_no_proxy(monkeypatch: Any) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask_raw(response(completion())).text == "fine"


def test_out_of_file_descriptors_is_not_the_llms_fault(monkeypatch: Any) -> None:
    async def run() -> tuple[Outcome, Outcome]:
        async with raw_server(says(response(completion()))) as server:
            spec = Upstream(base_url=f"{server.address}/v1", **LIMITS)
            assert (await ask({"first": spec})).text == "fine"
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            held = [socket.socket()]
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[0].fileno() + 20, limits[1]))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        held.append(socket.socket())
                starved = await ask({"first": spec})
            finally:
                for one in held:
                    one.close()
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return starved, await ask({"first": spec})

    starved, recovered = asyncio.run(run())
    assert "out of resources" in str(starved.error)
    assert starved.failures == {"first": 0}
    assert recovered.text == "fine"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "when",
    [
        "Mon, 01 Jan 99999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 0001 00:00:00 +0100",
        "nan",
        "-1",
        "9" * 400,
        "",
    ],
)
def test_a_retry_after_that_is_no_time_is_none(when: str, stream: bool) -> None:
    outcome = ask_two(
        response({"error": "slow down"}, 429, more=f"retry-after: {when}\r\n"), stream
    )
    assert outcome.text == "second"


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


LIKELY = (10 * 1.0 + 1024 * 10.0) / 1e6  # USD at the prices of upstreams.entry_of


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("speak", "lost"),
    [
        (silence, LIKELY),
        (says(response({"error": "gateway timeout"}, 504)), LIKELY),
        (says(response(orjson.dumps(completion())[:-9])), LIKELY),
        (hang_up, None),
        (says(response({"error": "no such key"}, 401)), None),
        (says(response({"error": "slow down"}, 429)), None),
        (says(response({"error": "overloaded"}, 503)), None),
        (None, None),
    ],
)
def test_a_call_that_an_llm_may_charge_for_is_counted_without_an_answer(
    speak: Any, lost: float | None, stream: bool
) -> None:
    async def run() -> Outcome:
        async with raw_server(says(response(completion()))) as well:
            if speak is None:  # nobody listens: nothing is sent
                return await ask_both("http://127.0.0.1:1", well.address)
            async with raw_server(speak) as bad:
                return await ask_both(bad.address, well.address)

    async def ask_both(*addresses: str) -> Outcome:
        limits = {**LIMITS, "first_token_timeout": 0.3, "total_timeout": 0.3}
        upstreams = {
            name: Upstream(base_url=address, **limits)
            for name, address in zip(("first", "second"), addresses, strict=True)
        }
        return await ask(upstreams, stream, prompt_tokens=10.0)

    outcome = asyncio.run(asyncio.wait_for(run(), 20))
    assert (outcome.text, outcome.status) == ("fine", "answered")
    job = outcome.job
    assert job is not None
    assert [attempt.get("lost_usd") for attempt in job.attempts] == [lost, None]
    told = outcome.answer["mixllm"] if outcome.answer else outcome.events[-2]["mixllm"]
    assert told.get("lost_usd") == lost
    assert told["cost_usd"] == job.cost
    assert job.cost is not None
    assert job.cost < LIKELY, "of the answer alone"


def test_a_client_that_leaves_before_the_answer_has_not_asked_for_free() -> None:
    ended: list[Job] = []

    async def run() -> None:
        async with raw_server(silence) as server:
            spec = Upstream(base_url=server.address, **{**LIMITS, "total_timeout": 9})
            gateway = Gateway(WaitingTracker(), lambda job, status, error: ended.append(job))
            gateway.follow({"first": spec})
            entries = {"first": entry_of("first", spec)}
            job = Job("id", ["first"], {"messages": []}, False, entries, {}, 10.0, {})
            answer = asyncio.create_task(gateway.answer(job))
            while not server.requests:
                await asyncio.sleep(0.01)
            answer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answer
            await gateway.close()

    asyncio.run(asyncio.wait_for(run(), 20))
    (job,) = ended
    assert [attempt["outcome"] for attempt in job.attempts] == ["cancelled"]
    assert job.lost == pytest.approx(LIKELY)
    assert job.cost is None


def test_one_request_at_a_time_tries_a_candidate_that_failed() -> None:
    """Requests that were routed to it before it failed, or at the same time, go elsewhere."""

    async def run() -> tuple[int, list[str]]:
        async with raw_server(silence) as bad, raw_server(says(response(completion()))) as well:
            limits = {**LIMITS, "total_timeout": 0.5}
            specs = {
                name: Upstream(base_url=server.address, **limits)
                for name, server in (("first", bad), ("second", well))
            }
            gateway = Gateway(WaitingTracker(), lambda job, status, error: None)
            gateway.follow(specs)
            breaker = gateway.endpoints["first"].breaker
            for _ in range(FAILURES):
                breaker.fail(-OPEN_SECONDS, breaker.enter(-OPEN_SECONDS))
            entries = {name: entry_of(name, spec) for name, spec in specs.items()}
            jobs = [
                Job(str(i), list(specs), {"messages": []}, False, entries, {}, 1.0, {})
                for i in range(20)
            ]
            await asyncio.gather(*(gateway.answer(job) for job in jobs))
            await gateway.close()
            return len(bad.requests), [job.llm or "" for job in jobs]

    tried, answered = asyncio.run(asyncio.wait_for(run(), 20))
    assert answered == ["second"] * 20
    assert tried == 1


def test_the_last_that_is_left_is_asked_though_it_failed() -> None:
    async def run() -> Outcome:
        async with raw_server(says(response(completion()))) as server:
            return await ask(
                {"first": Upstream(base_url=server.address, **LIMITS)}, opened=["first"]
            )

    assert asyncio.run(asyncio.wait_for(run(), 20)).text == "fine"
