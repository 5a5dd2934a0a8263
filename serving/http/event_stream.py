"""The response of a streamed completion, which ends whatever the client does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("mixllm.gateway")


class EventStream(StreamingResponse):
    """Server-sent events that surely end when the response does, as when the client leaves.

    patience: seconds that a client may take nothing before it is cut off; the LLM's answer, which
    nobody reads, is then given up.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], patience: float
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.events, self.patience = events, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self.patience):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.warning("a client took nothing of its stream for %g s: cut off", self.patience)
        finally:
            await self.events.aclose()
