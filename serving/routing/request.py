"""A request to the router."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from models.decision.wishes import Wishes
from models.queries.conversation import BYTES_PER_TOKEN, length_of


@dataclass(frozen=True)
class RoutingRequest:
    """What to decide.

    query: the text to route by.
    wishes: what the request asks of the decision.
    needs: abilities that its content needs, as far as the catalog tells of them.
    more_tokens: of the prompt, beyond the query.
    max_response_tokens: that the request allows; None where it sets no limit.
    pinned: the client chose the LLM itself, which is told whatever it was sent.
    session: the conversation.
    key_id: who asks.
    reachable: candidates that have an upstream; None where the client asks them itself.
    unavailable: candidates better not asked now, unless nobody else is left.
    """

    query: str
    wishes: Wishes
    needs: tuple[str, ...] = ()
    more_tokens: float = 0.0
    max_response_tokens: float | None = None
    pinned: bool = False
    session: str | None = None
    key_id: str | None = None
    reachable: frozenset[str] | None = None
    unavailable: frozenset[str] = frozenset()

    @property
    def prompt_tokens(self) -> float:
        """Of the whole prompt, estimated."""
        return self.more_tokens + length_of(self.query) / BYTES_PER_TOKEN

    def closed(self, candidates: Iterable[str]) -> frozenset[str]:
        """Those of the candidates that cannot be asked."""
        return frozenset() if self.reachable is None else frozenset(candidates) - self.reachable
