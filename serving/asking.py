"""What is asked of the router."""

from __future__ import annotations

from dataclasses import dataclass

from models.decision import Wishes


@dataclass(frozen=True)
class Ask:
    """What to decide. more_tokens: of the prompt, beyond the query. session: the conversation.
    key_id: who asks. closed: candidates that cannot be asked. unavailable: those better not asked
    now, unless nobody else is left."""

    query: str
    wishes: Wishes
    more_tokens: float = 0.0
    session: str | None = None
    key_id: str | None = None
    closed: frozenset[str] = frozenset()
    unavailable: frozenset[str] = frozenset()
