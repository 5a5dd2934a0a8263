"""The HTTP interface, mounted in the BentoML service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match, Route
from starlette.types import Scope

from models.decision.wishes import Wishes
from models.release.manifest import summary
from serving.http import chat, feedback, paths, problems, request_metrics
from serving.http.bodies import BodyRequest, apart
from serving.http.observations import observe, observed, sent
from serving.http.responses import (
    challenger_summary,
    journal_summary,
    policy_summary,
    route_response,
)
from serving.http.schemas import (
    ChatRequest,
    ChatResponse,
    DecisionResponse,
    ErrorResponse,
    FeedbackBatchRequest,
    FeedbackBatchResponse,
    FeedbackEntry,
    FeedbackRequest,
    ModelEntry,
    ModelList,
    Observation,
    RouteRequest,
    RouteResponse,
)
from serving.http.size_limits import SizeLimits
from serving.lookups import BATCH_SECONDS, SECONDS
from serving.routing.request import Ask
from serving.routing.router import NotReady
from serving.state import ServiceState

DESCRIPTION = """
Routes each query to the LLM with the best predicted trade-off of quality, cost and time.
`/v1/route` says whom to ask; `/v1/chat/completions`, in OpenAI's form, asks.
Errors have one form: `{"error": {"type", "message", "param", "code"}}`.
"""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body cannot be parsed."},
    401: {"model": ErrorResponse, "description": "The API key is missing or wrong."},
    403: {"model": ErrorResponse, "description": "The API key lacks the scope."},
    408: {"model": ErrorResponse, "description": "The body came too slowly."},
    413: {"model": ErrorResponse, "description": "The body is too large."},
    415: {"model": ErrorResponse, "description": "The body is not said to be JSON."},
    422: {"model": ErrorResponse, "description": "The request is not valid."},
    429: {"model": ErrorResponse, "description": "The key's rate or budget is used up."},
    431: {"model": ErrorResponse, "description": "The headers are too large."},
    503: {"model": ErrorResponse, "description": "No release is loaded yet."},
}
NOT_KEPT: dict[int | str, dict[str, Any]] = {
    507: {"model": ErrorResponse, "description": "The disk is full: the feedback is not kept."},
}
CHAT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The LLM refused what was asked."},
    404: {"model": ErrorResponse, "description": "No such model."},
    502: {"model": ErrorResponse, "description": "No LLM answered."},
    504: {"model": ErrorResponse, "description": "No LLM answered in time."},
}
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


async def current_state(request: Request) -> ServiceState:
    state: ServiceState = request.app.state.get_state()
    return state


State = Annotated[ServiceState, Depends(current_state)]


class Caller:
    """A dependency: the id of the request's key. scope: what the key must have.

    ``GuardedRoute`` has checked it, before the body was read.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> str | None:
        key_id: str | None = request.state.key_id
        return key_id


