"""The HTTP interface, mounted in the BentoML service."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.routing import Match

from models.manifest import summary
from serving import problems
from serving.schemas import DecisionResponse, ErrorResponse, RouteRequest, RouteResponse
from serving.state import NotReady, ServiceState

DESCRIPTION = """
Routes each query to the LLM with the best predicted trade-off of quality, cost and time.
Errors have one form: `{"error": {"type", "message", "param"}}`.
"""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "The API key is missing or wrong."},
    422: {"model": ErrorResponse, "description": "The request is not valid."},
    503: {"model": ErrorResponse, "description": "No release is loaded yet."},
}


async def current_state(request: Request) -> ServiceState:
    state: ServiceState = request.app.state.get_state()
    return state


State = Annotated[ServiceState, Depends(current_state)]


async def authorised(
    state: State,
    authorization: Annotated[str | None, Header()] = None,
    x_api_key: Annotated[str | None, Header()] = None,
) -> None:
    """Refuse a request without the configured key."""
    key = state.settings.api_key
    if key is None:
        return
    scheme, _, bearer = (authorization or "").partition(" ")
    given = x_api_key or (bearer if scheme.lower() == "bearer" else "")
    if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        raise HTTPException(401, "the API key is missing or wrong")


def create_app(get_state: Callable[[], ServiceState]) -> FastAPI:
    """get_state: the process's state, once it has started."""
    app = FastAPI(
        title="MixLLM",
        version="0.1.0",
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.state.get_state = get_state
    routes = APIRouter(prefix="/v1", responses=ERRORS, dependencies=[Depends(authorised)])

    @routes.post("/route", summary="Choose an LLM for a query", response_model=RouteResponse)
    async def route(request: RouteRequest, state: State) -> Response:
        loop = asyncio.get_running_loop()
        answer, parts = await loop.run_in_executor(state.pool, state.route, request)
        timing = ", ".join(f"{part};dur={1000 * value:.3f}" for part, value in parts.items())
        # Made of its own model already: FastAPI need not check it again.
        return Response(
            answer.model_dump_json(),
            media_type="application/json",
            headers={"server-timing": timing},
        )

    @routes.get(
        "/decisions/{decision_id}",
        summary="A decision that was made",
        responses={404: {"model": ErrorResponse, "description": "No such decision."}},
    )
    def decision(decision_id: UUID, state: State) -> DecisionResponse:
        row = state.decision(decision_id)
        if row is None:
            raise HTTPException(404, f"no decision {decision_id}")
        return DecisionResponse(**row)

    @routes.get("/release", summary="The release that answers")
    async def release(state: State) -> dict[str, Any]:
        running = state.champion.running
        if running is None:
            raise NotReady
        return {
            "version": running.version,
            "source": running.source,
            "since": running.since,
            **summary(running.release.manifest),
            "disabled": sorted(state.champion.disabled),
            "last_error": state.champion.last_error,
            "unwritten_decisions": state.journal.waiting,
            "database_error": state.journal.last_error,
        }

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

    @routes.post("/refresh", summary="Look for a new champion and disabled candidates now")
    async def refresh(state: State) -> dict[str, str]:
        state.champion.refresh()
        return {"status": "asked"}

    app.include_router(routes)

    @app.api_route("/v1/{path:path}", methods=METHODS, include_in_schema=False)
    async def elsewhere(request: Request) -> None:
        """What BentoML would answer in a form of its own."""
        for known in routes.routes:
            if known.matches(request.scope)[0] is Match.PARTIAL:
                raise HTTPException(405, f"{request.method} is not allowed here")
        raise HTTPException(404, f"no path {request.url.path}")

    return app
