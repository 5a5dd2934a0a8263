"""Chat completions in OpenAI's form, routed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

import orjson
from fastapi import HTTPException, Request
from fastapi.responses import Response
from pydantic import ValidationError

from models.decision.wishes import Wishes
from models.digest import digest_text
from models.errors import DecisionError, nearest
from models.queries.conversation import Conversation, most_tokens, opening, read_conversation
from serving import metrics, telemetry
from serving.gateway.completion import Job
from serving.gateway.errors import NobodyAnswered
from serving.http.bodies import apart
from serving.http.event_stream import EventStream
from serving.http.problems import Problem, problem
from serving.http.schemas import ChatOptions, ChatRequest
from serving.routing.request import Ask
from serving.routing.router import Routed, routable
from serving.state import ServiceState

ROUTED: Final = "mixllm"
SHOWN_CHARACTERS: Final = 100
HEADER: Final = "x-mixllm-"
HEADER_OPTIONS: Final = ("session", "candidates", "abilities", "fallback")
NUMBERS: Final = (
    "willingness-to-pay", "min-quality", "max-cost", "beta", "time-limit", "switching-cost",
)  # fmt: skip
STATUS_OF: Final = {
    "invalid": 400, "timeout": 504, "rate_limited": 429, "busy": 429, "exhausted": 503,
}  # fmt: skip
T = TypeVar("T")


async def read_body(request: Request) -> dict[str, Any]:
    """The body as it was sent, to be sent on. Raises HTTPException for what cannot be written again."""
    body: dict[str, Any] = await request.json()
    await apart(request, check_writable, body)
    return body


def check_writable(body: Any) -> None:
    """Raises HTTPException."""
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        deep = "recursion" in str(error).lower()
        why = "is nested too deeply" if deep else f"cannot be sent on: {error}"
        raise HTTPException(422, f"the body {why}") from error


@dataclass(frozen=True)
class Reading:
    """What a chat's body says of its prompt.

    most_tokens: of the prompt, rather too many than too few.
    session: the conversation's id.
    """

    conversation: Conversation
    most_tokens: float
    session: str | None


def read_prompt(state: ServiceState, options: ChatOptions, body: dict[str, Any]) -> Reading:
    """Takes time for each of the body's values."""
    return Reading(
        read_conversation(body["messages"], body.get("tools"), body),
        most_tokens(body),
        session_of(state, options, body),
    )


def read_options(chat: ChatRequest, headers: Mapping[str, str]) -> ChatOptions:
    """The routing options: the field ``mixllm``, over what headers say. Raises HTTPException."""
    found: dict[str, Any] = {}
    for name in (*HEADER_OPTIONS, *NUMBERS):
        value = headers.get(HEADER + name)
        if value is None:
            continue
        if name in ("candidates", "abilities"):
            found[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        elif name == "fallback":
            found[name] = value.strip().lower() not in ("false", "0", "no")
        elif name == "session":
            found[name] = value
        else:
            try:
                found[name.replace("-", "_")] = float(value)
            except ValueError as error:
                message = f"header {HEADER}{name}: not a number: {value[:40]!r}"
                raise HTTPException(422, message) from error
    if chat.mixllm is not None:
        found |= chat.mixllm.model_dump(exclude_unset=True)
    try:
        return ChatOptions.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("mixllm", *first["loc"]))
        raise HTTPException(422, f"{place}: {first['msg']}") from error


async def complete(
    chat: ChatRequest, request: Request, state: ServiceState, key_id: str | None
) -> Response:
    """Route a chat completion and carry it out."""
    started = time.monotonic()
    state.keys.check_budget(key_id)
    body = await read_body(request)
    options = read_options(chat, request.headers)
    reading = await apart(request, read_prompt, state, options, body)
    state.gateway.follow(state.champion.upstreams)
    with telemetry.span("chat", request.headers, stream=bool(chat.stream)):
        with telemetry.span("route"):
            routed = await decide(state, chat, body, reading, options, key_id)
            telemetry.annotate(decision_id=routed.decision_id, llm=routed.llm)
        job = job_of(state, chat, body, routed, reading, options, key_id, started)
        metrics.overhead.observe(time.monotonic() - started)
        try:
            if job.stream:
                stream = await unless_gone(request, state.gateway.start(job))
                if stream is None:
                    return Response(status_code=499)
                state.router.sessions.note(key_id, reading.session, str(job.llm))
                headers = told_headers(job, final=False)
                return EventStream(stream, headers, state.settings.client_timeout)
            whole = await unless_gone(request, state.gateway.answer(job))
            if whole is None:
                return Response(status_code=499)
            state.router.sessions.note(key_id, reading.session, str(job.llm))
        except NobodyAnswered as error:
            return failed(error, chat.model != ROUTED, told_headers(job, final=False))
    headers = told_headers(job, final=True)
    return Response(orjson.dumps(whole), media_type="application/json", headers=headers)


