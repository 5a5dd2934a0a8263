"""Looking again and again: what the service follows beside the requests it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

JOIN_SECONDS: Final = 10.0


class Poller:
    """Calls ``step`` on a thread of its own until it is stopped.

    step: looks once and returns the seconds to wait before the next look. It handles its own errors:
        one that it lets through ends the thread.
    """

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._step = step
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look now rather than after the wait."""
        self._wake.set()

    def stop(self) -> None:
        """Returns when the look under way is over, or after ``JOIN_SECONDS``."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=JOIN_SECONDS)

    def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._stopped:  # after the clearing, or a stop just before it would be missed
                return
            self._wake.wait(self._step())
