"""A simulated fleet that remembers what it was asked."""

from typing import Any

from aiohttp import web

from infra.fleet.messages import json_response
from infra.fleet.server import Fleet


class RecordingFleet(Fleet):
    """Keeps the bodies and headers of the requests. scripted: LLM → the status and JSON that it
    answers whatever it is asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.scripted: dict[str, tuple[int, Any]] = {}

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((body, dict(request.headers)))
        if body["model"] in self.scripted:
            status, answer = self.scripted[body["model"]]
            return json_response(answer, status)
        return await super()._complete(request)
