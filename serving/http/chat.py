"""Chat completions in OpenAI's form, routed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final
from urllib.parse import quote

import orjson
from fastapi import HTTPException, Request
from fastapi.responses import Response

from models.decision.wishes import Wishes
from models.errors import DecisionError, nearest
from serving import metrics, telemetry
from serving.gateway.completion import Job
from serving.gateway.errors import (
    Busy,
    InvalidRequest,
    NobodyAnswered,
    OutOfResources,
    RateLimited,
    TimedOut,
    UpstreamError,
)
from serving.http.chat_reading import HEADER, ROUTED, IncomingChat, read_chat
from serving.http.chat_schemas import ChatRequest
from serving.http.disconnects import unless_gone
from serving.http.event_stream import EventStream
from serving.http.problems import Problem, error_response, error_type, problem
from serving.http.schemas import ErrorBody
from serving.routing.request import RoutingRequest
from serving.routing.router import Routed, routable
from serving.state import ServiceState

SHOWN_CHARACTERS: Final = 100
STATUS_OF: Final[dict[type[UpstreamError], int]] = {
    InvalidRequest: 400, TimedOut: 504, RateLimited: 429, Busy: 429, OutOfResources: 503,
}  # fmt: skip


async def complete(
    chat: ChatRequest, request: Request, state: ServiceState, key_id: str | None
) -> Response:
    """Route a chat completion and carry it out."""
    state.keys.check_budget(key_id)
    incoming = await read_chat(chat, request, key_id, state.settings.switching_cost)
    state.gateway.follow(state.champion.upstreams)
    with telemetry.span("chat", request.headers, stream=bool(chat.stream)):
        with telemetry.span("route"):
            routed = await decide(state, incoming)
            telemetry.annotate(decision_id=routed.decision_id, llm=routed.llm)
        job = job_of(state, incoming, routed)
        metrics.overhead.observe(time.monotonic() - incoming.started)
        try:
            if job.stream:
                stream = await unless_gone(request, state.gateway.start(job))
                if stream is None:
                    return Response(status_code=499)
                state.router.sessions.note(key_id, incoming.session, str(job.llm))
                headers = routing_headers(job, final=False)
                return EventStream(stream, headers, state.settings.client_timeout)
            whole = await unless_gone(request, state.gateway.answer(job))
            if whole is None:
                return Response(status_code=499)
            state.router.sessions.note(key_id, incoming.session, str(job.llm))
        except NobodyAnswered as error:
            return failed(error, routing_headers(job, final=False), pinned=incoming.pinned)
    headers = routing_headers(job, final=True)
    return Response(orjson.dumps(whole), media_type="application/json", headers=headers)


async def decide(state: ServiceState, incoming: IncomingChat) -> Routed:
    """Choose an LLM. Raises HTTPException, DecisionError, NotReady."""
    wanted = RoutingRequest(
        query=routable(incoming.conversation.text),
        wishes=wishes_of(state, incoming),
        needs=() if incoming.pinned else incoming.conversation.abilities,
        more_tokens=incoming.conversation.more_tokens,
        max_response_tokens=incoming.max_response_tokens,
        pinned=incoming.pinned,
        session=incoming.session,
        key_id=incoming.key_id,
        reachable=frozenset(state.gateway.endpoints),
        unavailable=state.gateway.unavailable(),
    )
    if not wanted.query.strip():
        return state.router.fall_back(wanted, "no text to route by")
    loop = asyncio.get_running_loop()
    try:
        routed, _ = await loop.run_in_executor(state.pool, state.router.decide, wanted)
    except DecisionError as error:
        # A request without special wishes must not fail because the router cannot decide.
        if wanted.wishes.min_quality is not None or wanted.wishes.max_cost is not None:
            raise
        if error.context.get("param") in ("candidates", "abilities"):
            raise
        return state.router.fall_back(wanted, f"undecided: {error}")
    return routed


def wishes_of(state: ServiceState, incoming: IncomingChat) -> Wishes:
    """What the request asks of the decision. Raises HTTPException where no LLM can be called."""
    running = state.champion.running
    catalog = running.release.manifest.catalog if running else state.champion.spare_catalog
    wishes = {name: getattr(incoming.options, name) for name in Wishes.model_fields}
    model = incoming.request.model
    if catalog is not None:
        with_upstream = set(catalog.names) & set(state.gateway.endpoints)
        if not with_upstream:
            raise HTTPException(
                503, "no candidate has an upstream: give them in the catalog, or in MIXLLM_CATALOG"
            )
        if incoming.pinned and model not in catalog.names:
            raise unknown_model(model, catalog.names)
        if incoming.pinned and model not in with_upstream:
            raise HTTPException(503, f"{model} has no upstream in the catalog")
    if incoming.pinned:
        wishes |= {"candidates": (model,), "min_quality": None, "max_cost": None}
    return Wishes(**wishes)


def unknown_model(name: str, known: Collection[str]) -> Problem:
    """What to say of a model that is not there."""
    hint = nearest(name, {ROUTED, *known})
    if not hint.startswith("did you mean"):
        hint = f"did you mean {ROUTED!r}, which chooses one? {hint}"
    shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
    return Problem(404, f"no model {shown!r}; {hint}", param="model", code="model_not_found")


def job_of(state: ServiceState, incoming: IncomingChat, routed: Routed) -> Job:
    """What the gateway carries out. Raises HTTPException."""
    spare = state.champion.spare_catalog
    machine = {entry.name: entry for entry in spare.llms} if spare is not None else {}
    entries = {
        name: entry.with_prices_of(machine.get(name)) for name, entry in routed.entries.items()
    }
    # A change of upstreams in between may have taken some away.
    able = [name for name in routed.ranking if name in state.gateway.endpoints]
    if not able:
        raise HTTPException(503, f"{routed.llm} has no upstream any more; try again")
    alone = incoming.pinned or not incoming.options.fallback
    tokens: dict[str, float] = {}
    if routed.routing is not None:
        decision = routed.routing.decision
        predicted = decision.estimates.response_tokens.tolist()
        tokens = dict(zip(decision.candidates, predicted, strict=True))
    return Job(
        decision_id=routed.decision_id,
        ranking=able[:1] if alone else able,
        # Null means absent, and not every server knows that.
        body={k: v for k, v in incoming.body.items() if k != "mixllm" and v is not None},
        stream=bool(incoming.request.stream),
        entries=entries,
        response_tokens=tokens,
        prompt_tokens=routed.prompt_tokens,
        told={
            "decision_id": routed.decision_id,
            "release": routed.release,
            "fallback": routed.fallback,
        },
        key_id=incoming.key_id,
        most_prompt_tokens=incoming.most_tokens,
        started=incoming.started,
    )


def routing_headers(job: Job, *, final: bool) -> dict[str, str]:
    """What the response's headers say of its routing."""
    extension = job.extension(final=final)
    names = {"llm", "decision_id", "release", "fallback", "cost_usd"}
    return {
        HEADER + name.replace("_", "-"): quote(str(value), safe=" :/;,.()=_+@")
        for name, value in extension.items()
        if name in names and value is not None
    }


def failed(error: NobodyAnswered, headers: dict[str, str], *, pinned: bool) -> Response:
    """The error response where no LLM answered.

    pinned: the client named the LLM, and gets its own status and message. Otherwise it gets them only
    where every LLM says that the request is at fault, and else what was tried.
    """
    best = error.best
    own = best.status if best.status is not None and 400 <= best.status < 600 else None
    status = STATUS_OF.get(type(best), 502)
    if pinned or isinstance(best, InvalidRequest):
        status = own or status
    if status in (429, 503):
        headers["retry-after"] = str(max(1, round(best.retry_after or 1)))
    words = best.words
    if words.message is None or not (pinned or isinstance(best, InvalidRequest)):
        return problem(status, str(error), code=best.code, headers=headers)
    code = words.code or best.code
    kind = words.type or error_type(status, code)
    body = ErrorBody(type=kind, message=words.message, param=words.param, code=code)
    return error_response(status, body, headers)
