"""A simulated fleet that remembers what it was asked."""

from typing import Any

from aiohttp import web

from infra.fleet import Fleet


class RecordingFleet(Fleet):
    """Keeps the bodies and headers of the requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((await request.json(), dict(request.headers)))
        return await super()._complete(request)
