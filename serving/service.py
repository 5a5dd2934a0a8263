"""The BentoML service: ``bentoml serve serving.service:MixLLM``, or ``mixllm up``."""

from __future__ import annotations

import logging
import os
import sys

import bentoml

from infra.settings import read_settings
from models.errors import MixLLMError
from serving.app import create_app
from serving.binding import check_listening
from serving.state import NotReady, ServiceState

logging.getLogger("mixllm").setLevel(logging.INFO)
settings = read_settings()
_state: ServiceState | None = None


def get_state() -> ServiceState:
    if _state is None:
        raise NotReady
    return _state


@bentoml.service(
    name="mixllm",
    workers=1,
    http={"host": settings.host, "port": settings.port},
    # Routing takes milliseconds; what takes longer hangs.
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    # Nobody exports spans, so none are made.
    tracing={"excluded_urls": [".*"]},
)
@bentoml.asgi_app(create_app(get_state), path="/")
class MixLLM:
    """Loads the champion release, follows its alias, and routes."""

    @bentoml.on_startup
    def start(self) -> None:
        global _state
        try:
            check_listening(settings)
        except MixLLMError as error:
            print(f"mixllm: {error}", file=sys.stderr, flush=True)
            os._exit(2)  # an open, keyless service must not serve one request
        _state = ServiceState(settings)
        _state.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        if _state is not None:
            _state.stop()

    async def __is_ready__(self) -> bool:
        return _state is not None and _state.champion.running is not None
