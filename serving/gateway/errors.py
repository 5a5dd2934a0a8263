"""How asking an upstream fails, and when to try again.

UpstreamError
├── ConnectFailed      no connection
├── TimedOut           no answer in time
├── Busy               no place, or no request left in this minute: it was not asked
├── RateLimited        429
├── ServerError        5xx and their like
├── UpstreamRefused    its key, address or model is wrong
├── Unreadable         what came is no answer
├── BrokenOff          the answer ended before its end
├── InvalidRequest     the request is at fault, for this candidate at least
└── OutOfResources     this service has no file descriptor or port left
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final

from serving.gateway.upstream_errors import ErrorWords

BACKOFF_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 8.0
# Longer than this nobody waits for a candidate that names a time; another one is asked.
MAX_RETRY_AFTER_SECONDS: Final = 5.0
# Statuses of a gateway that stopped waiting: its LLM may have answered, and charge for it.
GATEWAY_TIMEOUTS: Final = (408, 504, 524)
KEY_CODES: Final = re.compile(
    r"invalid_?api_?key|api_?key_?invalid|authentication|unauthori[sz]ed|unauthenticated"
    r"|permission_?denied|invalid_?token|expired_?token|UnrecognizedClient|AccessDenied"
    r"|model_?not_?found|insufficient_?quota|billing",
    re.IGNORECASE,
)
KEY_WORDS: Final = re.compile(
    r"\b(?:invalid|incorrect|wrong|missing|expired|no|not valid|unauthori[sz]ed)\b.{0,40}"
    r"\b(?:api[ _-]?key|access[ _-]?token|credentials?|subscription[ _-]?key)\b"
    r"|\b(?:api[ _-]?key|access[ _-]?token|credentials?|subscription[ _-]?key)\b.{0,40}"
    r"\b(?:invalid|incorrect|wrong|missing|expired|not valid|not found|required|denied)\b"
    r"|\bmodel\b.{0,200}\b(?:does not exist|not found)\b",
    re.IGNORECASE | re.DOTALL,
)
REQUEST_WORDS: Final = re.compile(
    r"context[ _-]?(?:length|window|size)|prompt is too long|too many (?:input |prompt )?tokens"
    r"|input is too long|maximum.{0,30}tokens|unsupported[ _](?:parameter|value)"
    r"|content[ _-]?(?:policy|filter)|moderation|\bflagged\b|responsible_?ai",
    re.IGNORECASE,
)


class UpstreamError(Exception):
    """A candidate did not answer. The message holds none of its secrets.

    code: what rows, metrics and error bodies call it.
    retriable: the same candidate may answer a second time.
    charged: the candidate may charge for a request that was sent and ended so.
    status: of its response.
    words: its own, where it had some.
    retry_after: seconds it asked for.
    """

    code: ClassVar[str]
    retriable: ClassVar[bool] = False
    charged: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        status: int | None = None,
        words: ErrorWords | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.words = words or ErrorWords()

    @property
    def again(self) -> bool:
        """Whether to ask the same candidate again."""
        if self.retry_after is not None and self.retry_after > MAX_RETRY_AFTER_SECONDS:
            return False
        return self.retriable

    @property
    def may_cost(self) -> bool:
        """Whether the candidate may charge for the request, if it was sent."""
        return self.charged or self.status in GATEWAY_TIMEOUTS


class ConnectFailed(UpstreamError):
    """No connection came about."""

    code, retriable = "connect", True


class TimedOut(UpstreamError):
    """No answer came in time."""

    code, charged = "timeout", True


class Busy(UpstreamError):
    """It was not asked: it has no place, or no request left in this minute."""

    code = "busy"


class RateLimited(UpstreamError):
    """It answered 429."""

    code, retriable = "rate_limited", True


class ServerError(UpstreamError):
    """It answered 5xx, or the like."""

    code, retriable = "server_error", True


class UpstreamRefused(UpstreamError):
    """Its key, address or model is wrong."""

    code = "refused"


class Unreadable(UpstreamError):
    """What came is no answer."""

    code, retriable, charged = "garbage", True, True


class BrokenOff(UpstreamError):
    """The answer ended before its end."""

    code, retriable, charged = "broken", True, True


class InvalidRequest(UpstreamError):
    """The request is at fault, for this candidate at least."""

    code = "invalid"


class OutOfResources(UpstreamError):
    """This service has no file descriptor or port left."""

    code, retriable = "exhausted", True


def class_of(status: int, words: ErrorWords) -> type[UpstreamError]:
    """Whose fault a response with a status of 300 or more is."""
    named = " ".join(filter(None, (*words.reasons, words.code, words.type)))
    at_request = bool(REQUEST_WORDS.search(named) or REQUEST_WORDS.search(words.message or ""))
    at_key = bool(KEY_CODES.search(named) or KEY_WORDS.search(words.message or ""))
    if status == 429:
        return RateLimited
    if status in (400, 403, 404, 422, 500) and at_request and not at_key:
        return InvalidRequest
    if status >= 500 or status in (408, 409, 425):
        return ServerError
    if status in (400, 413, 414, 415, 422, 431) and not at_key:
        return InvalidRequest
    # 401, 402, 404, a redirect and whatever else: its configuration, not the request, is at fault.
    return UpstreamRefused


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
        others = [error for error in errors if not isinstance(error, InvalidRequest)]
        self.best = others[-1] if others else errors[0]
