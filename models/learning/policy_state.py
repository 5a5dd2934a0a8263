"""The policy state: what votes add to a release. Its A_l, its feedback network, its voters.

A state is a pure function of its release and of the votes applied, in their order: replaying them
gives the same bytes on the same machine.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from safetensors.numpy import load, save

from models.decision.estimates import Estimates
from models.digest import digest_bytes
from models.errors import PolicyError
from models.learning import vote_scale
from models.learning.feedback_network import FeedbackNetwork, Target, copy_counts
from models.learning.voters import Voters
from models.predictors.compiled import CompiledPredictors
from models.predictors.uncertainty import along

FORMAT_VERSION: Final = 1
# Entries of A_l⁻¹, whose A_l is at least the identity, are no larger than this; symmetric to this.
LARGEST: Final = 1.0 + 1e-3
ASYMMETRY: Final = 1e-6
COUNTS: Final = ("applied", "binary", "graded", "corrections", "held")


@dataclass(frozen=True)
class Vote:
    """What somebody said of an answer. position: its place in the log. decision: the decision's 16
    random bytes. llm: who answered. embedding: (d,) float32 of the query. predicted: the quality that
    the release predicted. reward in [0, 1]: 0 or 1 unless graded. replaced: the reward that the same
    voter gave before, if this corrects it."""

    position: int
    decision: bytes
    llm: str
    embedding: np.ndarray
    predicted: float
    reward: float
    graded: bool
    voter: str
    replaced: float | None = None


@dataclass
class PolicyState:
    """release: its digest. directions: (g, d, k) float32, where uncertainty looks; sees: (L,) which of
    them is whose. inverses: (L, k + 1, k + 1) float64, A_l⁻¹. cursor: the last vote's position.
    counts: what became of the votes, see ``COUNTS``; passed_over: reason → how many votes were about
    something that this release does not have. scales: (2, 5), the scale of binary and of graded votes,
    see ``models.learning.vote_scale``. judged: (L,) answers that were judged, however often; rewards,
    predictions: (L,) sums over them."""

    release: str
    candidates: list[str]
    directions: np.ndarray
    sees: np.ndarray
    inverses: np.ndarray
    network: FeedbackNetwork
    voters: Voters = field(default_factory=Voters)
    cursor: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    passed_over: dict[str, int] = field(default_factory=dict)
    scales: np.ndarray = field(default_factory=lambda: np.zeros((2, vote_scale.SUMS)))
    judged: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rewards: np.ndarray = field(default_factory=lambda: np.zeros(0))
    predictions: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def untaught(cls, release: str, compiled: CompiledPredictors) -> PolicyState:
        """The state of a release that nobody has voted on: it decides as the release does."""
        directions, sees, inverses = compiled.uncertainty_parts()
        count = len(compiled.candidates)
        return cls(
            release=release,
            candidates=compiled.candidates,
            directions=directions,
            sees=sees,
            inverses=inverses.astype(np.float64),
            network=FeedbackNetwork.drawn(directions.shape[1], count),
            judged=np.zeros(count),
            rewards=np.zeros(count),
            predictions=np.zeros(count),
        )

    def copy(self) -> PolicyState:
        """A state of its own, equal to this one."""
        return deepcopy(self)

    def refine(self, estimates: Estimates, embedding: np.ndarray) -> Estimates:
        """One query's estimates (1, L) with this state's uncertainty and feedback score; the very
        same where nobody has voted."""
        if not self.counts["applied"]:
            return estimates
        rows = [along(embedding[None], found)[0] for found in self.directions]
        z = np.stack(rows)[self.sees]
        seen = np.einsum("lk,lkm,lm->l", z, self.inverses, z)
        weighted, _ = self.network.weighted(self.network.features(embedding))
        return replace(
            estimates,
            uncertainty=np.sqrt(np.maximum(seen, 0.0))[None].astype(np.float32),
            feedback=weighted[None],
        )

    def apply(self, vote: Vote) -> None:
        """Learn from one vote, the next of the log. Raises PolicyError where it is not the next."""
        if vote.position <= self.cursor:
            raise PolicyError(f"vote {vote.position} comes after vote {self.cursor} was applied")
        self.cursor = vote.position
        if vote.llm not in self.candidates:
            return self.pass_over("no such candidate")
        i = self.candidates.index(vote.llm)
        features = self.network.features(vote.embedding)
        weighted, _ = self.network.weighted(features)
        sums = self.scales[int(vote.graded)]
        level, slope = vote_scale.line(sums)
        predicted = level + slope * vote.predicted
        expected = min(max(predicted + slope * float(weighted[i]), 0.0), 1.0)
        weight = self.voters.weigh(vote.voter, expected, vote.reward)
        if weight == 0.0:
            self.counts["held"] += 1
            return None
        if vote.replaced is None:
            self._see(i, vote.embedding)
            vote_scale.add(sums, vote.predicted, vote.reward)
            self.judged[i] += 1.0
            self.predictions[i] += vote.predicted
        replaced = None if vote.replaced is None else (vote.replaced - predicted) / slope
        target = Target(i, (vote.reward - predicted) / slope, vote.graded, replaced)
        self.network.learn(features, target, weight * copy_counts(vote.decision))
        self.rewards[i] += vote.reward - (vote.replaced or 0.0)
        self.counts["applied"] += 1
        self.counts["graded" if vote.graded else "binary"] += 1
        self.counts["corrections"] += vote.replaced is not None
        return None

    def pass_over(self, reason: str, position: int | None = None) -> None:
        """Count a vote that this release cannot learn from."""
        if position is not None:
            self.cursor = position
        self.passed_over[reason] = self.passed_over.get(reason, 0) + 1

    def _see(self, i: int, embedding: np.ndarray) -> None:
        """A_l ← A_l + z zᵀ (Sherman and Morrison, 1950)."""
        z = along(embedding[None], self.directions[self.sees[i]])[0].astype(np.float64)
        inverse = self.inverses[i]
        seen = inverse @ z
        inverse -= np.outer(seen, seen) / (1.0 + z @ seen)

    def statistics(self) -> dict[str, Any]:
        """What people are shown of it."""
        votes, judged = self.network.votes, np.maximum(self.judged, 1.0)
        return {
            **self.counts,
            "passed_over": self.passed_over,
            "scales": {
                kind: dict(zip(("level", "slope"), vote_scale.line(sums), strict=True))
                for kind, sums in zip(("binary", "graded"), self.scales, strict=True)
            },
            "voters": len(self.voters.voters),
            "held_voters": self.voters.held,
            "candidates": {
                name: {
                    "votes": int(votes[i]),
                    "mean_reward": round(float(self.rewards[i] / judged[i]), 4),
                    "mean_predicted": round(float(self.predictions[i] / judged[i]), 4),
                    "trace": round(float(np.trace(self.inverses[i])), 4),
                    "norm": round(float(np.linalg.norm(self.network.output[:, i])), 4),
                    # Its feedback score on a query of which nothing is known.
                    "score": round(float(self.network.output[:, i, -1].mean() / np.sqrt(2.0)), 4),
                }
                for i, name in enumerate(self.candidates)
            },
        }

    def check(self) -> None:
        """Raises PolicyError for what must not be served."""
        count, size = len(self.candidates), self.directions.shape[2] + 1
        if self.inverses.shape != (count, size, size) or self.sees.shape != (count,):
            raise PolicyError(f"A is {self.inverses.shape}, not {(count, size, size)}")
        if missing := sorted(set(COUNTS) - self.counts.keys()):
            raise PolicyError(f"no count of votes {missing[0]}")
        for name in _ARRAYS:
            if not np.isfinite(getattr(self, name)).all():
                raise PolicyError(f"{name} not finite")
        if np.abs(self.inverses - self.inverses.transpose(0, 2, 1)).max(initial=0.0) > ASYMMETRY:
            raise PolicyError("A is not symmetric")
        if np.abs(self.inverses).max(initial=0.0) > LARGEST:
            raise PolicyError("A is smaller than the identity")
        try:
            np.linalg.cholesky(self.inverses)
        except np.linalg.LinAlgError as error:
            raise PolicyError("A is not positive definite") from error
        if len(self.network.votes) != count:
            raise PolicyError("the feedback network has other candidates")
        self.network.check()

    def dump(self) -> bytes:
        """The state as safetensors, the rest as JSON in their metadata; checked first."""
        self.check()
        arrays = {
            **{name: getattr(self, name) for name in _ARRAYS},
            **{f"network.{name}": array for name, array in vars(self.network).items()},
        }
        rest = {
            "format_version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "voters": self.voters.dump(),
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return bytes(save(contiguous, metadata={"policy": json.dumps(rest)}))

    @classmethod
    def parse(cls, data: bytes) -> PolicyState:
        """Read and check what ``dump`` wrote. Raises PolicyError."""
        try:
            arrays = load(data)
            size = int.from_bytes(data[:8], "little")
            rest = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["policy"])
            if rest.pop("format_version") != FORMAT_VERSION:
                raise PolicyError(f"not of format {FORMAT_VERSION}, the one this version reads")
            own: dict[str, Any] = {name: arrays.pop(name).copy() for name in _ARRAYS}
            network = {n.removeprefix("network."): a.copy() for n, a in arrays.items()}
            voters = Voters.parse(rest.pop("voters"))
            state = cls(network=FeedbackNetwork(**network), voters=voters, **own, **rest)
            state.check()
        except PolicyError:
            raise
        except Exception as error:  # whatever other bytes bring about, they are no state
            raise PolicyError(f"not a policy state: {type(error).__name__}: {error}") from error
        return state


_ARRAYS: Final = ("directions", "sees", "inverses", "scales", "judged", "rewards", "predictions")
_PLAIN: Final = ("release", "candidates", "cursor", "counts", "passed_over")


def state_digest(data: bytes) -> str:
    """What tells one state from another."""
    return digest_bytes(data)
