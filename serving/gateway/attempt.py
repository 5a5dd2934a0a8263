"""One request to a candidate, and whether it went out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass
class Attempt:
    """One request to a candidate.

    alone: whether no other candidate is left, so that it is asked though its breaker is open.
    sent: whether its head has gone out.
    """

    alone: bool = True
    sent: bool = False


async def note_sent(session: Any, context: Any, parameters: Any) -> None:
    """Told by the HTTP client when a request's head has gone out."""
    if isinstance(context.trace_request_ctx, Attempt):
        context.trace_request_ctx.sent = True


def tracing() -> aiohttp.TraceConfig:
    """Lets a session tell an ``Attempt`` that it was sent."""
    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(note_sent)
    return config
