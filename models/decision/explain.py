"""Why a candidate was chosen, and what would have changed it."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.decision.decide import Decision


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


def _switch(decision: Decision, *, cheaper: bool) -> dict[str, Any] | None:
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
