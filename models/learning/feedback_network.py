"""The feedback network: query embedding → how much better or worse than predicted each candidate does.

A three-layer perceptron, one output per candidate. Its hidden layers stay as they were drawn: trained
on votes they routed no better (docs/experiments.md), and without that no voter can bend what the other
candidates' outputs rest on. The output layer stands ``COPIES`` times, each copy learning from its own
half of the votes, counted twice (the double-or-nothing bootstrap, Owen and Eckles, *Bootstrapping data
arrays of arbitrary order*, 2012). The score is the copies' mean f; Var[f] is their variance, and

    κ = 1 / (Var[f] + ε), normalised by its largest value 1 / ε, with ε = f² / DOUBT

so that a score of which the copies are not agreed has no say: κ·f is 0 without feedback, and a score
two standard errors from 0 counts half.

Binary votes teach by REINFORCE (Williams, 1992): π is the softmax of the copy's scores over
``TEMPERATURE``, the baseline is what was expected of the chosen candidate, its own score included, so
that learning ends where expectation meets truth. Graded votes teach by the squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.errors import PolicyError

HIDDEN: Final = 64
COPIES: Final = 8
DOUBT: Final = 4.0
TEMPERATURE: Final = 0.1
# Step sizes: from the first, as votes on a candidate come, to the last; it follows changes for ever.
FIRST_STEP: Final = 0.05
LAST_STEP: Final = 0.01
STEP_VOTES: Final = 50.0
# One vote moves expectations by no more than this; a score is never larger than the second.
MAX_ADVANTAGE: Final = 1.0
MAX_SCORE: Final = 1.0
# Far beyond what rewards in [0, 1] can teach.
MAX_NORM: Final = 1000.0
# What a vote leaves of every score: without votes a candidate returns to the release's predictions.
KEPT: Final = 1.0 - 1.0 / 5000.0


@dataclass(frozen=True)
class Target:
    """What a vote says of one candidate.

    value: the reward less what the release predicted of it.
    graded: learned by the squared error; else by REINFORCE.
    replaced: the value of the vote that this one corrects; what that taught is made up for.
    """

    candidate: int
    value: float
    graded: bool
    replaced: float | None = None


@dataclass
class FeedbackNetwork:
    """first: (d, HIDDEN), second: (HIDDEN, HIDDEN) float32. output: (COPIES, L, HIDDEN + 1) float64,
    the last column the bias. votes: (L,) how many each candidate has had."""

    first: np.ndarray
    second: np.ndarray
    output: np.ndarray
    votes: np.ndarray

    @classmethod
    def drawn(cls, width: int, candidates: int, seed: int = 0) -> FeedbackNetwork:
        """An untaught network: every score is 0. width: d of the embeddings."""
        rng = np.random.default_rng(seed)
        return cls(
            rng.normal(size=(width, HIDDEN)).astype(np.float32),
            (rng.normal(size=(HIDDEN, HIDDEN)) / np.sqrt(HIDDEN)).astype(np.float32),
            np.zeros((COPIES, candidates, HIDDEN + 1)),
            np.zeros(candidates),
        )

    def features(self, embedding: np.ndarray) -> np.ndarray:
        """(HIDDEN + 1,) float64 of an embedding (d,), at most of length 1."""
        hidden = np.tanh(np.tanh(embedding.astype(np.float32) @ self.first) @ self.second)
        row: np.ndarray = np.append(hidden / np.sqrt(HIDDEN), 1.0).astype(np.float64) / np.sqrt(2.0)
        return row

    def scores(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(f, Var[f]), each (L,), of what ``features`` gave."""
        copies = self.output @ features
        return np.clip(copies.mean(axis=0), -MAX_SCORE, MAX_SCORE), copies.var(axis=0, ddof=1)

    def weighted(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(κ·f, κ), each (L,), of what ``features`` gave; κ in [0, 1]."""
        f, variance = self.scores(features)
        epsilon = f**2 / DOUBT
        kappa = np.divide(epsilon, variance + epsilon, out=np.zeros_like(f), where=epsilon > 0)
        return kappa * f, kappa

    def learn(self, features: np.ndarray, vote: Target, counts: np.ndarray) -> None:
        """Learn from one vote on a query with these features.

        counts: (COPIES,) how often each copy counts it, weight included.
        """
        candidate, replaced = vote.candidate, vote.replaced
        scores = self.output @ features
        step = max(LAST_STEP, FIRST_STEP / (1.0 + self.votes[candidate] / STEP_VOTES))
        baseline = scores[:, candidate] if replaced is None else np.full(COPIES, replaced)
        moves = step * counts * np.clip(vote.value - baseline, -MAX_ADVANTAGE, MAX_ADVANTAGE)
        self.output *= KEPT
        if vote.graded:
            self.output[:, candidate] += moves[:, None] * features
        else:
            raised = np.exp((scores - scores.max(axis=1, keepdims=True)) / TEMPERATURE)
            gradient = -raised / raised.sum(axis=1, keepdims=True)
            gradient[:, candidate] += 1.0
            self.output += (moves[:, None] * gradient)[:, :, None] * features
        self.votes[candidate] += 1.0

    def check(self) -> None:
        """Raises PolicyError for what no learning makes."""
        shapes = (
            self.first.shape[1:] == (HIDDEN,),
            self.second.shape == (HIDDEN, HIDDEN),
            self.output.shape == (COPIES, len(self.votes), HIDDEN + 1),
        )
        if not all(shapes):
            raise PolicyError("the feedback network's arrays do not fit together")
        if not all(np.isfinite(a).all() for a in vars(self).values()):
            raise PolicyError("the feedback network is not finite")
        largest = float(np.abs(self.output).sum(axis=2).max(initial=0.0))
        if largest > MAX_NORM:
            raise PolicyError(
                f"the feedback network's weights reach {largest:.1f}, over {MAX_NORM}"
            )


def copy_counts(identity: bytes) -> np.ndarray:
    """(COPIES,) 0 or 2, by the last bits of a vote's random identity: the same at every replay."""
    bits = np.unpackbits(np.frombuffer(identity[-1:], dtype=np.uint8))
    return 2.0 * bits[:COPIES].astype(np.float64)
