"""The circuit breaker: a candidate that keeps failing is left alone for a while.

closed → (FAILURES in a row) → open → (its time is over) → half-open: one request probes → closed, or
open again for twice as long. After Nygard, *Release It!*.
"""

from __future__ import annotations

from typing import Final

FAILURES: Final = 5
OPEN_SECONDS: Final = 5.0
MAX_OPEN_SECONDS: Final = 120.0


class Breaker:
    """The state of one candidate. Times are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.failures = 0
        self._opens_for = OPEN_SECONDS
        self._closed_until = 0.0  # nobody is let through before this, after a failure too many
        self._paused_until = 0.0
        self._probing = False

    def state(self, now: float) -> str:
        if self.failures < FAILURES:
            return "paused" if now < self._paused_until else "closed"
        return "open" if self._probing or now < self._closed_until else "half-open"

    def lets_through(self, now: float) -> bool:
        return self.state(now) in ("closed", "half-open")

    def enter(self, now: float) -> None:
        """A request goes out; in half-open it is the probe, and the only one."""
        self._probing = self.state(now) == "half-open"

    def leave(self) -> None:
        """A request ended without saying anything of the candidate."""
        self._probing = False

    def succeed(self) -> None:
        self.failures, self._opens_for, self._probing = 0, OPEN_SECONDS, False

    def fail(self, now: float) -> None:
        if self._probing:
            self._opens_for = min(2 * self._opens_for, MAX_OPEN_SECONDS)
        self._probing = False
        self.failures += 1
        if self.failures >= FAILURES:
            self._closed_until = now + self._opens_for

    def pause(self, seconds: float, now: float) -> None:
        """The candidate asked to be left alone so long (429)."""
        self._probing = False
        self._paused_until = max(self._paused_until, now + min(seconds, MAX_OPEN_SECONDS))
