"""The BentoML service: ``bentoml serve serving.service:MixLLM``, or ``mixllm up``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import bentoml
from fastapi.middleware.cors import CORSMiddleware

from infra.addresses import listening_address
from infra.guard.guard import Guard, Names
from infra.permissions import close_home, private_umask
from infra.proxy_bypass import bypass_proxy
from infra.settings import read_settings
from models.errors import MixLLMError
from serving import telemetry
from serving.binding import check_listening
from serving.http import connections
from serving.http.app import create_app
from serving.http.paths import OneLinePaths
from serving.routing.router import NotReady
from serving.state import ServiceState
from serving.supervisor import listen_privately

private_umask()
listen_privately()
bypass_proxy()
settings = read_settings()
telemetry.start_logging(settings.log_format)
connections.install()
_state: ServiceState | None = None
# What a page of an allowed origin may read of an answer's headers.
EXPOSED = [
    "retry-after", "server-timing", "x-mixllm-llm", "x-mixllm-decision-id", "x-mixllm-release",
    "x-mixllm-fallback", "x-mixllm-cost-usd",
]  # fmt: skip


class NoTimeout(float):
    """A time limit that BentoML takes for none: it wants a number, and asks whether it is true.

    The gateway has limits of its own, per upstream: an answer may take minutes. And BentoML's timer
    stays in memory for its whole time, however soon the request is answered.
    """

    def __bool__(self) -> bool:
        return False


def get_state() -> ServiceState:
    if _state is None:
        raise NotReady
    return _state


@bentoml.service(
    name="mixllm",
    workers=settings.workers,
    http={"host": listening_address(settings.host), "port": settings.port},
    traffic={"timeout": NoTimeout(1)},
    # serving.http.request_metrics counts, and shows what is counted.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # serving.telemetry makes the spans.
    tracing={"excluded_urls": [".*"]},
)
@bentoml.asgi_app(create_app(get_state, settings.max_body_bytes), path="/")
class MixLLM:
    """Loads the champion release, follows its alias, and routes."""

    @bentoml.on_startup
    def start(self) -> None:
        global _state
        try:
            check_listening(settings)
            close_home(settings.home)
        except MixLLMError as error:
            print(f"mixllm: {error}", file=sys.stderr, flush=True)
            os._exit(2)  # an open, keyless service must not serve one request
        telemetry.start_tracing()
        _state = ServiceState(settings)
        _state.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        if _state is not None:
            await _state.gateway.close()
            await asyncio.to_thread(_state.stop)
        telemetry.stop_tracing()

    async def __is_ready__(self) -> bool:
        return _state is not None and _state.champion.running is not None


# Around everything, BentoML's own paths included. The decorators made a service of the class.
served: Any = MixLLM
served.add_asgi_middleware(OneLinePaths)
served.add_asgi_middleware(
    Guard, names=Names(settings.host, settings.hosts), origins=settings.origins
)
if settings.origins:
    served.add_asgi_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        allow_private_network=True,
    )
