"""The HTTP interface, mounted in the BentoML service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.routing import Route

from serving.http import paths, problems, request_metrics
from serving.http.routes import completions, decisions, pages, releases, routing, votes
from serving.http.size_limits import SizeLimits
from serving.http.unknown_paths import UnknownPath
from serving.routing.router import NotReady
from serving.state import ServiceState

DESCRIPTION = """
Routes each query to the LLM with the best predicted trade-off of quality, cost and time.
`/v1/route` says whom to ask; `/v1/chat/completions`, in OpenAI's form, asks.
Errors have one form: `{"error": {"type", "message", "param", "code"}}`.
"""
# In the order of the description.
SUBJECTS = (pages, routing, completions, decisions, votes, releases)


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

    @app.exception_handler(NotReady)
    async def not_ready(*_: Any) -> JSONResponse:
        return problems.problem(503, str(NotReady.__doc__))

    known = list(app.routes)
    for subject in SUBJECTS:
        app.include_router(subject.router)
        known += subject.router.routes
    app.router.routes.append(UnknownPath([route for route in known if isinstance(route, Route)]))
    return app
