"""The decision: from every candidate's estimates to one choice, its propensity and its reasons.

score_l = quality_l − cost_l / λ + α · sqrt(eᵀ A_l⁻¹ e) − β · exp(γ · (time_l − ξ·τ)) + κ_l · f_l(e)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.decision.estimates import DecisionDefaults, Estimates, Terms, score
from models.decision.exploration import draw, probabilities
from models.decision.wishes import Wishes
from models.errors import DecisionError


@dataclass(frozen=True)
class Decision:
    """One routing. The (L,) arrays cover every candidate, ``allowed`` marks the permitted,
    ``ranking`` is what was highest for the best: the score, or with ``min_quality`` the cost's
    negative; ``chances`` is with what probability each would be chosen."""

    candidates: list[str]
    choice: int
    propensity: float
    chances: np.ndarray
    willingness_to_pay: float
    wishes: Wishes
    allowed: np.ndarray
    ranking: np.ndarray
    estimates: Estimates
    terms: Terms

    @property
    def llm(self) -> str:
        return self.candidates[self.choice]


@dataclass(frozen=True)
class DecisionContext:
    """What a decision depends on besides estimates and defaults.

    wishes: what the request asks for.
    allowed: (L,) bool, who may be chosen before the wishes; all by default.
    incumbent: the LLM that answered last in this conversation. It stays unless another's score is
        higher by more than ``wishes.switching_cost``: its prompt cache is warm.
    votes: (L,) how many each candidate has had.
    number: from [0, 1), what ``wishes.exploration`` draws by.
    """

    wishes: Wishes = field(default_factory=Wishes)
    allowed: np.ndarray | None = None
    incumbent: str | None = None
    votes: np.ndarray | None = None
    number: float = 0.0


def decide(
    candidates: list[str],
    estimates: Estimates,
    defaults: DecisionDefaults,
    context: DecisionContext = DecisionContext(),
) -> Decision:
    """Choose for one query.

    estimates: (1, L).

    Without exploration the choice is the argmax of the score among the permitted (the first in the
    catalog's order on a tie), or with ``min_quality`` the cheapest of them, so its propensity is 1.
    Raises DecisionError when nobody is left or no score is finite.
    """
    wishes, allowed, incumbent = context.wishes, context.allowed, context.incumbent
    defaults = wishes.over(defaults)
    terms = score(estimates, defaults)
    permitted = np.ones(len(candidates), dtype=bool) if allowed is None else allowed
    if not permitted.any():
        raise DecisionError("no candidate is left to choose from")
    permitted = _grant(candidates, estimates, wishes, permitted)
    ranking = terms.total[0] if wishes.min_quality is None else -estimates.cost[0]
    ranked = np.where(permitted & np.isfinite(terms.total[0]), ranking, -np.inf)
    if incumbent in candidates and wishes.switching_cost and wishes.min_quality is None:
        ranked[candidates.index(incumbent)] += wishes.switching_cost
    if not np.isfinite(ranked).any():
        raise DecisionError("no candidate has a finite score")
    exploration = wishes.exploration
    if wishes.min_quality is not None and exploration is not None and exploration.kind == "softmax":
        exploration = None  # its temperature is in units of the score, and costs are ranked here
    chances = probabilities(ranked, estimates.cost[0], exploration, context.votes)
    choice = draw(chances, context.number)
    return Decision(
        candidates=candidates,
        choice=choice,
        propensity=float(chances[choice]),
        chances=chances,
        willingness_to_pay=defaults.willingness_to_pay,
        wishes=wishes,
        allowed=permitted,
        ranking=ranked,
        estimates=estimates[0],
        terms=Terms(*(term[0] for term in vars(terms).values())),
    )


def _grant(
    candidates: list[str], estimates: Estimates, wishes: Wishes, allowed: np.ndarray
) -> np.ndarray:
    """Who of the allowed fulfils the wishes. Raises DecisionError saying how near the nearest is."""
    quality, cost = estimates.quality[0], estimates.cost[0]
    if wishes.max_cost is not None:
        within = allowed & (cost <= wishes.max_cost)
        if not within.any():
            i = int(np.argmin(np.where(allowed, cost, np.inf)))
            raise DecisionError(
                f"no candidate is predicted to cost at most ${wishes.max_cost:g}; the cheapest is "
                f"{candidates[i]} with ${cost[i]:.6f}",
                param="max_cost",
            )
        allowed = within
    if wishes.min_quality is not None:
        reaching = allowed & (quality >= wishes.min_quality)
        if not reaching.any():
            i = int(np.argmax(np.where(allowed, quality, -np.inf)))
            raise DecisionError(
                f"no candidate is predicted to reach quality {wishes.min_quality:g}; the best is "
                f"{candidates[i]} with {quality[i]:.2f}",
                param="min_quality",
            )
        allowed = reaching
    return allowed
