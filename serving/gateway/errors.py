"""How asking an upstream fails, and when to try again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from serving.gateway.upstream_errors import ErrorWords

BACKOFF_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 8.0
# Longer than this nobody waits for a candidate that names a time; another one is asked.
MAX_RETRY_AFTER_SECONDS: Final = 5.0
# How calls end that were perhaps answered in vain: too late, broken off, or unreadably.
MAY_COST: Final = ("timeout", "broken", "garbage")
# Likewise the statuses of a gateway that did not wait for an answer any longer.
GATEWAY_TIMEOUTS: Final = (408, 504, 524)
AGAIN: Final = ("rate_limited", "connect", "server_error", "garbage", "broken", "exhausted")


class UpstreamError(Exception):
    """A candidate did not answer. The message holds none of its secrets.

    kind: "connect", "timeout", "busy", "rate_limited", "server_error", "refused" (its key, address
    or model is wrong), "garbage", "broken", "invalid" (the request is at fault, for this candidate
    at least), "exhausted" (this service has no file descriptor or port left). status: of its
    response. words: its own, where it had some. retry_after: seconds it asked for.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        status: int | None = None,
        words: ErrorWords | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.retry_after = kind, status, retry_after
        self.words = words or ErrorWords()

    @property
    def again(self) -> bool:
        """Whether the same candidate may answer a second time."""
        if self.retry_after is not None and self.retry_after > MAX_RETRY_AFTER_SECONDS:
            return False
        return self.kind in AGAIN

    @property
    def may_cost(self) -> bool:
        """Whether the candidate may charge for a request that was sent and ended so."""
        return self.kind in MAY_COST or self.status in GATEWAY_TIMEOUTS


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, where the header says them, or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):  # a year of fourteen digits
            return None
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        seconds = max(0.0, (at - datetime.now(UTC)).total_seconds())
    return seconds if 0 <= seconds < 86400 else None


def backoff(attempt: int, error: UpstreamError) -> float:
    """Seconds before the next attempt: what was asked for, or exponential with full jitter."""
    if error.retry_after is not None and error.retry_after <= MAX_RETRY_AFTER_SECONDS:
        return error.retry_after
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**attempt))


class NobodyAnswered(Exception):
    """Every candidate that was asked failed.

    errors: one a candidate, in the order they were asked. best: the one that says most to the
    client: the first, where all say that the request is at fault, else the last of the others.
    """

    def __init__(self, attempts: list[dict[str, Any]], errors: list[UpstreamError]) -> None:
        tried = "; ".join(str(attempt["error"]) for attempt in attempts)
        super().__init__(f"no LLM answered: {tried}")
        self.errors = errors
        others = [error for error in errors if error.kind != "invalid"]
        self.best = others[-1] if others else errors[0]