class GuardedRoute(APIRoute):
    """A route that checks the key before anything of the body is read or parsed.

    Every such route takes its caller as a dependency; one that does not cannot be made.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        calls = (dependency.call for dependency in self.dependant.dependencies)
        (scope,) = (call.scope for call in calls if isinstance(call, Caller))

        async def guarded(request: Request) -> Response:
            state = await current_state(request)
            request.state.key_id = state.keys.admit(request.headers, scope)
            return await handle(BodyRequest(request.scope, request.receive))

        return guarded


MayRoute = Annotated[str | None, Depends(Caller("route"))]
MayFeedBack = Annotated[str | None, Depends(Caller("feedback"))]
MayAdminister = Annotated[str | None, Depends(Caller("admin"))]
# What the description says of keys; ``GuardedRoute`` checks them.
KEYS = [
    Security(HTTPBearer(auto_error=False, description="mixllm keys create")),
    Security(APIKeyHeader(name="x-api-key", auto_error=False)),
]


def create_app(get_state: Callable[[], ServiceState], max_body: int) -> FastAPI:
    """get_state: the process's state, once it has started. max_body: bytes."""
    app = FastAPI(
        title="MixLLM",
        version="0.1.0",
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(SizeLimits, max_body=max_body)
    app.add_middleware(paths.HeadAsGet)
    request_metrics.install(app)
    app.state.get_state = get_state
    routes = APIRouter(prefix="/v1", responses=ERRORS, dependencies=KEYS, route_class=GuardedRoute)

    @routes.post("/route", summary="Choose an LLM for a query", response_model=RouteResponse)
    async def route(request: RouteRequest, state: State, key_id: MayRoute) -> Response:
        state.keys.check_budget(key_id)
        state.gateway.follow(state.champion.upstreams)
        loop = asyncio.get_running_loop()
        ask = ask_of(request, state, key_id)
        routed, parts = await loop.run_in_executor(state.pool, state.router.decide, ask)
        sent(state, routed)
        state.router.sessions.note(key_id, request.session, routed.llm)
        timing = ", ".join(f"{part};dur={1000 * value:.3f}" for part, value in parts.items())
        # Made of its own model already: FastAPI need not check it again.
        return Response(
            route_response(routed, request.explain).model_dump_json(),
            media_type="application/json",
            headers={"server-timing": timing},
        )

    @routes.post(
        "/chat/completions",
        summary="Ask the best LLM, in OpenAI's form",
        response_model=ChatResponse,
        responses={200: {"content": STREAM}, **CHAT_ERRORS},
    )
    async def completions(
        asked: ChatRequest, request: Request, state: State, key_id: MayRoute
    ) -> Response:
        return await chat.complete(asked, request, state, key_id)

    @routes.get("/models", summary="The names that a chat completion's model may have")
    async def models(state: State, key_id: MayRoute) -> ModelList:
        state.gateway.follow(state.champion.upstreams)
        since = round(state.champion.running.since) if state.champion.running else 0
        names = [chat.ROUTED, *state.gateway.endpoints]
        return ModelList(data=[ModelEntry(id=n, created=since, owned_by="mixllm") for n in names])

    @routes.get(
        "/models/{model_id:path}",
        summary="One of the names that a chat completion's model may have",
        responses={404: {"model": ErrorResponse, "description": "No such model."}},
    )
    async def model(model_id: str, state: State, key_id: MayRoute) -> ModelEntry:
        state.gateway.follow(state.champion.upstreams)
        since = round(state.champion.running.since) if state.champion.running else 0
        if model_id not in (chat.ROUTED, *state.gateway.endpoints):
            raise chat.unknown_model(model_id, state.gateway.endpoints)
        return ModelEntry(id=model_id, created=since, owned_by="mixllm")

    @routes.post(
        "/observations",
        summary="Tell how the chosen LLM answered, where you asked it yourself",
        status_code=202,
        responses={404: {"model": ErrorResponse, "description": "No such decision."}},
    )
    async def observations(found: Observation, state: State, key_id: MayRoute) -> dict[str, str]:
        if state.remembers(found.decision_id):
            rows = observed(state, found, key_id)
        else:
            rows = await state.lookups.run(SECONDS, observed, state, found, key_id)
        kept = await run_in_threadpool(observe, state, found, *rows)
        return {"status": "kept" if kept else "known already"}

    @routes.get(
        "/decisions/{decision_id}",
        summary="A decision that was made, and what became of it",
        responses={404: {"model": ErrorResponse, "description": "No such decision."}},
    )
    async def decision(decision_id: UUID, state: State, key_id: MayFeedBack) -> DecisionResponse:
        row = await state.lookups.run(SECONDS, state.decision, decision_id, key_id)
        return DecisionResponse(**row)

    @routes.post(
        "/feedback",
        summary="Say how good an answer was",
        responses={
            404: {"model": ErrorResponse, "description": "No such decision of yours."},
            **NOT_KEPT,
        },
    )
    async def give_feedback(
        found: FeedbackRequest, state: State, key_id: MayFeedBack
    ) -> dict[str, str]:
        if state.remembers(found.decision_id):  # a vote on it waits for no look-up that hangs
            row = feedback.feedback_row(state, found, key_id)
        else:
            row = await state.lookups.run(SECONDS, feedback.feedback_row, state, found, key_id)
        await run_in_threadpool(feedback.append, state, [row])
        return {"status": "kept"}

    @routes.post("/feedback/batch", summary="Say how good many answers were", responses=NOT_KEPT)
    async def give_feedback_batch(
        found: FeedbackBatchRequest, state: State, key_id: MayFeedBack
    ) -> FeedbackBatchResponse:
        votes = feedback.votes(found.feedback)
        return await keep_each(state, votes, key_id)

    @routes.post(
        "/feedback/import",
        summary="Take the scores of an OpenAI evaluation run, its output items as JSON Lines",
        responses=NOT_KEPT,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    )
    async def import_feedback(
        request: Request, state: State, key_id: MayFeedBack
    ) -> FeedbackBatchResponse:
        votes = await apart(request, feedback.scores, await request.body())
        return await keep_each(state, votes, key_id)

    @routes.get(
        "/decisions/{decision_id}/feedback",
        summary="Every vote on a decision, corrections included",
        responses={404: {"model": ErrorResponse, "description": "No such decision."}},
    )
    async def decision_feedback(
        decision_id: UUID, state: State, key_id: MayFeedBack
    ) -> list[FeedbackEntry]:
        rows = await state.lookups.run(SECONDS, feedback.given, state, decision_id, key_id)
        shown = [{**row, "received_at": row["received_at"].isoformat()} for row in rows]
        return [
            FeedbackEntry(**{name: row[name] for name in FeedbackEntry.model_fields})
            for row in shown
        ]

    @routes.get("/release", summary="The release that answers")
    def release(state: State, key_id: MayRoute) -> dict[str, Any]:
        running = state.champion.running
        if running is None:
            raise NotReady
        return {
            "version": running.version,
            "source": running.source,
            "since": running.since,
            **summary(running.release.manifest),
            "disabled": sorted(state.champion.disabled),
            "upstreams": sorted(state.champion.upstreams),
            "last_error": state.champion.last_error,
            "catalog_error": state.champion.catalog_error,
            "policy": policy_summary(state, running.release.digest),
            "challenger": challenger_summary(state),
            **journal_summary(state),
        }

    @routes.post("/refresh", summary="Look for a new champion and disabled candidates now")
    async def refresh(state: State, key_id: MayAdminister) -> dict[str, str]:
        state.champion.refresh()
        return {"status": "asked"}

    @app.get("/v1/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Swagger UI from the files that BentoML brings, since a closed network has no CDN."""
        return get_swagger_ui_html(
            openapi_url="/v1/openapi.json",
            title="MixLLM",
            swagger_js_url="/static_content/swagger-ui-bundle.js",
            swagger_css_url="/static_content/swagger-ui.css",
            swagger_favicon_url="/static_content/favicon-light-32x32.png",
        )

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/v1/docs")

    @app.exception_handler(NotReady)
    async def not_ready(*_: Any) -> JSONResponse:
        return problems.problem(503, str(NotReady.__doc__))

    app.include_router(routes)

    async def elsewhere(request: Request) -> Response:
        """What BentoML would answer in a form of its own."""
        for known in ours:
            if known.matches(request.scope)[0] is Match.PARTIAL:
                allowed = ", ".join(sorted(known.methods or ()))
                message = f"{request.method} is not allowed here; use {allowed}"
                raise HTTPException(405, message, {"allow": allowed})
        known_paths = {known.path for known in ours}
        plain = {path for path in known_paths if "{" not in path and len(path) > 1}
        raise HTTPException(404, paths.missing(request.url.path, plain))

    ours = [known for known in (*app.routes, *routes.routes) if isinstance(known, Route)]
    app.router.routes.append(
        Elsewhere("/{path:path}", elsewhere, methods=METHODS, include_in_schema=False)
    )
    return app


async def keep_each(
    state: ServiceState, votes: Sequence[feedback.Vote], key_id: str | None
) -> FeedbackBatchResponse:
    """Keep every vote that can be kept, and say why the others cannot. Raises HTTPException where
    none can be looked up, and Refused where that takes too long: nothing is kept then."""
    rows, refused = await state.lookups.run(BATCH_SECONDS, feedback.rows_of, state, votes, key_id)
    await run_in_threadpool(feedback.append, state, rows)
    return FeedbackBatchResponse(kept=len(rows), refused=refused)


class Elsewhere(Route):
    """Every path but those that BentoML itself answers after ours."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if any(path == own or path.startswith(f"{own}/") for own in paths.BENTOML):
            return Match.NONE, {}
        return super().matches(scope)


def ask_of(request: RouteRequest, state: ServiceState, key_id: str | None) -> Ask:
    """What ``/v1/route`` decides."""
    wishes = Wishes(**{name: getattr(request, name) for name in Wishes.model_fields})
    unavailable = state.gateway.unavailable()
    return Ask(
        request.query, wishes, session=request.session, key_id=key_id, unavailable=unavailable
    )
