"""Upstreams that answer with any bytes, and a gateway before them, in one event loop."""

import asyncio
import contextlib
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from models.catalog import Candidate, Upstream
from models.decision.waiting import WaitingTracker
from serving.gateway.breaker import FAILURES
from serving.gateway.completion import Job

with warnings.catch_warnings():
    # BentoML's, of the module that its own metrics page still needs.
    warnings.simplefilter("ignore", DeprecationWarning)
    from serving.gateway.gateway import Gateway as Gateway

Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]
LIMITS: dict[str, Any] = {
    "connect_timeout": 1.0,
    "first_token_timeout": 1.0,
    "total_timeout": 2.0,
    "retries": 0,
}


@dataclass
class RawServer:
    """Reads each request and lets ``speak`` write what it likes."""

    speak: Speak
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    closed: int = 0
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(
                line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
            )
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            self.requests.append((head, body))
            await self.speak(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed += 1
            writer.close()


@contextlib.asynccontextmanager
async def raw_server(speak: Speak) -> AsyncIterator[RawServer]:
    server = RawServer(speak)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**20)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def says(raw: bytes, pieces: Iterable[bytes] | None = None) -> Speak:
    """Write bytes, in pieces, then close."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        for piece in pieces if pieces is not None else (raw,):
            writer.write(piece)
            await writer.drain()
            if pieces is not None:
                await asyncio.sleep(0)

    return speak


def response(
    body: bytes | Any, status: int = 200, kind: str = "application/json", more: str = ""
) -> bytes:
    """A whole HTTP/1.1 response."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}content-length: {len(raw)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + raw


def streamed(body: bytes, kind: str = "text/event-stream") -> bytes:
    """An HTTP/1.1 response that ends with its connection."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode() + body


def completion(text: str = "fine", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [choice], **more}  # fmt: skip


@dataclass
class Outcome:
    """What a client of the gateway would get, and what was kept."""

    answer: dict[str, Any] | None = None
    raw: bytes = b""
    events: list[Any] = field(default_factory=list)
    error: Exception | None = None
    job: Job | None = None
    status: str = ""
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        if self.answer is not None:
            return str(self.answer["choices"][0]["message"]["content"])
        chunks = [e for e in self.events if isinstance(e, dict)]
        deltas = [c["delta"] for e in chunks for c in e.get("choices", ())]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def finish(self) -> list[str]:
        chunks = [e for e in self.events if isinstance(e, dict)]
        reasons = [c.get("finish_reason") for e in chunks for c in e.get("choices", ())]
        return [reason for reason in reasons if reason]

    @property
    def stream_error(self) -> dict[str, Any] | None:
        return next((e["error"] for e in self.events if isinstance(e, dict) and "error" in e), None)


def read_sent(raw: bytes) -> list[Any]:
    """The events that the gateway sent, which must be in the one strict form."""
    assert raw.endswith(b"\n\n")
    events = []
    for block in raw[:-2].split(b"\n\n"):
        assert block.startswith(b"data: ")
        assert b"\n" not in block
        data = block.removeprefix(b"data: ")
        events.append("[DONE]" if data == b"[DONE]" else orjson.loads(data))
    for event in events[:-1]:
        assert isinstance(event, dict)
        assert "error" in event or isinstance(event["choices"], list)
    last = events[-1]
    assert last == "[DONE]" or "error" in last
    assert events.count("[DONE]") <= 1
    return events


def entry_of(name: str, upstream: Upstream) -> Candidate:
    return Candidate(
        name=name,
        input_price=1.0,
        output_price=10.0,
        tokens_per_second=50.0,
        time_to_first_token=0.5,
        upstream=upstream,
    )


async def ask(
    upstreams: dict[str, Upstream],
    stream: bool = False,
    times: int = 1,
    prompt_tokens: float = 1.0,
    opened: Sequence[str] = (),
    **body: Any,
) -> Outcome:
    """Ask the first of the upstreams, and the others where it fails.

    opened: those whose breaker has just opened.
    """
    outcome = Outcome()

    def finished(job: Job, status: str, error: str | None) -> None:
        outcome.status, outcome.job = status, job

    gateway = Gateway(WaitingTracker(), finished)
    gateway.follow(upstreams)
    for name in opened:
        breaker = gateway.endpoints[name].breaker
        for _ in range(FAILURES):
            now = time.monotonic()
            breaker.fail(now, breaker.enter(now))
    entries = {name: entry_of(name, upstream) for name, upstream in upstreams.items()}
    try:
        for _ in range(times):
            ranking, sent = list(upstreams), {"messages": [], **body}
            job = Job("id", ranking, sent, stream, entries, {}, prompt_tokens, {})
            outcome.error, outcome.raw = None, b""
            try:
                if stream:
                    events = await gateway.start(job)
                    async for part in events:
                        outcome.raw += part
                    outcome.events = read_sent(outcome.raw)
                else:
                    outcome.answer = await gateway.answer(job)
            except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
                outcome.error = error
        outcome.failures = {n: e.breaker.failures for n, e in gateway.endpoints.items()}
        assert all(gateway.tracker.in_flight(name) == 0 for name in upstreams)
    finally:
        await gateway.close()
    return outcome


def ask_raw(
    raw: bytes, stream: bool = False, pieces: Iterable[bytes] | None = None, **limits: Any
) -> Outcome:
    """Ask one upstream that answers with these bytes."""

    async def run() -> Outcome:
        async with raw_server(says(raw, pieces)) as server:
            spec = Upstream(base_url=f"{server.address}/v1", **{**LIMITS, **limits})
            return await ask({"first": spec}, stream)

    return asyncio.run(run())


def ask_two(raw: bytes, stream: bool = False) -> Outcome:
    """Ask one that answers with these bytes, and where it fails one that answers well."""

    async def run() -> Outcome:
        choice = {"index": 0, "delta": {"content": "second"}, "finish_reason": "stop"}
        chunk = b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"
        good = streamed(chunk + b"data: [DONE]\n\n") if stream else response(completion("second"))
        async with raw_server(says(raw)) as first, raw_server(says(good)) as second:
            specs = {
                name: Upstream(base_url=f"{server.address}/v1", **LIMITS)
                for name, server in (("first", first), ("second", second))
            }
            return await ask(specs, stream)

    return asyncio.run(run())
