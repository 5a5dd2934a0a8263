"""What upstreams stream, and what a client of the gateway gets, over HTTP on loopback."""

import asyncio
from typing import Any

import orjson
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.catalog import Upstream
from models.decision.waiting import WaitingTracker
from serving.gateway.completion import Job
from serving.http.event_stream import EventStream
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


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return orjson.dumps(body)


def data(*parts: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + part + end + end for part in parts)


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
HELLO = (chunk("hé"), chunk("llo"), chunk(finish="stop"))
DONE = b"[DONE]"
PLAIN = data(*HELLO, DONE)
WHOLE = {
    "plain": PLAIN,
    "CRLF": data(*HELLO, DONE, end=b"\r\n"),
    "lone CR": data(*HELLO, DONE, end=b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "no space after the colon": PLAIN.replace(b"data: ", b"data:"),
    "no blank line at the end": PLAIN.rstrip(b"\n"),
    "no blank lines at all": PLAIN.replace(b"\n\n", b"\n"),
    "the field twice": PLAIN.replace(b"data: ", b"data: data: "),
    "comments": b": hello\n\n" + PLAIN.replace(b"\n\n", b"\n\n: keep-alive\n\n:\n\n"),
    "other fields": PLAIN.replace(b"data: {", b"event: message\nid: 7\nretry: 10\nfoo: x\ndata: {"),
    "an event over several lines": PLAIN.replace(b'"choices"', b'\ndata: "choices"'),
    "error: null": data(*(chunk(t, f, error=None) for t, f in [("hé", None), ("llo", "stop")]), DONE),
    "error: {}": data(chunk("hé", error={}), chunk("llo", "stop", error={"message": ""}), DONE),
    "error: empty text": data(chunk("hé", error=""), chunk("llo", "stop", error=False), DONE),
    "pings": PLAIN.replace(b"\n\n", b'\n\nevent: ping\ndata: {"type": "ping"}\n\ndata: null\n\n'),
    "keep-alives in words": PLAIN.replace(b"\n\n", b"\n\ndata: keep-alive\n\ndata:\n\ndata: 1\n\n"),
    "the usage has choices: null": data(
        *HELLO, orjson.dumps({"choices": None, "usage": USAGE}), DONE
    ),
    "the usage has no choices": data(*HELLO, orjson.dumps({"usage": USAGE}), DONE),
    "a first event without choices": data(
        orjson.dumps({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}), *HELLO, DONE
    ),
    "no end after the finish reason": data(*HELLO),
    "the end without a finish reason": data(chunk("hé"), chunk("llo"), DONE),
    "null in the choices": data(
        b'{"choices": [null, {"delta": {"content": "h\xc3\xa9llo"}, "finish_reason": null}]}',
        b'{"choices": [{"index": 0, "delta": null, "finish_reason": "stop"}]}',
        DONE,
    ),
    "NaN and numbers of any size": data(
        chunk("hé").replace(b'"created":1', b'"created":NaN'),
        chunk("llo", "stop").replace(b'"created":1', b'"created":' + b"9" * 40),
        DONE,
    ),
    "more after the end": PLAIN + data(chunk("never"), DONE, b'{"error": {"message": "late"}}'),
    "an error after the finish reason": data(*HELLO, b'{"error": {"message": "late"}}'),
    "not streamed at all": orjson.dumps(completion("héllo", usage=USAGE)),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_is_no_error(name: str) -> None:
    outcome = ask_raw(streamed(WHOLE[name]), stream=True)
    assert outcome.error is None
    assert (outcome.text, outcome.finish) == ("héllo", ["stop"])
    assert outcome.events[-1] == "[DONE]"
    assert (outcome.status, outcome.failures) == ("answered", {"first": 0})
    told = outcome.events[-2]["mixllm"]
    assert told["usage"] == ("reported" if b"usage" in WHOLE[name] else "estimated")


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/octet-stream"])
def test_the_content_type_says_nothing(kind: str) -> None:
    assert ask_raw(streamed(PLAIN, kind), stream=True).text == "héllo"


def test_usage_is_that_of_the_last_event_and_comes_where_it_was_asked_for() -> None:
    def so_far(tokens: int) -> dict[str, int]:
        return {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}

    growing = [chunk(t, usage=so_far(i)) for i, t in enumerate("ab")]
    last = chunk(finish="stop", usage=so_far(2))
    outcome = ask_raw(streamed(data(*growing, last, DONE)), stream=True)
    assert outcome.text == "ab"
    assert outcome.job is not None
    assert outcome.job.billed is not None
    usage = outcome.job.billed.usage
    assert (usage.prompt_tokens, usage.response_tokens, usage.reported) == (10, 2, True)

    async def wanted() -> Outcome:
        body = streamed(data(*HELLO, orjson.dumps({"choices": None, "usage": USAGE}), DONE))
        async with raw_server(says(body)) as server:
            spec = Upstream(base_url=f"{server.address}/v1", **LIMITS)
            return await ask({"first": spec}, True, stream_options={"include_usage": True})

    usage = asyncio.run(wanted()).events[-2]
    assert (usage["choices"], usage["usage"]) == ([], USAGE)


def test_a_surrogate_that_was_split_in_two_can_be_sent() -> None:
    halves = data(
        *(chunk("X").replace(b'"X"', half) for half in (rb'"\ud83d"', rb'"\ude00"')), HELLO[2], DONE
    )
    outcome = ask_raw(streamed(halves), stream=True)
    assert (outcome.error, outcome.finish) == (None, ["stop"])


FAILING = {
    "nothing": b"",
    "only the end": data(DONE),
    "only pings": data(b"null", b'{"type": "ping"}'),
    "only the role": data(chunk(""), DONE),
    "no choice": data(b'{"choices": []}', DONE),
    "an error": data(b'{"error": {"message": "exploded", "code": 500}}', DONE),
    "an error as text": data(b'{"error": "exploded"}'),
    "an error event": b'event: error\ndata: {"message": "exploded"}\n\n',
    "an error event in words": b"event: error\ndata: exploded\n\n",
    "an error of Anthropic's": data(b'{"type": "error", "error": {"message": "exploded"}}'),
    "an error in a list": data(b'[{"error": {"message": "exploded", "code": 503}}]'),
    "an error after the role": data(chunk(""), b'{"error": {"message": "exploded"}}'),
    "an error as plain JSON": b'{"error": {"message": "exploded"}}',
    "an error in a choice": data(
        b'{"choices": [{"finish_reason": "error", "error": {"message": "exploded"}}]}'
    ),
    "a page": b"<html><title>502 Bad Gateway</title><body>exploded</body></html>",
    "no JSON": data(b'{"choices": [', DONE),
    "too deep": data(b'{"choices": [' + b"[" * 500 + b"]" * 500 + b"]}"),
}


@pytest.mark.parametrize("name", FAILING)
def test_where_nothing_was_said_another_answers(name: str) -> None:
    outcome = ask_two(streamed(FAILING[name]), stream=True)
    assert (outcome.error, outcome.text) == (None, "second")
    assert outcome.job is not None
    first = outcome.job.attempts[0]["error"]
    assert ("exploded" in first) == (b"exploded" in FAILING[name])


BROKEN = {
    "an error": data(chunk("hé"), b'{"error": {"code": 502, "message": "it is gone"}}', DONE),
    "in a chunk": data(chunk("hé"), chunk("", "error", error={"message": "it is gone"}), DONE),
    "in a choice": data(
        chunk("hé"), chunk("").replace(b":null", b':"error","error":{"message":"it is gone"}')
    ),
    "an error event": data(chunk("hé")) + b'event: error\ndata: "it is gone"\n\n',
    "the end of the connection": data(chunk("hé")),
    "half an event": data(chunk("hé")) + b'data: {"choices',
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_off_says_so_after_what_came(name: str) -> None:
    outcome = ask_raw(streamed(BROKEN[name]), stream=True)
    assert outcome.text == "hé"
    assert outcome.stream_error is not None
    assert ("it is gone" in outcome.stream_error["message"]) == (b"is gone" in BROKEN[name])
    assert outcome.status == "broken"


def test_a_connection_cut_after_the_finish_reason_takes_nothing() -> None:
    body = data(*HELLO)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
    outcome = ask_raw(head + body, stream=True)
    assert (outcome.text, outcome.stream_error, outcome.status) == ("héllo", None, "answered")


def test_several_choices_each_finish() -> None:
    def of(index: int, text: str | None, finish: str | None = None) -> bytes:
        return chunk(text, finish).replace(b'"index":0', b'"index":%d' % index)

    both = (of(0, "a"), of(1, "b"), of(0, None, "stop"), of(1, "c"), of(1, None, "length"), DONE)
    assert ask_raw(streamed(data(*both)), stream=True).finish == ["stop", "length"]
    one_open = (of(0, "a"), of(1, "b"), of(0, None, "length"), DONE)
    assert sorted(ask_raw(streamed(data(*one_open)), stream=True).finish) == ["length", "stop"]
    cut = ask_raw(streamed(data(*one_open[:3])), stream=True)
    assert cut.stream_error is not None, "the other was not finished"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"data: " + b"x" * 20_000_000, "over 16777216 bytes"),
        (b"data:x\n" * 20_000, "over 10000 lines"),
        (b": comment\n" * 20_000, "over 10000 lines"),
        (b"data: null\n\n" * 200_000, "over 2000000 bytes"),
        (b'{"choices": [' + b" " * 20_000_000, "over 16777216 bytes"),
    ],
    ids=["a line", "lines", "comments", "a stream", "a plain answer"],
)
def test_what_has_no_end_is_bounded(raw: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if raw.startswith(b"data: null"):
        monkeypatch.setattr("serving.gateway.reply.MAX_STREAM_BYTES", 2_000_000)
    view = memoryview(raw)
    pieces = [bytes(view[i : i + 2**20]) for i in range(0, len(raw), 2**20)]

    async def run() -> tuple[Outcome, float]:
        longest, last = 0.0, asyncio.get_running_loop().time()

        async def watch() -> None:
            nonlocal longest, last
            while True:
                await asyncio.sleep(0.001)
                now = asyncio.get_running_loop().time()
                longest, last = max(longest, now - last), now

        async with raw_server(says(b"", [streamed(b""), *pieces])) as server:
            spec = Upstream(
                base_url=f"{server.address}/v1", **{**LIMITS, "first_token_timeout": 30}
            )
            watching = asyncio.create_task(watch())
            outcome = await ask({"first": spec}, True)
            watching.cancel()
            return outcome, longest

    outcome, longest = asyncio.run(run())
    assert said in str(outcome.error)
    assert longest < 1.0, "others had their turn"


def drip(piece: bytes, seconds: float) -> Any:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(streamed(b"") if b"HTTP" not in piece else b"")
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(seconds)

    return speak


@pytest.mark.parametrize(
    "piece", [b":\n\n", b"d", b"data: null\n\n", b" ", b"HTTP/1.1 103 X\r\n\r\n"]
)
def test_a_drip_does_not_keep_the_client_waiting(piece: bytes) -> None:
    async def run() -> Outcome:
        async with raw_server(drip(piece, 0.02)) as server:
            spec = Upstream(
                base_url=f"{server.address}/v1", **{**LIMITS, "first_token_timeout": 0.3}
            )
            return await ask({"first": spec}, True)

    assert "its first token took over 0.3 s" in str(asyncio.run(run()).error)


def test_a_stream_that_never_ends_is_ended() -> None:
    async def run() -> Outcome:
        async with raw_server(drip(data(chunk("x")), 0.02)) as server:
            spec = Upstream(base_url=f"{server.address}/v1", **{**LIMITS, "total_timeout": 0.3})
            return await ask({"first": spec}, True)

    outcome = asyncio.run(run())
    assert outcome.text.startswith("xx")
    assert outcome.stream_error is not None
    assert outcome.stream_error["code"] == "timeout"


def test_a_finished_answer_waits_no_longer_for_its_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.reply.AFTER_FINISH_SECONDS", 0.1)

    async def hangs(writer: asyncio.StreamWriter) -> None:
        writer.write(streamed(data(*HELLO)))
        await asyncio.sleep(5)

    async def run() -> Outcome:
        async with raw_server(hangs) as server:
            spec = Upstream(base_url=f"{server.address}/v1", **LIMITS)
            async with asyncio.timeout(0.9):
                return await ask({"first": spec}, True)

    assert asyncio.run(run()).text == "héllo"


@pytest.mark.parametrize("reads", [0, 100_000])
def test_a_client_that_stops_reading_is_cut_off(reads: int) -> None:
    """reads: bytes that it takes first."""
    ended: list[str] = []

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(streamed(b""))
        while True:
            writer.write(data(chunk("x" * 10_000)))
            await writer.drain()

    async def run() -> None:
        async with raw_server(endless) as upstream:
            spec = Upstream(base_url=f"{upstream.address}/v1", concurrency=1)
            gateway = Gateway(WaitingTracker(), lambda job, status, error: ended.append(status))
            gateway.follow({"first": spec})
            entries = {"first": entry_of("first", spec)}

            async def app(scope: Any, receive: Any, send: Any) -> None:
                job = Job("id", ["first"], {"messages": []}, True, entries, {}, 1.0, {})
                await EventStream(await gateway.start(job), {}, 0.3)(scope, receive, send)

            config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", loop="asyncio")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            taken = 0
            while taken < reads:
                taken += len(await reader.read(1000))
            while not upstream.closed:
                await asyncio.sleep(0.01)
            assert gateway.tracker.in_flight("first") == 0
            endpoint = gateway.endpoints["first"]
            assert (endpoint.breaker.failures, endpoint.available) == (0, True)
            writer.transport.abort()
            server.should_exit = True
            await serving
            await gateway.close()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert ended == ["cancelled"]


pieces_of = st.lists(st.integers(1, 40), min_size=1, max_size=30)
valid = st.lists(
    st.sampled_from([b": c\n", b"event: ping\ndata: {}\n\n", b"data: null\r\n\r\n", b"\r", b"id: 1\n"]),
    max_size=4,
)  # fmt: skip
hostile = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([
            b"data: ", b"data:", b"\n", b"\n\n", b"\r", b"[DONE]", b"{", b"}", b"[", b'"choices":',
            b"null", b"event: error\n", chunk("x"), chunk("y", "stop"), b'{"error":', b"\xff", b"1e999",
            b'{"choices":[{"delta":5,"index":"a"}]}', b'"usage":{"prompt_tokens":-1}', b"\\ud800",
        ]),
    ),
    max_size=25,
)  # fmt: skip
quick = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def cut_up(raw: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    while raw:
        for size in sizes:
            pieces.append(raw[:size])
            raw = raw[size:]
    return [piece for piece in pieces if piece]


@given(between=valid, sizes=pieces_of)
@settings(quick, max_examples=25)
def test_any_pieces_of_a_stream_are_the_same_answer(between: list[bytes], sizes: list[int]) -> None:
    raw = streamed(b"".join(b"".join(between) + b"\n" + data(part) for part in (*HELLO, DONE)))
    outcome = ask_raw(raw, True, cut_up(raw, sizes))
    assert (outcome.error, outcome.text, outcome.finish) == (None, "héllo", ["stop"])


@given(parts=hostile, stream=st.booleans())
@settings(quick, max_examples=80)
def test_any_bytes_end_in_an_answer_or_an_error(parts: list[bytes], stream: bool) -> None:
    raw = b"".join(parts)
    whole = streamed(raw) if stream else response(raw)
    outcome = ask_raw(whole, stream)  # checks the form of what was sent
    if outcome.error is not None:
        assert type(outcome.error).__name__ == "NobodyAnswered"
    elif stream:
        assert outcome.events[-1] == "[DONE]" or "error" in outcome.events[-1]
    else:
        assert outcome.answer is not None


@given(raw=st.binary(max_size=200))
@settings(quick, max_examples=25)
def test_any_response_ends_in_an_error(raw: bytes) -> None:
    outcome = ask_raw(b"HTTP/1.1 " + raw + b"\r\n\r\n", stream=True)
    assert type(outcome.error).__name__ == "NobodyAnswered"
