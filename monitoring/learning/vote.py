"""A vote as the log has it, beside the decision that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from monitoring.store.feedback import reward_of

# Voters without a key are distinguished by the source, which a client may choose freely.
KEYLESS: Final = "source:"


@dataclass(frozen=True)
class LoggedVote:
    """A vote on an answer.

    position: in the log.
    satisfied, quality: the judgement, one of them.
    release_digest, embedding: of the decision; None where there is none, or where it was not routed.
        embedding: float32, little-endian.
    """

    position: int
    decision_id: UUID
    source: str
    key_id: str | None
    llm: str
    satisfied: bool | None
    quality: float | None
    release_digest: str | None
    embedding: bytes | None

    @property
    def voter(self) -> str:
        return self.key_id or KEYLESS + self.source

    @property
    def reward(self) -> float:
        """In [0, 1]."""
        return reward_of(vars(self))
