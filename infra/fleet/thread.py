"""A fleet within this process."""

from __future__ import annotations

import asyncio
import threading

from infra.addresses import LOOPBACK, free_loopback_port, http_url
from infra.fleet.server import Fleet, serve


class FleetThread:
    """A fleet that answers from a thread of this process, on a free port of loopback; a context."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.port = fleet, free_loopback_port()
        self.address = http_url(LOOPBACK, self.port)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def __enter__(self) -> FleetThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        self._loop.run_until_complete(serve(self.fleet, LOOPBACK, self.port, self._stop))
        self._loop.close()
