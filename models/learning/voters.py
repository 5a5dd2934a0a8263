"""Voters: how far each is believed, by how their votes agree with what was expected.

Every vote of reward r on an answer expected to satisfy with probability p adds
(2r − 1)·log(p / (1 − p)) to its voter's evidence: the log-likelihood ratio of an honest voter against
one who says the opposite (Wald's sequential test). A voter whose evidence falls below
``HELD_BELOW`` is held: the votes are counted, and teach nothing. But only while most of the votes come
from voters in good standing: where all disagree with the expectation, it is the expectation that is
wrong. And no voter has more than a share of the say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HELD_BELOW: Final = -8.0
TRUSTED_AGAIN: Final = -2.0
MOST_EVIDENCE: Final = 8.0
LEAST_EVIDENCE: Final = -16.0
# Expectations are never surer than this, so that one vote proves little.
SUREST: Final = 0.9
# Votes after which a vote's part in its voter's mass is down to 1 / e.
MEMORY: Final = 2000.0
REVIEW_EVERY: Final = 64
# Of whom so little mass is left, nothing is known any more: one vote is forgotten after 6,000 others.
FORGOTTEN: Final = 0.05
# No voter has a larger share of the say, once there are enough voters for that.
LARGEST_SHARE: Final = 0.25


@dataclass
class Voter:
    """votes: how many. evidence: the log-likelihood ratio. mass: votes, the old ones fading, as of
    the vote numbered ``at``. held: whether the votes teach nothing now; held_votes: how many did not."""

    votes: int = 0
    evidence: float = 0.0
    mass: float = 0.0
    at: int = 0
    held: bool = False
    held_votes: int = 0

    def mass_at(self, now: int) -> float:
        return self.mass * math.exp(-(now - self.at) / MEMORY)


@dataclass
class Voters:
    """Every voter by name. count: votes in all. total: their mass."""

    count: int = 0
    total: float = 0.0
    voters: dict[str, Voter] = field(default_factory=dict)

    def weigh(self, name: str, expected: float, reward: float) -> float:
        """Count a vote; returns its weight in [0, 1], 0 when its voter is held."""
        self.count += 1
        voter = self.voters.setdefault(name, Voter())
        share = self._share(voter)
        voter.mass, voter.at = voter.mass_at(self.count) + 1.0, self.count
        self.total = self.total * math.exp(-1.0 / MEMORY) + 1.0
        p = min(max(expected, 1.0 - SUREST), SUREST)
        evidence = voter.evidence + (2.0 * reward - 1.0) * math.log(p / (1.0 - p))
        voter.evidence = min(max(evidence, LEAST_EVIDENCE), MOST_EVIDENCE)
        voter.votes += 1
        if self.count % REVIEW_EVERY == 0:
            self._review()
        if voter.held:
            voter.held_votes += 1
            return 0.0
        allowed = max(LARGEST_SHARE, 2.0 / len(self.voters))
        return min(1.0, allowed / share) if share > 0 else 1.0

    def _share(self, voter: Voter) -> float:
        return voter.mass_at(self.count) / self.total if self.total > 0 else 0.0

    def _review(self) -> None:
        """Forget who has long been silent, hold and release the others."""
        self.voters = {
            name: voter
            for name, voter in self.voters.items()
            if voter.held or voter.mass_at(self.count) >= FORGOTTEN
        }
        masses = {name: voter.mass_at(self.count) for name, voter in self.voters.items()}
        bad = {name for name, voter in self.voters.items() if voter.evidence < HELD_BELOW}
        bad |= {n for n, v in self.voters.items() if v.held and v.evidence < TRUSTED_AGAIN}
        few = 2.0 * sum(masses[name] for name in bad) < sum(masses.values())
        for name, voter in self.voters.items():
            voter.held = few and name in bad

    @property
    def held(self) -> list[str]:
        """Who is held now."""
        return sorted(name for name, voter in self.voters.items() if voter.held)

    def dump(self) -> dict[str, Any]:
        voters = {name: list(vars(voter).values()) for name, voter in sorted(self.voters.items())}
        return {"count": self.count, "total": self.total, "voters": voters}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Voters:
        voters = {name: Voter(*values) for name, values in data["voters"].items()}
        return cls(data["count"], data["total"], voters)
