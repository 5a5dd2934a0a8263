"""The simulated fleet: a real HTTP server that speaks OpenAI's protocol for every LLM of a catalog.

Answers take the catalog's time to the first token, then its tokens per second; each LLM answers
``concurrency`` requests at once, and the others queue. Faults are injected on request. What an
answer is worth is known (``x_fleet.quality``), so that experiments can grade what a client got.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web

from infra.fleet.answers import Answer, Answers
from infra.fleet.messages import event, json_response, message_of, parts_of, refusal
from models.catalog import Candidate, Catalog, Upstream
from models.errors import SettingsError, nearest
from models.queries.conversation import read_conversation

FAULTS: Final = ("429", "500", "hang", "broken", "slow", "garbage")
SLOW_FACTOR: Final = 10.0
HANG_SECONDS: Final = 3600.0


@dataclass
class Machine:
    """One simulated LLM. faults: kind → the share of requests that meet it."""

    entry: Candidate
    gate: asyncio.Semaphore
    faults: dict[str, float] = field(default_factory=dict)
    served: int = 0
    cancelled: int = 0
    active: int = 0


class Fleet:
    """The server. speed: how many times faster than the catalog says; infinity: at once."""

    def __init__(
        self,
        catalog: Catalog,
        answers: Answers,
        concurrency: int = 8,
        speed: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.answers, self.speed = answers, speed
        self.machines = {
            entry.name: Machine(entry, asyncio.Semaphore(concurrency)) for entry in catalog.llms
        }
        self._random = random.Random(seed)
        self.app = web.Application(client_max_size=64 * 2**20)
        self.app.router.add_post("/v1/chat/completions", self._complete)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/fleet", self._show)
        self.app.router.add_put("/fleet/faults", self._set_faults)

    def set_faults(self, faults: Mapping[str, Mapping[str, float]]) -> None:
        """LLM (or ``*``) → fault → share; takes the place of what was set. Raises SettingsError."""
        for name, kinds in faults.items():
            if name != "*" and name not in self.machines:
                raise SettingsError(f"no LLM {name!r}; {nearest(name, self.machines)}")
            for kind, share in kinds.items():
                if kind not in FAULTS:
                    raise SettingsError(f"no fault {kind!r}; {nearest(kind, FAULTS)}")
                if not 0 <= share <= 1:
                    raise SettingsError(f"fault {kind}: {share} is not a share in [0, 1]")
            if sum(kinds.values()) > 1:
                raise SettingsError(f"the faults of {name} are more than all requests")
        for name, machine in self.machines.items():
            machine.faults = dict(faults.get(name, faults.get("*", {})))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
            machine = self.machines[body["model"]]
            query = read_conversation(body["messages"]).text
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            return refusal(400, f"not a chat completion for one of this fleet: {error}")
        fault = self._draw(machine)
        if fault == "429":
            return refusal(429, "rate limit reached (injected)", {"retry-after": "1"})
        if fault == "500":
            return refusal(500, "internal error (injected)")
        machine.active += 1
        try:
            async with machine.gate:
                if fault == "hang":
                    await asyncio.sleep(HANG_SECONDS)
                if fault == "garbage":
                    return web.Response(text="<html>502 Bad Gateway (injected)</html>")
                answer = self.answers.find(machine.entry.name, query)
                response = await self._say(request, body, machine, answer, fault)
                machine.served += 1
                return response
        except (asyncio.CancelledError, ConnectionResetError):
            machine.cancelled += 1
            raise
        finally:
            machine.active -= 1

    def _draw(self, machine: Machine) -> str | None:
        drawn = self._random.random()
        for kind, share in machine.faults.items():
            if drawn < share:
                return kind
            drawn -= share
        return None

    async def _say(
        self,
        request: web.Request,
        body: dict[str, Any],
        machine: Machine,
        answer: Answer,
        fault: str | None,
    ) -> web.StreamResponse:
        entry = machine.entry
        slow = SLOW_FACTOR if fault == "slow" else 1.0
        first = slow * entry.time_to_first_token / self.speed
        per_token = slow / entry.tokens_per_second / self.speed
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": entry.name,
            "x_fleet": {"quality": answer.quality},
        }
        said = message_of(body, answer)
        usage = {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.response_tokens,
            "total_tokens": answer.prompt_tokens + answer.response_tokens,
        }
        if not body.get("stream"):
            await asyncio.sleep(first + per_token * answer.response_tokens)
            if fault == "broken":
                raise ConnectionResetError("injected")
            why = "tool_calls" if "tool_calls" in said else "stop"
            choice = {"index": 0, "message": said, "finish_reason": why}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(first)
        chunk = {**head, "object": "chat.completion.chunk"}
        breaks_at = answer.response_tokens // 2 if fault == "broken" else None
        begun, told = time.monotonic(), 0
        for part, tokens in parts_of(said, answer.response_tokens, per_token):
            choice = {"index": 0, "delta": part, "finish_reason": None}
            await response.write(event({**chunk, "choices": [choice]}))
            told += tokens
            if breaks_at is not None and told >= breaks_at:
                cut(request)
                return response
            await asyncio.sleep(max(0.0, begun + told * per_token - time.monotonic()))
        why = "tool_calls" if "tool_calls" in said else "stop"
        choice = {"index": 0, "delta": {}, "finish_reason": why}
        await response.write(event({**chunk, "choices": [choice]}))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(event({**chunk, "choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _models(self, request: web.Request) -> web.Response:
        data = [
            {"id": n, "object": "model", "created": 0, "owned_by": "fleet"} for n in self.machines
        ]
        return json_response({"object": "list", "data": data})

    async def _show(self, request: web.Request) -> web.Response:
        shown = {
            name: {
                "served": machine.served,
                "cancelled": machine.cancelled,
                "active": machine.active,
                "faults": machine.faults,
            }
            for name, machine in self.machines.items()
        }
        return json_response(shown)

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self.set_faults(orjson.loads(await request.read()))
        except (orjson.JSONDecodeError, AttributeError, TypeError, SettingsError) as error:
            return refusal(422, str(error))
        return await self._show(request)


def cut(request: web.Request) -> None:
    """End the connection without ending the response."""
    if request.transport is not None:
        request.transport.abort()


async def serve(
    fleet: Fleet,
    host: str,
    port: int,
    stop: asyncio.Event,
    listening: Callable[[], None] = lambda: None,
) -> None:
    """Answer until stop is set. listening: called once the port is ours.

    Raises SettingsError where it is taken.
    """
    runner = web.AppRunner(fleet.app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, shutdown_timeout=1.0).start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"the fleet cannot listen on {host}, port {port} ({error.strerror}); name another --port"
        ) from error
    try:
        listening()
        await stop.wait()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()


def parse_faults(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """``LLM:KIND=SHARE``, the LLM left out or ``*`` for all. Raises SettingsError."""
    faults: dict[str, dict[str, float]] = {}
    for text in texts:
        where, _, share = text.rpartition("=")
        llm, _, kind = where.rpartition(":")
        try:
            faults.setdefault(llm or "*", {})[kind] = float(share)
        except ValueError as error:
            raise SettingsError(f"fault {text!r}: expected LLM:KIND=SHARE") from error
    return faults


def with_upstreams(catalog: Catalog, address: str, **limits: Any) -> Catalog:
    """The catalog with every candidate answered by a fleet at an address; limits: of ``Upstream``."""
    upstream = Upstream(base_url=f"{address}/v1", **limits)
    llms = [entry.model_copy(update={"upstream": upstream}) for entry in catalog.llms]
    return catalog.model_copy(update={"llms": tuple(llms)})
