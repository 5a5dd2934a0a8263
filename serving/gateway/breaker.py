"""The circuit breaker: a candidate that keeps failing is left alone for a while.

closed → (FAILURES in a row) → open → (its time is over) → half-open: one request probes → closed, or
open again for twice as long. After Nygard, *Release It!*.
"""

from __future__ import annotations

from itertools import count
from typing import Final

FAILURES: Final = 5
OPEN_SECONDS: Final = 5.0
MAX_OPEN_SECONDS: Final = 120.0


class Breaker:
    """The state of one candidate. Times are those of one monotonic clock, in seconds.

    A request takes a ticket when it goes out and shows it when it ends: what a request says that went
    out before the probe must not end the probe.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._opens_for = OPEN_SECONDS
        self._closed_until = 0.0  # nobody is let through before this, after a failure too many
        self._paused_until = 0.0
        self._tickets = count(1)
        self._probe: int | None = None  # the ticket of the request that probes

    def state(self, now: float) -> str:
        if self.failures < FAILURES:
            return "paused" if now < self._paused_until else "closed"
        waits = self._probe is not None or now < max(self._closed_until, self._paused_until)
        return "open" if waits else "half-open"

    def lets_through(self, now: float) -> bool:
        return self.state(now) in ("closed", "half-open")

    def enter(self, now: float) -> int:
        """A request goes out; in half-open it is the probe. Returns its ticket."""
        ticket = next(self._tickets)
        if self.state(now) == "half-open":
            self._probe = ticket
        return ticket

    def leave(self, ticket: int) -> None:
        """A request ended, perhaps without saying anything of the candidate."""
        if ticket == self._probe:
            self._probe = None

    def succeed(self) -> None:
        """The candidate answers, whoever asked it."""
        self.failures, self._opens_for, self._probe = 0, OPEN_SECONDS, None

    def fail(self, now: float, ticket: int) -> None:
        if ticket == self._probe:
            self._opens_for = min(2 * self._opens_for, MAX_OPEN_SECONDS)
        self.leave(ticket)
        self.failures += 1
        if self.failures >= FAILURES:
            self._closed_until = now + self._opens_for

    def pause(self, seconds: float, now: float, ticket: int) -> None:
        """The candidate asked to be left alone so long (429)."""
        self.leave(ticket)
        self._paused_until = max(self._paused_until, now + min(seconds, MAX_OPEN_SECONDS))
