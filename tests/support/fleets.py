"""A simulated fleet in a thread of the test's process."""

import asyncio
import threading
from typing import Any

from aiohttp import web

from infra.fleet import Fleet, serve
from processes import free_port


class RecordingFleet(Fleet):
    """Keeps the bodies and headers of the requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((await request.json(), dict(request.headers)))
        return await super()._complete(request)


class FleetThread:
    """Runs until ``stop``."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.port = fleet, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_until_complete(serve(self.fleet, "127.0.0.1", self.port, self._stop))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
