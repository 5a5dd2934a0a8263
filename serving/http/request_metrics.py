"""How many requests came, by route, and what they took; and the page that Prometheus reads.

BentoML counts by the path as it was sent: every decision's id, and every path that somebody made up,
took memory for good. A route's template is one of a few.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import psutil
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metrics

METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS")
OTHER: Final = "other"


class CountRequests:
    """ASGI middleware, outside the app's routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.monotonic()
        status = 500  # of a request that ends without a response

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else OTHER
        metrics.requests_in_progress.inc()
        try:
            await self.app(scope, receive, noting)
        finally:
            metrics.requests_in_progress.dec()
            route = getattr(scope.get("route"), "path", OTHER)  # set by the router
            metrics.requests.labels(route, method, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.monotonic() - begun)


def install(app: FastAPI) -> None:
    """Count the app's requests, and show every metric of the service's processes at /metrics."""
    app.add_middleware(CountRequests)

    @app.get("/metrics", include_in_schema=False)
    def exposition() -> Response:
        # prometheus_client looks for the processes' common folder when it is imported, and BentoML
        # names that after it has imported the service.
        from prometheus_client import (
            CONTENT_TYPE_LATEST,
            REGISTRY,
            CollectorRegistry,
            generate_latest,
        )
        from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

        registry = REGISTRY
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is not None:
            for gauges in Path(folder).glob("gauge_live*.db"):
                process = int(gauges.stem.rpartition("_")[2])
                if not psutil.pid_exists(process):  # a worker that was killed
                    mark_process_dead(process, folder)  # type: ignore[no-untyped-call]
            registry = CollectorRegistry()
            MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
