"""The decision: from every candidate's estimates to one choice, its propensity and its reasons.

score_l = quality_l − cost_l / λ + α · sqrt(eᵀ A_l⁻¹ e) − β · exp(γ · (time_l − ξ·τ)) + κ_l · f_l(e)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import DecisionError
from models.exploration import Exploration, draw, probabilities

# exp() beyond this only says "far too late".
MAX_EXPONENT: Final = 20.0
Finite = Annotated[float, Field(allow_inf_nan=False, ge=0)]
WillingnessToPay = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DecisionDefaults(BaseModel):
    """What a release decides with unless a request says otherwise.

    willingness_to_pay: λ, USD per unit of quality. alpha: weight of the uncertainty bonus.
    beta: weight of the latency penalty; gamma: its steepness (1/s); time_limit: τ (s);
    time_share: ξ, the share of τ at which the penalty reaches beta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    willingness_to_pay: WillingnessToPay
    alpha: Finite = 0.01
    beta: Finite = 0.1
    gamma: Finite = 0.5
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    time_share: Annotated[float, Field(gt=0, lt=1)] = 0.6


@dataclass(frozen=True)
class Estimates:
    """What is predicted of every query and candidate; each (n, L) float64.

    quality in [0, 1]; cost in USD; time in seconds; uncertainty = sqrt(eᵀ A_l⁻¹ e); feedback =
    κ_l · f_l(e), what votes add (``models.feedback_network``), 0 without a policy state.
    """

    quality: np.ndarray
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    cost: np.ndarray
    time: np.ndarray
    uncertainty: np.ndarray
    feedback: np.ndarray

    def __getitem__(self, rows: Any) -> Estimates:
        return Estimates(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Terms:
    """The score's terms, each (n, L); ``total`` is their sum."""

    quality: np.ndarray
    cost: np.ndarray
    uncertainty: np.ndarray
    latency: np.ndarray
    feedback: np.ndarray
    total: np.ndarray


def score(
    estimates: Estimates, defaults: DecisionDefaults, willingness_to_pay: float | None = None
) -> Terms:
    """Every term of the score, for (n, L) estimates."""
    wtp = defaults.willingness_to_pay if willingness_to_pay is None else willingness_to_pay
    late = defaults.gamma * (estimates.time - defaults.time_share * defaults.time_limit)
    cost = -estimates.cost / wtp
    uncertainty = defaults.alpha * estimates.uncertainty
    latency = -defaults.beta * np.exp(np.minimum(late, MAX_EXPONENT))
    total = estimates.quality + cost + uncertainty + latency + estimates.feedback
    return Terms(estimates.quality, cost, uncertainty, latency, estimates.feedback, total)


class Wishes(BaseModel):
    """What one request asks of its decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    willingness_to_pay: Annotated[
        WillingnessToPay | None,
        Field(description="USD per unit of quality; the release's default when absent."),
    ] = None
    min_quality: Annotated[
        float | None,
        Field(ge=0, le=1, description="Take the cheapest LLM predicted to reach this quality."),
    ] = None
    max_cost: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="USD for this answer, at most.")
    ] = None
    candidates: Annotated[
        Annotated[
            tuple[str, ...],
            Field(fail_fast=True, strict=False, min_length=1, max_length=1000),
        ]
        | None,
        Field(description="Choose among these only."),
    ] = None
    abilities: Annotated[
        tuple[str, ...],
        Field(
            fail_fast=True,
            strict=False,
            max_length=100,
            description="What the LLM must be able to do.",
        ),
    ] = ()
    beta: Annotated[
        Finite | None,
        Field(description="Weight of the latency penalty; the release's default when absent."),
    ] = None
    time_limit: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="Seconds after which an answer is late."),
    ] = None
    switching_cost: Annotated[
        Finite | None,
        Field(
            description="Score that another LLM than the session's last must win by; "
            "the service's default when absent."
        ),
    ] = None
    exploration: Annotated[
        Exploration | None,
        Field(description="How the choice is drawn; the key's or the service's way when absent."),
    ] = None

    @model_validator(mode="after")
    def _one_aim(self) -> Wishes:
        if self.willingness_to_pay is not None and self.min_quality is not None:
            raise ValueError("give willingness_to_pay or min_quality, not both")
        return self

    def over(self, defaults: DecisionDefaults) -> DecisionDefaults:
        """The defaults with what was wished for in their place."""
        names = ("willingness_to_pay", "beta", "time_limit")
        wished = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return defaults.model_copy(update=wished) if wished else defaults


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


def decide(
    candidates: list[str],
    estimates: Estimates,
    defaults: DecisionDefaults,
    wishes: Wishes | None = None,
    allowed: np.ndarray | None = None,
    incumbent: str | None = None,
    votes: np.ndarray | None = None,
    number: float = 0.0,
) -> Decision:
    """Choose for one query.

    estimates: (1, L). allowed: (L,) bool, who may be chosen before the wishes; all by default.
    incumbent: who answered last in this conversation; stays unless another's score is higher by
    more than ``wishes.switching_cost`` (its prompt cache is warm). votes: (L,) how many each candidate
    has had; number: from [0, 1), what ``wishes.exploration`` draws by. Without exploration the
    choice is the argmax of the score among the permitted (the first in the catalog's order on a tie),
    or with ``min_quality`` the cheapest of them, so its propensity is 1.
    Raises DecisionError when nobody is left or no score is finite.
    """
    wishes = wishes or Wishes()
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
    chances = probabilities(ranked, estimates.cost[0], exploration, votes)
    choice = draw(chances, number)
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


def explain(decision: Decision) -> dict[str, Any]:
    """Why this candidate, who came second, and what would have changed it."""
    ranked = np.argsort(-decision.ranking, kind="stable")
    order = [int(i) for i in ranked if decision.allowed[i]]
    second = order[1] if len(order) > 1 else None
    margin = None
    if second is not None:
        margin = float(decision.terms.total[order[0]] - decision.terms.total[second])
    # A choice by least cost does not hang on the willingness to pay.
    by_cost = decision.wishes.min_quality is not None
    return {
        "scores": [_row(decision, i) for i in order],
        "runner_up": None if second is None else decision.candidates[second],
        "margin": margin,
        "would_change": {
            "cheaper_below": None if by_cost else _switch(decision, cheaper=True),
            "dearer_above": None if by_cost else _switch(decision, cheaper=False),
        },
        "why": why(decision, second),
    }


def _row(decision: Decision, i: int) -> dict[str, Any]:
    estimates, terms = decision.estimates, decision.terms
    return {
        "llm": decision.candidates[i],
        "score": float(terms.total[i]),
        "probability": float(decision.chances[i]),
        "predicted_quality": float(estimates.quality[i]),
        "predicted_cost_usd": float(estimates.cost[i]),
        "predicted_seconds": float(estimates.time[i]),
        "predicted_response_tokens": float(estimates.response_tokens[i]),
        "uncertainty": float(estimates.uncertainty[i]),
        "terms": {
            name: float(getattr(terms, name)[i])
            for name in ("quality", "cost", "uncertainty", "latency", "feedback")
        },
    }


def _switch(decision: Decision, cheaper: bool) -> dict[str, Any] | None:
    """The nearest willingness to pay at which another candidate would win.

    The score is a line in x = 1/λ with slope −cost, so a cheaper candidate overtakes as λ falls and
    a dearer one as it rises, where the lines cross.
    """
    rest = decision.terms.total - decision.terms.cost
    cost, chosen = decision.estimates.cost, decision.choice
    now = 1.0 / decision.willingness_to_pay
    crossings = []
    for i in np.flatnonzero(decision.allowed):
        difference = cost[chosen] - cost[i]
        if (difference > 0) == cheaper and difference != 0:
            x = (rest[chosen] - rest[i]) / difference
            if x > 0 and (x >= now if cheaper else x <= now):
                crossings.append((x, int(i)))
    if not crossings:
        return None
    x, other = min(crossings) if cheaper else max(crossings)
    return {"willingness_to_pay": float(1.0 / x), "llm": decision.candidates[other]}


def why(decision: Decision, second: int | None) -> str:
    """One sentence for people."""
    estimates, i = decision.estimates, decision.choice
    text = f"quality {estimates.quality[i]:.2f} for ${estimates.cost[i]:.6f}"
    if second is None:
        return f"{text}; the only candidate allowed"
    gain = estimates.quality[i] - estimates.quality[second]
    name = decision.candidates[second]
    ratio = estimates.cost[second] / estimates.cost[i] if estimates.cost[i] > 0 else np.inf
    if ratio >= 1.05:
        price = f"{ratio:.1f} times the cost" if np.isfinite(ratio) else "not free"
    elif ratio <= 0.95:
        price = f"{1 - ratio:.0%} cheaper"
    else:
        price = "as dear"
    return f"{text}; next {name}: {-gain:+.2f} quality, {price}"