async def decide(
    state: ServiceState,
    chat: ChatRequest,
    body: dict[str, Any],
    reading: Reading,
    options: ChatOptions,
    key_id: str | None,
) -> Routed:
    """Whom to ask. Raises HTTPException, DecisionError, NotReady."""
    running = state.champion.running
    catalog = running.release.manifest.catalog if running else state.champion.spare_catalog
    known = set(catalog.names if catalog else ())
    with_upstream = known & set(state.gateway.endpoints)
    if catalog is not None and not with_upstream:
        raise HTTPException(
            503, "no candidate has an upstream: give them in the catalog, or in MIXLLM_CATALOG"
        )
    wishes = {name: getattr(options, name) for name in Wishes.model_fields}
    conversation = reading.conversation
    pinned = chat.model != ROUTED
    if pinned:
        if catalog is not None and chat.model not in known:
            raise unknown_model(chat.model, known)
        if catalog is not None and chat.model not in with_upstream:
            raise HTTPException(503, f"{chat.model} has no upstream in the catalog")
        wishes |= {"candidates": (chat.model,), "min_quality": None, "max_cost": None}
    ask = Ask(
        query=routable(conversation.text),
        wishes=Wishes(**wishes),
        needs=() if pinned else conversation.abilities,
        more_tokens=conversation.more_tokens,
        max_response_tokens=max_tokens_of(body),
        pinned=pinned,
        session=reading.session,
        key_id=key_id,
        reachable=frozenset(state.gateway.endpoints),
        unavailable=state.gateway.unavailable(),
    )
    if not ask.query.strip():
        return state.router.fall_back(ask, "no text to route by")
    loop = asyncio.get_running_loop()
    try:
        routed, _ = await loop.run_in_executor(state.pool, state.router.decide, ask)
    except DecisionError as error:
        # What asked for nothing special must not fail for what the router thinks of it.
        if ask.wishes.min_quality is not None or ask.wishes.max_cost is not None:
            raise
        if error.context.get("param") in ("candidates", "abilities"):
            raise
        return state.router.fall_back(ask, f"undecided: {error}")
    return routed


def unknown_model(name: str, known: Collection[str]) -> Problem:
    """What to say of a model that is not there."""
    hint = nearest(name, {ROUTED, *known})
    if not hint.startswith("did you mean"):
        hint = f"did you mean {ROUTED!r}, which chooses one? {hint}"
    shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
    return Problem(404, f"no model {shown!r}; {hint}", param="model", code="model_not_found")


def max_tokens_of(body: Mapping[str, Any]) -> float | None:
    """The longest answer that a request allows, in tokens."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def job_of(
    state: ServiceState,
    chat: ChatRequest,
    body: dict[str, Any],
    routed: Routed,
    reading: Reading,
    options: ChatOptions,
    key_id: str | None,
    started: float,
) -> Job:
    """What the gateway carries out."""
    spare = state.champion.spare_catalog
    machine = {entry.name: entry for entry in spare.llms} if spare is not None else {}
    entries = {
        name: entry.with_prices_of(machine.get(name)) for name, entry in routed.entries.items()
    }
    # A change of upstreams in between may have taken some away.
    able = [name for name in routed.ranking if name in state.gateway.endpoints]
    if not able:
        raise HTTPException(503, f"{routed.llm} has no upstream any more; try again")
    alone = chat.model != ROUTED or not options.fallback
    tokens: dict[str, float] = {}
    if routed.routing is not None:
        decision = routed.routing.decision
        told = decision.estimates.response_tokens.tolist()
        tokens = dict(zip(decision.candidates, told, strict=True))
    return Job(
        decision_id=routed.decision_id,
        ranking=able[:1] if alone else able,
        # Null means absent, and not every server knows that.
        body={k: v for k, v in body.items() if k != "mixllm" and v is not None},
        stream=bool(chat.stream),
        entries=entries,
        response_tokens=tokens,
        prompt_tokens=routed.prompt_tokens,
        told={
            "decision_id": routed.decision_id,
            "release": routed.release,
            "fallback": routed.fallback,
        },
        key_id=key_id,
        most_prompt_tokens=reading.most_tokens,
        started=started,
    )


def session_of(state: ServiceState, options: ChatOptions, body: dict[str, Any]) -> str | None:
    """The conversation's id: as given, or where changing the LLM costs something, its opening."""
    if options.session is None and (options.switching_cost or state.settings.switching_cost):
        return digest_text(opening(body["messages"]))
    return options.session


def told_headers(job: Job, final: bool) -> dict[str, str]:
    """What the response's headers say of its routing."""
    told = job.extension(final)
    names = {"llm", "decision_id", "release", "fallback", "cost_usd"}
    return {
        HEADER + name.replace("_", "-"): quote(str(value), safe=" :/;,.()=_+@")
        for name, value in told.items()
        if name in names and value is not None
    }


def failed(error: NobodyAnswered, pinned: bool, headers: dict[str, str]) -> Response:
    """What the client is told where nobody answered.

    pinned: the client named the LLM, and gets its own status and words; else only where all say
    that the request is at fault. Otherwise what was tried.
    """
    best = error.best
    own = best.status if best.status is not None and 400 <= best.status < 600 else None
    status = STATUS_OF.get(best.kind, 502)
    if pinned or best.kind == "invalid":
        status = own or status
    if status in (429, 503):
        headers["retry-after"] = str(max(1, round(best.retry_after or 1)))
    words = best.words
    if words.message is None or not (pinned or best.kind == "invalid"):
        return problem(status, str(error), code=best.kind, headers=headers)
    return problem(
        status,
        words.message,
        param=words.param,
        code=words.code or best.kind,
        kind=words.type,
        headers=headers,
    )


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work cancelled, once the client has gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with contextlib.suppress(BaseException):
                    await one


async def disconnected(request: Request) -> None:
    """Ends when the client has gone; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
