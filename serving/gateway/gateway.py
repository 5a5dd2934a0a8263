"""Carries a chat completion out: the chosen candidate, the next best where it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

import aiohttp
import orjson
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from models.catalog import Upstream
from models.decision.waiting import Request, WaitingTracker
from serving import metrics, telemetry
from serving.gateway.attempt import Attempt, tracing
from serving.gateway.call_costs import assumed
from serving.gateway.completion import Body, Job
from serving.gateway.endpoint import Endpoint
from serving.gateway.errors import NobodyAnswered, TimedOut, UpstreamError, backoff
from serving.gateway.events import DONE
from serving.gateway.reply import Reply
from serving.gateway.upstream_answers import closing, is_last
from serving.refusals import Refused

log = logging.getLogger("mixllm.gateway")

# The choice and so many others are asked before a request is given up.
OTHERS: Final = 3
# Idle connections an upstream's server may have closed meanwhile.
KEEP_ALIVE_SECONDS: Final = 30.0


class Gateway:
    """Sends jobs to endpoints. Use from one event loop; ``close`` at the end.

    finished: called once with every job, its status and its error, whatever became of it.
    hold: called with a job and the LLM that is to be asked; raises Refused where the key's budget
    does not pay for that LLM.
    """

    def __init__(
        self,
        tracker: WaitingTracker,
        finished: Callable[[Job, str, str | None], None],
        hold: Callable[[Job, str], None] = lambda job, llm: None,
    ) -> None:
        self.tracker = tracker
        self._hold = hold
        self._under_way: set[str] = set()
        self.endpoints: dict[str, Endpoint] = {}
        self._specs: Mapping[str, Upstream] = {}
        self._finished = finished
        self._session: aiohttp.ClientSession | None = None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def follow(self, upstreams: Mapping[str, Upstream]) -> None:
        """Use these upstreams; an endpoint whose upstream is as it was keeps its state."""
        if upstreams is self._specs:
            return
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            # No cookies: what one LLM sets must not reach another on its host.
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=True,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing()],
            )
        session = self._session
        self.endpoints = {
            name: self.endpoints[name]
            if name in self.endpoints and self.endpoints[name].spec == spec
            else Endpoint(name, spec, session, self._limiter)
            for name, spec in upstreams.items()
        }
        self.tracker.limit({name: spec.concurrency for name, spec in upstreams.items()})
        self._specs = upstreams

    def unavailable(self) -> frozenset[str]:
        """Candidates that cannot be asked now: broken, paused, or out of requests."""
        return frozenset(n for n, endpoint in self.endpoints.items() if not endpoint.available)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def carries(self, decision_id: str) -> bool:
        """Whether a decision's answer is under way."""
        return decision_id in self._under_way

    async def answer(self, job: Job) -> Body:
        """The whole answer, with the field ``mixllm``. Raises NobodyAnswered, Refused."""
        reply = await self._open(job)
        try:
            reply.close()
            assert job.llm is not None
            job.read(reply.whole)
        except BaseException as error:
            self._end(job, "broken", f"internal error: {type(error).__name__}")
            raise
        self._end(job, "answered")
        return {**reply.whole, "mixllm": job.extension(final=True)}

    async def start(self, job: Job) -> AsyncGenerator[bytes, None]:
        """Wait for the first token, and give the stream, which must be closed in the end.

        Raises NobodyAnswered, Refused.
        """
        stream = self._stream(job, await self._open(job))
        await anext(stream)  # up to its first yield, so that closing it ends the job
        return stream

    async def _open(self, job: Job) -> Reply:
        """The first candidate that answers. Raises NobodyAnswered, Refused."""
        errors: list[UpstreamError] = []
        unpaid: Refused | None = None
        self._under_way.add(job.decision_id)
        try:
            asked = job.ranking[: 1 + OTHERS]
            for place, llm in enumerate(asked, 1):
                alone = not any(self.endpoints[name].available for name in asked[place:])
                try:
                    return await self._ask(job, llm, alone=alone)
                except Refused as error:  # a cheaper one may do
                    unpaid = unpaid or error
                    job.attempts.append(told_of(llm, "over_budget", str(error), 0.0))
                except UpstreamError as error:
                    errors.append(error)
                    metrics.upstream_failures.labels(llm, error.code).inc()
        except asyncio.CancelledError:
            self._end(job, "cancelled")
            raise
        except BaseException as error:
            self._end(job, "failed", f"internal error: {type(error).__name__}")
            raise
        if not errors:
            assert unpaid is not None
            self._end(job, "failed", str(unpaid))
            raise unpaid
        failure = NobodyAnswered(job.attempts, errors)
        self._end(job, "failed", str(failure))
        raise failure from None

    async def _ask(self, job: Job, llm: str, *, alone: bool) -> Reply:
        """One candidate, with its retries. alone: nobody else is left. Raises UpstreamError, Refused."""
        endpoint = self.endpoints[llm]
        retried = 0
        while True:
            self._hold(job, llm)
            attempt = Attempt(alone)
            begun = time.monotonic()
            request = Request.of(job.entries[llm], job.response_tokens.get(llm, 0.0))
            self.tracker.arrive(llm, job.decision_id, request, begun)
            try:
                with telemetry.span("upstream", llm=llm, attempt=retried) as trace:
                    reply = await endpoint.open(job.body, trace, attempt, stream=job.stream)
            except BaseException as error:
                ended = time.monotonic()
                late = isinstance(error, TimedOut)
                self.tracker.finish(llm, job.decision_id, ended, learn=late)
                job.attempts.append(failure_of(job, llm, error, attempt, ended - begun))
                if isinstance(error, UpstreamError):
                    again = retried < endpoint.spec.retries and error.again
                    if again and endpoint.breaker.state(ended) != "open":
                        await asyncio.sleep(backoff(retried, error))
                        retried += 1
                        continue
                raise
            now = time.monotonic()
            if job.stream:
                job.first_token = now - job.started
                self.tracker.first_token(llm, job.decision_id, now)
                metrics.first_token.labels(llm).observe(now - begun)
            job.attempts.append(told_of(llm, "answered", None, now - begun))
            job.llm = llm
            return reply

    async def _stream(self, job: Job, reply: Reply) -> AsyncGenerator[bytes, None]:
        """Nothing, so that it has begun; then server-sent events. What fails after the first token
        is told in an event of its own, the last."""
        status, error = "cancelled", None
        try:
            yield b""
            async for part in self._parts(job, reply):
                yield part
            status = "answered"
        except UpstreamError as problem:
            status, error = "broken", str(problem)
            metrics.upstream_failures.labels(job.llm, problem.code).inc()
            yield self._error_event(job, error, problem.code)
        except Exception as unexpected:
            status, error = "broken", f"internal error: {type(unexpected).__name__}"
            log.exception("the stream of decision %s failed", job.decision_id)
            yield self._error_event(job, error, "internal_error")
        finally:
            reply.close()
            self._end(job, status, error)

    def _error_event(self, job: Job, message: str, code: str) -> bytes:
        body = {"type": "upstream_error", "message": message, "param": None, "code": code}
        return event({"error": body, "mixllm": job.extension(final=True)})

    async def _parts(self, job: Job, reply: Reply) -> AsyncGenerator[bytes, None]:
        """The upstream's events. The first has the field ``mixllm``, and the one that finishes a
        choice, held until the usage after it is known, has it with the cost."""
        held: Body | None = None
        last: Body = {}
        async for chunk in reply.chunks():
            job.read(chunk)
            if chunk["choices"] and not is_last(chunk):
                told = {} if last else {"mixllm": job.extension(final=False)}
                yield event({**chunk, **told})
                last = chunk
            elif chunk["choices"] or job.wants_usage:
                if held is not None:
                    yield event({**held, "mixllm": job.extension(final=True)})
                held = last = chunk
        if reply.unfinished:
            end = closing(last, reply.unfinished)
            if held is not None and held["choices"]:
                yield event({**held, "mixllm": job.extension(final=True)})
                held = None
            if held is not None:
                yield event({**end, "mixllm": job.extension(final=True)})
            else:
                held = end
        if held is not None:
            yield event({**held, "mixllm": job.extension(final=True)})
        yield b"data: " + DONE + b"\n\n"

    def _end(self, job: Job, status: str, error: str | None = None) -> None:
        if job.llm is not None:
            whole = status == "answered"
            self.tracker.finish(job.llm, job.decision_id, time.monotonic(), learn=whole)
        try:
            self._finished(job, status, error)
        finally:
            self._under_way.discard(job.decision_id)


def told_of(
    llm: str, outcome: str, error: str | None, seconds: float, lost: float | None = None
) -> dict[str, Any]:
    """One attempt, as it is kept. lost: USD that its LLM may charge though it gave no answer."""
    told = {"llm": llm, "outcome": outcome, "error": error, "seconds": round(seconds, 4)}
    return told if lost is None else {**told, "lost_usd": lost}


def failure_of(
    job: Job, llm: str, error: BaseException, attempt: Attempt, seconds: float
) -> dict[str, Any]:
    """An attempt that brought no answer, as it is kept."""
    if isinstance(error, UpstreamError):
        outcome, words, may_cost = error.code, str(error), error.may_cost
    else:
        left = isinstance(error, asyncio.CancelledError)
        outcome, words, may_cost = "cancelled" if left else "failed", None, True
    lost = assumed(job, llm) if attempt.sent and may_cost else None
    return told_of(llm, outcome, words, seconds, lost)


def event(parsed: Body) -> bytes:
    return b"data: " + orjson.dumps(parsed) + b"\n\n"
